"""Segment files: named only when durable, filled ahead, refused when they are not ours."""

import errno
import os

import pytest
from attrs import evolve
from journal_samples import OWNER, FailingDisk, entries

from leftfold.runtime.errors import (
    DISK_FULL,
    FSYNC_FAILED,
    CorruptJournal,
    ForeignJournal,
    JournalFailed,
    NewerFormat,
)
from leftfold.runtime.records import BLOCK_BYTES, SegmentHeader
from leftfold.runtime.segments import (
    FILL_BYTES,
    Disk,
    Spare,
    list_segments,
    read_header,
    segment_name,
)

HEADER = SegmentHeader(OWNER.cluster_id, OWNER.replica_id, 3, 1, 0, 0, 0, bytes(16))
SIZE = 4 * FILL_BYTES


def read(block, segment_id=3):
    return read_header("the file", block, segment_id, OWNER.cluster_id, OWNER.replica_id)


def spare_in(tmp_path, disk=None):
    return Spare(tmp_path / "spare.tmp", SIZE, disk or Disk())


def test_a_spare_is_filled_in_pieces_and_becomes_a_segment(tmp_path):
    spare = spare_in(tmp_path)
    pieces = 0
    while spare.fill():
        pieces += 1
    record = entries(1, 1)

    segment = spare.take(tmp_path / segment_name(3), HEADER, [record])

    assert pieces >= SIZE // FILL_BYTES
    assert (segment.offset, segment.filled) == (BLOCK_BYTES + len(record), SIZE)
    assert os.listdir(tmp_path) == ["00000003.log"]
    content = segment.path.read_bytes()
    assert content[:BLOCK_BYTES] == HEADER.encode()
    assert content[BLOCK_BYTES:] == record + bytes(SIZE - BLOCK_BYTES - len(record))
    assert os.stat(segment.path).st_blocks * 512 >= SIZE
    segment.close()


def test_a_roll_does_not_wait_for_a_spare_that_is_not_ready(tmp_path):
    """Taken as it is; the rest is filled as the current segment."""
    spare = spare_in(tmp_path)
    spare.fill()
    spare.fill()

    segment = spare.take(tmp_path / segment_name(3), HEADER, [])
    begun = segment.filled
    while segment.fill():
        pass

    assert begun == FILL_BYTES
    assert segment.filled == SIZE
    assert segment.path.read_bytes() == HEADER.encode() + bytes(SIZE - BLOCK_BYTES)
    segment.close()


def test_filling_never_touches_what_was_written(tmp_path):
    segment = spare_in(tmp_path).take(tmp_path / segment_name(3), HEADER, [])
    written = b""
    for number in range(40):
        batch = bytes([number + 1]) * 8 * 1001
        segment.write([batch], len(batch))
        segment.sync()
        segment.fill()
        written += batch

    content = segment.path.read_bytes()
    assert content[BLOCK_BYTES : segment.offset] == written
    assert not any(content[segment.offset :])
    segment.close()


def test_a_spare_left_by_an_earlier_process_is_taken_over(tmp_path):
    earlier = spare_in(tmp_path)
    while earlier.fill():
        pass
    earlier.close()

    spare = spare_in(tmp_path)
    pieces = 0
    while spare.fill():
        pieces += 1

    assert pieces <= 1 + SIZE // FILL_BYTES
    assert spare.filled == SIZE
    spare.drop()
    assert os.listdir(tmp_path) == []


def test_a_full_disk_while_preparing_is_no_failure_yet(tmp_path):
    """Nothing was promised: the space is given back, and only the roll will need it."""
    failing = FailingDisk("allocate", errno.ENOSPC, 1)
    spare = spare_in(tmp_path, failing.disk())

    assert spare.fill()
    assert not spare.fill()
    assert os.listdir(tmp_path) == []
    failing.countdown = 1
    with pytest.raises(JournalFailed, match="Free space") as caught:
        spare.take(tmp_path / segment_name(3), HEADER, [])
    assert caught.value.tag == DISK_FULL


def test_a_sync_that_fails_while_preparing_is_a_failure(tmp_path):
    spare = spare_in(tmp_path, FailingDisk("sync", errno.EIO, 1).disk())
    spare.fill()

    with pytest.raises(JournalFailed, match=r"Cannot sync .*spare\.tmp") as caught:
        spare.fill()
    assert caught.value.tag == FSYNC_FAILED
    spare.close()


def test_nothing_has_its_name_before_it_is_durable(tmp_path):
    """Write, sync, rename, sync of the directory; a failed sync leaves no name."""
    failing = FailingDisk("sync", errno.EIO, 1)
    spare = spare_in(tmp_path, failing.disk())

    with pytest.raises(JournalFailed):
        spare.take(tmp_path / segment_name(3), HEADER, [])
    assert os.listdir(tmp_path) == ["spare.tmp"]
    assert failing.calls == ["allocate", "write", "sync"]
    segment = spare.take(tmp_path / segment_name(3), HEADER, [])
    assert failing.calls[3:] == ["write", "sync", "rename_file", "sync_all"]
    segment.close()


def test_a_write_that_the_kernel_takes_in_parts_is_completed(tmp_path):
    taken = []

    def in_parts(file, parts, offset):
        piece = b"".join(parts)[:100]
        taken.append(len(piece))
        return os.pwrite(file, piece, offset)

    segment = spare_in(tmp_path).take(tmp_path / segment_name(3), HEADER, [])
    segment.disk = Disk(write=in_parts)
    run = entries(1, 20)

    segment.write([run[:40], run[40:]], len(run))

    assert segment.path.read_bytes()[BLOCK_BYTES:].startswith(run)
    assert len(taken) == -(-len(run) // 100)
    segment.close()


def test_a_missing_middle_segment_is_corruption(tmp_path):
    for segment_id in (4, 5, 7):
        (tmp_path / segment_name(segment_id)).write_bytes(b"")

    with pytest.raises(CorruptJournal, match=r"00000006\.log.* missing") as caught:
        list_segments(tmp_path)
    assert caught.value.file == tmp_path / "00000006.log"


def test_segments_are_listed_in_order_of_their_numbers(tmp_path):
    for segment_id in (99999999, 100000000, 99999998):
        (tmp_path / segment_name(segment_id)).write_bytes(b"")
    (tmp_path / "spare.tmp").write_bytes(b"")

    assert [found for found, _ in list_segments(tmp_path)] == [99999998, 99999999, 100000000]


def test_a_segment_of_someone_else_is_named_as_such():
    with pytest.raises(ForeignJournal, match="Put it back"):
        read(evolve(HEADER, cluster_id=b"another cluster!").encode())
    with pytest.raises(ForeignJournal, match="replica 2"):
        read(evolve(HEADER, replica_id=2).encode())


def test_a_segment_under_another_name_is_corruption():
    with pytest.raises(CorruptJournal, match="holds segment 3"):
        read(HEADER.encode(), segment_id=4)


def test_a_short_or_strange_file_is_corruption_at_its_beginning():
    for block in (b"", HEADER.encode()[:4095], bytes(BLOCK_BYTES), b"x" * BLOCK_BYTES):
        with pytest.raises(CorruptJournal) as caught:
            read(block)
        assert caught.value.offset == 0


def test_a_newer_format_asks_for_a_newer_program(monkeypatch):
    monkeypatch.setattr("leftfold.runtime.records.VERSION", 9)
    block = HEADER.encode()
    monkeypatch.undo()

    with pytest.raises(NewerFormat, match="format 9"):
        read(block)
