"""Load for a replica of leftfold.actors.ledger: how many transfers a second, and how long one takes.

The frames are encoded before the clock starts and the replies are counted in C, so that the load costs little beside what
it measures; it still shares the machine's cores with the replica, and says nothing of an idle one. The accounts are those of one
ledger, or an actor each. Sessions are closed at the end. Figures are returned as plain dicts; printing and comparing
them is left to the caller. Load at a given pace, whatever is answered, is paced.py's.
"""

import secrets
import select
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen

from ..actors.ledger import Deposit, Pay, PayIn, Transfer
from ..runtime import frames
from ..runtime._wire import ffi, lib
from ..runtime.calls import Call, call
from ..runtime.errors import OperatorError
from .outgoing import STALLED_S, Outgoing, dialled

if TYPE_CHECKING:
    from ..runtime._wire import CData

LEDGER = "load"
ACCOUNTS = 1000
WINDOW = 1024
SCATTER = 7
OPENING_CENTS = 10**9
BUFFER_BYTES = 512 * 1024


@frozen
class Shape:
    """Where the accounts are: how one is opened, and how money goes from one to another."""

    name: str
    opening: Callable[[int], Call]
    transfer: Callable[[int, int], Call]
    """From the account with the first number to the one with the second."""


def opening_cents(number: int) -> int:
    """What an account is given: each something else, as in life, and all of one length."""
    return OPENING_CENTS + number * 7_919 % 1_000_003


def account(number: int) -> str:
    """The name of an account; all are of one length."""
    return f"account{number:06}"


ONE_LEDGER = Shape(
    "one ledger",
    lambda number: call(LEDGER, Deposit(account(number), opening_cents(number))),
    lambda source, target: call(LEDGER, Transfer(account(source), account(target), 1)),
)
AN_ACTOR_EACH = Shape(
    "an actor each",
    lambda number: call(account(number), PayIn(opening_cents(number))),
    lambda source, target: call(account(source), Pay(account(target), 1)),
)


def prepare(
    host: str, port: int, accounts: int = ACCOUNTS, shape: Shape = ONE_LEDGER, sessions: int = 8
) -> None:
    """Give every account money, so that no transfer is rejected."""

    def openings(lane: Lane) -> Iterable[Call]:
        return map(shape.opening, range(lane.index, accounts, sessions))

    found = _closed_loop(host, port, sessions, openings, WINDOW)
    if found["failures"] or found["refused"]:
        raise OperatorError(f"The ledger refused to be prepared: {found}.")


def throughput(
    host: str,
    port: int,
    *,
    commands: int = 200_000,
    sessions: int = 8,
    window: int = WINDOW,
    accounts: int = ACCOUNTS,
    shape: Shape = ONE_LEDGER,
    prepared: bool = False,
) -> dict[str, Any]:
    """Send transfers from `sessions` connections, each with up to `window` in flight; the rate of replies."""
    if not prepared:
        prepare(host, port, accounts, shape)
    each = commands // sessions
    found = _closed_loop(
        host, port, sessions, lambda lane: transfers(shape, lane.index, each, accounts), window
    )
    return {"commands": each * sessions, "sessions": sessions, "window": window} | found


def transfers(shape: Shape, lane: int, count: int, accounts: int) -> Iterable[Call]:
    """Between neighbours, all over the accounts."""
    for number in range(1, count + 1):
        source = (number * SCATTER + lane) % accounts
        yield shape.transfer(source, (source + 1) % accounts)


def _closed_loop(
    host: str, port: int, sessions: int, made: "Callable[[Lane], Iterable[Call]]", window: int
) -> dict[str, Any]:
    """Send everything, with up to `window` of each session in flight."""
    lanes, replies = connect_lanes(host, port, sessions)
    try:
        for lane in lanes:
            lane.load(made(lane), min(window, lane.window))
        started_ns = time.perf_counter_ns()
        _drive(lanes, replies)
        elapsed_s = (time.perf_counter_ns() - started_ns) / 1e9
    finally:
        for lane in lanes:
            lane.close()
    return {
        "failures": replies.tally.failures,
        "refused": replies.tally.refused,
        "elapsed_s": elapsed_s,
        "per_second": sum(lane.count for lane in lanes) / elapsed_s,
    }


@define(eq=False)
class Replies:
    """What has been replied, by session."""

    sessions: int
    highest: "CData" = field(init=False)
    tally: "CData" = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.highest = ffi.new("uint64_t[]", self.sessions)
        given = {"highest": self.highest, "sessions": self.sessions}
        self.tally = ffi.new("struct wire_tally *", given)


def connect_lanes(host: str, port: int, sessions: int) -> "tuple[list[Lane], Replies]":
    """So many connections, and what counts their replies."""
    prefix = secrets.token_bytes(8)
    names = [prefix + number.to_bytes(8, "little") for number in range(sessions)]
    return [Lane.connect(host, port, name, at) for at, name in enumerate(names)], Replies(sessions)


