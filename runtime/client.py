"""The asyncio client.

    async with Client("127.0.0.1", 7700) as client:
        balance = await client.ask("alice", Deposit("alice", 100))

`ask` returns the reply that the command's class promises, or raises (failures.py). Any number of tasks may ask at once:
requests go out in pipelines, up to the window that the cluster granted, and `ask` waits beyond it. When the connection
breaks, the client connects again and sends what is unanswered with its old numbers, so that each command is applied
once. A command with no answer by its deadline raises Unknown(request); `resolve(request)` waits on for its outcome.

What is sent and when is session.py's; here are sockets, time and waiting.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
from attrs import define, field

from ..actors.app import Key
from ..actors.message import Command
from . import frames
from .calls import (
    BACK_OFF_S,
    CONNECT_S,
    DEADLINE_S,
    FATAL_ERRORS,
    Call,
    Event,
    EventFilter,
    call,
)
from .failures import Disconnected, TimedOut, Unknown
from .frames import BEFORE_ALL, Position
from .session import Session, Subscription

Reply = TypeVar("Reply")
Outcome = tuple["frames.Reply | frames.Answer | None", Exception | None]

PING_S = 15.0
SILENCE_S = 60.0
OUTCOMES_KEPT_MAX = 4096


@define(eq=False)
class _Waiting:
    """Somebody who waits for the outcome of one request, or no longer does."""

    client: "Client"
    call: Call
    future: "asyncio.Future[Any]"
    number: int = 0
    is_query: bool = False

    def __call__(
        self, reply: "frames.Reply | frames.Answer | None", error: Exception | None
    ) -> None:
        self.client._landed(self, reply, error)  # pyright: ignore[reportPrivateUsage]


@define(eq=False)
class _Turns:
    """Who waits for room in the window, first come, first served."""

    room: Callable[[], int]
    _queue: "deque[asyncio.Future[None]]" = field(factory=deque["asyncio.Future[None]"], init=False)
    _granted: int = field(default=0, init=False)
    """Turns that were given and whose tasks have not run yet."""

    async def take(self, waiting: _Waiting) -> None:
        """Return when there is room, which the caller uses at once; raise if the time is over before."""
        while self._queue or self.room() - self._granted <= 0:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._queue.append(turn)
            try:
                await asyncio.wait({turn, waiting.future}, return_when=asyncio.FIRST_COMPLETED)
                if waiting.future.done():
                    waiting.future.result()
            except BaseException:
                self._give_up(turn)
                raise
            if turn.done():
                self._granted -= 1
                if self.room() > 0:
                    return

    def _give_up(self, turn: "asyncio.Future[None]") -> None:
        if turn.done():
            self._granted -= 1
        turn.cancel()
        self.give()  # what it may have been given is the next one's

    def give(self) -> None:
        """There may be room."""
        while self._queue and (self._queue[0].done() or self.room() - self._granted > 0):
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                self._granted += 1

    def end(self) -> None:
        """There will be no room any more: everybody looks why."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                self._granted += 1


class _Link(asyncio.Protocol):
    """One connection: bytes to frames, and the transport's back-pressure."""

    def __init__(self, client: "Client") -> None:
        self.client = client
        self.decoder = frames.Decoder()
        self.transport: asyncio.Transport | None = None
        self.writable = True
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.reason = "the connection was closed"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(frames.hello(self.client.session.cluster_id))

    def data_received(self, data: bytes) -> None:
        try:
            received = self.decoder.receive(data)
        except frames.ProtocolError as error:
            self.reason = str(error)
            self.close()
            return
        self.client._received(self, received)  # pyright: ignore[reportPrivateUsage]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(str(exc) if exc else self.reason)

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self.client._flush_soon()  # pyright: ignore[reportPrivateUsage]

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()


