"""Retained events: the last ones, by count and by bytes, as replicated state.

An event has the position (index, ordinal, number), number counting from 1 within its unit. What is
pushed out raises the floor: a subscriber that asks for events after a position below the floor has
lost some, and is told so. Which connection gets an event is left to the gateway.
"""

from . import _fold
from .layout import (
    EVENT,
    EVENTS_LOST,
    SUBSCRIBE,
    SUBSCRIBE_FROM_NOW,
    SUBSCRIBED,
    SlotType,
)

Position = tuple[int, int, int]
SUBSCRIBED_TYPE = int(SlotType.SUBSCRIBED)
EVENTS_LOST_TYPE = int(SlotType.EVENTS_LOST)

ANSWER_BYTES_MAX = 256 * 1024
"""Events in one answer to SUBSCRIBE. A subscriber that is further behind is told that this is a part (tag 1), and
asks again behind the last of them, so that one who comes late cannot fill a ring or a connection's buffer."""


def position_of(slot: bytes) -> Position:
    """Where an EVENT slot stands in the stream."""
    _, _, _, index, ordinal, number, *_ = EVENT.unpack_from(slot)
    return index, ordinal, number


class Events:
    """The kept EVENT slots, oldest first. They lie in C, where most of them are made."""

    def __init__(self, kept_max: int, kept_bytes_max: int) -> None:
        self.kept = _fold.Events(kept_max, kept_bytes_max)

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def floor(self) -> Position:
        """The position of the newest event that is no longer kept."""
        return self.kept.floor

    @floor.setter
    def floor(self, position: Position) -> None:
        self.kept.floor = position

    def keep(self, slot: bytes) -> None:
        """Append an event and push out the oldest beyond the limits."""
        self.kept.keep(slot)

    def all(self) -> list[bytes]:
        """Every kept event, oldest first."""
        return self.kept.all()

    def answer(self, slot: bytes, index: int) -> bytes:
        """The run that answers SUBSCRIBE: EVENTS_LOST if some are gone, SUBSCRIBED, the events."""
        length, _, _, session, request, after_index, ordinal, number, actor, key_length, flags = (
            SUBSCRIBE.unpack_from(slot)
        )
        key = slot[SUBSCRIBE.size : min(length, SUBSCRIBE.size + key_length)]
        after = (after_index, ordinal, number)
        from_now = bool(flags & SUBSCRIBE_FROM_NOW)
        run, count, partial = b"", 0, False
        if not from_now:
            run, count, partial = self.kept.after(*after, actor, key, ANSWER_BYTES_MAX)
        head = SUBSCRIBED.pack(
            SUBSCRIBED.size, SUBSCRIBED_TYPE, partial, session, request, index, len(run), count
        )
        if from_now or after >= self.floor:
            return head + run
        lost = EVENTS_LOST.pack(
            EVENTS_LOST.size, EVENTS_LOST_TYPE, 0, session, request, *self.floor
        )
        return lost + head + run
