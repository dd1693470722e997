"""The journal on a real file system, and its process between real rings."""

import errno
import os
import shutil
import subprocess
import sys

import pytest
from attrs import evolve
from journal_samples import (
    OWNER,
    SMALL,
    FailingDisk,
    entries,
    entry,
    everything,
    heads,
    snapshot_of,
    time_of,
    write,
)

from leftfold.runtime import slots
from leftfold.runtime.errors import (
    DISK_FULL,
    EXIT_JOURNAL_FAILED,
    FSYNC_FAILED,
    CorruptJournal,
    ForeignJournal,
    JournalFailed,
    OperatorError,
)
from leftfold.runtime.journal import Journal
from leftfold.runtime.records import BLOCK_BYTES, RECORD_HEADER_BYTES


def reopen(journal, *, clean=True):
    """The journal of the same directory, after it was closed, or after its process was killed."""
    if clean:
        journal.close()
    else:
        journal.abandon()
    return Journal.open(journal.directory, OWNER, segment_bytes=journal.segment_bytes)


@pytest.fixture
def journal(tmp_path):
    opened = Journal.open(tmp_path / "journal", OWNER, segment_bytes=SMALL)
    yield opened
    for file in (opened.reader._file,):
        assert file < 0 or os.fstat(file)


def test_an_empty_journal_recovers_nothing(journal):
    for _ in range(2):
        assert journal.recovered == slots.Recovered(0, 0, 0, 1, 0, 0, 0, (), ())
        assert journal.read(1, 9, 100) == b""
        journal = reopen(journal)


@pytest.mark.parametrize("clean", [True, False])
def test_what_was_synced_is_recovered(journal, clean):
    write(
        journal,
        slots.pack_hard_state(2, 1, 0) + entries(1, 3, term=1),
        entries(4, 6, term=2) + slots.pack_hard_state(2, 1, 5),
    )

    journal = reopen(journal, clean=clean)

    assert journal.recovered == slots.Recovered(
        2, 1, 5, 1, 6, time_of(6, 2), 2, ((1, 1), (4, 2)), ()
    )
    assert everything(journal) == entries(1, 3, term=1) + entries(4, 6, term=2)
    journal.close()


def test_a_clean_end_goes_on_in_the_same_segment_and_a_kill_in_a_new_one(journal):
    write(journal, entries(1, 3))
    journal = reopen(journal)
    after_close = journal.segments
    write(journal, entries(4, 6))
    journal = reopen(journal, clean=False)
    after_kill = journal.segments
    journal = reopen(journal, clean=False)

    assert (after_close, after_kill, journal.segments) == (1, 2, 2)
    assert heads(everything(journal)) == [(index, 1) for index in range(1, 7)]
    journal.close()


def test_an_idle_journal_that_is_killed_needs_no_new_segment(journal):
    write(journal, entries(1, 3))
    while journal.prepare():
        pass

    journal = reopen(journal, clean=False)

    assert journal.segments == 1
    assert heads(everything(journal)) == [(1, 1), (2, 1), (3, 1)]
    journal.close()


def test_the_unmarked_batch_is_written_again_before_it_counts(journal):
    """What may lie in the page cache alone goes to a new segment, synced, and the old one ends
    before it."""
    write(journal, entries(1, 3), entries(4, 6))
    journal.abandon()
    watching = FailingDisk("none", 0, 0)
    first, second = (journal.directory / f"0000000{number}.log" for number in (1, 2))

    journal = Journal.open(journal.directory, OWNER, segment_bytes=SMALL, disk=watching.disk())

    assert first.stat().st_size == BLOCK_BYTES + 2 * RECORD_HEADER_BYTES + 32 + len(entries(1, 3))
    assert entries(4, 6) in second.read_bytes()
    assert watching.calls[:6] == [
        *("sync_all", "allocate", "write", "sync", "rename_file", "sync_all")
    ]
    journal.close()


def test_a_failed_write_of_the_unmarked_batch_leaves_the_old_segment_whole(journal):
    write(journal, entries(1, 3), entries(4, 6))
    journal.abandon()
    failing = FailingDisk("sync", errno.EIO, 1)

    with pytest.raises(JournalFailed):
        Journal.open(journal.directory, OWNER, segment_bytes=SMALL, disk=failing.disk())

    journal = Journal.open(journal.directory, OWNER, segment_bytes=SMALL)
    assert heads(everything(journal)) == [(index, 1) for index in range(1, 7)]
    journal.close()


