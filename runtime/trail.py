"""When each of the last entries was sequenced, and durable or applied: for those who follow one command.

A table of rows in the mapped counters, written by consensus once for an entry, read by anybody:

       row = index % ROWS:   index u64 | sequenced at u64 | reached at u64       times of the monotonic clock

The index is written last, and taken away first; a reader that finds it the same before and after has read one row.
"""

from typing import cast

from attrs import define

from ..shm import Counters, Histogram

ROWS = 2048
WORDS = 3 * ROWS
FOLLOWED = ("sequenced_to_durable_ns", "sequenced_to_applied_ns")
"""The histograms of consensus that have a trail, in words of the name `trail_name_of`."""


def trail_name_of(histogram: str) -> str:
    """The name of a trail's words."""
    return f"{histogram.removesuffix('_ns')}_trail"


@define(eq=False)
class Trail(Histogram):
    """A histogram that also remembers which entry took how long."""

    rows: memoryview

    def note(self, index: int, since_ns: int, at_ns: int) -> None:
        """An entry got there."""
        rows, row = self.rows, index % ROWS * 3
        rows[row] = 0
        rows[row + 1], rows[row + 2] = since_ns, at_ns
        rows[row] = index


def follow(counters: Counters) -> None:
    """Have the histograms in FOLLOWED leave a trail from now on."""
    histograms = cast("dict[str, Histogram]", counters.histograms)
    for name in FOLLOWED:
        plain = histograms[name]
        histograms[name] = Trail(plain.words, plain.pinned, counters.words[trail_name_of(name)])


def took_ns(words: tuple[int, ...], index: int) -> int | None:
    """How long an entry took, if it is one of the last that were noted."""
    found, since_ns, at_ns = words[index % ROWS * 3 : index % ROWS * 3 + 3]
    return at_ns - since_ns if found == index else None
