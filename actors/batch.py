"""Batches: a long run of items cut into pieces that are encoded in one call each.

How long a piece is depends on the items alone: it grows from few to many, follows the size of the
piece before, and a piece that became too large is halved. So the same items in the same order are
always cut in the same places, whatever process they are in and whatever was there before.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol, TypeVar

COUNT_FIRST = 256
COUNT_MAX = 4_096
BYTES_GOAL = 256 << 10
BYTES_MAX = 4 * BYTES_GOAL


class Piece(Protocol):
    """What a run of items became."""

    payload: bytes


P = TypeVar("P", bound=Piece)
Column = list[Any]


def cut(columns: Sequence[Iterable[Any]], encode: Callable[..., P]) -> Iterator[P]:
    """The pieces, in order: `encode` gets a run of each column, all of one length.

    Only a single item can be longer than BYTES_MAX.
    """
    rest = [iter(column) for column in columns]
    count = COUNT_FIRST
    while (batch := [list(islice(column, count)) for column in rest])[0]:
        size = 0
        for piece in halved(batch, encode):
            yield piece
            size += len(piece.payload)
        fitting = BYTES_GOAL * len(batch[0]) // size
        count = max(1, min(COUNT_MAX, 4 * count, fitting))


def halved(batch: list[Column], encode: Callable[..., P]) -> Iterator[P]:
    """One piece; or several, if it would be too large."""
    piece = encode(*batch)
    middle = len(batch[0]) // 2
    if len(piece.payload) <= BYTES_MAX or not middle:
        yield piece
        return
    yield from halved([column[:middle] for column in batch], encode)
    yield from halved([column[middle:] for column in batch], encode)
