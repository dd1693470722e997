"""The last events are state: numbered, limited, and below the floor a subscriber is told."""

import random

import pytest
from sample_bank import LIMITS, Account, Deposit, Misbehave, Moved, Transfer, app

from leftfold.actors.events import ANSWER_BYTES_MAX, Events, position_of
from leftfold.actors.layout import (
    EVENT,
    EVENTS_LOST,
    SUBSCRIBE,
    SUBSCRIBE_FROM_NOW,
    SUBSCRIBED,
    SlotType,
)
from leftfold.actors.testing import Folded, slots_of

SESSION = b"s" * 16


def event_slot(index: int, ordinal: int = 0, number: int = 1, key: bytes = b"key") -> bytes:
    size = EVENT.size + 8
    head = EVENT.pack(size, 19, 6, index, ordinal, number, 1, len(key), 0, 99)
    return head + key.ljust(8, b"\0")


def subscribe_slot(
    after: tuple[int, int, int] = (0, 0, 0), actor: int = 0, key: bytes = b"", flags: int = 0
) -> bytes:
    length = SUBSCRIBE.size + len(key)
    type_ = SlotType.SUBSCRIBE
    return SUBSCRIBE.pack(length, type_, 0, SESSION, 5, *after, actor, len(key), flags) + key


def types_of(run: bytes) -> list[int]:
    return [slot[4] for slot in slots_of(run)]


def test_events_are_kept_by_count_and_by_bytes_and_the_floor_is_the_last_one_lost() -> None:
    """Against a plain list; the seed is fixed."""
    rng = random.Random(3)
    size = len(event_slot(1))
    for kept_max, bytes_max in ((10, 1 << 20), (1_000, 7 * size), (1, size)):
        events = Events(kept_max, bytes_max)
        expected: list[bytes] = []
        floor = (0, 0, 0)
        index = 0
        for _ in range(500):
            index += rng.randrange(1, 3)
            slot = event_slot(index)
            events.keep(slot)
            expected.append(slot)
            while len(expected) > kept_max or len(expected) * size > bytes_max:
                floor = position_of(expected.pop(0))

        assert (events.all(), events.floor, len(events)) == (expected, floor, len(expected))
        middle = position_of(expected[len(expected) // 2])
        run, count, partial = events.kept.after(*middle, 0, b"", 1 << 30)
        rest = expected[len(expected) // 2 + 1 :]
        assert (slots_of(run), count, partial) == (rest, len(rest), False)


def test_a_transfer_emits_one_numbered_event_before_its_reply() -> None:
    fold = Folded(app)
    fold.ask("a", Deposit(10))
    fold.ask("a", Transfer("b", 4))
    (event,) = fold.events

    assert event.position == (4, 0, 1) and event.message == Moved("b", 4)
    assert (event.actor, event.key, event.time_ns) == (Account, "a", fold.time_ns)
    assert types_of(fold.log[-1].egress) == [SlotType.EVENT, SlotType.REPLY]


def test_the_events_of_one_unit_are_numbered_in_the_order_they_were_emitted() -> None:
    fold = Folded(app)
    fold.ask("a", Misbehave("two events"))

    assert [(event.position, event.message.cents) for event in fold.events] == [
        ((3, 0, 1), 1),
        ((3, 0, 2), 2),
    ]


def moved(count: int) -> Folded:
    fold = Folded(app, limits=LIMITS)
    fold.ask("a", Deposit(1_000))
    for number in range(count):
        fold.ask("ab"[number % 2], Transfer("ba"[number % 2], 1))
    return fold


def test_a_subscriber_gets_the_kept_events_after_its_position() -> None:
    fold = moved(5)
    run = fold.machine.subscribe(subscribe_slot(fold.events[1].position))
    head, *rest = slots_of(run)
    _, type_, _, session, request, index, size, count = SUBSCRIBED.unpack(head)

    assert (type_, session, request) == (SlotType.SUBSCRIBED, SESSION, 5)
    assert index == fold.machine.state.index
    assert (size, count) == (sum(map(len, rest)), 3)
    assert [position_of(slot) for slot in rest] == [e.position for e in fold.events[2:]]


def test_a_subscriber_below_the_floor_is_told_what_is_lost() -> None:
    fold = moved(LIMITS.events_kept_max + 5)
    lost, head, *rest = slots_of(fold.machine.subscribe(subscribe_slot()))
    floor = fold.events[4].position

    assert EVENTS_LOST.unpack(lost)[1:] == (SlotType.EVENTS_LOST, 0, SESSION, 5, *floor)
    assert head[4] == SlotType.SUBSCRIBED and len(rest) == LIMITS.events_kept_max
    assert types_of(fold.machine.subscribe(subscribe_slot(floor)))[0] == SlotType.SUBSCRIBED


def test_a_subscriber_from_now_gets_nothing_old_and_loses_nothing() -> None:
    fold = moved(LIMITS.events_kept_max + 5)

    run = fold.machine.subscribe(subscribe_slot(flags=SUBSCRIBE_FROM_NOW))
    assert types_of(run) == [SlotType.SUBSCRIBED]


@pytest.mark.parametrize(
    ("actor", "key", "count"), [(0, b"", 6), (1, b"", 6), (2, b"", 0), (1, b"b", 3), (0, b"c", 0)]
)
def test_a_subscription_filters_by_actor_type_and_key(actor: int, key: bytes, count: int) -> None:
    fold = moved(6)
    run = fold.machine.subscribe(subscribe_slot(actor=actor, key=key))

    assert len(slots_of(run)) == 1 + count


def test_a_key_is_matched_whole() -> None:
    events = Events(10, 1 << 20)
    events.keep(event_slot(1, key=b"key"))
    counts = [events.kept.after(0, 0, 0, 1, key, 1 << 20)[1] for key in (b"key", b"ke", b"keyy")]

    assert counts == [1, 0, 0]


def test_the_kept_events_and_the_floor_survive_a_snapshot() -> None:
    fold = moved(LIMITS.events_kept_max + 5)
    restored = fold.machine.restore(app, LIMITS, 1, list(fold.machine.snapshot()))

    assert restored.subscribe(subscribe_slot()) == fold.machine.subscribe(subscribe_slot())
    assert restored.state.events.floor == fold.machine.state.events.floor


def test_a_subscriber_far_behind_gets_its_events_in_parts_that_join_without_a_gap() -> None:
    """Each part but the last says that it is one, and none is larger than the limit."""
    events = Events(100_000, 1 << 30)
    slots = [event_slot(index) for index in range(1, 3 * ANSWER_BYTES_MAX // len(event_slot(1)))]
    for slot in slots:
        events.keep(slot)
    received: list[bytes] = []
    parts = 0
    partial = True
    while partial:
        after = position_of(received[-1]) if received else (0, 0, 0)
        head, *part = slots_of(events.answer(subscribe_slot(after), len(slots)))
        partial = bool(SUBSCRIBED.unpack_from(head)[2])
        received += part
        parts += 1

        assert sum(len(slot) for slot in part) <= ANSWER_BYTES_MAX

    assert received == slots
    assert parts == 3
