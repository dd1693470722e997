"""The journal: the log on disk, a directory of segments.

A batch goes out with one write, straight from where it lies, and one sync, and only after that sync
does anything count as persisted (I4). Its process is in journal_process.py.

What the start does with the end of the log, where an earlier process may have died:

    closed, or idle when it died
        A mark covers everything: the directory and the file are synced, and go on.
    anything else
        The batch behind the last mark is whole, but perhaps in the page cache alone, and a sync
        that failed may have left it there marked as clean. So it is written again, into a new
        segment whose header ends the old one before it. A torn batch is left out in the same way.
    damage below the last mark
        CorruptJournal with file and offset; nothing is changed. A replica that has peers goes on
        from what lies before it, as one that is to be repaired (salvage.py).

Where a snapshot covers the beginning, the log may begin behind it, but no later: a gap is refused.
A log that *ends* before a snapshot that the replica took itself has lost entries, and perhaps such
as were acknowledged behind the snapshot: refused, since nobody can tell. Behind a snapshot that was
received from a peer a shorter log is what a crash while it was taken in leaves: it holds nothing
that is not in the snapshot, term and vote apart, and begins anew behind it. A journal that is gone
altogether has taken term and vote with it: refused.

A write or a sync that fails is never tried again: JournalFailed, and the replica stops. Left to
others: what the entries mean, who may vote, and when old segments may go (`release_before`).
"""

import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from attrs import define, evolve, field, frozen

