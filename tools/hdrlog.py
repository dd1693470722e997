"""Histograms in the formats of HdrHistogram, so that its tools read ours: the V2 encoding and the log format 1.3.

HdrHistogram with two digits cuts each power of two into 128, ours into 64 (shm/histogram.h): each of our buckets ends where one
of those ends, so a count goes to that one, and both give the same percentiles. The greatest goes where the maximum is.
"""

import base64
import struct
import zlib
from collections.abc import Iterable
from typing import TextIO

from attrs import frozen

from ..shm import HistogramSnapshot

COOKIE = 0x1C849303
COOKIE_COMPRESSED = 0x1C849304
DIGITS = 2
HALF_BITS = 7
"""128 buckets for each power of two, from 256 on."""
HIGHEST = 2**43
"""Ours end at 2^42; a greater maximum counts there."""

HEADER = struct.Struct(">iiiiqqd")
WRAPPER = struct.Struct(">ii")


@frozen
class Interval:
    """What was recorded under a name, from a second on, for so many seconds."""

    name: str
    start_s: float
    seconds: float
    histogram: HistogramSnapshot


def encode(histogram: HistogramSnapshot) -> bytes:
    """The compressed V2 encoding, in base64."""
    counts = _payload(_counts(histogram))
    plain = HEADER.pack(COOKIE, len(counts), 0, DIGITS, 1, HIGHEST, 1.0) + counts
    compressed = zlib.compress(plain)
    return base64.b64encode(WRAPPER.pack(COOKIE_COMPRESSED, len(compressed)) + compressed)


def write(file: TextIO, intervals: Iterable[Interval], began_s: float) -> None:
    """A log: one line for each that has counted something; `began_s` is the wall clock's."""
    file.write("#[Histogram log format version 1.3]\n")
    file.write(f"#[StartTime: {began_s:.3f} (seconds since epoch)]\n")
    file.write(
        '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"\n'
    )
    for one in intervals:
        if one.histogram.count:
            file.write(
                f"Tag={one.name},{one.start_s:.3f},{one.seconds:.3f},"
                f"{one.histogram.max / 1e6:.3f},{encode(one.histogram).decode()}\n"
            )


def _counts(histogram: HistogramSnapshot) -> dict[int, int]:
    """Counts by index of an HdrHistogram."""
    found: dict[int, int] = {}
    for last, count in histogram.counted():
        index = _index(min(last, histogram.max, HIGHEST))
        found[index] = found.get(index, 0) + count
    return found


def _index(value: int) -> int:
    octave = max(0, value.bit_length() - HALF_BITS - 1)
    return (octave << HALF_BITS) + (value >> octave)


def _payload(counts: dict[int, int]) -> bytes:
    """Counts as zigzag varints; a run of zeros is its length, negative."""
    found = bytearray()
    following = 0
    for index in sorted(counts):
        if index > following:
            found += _varint(following - index)
        found += _varint(counts[index])
        following = index + 1
    return bytes(found)


def _varint(number: int) -> bytes:
    """ZigZag LEB128 in at most nine bytes, the ninth with all of its bits."""
    left = number << 1 if number >= 0 else (-number << 1) - 1
    found = bytearray()
    while left > 0x7F and len(found) < 8:
        found.append(left & 0x7F | 0x80)
        left >>= 7
    found.append(left)
    return bytes(found)
