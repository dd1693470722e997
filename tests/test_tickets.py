"""Tickets: one holder a seat, holds that end by themselves, sales that stay."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leftfold.actors.errors import Rejected
from leftfold.actors.layout import EntryKind
from leftfold.actors.message import Command
from leftfold.actors.testing import Folded
from leftfold.actors.tickets import (
    HOLD_NS_MAX,
    HOLD_NS_MIN,
    Bought,
    Buy,
    Free,
    FreeSeats,
    Held,
    Hold,
    Open,
    Opened,
    Release,
    Released,
    SeatBought,
    SeatFreed,
    SeatHeld,
    Show,
    app,
)

SECOND_NS = 1_000_000_000


def opened(seats: int = 3) -> Folded:
    fold = Folded(app)
    assert fold.ask("show", Open(seats, 10 * SECOND_NS)) == Opened(seats)
    return fold


def refused(fold: Folded, command: Command[Any]) -> str:
    with pytest.raises(Rejected) as caught:
        fold.ask("show", command)
    return caught.value.reason


def test_a_seat_is_held_then_bought_for_good() -> None:
    fold = opened()
    until_ns = fold.time_ns + 10 * SECOND_NS

    assert fold.ask("show", Hold(1, "ann")) == Held(until_ns)
    assert fold.ask("show", Buy(1, "ann")) == Bought()
    fold.advance(seconds=60)
    assert fold.ask("show", FreeSeats()) == Free([2, 3])
    assert refused(fold, Hold(1, "bob")) == "the seat is sold"
    assert refused(fold, Release(1, "ann")) == "the buyer does not hold the seat"
    assert [event.message for event in fold.events] == [
        SeatHeld(1, "ann", until_ns),
        SeatBought(1, "ann"),
    ]
    assert fold.machine.state.timers.by_id == {}


def test_a_hold_ends_by_its_timer_although_nobody_asks() -> None:
    fold = opened()
    fold.ask("show", Hold(2, "ann"))
    until_ns = fold.time_ns + 10 * SECOND_NS

    assert fold.machine.next_deadline_ns == until_ns
    fold.advance(seconds=9)
    assert fold.ask("show", FreeSeats()) == Free([1, 3])
    fold.advance(seconds=1)
    assert fold.ask("show", FreeSeats()) == Free([1, 2, 3])
    assert fold.events[-1].message == SeatFreed(2, "ann", expired=True)
    assert fold.events[-1].time_ns == until_ns
    entry = fold.log[fold.events[-1].position[0] - 1]
    assert entry.kind == EntryKind.TIME
    fold.check_replay()


def test_a_purchase_after_the_hold_expired_is_refused() -> None:
    fold = opened()
    fold.ask("show", Hold(1, "ann"))
    fold.advance(seconds=10)

    assert refused(fold, Buy(1, "ann")) == "the buyer does not hold the seat"


def test_log_time_ends_a_hold_even_before_its_timer_has_fired() -> None:
    """Commands may come between the deadline and the TIME entry."""
    fold = opened()
    fold.ask("show", Hold(1, "ann"))
    fold.time_ns += 10 * SECOND_NS

    assert refused(fold, Buy(1, "ann")) == "the hold has expired"
    fold.ask("show", Hold(1, "bob"))
    assert [event.message for event in fold.events[1:]] == [
        SeatFreed(1, "ann", expired=True),
        SeatHeld(1, "bob", fold.time_ns + 10 * SECOND_NS),
    ]
    fold.advance(seconds=9)
    assert fold.ask("show", Buy(1, "bob")) == Bought()
    fold.check_replay()


def test_the_timer_of_a_released_hold_does_not_end_the_next_one() -> None:
    fold = opened()
    fold.ask("show", Hold(1, "ann"))
    fold.advance(seconds=6)

    assert fold.ask("show", Release(1, "ann")) == Released()
    assert fold.events[-1].message == SeatFreed(1, "ann", expired=False)
    fold.ask("show", Hold(1, "ann"))
    fold.advance(seconds=6)
    assert fold.ask("show", Buy(1, "ann")) == Bought()


def test_holds_that_end_together_end_in_the_order_of_their_making() -> None:
    fold = opened()
    for seat in (3, 1, 2):
        fold.ask("show", Hold(seat, "ann"))
    fold.advance(seconds=10)

    freed = [event.message.seat for event in fold.events if isinstance(event.message, SeatFreed)]
    assert freed == [3, 1, 2]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (Open(3, SECOND_NS), "the show is already on sale"),
        (Hold(1, "bob"), "the seat is held"),
        (Hold(1, "ann"), "the seat is held"),
        (Hold(0, "bob"), "no such seat"),
        (Hold(4, "bob"), "no such seat"),
        (Hold(2, ""), "the name of a buyer has 1 to 64 bytes"),
        (Buy(1, "bob"), "the buyer does not hold the seat"),
        (Buy(2, "bob"), "the buyer does not hold the seat"),
        (Release(1, "bob"), "the buyer does not hold the seat"),
    ],
)
def test_a_refusal_says_why_and_changes_nothing(command: Command[Any], reason: str) -> None:
    fold = opened()
    fold.ask("show", Hold(1, "ann"))

    assert refused(fold, command) == reason
    assert fold.ask("show", FreeSeats()) == Free([2, 3])


@pytest.mark.parametrize(
    "command", [Open(0, SECOND_NS), Open(10_001, SECOND_NS), Open(1, 0), Open(1, HOLD_NS_MAX + 1)]
)
def test_a_show_that_is_out_of_bounds_is_refused(command: Open) -> None:
    refused(Folded(app), command)


def test_the_free_seats_of_the_largest_show_fit_into_an_answer() -> None:
    fold = opened(10_000)

    assert fold.ask("show", FreeSeats()) == Free(list(range(1, 10_001)))


SEATS = st.integers(0, 4)
BUYERS = st.sampled_from(["ann", "bob"])
STEPS = st.one_of(
    st.builds(Hold, SEATS, BUYERS),
    st.builds(Buy, SEATS, BUYERS),
    st.builds(Release, SEATS, BUYERS),
    st.integers(0, 6 * HOLD_NS_MIN),
)


@settings(deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_whatever_is_asked_when_a_seat_has_one_holder_and_a_sale_stays(
    steps: list[Command[Any] | int],
) -> None:
    """Against a model that keeps, per seat, who has it and until when."""
    fold = Folded(app)
    fold.ask("show", Open(3, 5 * HOLD_NS_MIN))
    held: dict[int, tuple[str, int]] = {}
    sold: dict[int, str] = {}
    for step in steps:
        if isinstance(step, int):
            fold.advance(ns=step)
            continue
        current = {s: buyer for s, (buyer, until_ns) in held.items() if fold.time_ns < until_ns}
        try:
            fold.ask("show", step)
            succeeded = True
        except Rejected:
            succeeded = False
        match step:
            case Hold(seat, buyer):
                assert succeeded == (1 <= seat <= 3 and seat not in current and seat not in sold)
                if succeeded:
                    held[seat] = (buyer, fold.time_ns + 5 * HOLD_NS_MIN)
            case Buy(seat, buyer) | Release(seat, buyer):
                assert succeeded == (current.get(seat) == buyer)
                if succeeded:
                    del held[seat]
                    if isinstance(step, Buy):
                        sold[seat] = buyer
            case _:
                raise AssertionError(step)
    current = {seat for seat, (_, until_ns) in held.items() if fold.time_ns < until_ns}
    free = [seat for seat in (1, 2, 3) if seat not in current and seat not in sold]
    assert fold.ask("show", FreeSeats()) == Free(free)
    taken = fold.actor(Show, "show").taken
    assert {seat: t.buyer for seat, t in taken.items() if t.bought} == sold
    fold.check_replay(every=7)
