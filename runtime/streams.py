"""A session's subscriptions, sans-IO: every event of a filter once and in order, whichever replica sends it.

Each subscription knows the position of its last event, so after a reconnect, to the same replica or to another, it is asked
for again behind that; what a replica that is behind sends once more is passed over. When the cluster no longer keeps what
was asked for, the reader is told (EventsLost). A reader that is slower than its stream has it stopped, and asked for
again when the queue is empty (I10).
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from attrs import define, field

from . import frames
from .failures import EventsLost
from .frames import BEFORE_ALL, Position

EVENTS_QUEUED_MAX = 4096
END_OF_INDEX = 0xFFFF_FFFF


@define(eq=False)
class Subscription:
    """One stream of events, with the position up to which it was queued."""

    actor_type: int
    key: bytes
    position: Position | None
    wake: Callable[[], Any]
    number: int = 0
    live: bool = False
    behind: bool = False
    """There is more, to be asked for when the reader wants it: the queue was full, or a part of an answer came."""
    events: "deque[frames.EventFrame]" = field(factory=deque["frames.EventFrame"])
    error: Exception | None = None

    def wants(self, event: frames.EventFrame) -> bool:
        """Whether the filter takes it and it is not queued already."""
        return (
            (not self.actor_type or self.actor_type == event.actor_type)
            and (not self.key or self.key == event.key)
            and event.position > (self.position or BEFORE_ALL)
        )


@define(eq=False)
class Streams:
    """All subscriptions of one session; see the file's text."""

    session: bytes
    out: list[bytes]
    """Where frames to send go."""
    flowing: bool = field(default=False, init=False)
    """Whether SUBSCRIBE may be sent: connected, and the session is open."""
    ended: Exception | None = field(default=None, init=False)
    _by_number: dict[int, Subscription] = field(factory=dict[int, Subscription], init=False)
    _last_number: int = field(default=0, init=False)
    _retaining: Subscription | None = field(default=None, init=False)
    _retained_left: int = field(default=0, init=False)
    _retaining_part: bool = field(default=False, init=False)

    def __len__(self) -> int:
        return len(self._by_number)

    def subscribe(
        self, actor_type: int, key: bytes, after: Position | None, wake: Callable[[], Any]
    ) -> Subscription:
        """Start a stream of events."""
        subscription = Subscription(actor_type, key, after, wake)
        self._ask(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """End it."""
        if self._by_number.pop(subscription.number, None) and self.flowing:
            self.out.append(frames.unsubscribe(self.session, subscription.number))

    def next_event(self, subscription: Subscription) -> frames.EventFrame | None:
        """Take the oldest queued event; None if there is none now. Raises what ended the stream."""
        if subscription.events:
            return subscription.events.popleft()
        if subscription.error is not None:
            raise subscription.error
        if self.ended is not None:
            raise self.ended
        if subscription.behind:
            self._ask(subscription)
        return None

    # The connection

    def start(self) -> None:
        """The session is open on a connection: ask for everything, each behind its last event."""
        self.flowing = True
        for subscription in self._by_number.values():
            if not subscription.behind:
                self._send(subscription)

    def stop(self) -> None:
        """The connection is gone."""
        self.flowing = False
        self._retaining, self._retained_left = None, 0
        for subscription in self._by_number.values():
            subscription.live = False

    def end(self, error: Exception) -> None:
        """The session is over."""
        self.ended = error
        for subscription in self._by_number.values():
            subscription.wake()

    def ask_again(self, number: int) -> bool:
        """A SUBSCRIBE was refused for now; whether it is still wanted."""
        subscription = self._by_number.get(number)
        if subscription is not None:
            self._send(subscription)
        return subscription is not None

    # What comes

    def take_subscribed(self, frame: frames.Subscribed) -> None:
        """The answer to SUBSCRIBE; its retained events follow."""
        subscription = self._by_number.get(frame.request)
        self._retaining, self._retained_left = subscription, frame.count
        if subscription is None:
            return
        subscription.live = not frame.partial
        if subscription.position is None:
            # From now on means: behind everything of the index that the logic had reached.
            subscription.position = (frame.index, END_OF_INDEX, END_OF_INDEX)
        self._retaining_part = frame.partial
        if frame.partial and not frame.count:
            self._is_behind(subscription)

    def take_event(self, event: frames.EventFrame) -> None:
        """A retained event for one, or a live one for all."""
        if self._retained_left:
            self._retained_left -= 1
            if self._retaining is not None:
                self._queue(self._retaining, event)
            if self._retaining is not None and self._retaining_part and not self._retained_left:
                self._is_behind(self._retaining)
            return
        for subscription in list(self._by_number.values()):
            if subscription.live and subscription.wants(event):
                self._queue(subscription, event)

    def take_lost(self, frame: frames.Lost) -> None:
        """What was asked for is not kept any more."""
        subscription = self._by_number.get(frame.request)
        if subscription is None:
            return
        subscription.error = EventsLost(frame.floor)
        self.unsubscribe(subscription)
        subscription.wake()

    def _ask(self, subscription: Subscription) -> None:
        self._by_number.pop(subscription.number, None)
        self._last_number += 1
        subscription.number = self._last_number
        subscription.live = subscription.behind = False
        self._by_number[subscription.number] = subscription
        if self.flowing:
            self._send(subscription)

    def _send(self, subscription: Subscription) -> None:
        self.out.append(
            frames.subscribe(
                self.session,
                subscription.number,
                subscription.position,
                subscription.actor_type,
                subscription.key,
            )
        )

    def _is_behind(self, subscription: Subscription) -> None:
        """A part has come whole: what follows it is asked for when the reader wants it."""
        subscription.behind = True
        subscription.wake()

    def _queue(self, subscription: Subscription, event: frames.EventFrame) -> None:
        if len(subscription.events) >= EVENTS_QUEUED_MAX:
            # The reader is slower than the stream: stop it, and ask again behind what is queued.
            if subscription.live or self._retaining is subscription:
                self.unsubscribe(subscription)
                subscription.live = False
                subscription.behind = True
                self._retaining = None
            return
        subscription.position = event.position
        subscription.events.append(event)
        subscription.wake()
