"""A damaged journal of a replica that has peers: what is kept, what it still knows, and that no step of it can be lost."""

import errno
import random
from pathlib import Path

import pytest
from journal_samples import OWNER, FailingDisk, entries, snapshot_of

from leftfold.runtime import slots
from leftfold.runtime.errors import CorruptJournal, JournalFailed, OperatorError
from leftfold.runtime.journal import Journal
from leftfold.runtime.records import BLOCK_BYTES
from leftfold.runtime.salvage import NOTE_NAME, Note
from leftfold.runtime.segments import list_segments

SMALL = 16 * 1024
BATCHES = 60
PER_BATCH = 5


def hard_state(batch: int) -> bytes:
    """The term grows now and then; the vote with it."""
    return slots.pack_hard_state(1 + batch // 10, 1 + batch // 10 % 3, PER_BATCH * batch)


def written(directory: Path) -> list[tuple[int, int, int]]:
    """A journal of several segments; (segment, offset, last entry before it) of each batch."""
    journal = Journal.open(directory, OWNER, segment_bytes=SMALL)
    places: list[tuple[int, int, int]] = []
    for batch in range(BATCHES):
        last = journal.contents.last
        run = entries(last + 1, last + PER_BATCH, term=1 + batch // 10, body_bytes=200)
        journal.write(run + hard_state(batch))
        journal.sync()
        current = journal.current
        size = len(run) + len(hard_state(batch)) + 56
        places.append((current.header.segment_id, current.offset - size, last))
    journal.close()
    return places


def flip(directory: Path, segment: int, offset: int) -> None:
    path = dict(list_segments(directory))[segment]
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x40
    path.write_bytes(content)


def content_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def repairable(directory: Path, **more: object) -> Journal:
    return Journal.open(
        directory,
        OWNER,
        segment_bytes=SMALL,
        has_peers=lambda members: True,
        **more,  # pyright: ignore[reportArgumentType]
    )


def check(journal: Journal, before: int) -> None:
    """All before the damage, and all that is known of what lay behind it."""
    found = journal.recovered
    assert found.last == before
    assert (found.damage_last, found.damage_last_term) == (BATCHES * PER_BATCH, 6)
    assert (found.term, found.voted_for) == (6, 3)
    kept = journal.read(1, before, 1 << 30) if before else b""
    assert len(list(slots.slots_of(memoryview(kept)))) == before


@pytest.mark.parametrize("batch", [0, 1, 20, 37, BATCHES - 2])
def test_what_lies_before_the_damage_is_kept_and_the_rest_is_noted(
    tmp_path: Path, batch: int
) -> None:
    segment, offset, before = written(tmp_path)[batch]
    flip(tmp_path, segment, offset + 100)

    for _ in range(2):  # The note counts at each start until the replica is repaired.
        journal = repairable(tmp_path)
        check(journal, before)
        journal.close()
    journal = repairable(tmp_path)
    journal.write(entries(before + 1, before + 3, term=6, body_bytes=8))
    journal.sync()
    journal.repaired()
    journal.close()
    whole = Journal.open(tmp_path, OWNER, segment_bytes=SMALL)
    assert whole.recovered.damage_last == 0 and whole.recovered.last == before + 3
    assert (whole.recovered.term, whole.recovered.voted_for) == (6, 3)
    whole.close()


def test_alone_it_is_refused_with_file_and_offset_and_nothing_is_changed(tmp_path: Path) -> None:
    segment, offset, _ = written(tmp_path)[20]
    flip(tmp_path, segment, offset + 100)
    before = content_of(tmp_path)
    for has_peers in (None, lambda members: False):
        with pytest.raises(CorruptJournal, match=f"at offset {offset}"):
            Journal.open(tmp_path, OWNER, segment_bytes=SMALL, has_peers=has_peers)
        assert content_of(tmp_path) == before


def test_a_vote_of_an_earlier_term_is_none_in_the_term_of_the_note(tmp_path: Path) -> None:
    """As after a crash between the note and what it replaces: what is left knows an earlier term."""
    journal = Journal.open(tmp_path, OWNER, segment_bytes=SMALL)
    journal.write(entries(1, 3, term=2) + slots.pack_hard_state(2, 7, 0))
    journal.sync()
    journal.close()
    Note("00000001.log", 5000, 9, 3, term=4, voted_for=0).write(tmp_path)

    for _ in range(2):
        journal = repairable(tmp_path)
        found = journal.recovered
        assert (found.term, found.voted_for, found.damage_last) == (4, 0, 9)
        journal.close()


def test_where_the_vote_may_be_lost_nothing_is_saved(tmp_path: Path) -> None:
    """The record behind the damage does not say what term and vote are: an election may have been in what is lost."""
    journal = Journal.open(tmp_path, OWNER, segment_bytes=SMALL)
    offsets: list[int] = []
    for index in range(1, 4):
        offsets.append(journal.current.offset)
        journal.write(entries(index, index))
        journal.sync()
    journal.close()
    flip(tmp_path, 1, offsets[1] + 60)
    with pytest.raises(CorruptJournal, match=f"at offset {offsets[1]}"):
        repairable(tmp_path)


def test_a_snapshot_that_has_all_that_was_lost_leaves_nothing_to_repair(tmp_path: Path) -> None:
    segment, offset, _ = written(tmp_path)[20]
    flip(tmp_path, segment, offset + 100)
    covered = snapshot_of(BATCHES * PER_BATCH, term=6)
    for _ in range(2):
        journal = repairable(tmp_path, covered=covered)
        found = journal.recovered
        assert (found.first, found.last) == (BATCHES * PER_BATCH + 1, BATCHES * PER_BATCH)
        assert (found.damage_last, found.term, found.voted_for) == (0, 6, 3)
        journal.close()


def test_behind_a_snapshot_that_has_a_part_the_rest_is_noted(tmp_path: Path) -> None:
    segment, offset, _ = written(tmp_path)[20]
    flip(tmp_path, segment, offset + 100)
    for _ in range(2):
        journal = repairable(tmp_path, covered=snapshot_of(150, term=3))
        found = journal.recovered
        assert (found.first, found.last, found.damage_last) == (151, 150, BATCHES * PER_BATCH)
        assert (found.term, found.voted_for) == (6, 3)
        journal.close()


@pytest.mark.parametrize("call", ["unlink", "sync", "rename_file", "write"])
def test_a_failure_at_any_step_costs_nothing_that_is_known(tmp_path: Path, call: str) -> None:
    """Whatever was done by then, the next start knows as much."""
    count = 0
    while True:
        count += 1
        directory = tmp_path / str(count)
        segment, offset, before = written(directory)[20]
        flip(directory, segment, offset + 100)
        failing = FailingDisk(call, errno.EIO, count)
        try:
            repairable(directory, disk=failing.disk()).abandon()
        except (OperatorError, JournalFailed):
            assert (directory / NOTE_NAME).exists() or count == 1
        else:
            assert count > 1, "nothing failed"
            return
        journal = repairable(directory)
        check(journal, before)
        journal.close()


@pytest.mark.parametrize("call", ["unlink", "sync_all"])
def test_a_note_that_cannot_be_removed_ends_the_replica_like_any_failure_of_the_disk(
    tmp_path: Path, call: str
) -> None:
    segment, offset, _ = written(tmp_path)[20]
    flip(tmp_path, segment, offset + 100)
    journal = repairable(tmp_path)
    journal.disk = FailingDisk(call, errno.EIO, 1).disk()

    with pytest.raises(JournalFailed, match=r"Cannot (remove|sync) .* stops without trying again"):
        journal.repaired()
    journal.abandon()


def test_any_byte_may_be_the_damaged_one(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for round in range(25):
        directory = tmp_path / str(round)
        places = written(directory)
        at = rng.randrange(BATCHES - 1)
        segment, offset, before = places[at]
        end = places[at + 1][1] if places[at + 1][0] == segment else offset + 1200
        flip(directory, segment, rng.randrange(offset, end))
        assert offset >= BLOCK_BYTES
        journal = repairable(directory)
        # What opens a segment lies before its first batch, in the same record.
        assert journal.recovered.last == before
        check(journal, before)
        journal.close()
