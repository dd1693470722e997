"""The journal: the one owner of durable bytes (I3), and its process between the rings.

`Journal` is a directory of segments. A batch goes out with one write, straight from where it lies,
and one sync, and only after that sync does anything count as persisted (I4). `JournalProcess` puts
it between `persist`, `persisted` and `read`.

What the start does with the end of the log, where an earlier process may have died:

    closed, or idle when it died
        A mark covers everything: the directory and the file are synced, and go on.
    anything else
        The batch behind the last mark is whole, but perhaps in the page cache alone, and a sync
        that failed may have left it there marked as clean. So it is written again, into a new
        segment whose header ends the old one before it. A torn batch is left out in the same way.
    damage below the last mark
        CorruptJournal with file and offset; nothing is changed.

A write or a sync that fails is never tried again: JournalFailed, and the replica stops. Left to
others: what the entries mean, who may vote, and when old segments may go (`discard_before`).
"""

import os
import struct
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from attrs import define, field, frozen

from ..shm import Consumer, Counters, Producer
from . import slots
from .agent import Ends
from .contents import Contents, Inconsistent
from .errors import OTHER_FAILURE, CorruptJournal, JournalFailed, OperatorError
from .files import create_directory
from .reader import Extent, Reader
from .records import (
    BLOCK_BYTES,
    CORRUPT,
    RECORD_HEADER_BYTES,
    SALT_BYTES,
    TORN,
    Buffer,
    Record,
    Scan,
    SegmentHeader,
    encode_record_header,
)
from .segments import (
    SEGMENT_BYTES,
    SPARE_NAME,
    Disk,
    Segment,
    Spare,
    filled_until,
    list_segments,
    read_header,
    segment_name,
)

READS_WAITING_MAX = 256
READ_PIECE_BYTES = 256 * 1024
PARK_NS = 100_000_000
_ENTRY_HEAD = struct.Struct("<IHHQ")
_TAG = struct.Struct("<H")


class Owner(Protocol):
    """Whose journal it is; `identity.Identity` is one."""

    @property
    def cluster_id(self) -> bytes: ...
    @property
    def replica_id(self) -> int: ...


@frozen
class Closed:
    """A segment that is not written any more."""

    header: SegmentHeader
    extent: Extent


