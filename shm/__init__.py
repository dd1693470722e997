"""leftfold.shm moves bytes between processes: rings, doorbells, and figures that others may read.

It knows nothing of what the bytes mean. The ring is in ring.h, sleeping and waking in doorbell.h,
and the figures in histogram.h; each header draws its layout and says what it guarantees.
"""

from .calls import CALLS
from .counters import Counter, Counters, Histogram, HistogramSnapshot, Schema, Snapshot
from .doorbell import (
    DOORBELL_BYTES,
    DOORBELL_COUNTS,
    Doorbell,
    DoorbellCounts,
    Reason,
    create_semaphore,
    die_with_parent,
    monotonic_ns,
    unlink_semaphore,
)
from .errors import (
    DoorbellFailed,
    LayoutMismatch,
    RingBusy,
    RingCorrupt,
    SegmentExists,
    SegmentFull,
    SegmentMissing,
    ShmError,
    UsedAfterClose,
    UsedAfterFork,
)
from .ring import CONSUMER_FIGURES, Consumer, Inputs, Producer, format_ring, padded, ring_bytes
from .segment import Segment, leftovers, remove_leftovers

__all__ = [
    "CALLS",
    "CONSUMER_FIGURES",
    "DOORBELL_BYTES",
    "DOORBELL_COUNTS",
    "Consumer",
    "Counter",
    "Counters",
    "Doorbell",
    "DoorbellCounts",
    "DoorbellFailed",
    "Histogram",
    "HistogramSnapshot",
    "Inputs",
    "LayoutMismatch",
    "Producer",
    "Reason",
    "RingBusy",
    "RingCorrupt",
    "Schema",
    "Segment",
    "SegmentExists",
    "SegmentFull",
    "SegmentMissing",
    "ShmError",
    "Snapshot",
    "UsedAfterClose",
    "UsedAfterFork",
    "create_semaphore",
    "die_with_parent",
    "format_ring",
    "leftovers",
    "monotonic_ns",
    "padded",
    "remove_leftovers",
    "ring_bytes",
    "unlink_semaphore",
]
