"""What logic put out last, kept so that it can be told at which command of an entry two replicas parted.

An entry costs one append; the digests are made when somebody asks, after a difference was found. Kept are whole entries, up to
OUTPUTS_BYTES_MAX with what keeping them costs: of what lies before, and of what a snapshot brought, nothing can be told.
"""

from array import array
from collections import deque
from zlib import crc32

from attrs import define, field

from ..actors.layout import EVENT, REPLY, SlotType
from . import slots

OUTPUTS_BYTES_MAX = 8 * 1024 * 1024
RUN_OVERHEAD_BYTES = 192


@define(eq=False)
class RecentOutputs:
    """See the head of this file."""

    first: int = 1
    """All that entries from here on have put out is here."""
    runs: deque[tuple[int, bytes | bytearray]] = field(
        factory=deque[tuple[int, bytes | bytearray]], init=False
    )
    held_bytes: int = field(default=0, init=False)

    def keep(self, index: int, run: bytes | bytearray) -> None:
        """What an entry has put out; the run is not to be changed any more."""
        self.runs.append((index, run))
        self.held_bytes += len(run) + RUN_OVERHEAD_BYTES
        while self.held_bytes > OUTPUTS_BYTES_MAX:
            oldest, gone = self.runs.popleft()
            self.held_bytes -= len(gone) + RUN_OVERHEAD_BYTES
            self.first = oldest + 1

    def restart(self, index: int) -> None:
        """The state is that of a snapshot of entry `index`."""
        self.runs.clear()
        self.held_bytes, self.first = 0, index + 1

    def digests(self, index: int) -> "array[int] | None":
        """Of an entry that was applied: chained from 0, what it had put out by the end of each ordinal; None: not known any more."""
        if index < self.first:
            return None
        found = next((run for at, run in self.runs if at == index), bytearray())
        return by_ordinal(index, found)


def by_ordinal(index: int, run: bytes | bytearray) -> "array[int]":
    """The digest after each ordinal of an entry; one that put out nothing has that of the one before it."""
    values = array("I")
    chain = 0
    for kind, _, slot in slots.slots_of(memoryview(run)):
        if kind == SlotType.EVENT:
            fields = EVENT.unpack_from(slot)
            at, ordinal = fields[3], fields[4]
        else:
            fields = REPLY.unpack_from(slot)
            at, ordinal = fields[5], fields[6]
            if at != index or ordinal + 1 < len(values):
                ordinal = len(
                    values
                )  # A kept reply is given again, with the place where it was first given.
        while len(values) <= ordinal:
            values.append(chain)
        chain = values[ordinal] = crc32(slot, chain)
    return values