def test_an_entry_at_or_below_the_last_index_overwrites(journal):
    write(journal, entries(1, 9, term=1), entries(6, 7, term=2), entries(8, 8, term=3))

    for _ in range(2):
        assert journal.recovered.boundaries == ((1, 1), (6, 2), (8, 3))
        assert heads(everything(journal)) == [(i, 1) for i in range(1, 6)] + [
            (6, 2),
            (7, 2),
            (8, 3),
        ]
        journal = reopen(journal)
    journal.close()


def test_an_overwrite_within_one_batch_is_seen(journal):
    write(journal, entries(1, 9, 1) + slots.pack_truncate(4) + entries(4, 5, 2) + entries(2, 3, 3))

    for _ in range(2):
        assert heads(everything(journal)) == [(1, 1), (2, 3), (3, 3)]
        assert heads(journal.read(2, 2, 1000)) == [(2, 3)]
        journal = reopen(journal, clean=False)
    journal.close()


def test_after_a_truncation_the_last_log_time_is_that_of_the_entry_that_is_last(journal):
    write(journal, entries(1, 9, term=1), slots.pack_truncate(5))

    for _ in range(2):
        assert (journal.recovered.last, journal.recovered.last_time_ns) == (4, time_of(4, 1))
        journal = reopen(journal)
    write(journal, slots.pack_truncate(1))
    assert (journal.recovered.last, journal.recovered.last_term) == (0, 0)
    write(journal, entries(1, 1, term=4))
    assert journal.recovered.boundaries == ((1, 4),)
    journal.close()


def test_left_out_commands_are_remembered_while_their_entry_is(journal):
    skip = entry(2, 1, slots.pack_skip_body(77, 5), kind=3)
    again = entry(3, 1, slots.pack_skip_body(78, 0), kind=3)
    write(journal, entry(1) + skip + again)
    journal = reopen(journal)
    before = journal.recovered.skips
    write(journal, slots.pack_truncate(3))
    journal = reopen(journal)

    assert before == ((77, 5), (78, 0))
    assert journal.recovered.skips == ((77, 5),)
    journal.close()


def test_contradictions_are_our_bugs(journal):
    write(journal, entries(1, 5, term=2) + slots.pack_hard_state(2, 0, 3))
    for wrong in (
        entries(7, 7, term=2),
        entries(3, 3, term=3),
        slots.pack_truncate(3),
        entries(6, 6, term=1),
        slots.pack_hard_state(2, 0, 6),
        slots.pack_drain(),
    ):
        with pytest.raises(Exception, match=r"follows|committed|passes|which no journal"):
            journal.write(wrong)
        journal = reopen(journal, clean=False)
    assert heads(everything(journal)) == [(index, 2) for index in range(1, 6)]
    journal.close()


def test_a_log_of_many_segments_reads_from_anywhere(journal):
    expected = []
    index = 1
    while journal.segments < 6:
        count = 1 + index % 7
        write(journal, entries(index, index + count - 1, body_bytes=index % 90))
        expected += [(at, 1) for at in range(index, index + count)]
        index += count
    for clean in (True, False):
        assert heads(everything(journal)) == expected
        for first in range(1, index, 37):
            for bytes_max in (0, 300, 5000):
                run = journal.read(first, index, bytes_max)
                assert heads(run) == expected[first - 1 :][: len(heads(run))]
                assert len(run) <= bytes_max or len(heads(run)) == 1
        assert heads(journal.read(3, 5, 1 << 20)) == expected[2:5]
        journal = reopen(journal, clean=clean)
    assert not list(journal.directory.glob("*.tmp"))
    journal.close()


def test_reading_on_does_not_search_again(journal, monkeypatch):
    """A replay in small pieces costs each record once or twice, not once for every entry behind a
    place."""
    big = Journal.open(journal.directory.parent / "big", OWNER, segment_bytes=1 << 22)
    for index in range(1, 2001):
        write(big, entry(index))
    walked = []
    record = type(big.reader)._record
    monkeypatch.setattr(
        type(big.reader),
        "_record",
        lambda reader, *place: walked.append(place) or record(reader, *place),
    )

    found = []
    while len(found) < 2000:
        found += heads(big.read(len(found) + 1, 2000, 400))

    assert found == [(index, 1) for index in range(1, 2001)]
    assert len(walked) <= 2 * 2000
    big.close()


