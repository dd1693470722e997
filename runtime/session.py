"""A client's session, sans-IO: what was asked, what was answered, and what to send again.

Both clients drive one of these. In go requests and frames, out come bytes to send (`outgoing()`) and outcomes, handed to
the `settle` of each request. It guarantees the client's half of exactly-once (I9): requests are numbered 1, 2, 3 …
without gaps; whatever was not answered is sent again, in order, with its number, on the next connection; a session
that the cluster has forgotten is never silently replaced by a new one; no more requests are in flight than the cluster keeps
replies for.

    connect      connected(welcome) → OPEN goes out once in a session's life; only its reply lets requests out
    disconnect   disconnected() → everything unanswered stands in the queue again, in order
    WINDOW_EXCEEDED, OUT_OF_ORDER, REFUSED
                 the request comes back; when every request in flight has its verdict, all that came back go out again, in
                 order: at once, or, when the cluster refused (not ready, draining), after `retry()`

Left to the clients: sockets, time, back-off, and who waits for what.
"""

import secrets
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from attrs import define, field

from ..actors.layout import SlotType, Status
from . import frames
from .failures import AnswerForgotten, EventsLost, SessionExpired, failure
from .frames import BEFORE_ALL, Position

EVENTS_QUEUED_MAX = 4096
END_OF_INDEX = 0xFFFF_FFFF


class Settle(Protocol):
    """Takes the one outcome of a request: (reply, None) or (None, error)."""

    def __call__(
        self, reply: frames.Reply | frames.Answer | None, error: Exception | None, /
    ) -> Any: ...


@define(eq=False)
class Request:
    """One command or query that waits for its answer."""

    number: int
    message_id: int
    key: bytes
    body: bytes
    settle: Settle
    in_flight: bool = False
    why: str = ""


@define(eq=False)
class Subscription:
    """One stream of events, with the position up to which it was queued."""

    actor_type: int
    key: bytes
    position: Position | None
    wake: Callable[[], Any]
    number: int = 0
    live: bool = False
    retained: int = 0
    behind: bool = False
    """The queue was full: what came since is dropped, and is asked for again when there is room."""
    events: "deque[frames.EventFrame]" = field(factory=deque[frames.EventFrame])
    error: Exception | None = None

    def wants(self, event: frames.EventFrame) -> bool:
        """Whether the filter takes it and it is not queued already."""
        return (
            (not self.actor_type or self.actor_type == event.actor_type)
            and (not self.key or self.key == event.key)
            and event.position > (self.position or BEFORE_ALL)
        )


