"""The asyncio client.

    async with Client.connect("127.0.0.2:7700,127.0.0.3:7700") as client:
        balance = await client.ask("alice", Deposit("alice", 100))

`ask` returns the reply that the command's class promises, or raises (failures.py). Any number of tasks may ask at once:
requests go out in pipelines, up to the window that the cluster granted, and `ask` waits beyond it. When the connection
breaks, or the replica is not the leader, or falls silent, the client goes to the leader or to another address and sends what
is unanswered with its old numbers, so that each command is applied once. A command with no answer by its deadline
raises Unknown; `resolve(unknown)` waits on for its outcome. A process that was restarted goes on with the session of
the one before: `Client.connect(addresses, session=id)`.

What is sent and when is session.py's, where to addresses.py's, and how long to wait pulse.py's; here are sockets,
time and waiting.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
from attrs import define, field

from ..actors.app import Key
from ..actors.message import Command
from . import frames
from .addresses import Address
from .calls import (
    ATTEMPT_S,
    FATAL_ERRORS,
    NOT_READY_MAX,
    Call,
    Event,
    EventFilter,
    call,
)
from .correspondent import Correspondent, reason_of
from .failures import Disconnected, NotApplied, Unknown, Unreadable, WrongCluster
from .frames import BEFORE_ALL, Position
from .recorder import Recording
from .session import DRAINING, NOT_LEADER, why
from .streams import Subscription
from .turns import Turns

Reply = TypeVar("Reply")
Outcome = tuple["frames.Reply | frames.Answer | None", Exception | None]

OUTCOMES_KEPT_MAX = 4096


@define(eq=False)
class _Waiting:
    """Somebody who waits for the outcome of one request, or no longer does."""

    client: "Client"
    call: Call
    future: "asyncio.Future[Any]"
    is_query: bool = False
    number: int = 0
    recording: Recording | None = None

    def __call__(
        self, reply: "frames.Reply | frames.Answer | None", error: Exception | None
    ) -> None:
        self.client._landed(self, reply, error)  # pyright: ignore[reportPrivateUsage]


class _Link(asyncio.Protocol):
    """One connection: bytes to frames, the transport's back-pressure, and why it ended."""

    def __init__(self, client: "Client") -> None:
        self.client = client
        self.decoder = frames.Decoder()
        self.transport: asyncio.Transport | None = None
        self.writable = True
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.reason = "the connection was closed"
        self.hint: str | None = None
        """It is not the leader; this, if not empty, is."""
        self.timed_out = False
        self.banned = False
        self.refusals = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(frames.hello(self.client.session.cluster_id, self.client.token))

    def data_received(self, data: bytes) -> None:
        try:
            received = self.decoder.receive(data)
        except frames.ProtocolError as error:
            self.leave(str(error))
            return
        self.client._received(self, received)  # pyright: ignore[reportPrivateUsage]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(str(exc) if exc else self.reason)
        if not self.greeted.done():
            self.greeted.set_result(None)

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self.client._flush_soon()  # pyright: ignore[reportPrivateUsage]

    def leave(self, reason: str) -> None:
        """There is no use in it any more."""
        self.reason = reason
        self.close()

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()


