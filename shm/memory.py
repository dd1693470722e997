"""Memory as C wants it: an address that stays valid as long as what pins it.

`memory` is a Segment, a slice of one, or a bytearray in a test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from ._shm import ffi
from .segment import Segment

if TYPE_CHECKING:
    from ._shm import CData

Memory: TypeAlias = Segment | memoryview | bytearray


def pin(memory: Memory) -> tuple[CData, int, int]:
    """Return what pins the memory, its address and its size; ffi.release() the pin to let go.

    The object below a memoryview is pinned, the mapping or the bytearray, never the memoryview: a
    pinned one in a cycle of garbage ends the process (CPython releases it twice).
    """
    view = memory.memory if isinstance(memory, Segment) else memoryview(memory)
    with ffi.from_buffer(view, require_writable=True) as pointer:
        address, size = int(ffi.cast("uintptr_t", pointer)), len(pointer)
    return ffi.from_buffer(view.obj, require_writable=True), address, size
