"""A snapshot on its way from a leader to one peer: in pieces, each acknowledged, resumed at a byte.

    leader                                    follower
    PROBE      (no bytes) ────────────────►   "durable here: up to byte n"
    n known   ◄────────────────────────────
    pieces from n on, a window of them ───►   writes them in order, answers when they are durable
               ◄──── up to byte m ─────────
    a piece is missing or damaged             "refused": back to PROBE
    nothing is heard of for two heartbeats: back to PROBE

A probe asks at which byte to go on, so a lost message costs one probe, and a connection that broke
resumes where it was. The window bounds what is unanswered (I10). Each piece has a checksum, seeded
with where it belongs, so that neither a flipped bit nor a piece of another snapshot gets through;
the file as a whole is checked by the shell.

Leaves to others: which snapshot, when, and the messages (core.py); files and their bytes (the shell).
"""

from struct import Struct
from zlib import crc32

from attrs import define, frozen

QUIET_HEARTBEATS_MAX = 2

_PLACE = Struct("<QQQQ")


def checksum(index: int, term: int, size: int, offset: int, chunk: bytes) -> int:
    """The checksum of the piece at `offset` of the snapshot (index, term) of `size` bytes."""
    return crc32(chunk, crc32(_PLACE.pack(index, term, size, offset)))


@frozen
class Stored:
    """A whole, checked snapshot on this replica's disk: the index that it ends at, and its bytes."""

    index: int
    term: int
    size: int


@define
class Outgoing:
    """The leader's side, for one peer. Invariant: acknowledged <= next <= size."""

    snapshot: Stored
    acknowledged: int = 0
    next: int = 0
    probing: bool = True
    probe_sent: bool = False
    # The offset of the piece that is being read (Ready.fetch_chunks); one at a time.
    fetching: int | None = None
    quiet_heartbeats: int = 0

    def may_fetch(self, in_flight_bytes_max: int) -> bool:
        """Is there something to send, and room for it?"""
        in_flight = self.next - self.acknowledged
        free = not self.probing and self.fetching is None
        return free and self.next < self.snapshot.size and in_flight < in_flight_bytes_max

    def answered(self, offset: int) -> None:
        """All up to `offset` is durable at the peer."""
        offset = min(offset, self.snapshot.size)
        if self.probing:
            self.acknowledged = self.next = offset
            self.probing = False
        elif offset > self.acknowledged:
            self.acknowledged = offset
            self.next = max(self.next, offset)
        else:
            return
        self.quiet_heartbeats = 0

    def refused(self) -> None:
        """The peer could not use a piece: ask where it stands. Answers to what is in flight do not count."""
        if not self.probing:
            self.probing, self.probe_sent = True, False

    def heard(self) -> None:
        """The peer answered a heartbeat. If it says nothing of the snapshot, something was lost."""
        self.quiet_heartbeats += 1
        if self.probing:
            self.probe_sent = False
        elif self.quiet_heartbeats >= QUIET_HEARTBEATS_MAX and self.fetching is None:
            self.quiet_heartbeats = 0
            self.probing, self.probe_sent = True, False


@define
class Incoming:
    """The follower's side: how much of which snapshot it has taken in, in order."""

    source: int
    snapshot: Stored
    # The leader's term when it last sent a piece; an older leader's pieces do not count.
    leader_term: int
    received: int = 0
