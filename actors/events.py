"""Retained events: the last ones, by count and by bytes, as replicated state.

An event has the position (index, ordinal, number), number counting from 1 within its unit. What is
pushed out raises the floor: a subscriber that asks for events after a position below the floor has
lost some, and is told so. Which connection gets an event is left to the gateway.
"""

from bisect import bisect_right

from attrs import Factory, define

from .layout import (
    EVENT,
    EVENTS_LOST,
    SUBSCRIBE,
    SUBSCRIBE_FROM_NOW,
    SUBSCRIBED,
    SlotType,
)

Position = tuple[int, int, int]

ANSWER_BYTES_MAX = 256 * 1024
"""Events in one answer to SUBSCRIBE. A subscriber that is further behind is told that this is a part (tag 1), and
asks again behind the last of them, so that one who comes late cannot fill a ring or a connection's buffer."""


def position_of(slot: bytes) -> Position:
    """Where an EVENT slot stands in the stream."""
    _, _, _, index, ordinal, number, *_ = EVENT.unpack_from(slot)
    return index, ordinal, number


@define
class Events:
    """The kept EVENT slots, oldest first."""

    kept_max: int
    kept_bytes_max: int
    # The position of the newest event that is no longer kept.
    floor: Position = (0, 0, 0)
    _slots: list[bytes] = Factory(list[bytes])
    _start: int = 0
    _bytes: int = 0

    def __len__(self) -> int:
        return len(self._slots) - self._start

    def keep(self, slot: bytes) -> None:
        """Append an event and push out the oldest beyond the limits."""
        self._slots.append(slot)
        self._bytes += len(slot)
        while len(self) > self.kept_max or self._bytes > self.kept_bytes_max:
            oldest = self._slots[self._start]
            self._slots[self._start] = b""
            self._start += 1
            self._bytes -= len(oldest)
            self.floor = position_of(oldest)
        if self._start > 64 and self._start > len(self._slots) // 2:
            del self._slots[: self._start]
            self._start = 0

    def after(self, position: Position) -> list[bytes]:
        """The kept events after this position. Whether some were lost, `floor` says."""
        found = bisect_right(self._slots, position, lo=self._start, key=position_of)
        return self._slots[found:]

    def all(self) -> list[bytes]:
        """Every kept event, oldest first."""
        return self._slots[self._start :]

    def answer(self, slot: bytes, index: int) -> bytes:
        """The run that answers SUBSCRIBE: EVENTS_LOST if some are gone, SUBSCRIBED, the events."""
        length, _, _, session, request, after_index, ordinal, number, actor, key_length, flags = (
            SUBSCRIBE.unpack_from(slot)
        )
        key = slot[SUBSCRIBE.size : min(length, SUBSCRIBE.size + key_length)]
        after = (after_index, ordinal, number)
        from_now = bool(flags & SUBSCRIBE_FROM_NOW)
        kept = [] if from_now else self.after(after)
        found = [event for event in kept if matches(event, actor, key)]
        found, partial = cut(found, ANSWER_BYTES_MAX)
        run = b"".join(found)
        type_ = SlotType.SUBSCRIBED
        head = SUBSCRIBED.pack(
            SUBSCRIBED.size, type_, int(partial), session, request, index, len(run), len(found)
        )
        if from_now or after >= self.floor:
            return head + run
        type_ = SlotType.EVENTS_LOST
        lost = EVENTS_LOST.pack(EVENTS_LOST.size, type_, 0, session, request, *self.floor)
        return lost + head + run


def matches(slot: bytes, actor_type: int, key: bytes) -> bool:
    """Whether an EVENT slot passes a subscription's filter; 0 and b"" let all pass."""
    _, _, _, _, _, _, found, key_length, *_ = EVENT.unpack_from(slot)
    if actor_type not in (0, found):
        return False
    return not key or slot[EVENT.size : EVENT.size + key_length] == key


def cut(slots: list[bytes], bytes_max: int) -> tuple[list[bytes], bool]:
    """The first slots that fit, at least one if there is one; and whether any were left out."""
    size = 0
    for at, slot in enumerate(slots):
        size += len(slot)
        if at and size > bytes_max:
            return slots[:at], True
    return slots, False
