"""The log as the core sees it: which term each index has, and the recent bodies.

    first                                  recent_first               last
      │ terms known, bodies on disk only        │ bodies in memory      │
      ├──────────────────────────────────────────┼───────────────────────┤
      boundaries: [(1, t1), (48, t2), (913, t5)]     one pair per term that has entries

Guarantees: `term_at` answers for every retained index and for the one before `first`, whatever
lies in memory; indexes have no gaps; terms never decrease. Bodies in memory are a suffix of the
log. Leaves to others: what is durable, committed or applied (core.py), and the bytes on disk.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from .errors import StateLost
from .messages import Entry


class Log:
    """Recent entries, and the term of every retained index.

    Built from what the journal recovered: `first` and `last` retained index (last = first - 1 if
    there is none), the last term and log time, and for each term the first index that has it.
    After a snapshot at S, first = S + 1, and the first boundary covers S.
    """

    def __init__(
        self,
        first: int = 1,
        last: int = 0,
        last_term: int = 0,
        boundaries: Sequence[tuple[int, int]] = (),
        last_time_ns: int = 0,
    ) -> None:
        assert first >= 1 and last >= first - 1, (first, last)
        self.first: int = first
        self.last: int = last
        self.last_time_ns: int = last_time_ns
        self.recent_bytes: int = 0
        self._recent: dict[int, Entry] = {}
        self._recent_first = last + 1
        self._starts = [start for start, _ in boundaries]
        self._terms = [term for _, term in boundaries]
        ordered = all(a < b for a, b in zip(self._starts, self._starts[1:], strict=False))
        rising = all(a < b for a, b in zip(self._terms, self._terms[1:], strict=False))
        covered = not self._starts or self._starts[-1] <= last
        if last >= first:
            covered = bool(self._starts) and self._starts[0] <= first and covered
        if not (ordered and rising and covered and self.last_term == last_term):
            raise StateLost(
                f"The recovered log {first}…{last} (last term {last_term}) contradicts "
                f"its table of terms {list(boundaries)}."
            )

    @property
    def last_term(self) -> int:
        """The term of the last entry, or of the snapshot that the log continues."""
        return self._terms[-1] if self._terms else 0

    @property
    def recent_first(self) -> int:
        """The first index whose body is in memory; last + 1 if none is."""
        return self._recent_first

    @property
    def boundaries(self) -> tuple[tuple[int, int], ...]:
        """(first index of term, term) for each term that has entries here."""
        return tuple(zip(self._starts, self._terms, strict=True))

    def term_at(self, index: int) -> int | None:
        """The term of the entry at `index`; 0 at index 0; None where the log does not reach."""
        if index == 0:
            return 0
        if index > self.last or index < self.first - 1:
            return None
        position = bisect_right(self._starts, index) - 1
        return self._terms[position] if position >= 0 else None

    def last_index_of_term_at_most(self, term: int, index: int) -> int:
        """The highest index <= `index` whose term is <= `term`; `first - 1` if there is none.

        With the other side's hint this steps back over a whole term at once (end of §5.3).
        """
        index = min(index, self.last)
        position = bisect_right(self._starts, index) - 1
        while position >= 0 and self._terms[position] > term:
            index = self._starts[position] - 1
            position -= 1
        return max(index, self.first - 1)

    def is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """Is a log with this end at least as up to date as this one? (§5.4.1)"""
        return (last_term, last_index) >= (self.last_term, self.last)

    def entries(self, first: int, last: int) -> tuple[Entry, ...] | None:
        """Entries `first` … `last`, or None: they must be read from the journal."""
        assert self.first <= first and last <= self.last, (first, last)
        if first < self._recent_first:
            return None
        if first == last:  # As when one client waits for each answer.
            return (self._recent[first],)
        return tuple([self._recent[index] for index in range(first, last + 1)])

    def entries_upto(self, first: int, bytes_max: int) -> tuple[Entry, ...] | None:
        """Entries from `first` on with at most `bytes_max` of bodies, but at least one entry.

        None: they must be read from the journal. Empty: there are none.
        """
        assert self.first <= first
        if first > self.last:
            return ()
        if first < self._recent_first:
            return None
        found: list[Entry] = []
        total = 0
        for index in range(first, self.last + 1):
            entry = self._recent[index]
            total += len(entry.body)
            if found and total > bytes_max:
                break
            found.append(entry)
        return tuple(found)

    def append(self, entries: Iterable[Entry]) -> None:
        """Add entries at the end."""
        for entry in entries:
            index, term, last_term = entry.index, entry.term, self.last_term
            assert index == self.last + 1, (index, self.last)
            assert term >= last_term, (term, last_term)
            if term != last_term:
                self._starts.append(index)
                self._terms.append(term)
            self._recent[index] = entry
            self.recent_bytes += len(entry.body)
            self.last = index
            self.last_time_ns = entry.time_ns

    def truncate(self, first: int) -> None:
        """Remove `first` and everything after it. The caller appends at `first` at once."""
        assert self.first <= first <= self.last, (first, self.first, self.last)
        for index in range(max(first, self._recent_first), self.last + 1):
            self.recent_bytes -= len(self._recent.pop(index).body)
        self._recent_first = min(self._recent_first, first)
        while self._starts and self._starts[-1] >= first:
            del self._starts[-1], self._terms[-1]
        self.last = first - 1
        if self.last in self._recent:
            self.last_time_ns = self._recent[self.last].time_ns

    def drop_bodies_below(self, index: int) -> None:
        """Forget the bodies of all entries below `index`; their terms stay known."""
        for dropped in range(self._recent_first, min(index, self.last + 1)):
            self.recent_bytes -= len(self._recent.pop(dropped).body)
            self._recent_first = dropped + 1

    def drop_bodies_over(self, bytes_max: int, keep_from: int) -> None:
        """Forget the oldest bodies until at most `bytes_max` remain, but none from `keep_from`."""
        while self.recent_bytes > bytes_max and self._recent_first < keep_from:
            self.drop_bodies_below(self._recent_first + 1)

    def compact(self, first: int) -> None:
        """The journal has let go of everything below `first`, which a snapshot covers."""
        assert self.first <= first <= self.last + 1, (first, self.first, self.last)
        self.drop_bodies_below(first)
        self.first = first
        # Keep the boundary that covers first - 1: AppendEntries names the term before `first`.
        keep = max(0, bisect_right(self._starts, first - 1) - 1)
        del self._starts[:keep], self._terms[:keep]

    def restart(self, index: int, term: int, time_ns: int) -> None:
        """Nothing is left but what a snapshot of (index, term) stands for; the log goes on behind it."""
        self._recent.clear()
        self.recent_bytes = 0
        self.first, self.last = index + 1, index
        self._recent_first = index + 1
        self._starts, self._terms = [index], [term]
        self.last_time_ns = time_ns
