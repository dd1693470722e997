"""The journal's usual batch, in one call: the same bytes on disk as from Python, and no word of what is not durable."""

import os
import random
import zlib

import pytest
from journal_rings import Rings
from journal_samples import OWNER, entries, entry, heads
from replica import wait_until

from leftfold.runtime import slots
from leftfold.runtime._wire import ffi, lib
from leftfold.runtime.batches import BYTES_MAX
from leftfold.runtime.errors import DISK_FULL, FSYNC_FAILED, JournalFailed
from leftfold.runtime.journal import Journal
from leftfold.runtime.records import BLOCK_BYTES, Scan, encode_record_header

SEGMENT_BYTES = 256 * 1024


@pytest.fixture
def journal(tmp_path):
    found = Journal.open(tmp_path / "journal", OWNER, segment_bytes=SEGMENT_BYTES)
    yield found
    found.abandon()


@pytest.fixture
def rings(journal):
    """The process, with an entry in its log: before the first, every batch is out of the ordinary."""
    found = Rings(journal)
    found.recovered()
    found.persist.write(entries(1, 1))
    found.work()
    found.take(found.persisted)
    yield found
    found.end()


def count_of_python(journal, monkeypatch):
    """The calls of the way through Python from now on."""
    seen = []
    plain = Journal.write

    def write(self, *run):
        seen.append(b"".join(bytes(part) for part in run))
        plain(self, *run)

    monkeypatch.setattr(Journal, "write", write)
    return seen


def test_the_checksum_is_that_of_zlib():
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    for size in (*range(40), 1000, 4097):
        content, start = rng.randbytes(size), rng.randrange(1 << 32)
        assert lib.batch_crc(start, ffi.from_buffer(content), size) == zlib.crc32(content, start)


def test_it_writes_the_record_that_python_writes(rings, journal, monkeypatch):
    by_python = count_of_python(journal, monkeypatch)
    at, taken = journal.current.offset, 0
    for index in range(2, 60):
        run = entries(index, index, body_bytes=index) + slots.pack_hard_state(1, 1, index - 1)
        rings.persist.write(run)
        assert rings.process.work()
        ((kind, _, slot),) = rings.take(rings.persisted)
        taken += len(run)
        persisted = slots.unpack_persisted(memoryview(slot))
        assert (kind, *persisted) == (slots.PERSISTED, 1, index, len(entries(1, 1)) + taken)
        found = os.pread(journal.current.file, 56 + len(run), at)
        header = encode_record_header(journal.current.seed, at, [run], index, index, 1, at)
        assert found == header + run
        at += len(found)
        assert journal.current.offset == at

    assert by_python == []
    held = journal.contents
    assert (held.term, held.voted_for, held.commit, held.last) == (1, 1, 58, 59)
    journal.close()
    again = Journal.open(journal.directory, OWNER, segment_bytes=SEGMENT_BYTES)
    assert heads(again.read(1, 59, 1 << 20)) == [(index, 1) for index in range(1, 60)]
    assert again.contents.commit == 58
    again.abandon()


def test_behind_a_batch_it_waits_and_behind_a_piece_of_preparation_it_goes_on(rings):
    rings.persist.write(entries(2, 2))
    assert rings.process.work()
    assert not rings.process.more
    wait_until(rings.process.work, "it is quiet, and something is prepared")
    assert rings.process.more


@pytest.mark.parametrize(
    "run",
    [
        entry(2, term=2),
        entry(1, body=b"another"),
        entry(2, kind=4, body=b"members"),
        slots.pack_truncate(2) + bytes(-len(slots.pack_truncate(2)) % 8),
        entries(2, 2) + slots.pack_read(1, 1, 1 << 20),
        entries(2, 3, body_bytes=BYTES_MAX // 2),
    ],
    ids=["term", "overwrites", "members", "truncates", "request", "long"],
)
def test_what_is_out_of_the_ordinary_goes_through_python(rings, journal, monkeypatch, run):
    by_python = count_of_python(journal, monkeypatch)
    rings.persist.write(run)
    rings.process.work()

    assert len(by_python) == 1
    ((kind, _, slot),) = rings.take(rings.persisted)
    assert kind == slots.PERSISTED
    assert slots.unpack_persisted(memoryview(slot))[2] == len(entries(1, 1)) + len(run)


def test_a_commit_beyond_the_log_is_our_own_bug_here_too(rings):
    rings.persist.write(slots.pack_hard_state(1, 1, 9))
    with pytest.raises(Exception, match="commit 9 passes the last index 1"):  # I6
        rings.process.work()


def test_segments_and_places_go_on_between_the_two_ways(rings, journal):
    """Through rolls, and from place to place, every entry is found again."""
    index = 1
    while len(journal.closed) < 2:
        for _ in range(50):
            index += 1
            assert rings.persist.write(entries(index, index, body_bytes=3000))
            rings.work()
            rings.take(rings.persisted)
    for begin in range(1, index + 1, 7):
        assert heads(journal.read(begin, begin, 1 << 20)) == [(begin, 1)]
    for closed in journal.closed.values():
        content = closed.extent.path.read_bytes()
        assert list(Scan(memoryview(content), closed.extent.seed, len(content)))
        assert len(content) > BLOCK_BYTES


@pytest.mark.parametrize(
    ("device", "tag", "sentence"),
    [("/dev/full", DISK_FULL, "The disk is full"), ("/dev/null", FSYNC_FAILED, "Cannot sync")],
)
def test_a_disk_that_refuses_ends_it_and_nothing_is_told(rings, journal, device, tag, sentence):
    kept, journal.current.file = journal.current.file, os.open(device, os.O_RDWR)
    rings.persist.write(entries(2, 2))
    try:
        with pytest.raises(JournalFailed):
            rings.process.work()
    finally:
        os.close(journal.current.file)
        journal.current.file = kept

    ((kind, found, slot),) = rings.take(rings.persisted)
    assert (kind, found) == (slots.FAILED, tag)
    assert slot[8:].decode().startswith(sentence)
    assert journal.contents.last == 1


def test_what_persisted_has_no_room_for_is_told_later_and_once(rings, journal):
    while rings.process.persisted.write(slots.pack_room(slots.ROOM_AGAIN)):
        pass
    rings.persist.write(entries(2, 2))
    rings.work()
    rings.persist.write(entries(3, 3))
    rings.work()
    assert journal.contents.last == 3

    rings.take(rings.persisted)
    rings.work()
    ((kind, _, slot),) = rings.take(rings.persisted)
    assert kind == slots.PERSISTED
    assert slots.unpack_persisted(memoryview(slot)) == (1, 3, len(entries(1, 3)))
