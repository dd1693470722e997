"""Raft's messages as slots: the same bytes in `send`, on the connection between two replicas and in `receive`.

A RAFT_MESSAGE slot, little-endian; its tag says which message it is:

       0  u32 length | u16 41 | u16 tag
       8  u64 target | u64 source | u64 term
      32  u64 for each further number or flag, as `LAYOUTS` names them
          then the entries of AppendEntries, each an ENTRY slot padded to 8, as the journal keeps it;
          or the bytes of InstallSnapshot's chunk, of Digests or of OrdinalDigests

Sans-IO. `check` and `decode` take any bytes and raise Malformed, nothing else; what they let pass has one encoding only,
so that what was decoded encodes to the same bytes again. Numbers are below 2**62: no sum of two that a peer sent leaves 64 bits.
Whether a message makes sense is for `leftfold.raft` to say; that it came from whom it names, for peers.py.
"""

from collections.abc import Callable, Iterator
from operator import attrgetter
from struct import Struct
from typing import Any

from attrs import frozen

from ..raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    Entry,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    InstallSnapshotReply,
    Message,
    RequestVote,
    RequestVoteReply,
    TimeoutNow,
)
from . import slots
from .digests import AskOrdinals, Digests, Odd, OrdinalDigests, StateDigest
from .errors import LeftfoldError

NUMBER_MAX = (1 << 62) - 1

_ENVELOPE = Struct("<IHHQQ")
_ENTRY = Struct("<IHHQQqHHI")
_ADDRESSED = ("target", "source", "term")
_FLAG_MAX = 1


class Malformed(LeftfoldError):
    """These bytes are no message; the text says what is wrong with them."""


@frozen
class Layout:
    """How one kind of message lies in its slot."""

    tag: int
    kind: type[Any]
    numbers: tuple[str, ...]
    flags: int
    """How many of the last numbers are 0 or 1."""
    tail: str
    """The field that lies behind the numbers; empty: none."""
    struct: Struct
    values: Callable[[Any], tuple[int, ...]]


def _layout(tag: int, kind: type[Any], numbers: str, flags: str = "", tail: str = "") -> Layout:
    names = (*_ADDRESSED, *numbers.split(), *flags.split())
    return Layout(
        tag, kind, names, len(flags.split()), tail, Struct(f"<IHH{len(names)}Q"), attrgetter(*names)
    )


LAYOUTS = (
    _layout(1, RequestVote, "last_index last_term", "pre_vote transfer"),
    _layout(2, RequestVoteReply, "", "granted pre_vote"),
    _layout(3, AppendEntries, "prev_index prev_term commit", "bulk", "entries"),
    _layout(4, AppendEntriesReply, "index hint_index hint_term", "success repairing"),
    _layout(5, Heartbeat, "commit round"),
    _layout(6, HeartbeatReply, "round"),
    _layout(7, InstallSnapshot, "last_index last_term size offset checksum", "done", "chunk"),
    _layout(8, InstallSnapshotReply, "last_index offset", "done refused"),
    _layout(9, TimeoutNow, ""),
    _layout(10, Digests, "first", tail="digests"),
    _layout(11, Odd, "index ordinal found expected", "state"),
    _layout(12, StateDigest, "index digest"),
    _layout(13, AskOrdinals, "index"),
    _layout(14, OrdinalDigests, "index first", "last knows", tail="digests"),
)
_BY_KIND = {layout.kind: layout for layout in LAYOUTS}
_BY_TAG = {layout.tag: layout for layout in LAYOUTS}


Said = Message | Digests | StateDigest | Odd | AskOrdinals | OrdinalDigests
"""What replicas say to each other: Raft's messages, and the runtime's own beside them."""


def encode(message: Said) -> bytes:
    """The message as one padded slot."""
    match message:
        case AppendEntries():
            return _slot(message, b"".join(map(entry_slot, message.entries)))
        case InstallSnapshot():
            return _slot(message, message.chunk)
        case Digests() | OrdinalDigests():
            return _slot(message, message.digests)
        case _:
            return _slot(message, b"")


def encode_entries(message: AppendEntries, run: bytes) -> bytes:
    """The message, whose `entries` are empty, with the ENTRY slots of a run in their place, as they are."""
    assert not message.entries
    return _slot(message, run)


def _slot(message: Said, tail: bytes) -> bytes:
    layout = _BY_KIND[type(message)]
    length = layout.struct.size + len(tail)
    head = layout.struct.pack(length, slots.RAFT_MESSAGE, layout.tag, *layout.values(message))
    return head + tail + bytes(-length % 8)


