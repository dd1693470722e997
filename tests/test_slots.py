"""The slots that the processes of a replica send each other."""

import pytest

from leftfold.actors.layout import SlotType
from leftfold.runtime import slots
from leftfold.runtime.logic import pieces


def _run(*lengths: int) -> bytes:
    run = b""
    for at, length in enumerate(lengths):
        slot = slots.HEADER.pack(length, 17, at) + bytes(length - slots.HEADER_BYTES)
        run += slot + bytes(slots.padded(length) - length)
    return run


def test_a_run_is_walked_slot_by_slot() -> None:
    """Padding between slots is skipped; lengths are the slots' own."""
    found = [(tag, len(slot)) for _, tag, slot in slots.slots_of(memoryview(_run(8, 13, 40)))]

    assert found == [(0, 8), (1, 13), (2, 40)]


def test_a_slot_alone_and_no_slot_are_walked_likewise() -> None:
    for length in (8, 13, 40):
        found = [
            (kind, tag, len(slot)) for kind, tag, slot in slots.slots_of(memoryview(_run(length)))
        ]
        assert found == [(17, 0, length)]
    assert list(slots.slots_of(memoryview(b""))) == []


@pytest.mark.parametrize("length", [0, 7, 17])
def test_a_length_that_fits_no_slot_is_our_own_bug(length: int) -> None:
    slot = memoryview(slots.HEADER.pack(length, 17, 0) + bytes(8 if length > 8 else 0))
    with pytest.raises(AssertionError):
        list(slots.slots_of(slot))


def test_an_entry_header_reads_back_as_written() -> None:
    """Index, term, time and kind survive; the body starts behind them."""
    head = slots.pack_entry_header(7, 3, -5, 2, 16, slots.REPLAY)
    entry = slots.unpack_entry(memoryview(head + bytes(16)))

    assert len(head) == slots.ENTRY_HEADER_BYTES
    assert (entry.index, entry.term, entry.time_ns, entry.kind) == (7, 3, -5, 2)


def test_applied_carries_no_deadline_as_none() -> None:
    """A deadline of zero is a deadline."""
    assert slots.unpack_applied(memoryview(slots.pack_applied(9, 4, None))) == (9, 4, None)
    assert slots.unpack_applied(memoryview(slots.pack_applied(9, 4, 0))) == (9, 4, 0)


def test_a_run_is_cut_between_slots_only() -> None:
    """Each piece is within the limit unless a single slot is larger; joined they are the run."""
    run = memoryview(_run(16, 24, 8, 100, 8))
    cut = pieces(run, 40)

    assert b"".join(cut) == run
    assert [len(piece) for piece in cut] == [40, 8, 104, 8]


def _read(packed: bytes) -> memoryview:
    """The one slot of a run, found as a process finds it."""
    (found,) = slots.slots_of(memoryview(packed))
    return found[2]


@pytest.mark.parametrize("build", ["", "b", "d41d8cd98f00b204 0.4.0 cpython-3.11"])
@pytest.mark.parametrize("membership", [b"", b"\x01", bytes(range(40))])
def test_what_was_recovered_reads_back_as_written(build: str, membership: bytes) -> None:
    """Tables of any length, and the texts behind them."""
    recovered = slots.Recovered(
        *(7, 3, 90, 41, 99, -5, 6),
        boundaries=((41, 4), (60, 6)),
        skips=((50, 0), (51, 2)),
        snapshot_index=44,
        snapshot_term=4,
        snapshot_bytes=1 << 40,
        snapshot_build=build,
        membership=membership,
    )

    assert slots.unpack_recovered(_read(slots.pack_recovered(recovered))) == recovered


def test_a_replica_without_a_snapshot_says_so_with_zeros() -> None:
    recovered = slots.Recovered(1, 1, 0, 1, 0, 0, 0, (), ())

    found = slots.unpack_recovered(_read(slots.pack_recovered(recovered)))

    assert (found.snapshot_index, found.snapshot_term, found.snapshot_build) == (0, 0, "")


def test_a_chunk_carries_its_bytes_and_whether_it_is_the_last() -> None:
    for content in (b"", b"seven b", bytes(1000)):
        for last in (False, True):
            ((kind, tag, slot),) = slots.slots_of(memoryview(slots.pack_chunk(content, last=last)))

            assert (kind, tag) == (slots.SNAPSHOT_CHUNK, slots.LAST_CHUNK if last else 0)
            assert slots.chunk_content(slot) == content


def test_the_slots_about_snapshots_read_back_as_written() -> None:
    asked = slots.TakeSnapshot(9, 4, slots.AT_STOP, b"five!")
    taken = slots.SnapshotState(9, 1 << 33, 5)
    failed = slots.SnapshotState(9, 0, 0, "Nothing in Ämter encodes.", slots.NOT_TAKEN)

    assert slots.unpack_take_snapshot(_read(slots.pack_take_snapshot(asked))) == asked
    for state in (taken, failed):
        assert slots.unpack_snapshot_state(_read(slots.pack_snapshot_state(state))) == state
    for restore in ((9, 77, ""), (9, 0, "b\u00fcild 1")):
        assert slots.unpack_restore(_read(slots.pack_restore(*restore))) == restore
    assert slots.unpack_discard(_read(slots.pack_discard(9))) == 9
    assert slots.unpack_snapshot_begun(_read(slots.pack_snapshot_begun(9, 4711))) == (9, 4711)
    ended = slots.pack_snapshot_ended(9, slots.ENDED_BY_SIGNAL)
    assert slots.unpack_snapshot_ended(_read(ended)) == (9, 255)


def test_texts_and_requests_read_back_as_written() -> None:
    control = slots.Control(slots.CONTROL_SNAPSHOT, bytes(range(16)), 3, b'{"wait": true}')

    assert slots.text_of(_read(slots.pack_build("one build"))) == "one build"
    assert slots.text_of(_read(slots.pack_room(slots.ROOM_LOW, "The disk is full."))) == (
        "The disk is full."
    )
    assert slots.text_of(_read(slots.pack_room(slots.ROOM_AGAIN))) == ""
    assert slots.unpack_control(_read(slots.pack_control(control))) == control


def test_who_the_peers_are_and_how_their_links_stand_read_back_as_written() -> None:
    for peers in (
        slots.Peers("a build"),
        slots.Peers("ä", True, {1: "127.0.0.1:7801", 2**62: "[::1]:7801"}),
    ):
        assert slots.unpack_peers(_read(slots.pack_peers(peers))) == peers
    for up, tag in ((True, slots.LINK_UP), (False, slots.LINK_DOWN)):
        slot = slots.pack_link(7, "127.0.0.3:7700", up=up)
        assert next(slots.slots_of(memoryview(slot)))[1] == tag
        assert slots.unpack_link(_read(slot)) == (7, "127.0.0.3:7700")


def test_each_type_has_one_number_in_every_list() -> None:
    """The list that actors and clients see and the one here agree."""
    named = {name: value for name, value in vars(slots).items() if name in SlotType.__members__}

    assert len(named) > 20
    assert {name: SlotType[name].value for name in named} == named
    assert len(set(SlotType)) == len(SlotType.__members__)
