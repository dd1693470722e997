"""The journal's process: the log and the snapshots on disk, between the rings (I3).

    persist     batches, in; among them READ, RESTORE and DISCARD, which are requests
    persisted   what is durable (I4); what became of a snapshot; whether the disk has room
    read        what was recovered, first of all; then the entries that READ asked for
    snapshot    that logic has a child that writes a snapshot, and how the child ended
    restore     the content of the snapshot that RESTORE asked for

The loop never waits inside: what does not fit its ring is kept, and tried again on the next turn,
while batches go on. Requests that wait are bounded, and so is what is kept of an answer. Whatever
takes long, a snapshot that is written or a segment that goes, a thread does (spool.py).
"""

import contextlib
import os
import socket
import struct
from collections import deque
from collections.abc import Iterator

from attrs import define, evolve, field

from ..shm import Consumer, Counters, Inputs, Producer
from . import slots
from .agent import PARK_NS_MAX, Ends
from .batches import QUIET_NS, Batches
from .clock import Clock
from .errors import OTHER_FAILURE, CorruptJournal, CorruptSnapshot, JournalFailed
from .incoming import Incoming
from .journal import Journal
from .room import DiskLimits, Room, Use
from .snapshotfile import contents as snapshot_contents
from .snapshots import SnapshotStore
from .spool import Outcome, Spool
from .transfer_slots import (
    ReadChunk,
    ReceivedSnapshot,
    StoreChunk,
    pack_chunk,
    pack_read_done,
    pack_received,
    unpack_read_chunk,
    unpack_restart,
    unpack_store_chunk,
)

READS_WAITING_MAX = 256
TELLINGS_MAX = 64
READ_PIECE_BYTES = 256 * 1024
PARK_NS = 100_000_000
SPOOLING_PARK_NS = 5_000_000
"""While the thread works: nothing wakes the loop when it is done."""
LOOK_EVERY_NS = 1_000_000_000
LOOK_EVERY_BYTES = 1024 * 1024
_ENTRY_HEAD = struct.Struct("<IHHQ")
_TAG = struct.Struct("<H")
_REQUESTS = (slots.READ, slots.READ_CHUNK, slots.RESTORE, slots.DISCARD, slots.REPAIRED)
_STEPS = (slots.STORE_CHUNK, slots.RESTART)
"""What is done to the disk in the order of the batch, and is not written as it is."""
PERSIST, SNAPSHOT = 1, 2
"""The rings that it reads, as bits of one look at both."""


@define
class Request:
    """A READ that is being served: the cursor is `next`."""

    next: int
    last: int
    piece_bytes: int
    tag: int


@define
class Restoring:
    """A RESTORE that is being served: the content of one snapshot, in pieces that fit the ring."""

    content: Iterator[bytes]
    piece_bytes: int
    _rest: memoryview = field(default=memoryview(b""), init=False)
    _following: memoryview | None = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._following = self._take()

    def _take(self) -> memoryview | None:
        chunk = next(self.content, None)
        return None if chunk is None else memoryview(chunk)

    def piece(self) -> bytes | None:
        """The next SNAPSHOT_CHUNK; None behind the last. Raises CorruptSnapshot."""
        if not self._rest:
            if self._following is None:
                return None
            self._rest, self._following = self._following, self._take()
        piece, self._rest = self._rest[: self.piece_bytes], self._rest[self.piece_bytes :]
        return slots.pack_chunk(piece, last=not self._rest and self._following is None)


