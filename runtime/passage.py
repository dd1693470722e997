"""What logic does around a usual entry, by two calls of C: see passage.h."""

from typing import TYPE_CHECKING, Any

from attrs import define, field

from ..shm import Consumer, Counters, Producer
from ._wire import ffi, lib
from .shm_table import SHM_TABLE

if TYPE_CHECKING:
    from ._wire import CData

COUNTERS = ("entries", "applied_index", "apply_used_bytes")


@define(eq=False)
class Passage:
    """Between `apply` and the two rings that logic writes for each entry."""

    apply: Consumer
    egress: Producer
    applied: Producer
    counters: Counters
    run_bytes_max: int
    egress_bytes_max: int
    entry: "CData" = field(init=False, repr=False)
    """What was taken: `index`, `time_ns`, `silent`, `slot_bytes`."""
    _figures: list[object] = field(factory=list[object], init=False, repr=False)
    """What C counts in: it stays mapped while these are here. None is pinned: see shm/memory.py."""

    def __attrs_post_init__(self) -> None:
        entry = self.entry = ffi.new("struct passage *")
        entry.calls = SHM_TABLE
        for name in ("apply", "egress", "applied"):
            setattr(entry, name, ffi.cast("struct ring_end *", getattr(self, name).handle))
        entry.run_bytes_max, entry.egress_bytes_max = self.run_bytes_max, self.egress_bytes_max
        histogram = self.counters.histograms["apply_ns"]
        self._figures.append(histogram)
        entry.apply_ns = ffi.cast("uint64_t *", histogram.words)
        for name in COUNTERS:
            counter = self.counters.counters[name]
            self._figures.append(counter)
            with ffi.from_buffer("uint64_t[]", counter.word) as word:
                setattr(entry, name, ffi.cast("uint64_t *", word))

    def take(self) -> Any:
        """The body of a usual entry that is next, as a buffer that is the ring's until `give`; None: it is not, or there is none."""
        entry = self.entry
        return ffi.buffer(entry.body, entry.body_bytes) if lib.passage_take(entry) else None

    def give(self, egress: bytes, applied: bytes) -> int:
        """Put out what the entry did, release it, and tell how far logic is; what had no room, see passage.h."""
        rest: int = lib.passage_give(self.entry, egress, len(egress), applied, len(applied))
        assert rest != lib.PASSAGE_BROKEN, "a ring refused"
        return rest
