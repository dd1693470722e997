"""What a leader has put into the log for clients, until logic has it.

If it loses its office before, this is what it refuses (consensus.py). And it is timed: how long until an entry is durable,
and until it is applied.
"""

from collections import deque
from collections.abc import Iterable, Iterator

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

    def is_behind(self, applied: int) -> bool:
        """Whether all that is waited for lies behind what logic has."""
        undurable, unapplied = self._undurable, self._unapplied
        first = min(undurable[0][0] if undurable else applied + 1, applied + 1)
        return first > applied and (not unapplied or unapplied[0][0] > applied)

    def in_flight(self) -> tuple[int, dict[int, tuple[int, int]], list[tuple[int, int]]]:
        """What is waited for: the first that is not noted as durable (0: none), (since when, count) by index, and what was
        reached and not noted yet."""
        undurable = self._undurable[0][0] if self._undurable else 0
        known = {index: (since_ns, count) for index, since_ns, _, count in self._unapplied}
        return undurable, known, list(self._reached)

    def replace(
        self,
        undurable: int,
        in_flight: Iterable[tuple[int, int, bytes, int]],
        reached: Iterable[tuple[int, int]],
    ) -> None:
        """Others have gone on with it: this is waited for now."""
        self._unapplied = deque(in_flight)
        self._undurable = deque(known[:2] for known in self._unapplied if known[0] >= undurable)
        self._reached = deque(reached)

    def take_back(self) -> Iterator[tuple[bytes, int]]:
        """(body, count) of what logic does not have; all is forgotten."""
        self._reached.clear()
        self._undurable.clear()
        while self._unapplied:
            _, _, body, count = self._unapplied.popleft()
            yield body, count
