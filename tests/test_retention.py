"""The log behind a snapshot: where it may begin, where it may end, and what goes."""

import os
import shutil

import pytest
from journal_samples import OWNER, entries, entry, heads, snapshot_of, time_of

from leftfold.runtime import slots
from leftfold.runtime.errors import CorruptJournal, LostJournal
from leftfold.runtime.journal import Journal
from leftfold.runtime.segments import Disk

SMALL = 16 * 1024


def open_journal(directory, covered=None, disk=None):
    return Journal.open(directory, OWNER, segment_bytes=SMALL, covered=covered, disk=disk)


def write(journal, *runs):
    for run in runs:
        journal.write(run)
        journal.sync()


def grow(journal, segments, term=1):
    """Batches of ten until there are so many segments; the last index."""
    index = journal.contents.last
    while journal.segments < segments:
        write(journal, entries(index + 1, index + 10, term, body_bytes=80))
        index += 10
    return index


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "journal"


@pytest.fixture
def journal(directory):
    return open_journal(directory)


def test_no_segment_goes_that_holds_an_entry_from_the_index_on(journal):
    last = grow(journal, 6)
    starts = [closed.header.first for closed in journal.closed.values()][1:]

    for index in (1, starts[0] - 1, starts[0], starts[2] - 1, last):
        journal.discard_before(index)
        assert journal.contents.first <= index
        assert heads(journal.read(index, last, 1 << 30))[0] == (index, 1)
    assert journal.segments == 1
    journal.close()


def test_what_is_released_is_removed_by_the_caller_and_otherwise_comes_back(journal, directory):
    last = grow(journal, 5)
    released = journal.release_before(last)
    first = journal.contents.first
    assert [path.name for path in released] == [f"0000000{at}.log" for at in range(1, 5)]
    assert all(path.exists() for path in released)
    journal.close()
    os.unlink(released[0])

    journal = open_journal(directory, snapshot_of(last))

    assert 1 < journal.contents.first < first
    assert heads(journal.read(first, last, 1 << 30)) == [(at, 1) for at in range(first, last + 1)]
    journal.close()


def test_a_log_that_begins_too_late_is_refused_and_says_what_is_missing(journal, directory):
    last = grow(journal, 4)
    journal.discard_before(last)
    first = journal.contents.first
    journal.close()
    before = {path.name: path.read_bytes() for path in directory.iterdir()}

    with pytest.raises(CorruptJournal, match=f"entries 1 to {first - 1} are missing") as nothing:
        open_journal(directory)
    with pytest.raises(CorruptJournal, match=f"entries {first - 1} to {first - 1} ") as too_old:
        open_journal(directory, snapshot_of(first - 2))
    assert "there is no snapshot that serves" in str(nothing.value)
    assert f"the snapshot that serves ends with entry {first - 2}" in str(too_old.value)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before

    journal = open_journal(directory, snapshot_of(first - 1))
    assert (journal.recovered.first, journal.recovered.last) == (first, last)
    journal.close()


def test_what_a_snapshot_holds_is_committed(journal, directory):
    write(journal, slots.pack_hard_state(1, 1, 0) + entries(1, 9))
    journal.close()

    journal = open_journal(directory, snapshot_of(7))

    assert journal.recovered.commit == 7
    with pytest.raises(Exception, match="is committed"):
        journal.write(entries(7, 7, term=2))
    journal.abandon()


def test_a_snapshot_of_the_last_entry_may_be_followed_by_nothing(journal, directory):
    write(journal, entries(1, 9))
    journal.close()
    for _ in range(2):
        journal = open_journal(directory, snapshot_of(9))
        assert (journal.recovered.first, journal.recovered.last, journal.recovered.commit) == (
            *(1, 9),
            9,
        )
        journal.close()


def test_a_log_that_ends_before_the_replicas_own_snapshot_has_lost_entries(journal, directory):
    """Whatever was acknowledged behind the snapshot went the same way: nobody may go on from it."""
    write(journal, entries(1, 9))
    journal.close()
    before = {path.name: path.read_bytes() for path in directory.iterdir()}

    with pytest.raises(CorruptJournal, match=r"ends here with entry 9, .* snapshot of entry 10"):
        open_journal(directory, snapshot_of(10))

    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_a_torn_batch_that_a_snapshot_proves_durable_is_corruption(journal, directory):
    """Without the snapshot the batch might have been in flight when the power failed."""
    write(journal, entries(1, 3), entries(4, 6))
    journal.abandon()
    path = directory / "00000001.log"
    content = bytearray(path.read_bytes())
    content[content.rindex(b"LFrecord") + 70] ^= 1
    path.write_bytes(content)

    with pytest.raises(CorruptJournal) as caught:
        open_journal(directory, snapshot_of(5))
    assert caught.value.offset == content.rindex(b"LFrecord")
    assert path.read_bytes() == content
    assert open_journal(directory, snapshot_of(3)).recovered.last == 3


def test_a_journal_that_is_gone_behind_a_snapshot_is_refused(directory):
    with pytest.raises(LostJournal, match=r"no journal, but .* entry 9: .*term and vote are lost"):
        open_journal(directory, snapshot_of(9))
    assert list(directory.iterdir()) == []


