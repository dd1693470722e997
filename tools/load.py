"""Load for a replica of leftfold.actors.ledger: how many transfers a second, and how long one takes.

The frames are encoded before the clock starts and the replies are counted in C, so that the load costs little beside what
it measures; it still shares the machine's cores with the replica, and says nothing of an idle one. Sessions are closed
at the end. Figures are returned as plain dicts; printing and comparing them is left to the caller.
"""

import secrets
import select
import socket
import time
from typing import TYPE_CHECKING, Any

from attrs import define, field

from ..actors.ledger import Deposit, Transfer
from ..runtime import frames
from ..runtime._wire import ffi, lib
from ..runtime.blocking_client import BlockingClient
from ..runtime.calls import call
from ..runtime.errors import OperatorError

if TYPE_CHECKING:
    from ..runtime._wire import CData

LEDGER = "load"
ACCOUNTS = 1000
OPENING_CENTS = 10**9
BUFFER_BYTES = 512 * 1024
STALLED_S = 30.0


def prepare(host: str, port: int, accounts: int = ACCOUNTS) -> None:
    """Give every account money, so that no transfer is rejected."""
    with BlockingClient(host, port) as client:
        pairs = [(LEDGER, Deposit(_account(n), OPENING_CENTS)) for n in range(accounts)]
        for reply in client.ask_many(pairs):
            if isinstance(reply, Exception):
                raise OperatorError(f"The ledger refused to be prepared: {reply}.") from reply


def throughput(
    host: str,
    port: int,
    *,
    commands: int = 200_000,
    sessions: int = 8,
    window: int = 1024,
    accounts: int = ACCOUNTS,
) -> dict[str, Any]:
    """Send transfers from `sessions` connections, each with up to `window` in flight; the rate of replies."""
    prepare(host, port, accounts)
    each = commands // sessions
    prefix = secrets.token_bytes(8)
    highest = ffi.new("uint64_t[]", sessions)
    tally = ffi.new("struct wire_tally *", {"highest": highest, "sessions": sessions})
    lanes = [
        _Lane.connect(host, port, prefix + n.to_bytes(8, "little"), n) for n in range(sessions)
    ]
    try:
        for lane in lanes:
            lane.load(each, min(window, lane.window), accounts)
        started_ns = time.perf_counter_ns()
        _drive(lanes, tally, each)
        elapsed_s = (time.perf_counter_ns() - started_ns) / 1e9
    finally:
        for lane in lanes:
            lane.close()
    return {
        "commands": each * sessions,
        "sessions": sessions,
        "window": window,
        "failures": tally.failures,
        "refused": tally.refused,
        "elapsed_s": elapsed_s,
        "per_second": each * sessions / elapsed_s,
    }


def latency(
    host: str, port: int, *, commands: int = 5_000, warm_up: int = 200, accounts: int = ACCOUNTS
) -> dict[str, Any]:
    """Send transfers one at a time; the time from the send to the reply, in microseconds."""
    prepare(host, port, accounts)
    session = secrets.token_bytes(16)
    lane = _Lane.connect(host, port, session, 0)
    took_ns: list[int] = []
    try:
        lane.load(commands + warm_up, 1, accounts)
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


def _account(number: int) -> str:
    return f"account{number:06}"


@define(eq=False)
class _Lane:
    """One connection with one session: pre-encoded frames, and how far they were sent."""

    link: socket.socket
    session: bytes
    index: int
    window: int
    decoder: frames.Decoder = field(factory=frames.Decoder)
    commands: memoryview = field(default=memoryview(b""))
    frame_bytes: int = 0
    sent_bytes: int = 0
    received: "CData | None" = None
    view: memoryview = field(default=memoryview(b""))
    kept_bytes: int = 0

    @classmethod
    def connect(cls, host: str, port: int, session: bytes, index: int) -> "_Lane":
        """Connect, greet, and open the session."""
        connected = socket.create_connection((host, port), STALLED_S)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lane = cls(connected, session, index, 0)
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

    def load(self, count: int, window: int, accounts: int) -> None:
        """Encode all commands. Every one says that `window` are unanswered, which is never too few."""
        self.window = window
        encoded: list[bytes] = []
        for number in range(1, count + 1):
            source = (number * 7 + self.index) % accounts
            transfer = Transfer(_account(source), _account((source + 1) % accounts), 1)
            made = call(LEDGER, transfer)
            unanswered = min(number, window)
            encoded.append(
                frames.command(
                    made.message_id, self.session, number, unanswered, made.key, made.body
                )
            )
        self.frame_bytes = len(encoded[0])
        assert all(len(frame) == self.frame_bytes for frame in encoded)
        self.commands = memoryview(b"".join(encoded))
        buffer = bytearray(BUFFER_BYTES)
        self.view = memoryview(buffer)
        self.received = ffi.from_buffer("uint8_t[]", buffer, require_writable=True)

    def send(self, replied: int) -> bool:
        """Send what the window allows; True if the socket took all of it."""
        upto = min(len(self.commands), (replied + self.window) * self.frame_bytes)
        if upto == self.sent_bytes:
            return True
        try:
            self.sent_bytes += self.link.send(self.commands[self.sent_bytes : upto])
        except BlockingIOError:
            return False
        return self.sent_bytes == upto

    def receive(self, tally: "CData") -> None:
        """Count what has come."""
        assert self.received is not None
        got = self.link.recv_into(self.view[self.kept_bytes :])
        if not got:
            raise OperatorError("The replica closed the connection under load.")
        filled = self.kept_bytes + got
        consumed = lib.wire_tally_frames(tally, self.received, filled)
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


def _drive(lanes: list[_Lane], tally: "CData", each: int) -> None:
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
                raise OperatorError(f"No reply for {STALLED_S:.0f} s; {tally.replies} had come.")
            for fd, events in ready:
                lane = by_fd[fd]
                before = tally.highest[lane.index]
                if events & ~select.EPOLLOUT:
                    lane.receive(tally)
                replied = tally.highest[lane.index]
                left -= before < each == replied
                poller.modify(fd, select.EPOLLIN if lane.send(replied) else both)
    finally:
        poller.close()
