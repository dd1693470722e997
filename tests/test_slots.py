"""The slots that the processes of a replica send each other."""

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