@define(eq=False)
class Client:
    """One session with a cluster; see the file's text."""

    host: str = "127.0.0.1"
    port: int = 7700
    others: tuple[tuple[str, int], ...] = ()
    session: Session = field(factory=Session, kw_only=True)
    deadline_s: float = field(default=DEADLINE_S, kw_only=True)
    connect_s: float = field(default=CONNECT_S, kw_only=True)
    keep: bool = field(default=False, kw_only=True)
    """Leave the session open in the cluster when the client is closed, to resume it later."""
    _link: _Link | None = field(default=None, init=False)
    _runner: "asyncio.Task[None] | None" = field(default=None, init=False)
    _opened: asyncio.Event = field(factory=asyncio.Event, init=False)
    _commands: _Turns = field(init=False)
    _queries: _Turns = field(init=False)
    _flushing: bool = field(default=False, init=False)
    _retrying: bool = field(default=False, init=False)
    _back_off_s: float = field(default=BACK_OFF_S[0], init=False)
    _outcomes: dict[int, Outcome] = field(factory=dict[int, Outcome], init=False)
    _abandoned: dict[int, _Waiting] = field(factory=dict[int, _Waiting], init=False)
    _heard_s: float = field(default=0.0, init=False)
    _why: str = field(default="", init=False)

    def __attrs_post_init__(self) -> None:
        self._commands = _Turns(self._command_room)
        self._queries = _Turns(self._query_room)

    @classmethod
    def resume(
        cls, host: str, port: int, session_id: bytes, *, answered: int = 0, **options: Any
    ) -> "Client":
        """Go on with a session of an earlier process: `resolve` what it left unknown before asking anew.

        `answered` is a number of requests that are known to have been applied: if the cluster knows of fewer, the session
        had expired, and SessionExpired is raised.
        """
        return cls(host, port, session=Session(session_id, answered_before=answered), **options)

    @property
    def session_id(self) -> bytes:
        """Keep it, to resume the session later."""
        return self.session.id

    @property
    def last_request(self) -> int:
        """The highest request number in use; after a resume, the last that was applied."""
        return self.session.last_request

    async def __aenter__(self) -> Self:
        self._runner = asyncio.create_task(self._run())
        opened = asyncio.create_task(self._opened.wait())
        try:
            done, _ = await asyncio.wait(
                {opened, self._runner},
                timeout=self.connect_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            opened.cancel()
        if self.session.dead is not None:
            await self.aclose()
            raise self.session.dead
        if not done:
            await self.aclose()
            raise Disconnected(f"No leftfold answers at {self.host}:{self.port}: {self._why}")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection, and the session with it, unless it is kept or left something unknown."""
        link = self._link
        if link is not None and link.transport is not None:
            if not self.keep and self.session.is_settled and not self._outcomes:
                link.transport.write(frames.close_session(self.session.id))
            link.transport.close()
            await asyncio.wait({link.lost}, timeout=self.connect_s)
        if self._runner is not None:
            self._runner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._runner
            self._runner = None
        if self.session.dead is None:
            self.session.expire(Disconnected("the client was closed"))
        self._wake_room()

    def _command_room(self) -> int:
        return 1 if self.session.dead is not None else self.session.room

    def _query_room(self) -> int:
        if self.session.dead is not None:
            return 1
        return self.session.query_room if self.session.opened else 0

    def _wake_room(self) -> None:
        """Who is woken into a session that is over finds that out by asking it."""
        for turns in (self._commands, self._queries):
            if self.session.dead is not None:
                turns.end()
            else:
                turns.give()

    # Asking

    async def ask(
        self, key: Key, command: Command[Reply], *, deadline_s: float | None = None
    ) -> Reply:
        """Have the actor with this key handle the command, once; return its reply."""
        encoded = call(key, command)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(self, encoded, loop.create_future())
        timer = loop.call_later(self._deadline_s(deadline_s), _time_out, waiting)
        try:
            await self._commands.take(waiting)
            waiting.number = self.session.command(
                encoded.message_id, encoded.key, encoded.body, waiting
            )
            self._flush_soon()
            return await waiting.future
        finally:
            timer.cancel()
            if waiting.number and self.session.waiting_for(waiting.number):
                self._abandoned[waiting.number] = waiting

    async def query(
        self, key: Key, query: Command[Reply], *, deadline_s: float | None = None
    ) -> Reply:
        """Have the actor answer from its state, which includes all that was acknowledged before."""
        encoded = call(key, query)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(self, encoded, loop.create_future(), is_query=True)
        timer = loop.call_later(self._deadline_s(deadline_s), _time_out, waiting)
        try:
            await self._queries.take(waiting)
            waiting.number = self.session.query(
                encoded.message_id, encoded.key, encoded.body, waiting
            )
            self._flush_soon()
            return await waiting.future
        finally:
            timer.cancel()
            if waiting.number:
                self.session.forget_query(waiting.number)
                self._queries.give()

    async def resolve(
        self,
        request: int,
        key: Key | None = None,
        command: Command[Any] | None = None,
        *,
        deadline_s: float | None = None,
    ) -> Any:
        """Learn how a request ended that `ask` left Unknown.

        In the process that asked, the number is enough. After `Client.resume` give the key and the command again: if it
        was applied, its reply comes back; if it was not, it is applied now.
        """
        if request in self._outcomes:
            reply, error = self._outcomes.pop(request)
            encoded = self._abandoned.pop(request).call
            if error is not None:
                raise error
            assert reply is not None
            return encoded.decode(reply)
        loop = asyncio.get_running_loop()
        abandoned = self._abandoned.pop(request, None)
        if abandoned is None:
            if key is None or command is None:
                raise ValueError(f"request {request} is not one that this client left unknown")
            waiting = _Waiting(self, call(key, command), loop.create_future(), request)
            encoded = waiting.call
            self.session.ask_again(request, encoded.message_id, encoded.key, encoded.body, waiting)
            self._flush_soon()
        else:
            waiting = abandoned
            waiting.future = loop.create_future()
        timer = loop.call_later(self._deadline_s(deadline_s), _time_out, waiting)
        try:
            return await waiting.future
        finally:
            timer.cancel()
            if self.session.waiting_for(request):
                self._abandoned[request] = waiting

    def _deadline_s(self, given_s: float | None) -> float:
        return self.deadline_s if given_s is None else given_s

    def _landed(
        self,
        waiting: _Waiting,
        reply: "frames.Reply | frames.Answer | None",
        error: Exception | None,
    ) -> None:
        """The outcome of a request: to who waits, or kept for `resolve`."""
        if waiting.future.done():
            if not waiting.is_query and waiting.number in self._abandoned:
                self._outcomes[waiting.number] = (reply, error)
                if len(self._outcomes) > OUTCOMES_KEPT_MAX:
                    oldest = next(iter(self._outcomes))
                    del self._outcomes[oldest], self._abandoned[oldest]
            return
        if error is not None:
            waiting.future.set_exception(error)
            return
        assert reply is not None
        try:
            waiting.future.set_result(waiting.call.decode(reply))
        except (frames.ProtocolError, msgspec.MsgspecError) as wrong:
            waiting.future.set_exception(wrong)

    # Events

    async def subscribe(
        self,
        *,
        actor: type | None = None,
        key: Key | None = None,
        after: Position | None = BEFORE_ALL,
    ) -> AsyncIterator[Event]:
        """Iterate over events, from behind a position on; None: from now on.

        Every event of the filter once, in order, across reconnects. Raises EventsLost when the cluster no longer keeps
        what was asked for.
        """
        wanted = EventFilter.of(actor, key)
        came = asyncio.Event()
        subscription = self.session.subscribe(wanted.actor_type, wanted.key, after, came.set)
        try:
            while True:
                event = self._next_event(subscription)
                if event is None:
                    came.clear()
                    await came.wait()
                else:
                    yield wanted.event(event)
        finally:
            self.session.unsubscribe(subscription)
            self._flush_soon()

    def _next_event(self, subscription: Subscription) -> "frames.EventFrame | None":
        event = self.session.next_event(subscription)
        if event is None:
            self._flush_soon()  # it may have asked for more
        return event

    # The connection

    async def _run(self) -> None:
        """Connect, and again whenever the connection breaks, until closed or the session is over."""
        addresses = deque([(self.host, self.port), *self.others])
        loop = asyncio.get_running_loop()
        back_off_s = BACK_OFF_S[0]
        while self.session.dead is None:
            link = _Link(self)
            try:
                async with asyncio.timeout(self.connect_s):
                    await loop.create_connection(lambda link=link: link, *addresses[0])
                self._heard_s = loop.time()
                self._link = link
                self._why = await self._watch(link)
            except (OSError, TimeoutError) as error:
                self._why = str(error) or "no answer in time"
            finally:
                self._link = None
                link.close()
                if self.session.connected_now:
                    back_off_s = BACK_OFF_S[0]
                    self.session.disconnected()
            addresses.rotate(-1)
            await asyncio.sleep(back_off_s)
            back_off_s = min(back_off_s * 2, BACK_OFF_S[1])

    async def _watch(self, link: _Link) -> str:
        """Until the connection is lost: ping when it is silent, give up when it stays so."""
        loop = asyncio.get_running_loop()
        while True:
            done, _ = await asyncio.wait({link.lost}, timeout=PING_S)
            if done:
                return link.lost.result()
            silence_s = loop.time() - self._heard_s
            limit_s = SILENCE_S if self.session.connected_now else self.connect_s
            if silence_s > limit_s:
                return "the gateway is silent"
            if silence_s >= PING_S / 2 and link.transport is not None and link.writable:
                link.transport.write(frames.ping(int(silence_s)))

    def _received(self, link: _Link, received: "list[frames.Frame]") -> None:
        session = self.session
        self._heard_s = asyncio.get_running_loop().time()
        for frame in received:
            if isinstance(frame, frames.Welcome):
                session.connected(frame)
            elif isinstance(frame, frames.Error):
                link.reason = frame.text
                if frame.code in FATAL_ERRORS:
                    session.expire(Disconnected(frame.text))
            else:
                session.receive(frame)
        if session.opened or session.dead is not None:
            self._opened.set()
        if session.held:
            self._retry_later()
        self._wake_room()
        self._flush_soon()

    def _retry_later(self) -> None:
        if self._retrying:
            return
        self._retrying = True
        self._back_off_s = min(self._back_off_s * 2, BACK_OFF_S[1])
        asyncio.get_running_loop().call_later(self._back_off_s, self._retry)

    def _retry(self) -> None:
        self._retrying = False
        self.session.retry()
        self._flush_soon()

    def _flush_soon(self) -> None:
        """One write for everything that is asked in this turn of the event loop."""
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        link = self._link
        if link is None or link.transport is None or not link.writable:
            return
        data = self.session.outgoing()
        if data:
            link.transport.write(data)
            if not self.session.held:
                self._back_off_s = BACK_OFF_S[0]


def _time_out(waiting: _Waiting) -> None:
    if waiting.future.done():
        return
    if waiting.is_query:
        waiting.future.set_exception(TimedOut("the query was not answered in time"))
    elif waiting.number:
        request = waiting.client.session.waiting_for(waiting.number)
        waiting.future.set_exception(Unknown(waiting.number, request.why if request else ""))
    else:
        waiting.future.set_exception(
            Disconnected("no room in the window came in time: the command was not sent")
        )
