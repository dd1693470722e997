"""Batches: a long run of items cut into pieces that are encoded in one call each.

How long a piece is depends on the items alone: it grows from few to many, follows the size of the
piece before, and a piece that became too large is halved. So the same items in the same order are
always cut in the same places, whatever process they are in and whatever was there before.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Protocol, TypeVar

COUNT_FIRST = 256
COUNT_MAX = 4_096
BYTES_GOAL = 256 << 10
BYTES_MAX = 4 * BYTES_GOAL


class Piece(Protocol):
    """What a run of items became."""

    payload: bytes


T = TypeVar("T")
P = TypeVar("P", bound=Piece)


def cut(items: Iterable[T], encode: Callable[[list[T]], P]) -> Iterator[P]:
    """The pieces, in order. Only a single item can be longer than BYTES_MAX."""
    rest = iter(items)
    count = COUNT_FIRST
    while batch := list(islice(rest, count)):
        size = 0
        for piece in halved(batch, encode):
            yield piece
            size += len(piece.payload)
        fitting = BYTES_GOAL * len(batch) // size
        count = max(1, min(COUNT_MAX, 4 * count, fitting))


def halved(batch: list[T], encode: Callable[[list[T]], P]) -> Iterator[P]:
    """One piece; or several, if it would be too large."""
    piece = encode(batch)
    if len(piece.payload) <= BYTES_MAX or len(batch) == 1:
        yield piece
        return
    middle = len(batch) // 2
    yield from halved(batch[:middle], encode)
    yield from halved(batch[middle:], encode)
