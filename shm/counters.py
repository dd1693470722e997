"""Counters and histograms of a replica in one mapped file, for whoever wants to look.

The file says itself what is in it, so that a tool can read it while the replica runs, after the
replica died, and from another build:

       0  magic u64 | bytes of the JSON u64
      16  JSON: {"roles": {role: {"counters": {name: word}, "histograms": {name: word},
          "words": {name: [word, n]}}}, "histogram_bits": 6, ...}; `word` is an index
      ...  words u64[], from a page boundary on; no line of 128 bytes belongs to two roles

Guaranteed: each word has one writer, the process that attached as its role (I1); readers never lock
and never see half a word; the file exists on the disk in full, so that no store can fail for lack
of space. What a crash of the machine leaves of the figures is whatever the kernel had written.

Left to others: where the file lies, what the names mean, and how it is shown.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
from collections.abc import Iterator, Mapping
from operator import sub
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from attrs import Factory, define, field, frozen

from ._shm import ffi, lib
from .errors import LayoutMismatch
from .memory import pin

if TYPE_CHECKING:
    from ._shm import CData

MAGIC = b"lfcount1"
PAGE_BYTES = 4096
LINE_WORDS = 16  # 128 bytes, as in ring.h
HISTOGRAM_WORDS: int = lib.HISTOGRAM_HEADER_WORDS + lib.HISTOGRAM_BUCKETS


@frozen
class Schema:
    """What one role writes: names of counters, of histograms, and of groups of plain words."""

    counters: tuple[str, ...] = ()
    histograms: tuple[str, ...] = ()
    words: Mapping[str, int] = Factory(dict[str, int])  # name -> how many


@frozen
class HistogramSnapshot:
    """A histogram as a reader saw it; values are the greatest that their bucket counts."""

    count: int
    sum: int
    max: int
    buckets: tuple[int, ...] = field(repr=False)

    @property
    def mean(self) -> float:
        """The mean, or 0.0 of nothing."""
        return self.sum / self.count if self.count else 0.0

    @property
    def p50(self) -> int:
        """The median."""
        return self.percentile(50)

    @property
    def p99(self) -> int:
        """The 99th percentile."""
        return self.percentile(99)

    @property
    def p999(self) -> int:
        """The 99.9th percentile."""
        return self.percentile(99.9)

    def since(self, before: Self) -> Self:
        """Return what was recorded after `before` was read; the maximum is that of the last bucket."""
        buckets = tuple(map(sub, self.buckets, before.buckets))
        if min(buckets, default=0) < 0:  # Another start's file.
            return self
        last = max((at for at, count in enumerate(buckets) if count), default=None)
        greatest = 0 if last is None else min(self.max, lib.histogram_bucket_last(last))
        return type(self)(sum(buckets), max(0, self.sum - before.sum), greatest, buckets)

    def counted(self) -> Iterator[tuple[int, int]]:
        """Yield (greatest value of the bucket, count) of the buckets that counted something."""
        for bucket, count in enumerate(self.buckets):
            if count:
                yield lib.histogram_bucket_last(bucket), count

    def percentile(self, percent: float) -> int:
        """Return the value that `percent` of all values do not exceed; 0 of nothing."""
        rank = max(1, int(percent / 100 * self.count + 0.5))
        seen = 0
        for bucket, count in enumerate(self.buckets):
            seen += count
            if seen >= rank:
                return min(self.max, lib.histogram_bucket_last(bucket))
        return 0


@frozen
class Snapshot:
    """All figures of one role."""

    counters: Mapping[str, int]
    histograms: Mapping[str, HistogramSnapshot]
    words: Mapping[str, tuple[int, ...]]


@define(eq=False)
class Counter:
    """One word that its writer adds to or sets: by one store of an item, which costs less than a call of C. Like a histogram
    it keeps the file mapped for as long as it lives."""

    word: memoryview = field(repr=False)

    def add(self, amount: int = 1) -> None:
        """Add to it."""
        self.word[0] += amount

    def set(self, value: int) -> None:
        """Set it, for what goes up and down."""
        self.word[0] = value

    @property
    def value(self) -> int:
        """What it holds."""
        return self.word[0]


@define(eq=False)
class Histogram:
    """The writer's side of a histogram."""

    words: CData = field(repr=False)
    pinned: CData = field(repr=False)
    """What keeps the file mapped."""

    def record(self, value: int) -> None:
        """Count one value, in ns as a rule."""
        lib.histogram_record(self.words, value)

    def record_n(self, value: int, count: int) -> None:
        """Count the same value several times."""
        lib.histogram_record_n(self.words, value, count)

    def snapshot(self) -> HistogramSnapshot:
        """Read it back."""
        return _read_histogram(self.words)


