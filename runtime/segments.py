"""The journal's files: `journal/00000001.log`, `00000002.log`, …, and one spare that is prepared
ahead.

A segment gets its name only when its header is durable: it is written under a temporary name,
synced, renamed, and the directory synced. So a named segment with a bad header is corruption, and
the ids of the names have no gaps.

Files are allocated and filled with zeros ahead of the writer, because a sync of 64 KiB takes half
as long in a zeroed file as in one that is merely allocated (the file system need not convert
extents). Filling happens in small synced pieces while the journal is idle, first ahead in the
current segment, then in the spare, so that a roll finds a file ready. If none is ready, a roll
takes what there is; it is never waited for.

Every call that reaches the disk goes through `Disk`, which turns a failure into `JournalFailed`
with a sentence. Nothing that failed is tried again (I4).
"""

import errno
import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from attrs import define, field, frozen

from .errors import (
    DISK_FULL,
    FSYNC_FAILED,
    OTHER_FAILURE,
    CorruptJournal,
    ForeignJournal,
    JournalFailed,
    NewerFormat,
)
from .records import BLOCK_BYTES, BadHeader, Buffer, LaterVersion, SegmentHeader

SEGMENT_BYTES = 64 * 1024 * 1024
FILL_BYTES = 128 * 1024
SPARE_NAME = "spare.tmp"
_ZEROS = bytes(FILL_BYTES)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_Result = TypeVar("_Result")


@frozen
class Disk:
    """The operating system's calls that make bytes durable. Tests put others in their place."""

    write: Callable[[int, Sequence[Buffer], int], int] = os.pwritev
    sync: Callable[[int], None] = os.fdatasync
    sync_all: Callable[[int], None] = os.fsync
    allocate: Callable[[int, int, int], None] = os.posix_fallocate
    unlink: Callable[[Path], None] = os.unlink
    rename_file: Callable[[Path, Path], None] = os.rename

    def write_whole(self, file: int, path: Path, parts: Sequence[Buffer], offset: int) -> None:
        """Write all parts at `offset`; usually one call."""
        try:
            written = self.write(file, parts, offset)
        except OSError as error:
            raise failed(path, OTHER_FAILURE, "write to", error) from error
        size = sum(map(len, parts))
        if written == size:
            return
        rest = memoryview(b"".join(parts))
        while written < size:  # The kernel took a part: go on where it stopped.
            position = offset + written
            remaining = rest[written:]
            written += _guard(
                path,
                OTHER_FAILURE,
                "write to",
                lambda: self.write(file, [remaining], position),  # noqa: B023
            )

    def sync_file(self, file: int, path: Path) -> None:
        """Make the file's content durable. A failure is final: what it left in memory proves
        nothing."""
        try:
            self.sync(file)
        except OSError as error:
            raise failed(path, FSYNC_FAILED, "sync", error) from error

    def sync_directory(self, directory: Path) -> None:
        """Make the directory's names durable."""
        opened = _guard(
            directory, OTHER_FAILURE, "open", lambda: os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        )
        try:
            _guard(directory, FSYNC_FAILED, "sync", lambda: self.sync_all(opened))
        finally:
            os.close(opened)

    def open_sized(self, path: Path, size: int) -> int:
        """Open or create a file of `size` allocated bytes."""

        def opened() -> int:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                self.allocate(file, 0, size)
            except OSError:
                os.close(file)
                path.unlink()
                raise
            return file

        return _guard(path, OTHER_FAILURE, "create", opened)

    def allocate_file(self, file: int, path: Path, size: int) -> None:
        """Reserve the space for `size` bytes."""
        _guard(path, OTHER_FAILURE, "allocate", lambda: self.allocate(file, 0, size))

    def remove(self, path: Path) -> None:
        """Remove a file; durable once its directory is synced."""
        _guard(path, OTHER_FAILURE, "remove", lambda: self.unlink(path))

    def rename(self, old: Path, new: Path) -> None:
        """Give a synced file its name, durably."""
        _guard(new, OTHER_FAILURE, "name", lambda: self.rename_file(old, new))
        self.sync_directory(new.parent)


def _guard(path: Path, tag: int, verb: str, call: Callable[[], _Result]) -> _Result:
    """Do one call on the disk; a failure becomes a sentence."""
    try:
        return call()
    except OSError as error:
        raise failed(path, tag, verb, error) from error


def failed(path: Path, tag: int, verb: str, error: OSError) -> JournalFailed:
    """The sentence for a call on the disk that failed, with the tag of the cause."""
    if error.errno in _FULL:
        sentence = (
            f"The disk is full: cannot {verb} {path} ({error.strerror}). "
            "Everything acknowledged is safe. Free space on that file system, "
            "then start the replica again."
        )
        return JournalFailed(DISK_FULL, sentence)
    sentence = (
        f"Cannot {verb} {path}: {error.strerror}. "
        "The replica stops without trying again, because what the disk holds now is unknown. "
        "Check the disk, then start the replica again."
    )
    return JournalFailed(tag, sentence)


