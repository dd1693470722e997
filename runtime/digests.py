"""What replicas tell each other of their digests: per entry, the digest of everything that logic had put out by its end.

    applied    DIGESTS       logic → consensus      header, u64 first index, then u32 for each entry from it on
    links      Digests       follower → leader      the same, in a RAFT_MESSAGE slot (raft_messages.py)
    links      Odd           leader → a follower    its digest at an index is not what the majority has

What is concluded from them is divergence.py's.
"""

import struct
from array import array

from attrs import frozen

from . import slots

DIGESTS_MAX = 1024
"""In one slot: what fits the smallest rings."""

_DIGESTS = struct.Struct("<IHHQ")


def pack_digests(first: int, digests: "array[int]") -> bytes:
    """The digests after the entries from `first` on."""
    length = _DIGESTS.size + 4 * len(digests)
    head = _DIGESTS.pack(length, slots.DIGESTS, 0, first)
    return head + digests.tobytes() + bytes(-length % 8)


def unpack_digests(slot: memoryview) -> tuple[int, bytes]:
    """(first index, four bytes for each entry) of a DIGESTS slot."""
    return _DIGESTS.unpack_from(slot)[3], bytes(slot[_DIGESTS.size :])


@frozen
class Digests:
    """The source's digests after the entries from `first` on, four bytes each."""

    source: int
    target: int
    term: int
    first: int
    digests: bytes


@frozen
class Odd:
    """The target's digest after entry `index` is `found`, and that of the majority is `expected`.

    Without a majority `expected` is `found`, and everybody stops.
    """

    source: int
    target: int
    term: int
    index: int
    found: int
    expected: int