def test_reading_on_after_an_overwrite_finds_the_new_entries(journal):
    """The place where a reader stopped is void once the log was taken back before it."""
    write(journal, *[entry(index, 1) for index in range(1, 13)])
    read = heads(journal.read(1, 9, 1 << 20))
    write(journal, entries(8, 12, term=2))

    assert read[-1] == (9, 1)
    assert heads(journal.read(10, 12, 1 << 20)) == [(10, 2), (11, 2), (12, 2)]
    journal.close()


def test_places_stay_few(journal):
    """Bounded memory: one place for 256 KiB, and one for each segment."""
    big = Journal.open(journal.directory.parent / "big", OWNER, segment_bytes=1 << 22)
    for first in range(1, 8001, 100):
        write(big, entries(first, first + 99, body_bytes=1000))

    assert len(big.contents.place_indexes) <= 8000 * 1048 // (256 * 1024) + big.segments
    assert heads(big.read(7777, 7778, 4096)) == [(7777, 1), (7778, 1)]
    big.close()


def last_record(path):
    """(content, offset of the last record, its end) of a segment written with `write`."""
    content = bytearray(path.read_bytes())
    offset = content.rindex(b"LFrecord")
    size = int.from_bytes(content[offset + 16 : offset + 20], "little")
    return content, offset, offset + RECORD_HEADER_BYTES + size


def test_a_torn_tail_is_cut_and_the_log_goes_on(journal):
    """Cut at every 7th byte of the last batch, go on, and start again: no trace of the torn
    batch."""
    write(journal, entries(1, 3), entries(4, 9))
    journal.abandon()
    path = journal.directory / "00000001.log"
    content, offset, end = last_record(path)
    for cut in range(offset + 1, end, 7):
        shutil.rmtree(journal.directory)
        journal.directory.mkdir()
        path.write_bytes(content[:cut] + bytes(len(content) - cut))
        journal = Journal.open(journal.directory, OWNER, segment_bytes=SMALL)
        torn = journal.torn
        write(journal, entries(4, 5, term=2))
        journal = reopen(journal)

        assert torn is not None
        assert str(offset) in torn
        assert heads(everything(journal)) == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2)]
        journal.close()


def test_a_flip_in_the_last_batch_is_cut_without_a_mark_and_refused_below_one(journal):
    write(journal, entries(1, 3), entries(4, 6))
    journal.abandon()
    path = journal.directory / "00000001.log"
    content, offset, _ = last_record(path)
    unmarked = bytes(content)
    content[offset + 99] ^= 4
    path.write_bytes(content)
    journal = Journal.open(journal.directory, OWNER, segment_bytes=SMALL)
    assert journal.recovered.last == 3
    journal.abandon()

    (journal.directory / "00000002.log").unlink()
    path.write_bytes(unmarked)
    marked = Journal.open(journal.directory, OWNER, segment_bytes=SMALL)
    marked.close()
    path = journal.directory / "00000002.log"
    content = bytearray(path.read_bytes())
    content[BLOCK_BYTES + 99] ^= 4
    path.write_bytes(content)
    with pytest.raises(CorruptJournal) as caught:
        Journal.open(journal.directory, OWNER, segment_bytes=SMALL)
    assert (caught.value.file, caught.value.offset) == (path, BLOCK_BYTES)
    assert path.read_bytes() == content, "nothing was changed"


def many_segments(journal):
    index = 1
    while journal.segments < 5:
        write(journal, entries(index, index + 9, body_bytes=80))
        index += 10
    journal.close()
    return sorted(journal.directory.glob("*.log"))


def test_a_missing_segment_is_corruption_wherever_it_can_be_known(journal):
    paths = many_segments(journal)
    for missing in paths[:-1]:
        kept = missing.read_bytes()
        missing.unlink()
        with pytest.raises(CorruptJournal, match="missing") as caught:
            Journal.open(journal.directory, OWNER, segment_bytes=SMALL)
        assert caught.value.file == missing
        missing.write_bytes(kept)
    Journal.open(journal.directory, OWNER, segment_bytes=SMALL).close()