@define(eq=False)
class Counters:
    """The figures of one role, mapped for writing; a context manager that lets go of them."""

    counters: Mapping[str, Counter]
    histograms: Mapping[str, Histogram]
    words: Mapping[str, memoryview]  # cast to "Q"

    @staticmethod
    def create(path: Path | str, schema: Mapping[str, Schema]) -> None:
        """Write the file for all roles, zeroed; it replaces an older one in one step."""
        layout, words = _lay_out(schema)
        text = json.dumps(layout).encode()
        first_byte = -(-(16 + len(text)) // PAGE_BYTES) * PAGE_BYTES
        temporary = Path(f"{path}.new")
        with temporary.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, first_byte + 8 * words)
            file.write(MAGIC + len(text).to_bytes(8, "little") + text)
        temporary.replace(path)

    @classmethod
    def attach(cls, path: Path | str, role: str) -> Self:
        """Map the file to write the figures of one role."""
        with Path(path).open("r+b") as file:
            mapping = mmap.mmap(file.fileno(), 0)
        layout, first_byte = _read_layout(path, mapping)
        if role not in layout["roles"]:
            mapping.close()
            raise LayoutMismatch(f"{path} has no figures of the role {role}")
        if layout["histogram_bits"] != lib.HISTOGRAM_BITS:
            mapping.close()
            raise LayoutMismatch(f"{path} was laid out by another build of leftfold")
        view = memoryview(mapping)[first_byte:].cast("Q")
        pinned, address, _ = pin(view)
        start = ffi.cast("uint64_t *", address)
        place = layout["roles"][role]
        return cls(
            {name: Counter(view[word : word + 1]) for name, word in place["counters"].items()},
            {name: Histogram(start + word, pinned) for name, word in place["histograms"].items()},
            {name: view[word : word + n] for name, (word, n) in place["words"].items()},
        )

    @staticmethod
    def read(path: Path | str) -> dict[str, Snapshot]:
        """Read the figures of every role, of a live replica or of a dead one."""
        with Path(path).open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            layout, first_byte = _read_layout(path, mapping)
            with ffi.from_buffer("uint64_t[]", memoryview(mapping)[first_byte:]) as words:
                return {role: _read_role(words, place) for role, place in layout["roles"].items()}
        finally:
            with contextlib.suppress(BufferError):
                mapping.close()

    def close(self) -> None:
        """Let go. The file is unmapped once nobody has a counter or a histogram of it any more, a ring or a bell that
        fills one included; the figures stay in it."""
        for words in self.words.values():
            words.release()
        self.counters, self.histograms, self.words = {}, {}, {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _lay_out(schema: Mapping[str, Schema]) -> tuple[dict[str, Any], int]:
    roles: dict[str, Any] = {}
    words = 0
    for role, wish in schema.items():
        words = -(-words // LINE_WORDS) * LINE_WORDS + LINE_WORDS
        place: dict[str, Any] = {"counters": {}, "histograms": {}, "words": {}}
        for name in wish.counters:
            place["counters"][name], words = words, words + 1
        for name, count in wish.words.items():
            place["words"][name], words = [words, count], words + count
        for name in wish.histograms:
            place["histograms"][name], words = words, words + HISTOGRAM_WORDS
        roles[role] = place
    layout = {
        "roles": roles,
        "histogram_bits": lib.HISTOGRAM_BITS,
        "histogram_header_words": lib.HISTOGRAM_HEADER_WORDS,
        "histogram_buckets": lib.HISTOGRAM_BUCKETS,
    }
    return layout, words + LINE_WORDS


def _read_layout(path: Path | str, mapping: mmap.mmap) -> tuple[dict[str, Any], int]:
    if mapping[:8] != MAGIC:
        raise LayoutMismatch(f"{path} is no file of counters")
    size = int.from_bytes(mapping[8:16], "little")
    layout = json.loads(mapping[16 : 16 + size])
    return layout, -(-(16 + size) // PAGE_BYTES) * PAGE_BYTES


def _read_words(words: CData, count: int) -> tuple[int, ...]:
    copies = ffi.new("uint64_t[]", count)
    lib.words_read(words, copies, count)
    return tuple(ffi.unpack(copies, count))


def _read_histogram(words: CData) -> HistogramSnapshot:
    found = _read_words(words, HISTOGRAM_WORDS)
    buckets = found[lib.HISTOGRAM_HEADER_WORDS :]
    return HistogramSnapshot(sum(buckets), found[1], found[0], buckets)


def _read_role(words: CData, place: dict[str, Any]) -> Snapshot:
    return Snapshot(
        {name: _read_words(words + word, 1)[0] for name, word in place["counters"].items()},
        {name: _read_histogram(words + word) for name, word in place["histograms"].items()},
        {name: _read_words(words + word, n) for name, (word, n) in place["words"].items()},
    )
