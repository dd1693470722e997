"""Where C of another extension module finds the functions of this one: see calls.h."""

from ._shm import ffi, lib

CALLS: int = int(ffi.cast("uintptr_t", lib.shm_calls()))
"""The address of a `struct shm_calls`; handles of ends and bells go with it."""
