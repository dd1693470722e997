"""Another build's table of functions is refused before anything is called by it."""

import pytest

from leftfold.runtime._wire import ffi
from leftfold.runtime.shm_table import SHM_TABLE, table_at
from leftfold.shm import CALLS, LayoutMismatch
from leftfold.shm._shm import ffi as shm_ffi
from leftfold.shm._shm import lib as shm_lib


def test_the_table_of_the_same_build_fits():
    assert int(ffi.cast("uintptr_t", SHM_TABLE)) == CALLS
    assert shm_lib.shm_calls().table_bytes == shm_ffi.sizeof("struct shm_calls")


@pytest.mark.parametrize("more", [-8, 8])
def test_a_table_of_another_size_is_refused(more):
    other = ffi.new("uint64_t[64]", [shm_ffi.sizeof("struct shm_calls") + more])
    with pytest.raises(LayoutMismatch, match="different builds"):
        table_at(int(ffi.cast("uintptr_t", other)))