@define(eq=False)
class JournalProcess:
    """Process 3. Batches in; what is durable, and what was asked for, out."""

    journal: Journal
    store: SnapshotStore
    persist: Consumer
    persisted: Producer
    read: Producer
    snapshot: Consumer
    restore: Producer
    packets: socket.socket
    """The end of the socket to logic's children; closed with this process."""
    clock: Clock
    disk_limits: DiskLimits = field(factory=DiskLimits)
    counters: Counters | None = None
    more: bool = field(default=True, init=False)
    """Whether the last turn may have left something beside what its rings hold: pieces of an answer, or of a preparation."""
    spool: Spool = field(init=False)
    room: Room = field(init=False)
    _persist_bytes: int = field(default=0, init=False)
    _uncounted: list[tuple[int, int, int]] = field(
        factory=lambda: list[tuple[int, int, int]](), init=False
    )
    """Bytes, and the times of write and sync, of what was written and is not in the figures yet."""
    _batches: Batches = field(init=False)
    _durable: bytes = field(default=b"", init=False)
    """The PERSISTED slot that did not fit yet; a later one says all that it says."""
    _tellings: "deque[bytes]" = field(factory=lambda: deque[bytes](), init=False)
    """What else `persisted` has no room for yet."""
    _answer: bytes | bytearray = field(default=b"", init=False)
    """The piece for `read` that did not fit yet."""
    _ends: Ends = field(init=False)
    _inputs: Inputs = field(init=False)
    _requests: "deque[Request | ReadChunk]" = field(
        factory=lambda: deque[Request | ReadChunk](), init=False
    )
    _restores: "deque[Restoring]" = field(factory=lambda: deque[Restoring](), init=False)
    incoming: Incoming = field(init=False)
    _chunk: bytes | None = field(default=None, init=False)
    """The piece for `restore` that did not fit yet."""
    _writing: int = field(default=0, init=False)
    """The index of the snapshot that logic has a child for."""
    _undecided: int = field(default=0, init=False)
    """Snapshots that the spool was told of, and has not told the outcome of."""
    _discard: int = field(default=0, init=False)
    """Nobody needs anything below this index."""
    _wrote_ns: int = field(default=0, init=False)
    _look_due_ns: int = field(default=0, init=False)
    _unlooked_bytes: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.disk_limits.check(self.journal.segment_bytes)
        self._ends = (self.persist, self.snapshot, self.persisted, self.read, self.restore)
        self._batches = Batches(self.journal, self.persist, self.persisted, self.counters)
        if self.persist.own_bell is not None:
            self._batches.watch(self.persist.own_bell, self._ends)
        self._inputs = Inputs((self.persist, self.snapshot))
        recovered = self.journal.recovered
        if self.store.kept:
            newest = self.store.kept[-1]
            recovered = evolve(
                recovered,
                snapshot_index=newest.index,
                snapshot_term=newest.header.term,
                snapshot_bytes=newest.content_bytes,
                snapshot_build=newest.header.build,
                membership=newest.header.membership,
                snapshot_file_bytes=newest.file_bytes,
            )
        self._answer = slots.pack_recovered(recovered)
        assert len(self._answer) <= self.read.capacity // 8, "RECOVERED fits no slot of `read`"
        self.spool = Spool(self.store, self.packets, self.journal.disk, self.clock)
        self.incoming = Incoming(self.store, self.journal.disk)
        self.room = Room(self.journal.directory, self.disk_limits, self._use)

    def work(self) -> int:
        """Do what there is to do now, in bounded pieces; 0 when there was nothing.

        Raises JournalFailed after FAILED was written: the process must end with
        EXIT_JOURNAL_FAILED.
        """
        try:
            ready = self._inputs.ready()
            done = self._take_batch() if ready & PERSIST else 0
            if self._durable or self._tellings:
                done += self._tell()
            if self._answer or self._requests:
                done += self._serve()
            if self._restores:
                done += self._restore()
            if ready & SNAPSHOT:
                done += self._take_snapshot()
            if self._undecided:
                done += self._settle_snapshot()
            if done:
                self.journal.keep_ahead()
                self.more = bool(self._requests or self._restores or self._tellings)
                return done
            self.more = True
            now_ns = self.clock.monotonic_ns()
            self._look(now_ns)
            quiet = now_ns - self._wrote_ns >= QUIET_NS
            done = int(quiet and self.journal.prepare()) or self._settle_snapshot()
            return done or self._tell()
        except JournalFailed as failure:
            self._fail(failure.tag, failure.sentence)
            raise
        except (CorruptJournal, CorruptSnapshot) as damage:
            self._fail(OTHER_FAILURE, str(damage))
            raise

    def turn_elsewhere(self, spin_ns: int) -> bool:
        """Wait, and take usual batches in C meanwhile; False: not even waited. Raises as `work`."""
        owed = self._durable or self._tellings or self._answer or self._requests or self._restores
        if owed or self._undecided:
            return False
        timeout_ns, bytes_max = self.sleep_ns(), LOOK_EVERY_BYTES - self._unlooked_bytes
        until_ns = min(self._look_due_ns, self.clock.monotonic_ns() + PARK_NS_MAX)
        try:
            taken = self._batches.wait(
                self._persist_bytes, bytes_max, until_ns, spin_ns, timeout_ns
            )
            if taken > 0:
                self._took(taken, self._batches.synced_at_ns, told=self._batches.told)
                self.journal.keep_ahead()
        except JournalFailed as failure:
            self._fail(failure.tag, failure.sentence)
            raise
        return taken >= 0

    def ends(self) -> Ends:
        """The rings that it reads, and those that may be full of its answers."""
        return self._ends

    def sleep_ns(self) -> int:
        """Nothing here is due by itself, unless the thread is about to be done, or a quiet moment is to be used."""
        if self._undecided:
            return SPOOLING_PARK_NS
        return PARK_NS if self.journal.is_prepared else QUIET_NS

    def close(self) -> None:
        """Mark the end and close the journal: the last batch need not be written again at the next
        start."""
        self.spool.close()
        self.journal.close()

    def _take_batch(self) -> int:
        if self._durable or self._tellings:
            size = 0  # What was to be told before comes first.
        else:
            size = self._batches.take(self._persist_bytes)
        if size:
            self._took(size, self._batches.synced_at_ns, told=self._batches.told)
            return 1
        run = self.persist.peek()
        size = len(run)
        if not size:
            return 0
        written = self._carry_out(run)
        run.release()
        self.persist.release(size)
        if written:
            self._took(size, self.clock.monotonic_ns(), told=False)
        else:
            self._persist_bytes, self._wrote_ns = (
                self._persist_bytes + size,
                self.clock.monotonic_ns(),
            )
        return 1

    def _took(self, size: int, wrote_ns: int, *, told: bool) -> None:
        """So much of `persist` is durable."""
        self._persist_bytes, self._wrote_ns = self._persist_bytes + size, wrote_ns
        if not told:
            held = self.journal.contents
            self._durable = slots.pack_persisted(held.last_term, held.last, self._persist_bytes)
            self._tell()  # Clients wait for this, and for nothing that follows here.
            self._count()
        self._unlooked_bytes += size
        if self._wrote_ns >= self._look_due_ns or self._unlooked_bytes >= LOOK_EVERY_BYTES:
            self._look(self._wrote_ns)

    def _carry_out(self, run: memoryview) -> bool:
        """Write what belongs on disk, in order; note the requests between. Whether anything was for the disk."""
        parts: list[memoryview] = []
        chunks: list[StoreChunk] = []
        written = False
        start = at = 0
        for kind, tag, slot in slots.slots_of(run):
            following = at + slots.padded(len(slot))
            if kind in _REQUESTS or kind in _STEPS:
                if start < at:
                    parts.append(run[start:at])
                start = following
                if kind in _REQUESTS:
                    self._note(kind, tag, slot)
                elif kind == slots.STORE_CHUNK:
                    chunks.append(self._store(slot))
                else:
                    self._write(parts)
                    parts = []
                    self._restart(slot)
                written = written or kind in _STEPS
            slot.release()
            at = following
        if start < at:
            parts.append(run[start:at])
        written = written or bool(parts)
        self._write(parts)
        if chunks:
            self._settle_chunks(chunks)
        return written

    def _write(self, parts: list[memoryview]) -> None:
        if not parts:
            return
        size = sum(len(part) for part in parts)
        started_ns = self.clock.monotonic_ns()
        self.journal.write(*parts)
        for part in parts:
            part.release()
        written_ns = self.clock.monotonic_ns()
        self.journal.sync()
        synced_ns = self.clock.monotonic_ns()
        self._uncounted.append((size, written_ns - started_ns, synced_ns - written_ns))

    # A snapshot from the leader

    def _store(self, slot: memoryview) -> StoreChunk:
        chunk = unpack_store_chunk(slot)
        assert isinstance(chunk.data, memoryview)
        why = self.incoming.take(chunk)
        chunk.data.release()
        if why:
            self._say(pack_received(ReceivedSnapshot(chunk.index, why=self._fitting(why))))
        return evolve(chunk, data=b"")

    def _settle_chunks(self, chunks: list[StoreChunk]) -> None:
        """They are durable before that is told; behind the last one the file is the spool's."""
        why = self.incoming.sync()
        if why:
            self._say(pack_received(ReceivedSnapshot(chunks[-1].index, why=self._fitting(why))))
        path = self.incoming.finished(chunks[-1]) if chunks[-1].last else None
        if path is not None:
            self._undecided += 1
            self.spool.adopt(chunks[-1].index, path)

    def _adopted(self, outcome: Outcome) -> None:
        kept = outcome.kept
        if kept is None:
            received = ReceivedSnapshot(outcome.index, why=self._fitting(outcome.why))
        else:
            received = ReceivedSnapshot(
                outcome.index,
                kept.header.term,
                kept.header.time_ns,
                kept.file_bytes,
                kept.content_bytes,
                self.store.keep_from,
                kept.header.membership,
            )
        self._say(pack_received(received))

    def _restart(self, slot: memoryview) -> None:
        """The log goes on behind a snapshot that counts."""
        index, term, keep_suffix = unpack_restart(slot)
        held = self.journal.contents
        if keep_suffix and held.last >= index:
            return
        (header,) = (one.header for one in self.store.kept if one.index == index)
        assert header.term == term
        self.journal.restart_behind(header)

    def _note(self, kind: int, tag: int, slot: memoryview) -> None:
        """A request among the entries."""
        if kind == slots.READ:
            first, last, piece_bytes = slots.unpack_read(slot)
            assert len(self._requests) < READS_WAITING_MAX, "too many reads wait"
            self._requests.append(Request(first, last, piece_bytes, tag))
        elif kind == slots.READ_CHUNK:
            assert len(self._requests) < READS_WAITING_MAX, "too many reads wait"
            self._requests.append(unpack_read_chunk(slot))
        elif kind == slots.RESTORE:
            index, _, _ = slots.unpack_restore(slot)
            restoring = Restoring(
                snapshot_contents(self.store.path_of(index)),
                self.restore.capacity // 8 - slots.HEADER_BYTES,
            )
            self._restores.append(restoring)
        elif kind == slots.REPAIRED:
            self.journal.repaired()
        else:
            self._discard = max(self._discard, slots.unpack_discard(slot))
            self._release()

    def _tell(self) -> int:
        """What is durable first: it waits for nobody."""
        done = 0
        if self._durable and self.persisted.write(self._durable):
            self._durable = b""
            done = 1
        while self._tellings and self.persisted.write(self._tellings[0]):
            self._tellings.popleft()
            done = 1
        return done

    def _say(self, slot: bytes) -> None:
        assert len(self._tellings) < TELLINGS_MAX, "consensus takes nothing"
        self._tellings.append(slot)

    def _serve(self) -> int:
        """One piece of the oldest request."""
        if not self._answer:
            if not self._requests:
                return 0
            self._answer = self._next_answer(self._requests[0])
        if self._answer:
            if not self.read.write(self._answer):
                return 0
            self._answer = b""
        return 1

    def _next_answer(self, request: Request | ReadChunk) -> bytes | bytearray:
        """The next piece; a request that is done with goes."""
        if isinstance(request, ReadChunk):
            self._requests.popleft()
            return pack_chunk(request, self._snapshot_bytes(request))
        piece = self._next_piece(request)
        if request.tag >= slots.ASKED_ONCE:
            self._requests.popleft()
            return piece + pack_read_done(request.tag)
        if not piece:
            self._requests.popleft()
        return piece

    def _snapshot_bytes(self, asked: ReadChunk) -> bytes:
        """Bytes of the file; none if it is gone."""
        for one in self.store.kept:
            if one.index == asked.index:
                with contextlib.suppress(OSError), one.path.open("rb", buffering=0) as file:
                    return os.pread(file.fileno(), asked.bytes_max, asked.offset)
        return b""

    def _next_piece(self, request: Request) -> bytearray:
        """The next entries of a request, tagged as it asked; empty when it is done."""
        bytes_max = min(READ_PIECE_BYTES, self.read.capacity // 4, request.piece_bytes)
        request.next = max(request.next, self.journal.contents.first)
        run = self.journal.read(request.next, request.last, bytes_max)
        at, end = 0, len(run)
        while at < end:
            length, _, _, index = _ENTRY_HEAD.unpack_from(run, at)
            assert index == request.next
            request.next += 1
            _TAG.pack_into(run, at + 6, request.tag)
            at += slots.padded(length)
        return run

    def _restore(self) -> int:
        """One piece of the snapshot that logic takes its state from."""
        if not self._restores:
            return 0
        if self._chunk is None:
            self._chunk = self._restores[0].piece()
        if self._chunk is None:
            self._restores.popleft()
        elif self.restore.write(self._chunk):
            self._chunk = None
        else:
            return 0
        return 1

    def _take_snapshot(self) -> int:
        """What logic says of its child."""
        run = self.snapshot.peek()
        if not run:
            return 0
        for kind, _, slot in slots.slots_of(run):
            if kind == slots.SNAPSHOT_BEGUN:
                self._writing, _ = slots.unpack_snapshot_begun(slot)
                self._undecided += 1
                self.spool.begin(self._writing)
            else:
                assert kind == slots.SNAPSHOT_ENDED, f"snapshot carried a slot of type {kind}"
                index, status = slots.unpack_snapshot_ended(slot)
                if index == self._writing:
                    self._writing = 0
                    self.spool.ended(index, status)
                elif status:
                    self._not_taken(index, "no process could be made that writes it")
        self.snapshot.release(len(run))
        return 1

    def _settle_snapshot(self) -> int:
        """What became of a snapshot; then what it makes superfluous can go."""
        outcome = self.spool.outcome()
        if outcome is None:
            return 0
        self._undecided -= 1
        if outcome.adopted:
            self._adopted(outcome)
        elif outcome.kept is None:
            self._not_taken(outcome.index, outcome.why)
        else:
            self._taken(outcome)
        return 1

    def _taken(self, outcome: Outcome) -> None:
        assert outcome.kept is not None
        state = slots.SnapshotState(
            outcome.index, outcome.kept.file_bytes, self.store.keep_from, tag=slots.VERIFIED
        )
        self._say(slots.pack_snapshot_state(state))
        self._release()

    def _not_taken(self, index: int, why: str) -> None:
        why = self._fitting(why)
        state = slots.SnapshotState(index, 0, self.store.keep_from, why, slots.NOT_TAKEN)
        self._say(slots.pack_snapshot_state(state))

    def _fitting(self, text: str) -> str:
        """As much of a text as fits a slot of `persisted`."""
        return text.encode()[: self.persisted.capacity // 8 - 64].decode(errors="ignore")

    def _release(self) -> None:
        """Let go of what nobody needs, as far as the snapshots allow: never below the older of the
        two newest, and nothing while there is only one."""
        released = self.journal.release_before(min(self._discard, self.store.keep_from))
        if released:
            self.spool.remove(released)

    def _look(self, now_ns: int) -> None:
        """Now and then: has the disk room?"""
        if now_ns < self._look_due_ns and self._unlooked_bytes < LOOK_EVERY_BYTES:
            return
        self._look_due_ns, self._unlooked_bytes = now_ns + LOOK_EVERY_NS, 0
        if self.room.look():
            tag = slots.ROOM_LOW if self.room.low else slots.ROOM_AGAIN
            self._say(slots.pack_room(tag, self._fitting(self.room.sentence)))
            self.journal.spare.refused = self.room.low  # What is left is for snapshots.
        if self.counters is not None:
            self.counters.counters["disk_bytes"].set(self._use().used_bytes)
            self.counters.counters["snapshot_written_bytes"].set(self.spool.written_bytes)

    def _use(self) -> Use:
        spare = self.journal.spare
        used = self.journal.file_bytes + self.store.file_bytes + self.spool.written_bytes
        if spare.file >= 0:
            return Use(used + spare.size, 0)
        return Use(used, spare.size)

    def _fail(self, tag: int, sentence: str) -> None:
        """Say it while the process still can; what was durable before was told, or is told now."""
        self._tell()
        text = self._fitting(sentence).encode()
        slot = slots.HEADER.pack(slots.HEADER_BYTES + len(text), slots.FAILED, tag) + text
        self.persisted.write(slot + bytes(-len(slot) % 8))

    def _count(self) -> None:
        """What was written here; batch.h counts what it wrote."""
        written, self._uncounted = self._uncounted, []
        if self.counters is None:
            return
        counters, histograms = self.counters.counters, self.counters.histograms
        for size, write_ns, fsync_ns in written:
            counters["batches"].add()
            counters["bytes"].add(size)
            counters["syncs"].add()
            histograms["write_ns"].record(write_ns)
            histograms["fsync_ns"].record(fsync_ns)
            histograms["batch_bytes"].record(size)
        counters["durable_index"].set(self.journal.contents.last)
        counters["segments"].set(self.journal.segments)
