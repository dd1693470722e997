"""The layouts of the slots that the processes of a replica send each other.

Every slot starts with u32 length, u16 type, u16 tag, little-endian, and lies padded to 8 bytes; the slots that clients
and actors know are in `leftfold.actors.layout`. An ENTRY slot is the same bytes in the `persist` ring, in the journal, in
the `read` ring and in the `apply` ring.
"""

import json
import struct
from collections.abc import Iterator, Mapping

from attrs import define, field, frozen

HEADER = struct.Struct("<IHH")
HEADER_BYTES = HEADER.size

COMMAND, QUERY, SUBSCRIBE, UNSUBSCRIBE = 3, 5, 6, 7
REFUSED = 22
ENTRY, HARD_STATE, PERSISTED, READ, RECOVERED, APPLIED, DRAIN = 32, 33, 34, 35, 36, 37, 38
SNAPSHOT_CHUNK, RESTORE = 39, 40
RAFT_MESSAGE, TRUNCATE, SKIP, FAILED = 41, 42, 43, 44
TAKE_SNAPSHOT, SNAPSHOT_STATE, DISCARD, BUILD, CONTROL, ROOM = 46, 47, 48, 49, 50, 51
SNAPSHOT_BEGUN, SNAPSHOT_ENDED = 52, 53
PEER, PEERS, LINK = 45, 54, 55
READ_DONE, READ_CHUNK, CHUNK, STORE_CHUNK, RECEIVED, RESTART = 56, 57, 58, 59, 60, 61
DIGESTS, STATE_DIGEST, REPAIRED = 62, 63, 64
ASK_ORDINALS, ORDINALS = 65, 66

REPLAY, SILENT = 1, 2
"""Bits of an ENTRY's tag: this replica has it from an earlier life; it does not lead. Either way the entry is applied, and
answers nobody."""

ASKED_ONCE = 16
"""From this tag on, a READ is answered with one piece and READ_DONE, both under its tag."""

LAST_CHUNK = 1
"""Tag of the SNAPSHOT_CHUNK behind which there is no more."""

BY_SCHEDULE, BY_COMMAND, AT_STOP = range(3)
"""Why a snapshot is taken: the tag of TAKE_SNAPSHOT."""

VERIFIED, NOT_TAKEN = range(2)
"""What became of a snapshot: the tag of SNAPSHOT_STATE."""

ROOM_AGAIN, ROOM_LOW = range(2)
"""What the disk has left for the log: the tag of ROOM."""

ENDED_BY_SIGNAL = 255
"""Tag of SNAPSHOT_ENDED when no exit status says how the child ended."""

CONTROL_SNAPSHOT, CONTROL_TRANSFER, CONTROL_MEMBERS, CONTROL_STATUS = range(1, 5)
"""What an operator asks of consensus: the tag of CONTROL."""

REFUSED_NOT_LEADER, REFUSED_NOT_READY, REFUSED_DISK_FULL, REFUSED_DRAINING = range(1, 5)
"""Why a client is refused: the low byte of REFUSED's tag."""

_ENTRY = struct.Struct("<IHHQQqHHI")
ENTRY_HEADER_BYTES = _ENTRY.size
_APPLIED = struct.Struct("<IHHQQq")
_PERSISTED = struct.Struct("<IHHQQQ")
_HARD_STATE = struct.Struct("<IHHQQQ")
_READ = struct.Struct("<IHHQQQ")
_TRUNCATE = struct.Struct("<IHHQ")
_SKIP = struct.Struct("<IHHQII")
_RECOVERED = struct.Struct("<IHHQQQQQqQQQQQQQQIIIII")
_INDEX = struct.Struct("<IHHQ")
_RESTORE = struct.Struct("<IHHQQ")
_TAKE_SNAPSHOT = struct.Struct("<IHHQQ")
_SNAPSHOT_STATE = struct.Struct("<IHHQQQ")
_SNAPSHOT_BEGUN = struct.Struct("<IHHQQ")
_CONTROL = struct.Struct("<IHH16sQIHH")
_PAIR = struct.Struct("<QQ")
_PLACE = struct.Struct("<QII")

NO_DEADLINE = -1


def padded(length: int) -> int:
    """The bytes that a slot of this length takes in a run."""
    return (length + 7) & ~7


