"""What every process records of itself, whatever it does: its rings, its sleep, its garbage collections.

All of it is written by C into the mapped counters, but for the collections; no process pays Python for it on the way of a
batch. What each figure of a ring says is in shm/ring.h. What a process alone knows of its work is in its own file.

LEFTFOLD_RECORDING=off leaves the figures at zero: so their cost can be measured.
"""

import gc
import os
import time
from collections.abc import Iterable

from attrs import define, field

from ..shm import CONSUMER_FIGURES, DOORBELL_COUNTS, Counters, Histogram, Schema
from .memory import Attachment
from .topology import CONSENSUS, GATEWAY, PROCESSES, rings_of
from .trail import FOLLOWED, WORDS, follow, trail_name_of

VARIABLE = "LEFTFOLD_RECORDING"
OFF = "off"

DOORBELL = ("waits", "parks", "timeouts", "timeout_rescues", "spurious", "rings", "spun")
"""The words of the group `doorbell`, in their order (doorbell.h)."""

assert len(DOORBELL) == DOORBELL_COUNTS

CLAIMED = {GATEWAY: "ingress"}
"""The ring that a process fills in place: from its claim to its commit is the time that making a batch takes."""


def schema_of(process: str) -> Schema:
    """The figures that a process has because it is one."""
    consumed, _ = rings_of(process)
    trails = {trail_name_of(name): WORDS for name in FOLLOWED} if process == CONSENSUS else {}
    claimed = [f"{CLAIMED[process]}_claim_ns"] if process in CLAIMED else []
    return Schema(
        histograms=(
            *(f"{ring.name}_{figure}" for ring in consumed for figure in CONSUMER_FIGURES),
            *claimed,
            *("parked_ns", "awake_ns", "gc_ns"),
        ),
        words={"doorbell": DOORBELL_COUNTS} | trails,
    )


def together(schemas: Iterable[Schema]) -> Schema:
    """One schema of several."""
    counters: tuple[str, ...] = ()
    histograms: tuple[str, ...] = ()
    words: dict[str, int] = {}
    for one in schemas:
        counters += one.counters
        histograms += one.histograms
        words |= one.words
    return Schema(counters, histograms, words)


def is_recording() -> bool:
    """Whether it is not switched off."""
    return os.environ.get(VARIABLE) != OFF


def record(process: str, attachment: Attachment, counters: Counters) -> None:
    """From now on, unless it is switched off."""
    assert process in PROCESSES
    if not is_recording():
        return
    histograms = counters.histograms
    for name, ring in attachment.consumers.items():
        ring.record({figure: histograms[f"{name}_{figure}"] for figure in CONSUMER_FIGURES})
    for name, ring in attachment.producers.items():
        ring.record(histograms[f"{name}_claim_ns"] if CLAIMED.get(process) == name else None)
    bell = counters.words["doorbell"]
    attachment.bell.record(bell, histograms["parked_ns"], histograms["awake_ns"])
    if process == CONSENSUS:
        follow(counters)
    gc.callbacks.append(Collections(histograms["gc_ns"]))


@define(eq=False)
class Collections:
    """What the collector calls before and after each of its runs."""

    took_ns: Histogram
    began_ns: int = field(default=0, init=False)

    def __call__(self, phase: str, facts: dict[str, int]) -> None:
        if phase == "start":
            self.began_ns = time.monotonic_ns()
        else:
            self.took_ns.record(time.monotonic_ns() - self.began_ns)
