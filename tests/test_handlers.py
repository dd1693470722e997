"""The figures of handlers: every call is counted, whatever calls it and on both roads; and what tools make of them."""

import random
from pathlib import Path

import pytest
import sample_bank
from sample_bank import Account, command_slot, control_slot, query_slot, random_log

from leftfold.actors import _fold
from leftfold.actors.layout import HANDLER_WORDS, EntryKind, SlotType
from leftfold.actors.limits import SECOND_NS
from leftfold.actors.machine import Machine, Outputs
from leftfold.runtime.topology import LOGIC
from leftfold.shm import Snapshot
from leftfold.tools.handlers import OTHERS, Handled, Names, counted, handled
from leftfold.tools.reading import Reading, Window

A = b"a" * 16
BANK = Names(sample_bank.app)


def figures_of(rows: int = 32) -> memoryview:
    return memoryview(bytearray(8 * HANDLER_WORDS * rows)).cast("Q")


def reading(figures: memoryview | list[int], at_ns: int = 0) -> Reading:
    roles = {LOGIC: Snapshot({}, {}, {"handlers": tuple(figures)})}
    return Reading(Path("nowhere"), at_ns, {}, roles)


def calls_of(figures: memoryview) -> dict[str, int]:
    """Calls by message."""
    return {BANK.of_message(id)[0]: calls for id, (calls, *_) in counted(reading(figures)).items()}


def bank(figures: memoryview, *, watched: bool = False) -> Machine:
    return Machine(
        sample_bank.app,
        sample_bank.LIMITS,
        7,
        watch=(lambda ordinal: None) if watched else None,
        figures=figures,
    )


def test_every_call_counts_once_whoever_calls() -> None:
    """From clients, from actors, from timers and for queries; refused, repeated and undecodable ones call nobody."""
    figures = figures_of()
    machine = bank(figures)
    requests = iter(range(1, 100))

    def ask(key: str, command: object) -> bytes:
        return command_slot(A, next(requests), 1, key, command)

    first = ask("alice", sample_bank.Deposit(100))
    entries = [
        (0, EntryKind.COMMANDS, control_slot(SlotType.OPEN, A) + first + first),
        (0, EntryKind.COMMANDS, ask("alice", sample_bank.Deposit(-1))),  # It rejects.
        (0, EntryKind.COMMANDS, ask("alice", sample_bank.Transfer("bob", 5))),
        (0, EntryKind.COMMANDS, ask("alice", sample_bank.Hold(5, 1))),
        (2 * SECOND_NS, EntryKind.TIME, b""),
        (2 * SECOND_NS, EntryKind.COMMANDS, ask("alice", sample_bank.Misbehave("raise"))),
        (2 * SECOND_NS, EntryKind.COMMANDS, ask("alice", sample_bank.Deposit(1))),  # Quarantined.
    ]
    for index, (time_ns, kind, body) in enumerate(entries, 1):
        machine.apply(index, time_ns, kind, body, outputs=Outputs())
    for key in ("bob", "bob", "nobody"):
        machine.query(query_slot(key, sample_bank.BalanceOf()), machine.state.index)

    assert calls_of(figures) == {
        "Deposit": 2, "Transfer": 1, "Credit": 1, "Hold": 1, "Release": 1, "Misbehave": 1,
        "BalanceOf": 2,
    }  # fmt: skip


def test_both_roads_count_the_same() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    log = random_log(seed, 150)
    found: list[dict[str, int]] = []
    for watched in (False, True):
        figures = figures_of()
        sample_bank.fold(bank(figures, watched=watched), log)
        found.append(calls_of(figures))

    assert found[0] == found[1] and found[0]


def test_what_finds_no_row_shares_the_last() -> None:
    whole, few = figures_of(), figures_of(3)
    log = random_log(1, 80)
    for figures in (whole, few):
        sample_bank.fold(bank(figures), log)
    rows = counted(reading(few))

    assert set(rows) == {1, 0}, "the second row is a query's"
    assert BANK.of_message(0)[0] == OTHERS
    assert sum(calls for calls, *_ in rows.values()) == sum(calls_of(whole).values())
    assert rows[0][0] > 0


def test_the_first_calls_are_timed_and_then_one_in_some() -> None:
    figures = figures_of(2)
    handlers = _fold.Handlers(figures)
    account = Account()
    for number in range(1, 10_001):
        handlers.call(1, lambda *given: given, account, "message", None)
        if number == 20:
            assert list(figures)[4:7] == [0, 20, 20]

    _, calls, timed, timed_ns = list(figures)[4:]
    assert calls == 10_000 and 10_000 / 64 < timed < 10_000 / 16 and timed_ns > 0
    assert list(figures)[:4] == [0] * 4


def test_what_a_handler_raises_goes_through_and_counts() -> None:
    figures = figures_of(1)
    with pytest.raises(ZeroDivisionError):
        _fold.Handlers(figures).call(0, lambda *given: 1 / 0, None, None, None)

    assert figures[1] == figures[2] == 1


@pytest.mark.parametrize("words", [b"x" * 64, bytearray(31), bytearray(0), 7])
def test_words_that_are_no_rows_are_refused(words: object) -> None:
    with pytest.raises((TypeError, ValueError, BufferError)):
        _fold.Handlers(words)  # type: ignore[arg-type]


def test_a_row_that_is_not_there_is_refused() -> None:
    for row in (1, -1):
        with pytest.raises(ValueError, match="no such row"):
            _fold.Handlers(figures_of(1)).call(row, print, None, None, None)
    assert _fold.Handlers(None).call(9, lambda *given: given, 1, 2, 3) == (1, 2, 3)


def test_a_window_shows_what_happened_in_it() -> None:
    before = reading([1, 100, 40, 4_000, 4, 8, 8, 800], 1_000_000_000)
    after = reading([1, 300, 50, 5_000, 4, 12, 8, 800, 5, 0, 0, 0, 99, 2, 0, 0], 1_000_100_000)

    assert handled(Window(before, after), BANK) == [
        Handled("Deposit", "Account", "Account.deposit", 200, 100.0, 0.2, 2_000_000.0),
        Handled("Transfer", "Account", "Account.transfer", 4, 100.0, 0.004, 40_000.0),
        Handled("message 99", "-", "-", 2, None, 0.0, 20_000.0),
    ]
    whole = handled(Window(after, after), BANK)
    assert whole[0].calls == 300 and whole[0].calls_per_s is None
    assert sum(one.share for one in whole) == pytest.approx(1)
    assert handled(Window(reading([]), reading([])), Names(None)) == []
