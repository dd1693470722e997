"""The circle of writes that are not known to be durable, between Python and the stays of leading.h and following.h.

A place holds the bytes handed over, the write's sequence, and the log's end and the commit index that it brings.
"""

from typing import TYPE_CHECKING

from ..raft import Stretch
from .persisting import Persisting

if TYPE_CHECKING:
    from ._wire import CData


def give_writes(circle: "CData", persisting: Persisting, standing: Stretch) -> None:
    """Put those that a stay begins with into the first places."""
    handed = {sequence: handed_bytes for handed_bytes, sequence in persisting.writes}
    for at, (sequence, last, commit) in enumerate(standing.writes):
        write = circle[at]
        write.handed_bytes, write.sequence = handed[sequence], sequence
        write.last, write.commit = last, commit


def writes_in(
    circle: "CData", places: int, first: int, count: int
) -> list[tuple[int, int, int, int]]:
    """(bytes handed, sequence, log's end, commit index) of those that a stay ended with."""
    found: list[tuple[int, int, int, int]] = []
    for at in range(first, first + count):
        write = circle[at % places]
        found.append((write.handed_bytes, write.sequence, write.last, write.commit))
    return found
