"""Load in Redis's protocol, for a Redis or for the door of a replica: INCR of one key, encoded before the clock starts.

A lane here is what load.Lane is for frames: one connection with a window, so paced.py and turns.py drive either. Each INCR is
answered by one line; whatever else comes counts as a failure.
"""

import socket

from attrs import define, field

from ..runtime.errors import OperatorError
from .load import BUFFER_BYTES, STALLED_S, Replies
from .redis_server import command

WINDOW = 1024
INCR = command((b"INCR", b"key:%012d" % 0))


@define(eq=False)
class RespLane:
    """One connection, and how far its commands were sent."""

    link: socket.socket
    index: int
    window: int
    count: int = field(default=0, init=False)
    commands: memoryview = field(default=memoryview(b""), init=False)
    sent_bytes: int = field(default=0, init=False)
    buffer: bytearray = field(factory=lambda: bytearray(BUFFER_BYTES), init=False)
    frame_bytes: int = field(default=len(INCR), init=False)

    @classmethod
    def connect(cls, host: str, port: int, index: int) -> "RespLane":
        """Connect; nothing has to be said first."""
        connected = socket.create_connection((host, port), STALLED_S)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(connected, index, WINDOW)

    def load(self, count: int, window: int) -> None:
        """Encode so many."""
        self.count, self.window = count, window
        self.commands = memoryview(INCR * count)

    def send_upto(self, number: int) -> bool:
        """Send what was not sent yet, up to this request; True if the socket took all of it."""
        upto = number * self.frame_bytes
        if upto <= self.sent_bytes:
            return True
        try:
            self.sent_bytes += self.link.send(self.commands[self.sent_bytes : upto])
        except BlockingIOError:
            return False
        return self.sent_bytes == upto

    def receive(self, replies: Replies) -> None:
        """Count what has come."""
        got = self.link.recv_into(self.buffer)
        if not got:
            raise OperatorError("The server closed the connection under load.")
        lines = self.buffer.count(b"\n", 0, got)
        replies.highest[self.index] += lines
        replies.tally.replies += lines
        replies.tally.failures += self.buffer.count(b"-", 0, got)

    def close(self) -> None:
        """Close the connection."""
        self.link.close()


def connect_resp_lanes(host: str, port: int, connections: int) -> tuple[list[RespLane], Replies]:
    """So many connections, and what counts their replies."""
    lanes = [RespLane.connect(host, port, at) for at in range(connections)]
    return lanes, Replies(connections)