def slots_of(run: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """(type, tag, slot) for each slot of a run, in order."""
    end = len(run)
    if end:
        length, kind, tag = HEADER.unpack_from(run)
        if (
            end - 8 < length <= end and length >= HEADER_BYTES
        ):  # As when one client waits for each answer: no need of a generator.
            return iter(((kind, tag, run[:length]),))
    return _slots_of(run)


def _slots_of(run: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    offset, end = 0, len(run)
    while offset < end:
        length, kind, tag = HEADER.unpack_from(run, offset)
        assert HEADER_BYTES <= length <= end - offset, (
            f"a slot of {length} bytes at {offset} of {end}"
        )
        yield kind, tag, run[offset : offset + length]
        offset += padded(length)


@define
class EntryHeader:
    """What an ENTRY slot says before its body. One is made for each batch: not frozen, which costs 0.5 µs."""

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


def pack_repaired() -> bytes:
    """The replica has again what its journal had lost."""
    return HEADER.pack(HEADER_BYTES, REPAIRED, 0)


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
    """What the journal found at start.

    `snapshot_index` and `snapshot_term` are 0 where there is no snapshot; `snapshot_build` is the build of the app that
    wrote it, `snapshot_bytes` how long its content is. The log goes on from it: it is never older than `first - 1`.
    """

    term: int
    voted_for: int
    commit: int
    first: int
    last: int
    last_time_ns: int
    last_term: int
    boundaries: tuple[tuple[int, int], ...]
    skips: tuple[tuple[int, int], ...]
    snapshot_index: int = 0
    snapshot_term: int = 0
    snapshot_bytes: int = 0
    snapshot_build: str = ""
    membership: bytes = b""
    origin_term: int = 0
    """The term of entry `first - 1`."""
    snapshot_file_bytes: int = 0
    configurations: tuple[tuple[int, bytes], ...] = ()
    """The entries of the log that changed the members: index and body."""
    damage_last: int = 0
    """How far the log had gone before it was damaged behind `last`; 0: it is whole."""
    damage_last_term: int = 0


def pack_recovered(recovered: Recovered) -> bytes:
    """The RECOVERED slot, padded."""
    build = recovered.snapshot_build.encode()
    rest = b"".join(
        (
            *(_PAIR.pack(*pair) for pair in recovered.boundaries),
            *(_PLACE.pack(index, ordinal, 0) for index, ordinal in recovered.skips),
            build,
            recovered.membership,
            *(_PAIR.pack(index, len(body)) + body for index, body in recovered.configurations),
        )
    )
    head = _RECOVERED.pack(
        _RECOVERED.size + len(rest),
        RECOVERED,
        0,
        recovered.term,
        recovered.voted_for,
        recovered.commit,
        recovered.first,
        recovered.last,
        recovered.last_time_ns,
        recovered.last_term,
        recovered.snapshot_index,
        recovered.snapshot_term,
        recovered.snapshot_bytes,
        recovered.origin_term,
        recovered.snapshot_file_bytes,
        recovered.damage_last,
        recovered.damage_last_term,
        len(recovered.boundaries),
        len(recovered.skips),
        len(build),
        len(recovered.membership),
        len(recovered.configurations),
    )
    return _fill(head + rest)


def unpack_recovered(slot: memoryview) -> Recovered:
    """Read the RECOVERED slot."""
    fields = _RECOVERED.unpack_from(slot)
    boundary_count, skip_count, build_bytes, membership_bytes, configuration_count = fields[-5:]
    offset = _RECOVERED.size
    boundaries = [_PAIR.unpack_from(slot, offset + at * _PAIR.size) for at in range(boundary_count)]
    offset += boundary_count * _PAIR.size
    places = [_PLACE.unpack_from(slot, offset + at * _PLACE.size) for at in range(skip_count)]
    offset += skip_count * _PLACE.size
    build = bytes(slot[offset : offset + build_bytes]).decode()
    offset += build_bytes
    membership = bytes(slot[offset : offset + membership_bytes])
    offset += membership_bytes
    configurations: list[tuple[int, bytes]] = []
    for _ in range(configuration_count):
        index, length = _PAIR.unpack_from(slot, offset)
        offset += _PAIR.size
        configurations.append((index, bytes(slot[offset : offset + length])))
        offset += length
    term, voted_for, commit, first, last, last_time_ns, last_term = fields[3:10]
    snapshot_index, snapshot_term, snapshot_bytes, origin_term, file_bytes = fields[10:15]
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
        snapshot_index,
        snapshot_term,
        snapshot_bytes,
        build,
        membership,
        origin_term,
        file_bytes,
        tuple(configurations),
        *fields[15:17],
    )


# Snapshots


def pack_chunk(content: bytes | memoryview, *, last: bool) -> bytes:
    """A piece of a snapshot's content, from the journal to logic."""
    head = HEADER.pack(HEADER_BYTES + len(content), SNAPSHOT_CHUNK, LAST_CHUNK if last else 0)
    return b"".join((head, content, bytes(-len(content) % 8)))


def chunk_content(slot: memoryview) -> memoryview:
    """The content of a SNAPSHOT_CHUNK; LAST_CHUNK is in its tag."""
    return slot[HEADER_BYTES:]


def pack_restore(index: int, content_bytes: int = 0, build: str = "") -> bytes:
    """To the journal: stream the snapshot of `index`; to logic: take your state from it.

    `content_bytes` says how long it is, for those who show how far they are; 0 where nobody knows. `build` is the one
    that the entries right behind it were written under, as far as that is known.
    """
    text = build.encode()
    return _fill(_RESTORE.pack(_RESTORE.size + len(text), RESTORE, 0, index, content_bytes) + text)


def unpack_restore(slot: memoryview) -> tuple[int, int, str]:
    """(index, content bytes or 0, build or nothing) of a RESTORE."""
    _, _, _, index, content_bytes = _RESTORE.unpack_from(slot)
    return index, content_bytes, bytes(slot[_RESTORE.size :]).decode()


@frozen
class TakeSnapshot:
    """Consensus tells logic to write its state as it is after `index`, the last entry it was given."""

    index: int
    term: int
    reason: int
    membership: bytes = b""


def pack_take_snapshot(asked: TakeSnapshot) -> bytes:
    """The TAKE_SNAPSHOT slot, padded."""
    length = _TAKE_SNAPSHOT.size + len(asked.membership)
    head = _TAKE_SNAPSHOT.pack(length, TAKE_SNAPSHOT, asked.reason, asked.index, asked.term)
    return _fill(head + asked.membership)


def unpack_take_snapshot(slot: memoryview) -> TakeSnapshot:
    """Read a TAKE_SNAPSHOT slot."""
    _, _, reason, index, term = _TAKE_SNAPSHOT.unpack_from(slot)
    return TakeSnapshot(index, term, reason, bytes(slot[_TAKE_SNAPSHOT.size :]))


@frozen
class SnapshotState:
    """What became of the snapshot of `index`.

    `keep_from` is the first entry that the oldest snapshot still needs, 0 if all are needed; `why` is a sentence, and empty
    unless it failed.
    """

    index: int
    file_bytes: int
    keep_from: int
    why: str = ""
    tag: int = VERIFIED


def pack_snapshot_state(state: SnapshotState) -> bytes:
    """The SNAPSHOT_STATE slot, padded."""
    text = state.why.encode()
    head = _SNAPSHOT_STATE.pack(
        _SNAPSHOT_STATE.size + len(text),
        SNAPSHOT_STATE,
        state.tag,
        state.index,
        state.file_bytes,
        state.keep_from,
    )
    return _fill(head + text)


def unpack_snapshot_state(slot: memoryview) -> SnapshotState:
    """Read a SNAPSHOT_STATE slot."""
    _, _, tag, index, file_bytes, keep_from = _SNAPSHOT_STATE.unpack_from(slot)
    why = bytes(slot[_SNAPSHOT_STATE.size :]).decode(errors="replace")
    return SnapshotState(index, file_bytes, keep_from, why, tag)


def pack_snapshot_begun(index: int, pid: int) -> bytes:
    """Logic tells the journal that a child with this pid writes the snapshot of `index`."""
    return _SNAPSHOT_BEGUN.pack(_SNAPSHOT_BEGUN.size, SNAPSHOT_BEGUN, 0, index, pid)


def unpack_snapshot_begun(slot: memoryview) -> tuple[int, int]:
    """(index, pid) of a SNAPSHOT_BEGUN."""
    _, _, _, index, pid = _SNAPSHOT_BEGUN.unpack_from(slot)
    return index, pid


def pack_snapshot_ended(index: int, status: int) -> bytes:
    """Logic tells the journal how the child ended: its exit status, or ENDED_BY_SIGNAL."""
    return _INDEX.pack(_INDEX.size, SNAPSHOT_ENDED, status, index)


def unpack_snapshot_ended(slot: memoryview) -> tuple[int, int]:
    """(index, status) of a SNAPSHOT_ENDED."""
    _, _, status, index = _INDEX.unpack_from(slot)
    return index, status


def pack_discard(index: int) -> bytes:
    """Tell the journal that nobody needs anything below this index."""
    return _INDEX.pack(_INDEX.size, DISCARD, 0, index)


def unpack_discard(slot: memoryview) -> int:
    """The index of a DISCARD."""
    index: int = _INDEX.unpack_from(slot)[3]
    return index


# Texts and requests


def pack_build(build: str) -> bytes:
    """Logic tells consensus under which build of the app it runs."""
    return _pack_text(BUILD, 0, build)


def pack_room(tag: int, sentence: str = "") -> bytes:
    """The journal tells consensus whether the disk takes more: ROOM_AGAIN, or ROOM_LOW with the sentence for clients."""
    return _pack_text(ROOM, tag, sentence)


def text_of(slot: memoryview) -> str:
    """The text of a BUILD, a ROOM or a FAILED."""
    return bytes(slot[HEADER_BYTES:]).decode(errors="replace")


@frozen
class Control:
    """What an operator asks of consensus; `body` is JSON."""

    operation: int
    session: bytes
    request: int
    body: bytes


def pack_control(control: Control) -> bytes:
    """The CONTROL slot, padded."""
    length = _CONTROL.size + len(control.body)
    fields = (control.operation, control.session, control.request, 0, 0, 0)
    return _fill(_CONTROL.pack(length, CONTROL, *fields) + control.body)


def unpack_control(slot: memoryview) -> Control:
    """Read a CONTROL slot."""
    length, _, operation, session, request, _, key_bytes, _ = _CONTROL.unpack_from(slot)
    return Control(operation, session, request, bytes(slot[_CONTROL.size + key_bytes : length]))


def _pack_text(kind: int, tag: int, text: str) -> bytes:
    encoded = text.encode()
    return _fill(HEADER.pack(HEADER_BYTES + len(encoded), kind, tag) + encoded)


def _fill(slot: bytes) -> bytes:
    return slot + bytes(-len(slot) % 8)


# Between consensus and the gateway, about the other replicas

LINK_DOWN, LINK_UP = range(2)
"""Whether Raft's messages can go to a replica now: the tag of LINK."""

_LINK = struct.Struct("<IHHQ")


@frozen
class Peers:
    """Who the other replicas are, as consensus tells the gateway."""

    build: str
    """The app's build that this replica runs; another one is refused unless `any_build`."""
    any_build: bool = False
    addresses: Mapping[int, str] = field(factory=dict[int, str])
    """Where each member listens for replicas, host:port with a numeric host; itself may be among them."""


def pack_peers(peers: Peers) -> bytes:
    """Consensus tells the gateway whom to be linked with; the slot replaces the one before."""
    fields = {
        "build": peers.build,
        "any_build": peers.any_build,
        "addresses": {str(replica): address for replica, address in peers.addresses.items()},
    }
    return _pack_text(PEERS, 0, json.dumps(fields))


def unpack_peers(slot: memoryview) -> Peers:
    """Read `pack_peers`' slot."""
    fields = json.loads(bytes(slot[HEADER_BYTES:]))
    addresses = {int(replica): str(address) for replica, address in fields["addresses"].items()}
    return Peers(str(fields["build"]), bool(fields["any_build"]), addresses)


def pack_link(replica: int, serves: str, *, up: bool) -> bytes:
    """The gateway tells consensus that a link came up or went down, and where that replica serves clients."""
    text = serves.encode()
    tag = LINK_UP if up else LINK_DOWN
    return _fill(_LINK.pack(_LINK.size + len(text), LINK, tag, replica) + text)


def unpack_link(slot: memoryview) -> tuple[int, str]:
    """(replica, where it serves clients) of a LINK; the tag says up or down."""
    return _LINK.unpack_from(slot)[3], bytes(slot[_LINK.size :]).decode()


# Packets, on the socket between the child that writes a snapshot and the journal

PACKET = struct.Struct("<QII")
PACKET_DATA, PACKET_END, PACKET_FAILED = 1, 2, 3
"""u64 index, u32 kind, u32 0; then bytes of the snapshot file in their order, or nothing, or the sentence why not."""

PACKET_BYTES_MAX = 128 * 1024
