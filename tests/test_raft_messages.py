"""Raft's messages as slots: every message comes back as it was, and no bytes do more than raise Malformed."""

import random
import struct
import typing

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leftfold.raft import messages
from leftfold.raft.messages import AppendEntries, Entry, Heartbeat, InstallSnapshot
from leftfold.runtime import raft_messages, slots
from leftfold.runtime._wire import ffi, lib
from leftfold.runtime.carriers import set_layouts
from leftfold.runtime.raft_messages import Malformed, check, decode, encode

NUMBERS = st.integers(0, raft_messages.NUMBER_MAX)
BODIES = st.binary(max_size=100)
KINDS = typing.get_args(raft_messages.Said)
LAYOUTS = ffi.new("struct carrier_layout[]", lib.CARRIER_TAGS)
set_layouts(LAYOUTS)


@st.composite
def entries_after(draw: st.DrawFn, index: int) -> tuple[Entry, ...]:
    times = st.integers(-(2**63), 2**63 - 1)
    count = draw(st.integers(0, 4))
    return tuple(
        Entry(index + at, draw(NUMBERS), draw(times), draw(st.integers(0, 65535)), draw(BODIES))
        for at in range(1, count + 1)
    )


@st.composite
def any_message(draw: st.DrawFn) -> raft_messages.Said:
    """A message of any kind, each field drawn by its annotation: a new field is drawn too."""
    kind = draw(st.sampled_from(KINDS))
    fields: dict[str, object] = {}
    for name, annotation in typing.get_type_hints(kind).items():
        if annotation is int:
            fields[name] = draw(NUMBERS)
        elif annotation is bool:
            fields[name] = draw(st.booleans())
        elif annotation is bytes:
            fields[name] = draw(BODIES)
        else:
            assert annotation == tuple[Entry, ...], f"{kind.__name__}.{name} is drawn by nobody"
            fields[name] = draw(entries_after(int(str(fields["prev_index"]))))
    return kind(**fields)


def unpadded(slot: bytes) -> bytes:
    return slot[: slots.HEADER.unpack_from(slot)[0]]


def is_carried(slot: bytes) -> bool:
    """Whether C lets it pass, between the replicas that it names (carrier.h)."""
    target, source = struct.unpack_from("<QQ", slot, 8) if len(slot) >= 24 else (0, 0)
    for wrong in ((source + 1) % 2**64, target), (source, (target + 1) % 2**64):
        assert not lib.carrier_passes(LAYOUTS, slot, len(slot), *wrong)
    return bool(lib.carrier_passes(LAYOUTS, slot, len(slot), source, target))


def test_every_message_of_raft_has_a_layout() -> None:
    assert {layout.kind for layout in raft_messages.LAYOUTS} == {*KINDS}
    assert {*typing.get_args(messages.Message)} < {*KINDS}
    for layout in raft_messages.LAYOUTS:
        names = {*layout.numbers, layout.tail} - {""}
        assert names == {field.name for field in attrs.fields(layout.kind)}


@given(any_message())
def test_a_message_comes_back_as_it_was(message: raft_messages.Said) -> None:
    slot = encode(message)
    found = unpadded(slot)

    assert len(slot) % 8 == 0 and not any(slot[len(found) :])
    assert decode(found) == decode(memoryview(found)) == message
    layout = next(layout for layout in raft_messages.LAYOUTS if layout.kind is type(message))
    wanted = raft_messages.Envelope(layout.tag, message.target, message.source)
    assert check(found) == raft_messages.envelope(slot) == wanted
    assert is_carried(found)


@given(any_message(), st.data())
def test_a_broken_message_is_malformed_or_another_message(
    message: raft_messages.Said, data: st.DataObject
) -> None:
    """Cut, grown, and with bytes changed: what is still accepted encodes to exactly what came."""
    slot = bytearray(unpadded(encode(message)))
    for _ in range(data.draw(st.integers(1, 3))):
        match data.draw(st.integers(0, 3)):
            case 0:
                del slot[data.draw(st.integers(0, len(slot))) :]
            case 1:
                slot += data.draw(st.binary(max_size=9))
            case _ if slot:
                slot[data.draw(st.integers(0, len(slot) - 1))] = data.draw(st.integers(0, 255))
            case _:
                pass
    try:
        found = decode(bytes(slot))
    except Malformed:
        with pytest.raises(Malformed):
            check(bytes(slot))
        assert not is_carried(bytes(slot))
    else:
        assert is_carried(bytes(slot))
        assert unpadded(encode(found)) == slot
        assert check(bytes(slot)).source == found.source


def test_random_bytes_behind_a_true_header_are_malformed_or_a_message() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(20_000):
        length = 8 + 8 * rng.randrange(20)
        head = slots.HEADER.pack(length, slots.RAFT_MESSAGE, rng.randrange(16))
        small = rng.random() < 0.5
        rest = b"".join(
            rng.randbytes(1) + bytes(7) if small else rng.randbytes(8)
            for _ in range(length // 8 - 1)
        )
        try:
            found = decode(head + rest)
        except Malformed:
            assert not is_carried(head + rest)
            continue
        assert is_carried(head + rest)
        assert unpadded(encode(found)) == head + rest


def test_entries_travel_as_the_slots_that_the_journal_keeps() -> None:
    entries = tuple(Entry(n, 3, n * 1000, 0, b"x" * n) for n in range(8, 30))
    run = b"".join(map(raft_messages.entry_slot, entries))
    message = AppendEntries(1, 2, 3, 7, 3, entries, 7)

    slot = encode(message)
    assert raft_messages.entries_run(slot) == run
    assert slot == raft_messages.encode_entries(attrs.evolve(message, entries=()), run)
    for entry, (kind, tag, piece) in zip(entries, slots.slots_of(memoryview(run)), strict=True):
        assert (kind, tag) == (slots.ENTRY, 0)
        assert slots.unpack_entry(piece).index == entry.index
        assert piece[slots.ENTRY_HEADER_BYTES :] == entry.body


def broken(slot: bytes, at: int, value: int) -> bytes:
    changed = bytearray(slot)
    changed[at] = value
    return bytes(changed)


BEAT = encode(Heartbeat(1, 2, 3, 4, 5))
APPEND = encode(AppendEntries(1, 2, 3, 4, 3, (Entry(5, 3, 6, 0, b"body"),), 4))
CHUNK = encode(InstallSnapshot(1, 2, 3, 4, 3, 0, 0, 0, b"", True))


@pytest.mark.parametrize(
    ("slot", "why"),
    [
        (b"", "a message of 0 bytes"),
        (BEAT[:-8], "Heartbeat of 48 bytes, 40 of them there"),
        (BEAT + bytes(8), "Heartbeat of 48 bytes, 56 of them there"),
        (broken(BEAT, 6, 99), "tag 99"),
        (broken(BEAT, 4, 3), "type 3"),
        (broken(BEAT, 39, 0x40), "Heartbeat with commit 4611686018427387908"),
        (broken(CHUNK, 72, 2), "InstallSnapshot with done 2"),
        (APPEND[:88], "AppendEntries of 112 bytes, 88 of them there"),
        (broken(APPEND, 72, 6), "entry 6 of term 3 where entry 5 was due"),
        (broken(APPEND, 68, 33), "type 33"),
        (broken(APPEND, 64, 43), "entry 5 with bytes set that must be zero"),
        (broken(APPEND, 70, 1), "bytes set that must be zero"),
        (broken(APPEND, 109, 1), "bytes set that must be zero"),
    ],
)
def test_what_is_wrong_is_said(slot: bytes, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        decode(slot)