@define
class Journal:
    """The log on disk. Single-threaded; the directory's lock is the caller's business."""

    directory: Path
    owner: Owner
    segment_bytes: int
    disk: Disk
    contents: Contents = field(factory=Contents, init=False)
    closed: dict[int, Closed] = field(factory=dict[int, Closed], init=False)
    current: Segment = field(init=False)
    spare: Spare = field(init=False)
    reader: Reader = field(init=False)
    _opened: bool = field(default=False, init=False)
    torn: str | None = field(default=None, init=False)
    """What was cut at the start, in words, if anything was."""
    _unsynced: bool = field(default=False, init=False)
    _marked: bool = field(default=True, init=False)

    @classmethod
    def open(
        cls,
        directory: Path,
        owner: Owner,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        covered: int = 0,
        disk: Disk | None = None,
    ) -> "Journal":
        """Open or create the journal in `directory`; everything it holds then is durable.

        `covered` is the index up to which a snapshot makes the log dispensable: the log must not
        begin later than the entry after it. Raises OperatorError (CorruptJournal, ForeignJournal,
        NewerFormat) and JournalFailed.
        """
        assert segment_bytes % BLOCK_BYTES == 0
        journal = cls(directory, owner, segment_bytes, disk or Disk())
        try:
            create_directory(directory)
            journal._open(covered)
            journal._opened = True
        except OSError as error:
            raise OperatorError(
                f"Cannot use the journal in {directory}: {error.strerror} "
                f"({error.filename or 'reading'}). "
                "This user must be able to read and write it, and the disk must work."
            ) from error
        finally:
            if not journal._opened:
                journal.abandon()
        return journal

    @property
    def recovered(self) -> slots.Recovered:
        """What the journal holds."""
        self._settle_time()
        return self.contents.recovered()

    @property
    def segments(self) -> int:
        """How many files there are."""
        return len(self.closed) + 1

    # Writing

    def write(self, *run: Buffer) -> None:
        """Write one batch, a run in one or more parts, behind the last; it is durable after
        `sync`."""
        assert not self._unsynced, "the batch before was not synced"
        size = RECORD_HEADER_BYTES + sum(len(part) for part in run)
        if size > self.current.room:
            self._roll(run)
            return
        header = self._take_in(run, self.current.header, self.current.seed, self.current.offset)
        self._unsynced, self._marked = True, False
        self.current.write([header, *run], size)

    def sync(self) -> None:
        """Make the last batch durable (I4). Must not be called again after it failed."""
        if self._unsynced:
            self.current.sync()
            self._unsynced = False

    def mark(self) -> bool:
        """Note behind the last batch that it was synced; unsynced itself, and overwritten by the
        next batch."""
        if self._marked or self._unsynced or self.current.room < RECORD_HEADER_BYTES:
            return False
        current, contents = self.current, self.contents
        offset = current.offset
        mark = encode_record_header(
            current.seed, offset, [], 0, contents.last, contents.last_term, offset
        )
        current.write_mark([mark], len(mark))
        self._marked = True
        return True

    def prepare(self) -> bool:
        """Do a piece of the work that makes later writes fast; False when all is done."""
        return self.mark() or self.current.fill() or self.spare.fill()

    def keep_ahead(self) -> bool:
        """Under load: a piece of `prepare`, if the spare would otherwise not be ready in time."""
        written = self.current.offset
        if self.current.filled < min(self.current.size, 2 * written):
            return self.current.fill()
        return self.spare.filled < 2 * (written - self.current.size // 2) and self.spare.fill()

    def close(self) -> None:
        """Sync, mark, sync, and close the files."""
        self.sync()
        if self.mark():
            self.current.sync()
        self.abandon()

    def abandon(self) -> None:
        """Close the files and leave the disk as it is: after a failure."""
        self.reader.close()
        self.current.close()
        self.spare.close()

    # Reading

    def read(self, first: int, last: int, bytes_max: int) -> bytearray:
        """A run of the ENTRY slots from `first` on, as many as are there, up to `last`, and fit
        `bytes_max`; at least one, if there is one."""
        assert first >= self.contents.first, f"entry {first} is gone"
        return self.reader.read(first, last, bytes_max)

    def discard_before(self, index: int) -> int:
        """Remove the segments that hold nothing but entries below `index`; how many."""
        removed = 0
        for segment_id, closed in sorted(self.closed.items()):
            following = self.closed.get(segment_id + 1)
            header = following.header if following else self.current.header
            if header.first > index:
                break
            self.reader.close()
            self.disk.remove(closed.extent.path)
            del self.closed[segment_id]
            first = self.contents.first_in(segment_id + 1, header.first)
            self.contents.forget_segments_before(segment_id + 1, first, header.last_term)
            removed += 1
        if removed:
            self.disk.sync_directory(self.directory)
        return removed

    # Inside

    def __attrs_post_init__(self) -> None:
        self.spare = Spare(self.directory / SPARE_NAME, self.segment_bytes, self.disk)
        self.reader = Reader(self.contents, self._extent_of)
        nobody = SegmentHeader(bytes(16), 0, 0, 0, 0, 0, 0, bytes(SALT_BYTES))
        self.current = Segment(self.directory, -1, nobody, 0, self.disk)

    def _take_in(
        self, run: Sequence[Buffer], header: SegmentHeader, seed: int, offset: int
    ) -> bytes:
        """Fold a batch that goes to `offset`, and make its record header."""
        contents, first = self.contents, 0
        for part in run:
            first_of_part = contents.fold(memoryview(part), header.segment_id, offset)
            first = first or first_of_part
        contents.check()
        return encode_record_header(
            seed, offset, run, first, contents.last, contents.last_term, synced=offset
        )

    def _roll(self, run: Sequence[Buffer]) -> None:
        """Put a batch at the head of a new segment, durably, header and name and all."""
        old = self.current
        self._start_segment(old.header.segment_id + 1, old.offset, run)
        self._close_segment(old)

    def _close_segment(self, old: Segment) -> None:
        self.closed[old.header.segment_id] = Closed(
            old.header, Extent(old.path, old.seed, old.offset)
        )
        old.cut()
        old.close()

    def _start_segment(self, segment_id: int, sealed: int, run: Sequence[Buffer]) -> None:
        """The new segment begins with term, vote and commit, so that those before it can go one
        day."""
        self._settle_time()
        contents = self.contents
        header = SegmentHeader(
            self.owner.cluster_id,
            self.owner.replica_id,
            segment_id,
            contents.last + 1,
            contents.last_term,
            contents.last_time_ns or 0,
            sealed,
            os.urandom(SALT_BYTES),
        )
        body = [contents.hard_state_slot(), *run]
        record = self._take_in(body, header, header.seed, BLOCK_BYTES)
        path = self.directory / segment_name(segment_id)
        self.current = self.spare.take(path, header, [record, *body])
        self._unsynced = self._marked = False

    def _settle_time(self) -> None:
        """After a truncation only the entry that is last now knows the log time."""
        contents = self.contents
        if contents.last_time_ns is None:
            if contents.last < contents.first:
                contents.last_time_ns = 0
                return
            slot = self.reader.read(contents.last, contents.last, 0)
            contents.last_time_ns = slots.unpack_entry(memoryview(slot)).time_ns

    def _extent_of(self, segment_id: int) -> Extent:
        if segment_id in self.closed:
            return self.closed[segment_id].extent
        assert segment_id == self.current.header.segment_id
        return Extent(self.current.path, self.current.seed, self.current.offset)

    # Starting

    def _open(self, covered: int) -> None:
        found = list_segments(self.directory)
        if not found:
            self._start_segment(1, 0, [])
            return
        self.disk.sync_directory(self.directory)  # A name may be as fresh as the kill that left it.
        headers = [self._header_of(segment_id, path) for segment_id, path in found]
        oldest = headers[0]
        if oldest.first > covered + 1:
            missing = self.directory / segment_name(oldest.segment_id - 1)
            raise CorruptJournal(
                missing, 0, f"entries {covered + 1} to {oldest.first - 1} are missing"
            )
        self.contents.begin(oldest.first, oldest.last_term, oldest.last_time_ns)
        for (_, path), header, following in zip(found, headers, headers[1:], strict=False):
            self._recover_segment(path, header, following.sealed)
        self._recover_end(found[-1][1], headers[-1])

    def _header_of(self, segment_id: int, path: Path) -> SegmentHeader:
        with path.open("rb") as file:
            block = file.read(BLOCK_BYTES)
        return read_header(path, block, segment_id, self.owner.cluster_id, self.owner.replica_id)

    def _recover_segment(self, path: Path, header: SegmentHeader, sealed: int) -> None:
        """A segment with another behind it: all of it was durable."""
        _, rest = self._scan(path, header, sealed)
        for record in rest:
            self._fold(path, header, record)
        self.closed[header.segment_id] = Closed(header, Extent(path, header.seed, sealed))

    def _recover_end(self, path: Path, header: SegmentHeader) -> None:
        """The last segment: go on in it, or write its unmarked end again."""
        scan, rest = self._scan(path, header, None)
        if scan.verdict == TORN:
            self.torn = f"{path} at offset {scan.bad_offset}: {scan.why}; the batch was cut"
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        size = os.fstat(file).st_size
        end = scan.synced
        current = self.current = Segment(path, file, header, size, self.disk, offset=end)
        current.filled = max(end, filled_until(file, size, end))
        if rest or scan.verdict == TORN:
            self._start_segment(header.segment_id + 1, end, [record.body for record in rest])
            self._close_segment(current)
            self.mark()
        else:
            current.sync()

    def _scan(
        self, path: Path, header: SegmentHeader, sealed: int | None
    ) -> tuple[Scan, list[Record]]:
        """Fold the records that are known to be durable; give the others, at most one batch,
        back."""
        if header.first != self.contents.last + 1 or header.last_term != self.contents.last_term:
            raise CorruptJournal(
                path,
                0,
                f"it continues after entry {header.first - 1} of term {header.last_term}, but the "
                f"segment before it ends with entry {self.contents.last} "
                f"of term {self.contents.last_term}",
            )
        scan = Scan(memoryview(path.read_bytes()), header.seed, sealed)
        waiting: list[Record] = []
        for record in scan:
            while waiting and waiting[0].end <= record.synced:
                self._fold(path, header, waiting.pop(0))
            waiting.append(record)
        if scan.verdict == CORRUPT:
            raise CorruptJournal(path, scan.bad_offset, scan.why)
        return scan, [record for record in waiting if record.body]

    def _fold(self, path: Path, header: SegmentHeader, record: Record) -> None:
        try:
            self.contents.fold(record.body, header.segment_id, record.offset)
            self.contents.check()
        except Inconsistent as wrong:
            raise CorruptJournal(path, record.offset, str(wrong)) from None
        if (self.contents.last, self.contents.last_term) != (record.last, record.last_term):
            why = f"the log should end with entry {record.last} of term {record.last_term} here"
            raise CorruptJournal(path, record.offset, why)


@define
class Request:
    """A READ that is being served: the cursor is `next`."""

    next: int
    last: int
    piece_bytes: int
    tag: int


@define
class JournalProcess:
    """Process 3. Batches in; what is durable, and what was asked for, out.

    It never waits inside: an answer that does not fit its ring is kept, and tried again on the next
    turn, while batches go on. Waiting requests are bounded, and so is what is kept of an answer.
    """

    journal: Journal
    persist: Consumer
    persisted: Producer
    read: Producer
    counters: Counters | None = None
    _persist_bytes: int = field(default=0, init=False)
    _durable: bytes = field(default=b"", init=False)
    """The PERSISTED slot that did not fit yet; a later one says all that it says."""
    _answer: bytes | bytearray = field(default=b"", init=False)
    """The piece for `read` that did not fit yet."""
    _ends: Ends = field(init=False)
    _requests: "deque[Request]" = field(factory=lambda: deque[Request](), init=False)

    def __attrs_post_init__(self) -> None:
        self._ends = (self.persist, self.persisted, self.read)
        self._answer = slots.pack_recovered(self.journal.recovered)
        assert len(self._answer) <= self.read.capacity // 8, "RECOVERED fits no slot of `read`"

    def work(self) -> int:
        """Do what there is to do now, in bounded pieces; 0 when there was nothing.

        Raises JournalFailed after FAILED was written: the process must end with
        EXIT_JOURNAL_FAILED.
        """
        try:
            done = self._take_batch() + self._tell() + self._serve()
            if done:
                self.journal.keep_ahead()
                return done
            return int(self.journal.prepare())
        except JournalFailed as failure:
            self._fail(failure.tag, failure.sentence)
            raise
        except CorruptJournal as damage:
            self._fail(OTHER_FAILURE, str(damage))
            raise

    def ends(self) -> Ends:
        """The ring that it reads, and those that may be full of its answers."""
        return self._ends

    def sleep_ns(self) -> int:
        """Nothing here is due by itself."""
        return PARK_NS

    def close(self) -> None:
        """Mark the end and close the journal: the last batch need not be written again at the next
        start."""
        self.journal.close()

    def _take_batch(self) -> int:
        run = self.persist.peek()
        size = len(run)
        if not size:
            return 0
        parts = self._separate(run)
        started_ns = time.monotonic_ns()
        if parts:
            self.journal.write(*parts)
        for part in parts:
            part.release()
        run.release()
        self.persist.release(size)
        self._persist_bytes += size
        if parts:
            written_ns = time.monotonic_ns()
            self.journal.sync()
            self._count(size, written_ns - started_ns, time.monotonic_ns() - written_ns)
            contents = self.journal.contents
            self._durable = slots.pack_persisted(
                contents.last_term, contents.last, self._persist_bytes
            )
        return 1

    def _separate(self, run: memoryview) -> list[memoryview]:
        """The stretches of a run that belong on disk; requests between them are noted."""
        parts: list[memoryview] = []
        start = at = 0
        for kind, tag, slot in slots.slots_of(run):
            following = at + slots.padded(len(slot))
            if kind == slots.READ:
                first, last, piece_bytes = slots.unpack_read(slot)
                assert len(self._requests) < READS_WAITING_MAX, "too many reads wait"
                self._requests.append(Request(first, last, piece_bytes, tag))
                if start < at:
                    parts.append(run[start:at])
                start = following
            slot.release()
            at = following
        if start < at:
            parts.append(run[start:at])
        return parts

    def _tell(self) -> int:
        if not self._durable or not self.persisted.write(self._durable):
            return 0
        self._durable = b""
        return 1

    def _serve(self) -> int:
        """One piece of the oldest request."""
        if not self._answer:
            if not self._requests:
                return 0
            self._answer = self._next_piece(self._requests[0])
        if self._answer:
            if not self.read.write(self._answer):
                return 0
            self._answer = b""
        elif self._requests:
            self._requests.popleft()
        return 1

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

    def _fail(self, tag: int, sentence: str) -> None:
        """Say it while the process still can; what was durable before was told, or is told now."""
        self._tell()
        room = self.persisted.capacity // 8 - slots.HEADER_BYTES
        text = sentence.encode()[:room].decode(errors="ignore").encode()
        slot = slots.HEADER.pack(slots.HEADER_BYTES + len(text), slots.FAILED, tag) + text
        self.persisted.write(slot + bytes(-len(slot) % 8))

    def _count(self, size: int, write_ns: int, fsync_ns: int) -> None:
        if self.counters is None:
            return
        counters, histograms = self.counters.counters, self.counters.histograms
        counters["batches"].add()
        counters["bytes"].add(size)
        counters["syncs"].add()
        counters["durable_index"].set(self.journal.contents.last)
        counters["segments"].set(self.journal.segments)
        histograms["write_ns"].record(write_ns)
        histograms["fsync_ns"].record(fsync_ns)
        histograms["batch_bytes"].record(size)
