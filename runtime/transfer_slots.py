"""The slots between consensus and journal with which snapshots and parts of the log go to a peer, or come from one.

    persist     READ_CHUNK    bytes of a snapshot's file, for a peer
    read        CHUNK         those bytes; none: the file is gone
                READ_DONE     the entries of a READ that was asked once are all before it
    persist     STORE_CHUNK   bytes of the leader's snapshot; those at offset 0 begin the file anew
                RESTART       the log goes on behind a snapshot that was received
    persisted   RECEIVED      what became of the snapshot that came in chunks

Little-endian and padded, as all slots.
"""

import struct

from attrs import frozen

from . import slots

LAST, KEEP_SUFFIX = 1, 1
"""Tag of the STORE_CHUNK that ends its file; tag of a RESTART behind which the log stays."""

WHOLE, DAMAGED = range(2)
"""What was received: the tag of RECEIVED."""

_READ_CHUNK = struct.Struct("<IHHQQQQ")
_CHUNK = struct.Struct("<IHHQQQ")
_STORE_CHUNK = struct.Struct("<IHHQQQQ")
_RESTART = struct.Struct("<IHHQQ")
_RECEIVED = struct.Struct("<IHHQQqQQQQ")

CHUNK_HEADER_BYTES = _STORE_CHUNK.size


def pack_read_done(tag: int) -> bytes:
    """The journal has sent the entries of the READ with this tag."""
    return slots.HEADER.pack(slots.HEADER_BYTES, slots.READ_DONE, tag)


@frozen
class ReadChunk:
    """Bytes of the snapshot of `index`, wanted for `peer`."""

    peer: int
    index: int
    offset: int
    bytes_max: int


def pack_read_chunk(asked: ReadChunk) -> bytes:
    """The READ_CHUNK slot."""
    fields = (asked.peer, asked.index, asked.offset, asked.bytes_max)
    return _READ_CHUNK.pack(_READ_CHUNK.size, slots.READ_CHUNK, 0, *fields)


def unpack_read_chunk(slot: memoryview) -> ReadChunk:
    """Read a READ_CHUNK slot."""
    return ReadChunk(*_READ_CHUNK.unpack_from(slot)[3:])


def pack_chunk(asked: ReadChunk, data: bytes) -> bytes:
    """The CHUNK that answers; the bytes begin at its offset."""
    length = _CHUNK.size + len(data)
    head = _CHUNK.pack(length, slots.CHUNK, 0, asked.peer, asked.index, asked.offset)
    return head + data + bytes(-length % 8)


def unpack_chunk(slot: memoryview) -> tuple[int, int, int, bytes]:
    """(peer, index, offset, bytes) of a CHUNK."""
    _, _, _, peer, index, offset = _CHUNK.unpack_from(slot)
    return peer, index, offset, bytes(slot[_CHUNK.size :])


@frozen
class StoreChunk:
    """Bytes of the snapshot (index, term) of `size` bytes, to be written at `offset`."""

    index: int
    term: int
    size: int
    offset: int
    data: bytes | memoryview
    last: bool


def pack_store_chunk(chunk: StoreChunk) -> bytes:
    """The STORE_CHUNK slot, padded."""
    length = _STORE_CHUNK.size + len(chunk.data)
    fields = (chunk.index, chunk.term, chunk.size, chunk.offset)
    head = _STORE_CHUNK.pack(length, slots.STORE_CHUNK, LAST if chunk.last else 0, *fields)
    return b"".join((head, chunk.data, bytes(-length % 8)))


def unpack_store_chunk(slot: memoryview) -> StoreChunk:
    """Read a STORE_CHUNK slot; its bytes are a view into it."""
    _, _, tag, index, term, size, offset = _STORE_CHUNK.unpack_from(slot)
    return StoreChunk(index, term, size, offset, slot[_STORE_CHUNK.size :], tag == LAST)


def pack_restart(index: int, term: int, *, keep_suffix: bool) -> bytes:
    """Tell the journal that the log goes on behind (index, term)."""
    tag = KEEP_SUFFIX if keep_suffix else 0
    return _RESTART.pack(_RESTART.size, slots.RESTART, tag, index, term)


def unpack_restart(slot: memoryview) -> tuple[int, int, bool]:
    """(index, term, keep the suffix) of a RESTART."""
    _, _, tag, index, term = _RESTART.unpack_from(slot)
    return index, term, tag == KEEP_SUFFIX


@frozen
class ReceivedSnapshot:
    """What the snapshot that came in chunks says of itself; or, when damaged, `why`."""

    index: int
    term: int = 0
    time_ns: int = 0
    file_bytes: int = 0
    content_bytes: int = 0
    keep_from: int = 0
    membership: bytes = b""
    why: str = ""


def pack_received(received: ReceivedSnapshot) -> bytes:
    """The RECEIVED slot, padded."""
    why = received.why.encode()
    length = _RECEIVED.size + len(received.membership) + len(why)
    head = _RECEIVED.pack(
        length,
        slots.RECEIVED,
        DAMAGED if why else WHOLE,
        received.index,
        received.term,
        received.time_ns,
        received.file_bytes,
        received.content_bytes,
        received.keep_from,
        len(received.membership),
    )
    return head + received.membership + why + bytes(-length % 8)


def unpack_received(slot: memoryview) -> ReceivedSnapshot:
    """Read a RECEIVED slot."""
    fields = _RECEIVED.unpack_from(slot)
    index, term, time_ns, file_bytes, content_bytes, keep_from, membership_bytes = fields[3:]
    middle = _RECEIVED.size + membership_bytes
    membership = bytes(slot[_RECEIVED.size : middle])
    why = bytes(slot[middle:]).decode(errors="replace")
    return ReceivedSnapshot(
        index, term, time_ns, file_bytes, content_bytes, keep_from, membership, why
    )
