"""The content of a snapshot: one canonical stream of records.

    u32 length of all of it │ u8 kind │ u32 CRC-32 of length, kind and payload │ payload

    HEADER       u32 format, then a msgpack map: `Header`
    ACTORS       many actors of one type: `ACTORS`, a msgpack array of keys, one of states
    PART         items of a large dict or list of an actor in the ACTORS record before: `PART`, the
                 actor's key, the path of the field, a msgpack array of keys, one of values
    QUARANTINES  a msgpack array of `Quarantined`
    SESSIONS     a msgpack array of (id, last, floor, active_ns, replies)
    TIMERS       a msgpack array of `Timer`
    EVENTS       a msgpack array of EVENT slots
    END          the number of records before it, and BLAKE2b over them

in this order: actors by type id, then in order of their first command; quarantines by their age;
sessions in order of opening; timers by id; events oldest first. Insertion order is kept everywhere,
since handlers can see it. Each kind may take several records; where they are cut follows from the
state alone. So two machines with the same state write the same bytes, and the digest over the
records is the state's digest. How the stream is cut into chunks, and stored, is left to others.
"""

from collections.abc import Iterable, Iterator
from enum import IntEnum
from hashlib import blake2b
from struct import Struct
from typing import NamedTuple
from zlib import crc32

import msgspec
from attrs import frozen

from .app import encode_body
from .errors import SnapshotRefused
from .fold import Quarantine
from .timers import Timer

FORMAT = 2
DIGEST_BYTES = 32

RECORD = Struct("<IBI")
LENGTH_AND_KIND = Struct("<IB")
FORMAT_NUMBER = Struct("<I")
# actor type, version of the states, actors, bytes of the keys
ACTORS = Struct("<HHII")
# actor type, version of the state, items, bytes of the actor's key, of the path, of the keys
PART = Struct("<HHIHHI")


class Kind(IntEnum):
    """What a record holds."""

    HEADER = 1
    ACTORS = 2
    PART = 3
    QUARANTINES = 4
    SESSIONS = 5
    TIMERS = 6
    EVENTS = 7
    END = 8


@frozen
class HeldType:
    """An actor type of which the snapshot holds something."""

    name: str
    key: str
    version: int
    actors: int


@frozen
class HeldTimer:
    """A message that is in a timer, and the type of the actors that wait for it."""

    name: str
    actor_type: int
    # Of the messages, in every timer.
    version: int


@frozen
class Header:
    """The scalars of the state, and what must fit the App that restores it."""

    app: str
    seed: int
    index: int
    time_ns: int
    jumps_ns: int
    digest: int
    next_timer_id: int
    events_floor: tuple[int, int, int]
    # By actor type id.
    actor_types: dict[int, HeldType]
    # By message id.
    timers: dict[int, HeldTimer]
    # The schema of the App that wrote it, as canonical JSON.
    schema: bytes


@frozen
class Quarantined:
    """A quarantine with the actor it concerns."""

    actor_type: int
    key: bytes
    quarantine: Quarantine


@frozen
class End:
    """The number of records before this one, and the digest over them."""

    records: int
    digest: bytes


# id, last, floor, active_ns, replies
SessionFields = tuple[bytes, int, int, int, list[bytes]]

decode_keys = msgspec.msgpack.Decoder(list[bytes]).decode
decode_quarantines = msgspec.msgpack.Decoder(list[Quarantined]).decode
decode_sessions = msgspec.msgpack.Decoder(list[SessionFields]).decode
decode_timers = msgspec.msgpack.Decoder(list[Timer]).decode
decode_events = msgspec.msgpack.Decoder(list[bytes]).decode
_decode_header = msgspec.msgpack.Decoder(Header).decode


class Record(NamedTuple):
    """One record of a stream."""

    kind: int
    whole: memoryview
    payload: memoryview


class Digest:
    """What the END record says about the records before it."""

    def __init__(self) -> None:
        self.records = 0
        self._hash = blake2b(digest_size=DIGEST_BYTES)

    def add(self, record: bytes | memoryview) -> None:
        """The next record."""
        self.records += 1
        self._hash.update(record)

    def value(self) -> bytes:
        """The digest so far."""
        return self._hash.digest()

    def end(self) -> bytes:
        """The payload of END."""
        return encode_body(End(self.records, self.value()))


def record(kind: Kind, *payload: bytes) -> bytes:
    """A whole record."""
    length = RECORD.size + sum(map(len, payload))
    if length >= 1 << 32:
        raise OverflowError(f"a record of {length} bytes is longer than 4 GiB")
    check = crc32(LENGTH_AND_KIND.pack(length, kind))
    for piece in payload:
        check = crc32(piece, check)
    return b"".join((RECORD.pack(length, kind, check), *payload))


def encode_header(header: Header) -> bytes:
    """The payload of HEADER."""
    return FORMAT_NUMBER.pack(FORMAT) + encode_body(header)


def decode_header(payload: bytes | memoryview) -> Header:
    """The header in this payload; SnapshotRefused if its format is another."""
    (number,) = FORMAT_NUMBER.unpack_from(payload)
    if number != FORMAT:
        raise SnapshotRefused(
            f"the snapshot's content has format {number} and this version reads format {FORMAT}: "
            "use the version of leftfold that wrote it"
        )
    return _decode_header(payload[FORMAT_NUMBER.size :])


def read_header(chunks: Iterable[bytes]) -> Header:
    """The header alone; no more chunks are taken than it needs."""
    for kind, _, payload in split(chunks):
        if kind != Kind.HEADER:
            break
        try:
            return decode_header(payload)
        except (msgspec.MsgspecError, ValueError) as error:
            raise SnapshotRefused(f"the snapshot's header does not decode: {error}") from error
    raise SnapshotRefused("the snapshot does not begin with its header")


def split(chunks: Iterable[bytes]) -> Iterator[Record]:
    """The records of a stream, each checked against its CRC. A record's views end with the next."""
    number = 0
    pieces: list[bytes] = []
    have, need = 0, RECORD.size
    for chunk in chunks:
        pieces.append(chunk)
        have += len(chunk)
        if have < need:
            continue
        data = memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        start, need = 0, RECORD.size
        while have - start >= RECORD.size:
            length, kind, check = RECORD.unpack_from(data, start)
            if length < RECORD.size:
                raise SnapshotRefused(f"record {number + 1} of the snapshot has no length")
            if have - start < length:
                need = length
                break
            whole = data[start : start + length]
            payload = whole[RECORD.size :]
            number += 1
            if crc32(payload, crc32(LENGTH_AND_KIND.pack(length, kind))) != check:
                raise SnapshotRefused(f"record {number} of the snapshot does not fit its checksum")
            yield Record(kind, whole, payload)
            start += length
        pieces = [bytes(data[start:])]
        have -= start
    if have:
        raise SnapshotRefused("the snapshot ends within a record")