def latency(
    host: str,
    port: int,
    *,
    commands: int = 5_000,
    warm_up: int = 200,
    accounts: int = ACCOUNTS,
    prepared: bool = False,
) -> dict[str, Any]:
    """Send transfers one at a time; the time from the send to the reply, in microseconds."""
    if not prepared:
        prepare(host, port, accounts)
    session = secrets.token_bytes(16)
    lane = Lane.connect(host, port, session, 0)
    took_ns: list[int] = []
    try:
        lane.load(transfers(ONE_LEDGER, 0, commands + warm_up, accounts), 1)
        lane.link.setblocking(True)
        lane.link.settimeout(STALLED_S)
        for number in range(commands + warm_up):
            frame = lane.commands[number * lane.frame_bytes : (number + 1) * lane.frame_bytes]
            started_ns = time.perf_counter_ns()
            lane.link.send(frame)
            lane.receive_reply(number + 1)
            took_ns.append(time.perf_counter_ns() - started_ns)
    finally:
        lane.close()
    measured = sorted(took_ns[warm_up:])

    def percentile_us(percent: float) -> float:
        return measured[min(len(measured) - 1, int(len(measured) * percent / 100))] / 1e3

    return {
        "commands": commands,
        "p50_us": percentile_us(50),
        "p99_us": percentile_us(99),
        "p999_us": percentile_us(99.9),
        "max_us": measured[-1] / 1e3,
        "mean_us": sum(measured) / len(measured) / 1e3,
    }


@define(eq=False)
class Lane(Outgoing):
    """One connection with one session."""

    session: bytes
    decoder: frames.Decoder = field(factory=frames.Decoder, init=False)
    received: "CData | None" = field(default=None, init=False)
    view: memoryview = field(default=memoryview(b""), init=False)
    kept_bytes: int = field(default=0, init=False)

    @classmethod
    def connect(cls, host: str, port: int, session: bytes, index: int) -> "Lane":
        """Connect, greet, and open the session."""
        connected = dialled(host, port)
        lane = cls(connected, index, 0, session)
        connected.sendall(frames.hello())
        welcome = lane.next_frame()
        if not isinstance(welcome, frames.Welcome):
            raise OperatorError(f"{host}:{port} is no leftfold that takes clients: {welcome}.")
        lane.window = welcome.window
        connected.sendall(frames.open_session(session))
        opened = lane.next_frame()
        if not isinstance(opened, frames.Reply) or opened.status:
            raise OperatorError(f"The cluster opens no session: {opened}.")
        return lane

    def next_frame(self) -> "frames.Frame":
        """Wait for one frame."""
        while True:
            data = self.link.recv(65536)
            if not data:
                raise OperatorError("The replica closed the connection.")
            found = self.decoder.receive(data)
            if found:
                return found[0]

    def load(self, made: Iterable[Call], window: int) -> None:
        """Encode all commands. Every one says that `window` are unanswered, which is never too few."""
        self.window = window
        encoded = [
            frames.command(
                one.message_id, self.session, number, min(number, window), one.key, one.body
            )
            for number, one in enumerate(made, 1)
        ]
        self.count = len(encoded)
        self.frame_bytes = len(encoded[0])
        assert all(len(frame) == self.frame_bytes for frame in encoded)
        self.commands = memoryview(b"".join(encoded))
        buffer = bytearray(BUFFER_BYTES)
        self.view = memoryview(buffer)
        self.received = ffi.from_buffer("uint8_t[]", buffer, require_writable=True)

    def send(self, replied: int) -> bool:
        """Send what the window allows; True if the socket took all of it."""
        return self.send_upto(min(self.count, replied + self.window))

    def receive(self, replies: Replies) -> None:
        """Count what has come."""
        assert self.received is not None
        got = self.link.recv_into(self.view[self.kept_bytes :])
        if not got:
            raise OperatorError("The replica closed the connection under load.")
        filled = self.kept_bytes + got
        consumed = lib.wire_tally_frames(replies.tally, self.received, filled)
        if consumed < 0:
            raise OperatorError("The replica sent what is no frame.")
        self.kept_bytes = filled - consumed
        if consumed and self.kept_bytes:
            self.view[: self.kept_bytes] = bytes(self.view[consumed:filled])

    def receive_reply(self, number: int) -> None:
        """Wait for the reply to this request."""
        reply = self.next_frame()
        if not isinstance(reply, frames.Reply) or reply.request != number or reply.status:
            raise OperatorError(f"The cluster answered a transfer with {reply}.")

    def close(self) -> None:
        """Close the session and the connection."""
        try:
            self.link.setblocking(True)
            self.link.settimeout(1.0)
            self.link.send(frames.close_session(self.session))
        except OSError:
            pass  # the session expires by itself
        self.link.close()


def _drive(lanes: list[Lane], replies: Replies) -> None:
    """Keep every lane's window full until the last reply."""
    poller = select.epoll()
    by_fd = {lane.link.fileno(): lane for lane in lanes}
    both = select.EPOLLIN | select.EPOLLOUT
    try:
        for lane in lanes:
            lane.link.setblocking(False)
            full = not lane.send(0)
            poller.register(lane.link, both if full else select.EPOLLIN)
        left = len(lanes)
        while left:
            ready = poller.poll(STALLED_S)
            if not ready:
                raise OperatorError(
                    f"No reply for {STALLED_S:.0f} s; {replies.tally.replies} had come."
                )
            for fd, events in ready:
                lane = by_fd[fd]
                before = replies.highest[lane.index]
                if events & ~select.EPOLLOUT:
                    lane.receive(replies)
                replied = replies.highest[lane.index]
                left -= before < lane.count == replied
                poller.modify(fd, select.EPOLLIN if lane.send(replied) else both)
    finally:
        poller.close()
