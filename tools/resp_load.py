"""Load in Redis's protocol, for a Redis or for the door of a replica: INCR of one key, encoded before the clock starts.

A lane here is what load.Lane is for frames: one connection with a window, so paced.py and turns.py drive either. Each INCR is
answered by one line; whatever else comes counts as a failure.
"""

from attrs import define, field

from ..runtime.errors import OperatorError
from .load import BUFFER_BYTES, Replies
from .outgoing import Outgoing, dialled
from .redis_server import command

WINDOW = 1024
INCR = command((b"INCR", b"key:%012d" % 0))


@define(eq=False)
class RespLane(Outgoing):
    """One connection."""

    buffer: bytearray = field(factory=lambda: bytearray(BUFFER_BYTES), init=False)

    @classmethod
    def connect(cls, host: str, port: int, index: int) -> "RespLane":
        """Connect; nothing has to be said first."""
        return cls(dialled(host, port), index, WINDOW)

    def load(self, count: int, window: int) -> None:
        """Encode so many."""
        self.count, self.window, self.frame_bytes = count, window, len(INCR)
        self.commands = memoryview(INCR * count)

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
