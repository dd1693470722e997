"""How a process sleeps until one of its rings has something for it, for Python. See doorbell.h.

Each process has one Doorbell that it sleeps on; every process that writes to it, or frees space for
it, opens a handle of the same bell and passes it to its ring ends as `peer_bell`. Waking is the
rings' own business; nothing here needs to be called for it.

A wait returns to Python at every signal and at its time-out, so that handlers run. Every process
waits with a time-out (tens of ms): it covers a waker that was killed at the wrong instant.
"""

from __future__ import annotations

import contextlib
import enum
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import posix_ipc
from attrs import define, field, frozen

from ._shm import ffi, lib
from .errors import DoorbellFailed, RingBusy, SegmentExists, ShmError, UsedAfterClose, UsedAfterFork
from .memory import pin

if TYPE_CHECKING:
    from ._shm import CData
    from .counters import Histogram
    from .ring import Consumer, Producer

DOORBELL_BYTES: int = lib.DOORBELL_BYTES
DOORBELL_COUNTS: int = lib.DOORBELL_COUNTS


class Reason(enum.IntEnum):
    """Why a wait ended."""

    TIMED_OUT = 0
    READY = 1
    INTERRUPTED = 2


REASONS = (Reason.TIMED_OUT, Reason.READY, Reason.INTERRUPTED)


@frozen
class DoorbellCounts:
    """What a handle did so far; `timeout_rescues` stays 0 unless a waker was killed in mid-wake."""

    waits: int
    parks: int
    timeouts: int
    timeout_rescues: int
    spurious: int
    rings: int
    spun: int


def create_semaphore(name: str) -> None:
    """Create the named semaphore of a bell; the name begins with a slash."""
    try:
        posix_ipc.Semaphore(name, posix_ipc.O_CREX, mode=0o600, initial_value=0).close()
    except posix_ipc.ExistentialError as error:
        raise SegmentExists(f"semaphore {name} exists already") from error


def unlink_semaphore(name: str) -> None:
    """Remove the name; the semaphore lives until the last process closes it."""
    with contextlib.suppress(posix_ipc.ExistentialError):
        posix_ipc.unlink_semaphore(name)


