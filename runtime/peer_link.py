"""One connection between two replicas: its socket, what came and was not taken yet, what waits to go out.

    DIALING    the socket connects
    GREETING   connected; no greeting of the other side was accepted yet (TLS shakes hands in here)
    OPEN       both greetings were accepted
    CLOSING    why it is closed goes out; what still comes is thrown away

Bounded: the input holds one frame of the greatest length and one read behind it, the queue what `post` allows; when there is
no room, `post` says so and the message is gone (Raft sends again). What the bytes mean, and when a link ends, is in peers.py.
"""

import socket
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING

from attrs import define, field

from .descriptors import IN, OUT
from .peer_hello import Hello
from .tls import Stream

if TYPE_CHECKING:
    from ._wire import CData

WIRE_BYTES = 256 * 1024
"""What is taken from the queue, and encrypted, at a time."""


class State(Enum):
    """See the head of this file."""

    DIALING = 1
    GREETING = 2
    OPEN = 3
    CLOSING = 4


class LinkLost(Exception):
    """The connection is gone; the text is a clause about the other side: 'it …'."""


@define(eq=False)
class Link:
    """See the head of this file."""

    sock: socket.socket
    stream: Stream
    state: State
    kind: int
    """RAFT_LINK or BULK_LINK; 0 until a caller has said."""
    peer: int
    """The replica that was dialled, or that the caller has proved to be; 0 until then."""
    where: str
    """The address that was dialled, or the host that called."""
    since_ns: int
    dialled: bool
    hello: Hello | None = field(default=None, init=False)
    heard_ns: int = field(default=0, init=False)
    said_ns: int = field(default=0, init=False)
    paused: bool = field(default=False, init=False)
    """Nothing is read, since there is no room for what came."""
    missing_bytes: int = field(default=0, init=False)
    """What the message that waits needs."""
    alive_frames: int = field(default=0, init=False)
    dropped_in_a_row: int = field(default=0, init=False)
    input: bytearray = field(factory=bytearray, init=False)
    events: int = field(default=0, init=False)
    carrier: "CData | None" = field(default=None, init=False)
    """C reads this link, and sends on it what needs no queue: carriers.py."""
    queued_bytes: int = field(default=0, init=False)
    _queue: deque[bytes] = field(factory=deque[bytes], init=False)
    _wire: bytes = field(default=b"", init=False)
    _sent: int = field(default=0, init=False)

    @property
    def last_heard_ns(self) -> int:
        """When something came last, whoever read it."""
        return max(self.heard_ns, self.carrier.heard_ns) if self.carrier else self.heard_ns

    @property
    def last_said_ns(self) -> int:
        """When something was given to it to send last."""
        return max(self.said_ns, self.carrier.said_ns) if self.carrier else self.said_ns

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self.sock.fileno()

    def post(self, frame: bytes, queued_bytes_max: int, now_ns: int) -> bool:
        """Queue a padded frame, or say that there is no room for it."""
        if self.queued_bytes + len(frame) > queued_bytes_max:
            return False
        self._queue.append(frame)
        self.queued_bytes += len(frame)
        self.said_ns = now_ns
        return True

    def resend(self, rest: bytes) -> None:
        """The rest of a frame that the socket did not take: it goes before all others."""
        assert self._sent == len(self._wire), "somebody sent while another had begun a frame"
        self._wire, self._sent = rest, 0

    def receive(self, bytes_max: int) -> int:
        """Read once into `input`; the bytes that came. Raises LinkLost, and StreamBroken of the stream."""
        try:
            data = self.sock.recv(bytes_max)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise LinkLost(f"it broke the connection ({error.strerror})") from error
        if not data:
            where = " in the middle of a frame" if self.input else ""
            raise LinkLost(f"it closed the connection{where}")
        if self.state is not State.CLOSING:
            self.input += self.stream.receive(data)
        return len(data)

    def flush(self) -> bool:
        """Send what the socket takes; whether all of it went. Raises LinkLost."""
        while True:
            if self._sent == len(self._wire):
                self._fill()
                if not self._wire:
                    return True
            try:
                with memoryview(self._wire) as rest:
                    self._sent += self.sock.send(rest[self._sent :])
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                raise LinkLost(f"it broke the connection ({error.strerror})") from error

    def _fill(self) -> None:
        if self.stream.ready:
            taken: list[bytes] = []
            size = 0
            while self._queue and size < WIRE_BYTES:
                taken.append(self._queue.popleft())
                size += len(taken[-1])
            self.queued_bytes -= size
            if taken:
                self.stream.send(b"".join(taken))
        self._wire, self._sent = self.stream.outgoing(), 0

    def wanted_events(self, *, flushed: bool) -> int:
        """What the socket is to be watched for."""
        if self.state is State.DIALING:
            return OUT
        reading = not self.paused and self.carrier is None
        return (IN if reading else 0) | (0 if flushed else OUT)

    def waiting_bytes(self) -> int:
        """All that this link holds in memory."""
        return self.queued_bytes + len(self._wire) - self._sent + len(self.input)
