"""Majorities, as pure arithmetic over "who has which number".

A quorum is a tuple of *halves*, each a set of voters: one half in ordinary times, two while the
membership changes (§6: agreement "requires separate majorities from both the old and new
configurations"). A decision needs a majority of every half. Commit index, confirmed read round,
votes and the leader's own check that it still has followers are all questions to this file.

    voter     1   2   3   4   5
    match    12   9  11   7   9      sorted: 12 11 9 9 7
                                     majority of 5 is 3, the third is 9: agreed() = 9
"""

from collections.abc import Collection, Mapping

Quorum = tuple[frozenset[int], ...]


def majority(size: int) -> int:
    """How many of `size` voters decide."""
    return size // 2 + 1


def agreed(quorum: Quorum, numbers: Mapping[int, int]) -> int:
    """The highest number that a majority of every half has reached; absent voters have 0."""
    assert quorum and all(quorum)
    return min(
        sorted([numbers.get(voter, 0) for voter in half], reverse=True)[majority(len(half)) - 1]
        for half in quorum
    )


def won(quorum: Quorum, granted: Collection[int]) -> bool:
    """Does every half have a majority of voters in `granted`?"""
    assert quorum and all(quorum)
    return all(sum(v in granted for v in half) >= majority(len(half)) for half in quorum)


def lost(quorum: Quorum, refused: Collection[int]) -> bool:
    """Can `won` no longer come true, whatever those say who are not in `refused`?"""
    everyone = frozenset[int]().union(*quorum)
    return not won(quorum, everyone.difference(refused))
