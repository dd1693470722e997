"""What a journal holds, folded from its slots: term, vote, commit, the log's range, and where its
entries lie.

The same fold runs over every batch that is written and, at start, over every record that is read
back. It looks at slot headers only, never into a body, except of SKIP and CONFIGURATION entries: which
commands an operator left out, and who the members are, must be known before the first entry is
replayed.

An ENTRY at or below the last index overwrites the log from there on, as TRUNCATE does. Nothing at
or below the commit index may be overwritten, and no index left out: either would be our bug, and
raises `Inconsistent`.

Where entries lie is kept as *places*, (index, segment, offset of the record), one for every 256 KiB
of journal and one wherever the log's order and the file's part: 24 bytes each, so a journal of 64
GiB costs 6 MiB. From a place on, the entries up to the next place's index follow each other in the
same segment.
"""

import struct
from array import array
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

from attrs import define, field

from . import slots
from ._wire import ffi, lib

if TYPE_CHECKING:
    from ._wire import CData

PLACE_EVERY_BYTES = 256 * 1024
SKIP_KIND, CONFIGURATION_KIND = 3, 4

_ENTRY = struct.Struct("<IHHQQqH")
_HARD_STATE = struct.Struct("<IHHQQQ")
_TRUNCATE = struct.Struct("<IHHQ")
_SKIP_BODY = struct.Struct("<QI")


class Inconsistent(Exception):
    """Slots that contradict those before them."""


def _indexes() -> "array[int]":
    return array("Q")


