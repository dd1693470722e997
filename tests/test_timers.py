"""Timers fire in TIME entries only, in the order (deadline, id), each once, on every replica."""

import random

from sample_bank import LIMITS, Account, Balance, Deposit, Hold, Misbehave, Unhold, app

from leftfold.actors.layout import EntryKind
from leftfold.actors.limits import SECOND_NS, Limits
from leftfold.actors.testing import Folded
from leftfold.actors.timers import Timer, Timers


def timer(id: int, deadline_ns: int, key: bytes = b"k") -> Timer:
    return Timer(id, deadline_ns, 1, key, 7, b"")


def fire(timers: Timers, now_ns: int, maximum: int = 1_000) -> list[int]:
    due = timers.due(now_ns, maximum)
    return [found.id for id in due if (found := timers.take(id)) is not None]


def test_due_timers_come_ordered_by_deadline_then_id() -> None:
    """Against a sorted list; the seed is fixed."""
    rng = random.Random(5)
    timers = Timers()
    expected: list[tuple[int, int]] = []
    for _ in range(500):
        id = timers.reserve()
        deadline = rng.randrange(20)
        timers.set(timer(id, deadline))
        expected.append((deadline, id))

    assert fire(timers, 9) == [id for deadline, id in sorted(expected) if deadline <= 9]
    assert timers.next_deadline_ns == 10


def test_a_cancelled_timer_does_not_fire_and_leaves_no_deadline() -> None:
    timers = Timers()
    for _ in range(3):
        timers.set(timer(timers.reserve(), 5))
    timers.cancel(1, 1, b"k")
    timers.cancel(2, 1, b"other")  # Another actor's: nothing happens.
    timers.cancel(99, 1, b"k")

    assert fire(timers, 5) == [2, 3]
    assert timers.next_deadline_ns is None


def test_cancelling_for_ever_needs_no_memory() -> None:
    timers = Timers()
    for _ in range(2_000):
        id = timers.reserve()
        timers.set(timer(id, id))
        timers.cancel(id, 1, b"k")

    assert len(timers._heap) < 200  # pyright: ignore[reportPrivateUsage]


def test_one_that_fires_may_cancel_the_next() -> None:
    timers = Timers()
    for _ in range(2):
        timers.set(timer(timers.reserve(), 5))
    due = timers.due(5, 10)
    timers.take(due[0])
    timers.cancel(due[1], 1, b"k")

    assert timers.take(due[1]) is None


def test_a_hold_expires_on_a_silent_machine() -> None:
    fold = Folded(app)
    fold.ask("a", Deposit(10))
    held = fold.ask("a", Hold(4, seconds=5))
    assert fold.machine.next_deadline_ns == fold.time_ns + 5 * SECOND_NS
    fold.advance(seconds=4)
    assert fold.actor(Account, "a").cents == 6
    fold.advance(seconds=1)

    assert fold.actor(Account, "a").cents == 10
    assert held.timer not in fold.machine.state.timers.by_id
    assert [event.message.cents for event in fold.events] == [4]
    fold.check_replay()


def test_a_timer_is_cancelled_by_its_id() -> None:
    fold = Folded(app)
    fold.ask("a", Deposit(10))
    held = fold.ask("a", Hold(4, seconds=5))

    assert fold.ask("a", Unhold(held.timer)) == Balance(10)
    fold.advance(seconds=10)
    assert fold.events == []


def test_commands_never_fire_a_timer() -> None:
    fold = Folded(app)
    fold.ask("a", Deposit(10))
    fold.ask("a", Hold(4, seconds=5))
    fold.time_ns += 60 * SECOND_NS
    fold.ask("a", Deposit(1))
    fold.apply(EntryKind.TERM_START, b"")

    assert fold.actor(Account, "a").cents == 7


def test_more_due_timers_than_one_entry_may_fire_ask_for_another_entry_at_once() -> None:
    fold = Folded(app, limits=LIMITS)
    fold.ask("a", Deposit(100))
    for _ in range(LIMITS.timers_per_entry + 1):
        fold.ask("a", Hold(1, seconds=1))
    fold.time_ns += 60 * SECOND_NS
    fold.apply(EntryKind.TIME, b"")
    assert len(fold.events) == LIMITS.timers_per_entry
    deadline = fold.machine.next_deadline_ns
    assert deadline is not None and deadline <= fold.time_ns
    fold.apply(EntryKind.TIME, b"")

    assert len(fold.events) == LIMITS.timers_per_entry + 1
    fold.check_replay()


def test_a_failing_timer_quarantines_its_actor_alone() -> None:
    for how, code in (("alarm", "A101 Account.alarm"), ("alarm to reject", "A103 Account.alarm")):
        fold = Folded(app)
        fold.ask("a", Deposit(1))
        fold.ask("b", Misbehave(how))
        fold.advance(seconds=2)

        assert (fold.quarantine(Account, "b") or "").startswith(code)
        assert fold.quarantine(Account, "a") is None
        fold.check_replay()


def test_timers_of_a_quarantined_actor_are_dropped_when_due() -> None:
    fold = Folded(app)
    fold.ask("a", Misbehave("alarm"))
    fold.ask("a", Misbehave("alarm"))
    fold.advance(seconds=5)

    assert not fold.machine.state.timers.by_id
    fold.check_replay()


def test_the_number_of_timers_is_limited() -> None:
    fold = Folded(app, limits=Limits(timers_max=2, timers_per_entry=1))
    for _ in range(2):
        fold.ask("a", Misbehave("alarm"))
    try:
        fold.ask("b", Misbehave("alarm"))
        raised = ""
    except Exception as error:  # noqa: BLE001 (its text is what is tested)
        raised = str(error)

    assert "LimitExceeded: more than 2 timers" in raised
