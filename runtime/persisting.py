"""What Raft wants written, on its way through `persist`, and which of its writes are durable (I4).

Both sides count the bytes that pass `persist`, so an acknowledgement names a write without a number of its own. What does not
fit the ring waits here, in order; it is bounded by what a leader may have in flight, and those who give more ask `full` first.
Consensus never waits for it (I12).
"""

from collections import deque
from collections.abc import Iterable

from attrs import define, field

from ..raft import Entry, Persist
from ..shm import Producer
from . import slots
from .pieces import pieces
from .transfer_slots import StoreChunk, pack_restart, pack_store_chunk

WAITING_SHARE = 2
"""Of the ring's capacity, what may wait beside it before more is refused."""


@define(eq=False)
class Persisting:
    """The producer of `persist`."""

    ring: Producer
    handed_bytes: int = field(default=0, init=False)
    """All that ever went in, waiting or not."""
    waiting: deque[memoryview] = field(factory=deque[memoryview], init=False)
    waiting_bytes: int = field(default=0, init=False)
    repeated: bytes = field(default=b"", init=False)
    """Term and vote as they were written last, where each write repeats them: so a damaged record takes no vote with it, and
    peers can repair the log (salvage.py). Empty: there are no peers."""
    writes: deque[tuple[int, int]] = field(factory=deque[tuple[int, int]], init=False)
    """(bytes handed, sequence) of the writes that are not known to be durable."""

    _packed_entry: Entry | None = field(default=None, init=False)
    """The last one that was packed, and its slot: logic is given the same bytes a little later."""
    _packed: bytes = field(default=b"", init=False)

    @property
    def full(self) -> bool:
        """Whether entries that a leader sends must be passed over for now; it will send them again."""
        return self.waiting_bytes > self.ring.capacity // WAITING_SHARE

    def room(self) -> int:
        """What fits now."""
        return 0 if self.waiting else self.ring.free()

    def persist(self, persist: Persist) -> None:
        """One write of Raft's, in the order that ready.py promises."""
        parts: list[bytes] = []
        for chunk in persist.chunks:
            stored = StoreChunk(
                chunk.index, chunk.term, chunk.size, chunk.offset, chunk.chunk, chunk.done
            )
            parts.append(pack_store_chunk(stored))
        if persist.truncate_from is not None:
            parts.append(_padded(slots.pack_truncate(persist.truncate_from)))
        if persist.restart is not None:
            restart = persist.restart
            parts.append(pack_restart(restart.index, restart.term, keep_suffix=restart.keep_suffix))
        for entry in persist.entries:
            self._packed = entry_slot(entry, 0)
            self._packed_entry = entry
            parts.append(self._packed)
        if persist.hard_state is not None:
            state = persist.hard_state
            parts.append(slots.pack_hard_state(state.term, state.voted_for, state.commit))
            if self.repeated:
                self.repeated = parts[-1]
        elif self.repeated:
            parts.append(self.repeated)
        self.write(b"".join(parts))
        self.writes.append((self.handed_bytes, persist.sequence))

    def write(self, run: bytes) -> None:
        """Hand over a run, now or when there is room."""
        self.handed_bytes += len(run)
        if not self.waiting and len(run) <= self.ring.capacity // 4 and self.ring.write(run):
            return
        for piece in pieces(memoryview(run), self.ring.capacity // 4):
            self.waiting.append(piece)
            self.waiting_bytes += len(piece)
        self.flush()

    def slot_of(self, entry: Entry, tag: int) -> bytes:
        """An entry as a padded slot with this tag."""
        if entry is self._packed_entry and not tag:
            return self._packed
        return entry_slot(entry, tag)

    def flush(self) -> int:
        """Hand over what waits, as far as there is room; how many pieces."""
        done = 0
        while self.waiting and self.ring.write(self.waiting[0]):
            self.waiting_bytes -= len(self.waiting.popleft())
            done += 1
        return done

    def replace(
        self,
        handed_bytes: int,
        writes: Iterable[tuple[int, int]],
        repeated: bytes,
        unwritten: bytes,
    ) -> None:
        """Others have handed over so much: these writes are not known to be durable, and the last run found no room."""
        self.writes = deque(writes)
        self.handed_bytes = handed_bytes - len(unwritten)
        if self.repeated:
            self.repeated = repeated
        if unwritten:
            self.write(unwritten)

    def durable(self, through_bytes: int) -> int:
        """The journal has made so much durable: the last write that this covers, 0 if it is none."""
        sequence = 0
        while self.writes and self.writes[0][0] <= through_bytes:
            _, sequence = self.writes.popleft()
        return sequence


def entry_slot(entry: Entry, tag: int) -> bytes:
    """An entry as a padded slot."""
    body = entry.body
    head = slots.pack_entry_header(
        entry.index, entry.term, entry.time_ns, entry.kind, len(body), tag
    )
    return head + body + bytes(-len(body) % 8)


def _padded(slot: bytes) -> bytes:
    return slot + bytes(-len(slot) % 8)