@define
class Segment:
    """One open segment file and the position of its writer."""

    path: Path
    file: int
    header: SegmentHeader
    size: int
    disk: Disk
    offset: int = BLOCK_BYTES
    """Where the next record goes."""
    filled: int = field(default=BLOCK_BYTES)
    """Up to here the file is known to hold written bytes, zeros or records."""
    seed: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.seed = self.header.seed

    @property
    def room(self) -> int:
        """Bytes left."""
        return self.size - self.offset

    def write(self, parts: Sequence[Buffer], size: int) -> None:
        """Write a record of `size` bytes at the end, unsynced."""
        self.write_mark(parts, size)
        self.offset += size

    def write_mark(self, parts: Sequence[Buffer], size: int) -> None:
        """Write a record that the next one overwrites."""
        self.disk.write_whole(self.file, self.path, parts, self.offset)
        self.filled = max(self.filled, self.offset + size)

    def sync(self) -> None:
        """Make what was written durable."""
        self.disk.sync_file(self.file, self.path)

    def fill(self) -> bool:
        """Write and sync one piece of zeros ahead; False when there is nothing left to fill."""
        if self.filled >= self.size:
            return False
        self.filled = _fill(self.disk, self.file, self.path, self.filled, self.size)
        return True

    def cut(self) -> None:
        """Give back the space behind the last record; the next segment's header already says where
        that is."""
        os.ftruncate(self.file, self.offset)

    def close(self) -> None:
        """Close the file; again is nothing."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


def _fill(disk: Disk, file: int, path: Path, filled: int, size: int) -> int:
    piece = min(FILL_BYTES - filled % FILL_BYTES, size - filled)
    disk.write_whole(file, path, [memoryview(_ZEROS)[:piece]], filled)
    disk.sync_file(file, path)
    return filled + piece


def filled_until(file: int, size: int, offset: int) -> int:
    """Where the first hole or unwritten extent behind `offset` begins, as far as the file system
    tells."""
    try:
        return min(size, os.lseek(file, offset, os.SEEK_HOLE)) if offset < size else size
    except OSError:
        return offset


@define
class Spare:
    """The file that will be the next segment, still under its temporary name."""

    path: Path
    size: int
    disk: Disk
    file: int = field(default=-1, init=False)
    filled: int = field(default=0, init=False)
    refused: bool = field(default=False, init=False)
    """The disk was full when the spare was prepared: not a failure yet, the roll will see."""

    def fill(self) -> bool:
        """Prepare one piece more; False when it is ready, or cannot be had now."""
        if self.refused or self.filled >= self.size:
            return False
        try:
            if self.file < 0:
                self._open()
            else:
                self.filled = _fill(self.disk, self.file, self.path, self.filled, self.size)
        except JournalFailed as failure:
            if failure.tag != DISK_FULL:
                raise
            self.drop()
            self.refused = True
        return True

    def _open(self) -> None:
        self.file = self.disk.open_sized(self.path, self.size)
        self.filled = filled_until(self.file, self.size, 0)

    def take(self, name: Path, header: SegmentHeader, record: Sequence[Buffer]) -> Segment:
        """Make the file, as far as it is prepared, the segment `name` with a first record; durable
        on return.

        The record must be there before the name is: the header ends the segment before it, and what
        this record repeats from there would be lost with a crash in between.
        """
        if self.file < 0:
            self._open()
        end = BLOCK_BYTES + sum(len(part) for part in record)
        size = max(self.size, -(-end // BLOCK_BYTES) * BLOCK_BYTES)
        if size > self.size:  # A batch from a start with larger limits.
            self.disk.allocate_file(self.file, self.path, size)
        file, filled = self.file, max(self.filled, end)
        self.disk.write_whole(file, self.path, [header.encode(), *record], 0)
        self.disk.sync_file(file, self.path)
        self.disk.rename(self.path, name)
        self.file, self.filled, self.refused = -1, 0, False
        return Segment(name, file, header, size, self.disk, offset=end, filled=filled)

    def close(self) -> None:
        """Close the file; what is prepared stays for the next start."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1

    def drop(self) -> None:
        """Give the space back."""
        self.close()
        self.filled = 0
        self.path.unlink(missing_ok=True)


def segment_name(segment_id: int) -> str:
    """The file name of a segment."""
    return f"{segment_id:08d}.log"


def list_segments(directory: Path) -> list[tuple[int, Path]]:
    """(id, path) of the segments, in order. A gap between them is corruption."""
    found = sorted(
        (int(path.stem), path) for path in directory.glob("*.log") if path.stem.isdecimal()
    )
    for (before, _), (segment_id, path) in pairwise(found):
        if segment_id != before + 1:
            missing = directory / segment_name(before + 1)
            raise CorruptJournal(missing, 0, f"the segment is missing, but {path.name} follows it")
    return found


def read_header(
    path: Path, block: Buffer, segment_id: int, cluster_id: bytes, replica_id: int
) -> SegmentHeader:
    """Check a segment's first block against its name and its owner."""
    try:
        header = SegmentHeader.decode(block)
    except BadHeader as bad:
        raise CorruptJournal(path, 0, str(bad)) from None
    except LaterVersion as later:
        raise NewerFormat(
            f"{path} has journal format {later}, which this leftfold is too old to read. "
            "Start it with the version that wrote it, or a later one."
        ) from None
    if header.cluster_id != cluster_id or header.replica_id != replica_id:
        raise ForeignJournal(
            f"{path} belongs to replica {header.replica_id} of cluster {header.cluster_id.hex()}, "
            f"not to replica {replica_id} of cluster {cluster_id.hex()}. "
            "Put it back where it came from."
        )
    if header.segment_id != segment_id:
        raise CorruptJournal(path, 0, f"the file holds segment {header.segment_id}")
    return header
