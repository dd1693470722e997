"""What replicas tell each other of their digests: per entry, that of everything that logic had put out by its end; of some
entries, that of the whole state.

    applied    DIGESTS       logic → consensus      header, u64 first index, then u32 for each entry from it on
    links      Digests       follower → leader      the same, in a RAFT_MESSAGE slot (raft_messages.py)
    applied    STATE_DIGEST  logic → consensus      header, u64 index, u64 digest of the state
    links      StateDigest   follower → leader      the same
    links      Odd           leader → a follower    its digest at an index is not what the majority has

What is concluded from them is divergence.py's and state_checks.py's.
"""

import struct
from array import array

from attrs import frozen

from . import slots

DIGESTS_MAX = 1024
"""In one slot: what fits the smallest rings."""

STATE_DIGEST_BYTES = 7
"""Of the BLAKE2b of the state: what a number of a message may hold."""

_DIGESTS = struct.Struct("<IHHQ")
_STATE_DIGEST = struct.Struct("<IHHQQ")


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


def pack_state_digest(index: int, digest: int) -> bytes:
    """The digest of the state after entry `index`."""
    return _STATE_DIGEST.pack(_STATE_DIGEST.size, slots.STATE_DIGEST, 0, index, digest)


def unpack_state_digest(slot: memoryview) -> tuple[int, int]:
    """(index, digest) of a STATE_DIGEST slot."""
    _, _, _, index, digest = _STATE_DIGEST.unpack_from(slot)
    return index, digest


@frozen
class StateDigest:
    """The digest of the source's whole state after entry `index`."""

    source: int
    target: int
    term: int
    index: int
    digest: int


@frozen
class Odd:
    """The target's digest after entry `index` is `found`, and that of the majority is `expected`: of outputs, or of the state.

    Without a majority `expected` is `found`, and everybody stops.
    """

    source: int
    target: int
    term: int
    index: int
    found: int
    expected: int
    state: bool = False