@define
class Contents:
    """The fold; see the head of this file. `last` is `first - 1` while the log is empty."""

    term: int = 0
    voted_for: int = 0
    commit: int = 0
    first: int = 1
    last: int = 0
    last_time_ns: int | None = 0
    """None after a truncation: only the entry itself still knows."""
    origin_term: int = 0
    """The term of entry `first - 1`."""
    boundaries: list[tuple[int, int]] = field(factory=list[tuple[int, int]])
    skips: list[tuple[int, int, int]] = field(factory=list[tuple[int, int, int]])
    """(index of the SKIP entry, index and ordinal of the command left out)."""
    configurations: list[tuple[int, bytes]] = field(factory=list[tuple[int, bytes]])
    """(index, body) of the entries that changed the members."""
    place_indexes: "array[int]" = field(factory=_indexes)
    place_segments: "array[int]" = field(factory=_indexes)
    place_offsets: "array[int]" = field(factory=_indexes)
    truncations: int = 0
    """How often entries were taken back: what was remembered of positions before is void then."""
    _order_broken: bool = field(default=True, init=False)
    _fold: "CData" = field(
        factory=lambda: ffi.new("struct wire_fold *"), init=False, eq=False, repr=False
    )

    @property
    def last_term(self) -> int:
        """The term of the last entry."""
        return self.boundaries[-1][1] if self.boundaries else self.origin_term

    def begin(self, first: int, last_term: int, last_time_ns: int) -> None:
        """Start at the head of the oldest segment that is kept."""
        self.first, self.last = first, first - 1
        self.origin_term, self.last_time_ns = last_term, last_time_ns

    def restart(self, through: int, term: int, time_ns: int) -> None:
        """Forget every entry: the log goes on behind entry `through`, which is committed."""
        self.first, self.last = through + 1, through
        self.origin_term, self.last_time_ns = term, time_ns
        self.commit = through
        self.boundaries.clear()
        self.skips.clear()
        self.configurations.clear()
        for column in (self.place_indexes, self.place_segments, self.place_offsets):
            del column[:]
        self.truncations += 1
        self._order_broken = True

    def hard_state_slot(self) -> bytes:
        """Term, vote and commit as the slot that opens a new segment, so that older ones can go."""
        return slots.pack_hard_state(self.term, self.voted_for, self.commit)

    def fold(self, run: memoryview, segment: int, offset: int) -> int:
        """Take in the slots of one record at `offset` of `segment`; the index of its first ENTRY,
        or 0."""
        plain = self.fold_plain(run, segment, offset)
        if plain is not None:
            return plain
        first_index, at, end = 0, 0, len(run)
        unpack, header_bytes = slots.HEADER.unpack_from, slots.HEADER_BYTES
        while at < end:
            length, kind, _ = unpack(run, at)
            if not header_bytes <= length <= end - at:
                raise Inconsistent(f"a slot of {length} bytes with {end - at} left")
            if kind == slots.ENTRY:
                _, _, _, index, term, time_ns, entry_kind = _ENTRY.unpack_from(run, at)
                if index != self.last + 1:
                    self._truncate(index)
                self._append(index, term, time_ns)
                if not first_index:
                    first_index = index
                self._place(index, segment, offset)
                if entry_kind == SKIP_KIND:
                    self.skips.append(
                        (index, *_SKIP_BODY.unpack_from(run, at + slots.ENTRY_HEADER_BYTES))
                    )
                elif entry_kind == CONFIGURATION_KIND:
                    body = bytes(run[at + slots.ENTRY_HEADER_BYTES : at + length])
                    self.configurations.append((index, body))
            elif kind == slots.HARD_STATE:
                _, _, _, self.term, self.voted_for, self.commit = _HARD_STATE.unpack_from(run, at)
            elif kind == slots.TRUNCATE:
                _, _, _, index = _TRUNCATE.unpack_from(run, at)
                if index <= self.last:
                    self._truncate(index)
            else:
                raise Inconsistent(f"a slot of type {kind}, which no journal holds")
            at += (length + 7) & ~7
        return first_index

    def fold_plain(self, run: memoryview, segment: int, offset: int) -> int | None:
        """As `fold`, by one call of C, a run of nothing but hard states and entries that go on where the log ends. None: it is
        another one, and nothing was done."""
        if offset >= self.place_at(segment):
            return None
        fold = self._fold
        with ffi.from_buffer(run) as pointer:
            fold.run, fold.run_bytes = ffi.cast("uint8_t *", pointer), len(run)
            fold.last, fold.last_term = self.last, self.boundaries[-1][1]
            if not lib.wire_fold(fold):
                return None
        first: int = fold.first
        if first:
            self.last, self.last_time_ns = fold.last, fold.last_time_ns
        if fold.hard_states:
            self.term, self.voted_for, self.commit = fold.term, fold.voted_for, fold.commit
        return first

    def place_at(self, segment: int) -> int:
        """The offset of `segment` from which on the next entry's place is to be remembered; 0: its place or its term is, wherever
        it lies."""
        if self._order_broken or not self.boundaries or segment != self.place_segments[-1]:
            return 0
        return self.place_offsets[-1] + PLACE_EVERY_BYTES

    def check(self) -> None:
        """What must hold after a whole batch."""
        if self.commit > self.last:
            raise Inconsistent(f"commit {self.commit} passes the last index {self.last}")  # I6

    def _append(self, index: int, term: int, time_ns: int) -> None:
        last_term = self.last_term
        if term != last_term or not self.boundaries:
            if term < last_term:
                raise Inconsistent(f"entry {index} of term {term} follows term {last_term}")
            self.boundaries.append((index, term))
        self.last, self.last_time_ns = index, time_ns

    def _truncate(self, index: int) -> None:
        """The log ends before `index` now."""
        if index > self.last + 1:
            raise Inconsistent(f"entry {index} follows {self.last}")
        if index <= self.commit:
            raise Inconsistent(f"entry {index} is overwritten, and {self.commit} is committed")
        while self.boundaries and self.boundaries[-1][0] >= index:
            self.boundaries.pop()
        while self.skips and self.skips[-1][0] >= index:
            self.skips.pop()
        while self.configurations and self.configurations[-1][0] >= index:
            self.configurations.pop()
        keep = bisect_right(self.place_indexes, index - 1)
        for column in (self.place_indexes, self.place_segments, self.place_offsets):
            del column[keep:]
        self.last, self.last_time_ns = index - 1, None
        self.first = min(self.first, index)
        self.truncations += 1
        self._order_broken = True

    def _place(self, index: int, segment: int, offset: int) -> None:
        """Remember where this entry lies, if it begins a stretch or the last place is far."""
        if (
            self._order_broken
            or not self.place_indexes
            or segment != self.place_segments[-1]
            or offset - self.place_offsets[-1] >= PLACE_EVERY_BYTES
        ):
            self.place_indexes.append(index)
            self.place_segments.append(segment)
            self.place_offsets.append(offset)
            self._order_broken = False

    def place_of(self, index: int) -> tuple[int, int, int, int]:
        """(begin, limit, segment, offset): entries `begin` … `limit - 1` lie there, from the record
        at `offset` on."""
        assert self.first <= index <= self.last
        at = bisect_right(self.place_indexes, index) - 1
        following = at + 1
        limit = (
            self.place_indexes[following] if following < len(self.place_indexes) else self.last + 1
        )
        begin = self.place_indexes[at]
        return begin, limit, self.place_segments[at], self.place_offsets[at]

    def first_in(self, segment: int, otherwise: int) -> int:
        """The first entry that lies in this segment or a later one."""
        at = bisect_left(self.place_segments, segment)
        return self.place_indexes[at] if at < len(self.place_indexes) else otherwise

    def forget_segments_before(self, segment: int, first: int, last_term: int) -> None:
        """Segments below `segment` are gone; the log begins with `first`."""
        gone = bisect_right(self.place_segments, segment - 1)
        for column in (self.place_indexes, self.place_segments, self.place_offsets):
            del column[:gone]
        kept = [pair for pair in self.boundaries if pair[0] > first]
        if self.last >= first:
            kept.insert(0, (first, self.term_at(first)))
        self.boundaries[:] = kept
        self.first, self.origin_term = first, last_term
        self.skips[:] = [skip for skip in self.skips if skip[0] >= first]
        self.configurations[:] = [known for known in self.configurations if known[0] >= first]

    def term_at(self, index: int) -> int:
        """The term of an entry from `first - 1` on."""
        assert self.first - 1 <= index <= self.last
        origin = (0, self.origin_term)
        return max((pair for pair in self.boundaries if pair[0] <= index), default=origin)[1]

    def recovered(self) -> slots.Recovered:
        """The summary for consensus. The last log time must be known."""
        assert self.last_time_ns is not None
        return slots.Recovered(
            self.term,
            self.voted_for,
            self.commit,
            self.first,
            self.last,
            self.last_time_ns,
            self.last_term,
            tuple(self.boundaries),
            tuple((index, ordinal) for _, index, ordinal in self.skips),
            origin_term=self.origin_term,
            configurations=tuple(self.configurations),
        )
