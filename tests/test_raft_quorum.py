"""Majorities, against a model that knows no arithmetic: it tries every set of voters."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from leftfold.raft.quorum import Quorum, agreed, lost, majority, won

halves = st.frozensets(st.integers(1, 7), min_size=1)
quorums = st.one_of(st.tuples(halves), st.tuples(halves, halves))
numbers = st.dictionaries(st.integers(1, 7), st.integers(0, 9))


def all_deciding(quorum: Quorum) -> list[set[int]]:
    """Every set of voters that holds more than half of each half."""
    voters = sorted(frozenset[int]().union(*quorum))
    return [
        set(chosen)
        for size in range(len(voters) + 1)
        for chosen in combinations(voters, size)
        if all(2 * len(half & set(chosen)) > len(half) for half in quorum)
    ]


@given(quorums, numbers)
def test_agreed_is_the_best_that_some_deciding_set_has_reached(
    quorum: Quorum, reached: dict[int, int]
) -> None:
    best = max(min(reached.get(v, 0) for v in chosen) for chosen in all_deciding(quorum))

    assert agreed(quorum, reached) == best


@given(quorums, st.frozensets(st.integers(1, 9)))
def test_won_means_that_a_deciding_set_is_among_the_granted(
    quorum: Quorum, granted: frozenset[int]
) -> None:
    assert won(quorum, granted) is any(chosen <= granted for chosen in all_deciding(quorum))


@given(quorums, st.frozensets(st.integers(1, 9)))
def test_lost_means_that_every_deciding_set_has_a_refusal(
    quorum: Quorum, refused: frozenset[int]
) -> None:
    assert lost(quorum, refused) is all(chosen & refused for chosen in all_deciding(quorum))


@given(quorums)
def test_any_two_deciding_sets_share_a_voter(quorum: Quorum) -> None:
    """This is all that Raft needs of a quorum."""
    deciding = all_deciding(quorum)

    assert deciding
    assert all(a & b for a in deciding for b in deciding)


def test_majorities_of_small_clusters() -> None:
    assert [majority(size) for size in range(1, 8)] == [1, 2, 2, 3, 3, 4, 4]
