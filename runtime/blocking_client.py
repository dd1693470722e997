"""The blocking client: the same surface as client.py on one socket, without an event loop or a thread.

    with BlockingClient("127.0.0.1", 7700) as client:
        balance = client.ask("alice", Deposit("alice", 100))
        replies = client.ask_many((name, Deposit(name, 1)) for name in names)

`ask_many` fills the window, so it is as fast as many tasks. The connection is looked after only inside calls: after a
long silence the gateway may have closed it, and the next call connects again. One thread at a time.
"""

import select
import socket
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

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
from .session import Session

Reply = TypeVar("Reply")

RECEIVE_BYTES = 256 * 1024
PING_S = 15.0
SILENCE_S = 60.0
UNRESOLVED_MAX = 4096


@define(eq=False)
class _Asked:
    """One request of ours, and its outcome once there is one."""

    call: Call
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


@define(eq=False)
class BlockingClient:
    """One session with a cluster; see the file's text."""

    host: str = "127.0.0.1"
    port: int = 7700
    others: tuple[tuple[str, int], ...] = ()
    session: Session = field(factory=Session, kw_only=True)
    deadline_s: float = field(default=DEADLINE_S, kw_only=True)
    connect_s: float = field(default=CONNECT_S, kw_only=True)
    keep: bool = field(default=False, kw_only=True)
    """Leave the session open in the cluster when the client is closed, to resume it later."""
    _socket: socket.socket | None = field(default=None, init=False)
    _poll: "select.poll | None" = field(default=None, init=False)
    _decoder: frames.Decoder = field(factory=frames.Decoder, init=False)
    _unsent: bytes = field(default=b"", init=False)
    _back_off_s: float = field(default=BACK_OFF_S[0], init=False)
    _next_address: int = field(default=0, init=False)
    _heard_s: float = field(default=0.0, init=False)
    _unresolved: dict[int, _Asked] = field(factory=dict[int, _Asked], init=False)
    _why: str = field(default="", init=False)

    @classmethod
    def resume(
        cls, host: str, port: int, session_id: bytes, *, answered: int = 0, **options: Any
    ) -> "BlockingClient":
        """Go on with a session of an earlier process; see Client.resume."""
        return cls(host, port, session=Session(session_id, answered_before=answered), **options)

    @property
    def session_id(self) -> bytes:
        """Keep it, to resume the session later."""
        return self.session.id

    @property
    def last_request(self) -> int:
        """The highest request number in use; after a resume, the last that was applied."""
        return self.session.last_request

    def __enter__(self) -> Self:
        deadline = time.monotonic() + self.connect_s
        try:
            while not self.session.opened:
                self._check_alive()
                if not self._pump(deadline):
                    raise Disconnected(
                        f"No leftfold answers at {self.host}:{self.port}: {self._why}"
                    )
        except BaseException:
            self._drop("")
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
            self._drop("")
        if self.session.dead is None:
            self.session.expire(Disconnected("the client was closed"))

    # Asking

    def ask(self, key: Key, command: Command[Reply], *, deadline_s: float | None = None) -> Reply:
        """Have the actor with this key handle the command, once; return its reply."""
        deadline = self._deadline(deadline_s)
        asked = self._send_command(call(key, command), deadline)
        self._await(asked, deadline)
        return asked.result()

    def ask_many(
        self,
        pairs: Iterable[tuple[Key, Command[Reply]]],
        *,
        deadline_s: float | None = None,
    ) -> list[Reply | Exception]:
        """Ask them all, pipelined; the replies in order, an exception in place of a reply that failed."""
        deadline = self._deadline(deadline_s)
        asked: list[_Asked] = []
        for key, command in pairs:
            asked.append(self._send_command(call(key, command), deadline))
        replies: list[Reply | Exception] = []
        for one in asked:
            try:
                self._await(one, deadline)
                replies.append(one.result())
            except Exception as error:  # noqa: BLE001 - each outcome is the caller's to look at
                replies.append(error)
        return replies

    def query(self, key: Key, query: Command[Reply], *, deadline_s: float | None = None) -> Reply:
        """Have the actor answer from its state, which includes all that was acknowledged before."""
        deadline = self._deadline(deadline_s)
        self._check_alive()
        asked = _Asked(call(key, query))
        number = self.session.query(asked.call.message_id, asked.call.key, asked.call.body, asked)
        while not asked.done:
            if not self._pump(deadline):
                self.session.forget_query(number)
                raise TimedOut("the query was not answered in time")
        return asked.result()

    def resolve(
        self,
        request: int,
        key: Key | None = None,
        command: Command[Any] | None = None,
        *,
        deadline_s: float | None = None,
    ) -> Any:
        """Learn how a request ended that was left Unknown; see Client.resolve."""
        deadline = self._deadline(deadline_s)
        asked = self._unresolved.pop(request, None)
        if asked is None:
            if key is None or command is None:
                raise ValueError(f"request {request} is not one that this client left unknown")
            encoded = call(key, command)
            asked = _Asked(encoded, request)
            self.session.ask_again(request, encoded.message_id, encoded.key, encoded.body, asked)
        self._await(asked, deadline)
        return asked.result()

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
        subscription = self.session.subscribe(wanted.actor_type, wanted.key, after, lambda: None)
        try:
            while True:
                deadline = time.monotonic() + (1e9 if silence_s is None else silence_s)
                event = self.session.next_event(subscription)
                while event is None:
                    if not self._pump(deadline):
                        return
                    event = self.session.next_event(subscription)
                yield wanted.event(event)
        finally:
            self.session.unsubscribe(subscription)

    def _deadline(self, given_s: float | None) -> float:
        return time.monotonic() + (self.deadline_s if given_s is None else given_s)

    def _check_alive(self) -> None:
        if self.session.dead is not None:
            raise self.session.dead

    def _send_command(self, encoded: Call, deadline: float) -> _Asked:
        asked = _Asked(encoded)
        while self.session.room <= 0:
            self._check_alive()
            if not self._pump(deadline):
                raise Disconnected("no room in the window came in time: the command was not sent")
        asked.number = self.session.command(encoded.message_id, encoded.key, encoded.body, asked)
        return asked

    def _await(self, asked: _Asked, deadline: float) -> None:
        while not asked.done:
            if not self._pump(deadline):
                waiting = self.session.waiting_for(asked.number)
                self._unresolved[asked.number] = asked
                if len(self._unresolved) > UNRESOLVED_MAX:
                    del self._unresolved[next(iter(self._unresolved))]
                raise Unknown(asked.number, waiting.why if waiting else "")

    # The connection

    def _pump(self, deadline: float) -> bool:
        """Send what there is, wait for something to come, take it. False when the time is over."""
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return False
        try:
            if self._socket is None:
                self._connect(min(left_s, self.connect_s))
            if self.session.held:
                self._pause(left_s)
                self.session.retry()
            self._exchange(left_s)
        except OSError as error:
            self._drop(str(error) or "no answer in time")
            self._pause(deadline - time.monotonic())
        return True

    def _connect(self, timeout_s: float) -> None:
        addresses = [(self.host, self.port), *self.others]
        address = addresses[self._next_address % len(addresses)]
        self._next_address += 1
        self._socket = socket.create_connection(address, timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._decoder = frames.Decoder()
        self._unsent = frames.hello(self.session.cluster_id)
        self._why = ""
        self._heard_s = time.monotonic()

    def _exchange(self, timeout_s: float) -> None:
        assert self._socket is not None and self._poll is not None
        if not self._unsent:
            self._unsent = self.session.outgoing()
        if self._unsent:
            try:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
            except BlockingIOError:
                pass
        wanted = select.POLLIN | (select.POLLOUT if self._unsent else 0)
        self._poll.modify(self._socket, wanted)
        ready = self._poll.poll(min(timeout_s, PING_S) * 1000)
        for _, events in ready:
            if events & ~select.POLLOUT:
                self._receive(self._socket)
        if not ready and timeout_s > PING_S and not self._unsent:
            if time.monotonic() - self._heard_s > SILENCE_S:
                raise OSError("the gateway is silent")
            self._unsent = frames.ping(0)

    def _receive(self, connected: socket.socket) -> None:
        data = connected.recv(RECEIVE_BYTES)
        self._heard_s = time.monotonic()
        if not data:
            raise OSError(self._why or "the connection was closed")
        try:
            received = self._decoder.receive(data)
        except frames.ProtocolError as error:
            raise OSError(str(error)) from error
        for frame in received:
            if isinstance(frame, frames.Welcome):
                self.session.connected(frame)
                self._back_off_s = BACK_OFF_S[0]
            elif isinstance(frame, frames.Error):
                self._why = frame.text
                if frame.code in FATAL_ERRORS:
                    self.session.expire(Disconnected(frame.text))
            else:
                self.session.receive(frame)

    def _pause(self, left_s: float) -> None:
        time.sleep(max(0.0, min(self._back_off_s, left_s)))
        self._back_off_s = min(self._back_off_s * 2, BACK_OFF_S[1])

    def _drop(self, why: str) -> None:
        self._why = why or self._why
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._unsent = b""
        if self.session.connected_now:
            self.session.disconnected()
