"""The journal's usual batch: taken from `persist`, made durable and told of by one call (batch.h).

Whatever is out of the ordinary is not taken here, and lies as it was: a long run, a request, a truncation, a new term, the
end of the segment; or a disk that is not the operating system's own, as in tests.
"""

import os
from typing import TYPE_CHECKING

from attrs import define, field

from ..shm import Consumer, Counters, Producer
from ._wire import ffi, lib
from .errors import FSYNC_FAILED, OTHER_FAILURE
from .journal import Journal
from .segments import failed
from .shm_table import SHM_TABLE

if TYPE_CHECKING:
    from ._wire import CData

BYTES_MAX = 8192
"""Of a run. Longer ones are rare, and Python counts for little in them."""
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
    _words: "list[CData]" = field(factory=lambda: list["CData"](), init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        batch = self._batch = ffi.new("struct batch *")
        batch.calls = SHM_TABLE
        batch.persist = ffi.cast("struct ring_end *", self.persist.handle)
        batch.persisted = ffi.cast("struct ring_end *", self.persisted.handle)
        batch.bytes_max = BYTES_MAX
        if self.counters is None:
            return
        for name in HISTOGRAMS:
            words = self.counters.histograms[name].words
            setattr(batch, name, ffi.cast("uint64_t *", words))
        for name in COUNTERS:
            word = ffi.from_buffer("uint64_t[]", self.counters.counters[name].word)
            self._words.append(word)
            setattr(batch, name, word)

    def take(self, persist_bytes: int) -> int:
        """The bytes of one that was taken, behind `persist_bytes` before it; 0: there is none. Raises JournalFailed."""
        journal = self.journal
        contents, current = journal.contents, journal.current
        place_at = contents.place_at(current.header.segment_id)
        disk = current.disk
        if not place_at or disk.write is not os.pwritev or disk.sync is not os.fdatasync:
            return 0
        batch = self._batch
        taken: int = lib.batch_take(
            batch,
            current.file,
            current.seed,
            current.offset,
            current.size,
            place_at,
            contents.last,
            contents.boundaries[-1][1],
            contents.commit,
            persist_bytes,
        )
        if taken <= 0:
            if taken:
                self._fail(-taken)
            return 0
        if batch.last != contents.last:
            contents.last, contents.last_time_ns = batch.last, batch.last_time_ns
        if batch.hard_states:
            contents.term, contents.voted_for = batch.term, batch.voted_for
            contents.commit = batch.commit
        journal.was_written(taken)
        self.synced_at_ns, self.told = batch.synced_at_ns, bool(batch.told)
        return taken

    def _fail(self, error: int) -> None:
        assert error != -lib.BATCH_BROKEN, "a ring refused"
        path, wrong = self.journal.current.path, OSError(error, os.strerror(error))
        if self._batch.failed_sync:
            raise failed(path, FSYNC_FAILED, "sync", wrong)
        raise failed(path, OTHER_FAILURE, "write to", wrong)