monotonic_ns = lib.monotonic_ns
"""Return CLOCK_MONOTONIC, the clock of every wait here."""


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when the thread that started it ends, or has ended."""
    error = lib.die_with_parent()
    if error:
        raise OSError(error, os.strerror(error))
    if os.getppid() != parent_pid:  # It ended before the kernel knew of our wish.
        os.kill(os.getpid(), 9)


@define(eq=False)
class Doorbell:
    """A handle of a bell: its cell of DOORBELL_BYTES, and a semaphore's name or an eventfd.

    The sleeper waits on it, or (with an eventfd) arms it and blocks in an event loop. A waker only
    passes it to ring ends. A handle is used in the process that made it, by one thread at a time.
    """

    memory: memoryview | bytearray = field(repr=False)
    semaphore: str | None = None
    event_fd: int = -1
    handle: CData = field(init=False, repr=False)  # struct doorbell *
    _pinned: CData = field(init=False, repr=False)
    _ends: object = field(init=False, default=None, repr=False)
    _recorded: tuple[CData, Histogram, Histogram] | None = field(
        init=False, default=None, repr=False
    )
    """What keeps the memory in place that C writes counts and times to."""

    def __attrs_post_init__(self) -> None:
        assert (self.semaphore is None) == (self.event_fd >= 0), "a semaphore or an eventfd"
        assert len(self.memory) >= DOORBELL_BYTES, "a bell's cell is DOORBELL_BYTES long"
        self._pinned, address, _ = pin(self.memory)
        name = ffi.NULL if self.semaphore is None else self.semaphore.encode()
        handle = lib.doorbell_open(ffi.cast("void *", address), name, self.event_fd)
        if handle == ffi.NULL:
            reason = os.strerror(ffi.errno)
            ffi.release(self._pinned)
            raise DoorbellFailed(
                f"cannot open the bell {self.semaphore or self.event_fd}: {reason}"
            )
        self.handle = ffi.gc(handle, lib.doorbell_free)

    def fileno(self) -> int:
        """Return the eventfd, readable after a ring; for selectors and asyncio."""
        assert self.event_fd >= 0, "a semaphore has no file descriptor"
        return self.event_fd

    def watch(self, ends: Ends) -> None:
        """Look at these ends from now on; for those who arm it from C. The other calls do so themselves."""
        if ends is self._ends:
            return
        assert all(end.own_bell is self for end in ends), "these ends ring another bell"
        handles = ffi.new("struct ring_end *[]", [end.handle for end in ends])
        if lib.doorbell_watch(self.handle, handles, len(ends)) < 0:
            _fail(lib.DOORBELL_FAILED)
        self._ends = ends if isinstance(ends, tuple) else None

    def wait(self, ends: Ends, spin_ns: int, timeout_ns: int) -> Reason:
        """Sleep until an end is ready: bytes to read, or space for what a producer was refused.

        Pass the same tuple each time: another one costs a copy. timeout_ns < 0 waits for ever.
        """
        self.watch(ends)
        answer = lib.doorbell_wait(self.handle, spin_ns, timeout_ns)
        if answer < 0:
            _fail(answer)
        return REASONS[answer]

    def arm(self, ends: Ends) -> bool:
        """Say that we are about to block on fileno(); False if there is something to do first."""
        self.watch(ends)
        answer = lib.doorbell_arm(self.handle)
        if answer < 0:
            _fail(answer)
        return answer == 1

    def disarm(self, *, rung: bool) -> None:
        """Say that we are awake, and empty the eventfd if it was `rung`: found to be readable. Look at the ends after this."""
        answer = lib.doorbell_disarm(self.handle, rung)
        if answer < 0:
            _fail(answer)

    def armed(self) -> bool:
        """Tell whether the sleeper sleeps, or is about to."""
        return lib.doorbell_armed(self.handle) == 1

    def ring(self) -> None:
        """Wake the sleeper if it sleeps; for wakers that have no ring, after they published."""
        lib.doorbell_ring(self.handle)

    def counts(self) -> DoorbellCounts:
        """Read what this handle did so far."""
        counts = ffi.new("struct doorbell_counts *")
        lib.doorbell_read_counts(self.handle, counts)
        return DoorbellCounts(
            counts.waits,
            counts.parks,
            counts.timeouts,
            counts.timeout_rescues,
            counts.spurious,
            counts.rings,
            counts.spun,
        )

    def record(self, words: memoryview, parked_ns: Histogram, awake_ns: Histogram) -> None:
        """Keep the counts in DOORBELL_COUNTS words from now on, in the order of DoorbellCounts, and
        in histograms how long each park took, and how long we were awake between two."""
        assert len(words) == DOORBELL_COUNTS
        pinned, address, _ = pin(words)
        self._recorded = (pinned, parked_ns, awake_ns)
        counts = ffi.cast("uint64_t *", address)
        lib.doorbell_record(self.handle, counts, parked_ns.words, awake_ns.words)

    def close(self) -> None:
        """Let go of cell and semaphore; a closed bell rings nobody."""
        lib.doorbell_close(self.handle)
        ffi.release(self._pinned)
        if self._recorded is not None:
            ffi.release(self._recorded[0])
            self._recorded = None


Ends: TypeAlias = Sequence["Consumer | Producer"]


def _fail(answer: int) -> None:
    if answer == lib.DOORBELL_BUSY:
        raise RingBusy("another thread sleeps on this doorbell")
    if answer == lib.DOORBELL_FORKED:
        raise UsedAfterFork("this doorbell was opened before fork")
    if answer == lib.DOORBELL_CLOSED:
        raise UsedAfterClose("this doorbell is closed")
    if answer == lib.DOORBELL_FAILED:
        raise DoorbellFailed(os.strerror(ffi.errno))
    raise ShmError("only a doorbell with an eventfd can be armed")
