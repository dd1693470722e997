"""A snapshot that the leader sends, on its way to disk: chunks, in order, into one temporary file.

The journal's loop writes and syncs each chunk before it tells that it is durable; what is behind the last chunk (reading the
file back, and making it count) is the spool's. A disk that refuses costs this snapshot, not the replica: it is told as damaged,
and the leader sends it anew. The file does not outlive the process: a start begins with the first chunk again.
"""

import contextlib
import os
from pathlib import Path

from attrs import define, field

from .segments import Disk
from .snapshots import SnapshotStore
from .transfer_slots import StoreChunk


@define(eq=False)
class Incoming:
    """At most one file at a time."""

    store: SnapshotStore
    disk: Disk
    index: int = field(default=0, init=False)
    _file: int = field(default=-1, init=False)
    _path: Path = field(default=Path(), init=False)
    _next: int = field(default=0, init=False)

    def take(self, chunk: StoreChunk) -> str:
        """Write one chunk; why it could not be, or nothing. Chunks behind one that failed are passed over."""
        try:
            if chunk.offset == 0:
                self._begin(chunk.index)
            if chunk.index != self.index or chunk.offset != self._next:
                return ""
            written, data = 0, memoryview(chunk.data)
            while written < len(data):
                written += self.disk.write(self._file, [data[written:]], chunk.offset + written)
            self._next += written
        except OSError as error:
            self.abandon()
            return f"cannot write {self._path}: {error.strerror}"
        return ""

    def sync(self) -> str:
        """Make what was taken durable; why that failed, or nothing."""
        if self._file < 0:
            return ""
        try:
            self.disk.sync(self._file)
        except OSError as error:
            self.abandon()
            return f"cannot sync {self._path}: {error.strerror}"
        return ""

    def finished(self, chunk: StoreChunk) -> Path | None:
        """After the last chunk was synced: the file, if it is all there. It is the caller's from here on."""
        if self._file < 0 or chunk.index != self.index or self._next != chunk.size:
            return None
        os.close(self._file)
        self._file = -1
        return self._path

    def abandon(self) -> None:
        """Forget what has come."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            with contextlib.suppress(OSError):
                self.disk.unlink(self._path)
        self.index, self._next = 0, -1

    def _begin(self, index: int) -> None:
        self.abandon()
        self._path = self.store.incoming(index)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._file = os.open(self._path, flags, 0o644)
        self.index, self._next = index, 0
