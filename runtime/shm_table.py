"""The table of shm's functions, as the C of `_wire` is given it: checked before anything is called by it (shm_table.h)."""

from typing import TYPE_CHECKING

from ..shm import CALLS, LayoutMismatch
from ._wire import ffi, lib

if TYPE_CHECKING:
    from ._wire import CData


def table_at(address: int) -> "CData":
    """A `struct shm_calls *`. Raises LayoutMismatch."""
    table = ffi.cast("struct shm_calls *", address)
    if not lib.shm_table_fits(table):
        raise LayoutMismatch(
            "leftfold's two C modules, of shm and of runtime, come from different builds: build both again with `make build`"
        )
    return table


SHM_TABLE = table_at(CALLS)