def entry_slot(entry: Entry) -> bytes:
    """An entry as a padded slot: what the journal keeps."""
    body = entry.body
    head = slots.pack_entry_header(entry.index, entry.term, entry.time_ns, entry.kind, len(body))
    return head + body + bytes(-len(body) % 8)


@frozen
class Envelope:
    """Who says this to whom."""

    tag: int
    target: int
    source: int


def envelope(slot: bytes | memoryview) -> Envelope:
    """Read the addresses of a slot that this replica itself encoded."""
    _, _, tag, target, source = _ENVELOPE.unpack_from(slot)
    return Envelope(tag, target, source)


def check(slot: bytes | memoryview) -> Envelope:
    """Make sure that a slot, without its padding, is a message. Raises Malformed."""
    layout, numbers = _numbers(slot)
    if layout.tail == "entries":
        for _ in _entries(memoryview(slot)[layout.struct.size :], numbers[3]):
            pass
    return Envelope(layout.tag, numbers[0], numbers[1])


def decode(slot: bytes | memoryview) -> Said:
    """The message of a slot, without its padding. Raises Malformed."""
    layout, numbers = _numbers(slot)
    fields: dict[str, Any] = dict(zip(layout.numbers, numbers, strict=True))
    for name in layout.numbers[len(numbers) - layout.flags :]:
        fields[name] = bool(fields[name])
    if not layout.tail:
        plain: Said = layout.kind(**fields)
        return plain
    tail = memoryview(slot)[layout.struct.size :]
    if layout.tail == "entries":
        fields["entries"] = tuple(
            Entry(index, term, time_ns, kind, bytes(body))
            for index, term, time_ns, kind, body in _entries(tail, numbers[3])
        )
    else:
        fields[layout.tail] = bytes(tail)
    message: Said = layout.kind(**fields)
    return message


def entries_run(slot: bytes | memoryview) -> memoryview:
    """The ENTRY slots of an AppendEntries that was checked, as one run."""
    return memoryview(slot)[_BY_KIND[AppendEntries].struct.size :]


def _numbers(slot: bytes | memoryview) -> tuple[Layout, tuple[int, ...]]:
    if len(slot) < slots.HEADER_BYTES:
        raise Malformed(f"a message of {len(slot)} bytes")
    length, kind, tag = slots.HEADER.unpack_from(slot)
    layout = _BY_TAG.get(tag)
    if kind != slots.RAFT_MESSAGE or layout is None:
        raise Malformed(f"a slot of type {kind} and tag {tag} where a message was due")
    fixed = layout.struct.size
    if length != len(slot) or length < fixed or (length > fixed and not layout.tail):
        raise Malformed(f"{layout.kind.__name__} of {length} bytes, {len(slot)} of them there")
    numbers: tuple[int, ...] = layout.struct.unpack_from(slot)[3:]
    if max(numbers) > NUMBER_MAX or (layout.flags and max(numbers[-layout.flags :]) > _FLAG_MAX):
        raise Malformed(f"{layout.kind.__name__} with {_too_large(layout, numbers)}")
    return layout, numbers


def _too_large(layout: Layout, numbers: tuple[int, ...]) -> str:
    first_flag = len(numbers) - layout.flags
    return ", ".join(
        f"{name} {number}"
        for at, (name, number) in enumerate(zip(layout.numbers, numbers, strict=True))
        if number > (NUMBER_MAX if at < first_flag else _FLAG_MAX)
    )


def _entries(run: memoryview, index: int) -> Iterator[tuple[int, int, int, int, memoryview]]:
    """(index, term, time_ns, kind, body) of each entry that follows `index`."""
    at = 0
    while at < len(run):
        index += 1
        if len(run) - at < slots.ENTRY_HEADER_BYTES:
            raise Malformed(f"an entry {index} of {len(run) - at} bytes")
        length, kind, tag, found, term, time_ns, entry_kind, zero, zeros = _ENTRY.unpack_from(
            run, at
        )
        end = at + slots.padded(length)
        if kind != slots.ENTRY or length < slots.ENTRY_HEADER_BYTES or end > len(run):
            raise Malformed(f"a slot of type {kind} and {length} bytes where entry {index} was due")
        if found != index or term > NUMBER_MAX:
            raise Malformed(f"entry {found} of term {term} where entry {index} was due")
        if tag or zero or zeros or any(run[at + length : end]):
            raise Malformed(f"entry {index} with bytes set that must be zero")
        yield index, term, time_ns, entry_kind, run[at + slots.ENTRY_HEADER_BYTES : at + length]
        at = end
