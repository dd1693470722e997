"""A replica's log, read from its directory without taking part: nothing is written or locked.

It may be read while the replica runs. What is shown is the log as it stood when it was opened: a
batch that is being written at that moment is not part of it. The segments are held open, so what
retention removes meanwhile can still be read. Corruption is named, never passed over. Entries that
an earlier leader wrote and a later one overwrote are not shown.
"""

import resource
from collections.abc import Iterator
from pathlib import Path

from attrs import define, field

from ..runtime import slots
from ..runtime.contents import Contents, Inconsistent
from ..runtime.errors import CorruptJournal, JournalFailed, OperatorError
from ..runtime.identity import Identity, load_identity
from ..runtime.reader import Extent, Reader
from ..runtime.records import BLOCK_BYTES, CORRUPT, RECORD_HEADER_BYTES, Scan, SegmentHeader
from ..runtime.records import decode_record_header as decode_record
from ..runtime.segments import list_segments, read_header
from ..runtime.slots import EntryHeader
from .held import LISTINGS_MAX, Held
from .nearest import hold_snapshots

READ_BYTES = 1024 * 1024
SCANS_MAX = 3
"""A running replica may write between two looks; what is corrupt stays corrupt."""


@define
class History:
    """An opened log: its range, and its entries."""

    directory: Path
    identity: Identity
    contents: Contents = field(factory=Contents, init=False)
    segments: dict[int, Held] = field(factory=dict[int, Held], init=False)
    snapshots: dict[int, Held] = field(factory=dict[int, Held], init=False)
    """By index, oldest first; only those that the log goes on from without a gap."""
    headers: dict[int, SegmentHeader] = field(factory=dict[int, SegmentHeader], init=False)
    extents: dict[int, Extent] = field(factory=dict[int, Extent], init=False)

    @property
    def first(self) -> int:
        """The index of the first entry that is kept."""
        return self.contents.first

    @property
    def last(self) -> int:
        """The index of the last entry; first - 1 while the log is empty."""
        return self.contents.last

    @property
    def earliest(self) -> int | None:
        """The first index whose state can be had: 0 is that before the log; None: there is none."""
        if self.first == 1:
            return 0
        return min(self.snapshots, default=None)

    @property
    def skips(self) -> list[tuple[int, int]]:
        """The commands that an operator left out."""
        return [(index, ordinal) for _, index, ordinal in self.contents.skips]

    def entries(self, first: int, last: int) -> Iterator[tuple[EntryHeader, memoryview]]:
        """(header, body) of the entries from `first` to `last`, as far as there are such."""
        for slot in self.slots(first, last):
            yield slots.unpack_entry(slot), slot[slots.ENTRY_HEADER_BYTES :]

    def slots(self, first: int, last: int) -> Iterator[memoryview]:
        """The ENTRY slots from `first` to `last`, as far as there are such."""
        index = max(first, self.first)
        for run in self.runs(first, last):
            for _, _, slot in slots.slots_of(memoryview(run)):
                assert slots.unpack_entry(slot).index == index
                yield slot
                index += 1

    def runs(self, first: int, last: int) -> Iterator[bytearray]:
        """The same slots as runs of a megabyte or so, as they lie in the journal."""
        index, last = max(first, self.first), min(last, self.last)
        reader = Reader(self.contents, self.extents.__getitem__)
        try:
            while index <= last:
                run = reader.read(index, last, READ_BYTES)
                yield run
                index += sum(1 for _ in slots.slots_of(memoryview(run)))
        except JournalFailed as failure:
            raise OperatorError(failure.sentence) from None
        except CorruptJournal as damage:
            raise self._by_its_name(damage) from None
        finally:
            reader.close()

    def records(self) -> Iterator[tuple[int, int, int]]:
        """(first index or 0, last index, body bytes) of every batch, overwritten ones included."""
        for segment_id, held in self.segments.items():
            extent = self.extents[segment_id]
            content = memoryview(held.read(extent.end))
            offset = BLOCK_BYTES
            while offset < extent.end:
                record = decode_record(content, offset, extent.seed, offset)
                if record is None:
                    raise CorruptJournal(held.path, offset, "there is no valid record header")
                yield record.first, record.last, record.body_bytes
                offset += RECORD_HEADER_BYTES + record.body_bytes

    def _by_its_name(self, damage: CorruptJournal) -> CorruptJournal:
        for held in self.segments.values():
            if held.now == damage.file:
                return CorruptJournal(held.path, damage.offset, damage.why)
        return damage


def open_history(directory: Path) -> History:
    """Read the log of a replica, running or not. Raises OperatorError where there is none."""
    identity = load_identity(directory)
    snapshots = hold_snapshots(directory)  # Before the segments: see nearest.py.
    history = read_history(directory, identity, hold_segments(directory / "journal"))
    history.snapshots = {
        index: held for index, held in snapshots.items() if history.first - 1 <= index
    }
    return history


def read_history(directory: Path, identity: Identity, segments: dict[int, Held]) -> History:
    """Fold what the held segments hold."""
    history = History(directory, identity)
    headers = history.headers
    for segment_id, held in segments.items():
        block = held.read(BLOCK_BYTES)
        header = headers[segment_id] = read_header(
            held.path, block, segment_id, identity.cluster_id, identity.replica_id
        )
        if header.anew:  # The log was given up, behind a snapshot that was received.
            for before in [one for one in headers if one < segment_id]:
                del headers[before]
    history.segments = {segment_id: segments[segment_id] for segment_id in headers}
    if headers:
        oldest = headers[min(headers)]
        history.contents.begin(oldest.first, oldest.last_term, oldest.last_time_ns)
    for segment_id, header in headers.items():
        following = headers.get(segment_id + 1)
        _fold_segment(history, header, following.sealed if following else None)
    return history


def hold_segments(journal: Path) -> dict[int, Held]:
    """Open every segment, by id, in order; all of them from one moment on."""
    _raise_descriptor_limit()
    for attempt in range(LISTINGS_MAX):
        listed = list_segments(journal)
        try:
            return {segment_id: Held.open(path) for segment_id, path in listed}
        except FileNotFoundError as error:
            if attempt + 1 == LISTINGS_MAX:
                raise OperatorError(
                    f"{error.filename} was removed while it was read, by the running replica: "
                    "try again."
                ) from None
        except OSError as error:
            raise OperatorError(f"Cannot read {error.filename}: {error.strerror}.") from None
    raise AssertionError("unreachable")


def _raise_descriptor_limit() -> None:
    """A journal may have more segments than a shell lets a process hold open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _fold_segment(history: History, header: SegmentHeader, sealed: int | None) -> None:
    """Take the valid records of one segment into the contents."""
    held = history.segments[header.segment_id]
    folded = BLOCK_BYTES
    for attempt in range(SCANS_MAX):
        # Read, not mapped: a roll cuts the file, and a mapping would end this process.
        scan = Scan(memoryview(held.read()), header.seed, sealed)
        for record in scan:
            if record.offset >= folded and record.body:
                try:
                    history.contents.fold(record.body, header.segment_id, record.offset)
                except Inconsistent as wrong:
                    raise CorruptJournal(held.path, record.offset, str(wrong)) from None
                folded = record.end
        if scan.verdict != CORRUPT:
            break
        if attempt + 1 == SCANS_MAX:
            raise CorruptJournal(held.path, scan.bad_offset, scan.why)
    history.extents[header.segment_id] = Extent(held.now, header.seed, folded)
