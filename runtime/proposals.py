"""What a leader has put into the log for clients, until logic has it.

If it loses its office before, this is what it refuses (consensus.py). And it is timed: how long until an entry is durable,
and until it is applied.
"""

from collections import deque
from collections.abc import Iterator

from attrs import define, field

from ..shm import Counters
from .metrics import record_reached


@define(eq=False)
class Proposals:
    """In the order of the log."""

    counters: Counters
    _reached: deque[tuple[int, int]] = field(factory=deque[tuple[int, int]], init=False)
    """(index, since when) of what has become durable, until that is recorded."""
    _undurable: deque[tuple[int, int]] = field(factory=deque[tuple[int, int]], init=False)
    """(index, since when)"""
    _unapplied: deque[tuple[int, int, bytes, int]] = field(
        factory=deque[tuple[int, int, bytes, int]], init=False
    )
    """(index, since when, body, how many commands it holds)"""

    def add(self, index: int, now_ns: int, body: bytes, count: int) -> None:
        """An entry has just been put into the log."""
        self._undurable.append((index, now_ns))
        self._unapplied.append((index, now_ns, body, count))

    def durable(self, through: int, now_ns: int) -> None:
        """This replica's disk has all up to there. It is recorded with the next that is applied: now logic waits."""
        if self._undurable:
            self._reached.append((through, now_ns))

    def applied(self, through: int, now_ns: int) -> None:
        """Logic has."""
        histogram = self.counters.histograms["sequenced_to_durable_ns"]
        while self._reached:
            record_reached(self._undurable, *self._reached.popleft(), histogram)
        histogram = self.counters.histograms["sequenced_to_applied_ns"]
        record_reached(self._unapplied, through, now_ns, histogram)

    def take_back(self) -> Iterator[tuple[bytes, int]]:
        """(body, count) of what logic does not have; all is forgotten."""
        self._reached.clear()
        self._undurable.clear()
        while self._unapplied:
            _, _, body, count = self._unapplied.popleft()
            yield body, count
