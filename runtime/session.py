"""A client's session, sans-IO: what was asked, what was answered, and what to send again.

Both clients drive one of these. In go requests and frames, out come bytes to send (`outgoing()`) and outcomes, handed to
the `settle` of each request. It guarantees the client's half of exactly-once (I9): requests are numbered 1, 2, 3 …
without gaps; whatever was not answered is sent again, in order, with its number, on the next connection, to whichever
replica; a session that the cluster has forgotten is never silently replaced by a new one; no more requests are in flight
than the cluster keeps replies for.

    connect      connected(welcome) → OPEN goes out once in a session's life; only its reply lets requests out
    disconnect   disconnected() → everything unanswered stands in the queue again, in order
    WINDOW_EXCEEDED, OUT_OF_ORDER, REFUSED
                 the request comes back; when every request in flight has its verdict, all that came back go out again, in
                 order: at once, or, when the cluster refused (`refusal`), after `retry()` or on another connection
    disk full    a request of which every sending was refused is in no log: it fails with DiskFull. Its number goes to the
                 next command, or, if higher numbers are in use, to a command that no actor takes
    resume       the session of an earlier process: resumption.py

Left to others: events (streams.py), sockets, time, back-off, which replica, and who waits for what.
"""

import secrets
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from attrs import define, field

from ..actors.layout import SlotType, Status
from . import frames
from .failures import DiskFull, OutOfOrder, SessionExpired, WrongCluster, failure
from .frames import Position
from .resumption import PROBE, Resumption
from .streams import Streams, Subscription

NOT_LEADER, NOT_READY, DISK_FULL, DRAINING = 1, 2, 3, 4
"""Reasons of REFUSED."""

WHY = {
    NOT_LEADER: "the replica is not the leader",
    NOT_READY: "the replica is not ready",
    DISK_FULL: "the replica's disk is full",
    DRAINING: "the replica is stopping",
}

NO_MESSAGE = 0
"""The id of no message: a command that no actor takes, and that uses up its number."""


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
    version: int = 0
    """Of the message in the body."""
    in_flight: bool = False
    why: str = ""
    raw: bool = False
    """Our own, not the user's: settled with the reply itself, whatever its status."""
    filler: bool = False
    """It only holds a number that was given out and not used."""
    exposed: bool = False
    """A sending of it was lost with its connection, so it may be in somebody's log; or its number was told."""
    full: str = ""
    """The sentence with which its last sending was refused because a disk is full."""


