"""What a load sends on one connection: commands of one size, encoded before the clock starts, and how far they were sent.

What comes back is counted by the lanes that this is part of: load.py speaks in frames, resp_load.py as Redis does.
"""

import socket

from attrs import define, field

STALLED_S = 30.0


def dialled(host: str, port: int) -> socket.socket:
    """A connection that sends at once what it is given."""
    link = socket.create_connection((host, port), STALLED_S)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return link


@define(eq=False)
class Outgoing:
    """One connection, its place among the others, and how many may be unanswered."""

    link: socket.socket
    index: int
    window: int
    count: int = field(default=0, init=False)
    commands: memoryview = field(default=memoryview(b""), init=False)
    frame_bytes: int = field(default=0, init=False)
    sent_bytes: int = field(default=0, init=False)

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
