"""A replica's log, read from its directory without taking part: nothing is written or locked.

It may be read while the replica runs. What is shown is the log as it stood when it was opened: a
batch that is being written at that moment is not part of it. Corruption is named, never passed
over. Entries that an earlier leader wrote and a later one overwrote are not shown.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

from attrs import define, field

from ..runtime import slots
from ..runtime.contents import Contents, Inconsistent
from ..runtime.errors import CorruptJournal, JournalFailed, OperatorError
from ..runtime.identity import Identity, load_identity
from ..runtime.reader import Extent, Reader
from ..runtime.records import BLOCK_BYTES, CORRUPT, Scan, SegmentHeader
from ..runtime.segments import list_segments, read_header
from ..runtime.slots import EntryHeader

READ_BYTES = 1024 * 1024
SCANS_MAX = 3
"""A running replica may write between two looks; what is corrupt stays corrupt."""


@define
class History:
    """An opened log: its range, and its entries."""

    identity: Identity
    contents: Contents = field(factory=Contents, init=False)
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
    def skips(self) -> list[tuple[int, int]]:
        """The commands that an operator left out."""
        return [(index, ordinal) for _, index, ordinal in self.contents.skips]

    def entries(self, first: int, last: int) -> Iterator[tuple[EntryHeader, memoryview]]:
        """(header, body) of the entries from `first` to `last`, as far as there are such."""
        index, last = max(first, self.first), min(last, self.last)
        reader = Reader(self.contents, self.extents.__getitem__)
        try:
            while index <= last:
                run = memoryview(reader.read(index, last, READ_BYTES))
                for _, _, slot in slots.slots_of(run):
                    header = slots.unpack_entry(slot)
                    assert header.index == index
                    yield header, slot[slots.ENTRY_HEADER_BYTES :]
                    index += 1
        except JournalFailed as failure:
            raise OperatorError(failure.sentence) from None
        finally:
            reader.close()


def open_history(directory: Path) -> History:
    """Read the log of a replica, running or not. Raises OperatorError where there is none."""
    identity = load_identity(directory)
    history = History(identity)
    found = [
        (path, _header_of(path, segment_id, identity))
        for segment_id, path in list_segments(directory / "journal")
    ]
    if found:
        oldest = found[0][1]
        history.contents.begin(oldest.first, oldest.last_term, oldest.last_time_ns)
    for (path, header), following in zip(found, [*found[1:], None], strict=True):
        _fold_segment(history, path, header, following[1].sealed if following else None)
    return history


def _header_of(path: Path, segment_id: int, identity: Identity) -> SegmentHeader:
    try:
        with path.open("rb") as file:
            block = file.read(BLOCK_BYTES)
    except OSError as error:
        raise OperatorError(f"Cannot read {path}: {error.strerror}.") from None
    return read_header(path, block, segment_id, identity.cluster_id, identity.replica_id)


def _fold_segment(history: History, path: Path, header: SegmentHeader, sealed: int | None) -> None:
    """Take the valid records of one segment into the contents."""
    folded = BLOCK_BYTES
    for attempt in range(SCANS_MAX):
        scan = Scan(_map(path), header.seed, sealed)
        for record in scan:
            if record.offset >= folded and record.body:
                try:
                    history.contents.fold(record.body, header.segment_id, record.offset)
                except Inconsistent as wrong:
                    raise CorruptJournal(path, record.offset, str(wrong)) from None
                folded = record.end
        if scan.verdict != CORRUPT:
            break
        if attempt + 1 == SCANS_MAX:
            raise CorruptJournal(path, scan.bad_offset, scan.why)
    history.extents[header.segment_id] = Extent(path, header.seed, folded)


def _map(path: Path) -> memoryview:
    try:
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError:
        raise OperatorError(
            f"{path} was removed while it was read, by the running replica: try again."
        ) from None
    except (OSError, ValueError) as error:
        raise OperatorError(f"Cannot read {path}: {error}.") from None