from . import slots
from .contents import Contents, Inconsistent
from .errors import CorruptJournal, LostJournal, OperatorError
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
from .salvage import NOTE_NAME, Note, salvage
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
from .snapshotfile import SnapshotHeader


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
    note: Note | None = field(default=None, init=False)
    """What was damaged, and is not repaired."""
    _has_peers: Callable[[bytes], bool] = field(default=lambda members: False, init=False)
    _unsynced: bool = field(default=False, init=False)
    _marked: bool = field(default=True, init=False)

    @classmethod
    def open(
        cls,
        directory: Path,
        owner: Owner,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        covered: SnapshotHeader | None = None,
        disk: Disk | None = None,
        has_peers: Callable[[bytes], bool] | None = None,
    ) -> "Journal":
        """Open or create the journal in `directory`; everything it holds then is durable.

        `covered` is the snapshot that serves: see the head of this file. `has_peers` says of the
        newest membership that is known (empty: as founded) whether there is anybody to be repaired
        from. Raises OperatorError
        (CorruptJournal, LostJournal, ForeignJournal, NewerFormat) and JournalFailed.
        """
        journal = cls(directory, owner, segment_bytes, disk or Disk())
        if has_peers is not None:
            journal._has_peers = has_peers
        return journal._opening(lambda: journal._open(covered))

    @classmethod
    def create(
        cls,
        directory: Path,
        owner: Owner,
        behind: SnapshotHeader,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        disk: Disk | None = None,
    ) -> "Journal":
        """Begin an empty log behind a snapshot, for a replica that never voted. Raises as `open`."""
        journal = cls(directory, owner, segment_bytes, disk or Disk())
        return journal._opening(lambda: journal._create(behind))

    def _opening(self, step: Callable[[], None]) -> "Journal":
        directory = self.directory
        assert self.segment_bytes % BLOCK_BYTES == 0
        try:
            create_directory(directory)
            step()
            self._opened = True
        except OSError as error:
            raise OperatorError(
                f"Cannot use the journal in {directory}: {error.strerror} "
                f"({error.filename or 'reading'}). "
                "This user must be able to read and write it, and the disk must work."
            ) from error
        finally:
            if not self._opened:
                self.abandon()
        return self

    @property
    def recovered(self) -> slots.Recovered:
        """What the journal holds."""
        self._settle_time()
        found = self.contents.recovered()
        if self.note is None:
            return found
        return evolve(found, damage_last=self.note.last, damage_last_term=self.note.last_term)

    @property
    def segments(self) -> int:
        """How many files there are."""
        return len(self.closed) + 1

    @property
    def file_bytes(self) -> int:
        """What the segments take on disk, the spare apart."""
        closed = sum(one.extent.end for one in self.closed.values())
        return closed + self.current.size

    # Writing

    def write(self, *run: Buffer) -> None:
        """Write one batch, a run in one or more parts, behind the last; it is durable after
        `sync`."""
        assert not self._unsynced, "the batch before was not synced"
        current = self.current
        size = RECORD_HEADER_BYTES + sum(map(len, run))
        if size > current.room:
            self._roll(run)
            return
        header = self._take_in(run, current.header, current.seed, current.offset)
        self._unsynced, self._marked = True, False
        current.write([header, *run], size)

    def was_written(self, offset: int) -> None:
        """Records were written and synced behind the last one, up to `offset` (batches.py)."""
        assert not self._unsynced, "the batch before was not synced"
        current = self.current
        current.offset = offset
        current.filled = max(current.filled, current.offset)
        self._marked = False

    def sync(self) -> None:
        """Make the last batch durable (I4). Must not be called again after it failed."""
        if self._unsynced:
            self.current.sync()
            self._unsynced = False

    @property
    def _is_marked(self) -> bool:
        return self._marked or self.current.room < RECORD_HEADER_BYTES

    def mark(self) -> bool:
        """Note behind the last batch that it was synced; unsynced itself, and overwritten by the
        next batch."""
        if self._is_marked or self._unsynced:
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

    @property
    def is_prepared(self) -> bool:
        """Whether `prepare` has nothing to do."""
        current, spare = self.current, self.spare
        filled = current.filled >= current.size and (spare.refused or spare.filled >= spare.size)
        return filled and self._is_marked

    @property
    def ahead_at(self) -> int:
        """The end of the log in its file from which on `keep_ahead` has something to do."""
        current, spare = self.current, self.spare
        if current.filled < current.size:
            return current.filled // 2 + 1
        if spare.refused or spare.filled >= spare.size:
            return current.size + 1
        return current.size // 2 + spare.filled // 2 + 1

    def keep_ahead(self) -> bool:
        """Under load: a piece of `prepare`, if the spare would otherwise not be ready in time."""
        if self.current.offset < self.ahead_at:
            return False
        return self.current.fill() or self.spare.fill()

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

    def release_before(self, index: int) -> list[Path]:
        """Forget the segments that hold nothing but entries below `index`.

        Their files are for the caller to remove, in this order, each durably gone before the next.
        Those that a crash leaves are part of the log again.
        """
        released: list[Path] = []
        for segment_id, closed in sorted(self.closed.items()):
            following = self.closed.get(segment_id + 1)
            header = following.header if following else self.current.header
            if header.first > index:
                break
            self.reader.close()
            released.append(closed.extent.path)
            del self.closed[segment_id]
            first = self.contents.first_in(segment_id + 1, header.first)
            self.contents.forget_segments_before(segment_id + 1, first, header.last_term)
        return released

    def discard_before(self, index: int) -> int:
        """Release segments and remove them, here and now; how many."""
        released = self.release_before(index)
        self._remove(released)
        return len(released)

    def restart_behind(self, snapshot: SnapshotHeader) -> None:
        """Let the log begin anew behind a snapshot that was received, and holds all that it held.

        Term and vote stay. The new beginning is durable before the old segments go.
        """
        self.reader.close()
        old = self.current
        self.contents.restart(snapshot.index, snapshot.term, snapshot.time_ns)
        self._start_segment(old.header.segment_id + 1, old.offset, [], anew=1)
        self._close_segment(old)
        remains = [closed.extent.path for _, closed in sorted(self.closed.items())]
        self.closed.clear()
        self._remove(remains)

    def _remove(self, paths: Sequence[Path]) -> None:
        for path in paths:
            self.disk.remove(path)
            self.disk.sync_directory(self.directory)

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
        contents, first, segment_id = self.contents, 0, header.segment_id
        for part in run:
            first_of_part = contents.fold(memoryview(part), segment_id, offset)
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

    def _start_segment(
        self, segment_id: int, sealed: int, run: Sequence[Buffer], anew: int = 0
    ) -> None:
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
            anew,
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

    def _create(self, behind: SnapshotHeader) -> None:
        assert not list_segments(self.directory), "there is a log already"
        self.contents.term = behind.term
        self.contents.restart(behind.index, behind.term, behind.time_ns)
        self._start_segment(1, 0, [])

    def _open(self, covered: SnapshotHeader | None) -> None:
        found = list_segments(self.directory)
        if not found:
            if covered is not None:
                raise LostJournal(
                    f"{self.directory} holds no journal, but there is a snapshot of entry "
                    f"{covered.index}: the replica's term and vote are lost, and with them whatever "
                    "was acknowledged after the snapshot. Put the journal back, make a new cluster "
                    "of it with `leftfold restore`, or let a new member take its place."
                )
            self._start_segment(1, 0, [])
            return
        self.disk.sync_directory(self.directory)  # A name may be as fresh as the kill that left it.
        headers = [self._header_of(segment_id, path) for segment_id, path in found]
        start = max((at for at, header in enumerate(headers) if header.anew), default=0)
        remains, found, headers = found[:start], found[start:], headers[start:]
        self._refuse_gap(headers[0], covered)
        self.contents.begin(headers[0].first, headers[0].last_term, headers[0].last_time_ns)
        self.note = Note.read(self.directory)
        try:
            for (_, path), header, following in zip(found, headers, headers[1:], strict=False):
                self._recover_segment(path, header, following.sealed)
            self._recover_end(found[-1][1], headers[-1], covered)
        except CorruptJournal as damage:
            self._salvage(
                damage,
                [(path, header) for (_, path), header in zip(found, headers, strict=True)],
                covered,
            )
        self._remove([path for _, path in remains])
        if covered is not None:
            self._go_on_from(covered)
        if self.note is not None:
            self._keep_promises(self.note, covered)

    def _salvage(
        self,
        damage: CorruptJournal,
        segments: list[tuple[Path, SegmentHeader]],
        covered: SnapshotHeader | None,
    ) -> None:
        """Go on from what lies before the damage, if there are peers to be repaired from; raise it, if not."""
        contents = Contents()
        first = segments[0][1]
        contents.begin(first.first, first.last_term, first.last_time_ns)
        found = salvage(segments, contents)
        configured = [body for _, body in contents.configurations]
        members = (configured or [covered.membership if covered else b""])[-1]
        note = self.note if found.note is None else found.note.with_older(self.note)
        if note is None or not self._has_peers(members):
            raise damage
        self.note = note
        self.note.write(self.directory)
        self._remove([path for path, _ in reversed(segments[found.at + 1 :])])
        contents.term, contents.voted_for = self.note.term, self.note.voted_for
        self.contents = contents
        self.reader = Reader(contents, self._extent_of)
        self.closed = {
            header.segment_id: Closed(header, Extent(path, header.seed, following.sealed))
            for (path, header), (_, following) in pairwise(segments[: found.at + 1])
        }
        path, header = segments[found.at]
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        size = os.fstat(file).st_size
        self.current = Segment(path, file, header, size, self.disk, offset=found.end)
        self.current.sync()
        self._roll([])
        self.mark()

    def _keep_promises(self, note: Note, covered: SnapshotHeader | None) -> None:
        """The newest vote is on disk again before the note of it can go."""
        contents = self.contents
        if note.term >= contents.term:
            same = note.term == contents.term  # A vote of an earlier term is none in this one.
            voted_for = note.voted_for or (contents.voted_for if same else 0)
            contents.term, contents.voted_for = note.term, voted_for
            self.write(contents.hard_state_slot())
            self.sync()
        if covered is not None and covered.index >= note.last:
            self.repaired()  # All that it had is in the snapshot.

    def repaired(self) -> None:
        """The replica has again what it had: the note of the damage goes."""
        if self.note is not None:
            self.disk.remove(self.directory / NOTE_NAME)
            self.disk.sync_directory(self.directory)
            self.note = None

    def _refuse_gap(self, oldest: SegmentHeader, covered: SnapshotHeader | None) -> None:
        """The log must begin no later than behind the snapshot that serves."""
        through = covered.index if covered else 0
        if oldest.first <= through + 1:
            return
        serves = (
            f"the snapshot that serves ends with entry {through}"
            if covered
            else ("there is no snapshot that serves")
        )
        raise CorruptJournal(
            self.directory / segment_name(oldest.segment_id - 1),
            0,
            f"entries {through + 1} to {oldest.first - 1} are missing: the log begins with entry "
            f"{oldest.first}, and {serves}",
        )

    def _go_on_from(self, covered: SnapshotHeader) -> None:
        """The log must continue the snapshot; what the snapshot holds is committed."""
        contents = self.contents
        term = contents.term_at(covered.index) if covered.index <= contents.last else 0
        if term != covered.term:
            if not covered.origin and self.note is None:
                raise CorruptJournal(
                    self.current.path,
                    0,
                    f"entry {covered.index} has term {term} in the log, and term {covered.term} in "
                    "the snapshot that this replica took of it",
                )
            self.restart_behind(covered)
        contents.commit = max(contents.commit, covered.index)

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

    def _recover_end(
        self, path: Path, header: SegmentHeader, covered: SnapshotHeader | None
    ) -> None:
        """The last segment: go on in it, or write its unmarked end again."""
        scan, rest = self._scan(path, header, None)
        last = rest[-1].last if rest else self.contents.last
        lost = covered is not None and last < covered.index and not covered.origin
        if lost and self.note is None:
            assert covered is not None
            raise CorruptJournal(
                path,
                scan.bad_offset or scan.length,
                f"the log ends here with entry {last}, but this replica took a snapshot of entry "
                f"{covered.index}: entries that were durable are missing",
            )
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
