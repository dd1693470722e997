"""Snapshots: all of a machine's state as one canonical stream of records, cut into chunks.

A record is u32 length, u8 kind, payload. The order is fixed: the header; the actors by type id, then
in order of their first command; quarantines; sessions in order of opening, with their replies;
timers by id; events, oldest first; the end with a count and a digest. Insertion order is kept
everywhere, since handlers can see it. Two machines with the same state write the same bytes, so the
digest over the records is the state's digest.

Fields inside an actor are a msgpack map: a field added later takes its default, one that was
removed is skipped. Where the chunks are stored is left to the journal.
"""

from collections.abc import Iterable, Iterator
from enum import IntEnum
from hashlib import blake2b
from struct import Struct
from struct import error as StructError
from typing import Any

import msgspec
from attrs import frozen

from .app import ActorType, App, decode_key, encode_body
from .errors import SnapshotRefused, StateNotEncodable, StrictViolation
from .events import Events
from .fold import Quarantine, State
from .limits import Limits
from .sessions import Session, Sessions
from .strict import check_instance
from .timers import Timer

FORMAT = 1
DIGEST_BYTES = 32

RECORD = Struct("<IB")
ACTOR = Struct("<HH")  # actor type, key length; then key, state
SESSION = Struct("<16sQQqI")  # id, last, floor, active_ns, replies; then u32 length and slot each
LENGTH = Struct("<I")


class Kind(IntEnum):
    """What a record holds."""

    HEADER = 1
    ACTOR = 2
    QUARANTINE = 3
    SESSION = 4
    TIMER = 5
    EVENT = 6
    END = 7


@frozen
class Header:
    """The scalars of the state, and what must fit the machine that restores it."""

    format: int
    app: str
    seed: int
    index: int
    time_ns: int
    jumps_ns: int
    digest: int
    next_timer_id: int
    events_floor: tuple[int, int, int]
    # Names by type id, for the text when an App does not fit.
    actor_types: dict[int, str]


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


def empty(limits: Limits) -> State:
    """The state before the first entry."""
    return State(
        sessions=Sessions(limits.sessions_max, limits.session_timeout_ns),
        events=Events(limits.events_kept_max, limits.events_kept_bytes_max),
    )


def write(app: App, state: State, seed: int, *, chunk_bytes: int, verify: bool) -> Iterator[bytes]:
    """The chunks, each of exactly `chunk_bytes` but the last. StateNotEncodable names an actor."""
    buffer = bytearray()
    digest = blake2b(digest_size=DIGEST_BYTES)
    count = 0
    for record in _records(app, state, seed, verify):
        digest.update(record)
        count += 1
        buffer += record
        while len(buffer) >= chunk_bytes:
            yield bytes(buffer[:chunk_bytes])
            del buffer[:chunk_bytes]
    buffer += _record(Kind.END, encode_body(End(count, digest.digest())))
    for start in range(0, len(buffer), chunk_bytes):
        yield bytes(buffer[start : start + chunk_bytes])


def digest(app: App, state: State, seed: int) -> bytes:
    """BLAKE2b over the records of the state."""
    found = blake2b(digest_size=DIGEST_BYTES)
    for record in _records(app, state, seed, False):
        found.update(record)
    return found.digest()


def read(app: App, limits: Limits, seed: int, chunks: Iterable[bytes]) -> State:
    """The state from its chunks; SnapshotRefused if anything is missing, changed or unknown."""
    state = empty(limits)
    digest = blake2b(digest_size=DIGEST_BYTES)
    count = 0
    ended = False
    for kind, record, payload in _split(chunks):
        if ended:
            raise SnapshotRefused("the snapshot goes on after its end")
        if kind == Kind.END:
            if payload != encode_body(End(count, digest.digest())):
                raise SnapshotRefused("the snapshot's digest does not fit its records")
            ended = True
            continue
        if (kind == Kind.HEADER) != (count == 0):
            raise SnapshotRefused("the snapshot does not begin with its header")
        digest.update(record)
        count += 1
        try:
            _restore(app, seed, state, kind, payload)
        except (msgspec.MsgspecError, ValueError, StructError) as error:
            raise SnapshotRefused(f"record {count} of the snapshot: {error}") from error
    if not ended:
        raise SnapshotRefused("the snapshot has no end")
    return state


def describe(actor: ActorType, key: bytes, state: State) -> dict[str, Any]:
    """One actor as plain values."""
    instance = state.actors[actor.id][key]
    quarantine = state.quarantined.get((actor.id, key))
    shown = decode_key(actor.key, key)
    return {
        "actor": actor.name,
        "key": shown.hex() if isinstance(shown, bytes) else shown,
        "quarantine": None if quarantine is None else str(quarantine),
        "state": msgspec.to_builtins(instance, str_keys=True, enc_hook=repr),
    }


def _record(kind: Kind, payload: bytes) -> bytes:
    return RECORD.pack(RECORD.size + len(payload), kind) + payload


