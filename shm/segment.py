"""A named piece of shared memory, and what was left behind by dead processes.

A segment is one page of header and then `size` bytes for a ring, or for the cells of doorbells:

       0  magic u64 | layout u64 | size u64 | generation u64 | ready u64
    4096  memory[size]

Guaranteed: the memory exists in full (posix_fallocate), so that a full /dev/shm is an error here
and never a SIGBUS later; a segment that is not finished, or of another layout or generation, cannot
be attached. Not multiprocessing.shared_memory, whose resource tracker unlinks segments that others
use.

Left to others: what lies in the memory, and who may attach. The supervisor creates the segments
before it starts the processes, and unlinks them as soon as all have attached.
"""

import contextlib
import errno
import mmap
import os
from pathlib import Path
from types import TracebackType
from typing import Self

import posix_ipc
from attrs import define, field

from ._shm import lib
from .errors import LayoutMismatch, SegmentExists, SegmentFull, SegmentMissing

HEADER_BYTES = 4096
MAGIC = int.from_bytes(b"leftfold", "little")
READY = 1
SHM_DIRECTORY = Path("/dev/shm")
SEMAPHORE_PREFIX = "sem."


def layout() -> int:
    """Return the layout hash of this build: of the ring, the doorbell and the header."""
    return lib.ring_layout() ^ HEADER_BYTES


@define(eq=False)
class Segment:
    """A mapping of a segment; a context manager that unmaps, and never unlinks."""

    name: str
    size: int
    generation: int
    memory: memoryview
    _mapping: mmap.mmap = field(repr=False)

    @classmethod
    def create(cls, name: str, size: int, generation: int = 0) -> Self:
        """Create and map a segment of `size` zero bytes; the name begins with a slash."""
        try:
            shared = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600)
        except posix_ipc.ExistentialError as error:
            raise SegmentExists(f"shared memory {name} exists already") from error
        try:
            _allocate(name, shared.fd, HEADER_BYTES + size)
            mapping = mmap.mmap(shared.fd, HEADER_BYTES + size)
        except BaseException:
            shared.unlink()
            raise
        finally:
            shared.close_fd()
        view = memoryview(mapping)
        with view[:HEADER_BYTES].cast("Q") as header:
            header[0], header[1], header[2], header[3] = MAGIC, layout(), size, generation
            # Last: attach() takes nothing for granted before it. It runs in processes that are
            # started later, so that the order of these stores is the kernel's business.
            header[4] = READY
        return cls(name, size, generation, view[HEADER_BYTES:], mapping)

    @classmethod
    def attach(cls, name: str, generation: int | None = None) -> Self:
        """Map a segment that create() finished, of this build and (if given) this generation."""
        try:
            shared = posix_ipc.SharedMemory(name)
        except posix_ipc.ExistentialError as error:
            raise SegmentMissing(f"there is no shared memory {name}") from error
        try:
            file_size = os.fstat(shared.fd).st_size
            if file_size <= HEADER_BYTES:
                raise SegmentMissing(f"shared memory {name} was never finished")
            mapping = mmap.mmap(shared.fd, file_size)
        finally:
            shared.close_fd()
        view = memoryview(mapping)
        with view[:HEADER_BYTES].cast("Q") as header:
            found = header[:5].tolist()
        wanted = (MAGIC, layout(), file_size - HEADER_BYTES)
        if found[4] == READY and tuple(found[:3]) == wanted and generation in (None, found[3]):
            return cls(name, found[2], found[3], view[HEADER_BYTES:], mapping)
        view.release()
        mapping.close()
        if found[4] != READY:
            raise SegmentMissing(f"shared memory {name} was never finished")
        if tuple(found[:3]) != wanted:
            raise LayoutMismatch(f"shared memory {name} was laid out by another build of leftfold")
        raise LayoutMismatch(f"{name} is of generation {found[3]}, not {generation}")

    def close(self) -> None:
        """Unmap. The ends and doorbells over it must be closed before, else BufferError."""
        self.memory.release()
        self._mapping.close()

    def unlink(self) -> None:
        """Remove the name; the memory lives until the last process unmaps it."""
        with contextlib.suppress(posix_ipc.ExistentialError):
            posix_ipc.unlink_shared_memory(self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _allocate(name: str, fd: int, size: int) -> None:
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.ENOMEM):
            raise
        raise SegmentFull(
            f"no room for {size} bytes of shared memory {name} in {SHM_DIRECTORY}: {error.strerror}"
        ) from error


def leftovers(prefix: str) -> list[str]:
    """Name what lies in /dev/shm under a prefix: segments as "/name", semaphores as "sem./name"."""
    stem = prefix.lstrip("/")
    assert stem, "an empty prefix would name what belongs to others"
    names = (path.name for path in SHM_DIRECTORY.iterdir())
    return sorted(
        f"{SEMAPHORE_PREFIX}/{name.removeprefix(SEMAPHORE_PREFIX)}"
        if name.startswith(SEMAPHORE_PREFIX)
        else f"/{name}"
        for name in names
        if name.removeprefix(SEMAPHORE_PREFIX).startswith(stem)
    )


def remove_leftovers(prefix: str) -> list[str]:
    """Unlink them and return what was there. Only for names that no live process will attach."""
    names = leftovers(prefix)
    for name in names:
        with contextlib.suppress(posix_ipc.ExistentialError):
            if name.startswith(SEMAPHORE_PREFIX):
                posix_ipc.unlink_semaphore(name.removeprefix(SEMAPHORE_PREFIX))
            else:
                posix_ipc.unlink_shared_memory(name)
    return names