def test_a_segment_exchanged_for_an_older_copy_of_itself_is_corruption(journal):
    """Restored from the wrong copy: shorter than the next segment says, or another log
    altogether."""
    paths = many_segments(journal)
    other = Journal.open(journal.directory.parent / "other", OWNER, segment_bytes=SMALL)
    write(other, entries(1, 2, term=5))
    many = paths[0].read_bytes()
    other.close()
    for content in (many[:-100], (other.directory / "00000001.log").read_bytes()):
        paths[0].write_bytes(content)
        with pytest.raises(CorruptJournal):
            Journal.open(journal.directory, OWNER, segment_bytes=SMALL)
    paths[0].write_bytes(many)
    Journal.open(journal.directory, OWNER, segment_bytes=SMALL).close()


def test_rot_under_a_running_journal_is_found_when_it_is_read(journal):
    write(journal, entries(1, 3), entries(4, 6))
    path = journal.directory / "00000001.log"
    content, offset, _ = last_record(path)
    content[offset + 99] ^= 1
    path.write_bytes(content)

    assert heads(journal.read(1, 3, 1 << 20)) == [(1, 1), (2, 1), (3, 1)]
    with pytest.raises(CorruptJournal) as caught:
        Journal.open(journal.directory.parent / "x", OWNER)  # another journal is not concerned
        journal.reader.close()
        journal.read(4, 6, 1 << 20)
    assert (caught.value.file, caught.value.offset) == (path, offset)
    journal.abandon()


def test_the_journal_of_another_replica_is_refused(journal):
    journal.close()

    with pytest.raises(ForeignJournal):
        Journal.open(journal.directory, evolve(OWNER, replica_id=2), segment_bytes=SMALL)


def test_a_file_in_place_of_the_directory_is_a_sentence(tmp_path):
    (tmp_path / "journal").write_bytes(b"")

    with pytest.raises(OperatorError, match="Cannot use the journal in"):
        Journal.open(tmp_path / "journal", OWNER)


def test_old_segments_can_go_and_the_rest_still_says_everything(journal):
    """Term, vote and commit are at the head of each segment; boundaries and reads go on from the
    new start."""
    write(journal, slots.pack_hard_state(3, 2, 0) + entries(1, 5, term=1))
    index = 6
    while journal.segments < 5:
        write(journal, entries(index, index + 9, term=3, body_bytes=80))
        index += 10
    removed = journal.discard_before(index - 5)
    before = journal.recovered
    journal.abandon()
    with pytest.raises(CorruptJournal, match="missing"):
        Journal.open(journal.directory, OWNER, segment_bytes=SMALL)
    journal = Journal.open(
        journal.directory, OWNER, segment_bytes=SMALL, covered=snapshot_of(index - 6, 3)
    )

    assert removed >= 3
    assert 1 < before.first <= index - 5
    assert evolve(before, commit=index - 6) == journal.recovered, (
        "what is in a snapshot is committed"
    )
    assert (before.term, before.voted_for, before.last_term) == (3, 2, 3)
    assert before.boundaries == ((before.first, 3),)
    assert heads(everything(journal)) == [(at, 3) for at in range(before.first, index)]
    journal.close()


# A disk that refuses


def test_a_failed_sync_is_final_and_what_was_synced_is_safe(journal):
    write(journal, entries(1, 3))
    journal.disk = journal.current.disk = FailingDisk("sync", errno.EIO, 1).disk()
    journal.write(entries(4, 6))

    with pytest.raises(JournalFailed, match="without trying again") as caught:
        journal.sync()
    assert caught.value.tag == FSYNC_FAILED
    journal.abandon()

    journal = Journal.open(journal.directory, OWNER, segment_bytes=SMALL)
    assert journal.segments == 2, "what the failed sync left in memory is written again"
    assert heads(everything(journal)) == [(index, 1) for index in range(1, 7)]
    journal.close()


def test_a_full_disk_at_a_roll_names_the_path_and_the_remedy(journal):
    write(journal, entries(1, 3))
    journal.spare.disk = FailingDisk("allocate", errno.ENOSPC, 1).disk()

    with pytest.raises(JournalFailed, match=r"disk is full.*spare\.tmp.*Free space") as caught:
        for first in range(4, 10_000, 10):
            write(journal, entries(first, first + 9))
    last = journal.current.header.first
    assert caught.value.tag == DISK_FULL
    journal.abandon()

    journal = Journal.open(journal.directory, OWNER, segment_bytes=SMALL)
    assert journal.recovered.last > last
    assert heads(everything(journal)) == [(at, 1) for at in range(1, journal.recovered.last + 1)]
    journal.close()


