"""Reads entries back from the segments, by index, a bounded piece at a time.

What is read is checked again: record and header crc, and that the entries follow each other. A
reader that goes on where it stopped does not search; one that jumps walks at most the 256 KiB
behind a place (see contents.py). Files are read, not mapped, so that a bad block is an error with a
sentence and not a signal.
"""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from attrs import define, field, frozen

from . import slots
from .contents import Contents
from .errors import OTHER_FAILURE, CorruptJournal, JournalFailed
from .records import RECORD_HEADER_BYTES, decode_record_header

WINDOW_BYTES = 256 * 1024
_INDEX = struct.Struct("<Q")


@frozen
class Extent:
    """What a reader must know of a segment: its file, the crc seed, and where its records end."""

    path: Path
    seed: int
    end: int


@define
class Reader:
    """Walks records of one journal. `extent_of` gives the extent of a segment as it is now."""

    contents: Contents
    extent_of: Callable[[int], Extent]
    _file: int = field(default=-1, init=False)
    _segment: int = field(default=0, init=False)
    _extent: Extent | None = field(default=None, init=False)
    _window: memoryview = field(default=memoryview(b""), init=False)
    _window_start: int = field(default=0, init=False)
    _next: tuple[int, int, int, int] = field(default=(0, 0, 0, 0), init=False)
    """(index, segment, offset of a record to go on from, truncations when that was true)."""

    def read(self, first: int, last: int, bytes_max: int) -> bytearray:
        """A run of the ENTRY slots first … last, at least one, and no more than fit `bytes_max`."""
        contents = self.contents
        last = min(last, contents.last)
        run = bytearray()
        index = first
        while index <= last:
            segment, offset, limit = self._find(index)
            index, full = self._walk(run, index, min(last + 1, limit), segment, offset, bytes_max)
            if full:
                break
        return run

    def _find(self, index: int) -> tuple[int, int, int]:
        begin, limit, segment, offset = self.contents.place_of(index)
        next_index, next_segment, next_offset, truncations = self._next
        if (
            next_index == index
            and index > begin
            and next_segment == segment
            and truncations == self.contents.truncations
        ):
            offset = next_offset
        return segment, offset, limit

    def _walk(
        self, run: bytearray, index: int, stop: int, segment: int, offset: int, bytes_max: int
    ) -> tuple[int, bool]:
        """Append entries `index` … `stop - 1` from the record at `offset` on; (next index, run is
        full)."""
        while index < stop:
            body, following = self._record(segment, offset)
            for found, start, end in _entries(body):
                if found < index:
                    continue
                if found >= stop:
                    break
                if found != index:
                    raise self._damaged(offset, f"entry {found} lies where {index} should")
                if run and len(run) + end - start > bytes_max:
                    self._next = (index, segment, offset, self.contents.truncations)
                    return index, True
                run += body[start:end]
                index += 1
            else:
                offset = following
        self._next = (index, segment, offset, self.contents.truncations)
        return index, False

    def _record(self, segment: int, offset: int) -> tuple[memoryview, int]:
        """The body of the record at `offset`, checked, and the offset of the next."""
        head = self._view(segment, offset, RECORD_HEADER_BYTES)
        assert self._extent is not None
        header = decode_record_header(head, 0, self._extent.seed, offset)
        if header is None:
            raise self._damaged(offset, "there is no valid record header any more")
        start = offset + RECORD_HEADER_BYTES
        body = self._view(segment, start, header.body_bytes)
        if zlib.crc32(body) != header.body_crc:
            raise self._damaged(offset, "the checksum of the record does not match any more")
        return body, start + header.body_bytes

    def _view(self, segment: int, offset: int, size: int) -> memoryview:
        """`size` bytes at `offset` of a segment."""
        if segment != self._segment:
            self._open(segment)
        at = offset - self._window_start
        if at < 0 or at + size > len(self._window):
            extent = self._extent = self.extent_of(segment)
            wanted = min(max(size, WINDOW_BYTES), extent.end - offset)
            self._window = memoryview(self._pread(extent, wanted, offset))
            self._window_start, at = offset, 0
            if len(self._window) < size:
                raise self._damaged(offset, "the file ends here")
        return self._window[at : at + size]

    def _pread(self, extent: Extent, size: int, offset: int) -> bytes:
        try:
            return os.pread(self._file, size, offset)
        except OSError as error:
            raise JournalFailed(
                OTHER_FAILURE,
                f"Cannot read {extent.path} at {offset}: {error.strerror}. Check the disk, "
                "then start the replica again.",
            ) from error

    def _open(self, segment: int) -> None:
        self.close()
        extent = self.extent_of(segment)
        try:
            self._file = os.open(extent.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise CorruptJournal(extent.path, 0, f"cannot be opened: {error.strerror}") from error
        self._segment, self._extent = segment, extent

    def _damaged(self, offset: int, why: str) -> CorruptJournal:
        assert self._extent is not None
        return CorruptJournal(self._extent.path, offset, why)

    def close(self) -> None:
        """Close the file; the reader can go on after that."""
        if self._file >= 0:
            os.close(self._file)
        self._file, self._segment, self._extent = -1, 0, None
        self._window, self._window_start = memoryview(b""), 0


def _entries(body: memoryview) -> list[tuple[int, int, int]]:
    """(index, start, end) of the ENTRY slots of a body that the body itself does not take back."""
    found: list[tuple[int, int, int]] = []
    at, end = 0, len(body)
    unpack, index_of = slots.HEADER.unpack_from, _INDEX.unpack_from
    while at < end:
        length, kind, _ = unpack(body, at)
        following = at + ((length + 7) & ~7)
        if kind in (slots.ENTRY, slots.TRUNCATE):
            (index,) = index_of(body, at + slots.HEADER_BYTES)
            while found and found[-1][0] >= index:
                found.pop()
            if kind == slots.ENTRY:
                found.append((index, at, following))
        at = following
    return found