@define(eq=False)
class Session:
    """The state of one session; see the file's text."""

    id: bytes = field(factory=lambda: secrets.token_bytes(16))
    cluster_id: bytes = frames.ANY_CLUSTER
    """Known from the first WELCOME on; other clusters are refused."""
    resumption: Resumption | None = None
    """Of a session that an earlier process opened."""
    window: int = 1
    frame_bytes_max: int = 0
    opened: bool = False
    """Whether commands and queries may be asked."""
    connected_now: bool = False
    refusal: frames.Refused | None = None
    """The cluster refused for now: nothing is sent before `retry()`, or on another connection."""
    hindrance: frames.Refused | None = None
    """Why the session is not open yet: what was refused last."""
    dead: Exception | None = None
    last_request: int = 0
    """The highest number given out."""
    answered: int = 0
    """All requests up to this one are answered."""
    replies: int = 0
    """Answers that came, of any kind: whether the cluster gets on."""
    streams: Streams = field(init=False)
    _entered: bool = field(default=False, init=False)
    """OPEN was answered: requests may go out."""
    _found: bool = field(default=False, init=False)
    """The probe of a resumed session was answered."""
    _answered_at: tuple[int, int] = field(default=(0, 0), init=False)
    """Index and ordinal in the log before which nothing can be news."""
    _early: set[int] = field(factory=set[int], init=False)
    _commands: dict[int, Request] = field(factory=dict[int, Request], init=False)
    _unsent: deque[int] = field(factory=deque[int], init=False)
    _returned: set[int] = field(factory=set[int], init=False)
    _in_flight: int = field(default=0, init=False)
    _queries: dict[int, Request] = field(factory=dict[int, Request], init=False)
    _unsent_queries: deque[int] = field(factory=deque[int], init=False)
    _last_query: int = field(default=0, init=False)
    _out: list[bytes] = field(factory=list[bytes], init=False)

    def __attrs_post_init__(self) -> None:
        self.streams = Streams(self.id, self._out)

    # Asking

    @property
    def room(self) -> int:
        """How many more commands may be asked before one is answered."""
        return self.window - (self.last_request - self.answered) if self.opened else 0

    @property
    def query_room(self) -> int:
        """How many more queries may be asked before one is answered."""
        return self.window - len(self._queries) if self.opened else 0

    @property
    def unanswered(self) -> int:
        """Commands and queries without an outcome."""
        return len(self._commands) + len(self._queries)

    @property
    def is_waiting(self) -> bool:
        """Whether an answer of the cluster is due."""
        return self.dead is None and (not self.opened or self.unanswered > 0)

    @property
    def is_settled(self) -> bool:
        """Whether the session is open, and nothing that was asked is without an outcome."""
        return self.opened and self.dead is None and not self._commands

    @property
    def held(self) -> bool:
        """Whether the cluster refused, so that nothing is sent for now."""
        return self.refusal is not None

    def command(
        self, message_id: int, key: bytes, body: bytes, settle: Settle, version: int = 0
    ) -> int:
        """Number a command and queue it. Only with `room`."""
        self._check_alive()
        assert self.room > 0, "more in flight than the cluster keeps replies for"
        self.last_request += 1
        number = self.last_request
        self._commands[number] = Request(number, message_id, key, body, settle, version)
        self._unsent.append(number)
        return number

    def query(
        self, message_id: int, key: bytes, body: bytes, settle: Settle, version: int = 0
    ) -> int:
        """Queue a query."""
        self._check_alive()
        self._last_query += 1
        number = self._last_query
        self._queries[number] = Request(number, message_id, key, body, settle, version)
        self._unsent_queries.append(number)
        return number

    def waiting_for(self, number: int, settle: Settle) -> Request | None:
        """The command of this number, if it is this one and has no outcome yet."""
        request = self._commands.get(number)
        return request if request is not None and request.settle is settle else None

    def pin(self, number: int, settle: Settle) -> str:
        """This command's number was told to somebody, so it stays with it. Returns why there is no answer yet."""
        request = self.waiting_for(number, settle)
        if request is None:
            return ""
        request.exposed = True
        return request.why

    def forget_query(self, number: int) -> None:
        """Nobody waits for this query any more."""
        self._queries.pop(number, None)

    def subscribe(
        self, actor_type: int, key: bytes, after: Position | None, wake: Callable[[], Any]
    ) -> Subscription:
        """Start a stream of events."""
        self._check_alive()
        return self.streams.subscribe(actor_type, key, after, wake)

    # Connecting

    def connected(self, welcome: frames.Welcome) -> None:
        """HELLO was answered: open, or go on where the last connection ended. Raises WrongCluster."""
        assert not self.connected_now
        if self.cluster_id not in (frames.ANY_CLUSTER, welcome.cluster_id):
            raise WrongCluster("it belongs to another cluster")
        self.cluster_id = welcome.cluster_id
        self.connected_now = True
        self.window = welcome.window
        self.frame_bytes_max = welcome.frame_bytes_max
        if self.opened:
            self.streams.start()
        elif not self._entered:
            self._enter()

    def _enter(self) -> None:
        if self.resumption is not None and not self._found:
            self._out.append(frames.command(NO_MESSAGE, self.id, PROBE, 1, b"", b""))
        else:
            # Never again once it is known to be open: a forgotten session would come back empty.
            self._out.append(frames.open_session(self.id))

    def disconnected(self) -> None:
        """The connection is gone: everything unanswered has to be sent again."""
        self.connected_now = False
        self.refusal = None
        self._out.clear()
        self._returned.clear()
        self._in_flight = 0
        for waiting in (self._commands, self._queries):
            for request in waiting.values():
                request.exposed = request.exposed or request.in_flight
                request.in_flight = False
        self._unsent = deque(sorted(self._commands))
        self._unsent_queries = deque(sorted(self._queries))
        self.streams.stop()

    def outgoing(self) -> bytes:
        """The bytes to send now."""
        if self.held or not self.connected_now:
            return b""
        out = self._out
        if self._entered:
            # While requests come back, a new one would only be out of order.
            while self._unsent and not self._returned:
                request = self._commands.get(self._unsent.popleft())
                if request is None:
                    continue  # it was answered on an earlier connection after all
                request.in_flight = True
                request.full = ""
                self._in_flight += 1
                out.append(
                    frames.command(
                        request.message_id,
                        self.id,
                        request.number,
                        request.number - min(self.answered, request.number - 1),
                        request.key,
                        request.body,
                        request.version,
                    )
                )
            while self._unsent_queries:
                request = self._queries.get(self._unsent_queries.popleft())
                if request is not None:
                    out.append(
                        frames.query(
                            request.message_id,
                            self.id,
                            request.number,
                            request.key,
                            request.body,
                            request.version,
                        )
                    )
        data = b"".join(out)
        out.clear()
        return data

    def retry(self) -> None:
        """The back-off is over: send what the cluster had refused."""
        self.refusal = None
        self._send_returned()

    # Receiving

    def receive(self, frame: frames.Frame) -> None:
        """Take one frame of the gateway."""
        match frame:
            case frames.Reply():
                if frame.session == self.id:
                    self.replies += 1
                    self._take_reply(frame)
            case frames.EventFrame():
                self.streams.take_event(frame)
            case frames.Answer():
                self.replies += 1
                request = self._queries.pop(frame.request, None)
                if request is not None:
                    _settle(request, frame)
            case frames.Subscribed():
                self.replies += 1
                self.streams.take_subscribed(frame)
            case frames.Refused():
                self._take_refused(frame)
            case frames.Lost():
                self.streams.take_lost(frame)
            case _:
                pass

    def _take_reply(self, reply: frames.Reply) -> None:
        if reply.request == 0:
            self._take_opened(reply)
            return
        if reply.request == PROBE:
            self._take_probed(reply)
            return
        request = self._commands.get(reply.request)
        if request is None:
            return  # it was answered on an earlier connection too
        if reply.status == Status.SESSION_EXPIRED:
            self.expire(SessionExpired("the cluster has forgotten this session"))
            return
        if reply.status in (Status.WINDOW_EXCEEDED, Status.OUT_OF_ORDER):
            if self._is_lost(reply):
                self.expire(OutOfOrder("the cluster has lost earlier requests of this session"))
            elif request.in_flight:
                self._come_back(request, "")
            return
        self._landed(request)
        del self._commands[reply.request]
        self._answered(reply)
        _settle(request, reply)
        self._send_returned()
        self._resume_further()

    def _is_lost(self, reply: frames.Reply) -> bool:
        """A request at the foot of the window cannot be out of order, if this is news: a replica that is behind may
        still be answering what was sent to it long ago."""
        return (
            reply.status == Status.OUT_OF_ORDER
            and reply.request == self.answered + 1
            and (reply.index, reply.ordinal) > self._answered_at
        )

    def _answered(self, reply: frames.Reply) -> None:
        self._answered_at = max(self._answered_at, (reply.index, reply.ordinal))
        self._early.add(reply.request)
        while self.answered + 1 in self._early:
            self.answered += 1
            self._early.discard(self.answered)

    def _take_opened(self, reply: frames.Reply) -> None:
        if self._entered:
            return
        if reply.status != Status.OK:
            self.expire(failure(reply.status, reply.body, reply.index, reply.ordinal))
            return
        self.last_request = self.answered = reply.last_request
        self._answered_at = (reply.index, reply.ordinal)
        self._entered = True
        if self.resumption is None:
            self._open()
            return
        self.resumption.opened(reply.last_request)
        self.answered = max(0, self.last_request - self.window)
        self._ask_ourselves(range(self.answered + 1, self.last_request + 1))
        self._resume_further()

    def _take_probed(self, reply: frames.Reply) -> None:
        if self._found or self.resumption is None:
            return
        if reply.status == Status.OUT_OF_ORDER:
            self._found = True
            self._enter()
        else:
            self.expire(SessionExpired("the cluster has forgotten this session"))

    def _open(self) -> None:
        self.opened = True
        self.hindrance = None
        self.streams.start()

    # Resuming

    def _resume_further(self) -> None:
        """When everything recalled is answered, the fence; when the fence is, the session is open."""
        if self.opened or self.resumption is None or self._commands or self.dead is not None:
            return
        if self.resumption.fenced > self.resumption.last:
            self._open()
            return
        self._ask_ourselves(range(self.last_request + 1, self.last_request + 1 + self.window))
        self.last_request += self.window

    def _ask_ourselves(self, numbers: range) -> None:
        for number in numbers:
            request = Request(number, NO_MESSAGE, b"", b"", self._recalled, raw=True)
            self._commands[number] = request
            self._unsent.append(number)

    def _recalled(
        self, reply: frames.Reply | frames.Answer | None, error: Exception | None
    ) -> None:
        if isinstance(reply, frames.Reply) and self.resumption is not None:
            self.resumption.take(reply)

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
        self.streams.end(error)

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
        if not self._returned or self._in_flight:
            return
        self._fail_refused()
        if not self.held:
            self._unsent = deque(sorted([*self._unsent, *self._returned]))
            self._returned.clear()

    def _fail_refused(self) -> None:
        """What a full disk refused each time that it was sent is in no log: its number is free."""
        for number in sorted(self._returned):
            request = self._commands[number]
            if request.full and not (request.exposed or request.raw):
                self._commands[number] = Request(
                    number, NO_MESSAGE, b"", b"", _ignore, raw=True, filler=True
                )
                request.settle(None, DiskFull(request.full))
        while (last := self._commands.get(self.last_request)) is not None:
            if not last.filler or last.exposed or last.in_flight:
                break
            del self._commands[self.last_request]
            self._returned.discard(self.last_request)
            self.last_request -= 1
        self._unsent = deque(number for number in self._unsent if number in self._commands)

    def _take_refused(self, frame: frames.Refused) -> None:
        kind = frame.refused_type
        if kind == SlotType.COMMAND and frame.request == PROBE and not self._found:
            self._enter()
        elif kind == SlotType.COMMAND:
            request = self._commands.get(frame.request)
            if request is None or not request.in_flight:
                return
            self.refusal = frame
            if frame.reason == DISK_FULL:
                request.full = frame.hint or WHY[DISK_FULL]
            self._come_back(request, why(frame))
        elif kind == SlotType.QUERY:
            query = self._queries.get(frame.request)
            if query is None:
                return
            if frame.reason == DISK_FULL:
                del self._queries[frame.request]
                query.settle(None, DiskFull(frame.hint or WHY[DISK_FULL]))
                return
            self._unsent_queries.append(frame.request)
        elif kind == SlotType.SUBSCRIBE:
            if not self.streams.ask_again(frame.request):
                return
        elif kind == SlotType.OPEN and not self._entered:
            self._enter()
        else:
            return
        self.refusal = frame
        self.hindrance = None if self.opened else frame


def why(refusal: frames.Refused) -> str:
    """A refusal as a sentence; the hint of one that is not the leader is an address."""
    sentence = WHY.get(refusal.reason, f"the replica refused (reason {refusal.reason})")
    return refusal.hint if refusal.hint and refusal.reason != NOT_LEADER else sentence


def _ignore(reply: frames.Reply | frames.Answer | None, error: Exception | None) -> None:
    pass


def _settle(request: Request, reply: frames.Reply | frames.Answer) -> None:
    if request.raw or reply.status == Status.OK:
        request.settle(reply, None)
    else:
        request.settle(None, failure(reply.status, reply.body, reply.index, reply.ordinal))