@define(eq=False)
class Session:
    """The state of one session; see the file's text."""

    id: bytes = field(factory=lambda: secrets.token_bytes(16))
    cluster_id: bytes = frames.ANY_CLUSTER
    answered_before: int = 0
    """Of a resumed session: requests that the caller knows were applied. Fewer known to the cluster: it expired."""
    window: int = 1
    frame_bytes_max: int = 0
    opened: bool = False
    connected_now: bool = False
    held: bool = False
    """The cluster refused for now: nothing is sent before `retry()`."""
    hint: str = ""
    dead: Exception | None = None
    last_request: int = 0
    """The highest number given out; after opening, what the cluster had applied."""
    answered: int = 0
    """All requests up to this one are answered."""
    _early: set[int] = field(factory=set[int], init=False)
    _commands: dict[int, Request] = field(factory=dict[int, Request], init=False)
    _unsent: deque[int] = field(factory=deque[int], init=False)
    _returned: set[int] = field(factory=set[int], init=False)
    _in_flight: int = field(default=0, init=False)
    _queries: dict[int, Request] = field(factory=dict[int, Request], init=False)
    _unsent_queries: deque[int] = field(factory=deque[int], init=False)
    _last_query: int = field(default=0, init=False)
    _subscriptions: dict[int, Subscription] = field(factory=dict[int, Subscription], init=False)
    _retaining: Subscription | None = field(default=None, init=False)
    _retained_left: int = field(default=0, init=False)
    _retaining_part: bool = field(default=False, init=False)
    _out: list[bytes] = field(factory=list[bytes], init=False)

    # Asking

    @property
    def room(self) -> int:
        """How many more commands may be asked before one is answered."""
        return self.window - (self.last_request - self.answered) if self.opened else 0

    @property
    def query_room(self) -> int:
        """How many more queries may be asked before one is answered."""
        return self.window - len(self._queries)

    @property
    def unanswered(self) -> int:
        """Commands and queries without an outcome."""
        return len(self._commands) + len(self._queries)

    @property
    def is_settled(self) -> bool:
        """Whether the session is open, and nothing that was asked is without an outcome."""
        return self.opened and self.dead is None and not self._commands

    def command(self, message_id: int, key: bytes, body: bytes, settle: Settle) -> int:
        """Number a command and queue it. Only with `room`."""
        self._check_alive()
        assert self.room > 0, "more in flight than the cluster keeps replies for"
        self.last_request += 1
        number = self.last_request
        self._commands[number] = Request(number, message_id, key, body, settle)
        self._unsent.append(number)
        return number

    def query(self, message_id: int, key: bytes, body: bytes, settle: Settle) -> int:
        """Queue a query."""
        self._check_alive()
        self._last_query += 1
        number = self._last_query
        self._queries[number] = Request(number, message_id, key, body, settle)
        self._unsent_queries.append(number)
        return number

    def ask_again(
        self, number: int, message_id: int, key: bytes, body: bytes, settle: Settle
    ) -> None:
        """Ask with a number that an earlier life of this session used: to learn how it ended.

        If that command was never applied it is applied now. Only before newer requests are asked, since those say
        that this answer is not needed any more.
        """
        self._check_alive()
        assert number not in self._commands
        if not max(0, self.last_request - self.window) < number <= self.last_request + 1:
            raise AnswerForgotten(f"the answer to request {number} is not kept any more")
        self.last_request = max(self.last_request, number)
        self.answered = min(self.answered, number - 1)
        self._early.update(range(self.answered + 1, self.last_request + 1))
        self._early.discard(number)
        self._commands[number] = Request(number, message_id, key, body, settle)
        self._unsent.append(number)

    def waiting_for(self, number: int) -> Request | None:
        """The command of this number, if it has no outcome yet."""
        return self._commands.get(number)

    def forget_query(self, number: int) -> None:
        """Nobody waits for this query any more."""
        self._queries.pop(number, None)

    # Subscriptions

    def subscribe(
        self, actor_type: int, key: bytes, after: Position | None, wake: Callable[[], Any]
    ) -> Subscription:
        """Start a stream of events."""
        self._check_alive()
        subscription = Subscription(actor_type, key, after, wake)
        self._ask_for_events(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """End it."""
        if self._subscriptions.pop(subscription.number, None) and self.connected_now:
            self._out.append(frames.unsubscribe(self.id, subscription.number))

    def next_event(self, subscription: Subscription) -> frames.EventFrame | None:
        """Take the oldest queued event; None if there is none now. Raises what ended the stream."""
        if subscription.events:
            return subscription.events.popleft()
        if subscription.error is not None:
            raise subscription.error
        if subscription.behind:
            self._ask_for_events(subscription)
        return None

    def _ask_for_events(self, subscription: Subscription) -> None:
        self._subscriptions.pop(subscription.number, None)
        self._last_query += 1
        subscription.number = self._last_query
        subscription.live = subscription.behind = False
        self._subscriptions[subscription.number] = subscription
        if self.connected_now and self.opened:
            self._send_subscribe(subscription)

    def _send_subscribe(self, subscription: Subscription) -> None:
        self._out.append(
            frames.subscribe(
                self.id,
                subscription.number,
                subscription.position,
                subscription.actor_type,
                subscription.key,
            )
        )

    # Connecting

    def connected(self, welcome: frames.Welcome) -> None:
        """HELLO was answered: open, or go on where the last connection ended."""
        assert not self.connected_now
        self.connected_now = True
        self.window = welcome.window
        self.frame_bytes_max = welcome.frame_bytes_max
        if self.opened:
            self._start_subscriptions()
        else:
            # Never again once it is known to be open: a forgotten session would come back empty.
            self._out.append(frames.open_session(self.id))

    def _start_subscriptions(self) -> None:
        for subscription in self._subscriptions.values():
            self._send_subscribe(subscription)

    def disconnected(self) -> None:
        """The connection is gone: everything unanswered has to be sent again."""
        self.connected_now = False
        self.held = False
        self._out.clear()
        self._returned.clear()
        self._in_flight = 0
        self._retaining, self._retained_left = None, 0
        for waiting in (self._commands, self._queries):
            for request in waiting.values():
                request.in_flight = False
        self._unsent = deque(sorted(self._commands))
        self._unsent_queries = deque(sorted(self._queries))
        for subscription in self._subscriptions.values():
            subscription.live = False

    def outgoing(self) -> bytes:
        """The bytes to send now."""
        if self.held or not self.connected_now:
            return b""
        out = self._out
        if self.opened:
            # While requests come back, a new one would only be out of order.
            while self._unsent and not self._returned:
                request = self._commands.get(self._unsent.popleft())
                if request is None:
                    continue  # it was answered on an earlier connection after all
                request.in_flight = True
                self._in_flight += 1
                out.append(
                    frames.command(
                        request.message_id,
                        self.id,
                        request.number,
                        request.number - min(self.answered, request.number - 1),
                        request.key,
                        request.body,
                    )
                )
            while self._unsent_queries:
                request = self._queries.get(self._unsent_queries.popleft())
                if request is not None:
                    out.append(
                        frames.query(
                            request.message_id, self.id, request.number, request.key, request.body
                        )
                    )
        data = b"".join(out)
        out.clear()
        return data

    def retry(self) -> None:
        """The back-off is over: send what the cluster had refused."""
        self.held = False
        self._send_returned()

    # Receiving

    def receive(self, frame: frames.Frame) -> None:
        """Take one frame of the gateway."""
        match frame:
            case frames.Reply():
                if frame.session == self.id:
                    self._take_reply(frame)
            case frames.EventFrame():
                self._take_event(frame)
            case frames.Answer():
                request = self._queries.pop(frame.request, None)
                if request is not None:
                    _settle(request, frame)
            case frames.Subscribed():
                self._take_subscribed(frame)
            case frames.Refused():
                self._take_refused(frame)
            case frames.Lost():
                self._take_lost(frame)
            case _:
                pass

    def _take_reply(self, reply: frames.Reply) -> None:
        if reply.request == 0:
            self._take_opened(reply)
            return
        request = self._commands.get(reply.request)
        if request is None:
            return  # it was answered on an earlier connection too
        if reply.status == Status.SESSION_EXPIRED:
            self.expire(SessionExpired("the cluster has forgotten this session"))
            return
        # A number at the window's foot cannot be out of order: then the cluster has lost earlier ones.
        comes_back = reply.status == Status.WINDOW_EXCEEDED or (
            reply.status == Status.OUT_OF_ORDER and reply.request != min(self._commands)
        )
        if comes_back and request.in_flight:
            self._come_back(request, "")
            return
        self._landed(request)
        del self._commands[reply.request]
        self._answered(reply.request)
        _settle(request, reply)
        self._send_returned()

    def _answered(self, number: int) -> None:
        self._early.add(number)
        while self.answered + 1 in self._early:
            self.answered += 1
            self._early.discard(self.answered)

    def _take_opened(self, reply: frames.Reply) -> None:
        if self.opened:
            return
        if reply.status != Status.OK:
            self.expire(failure(reply.status, reply.body, reply.index, reply.ordinal))
            return
        if reply.last_request < self.answered_before:
            self.expire(SessionExpired("the cluster had forgotten this session"))
            return
        self.last_request = self.answered = reply.last_request
        self.opened = True
        self._start_subscriptions()

    def expire(self, error: Exception) -> None:
        """The session is over: nothing of it can be asked any more."""
        self.dead = error
        waiting = [*self._commands.values(), *self._queries.values()]
        self._commands.clear()
        self._queries.clear()
        self._unsent.clear()
        self._unsent_queries.clear()
        for request in waiting:
            request.settle(None, error)
        for subscription in self._subscriptions.values():
            subscription.error = error
            subscription.wake()

    def _check_alive(self) -> None:
        if self.dead is not None:
            raise self.dead

    # What comes back

    def _landed(self, request: Request) -> None:
        if request.in_flight:
            request.in_flight = False
            self._in_flight -= 1
        self._returned.discard(request.number)

    def _come_back(self, request: Request, why: str) -> None:
        self._landed(request)
        request.why = why
        self._returned.add(request.number)
        self._send_returned()

    def _send_returned(self) -> None:
        """Only when nothing is in flight, or what comes back could overtake its predecessors."""
        if self._returned and not self._in_flight and not self.held:
            self._unsent = deque(sorted([*self._unsent, *self._returned]))
            self._returned.clear()

    def _take_refused(self, frame: frames.Refused) -> None:
        self.hint = frame.hint
        if frame.refused_type == SlotType.COMMAND:
            request = self._commands.get(frame.request)
            if request is not None and request.in_flight:
                self.held = True
                self._come_back(request, frame.hint)
        elif frame.refused_type == SlotType.QUERY:
            if frame.request in self._queries:
                self.held = True
                self._unsent_queries.append(frame.request)
        elif frame.refused_type == SlotType.SUBSCRIBE:
            subscription = self._subscriptions.get(frame.request)
            if subscription is not None:
                self.held = True
                self._send_subscribe(subscription)
        elif frame.refused_type == SlotType.OPEN and not self.opened:
            self.held = True
            self._out.append(frames.open_session(self.id))

    # Events

    def _take_subscribed(self, frame: frames.Subscribed) -> None:
        subscription = self._subscriptions.get(frame.request)
        self._retaining, self._retained_left = subscription, frame.count
        if subscription is None:
            return
        subscription.live = not frame.partial
        if subscription.position is None:
            # From now on means: behind everything of the index that the logic had reached.
            subscription.position = (frame.index, END_OF_INDEX, END_OF_INDEX)
        self._retaining_part = frame.partial
        if frame.partial and not frame.count:
            self._ask_for_more(subscription)

    def _ask_for_more(self, subscription: Subscription) -> None:
        """A part has come whole: what follows it is asked for when the reader wants it."""
        subscription.behind = True
        subscription.wake()

    def _take_event(self, event: frames.EventFrame) -> None:
        if self._retained_left:
            self._retained_left -= 1
            if self._retaining is not None:
                self._queue(self._retaining, event)
            if self._retaining is not None and self._retaining_part and not self._retained_left:
                self._ask_for_more(self._retaining)
            return
        for subscription in list(self._subscriptions.values()):
            if subscription.live and subscription.wants(event):
                self._queue(subscription, event)

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

    def _take_lost(self, frame: frames.Lost) -> None:
        subscription = self._subscriptions.get(frame.request)
        if subscription is None:
            return
        subscription.error = EventsLost(frame.floor)
        self.unsubscribe(subscription)
        subscription.wake()


def _settle(request: Request, reply: frames.Reply | frames.Answer) -> None:
    if reply.status == Status.OK:
        request.settle(reply, None)
    else:
        request.settle(None, failure(reply.status, reply.body, reply.index, reply.ordinal))
