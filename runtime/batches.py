"""The journal's usual batch: taken from `persist`, made durable and told of by one call; and a wait that does so (batch.h).

Whatever is out of the ordinary is not taken here, and lies as it was: a long run, a request, a truncation, a new term, the
end of the segment; or a disk that is not the operating system's own, as in tests.

While C waits and takes, the journal's state is C's: what was taken is told to the journal at the end, whatever that is.
"""

import os
from typing import TYPE_CHECKING

from attrs import define, field

from ..shm import Consumer, Counters, Doorbell, Producer
from ._wire import ffi, lib
from .agent import Ends
from .errors import FSYNC_FAILED, OTHER_FAILURE
from .journal import Journal
from .segments import failed
from .shm_table import SHM_TABLE

if TYPE_CHECKING:
    from ._wire import CData

BYTES_MAX = 8192
"""Of a run. Longer ones are rare, and Python counts for little in them."""
QUIET_NS = 5_000_000
"""So long after a batch nothing is prepared but what is urgent: the next command of a client that waits for each answer
would find the disk at work for something else."""
HISTOGRAMS = ("write_ns", "fsync_ns", "batch_bytes")
COUNTERS = ("batches", "bytes", "syncs", "durable_index")


@define(eq=False)
class Batches:
    """Between the two rings and the journal."""

    journal: Journal
    persist: Consumer
    persisted: Producer
    counters: Counters | None = None
    synced_at_ns: int = field(default=0, init=False)
    """When the last one was durable."""
    told: bool = field(default=True, init=False)
    """Whether `persisted` had room to say so."""
    _batch: "CData" = field(init=False, repr=False)
    _limits: "CData" = field(init=False, repr=False)
    _figures: list[object] = field(factory=list[object], init=False, repr=False)
    """What C counts in: it stays mapped while these are here. None is pinned: see shm/memory.py."""

    def __attrs_post_init__(self) -> None:
        batch = self._batch = ffi.new("struct batch *")
        batch.calls = SHM_TABLE
        batch.persist = ffi.cast("struct ring_end *", self.persist.handle)
        batch.persisted = ffi.cast("struct ring_end *", self.persisted.handle)
        batch.bytes_max = BYTES_MAX
        limits = self._limits = ffi.new("struct batch_limits *")
        limits.quiet_ns = QUIET_NS
        if self.counters is None:
            return
        for name in HISTOGRAMS:
            histogram = self.counters.histograms[name]
            self._figures.append(histogram)
            setattr(batch, name, ffi.cast("uint64_t *", histogram.words))
        for name in COUNTERS:
            counter = self.counters.counters[name]
            self._figures.append(counter)
            with ffi.from_buffer("uint64_t[]", counter.word) as word:
                setattr(batch, name, ffi.cast("uint64_t *", word))

    def watch(self, bell: Doorbell, ends: Ends) -> None:
        """From now on `wait` sleeps on this bell, for these ends."""
        bell.watch(ends)
        self._batch.bell = ffi.cast("struct doorbell *", bell.handle)

    def take(self, persist_bytes: int) -> int:
        """The bytes of one that was taken, behind `persist_bytes` before it; 0: there is none. Raises JournalFailed."""
        if not self._give(persist_bytes):
            return 0
        answer: int = lib.batch_take(self._batch)
        return self._take_back(persist_bytes, answer)

    def wait(
        self, persist_bytes: int, bytes_max: int, until_ns: int, spin_ns: int, timeout_ns: int
    ) -> int:
        """Wait as the bell does, and take one after another while there is nothing else; the bytes that were taken.

        It ends behind one with which it is `until_ns`, `bytes_max` were taken, or more of the files is to be prepared.
        Not even waited is -1. Raises JournalFailed.
        """
        if not self._batch.bell or not self._give(persist_bytes):
            return -1
        limits = self._limits
        limits.offset = self.journal.ahead_at
        limits.persist_bytes = persist_bytes + bytes_max
        limits.until_ns = until_ns
        answer: int = lib.batch_run(self._batch, limits, spin_ns, timeout_ns)
        if answer == lib.BATCH_BELL:  # It says why to who waits on it next.
            return self._take_back(persist_bytes, 0) or -1
        return self._take_back(persist_bytes, answer)

    def _give(self, persist_bytes: int) -> bool:
        """Put the journal's state into C, if what is usual is possible at all."""
        journal = self.journal
        contents, current, batch = journal.contents, journal.current, self._batch
        place_at = contents.place_at(current.header.segment_id)
        disk = current.disk
        if not place_at or disk.write is not os.pwritev or disk.sync is not os.fdatasync:
            return False
        batch.file, batch.seed = current.file, current.seed
        batch.offset, batch.end, batch.place_at = current.offset, current.size, place_at
        batch.last, batch.last_term = contents.last, contents.boundaries[-1][1]
        batch.term, batch.voted_for = contents.term, contents.voted_for
        batch.commit, batch.persist_bytes = contents.commit, persist_bytes
        return True

    def _take_back(self, persist_bytes: int, answer: int) -> int:
        """What C did, into the journal's state; how many bytes it took."""
        batch, contents = self._batch, self.journal.contents
        taken: int = batch.persist_bytes - persist_bytes
        if taken:
            if batch.last != contents.last:
                contents.last, contents.last_time_ns = batch.last, batch.last_time_ns
            contents.term, contents.voted_for = batch.term, batch.voted_for
            contents.commit = batch.commit
            self.journal.was_written(batch.offset)
            self.synced_at_ns, self.told = batch.synced_at_ns, bool(batch.told)
        if answer < 0:
            self._fail(-answer)
        return taken

    def _fail(self, error: int) -> None:
        assert error != -lib.BATCH_BROKEN, "a ring refused"
        path, wrong = self.journal.current.path, OSError(error, os.strerror(error))
        if self._batch.failed_sync:
            raise failed(path, FSYNC_FAILED, "sync", wrong)
        raise failed(path, OTHER_FAILURE, "write to", wrong)
