"""The log as the core sees it: terms for all of it, bodies for the recent part."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leftfold.raft import Entry, Log, StateLost


def entry(index: int, term: int, body: bytes = b"body") -> Entry:
    return Entry(index, term, 10 * index, 0, body)


def filled(*terms: int) -> Log:
    """A log that began empty and had entries of these terms appended."""
    log = Log()
    log.append(entry(index, term) for index, term in enumerate(terms, 1))
    return log


def test_an_empty_log_ends_at_index_0_of_term_0() -> None:
    log = Log()

    assert (log.first, log.last, log.last_term) == (1, 0, 0)
    assert (log.term_at(0), log.term_at(1)) == (0, None)
    assert log.entries_upto(1, 100) == ()


def test_a_recovered_log_knows_every_term_and_no_body() -> None:
    log = Log(1, 6, 4, [(1, 1), (3, 2), (6, 4)], 60)

    assert [log.term_at(index) for index in range(8)] == [0, 1, 1, 2, 2, 2, 4, None]
    assert log.entries(6, 6) is None
    assert log.entries_upto(2, 100) is None
    assert (log.last_term, log.last_time_ns, log.recent_first) == (4, 60, 7)


def test_a_log_behind_a_snapshot_knows_the_term_it_continues() -> None:
    """AppendEntries for the first entry names the term of the one before it."""
    empty = Log(8, 7, 3, [(7, 3)])
    log = Log(8, 9, 3, [(5, 2), (8, 3)])

    assert (empty.term_at(7), empty.last_term, empty.term_at(6)) == (3, 3, None)
    assert [log.term_at(index) for index in (6, 7, 8, 9, 10)] == [None, 2, 3, 3, None]


@pytest.mark.parametrize(
    "arguments",
    [
        (1, 3, 1, []),
        (1, 3, 2, [(1, 1)]),
        (1, 3, 2, [(2, 2)]),
        (1, 3, 2, [(1, 1), (4, 2)]),
        (1, 3, 1, [(1, 2), (2, 1)]),
        (1, 3, 2, [(2, 1), (1, 2)]),
        (1, 3, 2, [(1, 2), (2, 2)]),
    ],
)
def test_a_table_of_terms_that_contradicts_the_log_is_refused(
    arguments: tuple[int, int, int, list[tuple[int, int]]],
) -> None:
    with pytest.raises(StateLost, match="contradicts"):
        Log(*arguments)


def test_entries_are_given_from_memory_whole_or_not_at_all() -> None:
    log = Log(1, 2, 1, [(1, 1)])
    log.append([entry(3, 1), entry(4, 2)])

    assert log.entries(3, 4) == (entry(3, 1), entry(4, 2))
    assert log.entries(4, 4) == (entry(4, 2),)
    assert log.entries(2, 4) is None


def test_a_batch_holds_as_many_bodies_as_fit_but_at_least_one() -> None:
    log = filled(1, 1, 1, 1)

    assert [e.index for e in log.entries_upto(1, 8) or ()] == [1, 2]
    assert [e.index for e in log.entries_upto(2, 1) or ()] == [2]
    assert [e.index for e in log.entries_upto(3, 99) or ()] == [3, 4]


def test_gaps_and_falling_terms_are_our_bugs() -> None:
    with pytest.raises(AssertionError):
        filled(1).append([entry(3, 1)])
    with pytest.raises(AssertionError):
        filled(2).append([entry(2, 1)])


def test_truncation_forgets_terms_bodies_and_time() -> None:
    log = filled(1, 2, 2, 3)

    log.truncate(3)

    assert (log.last, log.last_term, log.last_time_ns) == (2, 2, 20)
    assert log.boundaries == ((1, 1), (2, 2))
    assert log.recent_bytes == 8
    log.append([entry(3, 5)])
    assert log.entries(1, 3) == (entry(1, 1), entry(2, 2), entry(3, 5))


def test_truncation_below_what_is_in_memory_leaves_no_body() -> None:
    log = filled(1, 1, 2, 2)
    log.drop_bodies_below(4)

    log.truncate(2)

    assert (log.last, log.recent_bytes, log.recent_first) == (1, 0, 2)
    log.append([entry(2, 3)])
    assert log.entries(2, 2) == (entry(2, 3),)
    assert log.entries(1, 2) is None


def test_dropped_bodies_keep_their_terms() -> None:
    log = filled(1, 1, 2)

    log.drop_bodies_below(3)

    assert log.entries(2, 2) is None
    assert [log.term_at(index) for index in (1, 2, 3)] == [1, 1, 2]
    assert (log.recent_first, log.recent_bytes) == (3, 4)


def test_bodies_over_the_limit_go_oldest_first_and_never_those_to_keep() -> None:
    log = filled(1, 1, 1, 1)

    log.drop_bodies_over(9, keep_from=5)
    assert log.recent_first == 3
    log.drop_bodies_over(0, keep_from=4)
    assert log.recent_first == 4


def test_compaction_keeps_the_term_before_the_first_entry() -> None:
    log = filled(1, 1, 2, 2, 3)

    log.compact(4)
    assert (log.first, log.term_at(3), log.term_at(2)) == (4, 2, None)
    log.compact(6)
    assert (log.first, log.last, log.term_at(5), log.last_term) == (6, 5, 3, 3)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(0, 2)),
            st.tuples(st.just("truncate"), st.integers(0, 9)),
            st.tuples(st.just("drop"), st.integers(0, 9)),
            st.tuples(st.just("compact"), st.integers(0, 9)),
        ),
        max_size=40,
    )
)
def test_the_log_behaves_like_a_plain_list(steps: list[tuple[str, int]]) -> None:
    """Against a model: all entries in a list, and two numbers for what is gone."""
    log, model, first, dropped = Log(), list[Entry](), 1, 1
    for step, number in steps:
        last = len(model)
        if step == "append":
            term = (model[-1].term if model else 1) + number
            model.append(entry(last + 1, term))
            log.append([model[-1]])
        elif step == "truncate" and last - number >= first:
            cut = last - number
            del model[cut - 1 :]
            log.truncate(cut)
            dropped = min(dropped, cut)
        elif step == "drop":
            log.drop_bodies_below(first + number)
            dropped = max(dropped, min(first + number, last + 1))
        elif step == "compact" and first + number <= last + 1:
            first += number
            dropped = max(dropped, first)
            log.compact(first)

        last = len(model)
        assert (log.first, log.last) == (first, last)
        for index in range(first - 1, last + 1):
            expected = model[index - 1].term if index else 0
            assert log.term_at(index) == expected
        assert log.term_at(last + 1) is None
        assert log.recent_bytes == sum(len(e.body) for e in model[dropped - 1 :])
        for index in range(first, last + 1):
            held = log.entries(index, last)
            assert held == (tuple(model[index - 1 :]) if index >= dropped else None)


@given(st.lists(st.integers(0, 2), max_size=12), st.integers(0, 14), st.integers(0, 14))
def test_stepping_back_finds_the_last_index_that_may_agree(
    increments: list[int], term: int, index: int
) -> None:
    terms = [1 + sum(increments[: n + 1]) for n in range(len(increments))]
    log = filled(*terms)

    found = max((i for i, t in enumerate(terms, 1) if t <= term and i <= index), default=0)

    assert log.last_index_of_term_at_most(term, index) == found


def test_up_to_date_compares_the_last_term_first() -> None:
    log = filled(1, 2, 2)

    assert log.is_up_to_date(3, 2) and log.is_up_to_date(1, 3) and log.is_up_to_date(9, 2)
    assert not log.is_up_to_date(2, 2) and not log.is_up_to_date(9, 1)
