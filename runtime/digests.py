"""What replicas tell each other of their digests: per entry, that of everything that logic had put out by its end; of some
entries, that of the whole state.

    applied    DIGESTS       logic → consensus      header, u64 first index, then u32 for each entry from it on
    links      Digests       follower → leader      the same, in a RAFT_MESSAGE slot (raft_messages.py)
    applied    STATE_DIGEST  logic → consensus      header, u64 index, u64 digest of the state
    links      StateDigest   follower → leader      the same
    links      Odd           leader → a follower    its digest at an index is not what the majority has
    links      AskOrdinals   leader → a follower    what had it put out by the end of each ordinal of an entry? (parting.py)
    apply      ASK_ORDINALS  consensus → logic      the same: header, u64 index
    applied    ORDINALS      logic → consensus      header (tag: LAST, GONE), u64 index, u64 first ordinal, u32 for each from it on
    links      OrdinalDigests  follower → leader    the same

What is concluded from them is divergence.py's and state_checks.py's.
"""

import struct
from array import array
from collections.abc import Iterator

from attrs import frozen

from . import slots

DIGESTS_MAX = 1024
"""In one slot: what fits the smallest rings."""

PART = DIGESTS_MAX // 8
"""In one slot from logic."""

UNPLACED = 0xFFFFFFFF
"""In place of an ordinal: it is not known."""

_LAST, _GONE = 1, 2
"""Flags of ORDINALS: nothing follows; logic does not have them any more."""

STATE_DIGEST_BYTES = 7
"""Of the BLAKE2b of the state: what a number of a message may hold."""

_DIGESTS = struct.Struct("<IHHQ")
_STATE_DIGEST = struct.Struct("<IHHQQ")
_ASK_ORDINALS = struct.Struct("<IHHQ")
_ORDINALS = struct.Struct("<IHHQQ")


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

    With an ordinal they are digests of what that entry had put out by the end of it. Without a majority `expected` is
    `found`, and everybody stops.
    """

    source: int
    target: int
    term: int
    index: int
    ordinal: int
    found: int
    expected: int
    state: bool = False


def pack_ask_ordinals(index: int) -> bytes:
    """Ask logic for the digests of an entry's ordinals."""
    return _ASK_ORDINALS.pack(_ASK_ORDINALS.size, slots.ASK_ORDINALS, 0, index)


def unpack_ask_ordinals(slot: memoryview) -> int:
    """The index of the entry that is asked about."""
    index: int = _ASK_ORDINALS.unpack_from(slot)[3]
    return index


def pack_ordinals(index: int, digests: "array[int] | None") -> Iterator[bytes]:
    """What logic says of an entry's ordinals, in parts; None: it does not have them any more."""
    if digests is None:
        yield _ORDINALS.pack(_ORDINALS.size, slots.ORDINALS, _LAST | _GONE, index, 0)
        return
    for first in range(0, len(digests) or 1, PART):
        part = digests[first : first + PART].tobytes()
        length = _ORDINALS.size + len(part)
        tag = _LAST if first + PART >= len(digests) else 0
        yield _ORDINALS.pack(length, slots.ORDINALS, tag, index, first) + part + bytes(-length % 8)


@frozen
class AskOrdinals:
    """What had the target put out by the end of each ordinal of entry `index`?"""

    source: int
    target: int
    term: int
    index: int


@frozen
class OrdinalDigests:
    """The source's, from ordinal `first` on, four bytes each; nothing follows the `last`."""

    source: int
    target: int
    term: int
    index: int
    first: int
    last: bool
    knows: bool
    digests: bytes


def unpack_ordinals(slot: memoryview, source: int, target: int, term: int) -> OrdinalDigests:
    """What logic said, as a message of this replica."""
    _, _, tag, index, first = _ORDINALS.unpack_from(slot)
    last, knows = bool(tag & _LAST), not tag & _GONE
    run = bytes(slot[_ORDINALS.size :])
    return OrdinalDigests(source, target, term, index, first, last, knows, run)