FILL = """
import os, resource, sys
from pathlib import Path
from leftfold.runtime.journal import Journal
from leftfold.runtime.errors import JournalFailed
sys.path.insert(0, sys.argv[2])
from journal_samples import OWNER, entries
if sys.argv[3] == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (900_000, 900_000))
first = 1
try:
    journal = Journal.open(Path(sys.argv[1], "journal"), OWNER, segment_bytes=512 * 1024)
    if sys.argv[3] == "limit":
        journal.spare.size = journal.segment_bytes = 1024 * 1024
    while True:
        journal.write(entries(first, first + 9, body_bytes=4000))
        journal.sync()
        first += 10
        journal.keep_ahead()
except JournalFailed as failure:
    journal.abandon()
    print(first - 1, failure.tag, failure.sentence)
if sys.argv[3] == "tmpfs":
    for path in sorted(Path(sys.argv[1]).rglob("*.tmp")):
        path.unlink()
    found = Journal.open(Path(sys.argv[1], "journal"), OWNER, segment_bytes=16 * 1024)
    print(found.recovered.last, len(found.read(1, 10**9, 10**9)))
"""


def fill(directory, how, *before):
    command = [sys.executable, "-c", FILL, str(directory), os.path.dirname(__file__), how]
    done = subprocess.run(
        [*before, *command], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.xdist_group("serial")
def test_a_file_size_limit_is_a_full_disk(tmp_path):
    """A real refusal by the kernel: RLIMIT_FSIZE."""
    told = fill(tmp_path, "limit")[0]
    acknowledged, tag = map(int, told.split()[:2])

    journal = Journal.open(tmp_path / "journal", OWNER, segment_bytes=512 * 1024)

    assert tag == DISK_FULL
    assert "Free space" in told
    assert journal.recovered.last >= acknowledged > 0
    journal.close()


@pytest.mark.xdist_group("serial")
def test_a_really_full_file_system_loses_nothing_that_was_acknowledged(tmp_path):
    """A tmpfs of 2 MiB in a mount namespace of its own, filled until it refuses."""
    inside = ["unshare", "-rm", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=2m none {tmp_path}"
    if subprocess.run([*inside, mount], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")

    told, found = fill(tmp_path, "tmpfs", *inside, f'{mount} && exec "$0" "$@"')
    acknowledged, tag = map(int, told.split()[:2])
    last, read_bytes = map(int, found.split())

    assert tag == DISK_FULL
    assert last >= acknowledged > 0
    assert read_bytes == len(entries(1, 1, body_bytes=4000)) * last


INJECTED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from journal_samples import OWNER, entries
from journal_rings import Rings
from leftfold.runtime import slots
from leftfold.runtime.errors import EXIT_JOURNAL_FAILED, JournalFailed
from leftfold.runtime.journal import Journal
rings = Rings(Journal.open(Path(sys.argv[1]), OWNER, segment_bytes=1 << 20))
rings.recovered()
for index in range(1, 1000):
    rings.persist.write(entries(index, index))
    try:
        rings.process.work()
    except JournalFailed:
        ((kind, tag, slot),) = rings.take(rings.persisted)
        assert kind == slots.FAILED
        print("failed", tag, slot[8:].decode())
        sys.exit(EXIT_JOURNAL_FAILED)
    ((kind, _, slot),) = rings.take(rings.persisted)
    print("durable", slots.unpack_persisted(memoryview(slot))[1], flush=True)
"""


@pytest.mark.xdist_group("serial")
def test_the_kernel_refuses_a_sync(tmp_path):
    """strace answers the 20th fdatasync of a real process with EIO; the next start has all that was
    told."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    trace = ["strace", "-f", "-o", os.devnull, "-e", "trace=fdatasync"]
    if subprocess.run([*trace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace here")
    command = [sys.executable, "-c", INJECTED, str(tmp_path / "j"), os.path.dirname(__file__)]
    inject = ["-e", "inject=fdatasync:error=EIO:when=20"]

    done = subprocess.run(
        [*trace, *inject, *command], capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == EXIT_JOURNAL_FAILED, done.stderr
    *told, failed = done.stdout.splitlines()
    assert failed.startswith(f"failed {FSYNC_FAILED} Cannot sync ")
    last = int(told[-1].split()[1])
    journal = Journal.open(tmp_path / "j", OWNER, segment_bytes=1 << 20)
    assert last >= 1
    assert journal.recovered.last in (last, last + 1)
    assert heads(everything(journal)) == [(at, 1) for at in range(1, journal.recovered.last + 1)]
    journal.close()