def test_a_term_that_contradicts_the_replicas_own_snapshot_is_refused(journal, directory):
    write(journal, entries(1, 9, term=2))
    journal.close()

    with pytest.raises(CorruptJournal, match=r"entry 5 has term 2 in the log, and term 1 in the"):
        open_journal(directory, snapshot_of(5, 1))
    open_journal(directory, snapshot_of(5, 2)).close()


def test_a_log_for_a_restored_replica_begins_behind_its_snapshot(directory):
    snapshot = snapshot_of(40, 3)
    journal = Journal.create(directory, OWNER, snapshot, segment_bytes=SMALL)
    write(journal, entries(41, 42, term=3))
    journal.close()

    journal = open_journal(directory, snapshot)

    found = journal.recovered
    assert (found.term, found.voted_for, found.commit) == (3, 0, 40)
    assert (found.first, found.last, found.last_term) == (41, 42, 3)
    assert heads(journal.read(41, 99, 1 << 20)) == [(41, 3), (42, 3)]
    journal.close()
    with pytest.raises(AssertionError, match="there is a log already"):
        Journal.create(directory, OWNER, snapshot)


# Behind a snapshot that was received from a peer


def expect_anew(journal, index, term, hard_state):
    found = journal.recovered
    assert (found.first, found.last, found.last_term) == (index + 1, index, term)
    assert found.last_time_ns == time_of(index, term)
    assert (found.term, found.voted_for, found.commit) == (*hard_state, index)
    assert found.boundaries == ()
    assert len(list(journal.directory.glob("*.log"))) == journal.segments


@pytest.mark.parametrize("held", [3, 9, 30])
def test_a_shorter_or_contradicting_log_begins_anew_behind_a_received_snapshot(
    journal, directory, held
):
    """Term and vote stay; what the snapshot replaces goes, also what a later term overruled."""
    write(journal, slots.pack_hard_state(2, 3, 1) + entries(1, held, term=1))
    grow(journal, 3)
    write(journal, slots.pack_truncate(held + 1))
    journal.close()
    received = snapshot_of(20, 4, origin=2)

    for _ in range(2):
        journal = open_journal(directory, received)
        expect_anew(journal, 20, 4, (2, 3))
        journal.close()
    journal = open_journal(directory, received)
    write(journal, entries(21, 25, term=4))
    journal.abandon()
    journal = open_journal(directory, received)
    assert heads(journal.read(21, 99, 1 << 20)) == [(at, 4) for at in range(21, 26)]
    journal.close()


def test_a_log_that_continues_a_received_snapshot_stays(journal, directory):
    write(journal, entries(1, 30, term=1))
    journal.close()

    journal = open_journal(directory, snapshot_of(20, 1, origin=2))

    assert (journal.recovered.first, journal.recovered.last) == (1, 30)
    journal.close()


def test_a_running_journal_begins_anew(journal, directory):
    write(journal, slots.pack_hard_state(2, 3, 1) + entries(1, 9, term=1))
    journal.read(1, 9, 1 << 20)
    received = snapshot_of(20, 4, origin=2)

    journal.restart_behind(received)
    expect_anew(journal, 20, 4, (2, 3))
    write(journal, entry(21, 4))
    assert heads(journal.read(21, 21, 1000)) == [(21, 4)]
    journal.close()
    assert open_journal(directory, received).recovered.last == 21


def test_a_crash_at_any_step_of_beginning_anew_ends_the_same(journal, directory, tmp_path):
    """The old log, or the new one; never the one with the other's end."""
    write(journal, slots.pack_hard_state(2, 3, 1) + entries(1, 3, term=1))
    grow(journal, 4)
    journal.close()
    received = snapshot_of(journal.contents.last + 5, 4, origin=2)
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    cut, done = 0, False

    class Crash(BaseException):
        pass

    while not done:
        shutil.rmtree(directory)
        shutil.copytree(copy, directory)
        left = [cut]

        def counted(call, left=left):
            def through(*arguments):
                if not left[0]:
                    raise Crash
                left[0] -= 1
                return call(*arguments)

            return through

        plain = Disk()
        disk = Disk(
            *map(counted, (plain.write, plain.sync, plain.sync_all, plain.allocate)),
            unlink=counted(plain.unlink),
            rename_file=counted(plain.rename_file),
        )
        try:
            open_journal(directory, received, disk).close()
            done = True
        except Crash:
            pass
        journal = open_journal(directory, received)
        expect_anew(journal, received.index, 4, (2, 3))
        write(journal, entry(received.index + 1, 4))
        journal.close()
        assert open_journal(directory, received).recovered.last == received.index + 1
        cut += 1
    assert cut > 8


def test_a_log_that_began_anew_is_not_read_with_an_older_snapshot(journal, directory):
    """The entries between the two are nowhere any more."""
    write(journal, entries(1, 9, term=1))
    journal.restart_behind(snapshot_of(20, 4, origin=2))
    journal.close()

    with pytest.raises(CorruptJournal, match="entries 6 to 20 are missing"):
        open_journal(directory, snapshot_of(5))
