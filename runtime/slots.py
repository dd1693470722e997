"""The layouts of the slots that the processes of a replica send each other.

Every slot starts with u32 length, u16 type, u16 tag, little-endian, and lies padded to 8 bytes; the slots that clients
and actors know are in `leftfold.actors.layout`. An ENTRY slot is the same bytes in the `persist` ring, in the journal, in
the `read` ring and in the `apply` ring.
"""

import struct
from collections.abc import Iterator

from attrs import frozen

HEADER = struct.Struct("<IHH")
HEADER_BYTES = HEADER.size

COMMAND, QUERY, SUBSCRIBE, UNSUBSCRIBE = 3, 5, 6, 7
REFUSED = 22
ENTRY, HARD_STATE, PERSISTED, READ, RECOVERED, APPLIED, DRAIN = 32, 33, 34, 35, 36, 37, 38
RAFT_MESSAGE, TRUNCATE, SKIP, FAILED = 41, 42, 43, 44

REPLAY = 1
"""Tag of an ENTRY that this replica has from an earlier life: it is applied, and answers nobody."""

_ENTRY = struct.Struct("<IHHQQqHHI")
ENTRY_HEADER_BYTES = _ENTRY.size
_APPLIED = struct.Struct("<IHHQQq")
_PERSISTED = struct.Struct("<IHHQQQ")
_HARD_STATE = struct.Struct("<IHHQQQ")
_READ = struct.Struct("<IHHQQQ")
_TRUNCATE = struct.Struct("<IHHQ")
_SKIP = struct.Struct("<IHHQII")
_RECOVERED = struct.Struct("<IHHQQQQQqQII")
_PAIR = struct.Struct("<QQ")
_PLACE = struct.Struct("<QII")

NO_DEADLINE = -1


def padded(length: int) -> int:
    """The bytes that a slot of this length takes in a run."""
    return (length + 7) & ~7


def slots_of(run: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """(type, tag, slot) for each slot of a run, in order."""
    offset, end = 0, len(run)
    while offset < end:
        length, kind, tag = HEADER.unpack_from(run, offset)
        assert HEADER_BYTES <= length <= end - offset, (
            f"a slot of {length} bytes at {offset} of {end}"
        )
        yield kind, tag, run[offset : offset + length]
        offset += padded(length)


@frozen
class EntryHeader:
    """What an ENTRY slot says before its body."""

    index: int
    term: int
    time_ns: int
    kind: int


def pack_entry_header(
    index: int, term: int, time_ns: int, kind: int, body_bytes: int, tag: int = 0
) -> bytes:
    """The 40 bytes before an entry's body."""
    return _ENTRY.pack(
        ENTRY_HEADER_BYTES + body_bytes, ENTRY, tag, index, term, time_ns, kind, 0, 0
    )


def unpack_entry(slot: memoryview) -> EntryHeader:
    """Read an ENTRY slot's header; the body is `slot[ENTRY_HEADER_BYTES:]`."""
    _, _, _, index, term, time_ns, kind, _, _ = _ENTRY.unpack_from(slot)
    return EntryHeader(index, term, time_ns, kind)


def pack_applied(index: int, digest: int, deadline_ns: int | None) -> bytes:
    """Logic tells consensus how far it is, and when it next wants the time."""
    return _APPLIED.pack(
        _APPLIED.size,
        APPLIED,
        0,
        index,
        digest,
        NO_DEADLINE if deadline_ns is None else deadline_ns,
    )


def unpack_applied(slot: memoryview) -> tuple[int, int, int | None]:
    """(index, digest, next deadline in log time or None)."""
    _, _, _, index, digest, deadline_ns = _APPLIED.unpack_from(slot)
    return index, digest, None if deadline_ns == NO_DEADLINE else deadline_ns


def pack_hard_state(term: int, voted_for: int, commit: int) -> bytes:
    """Term, vote (0: none) and commit index, for the journal."""
    return _HARD_STATE.pack(_HARD_STATE.size, HARD_STATE, 0, term, voted_for, commit)


def pack_persisted(term: int, index: int, persist_bytes: int) -> bytes:
    """The journal tells consensus what is durable.

    (term, index) is the last durable entry. `persist_bytes` counts the slots taken from `persist` since the start that
    are durable now: it says which writes are acknowledged, which (term, index) cannot (see `leftfold.raft.ready`).
    """
    return _PERSISTED.pack(_PERSISTED.size, PERSISTED, 0, term, index, persist_bytes)


def unpack_persisted(slot: memoryview) -> tuple[int, int, int]:
    """(term, index, persist_bytes), see `pack_persisted`."""
    _, _, _, term, index, persist_bytes = _PERSISTED.unpack_from(slot)
    return term, index, persist_bytes


def pack_read(first: int, last: int, bytes_max: int, tag: int = 0) -> bytes:
    """Ask the journal for entries; they come on `read` with this tag."""
    return _READ.pack(_READ.size, READ, tag, first, last, bytes_max)


def unpack_read(slot: memoryview) -> tuple[int, int, int]:
    """(first, last, bytes_max) of what consensus asks for."""
    _, _, _, first, last, bytes_max = _READ.unpack_from(slot)
    return first, last, bytes_max


def pack_truncate(first_removed: int) -> bytes:
    """Tell the journal that the log now ends before this index."""
    return _TRUNCATE.pack(_TRUNCATE.size, TRUNCATE, 0, first_removed)


def pack_skip(index: int, ordinal: int) -> bytes:
    """Tell logic that the operator has left this command out."""
    return _SKIP.pack(_SKIP.size, SKIP, 0, index, ordinal, 0)


def unpack_skip(slot: memoryview) -> tuple[int, int]:
    """(index, ordinal) of a command to leave out."""
    _, _, _, index, ordinal, _ = _SKIP.unpack_from(slot)
    return index, ordinal


def pack_skip_body(index: int, ordinal: int) -> bytes:
    """The body of a SKIP entry."""
    return _PLACE.pack(index, ordinal, 0)


def pack_drain() -> bytes:
    """The slot that follows the last command through every ring when a replica stops."""
    return HEADER.pack(HEADER_BYTES, DRAIN, 0)


@frozen
class Recovered:
    """What the journal found at start."""

    term: int
    voted_for: int
    commit: int
    first: int
    last: int
    last_time_ns: int
    last_term: int
    boundaries: tuple[tuple[int, int], ...]
    skips: tuple[tuple[int, int], ...]


def unpack_recovered(slot: memoryview) -> Recovered:
    """Read the RECOVERED slot."""
    fields = _RECOVERED.unpack_from(slot)
    boundary_count, skip_count = fields[-2:]
    offset = _RECOVERED.size
    boundaries = [_PAIR.unpack_from(slot, offset + at * _PAIR.size) for at in range(boundary_count)]
    offset += boundary_count * _PAIR.size
    places = [_PLACE.unpack_from(slot, offset + at * _PLACE.size) for at in range(skip_count)]
    term, voted_for, commit, first, last, last_time_ns, last_term = fields[3:10]
    return Recovered(
        term,
        voted_for,
        commit,
        first,
        last,
        last_time_ns,
        last_term,
        tuple((int(index), int(of)) for index, of in boundaries),
        tuple((int(index), int(ordinal)) for index, ordinal, _ in places),
    )