@define(eq=False)
class Client(Correspondent):
    """One session with a cluster; see the file's text."""

    _link: _Link | None = field(default=None, init=False)
    _runner: "asyncio.Task[None] | None" = field(default=None, init=False)
    _opened: asyncio.Event = field(factory=asyncio.Event, init=False)
    _commands: Turns = field(init=False)
    _queries: Turns = field(init=False)
    _closing: bool = field(default=False, init=False)
    _flushing: bool = field(default=False, init=False)
    _retrying: bool = field(default=False, init=False)
    _outcomes: dict[int, Outcome] = field(factory=dict[int, Outcome], init=False)
    _abandoned: dict[int, _Waiting] = field(factory=dict[int, _Waiting], init=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self._commands = Turns(self._command_room)
        self._queries = Turns(self._query_room)

    async def __aenter__(self) -> Self:
        self._begin_recording()
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
            unopened = self._unopened()
            await self.aclose()
            raise unopened
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
        self._closing = True
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
        # Whoever still waits writes how it ended in the loop's next turn.
        await asyncio.sleep(0)
        self._stop_recording()

    def _command_room(self) -> int:
        return 1 if self.session.dead is not None else self.session.room

    def _query_room(self) -> int:
        return 1 if self.session.dead is not None else self.session.query_room

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
        return await self._ask(key, command, deadline_s, is_query=False)

    async def query(
        self, key: Key, query: Command[Reply], *, deadline_s: float | None = None
    ) -> Reply:
        """Have the actor answer from its state, which includes all that was acknowledged before."""
        return await self._ask(key, query, deadline_s, is_query=True)

    async def _ask(
        self, key: Key, message: Command[Any], deadline_s: float | None, *, is_query: bool
    ) -> Any:
        encoded = call(key, message)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(self, encoded, future, is_query)
        if self._recorder is not None:
            waiting.recording = self._recorder.invoke(key, message)
        session = self.session
        turns, number_it = (
            (self._queries, session.query) if is_query else (self._commands, session.command)
        )

        async def ask() -> Any:
            await turns.take(future)
            waiting.number = number_it(
                encoded.message_id, encoded.key, encoded.body, waiting, encoded.version
            )
            self._flush_soon()
            return await future

        try:
            return await self._within(waiting, ask(), deadline_s)
        finally:
            if is_query and waiting.number:
                session.forget_query(waiting.number)
                turns.give()

    async def resolve(
        self,
        request: "int | Unknown",
        key: Key | None = None,
        command: Command[Any] | None = None,
        *,
        deadline_s: float | None = None,
    ) -> Any:
        """Learn how a request ended that `ask` left Unknown: its reply, or what it failed with, raised.

        In the process that asked, the number is enough. After a resume give the key and the command again: if it
        was applied, its reply comes back; if it was not, it is applied now. Without them NotApplied is raised.
        """
        number = request.request if isinstance(request, Unknown) else request
        waiting = self._abandoned.pop(number, None)
        if waiting is None:
            return await self._resolve_earlier(number, key, command, deadline_s)
        waiting.future = asyncio.get_running_loop().create_future()

        async def wait() -> Any:
            if number in self._outcomes:
                self._landed(waiting, *self._outcomes.pop(number))
            return await waiting.future

        return await self._within(waiting, wait(), deadline_s)

    async def _resolve_earlier(
        self, number: int, key: Key | None, command: Command[Any] | None, deadline_s: float | None
    ) -> Any:
        try:
            return self._resolved(number, key, command)
        except NotApplied:
            if key is None or command is None:
                raise
        return await self.ask(key, command, deadline_s=deadline_s)

    async def _within(
        self, waiting: _Waiting, outcome: Awaitable[Any], deadline_s: float | None
    ) -> Any:
        """What comes of it in time, recorded. What has none yet is kept for `resolve`."""
        limit_s = self.deadline_s if deadline_s is None else deadline_s
        timer = asyncio.get_running_loop().call_later(limit_s, _time_out, waiting)
        try:
            reply = await outcome
        except BaseException as error:
            if waiting.recording is not None:
                waiting.recording.ended(error)
            raise
        else:
            if waiting.recording is not None:
                waiting.recording.answered(reply)
            return reply
        finally:
            timer.cancel()
            if not waiting.is_query and self.session.waiting_for(waiting.number, waiting):
                self.session.pin(waiting.number, waiting)
                self._abandoned[waiting.number] = waiting

    def _landed(
        self,
        waiting: _Waiting,
        reply: "frames.Reply | frames.Answer | None",
        error: Exception | None,
    ) -> None:
        """The outcome of a request: to who waits, or kept for `resolve`."""
        if waiting.future.done():
            if self._abandoned.get(waiting.number) is waiting:
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
        except (frames.ProtocolError, Unreadable, msgspec.MsgspecError) as wrong:
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
            self.session.streams.unsubscribe(subscription)
            self._flush_soon()

    def _next_event(self, subscription: Subscription) -> "frames.EventFrame | None":
        event = self.session.streams.next_event(subscription)
        if event is None:
            self._flush_soon()  # it may have asked for more
        return event

    # The connection

    async def _run(self) -> None:
        """Connect, and again whenever the connection ends, until closed or the session is over."""
        now_s = asyncio.get_running_loop().time
        while self.session.dead is None and not self._closing:
            address, pause_s = self._addresses.next(now_s())
            if pause_s:
                await asyncio.sleep(pause_s)
            link = _Link(self)
            try:
                why = await self._converse(link, address)
            except TimeoutError:
                link.timed_out = True
                why = "no answer in time"
            except OSError as error:
                why = reason_of(error)
            finally:
                self._link = None
                link.close()
                if self.session.connected_now:
                    self.session.disconnected()
            self._left(link, why)

    async def _converse(self, link: _Link, address: Address) -> str:
        """Use one connection until it ends; why it did."""
        self._pulse.several = self._addresses.several
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(ATTEMPT_S if self._addresses.several else self.connect_s):
            host = None if self._tls is None else address[0]
            await loop.create_connection(
                lambda: link, *address, ssl=self._tls, server_hostname=host
            )
            self._link = link
            self._pulse.began(loop.time())
            self._flush_soon()
            await link.greeted
        while not link.lost.done():
            why, ping, look_s = self._pulse.look(
                loop.time(),
                waiting=self.session.is_waiting,
                listening=len(self.session.streams) > 0,
            )
            if why:
                link.timed_out = True
                return why
            if ping and link.transport is not None and link.writable:
                link.transport.write(frames.ping(0))
            await asyncio.wait({link.lost}, timeout=look_s)
        return link.lost.result()

    def _left(self, link: _Link, why: str) -> None:
        """What the end of a connection says about its address."""
        if link.banned:
            self._addresses.ban(why)
            if self._addresses.none_left and self.session.dead is None:
                self.session.expire(
                    WrongCluster(f"No replica to talk to: {self._addresses.report()}")
                )
                self._opened.set()
                self._wake_room()
        elif link.hint is not None:
            self._addresses.redirected(link.hint)
        else:
            now_s = asyncio.get_running_loop().time()
            self._addresses.failed(why, now_s, timed_out=link.timed_out)

    def _received(self, link: _Link, received: "list[frames.Frame]") -> None:
        session, replies = self.session, self.session.replies
        self._pulse.heard(asyncio.get_running_loop().time())
        for frame in received:
            if isinstance(frame, frames.Welcome) and not session.connected_now:
                self._welcomed(link, frame)
            elif isinstance(frame, frames.Error):
                link.reason = frame.text
                if frame.code in FATAL_ERRORS:
                    link.banned = True
                    link.close()
            elif session.connected_now:
                session.receive(frame)
        if session.replies != replies:
            self._addresses.served()
            self._pulse.several = self._addresses.several
            self._pulse.answered()
        if session.opened or session.dead is not None:
            self._opened.set()
        if session.refusal is not None:
            self._refused(link, session.refusal)
        else:
            link.refusals = 0
        self._wake_room()
        self._flush_soon()

    def _welcomed(self, link: _Link, welcome: frames.Welcome) -> None:
        try:
            self.session.connected(welcome)
        except WrongCluster as error:
            link.banned = True
            link.leave(str(error))
        if not link.greeted.done():
            link.greeted.set_result(None)

    def _refused(self, link: _Link, refusal: frames.Refused) -> None:
        """Go to the leader, or to another replica, or ask again here in a while."""
        several = self._addresses.several
        if refusal.reason == NOT_LEADER and (several or refusal.hint):
            link.hint = refusal.hint
            link.leave(why(refusal))
        elif several and (refusal.reason == DRAINING or link.refusals >= NOT_READY_MAX):
            link.leave(why(refusal))
        elif not self._retrying:
            self._retrying = True
            link.refusals += 1
            pause_s = self._addresses.pause_s()
            asyncio.get_running_loop().call_later(pause_s, self._retry)

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


def _time_out(waiting: _Waiting) -> None:
    if waiting.future.done():
        return
    client = waiting.client
    overdue = client._overdue(waiting.number, waiting, is_query=waiting.is_query)  # pyright: ignore[reportPrivateUsage]
    waiting.future.set_exception(overdue)
