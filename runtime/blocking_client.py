"""The blocking client: the same surface as client.py on one socket, without an event loop or a thread.

    with BlockingClient.connect("127.0.0.2:7700,127.0.0.3:7700") as client:
        balance = client.ask("alice", Deposit("alice", 100))
        replies = client.ask_many((name, Deposit(name, 1)) for name in names)

`ask_many` fills the window, so it is as fast as many tasks. The connection is looked after only inside calls: after a
long silence the gateway may have closed it, and the next call connects again. One thread at a time.
"""

import select
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

from attrs import define, field

from ..actors.app import Key
from ..actors.message import Command
from . import frames
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
from .failures import Disconnected, NotApplied, Unknown, WrongCluster
from .frames import BEFORE_ALL, Position
from .recorder import Recording
from .session import DRAINING, NOT_LEADER, why

Reply = TypeVar("Reply")

RECEIVE_BYTES = 256 * 1024
NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
UNRESOLVED_MAX = 4096


@define(eq=False)
class _Asked:
    """One request of ours, and its outcome once there is one."""

    call: Call
    is_query: bool = False
    recording: Recording | None = None
    number: int = 0
    reply: "frames.Reply | frames.Answer | None" = None
    error: Exception | None = None
    done: bool = False

    def __call__(
        self, reply: "frames.Reply | frames.Answer | None", error: Exception | None
    ) -> None:
        self.reply, self.error, self.done = reply, error, True

    def result(self) -> Any:
        """The reply object, or the error raised."""
        if self.error is not None:
            raise self.error
        assert self.reply is not None
        return self.call.decode(self.reply)


class _Left(OSError):
    """The connection is of no more use, or there is none."""

    def __init__(self, reason: str, *, timed_out: bool = False) -> None:
        super().__init__(reason)
        self.timed_out = timed_out