def _records(app: App, state: State, seed: int, verify: bool) -> Iterator[bytes]:
    """Everything but the end."""
    types = {id: actor.name for id, actor in sorted(app.actor_types.items())}
    header = Header(
        FORMAT,
        app.name,
        seed,
        state.index,
        state.time_ns,
        state.jumps_ns,
        state.digest,
        state.timers.next_id,
        state.events.floor,
        types,
    )
    yield _record(Kind.HEADER, encode_body(header))
    for id in sorted(state.actors):
        actor = app.actor_types[id]
        for key, instance in state.actors[id].items():
            body = _encode_actor(actor, key, instance, state, verify)
            yield _record(Kind.ACTOR, ACTOR.pack(id, len(key)) + key + body)
    for (id, key), quarantine in state.quarantined.items():
        yield _record(Kind.QUARANTINE, encode_body(Quarantined(id, key, quarantine)))
    for session_id, session in state.sessions.by_id.items():
        yield _record(Kind.SESSION, _encode_session(session_id, session))
    for timer in state.timers.by_id.values():
        yield _record(Kind.TIMER, encode_body(timer))
    for event in state.events.all():
        yield _record(Kind.EVENT, event)


def _encode_actor(actor: ActorType, key: bytes, instance: Any, state: State, verify: bool) -> bytes:
    """The actor's body. A quarantined actor that has none any more becomes a fresh one."""
    try:
        body = encode_body(instance)
        if verify:
            check_instance(actor, key, instance)
        return body
    except MemoryError:
        raise
    except (Exception, StrictViolation) as error:
        if (actor.id, key) in state.quarantined:
            # No handler will see it again; the quarantine itself is what counts.
            return encode_body(actor.cls())
        shown = decode_key(actor.key, key)
        raise StateNotEncodable(f"{actor.name} {shown!r}: {error}") from error


def _encode_session(id: bytes, session: Session) -> bytes:
    parts = [SESSION.pack(id, session.last, session.floor, session.active_ns, len(session.replies))]
    for reply in session.replies:
        parts += (LENGTH.pack(len(reply)), reply)
    return b"".join(parts)


def _decode_session(payload: bytes) -> tuple[bytes, Session]:
    id, last, floor, active_ns, count = SESSION.unpack_from(payload)
    session = Session(last=last, floor=floor, active_ns=active_ns)
    offset = SESSION.size
    for _ in range(count):
        (length,) = LENGTH.unpack_from(payload, offset)
        offset += LENGTH.size
        session.replies.append(payload[offset : offset + length])
        session.replies_bytes += length
        offset += length
    if offset != len(payload) or count != last - floor:
        raise ValueError("a session does not hold the replies it says")
    return id, session


def _restore(app: App, seed: int, state: State, kind: int, payload: bytes) -> None:
    """Put one record into the state."""
    if kind == Kind.HEADER:
        _restore_header(seed, state, msgspec.msgpack.decode(payload, type=Header))
    elif kind == Kind.ACTOR:
        id, key_length = ACTOR.unpack_from(payload)
        actor = app.actor_types.get(id)
        if actor is None:
            raise SnapshotRefused(f"the snapshot holds actors of type {id}, which the App has not")
        body_at = ACTOR.size + key_length
        key = payload[ACTOR.size : body_at]
        state.actors.setdefault(id, {})[key] = actor.decode(payload[body_at:])
        state.actors_count += 1
    elif kind == Kind.QUARANTINE:
        found = msgspec.msgpack.decode(payload, type=Quarantined)
        state.quarantined[found.actor_type, found.key] = found.quarantine
    elif kind == Kind.SESSION:
        state.sessions.restore(*_decode_session(payload))
    elif kind == Kind.TIMER:
        timer = msgspec.msgpack.decode(payload, type=Timer)
        route = app.timers.get(timer.message_id)
        if route is None or route.actor.id != timer.actor_type:
            raise SnapshotRefused(
                f"the snapshot holds a timer with message {timer.message_id}, which no @on_timer "
                f"method of actor type {timer.actor_type} takes"
            )
        state.timers.restore(timer)
    elif kind == Kind.EVENT:
        state.events.keep(payload)
    else:
        raise ValueError(f"unknown kind {kind}")


def _restore_header(seed: int, state: State, header: Header) -> None:
    if header.format != FORMAT:
        raise SnapshotRefused(f"the snapshot has format {header.format}, not {FORMAT}")
    if header.seed != seed:
        raise SnapshotRefused("the snapshot was made with another seed")
    state.index = header.index
    state.time_ns = header.time_ns
    state.jumps_ns = header.jumps_ns
    state.digest = header.digest
    state.timers.next_id = header.next_timer_id
    state.events.floor = header.events_floor


def _split(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes, bytes]]:
    """The records of a stream, as (kind, whole record, payload)."""
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        start = 0
        while len(buffer) - start >= RECORD.size:
            length, kind = RECORD.unpack_from(buffer, start)
            if length < RECORD.size:
                raise SnapshotRefused("the snapshot holds a record without a length")
            if len(buffer) - start < length:
                break
            record = bytes(buffer[start : start + length])
            yield kind, record, record[RECORD.size :]
            start += length
        del buffer[:start]
    if buffer:
        raise SnapshotRefused("the snapshot ends within a record")