class _Redirected(_Left):
    """It is not the leader; `hint`, if not empty, is."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.hint = hint


class _Banned(_Left):
    """Connecting to this address can never help."""


@define(eq=False)
class BlockingClient(Correspondent):
    """One session with a cluster; see the file's text."""

    _socket: socket.socket | None = field(default=None, init=False)
    _poll: "select.poll | None" = field(default=None, init=False)
    _decoder: frames.Decoder = field(factory=frames.Decoder, init=False)
    _greet_by_s: float | None = field(default=None, init=False)
    """Until when the gateway may take to greet; None when it has."""
    _unsent: bytes = field(default=b"", init=False)
    _refusals: int = field(default=0, init=False)
    _pumped_s: float = field(default=0.0, init=False)
    _unresolved: dict[int, _Asked] = field(factory=dict[int, _Asked], init=False)

    def __enter__(self) -> Self:
        self._begin_recording()
        deadline = time.monotonic() + self.connect_s
        try:
            while not self.session.opened:
                self._check_alive()
                if not self._pump(deadline):
                    raise self._unopened()
        except BaseException:
            self._drop()
            self._stop_recording()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, and the session with it, unless it is kept or left something unknown."""
        if self._socket is not None:
            if (
                not self.keep
                and self.session.is_settled
                and not self._unresolved
                and not self._unsent
            ):
                try:
                    self._socket.send(frames.close_session(self.session.id))
                except OSError:
                    pass  # it expires by itself
            self._drop()
        if self.session.dead is None:
            self.session.expire(Disconnected("the client was closed"))
        self._stop_recording()

    # Asking

    def ask(self, key: Key, command: Command[Reply], *, deadline_s: float | None = None) -> Reply:
        """Have the actor with this key handle the command, once; return its reply."""
        return self._ask(key, command, deadline_s)

    def ask_many(
        self,
        pairs: Iterable[tuple[Key, Command[Reply]]],
        *,
        deadline_s: float | None = None,
    ) -> list[Reply | Exception]:
        """Ask them all, pipelined; the replies in order, an exception in place of a reply that failed."""
        deadline = self._deadline(deadline_s)
        asked = [self._send(key, command, deadline) for key, command in pairs]
        replies: list[Reply | Exception] = []
        for one in asked:
            try:
                replies.append(self._outcome(one, deadline))
            except Exception as error:  # noqa: BLE001 - each outcome is the caller's to look at
                replies.append(error)
        return replies

    def query(self, key: Key, query: Command[Reply], *, deadline_s: float | None = None) -> Reply:
        """Have the actor answer from its state, which includes all that was acknowledged before."""
        return self._ask(key, query, deadline_s, is_query=True)

    def _ask(
        self,
        key: Key,
        message: Command[Any],
        deadline_s: float | None,
        *,
        is_query: bool = False,
    ) -> Any:
        deadline = self._deadline(deadline_s)
        asked = self._send(key, message, deadline, is_query=is_query)
        return self._outcome(asked, deadline)

    def resolve(
        self,
        request: "int | Unknown",
        key: Key | None = None,
        command: Command[Any] | None = None,
        *,
        deadline_s: float | None = None,
    ) -> Any:
        """Learn how a request ended that was left Unknown; see Client.resolve."""
        number = request.request if isinstance(request, Unknown) else request
        asked = self._unresolved.pop(number, None)
        if asked is not None:
            return self._outcome(asked, self._deadline(deadline_s))
        try:
            return self._resolved(number, key, command)
        except NotApplied:
            if key is None or command is None:
                raise
        return self.ask(key, command, deadline_s=deadline_s)

    def events(
        self,
        *,
        actor: type | None = None,
        key: Key | None = None,
        after: Position | None = BEFORE_ALL,
        silence_s: float | None = None,
    ) -> Iterator[Event]:
        """Iterate over events, from behind a position on (None: from now on); end after a silence."""
        wanted = EventFilter.of(actor, key)
        streams = self.session.streams
        subscription = self.session.subscribe(wanted.actor_type, wanted.key, after, lambda: None)
        try:
            while True:
                deadline = time.monotonic() + (1e9 if silence_s is None else silence_s)
                event = streams.next_event(subscription)
                while event is None:
                    if not self._pump(deadline):
                        return
                    event = streams.next_event(subscription)
                yield wanted.event(event)
        finally:
            streams.unsubscribe(subscription)

    def _deadline(self, given_s: float | None) -> float:
        return time.monotonic() + (self.deadline_s if given_s is None else given_s)

    def _check_alive(self) -> None:
        if self.session.dead is not None:
            raise self.session.dead

    def _send(
        self, key: Key, message: Command[Any], deadline: float, *, is_query: bool = False
    ) -> _Asked:
        """Number it and have it sent as soon as there is room; an error is kept as its outcome."""
        asked = _Asked(call(key, message), is_query)
        if self._recorder is not None:
            asked.recording = self._recorder.invoke(key, message)
        session = self.session
        number_it: Callable[..., int] = session.query if is_query else session.command
        try:
            while (session.query_room if is_query else session.room) <= 0:
                self._check_alive()
                if not self._pump(deadline):
                    raise self._overdue(0, asked, is_query=is_query)
            encoded = asked.call
            asked.number = number_it(
                encoded.message_id, encoded.key, encoded.body, asked, encoded.version
            )
        except Exception as error:  # noqa: BLE001 - raised where the outcome is asked for
            asked(None, error)
        return asked

    def _outcome(self, asked: _Asked, deadline: float) -> Any:
        """The reply, or what went wrong raised; recorded."""
        try:
            self._await(asked, deadline)
            reply = asked.result()
        except BaseException as error:
            if asked.recording is not None:
                asked.recording.ended(error)
            raise
        if asked.recording is not None:
            asked.recording.answered(reply)
        return reply

    def _await(self, asked: _Asked, deadline: float) -> None:
        try:
            while not asked.done:
                if not self._pump(deadline):
                    raise self._overdue(asked.number, asked, is_query=asked.is_query)
        finally:
            if not asked.done and asked.is_query:
                self.session.forget_query(asked.number)
            elif not asked.done:
                self.session.pin(asked.number, asked)
                self._unresolved[asked.number] = asked
                if len(self._unresolved) > UNRESOLVED_MAX:
                    del self._unresolved[next(iter(self._unresolved))]

    # The connection

    def _pump(self, deadline: float) -> bool:
        """Send what there is, wait for something to come, take it. False when the time is over."""
        now_s = time.monotonic()
        if deadline <= now_s:
            return False
        if now_s - self._pumped_s > self.patience_s / 3:
            self._pulse.began(now_s)  # nobody looked: that is no silence of the gateway's
        try:
            if self._socket is None:
                self._check_alive()
                if not self._connect(deadline):
                    return False
            if self.session.refusal is not None:
                self._refused(self.session.refusal, deadline)
            self._exchange(deadline - time.monotonic())
        except OSError as error:
            self._drop()
            self._left(error)
        self._pumped_s = time.monotonic()
        return True

    def _connect(self, deadline: float) -> bool:
        """Connect to the address whose turn it is, after its pause. False when that takes all the time there is."""
        address, pause_s = self._addresses.next(time.monotonic())
        time.sleep(max(0.0, min(pause_s, deadline - time.monotonic())))
        attempt_s = ATTEMPT_S if self._addresses.several else self.connect_s
        left_s = min(attempt_s, deadline - time.monotonic())
        if left_s <= 0:
            return False
        self._socket = socket.create_connection(address, left_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            self._socket = self._tls.wrap_socket(self._socket, server_hostname=address[0])
        self._socket.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._decoder = frames.Decoder()
        self._unsent = frames.hello(self.session.cluster_id, self.token)
        self._refusals = 0
        now_s = time.monotonic()
        self._greet_by_s = now_s + attempt_s
        self._pulse.several = self._addresses.several
        self._pulse.began(now_s)
        return True

    def _exchange(self, left_s: float) -> None:
        assert self._socket is not None and self._poll is not None
        if not self._unsent:
            self._unsent = self.session.outgoing()
        if self._unsent:
            try:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
            except NOT_YET:
                pass
        wanted = select.POLLIN | (select.POLLOUT if self._unsent else 0)
        self._poll.modify(self._socket, wanted)
        ready = self._poll.poll(max(0.0, min(left_s, self._look())) * 1000)
        for _, events in ready:
            if events & ~select.POLLOUT:
                self._receive(self._socket)
                while isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
                    self._receive(self._socket)  # What TLS holds, poll does not see.

    def _look(self) -> float:
        """How long to wait for something to come, if the connection is worth waiting on."""
        now_s = time.monotonic()
        if self._greet_by_s is not None:
            if now_s >= self._greet_by_s:
                raise _Left("no answer in time", timed_out=True)
            return self._greet_by_s - now_s
        why, ping, look_s = self._pulse.look(
            now_s, waiting=self.session.is_waiting, listening=len(self.session.streams) > 0
        )
        if why:
            raise _Left(why, timed_out=True)
        if ping and not self._unsent:
            self._unsent = frames.ping(0)
            return 0.0
        return look_s

    def _receive(self, connected: socket.socket) -> None:
        session, replies = self.session, self.session.replies
        try:
            data = connected.recv(RECEIVE_BYTES)
        except NOT_YET:
            return  # A record of TLS is not whole yet.
        self._pulse.heard(time.monotonic())
        if not data:
            raise _Left("the connection was closed")
        try:
            received = self._decoder.receive(data)
        except frames.ProtocolError as error:
            raise _Left(str(error)) from error
        for frame in received:
            if isinstance(frame, frames.Welcome) and not session.connected_now:
                self._greet_by_s = None
                try:
                    session.connected(frame)
                except WrongCluster as error:
                    raise _Banned(str(error)) from error
            elif isinstance(frame, frames.Error):
                raise (_Banned if frame.code in FATAL_ERRORS else _Left)(frame.text)
            elif session.connected_now:
                session.receive(frame)
        if session.replies != replies:
            self._addresses.served()
            self._pulse.several = self._addresses.several
            self._pulse.answered()
            self._refusals = 0

    def _refused(self, refusal: frames.Refused, deadline: float) -> None:
        """Go to the leader, or to another replica, or ask again here after a while."""
        several = self._addresses.several
        if refusal.reason == NOT_LEADER and (several or refusal.hint):
            raise _Redirected(why(refusal), refusal.hint)
        if several and (refusal.reason == DRAINING or self._refusals >= NOT_READY_MAX):
            raise _Left(why(refusal))
        self._refusals += 1
        time.sleep(max(0.0, min(self._addresses.pause_s(), deadline - time.monotonic())))
        self.session.retry()

    def _left(self, error: OSError) -> None:
        """What the end of a connection says about its address."""
        reason = reason_of(error)
        if isinstance(error, _Redirected):
            self._addresses.redirected(error.hint)
        elif isinstance(error, _Banned):
            self._addresses.ban(reason)
            if self._addresses.none_left:
                self.session.expire(
                    WrongCluster(f"No replica to talk to: {self._addresses.report()}")
                )
        else:
            timed_out = isinstance(error, TimeoutError) or (
                isinstance(error, _Left) and error.timed_out
            )
            self._addresses.failed(reason, time.monotonic(), timed_out=timed_out)

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._unsent = b""
        self._greet_by_s = None
        if self.session.connected_now:
            self.session.disconnected()
