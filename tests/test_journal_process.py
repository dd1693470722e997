"""The journal's process between real rings: batches, requests, snapshots and room."""

import errno
import os

import pytest
from attrs import evolve
from journal_rings import Rings
from journal_samples import OWNER, SMALL, FailingDisk, entries, entry, everything, write
from replica import wait_until
from snapshot_samples import pieces_of, put, sample

from leftfold.runtime import slots
from leftfold.runtime.errors import (
    DISK_FULL,
    FSYNC_FAILED,
    OTHER_FAILURE,
    CorruptJournal,
    CorruptSnapshot,
    JournalFailed,
    OperatorError,
)
from leftfold.runtime.journal import Journal
from leftfold.runtime.records import BLOCK_BYTES
from leftfold.runtime.room import DiskLimits
from leftfold.runtime.snapshots import snapshot_name

MIB = 1024 * 1024


@pytest.fixture
def journal(tmp_path):
    return Journal.open(tmp_path / "journal", OWNER, segment_bytes=SMALL)


@pytest.fixture
def between():
    """Makes processes between rings, and ends their threads."""
    made = []

    def make(journal, **capacities):
        made.append(Rings(journal, **capacities))
        return made[-1]

    yield make
    for one in made:
        one.end()


@pytest.fixture
def rings(journal, between):
    yield between(journal)
    journal.abandon()


def test_what_was_recovered_comes_first(journal, between):
    skip = entry(3, 2, slots.pack_skip_body(1, 1), kind=3)
    write(journal, slots.pack_hard_state(2, 3, 0) + entries(1, 1, 1) + entries(2, 2, 2) + skip)

    rings = between(journal)

    assert rings.recovered() == journal.recovered
    assert journal.recovered.skips == ((1, 1),)
    assert rings.take(rings.persisted) == []
    journal.close()


def test_a_batch_is_told_persisted_after_its_sync_and_never_before(journal, between):
    """I4: what stands in `persisted` at the moment of the sync does not cover the batch."""
    rings = between(journal)
    rings.recovered()
    seen = []
    sync = journal.current.disk.sync

    def watched(file):
        seen.extend(rings.take(rings.persisted))
        sync(file)

    journal.current.disk = evolve(journal.current.disk, sync=watched)
    run = slots.pack_hard_state(1, 1, 0) + entries(1, 3)
    rings.persist.write(run)
    rings.work()

    assert seen == []
    ((kind, _, slot),) = rings.take(rings.persisted)
    assert kind == slots.PERSISTED
    assert slots.unpack_persisted(memoryview(slot)) == (1, 3, len(run))
    journal.abandon()


def test_all_that_persist_holds_is_one_write_and_one_sync(rings, journal):
    rings.recovered()
    watching = FailingDisk("none", 0, 0)
    journal.current.disk = watching.disk()
    for index in range(1, 9):
        rings.persist.write(entry(index))
    rings.process.work()

    assert watching.calls == ["write", "sync"]
    ((_, _, slot),) = rings.take(rings.persisted)
    assert slots.unpack_persisted(memoryview(slot)) == (1, 8, 8 * len(entry(1)))


def test_a_request_among_entries_is_not_journaled_and_is_answered_with_its_tag(rings, journal):
    rings.recovered()
    request = slots.pack_read(1, 4, 1 << 20, tag=slots.REPLAY)
    rings.persist.write(entries(1, 2) + request + entries(3, 5))
    rings.work()

    answer = rings.take(rings.read)
    assert [(kind, tag) for kind, tag, _ in answer] == [(slots.ENTRY, slots.REPLAY)] * 4
    assert [slots.unpack_entry(memoryview(slot)).index for _, _, slot in answer] == [1, 2, 3, 4]
    ((_, _, told),) = rings.take(rings.persisted)
    assert slots.unpack_persisted(memoryview(told))[2] == len(entries(1, 5)) + len(request)
    assert everything(journal) == entries(1, 5)


def test_a_full_read_ring_never_delays_a_batch(rings):
    """I12: the answer waits for room, piece by piece, and batches go on meanwhile."""
    rings.recovered()
    for first in range(1, 200, 20):
        rings.persist.write(entries(first, first + 19, body_bytes=200))
    rings.work()
    rings.take(rings.persisted)
    rings.persist.write(slots.pack_read(1, 200, 1 << 20))
    rings.work()
    full = rings.read.used()

    rings.persist.write(entries(201, 201))
    rings.work()
    ((_, _, slot),) = rings.take(rings.persisted)
    answer = []
    while piece := rings.take(rings.read):
        answer += [slots.unpack_entry(memoryview(one)).index for _, _, one in piece]
        rings.work()

    assert slots.unpack_persisted(memoryview(slot))[1] == 201
    assert rings.read.capacity // 2 < full <= rings.read.capacity
    assert answer == list(range(1, 201))


def test_a_full_persisted_ring_is_told_the_newest_when_it_has_room(journal, between):
    rings = between(journal, persisted=256)
    rings.recovered()
    for index in range(1, 31):
        rings.persist.write(entry(index))
        rings.work()
    told = []
    while found := rings.take(rings.persisted):
        told += [slots.unpack_persisted(memoryview(slot))[1] for _, _, slot in found]
        rings.work()

    assert told == sorted(told)
    assert told[-1] == 30
    assert len(told) < 30
    journal.close()


def test_requests_are_answered_in_order_and_survive_a_truncation(rings):
    rings.recovered()
    rings.persist.write(entries(1, 9, 1) + slots.pack_read(2, 9, 100) + slots.pack_read(1, 1, 100))
    rings.persist.write(slots.pack_truncate(6))
    rings.work()

    answer = []
    while piece := rings.take(rings.read):
        answer += [slots.unpack_entry(memoryview(one)).index for _, _, one in piece]
        rings.work()
    assert answer == [2, 3, 4, 5, 1]


@pytest.mark.parametrize(
    ("call", "number", "tag"),
    [("sync", errno.EIO, FSYNC_FAILED), ("write", errno.ENOSPC, DISK_FULL)],
)
def test_a_disk_that_refuses_is_reported_and_ends_the_process(rings, journal, call, number, tag):
    """What was durable before is told first; what was in flight is not told at all."""
    rings.recovered()
    rings.persist.write(entries(1, 3))
    rings.process.work()
    rings.take(rings.persisted)
    journal.current.disk = FailingDisk(call, number, 1).disk()
    rings.persist.write(entries(4, 6))

    with pytest.raises(JournalFailed):
        rings.work()
    ((kind, found, slot),) = rings.take(rings.persisted)
    assert (kind, found) == (slots.FAILED, tag)
    assert slot[8:].decode().startswith(("Cannot sync", "The disk is full"))
    assert slot[8:].decode().endswith("start the replica again.")


def test_damage_found_by_a_request_is_reported_too(rings, journal):
    rings.recovered()
    rings.persist.write(entries(1, 3))
    rings.work()
    rings.take(rings.persisted)
    os.pwrite(journal.current.file, b"\xff", BLOCK_BYTES + 200)
    rings.persist.write(slots.pack_read(1, 3, 1 << 20))

    with pytest.raises(CorruptJournal):
        rings.work()
    ((kind, found, slot),) = rings.take(rings.persisted)
    assert (kind, found) == (slots.FAILED, OTHER_FAILURE)
    assert b"00000001.log at offset" in slot


# Snapshots


def send(rings, index, content=None, *, end=True):
    """What logic and its child do when a snapshot is written."""
    rings.snapshot.write(slots.pack_snapshot_begun(index, 4711))
    whole = sample(index) if content is None else content
    for start in (0, *range(BLOCK_BYTES, len(whole), 1000)):
        piece = whole[start : BLOCK_BYTES if start < BLOCK_BYTES else start + 1000]
        rings.packet(index, slots.PACKET_DATA, piece)
        rings.work()
    if end:
        rings.packet(index, slots.PACKET_END)


def state_of(rings, index):
    """The SNAPSHOT_STATE that comes next, which must be of this index."""
    (slot,) = rings.told(slots.SNAPSHOT_STATE, f"what became of snapshot {index}")
    state = slots.unpack_snapshot_state(memoryview(slot))
    assert state.index == index
    return state


def taken(rings, index):
    send(rings, index)
    state = state_of(rings, index)
    rings.snapshot.write(slots.pack_snapshot_ended(index, 0))
    rings.work()
    assert state.tag == slots.VERIFIED, state.why
    return state


def names(rings):
    return sorted(os.listdir(rings.store.directory))


def test_a_snapshot_is_written_checked_and_told_once(rings):
    rings.recovered()

    first, second = taken(rings, 10), taken(rings, 20)

    assert (first.keep_from, second.keep_from) == (0, 11)
    path = rings.store.directory / snapshot_name(20)
    assert path.read_bytes() == sample(20)
    assert second.file_bytes == len(sample(20))
    assert names(rings) == [snapshot_name(10), snapshot_name(20)]
    assert rings.take(rings.persisted) == []


def test_the_file_is_synced_before_its_name_and_the_name_before_it_is_told(journal, between):
    watching = FailingDisk("none", 0, 0)
    journal.disk = watching.disk()
    rings = between(journal)
    rings.recovered()
    watching.calls.clear()

    taken(rings, 10)

    calls = [call for call in watching.calls if call != "write"]
    assert calls[-3:] == ["sync", "rename_file", "sync_all"]
    assert watching.calls.index("write") < watching.calls.index("sync")


def test_a_batch_is_persisted_while_a_snapshot_is_written(rings, journal):
    rings.recovered()
    send(rings, 10, end=False)

    rings.persist.write(entries(1, 3))
    rings.work()

    ((kind, _, slot),) = rings.take(rings.persisted)
    assert (kind, slots.unpack_persisted(memoryview(slot))[1]) == (slots.PERSISTED, 3)
    rings.packet(10, slots.PACKET_END)
    assert state_of(rings, 10).tag == slots.VERIFIED


@pytest.mark.parametrize("status", [slots.ENDED_BY_SIGNAL, 3])
def test_the_snapshot_of_a_killed_child_is_dropped_and_the_next_one_counts(rings, status):
    """What the killed one left in the socket is not taken for the next one's."""
    rings.recovered()
    whole = sample(10)
    send(rings, 10, whole[:5000], end=False)
    for _ in range(5):
        rings.packet(10, slots.PACKET_DATA, whole[5000:5500])
    rings.snapshot.write(slots.pack_snapshot_ended(10, status))
    failed = state_of(rings, 10)
    rings.packet(10, slots.PACKET_DATA, b"late")
    after = taken(rings, 11)

    assert (failed.tag, failed.keep_from) == (slots.NOT_TAKEN, 0)
    assert failed.why == (
        "the process that writes it ended by a signal before it was whole"
        if status == slots.ENDED_BY_SIGNAL
        else "the process that writes it ended with status 3 before it was whole"
    )
    assert after.tag == slots.VERIFIED
    assert names(rings) == [snapshot_name(11)]


def test_the_same_entry_is_taken_again_after_a_killed_child(rings):
    rings.recovered()
    send(rings, 10, sample(10)[:5000], end=False)
    rings.snapshot.write(slots.pack_snapshot_ended(10, slots.ENDED_BY_SIGNAL))
    assert state_of(rings, 10).tag == slots.NOT_TAKEN
    rings.packet(10, slots.PACKET_DATA, b"the killed one's rest")

    assert taken(rings, 10).tag == slots.VERIFIED
    assert (rings.store.directory / snapshot_name(10)).read_bytes() == sample(10)


def states_of(rings, count):
    """So many SNAPSHOT_STATEs, in order."""
    found = []
    while len(found) < count:
        found += rings.told(slots.SNAPSHOT_STATE, "what became of the snapshots")
    return [slots.unpack_snapshot_state(memoryview(slot)) for slot in found]


def test_a_child_that_is_begun_in_the_middle_of_another_takes_its_place(rings):
    rings.recovered()
    send(rings, 10, sample(10)[:5000], end=False)
    send(rings, 20)

    first, second = states_of(rings, 2)

    assert (first.index, first.tag, first.why) == (10, slots.NOT_TAKEN, "another was begun")
    assert (second.index, second.tag) == (20, slots.VERIFIED)
    assert names(rings) == [snapshot_name(20)]


def test_the_last_packets_count_when_the_end_of_the_child_is_known_first(rings):
    """The word of the child's end and its packets come by different ways."""
    rings.recovered()
    rings.snapshot.write(slots.pack_snapshot_begun(10, 4711))
    whole = sample(10)
    rings.packet(10, slots.PACKET_DATA, whole[:BLOCK_BYTES])
    rings.packet(10, slots.PACKET_DATA, whole[BLOCK_BYTES:])
    rings.packet(10, slots.PACKET_END)
    rings.snapshot.write(slots.pack_snapshot_ended(10, 0))
    rings.snapshot.write(slots.pack_snapshot_begun(20, 4712))
    rings.packet(20, slots.PACKET_DATA, sample(20)[:BLOCK_BYTES])
    rings.packet(20, slots.PACKET_DATA, sample(20)[BLOCK_BYTES:])
    rings.packet(20, slots.PACKET_END)

    assert [state.tag for state in states_of(rings, 2)] == [slots.VERIFIED] * 2
    assert names(rings) == [snapshot_name(10), snapshot_name(20)]


def test_what_the_child_could_not_encode_is_passed_on(rings):
    rings.recovered()
    send(rings, 10, sample(10)[:5000], end=False)
    rings.packet(10, slots.PACKET_FAILED, "account ä has a socket".encode())
    failed = state_of(rings, 10)
    rings.snapshot.write(slots.pack_snapshot_ended(10, 1))
    rings.work()

    assert (failed.tag, failed.why) == (slots.NOT_TAKEN, "account ä has a socket")
    assert names(rings) == []
    assert rings.take(rings.persisted) == [], "it is told once"


def test_a_child_that_could_not_be_made_is_told_too(rings):
    rings.recovered()
    rings.snapshot.write(slots.pack_snapshot_ended(10, 1))

    assert state_of(rings, 10).why == "no process could be made that writes it"


def test_a_file_that_does_not_read_back_is_dropped(rings):
    rings.recovered()
    broken = bytearray(sample(10))
    broken[5000] ^= 1
    send(rings, 10, broken)

    failed = state_of(rings, 10)

    assert failed.tag == slots.NOT_TAKEN
    assert ".tmp is damaged at offset " in failed.why
    assert names(rings) == []


@pytest.mark.parametrize(("call", "nth"), [("write", 1), ("write", 3), ("sync", 1)])
def test_a_full_disk_costs_the_snapshot_and_not_the_log(journal, between, call, nth):
    """The child's other packets are taken and dropped, or it would wait for ever."""
    rings = between(journal)
    rings.recovered()
    rings.process.spool.disk = FailingDisk(call, errno.ENOSPC, nth).disk()
    send(rings, 10)
    failed = state_of(rings, 10)
    for _ in range(300):
        rings.packet(10, slots.PACKET_DATA, bytes(60_000))
    rings.snapshot.write(slots.pack_snapshot_ended(10, 0))
    rings.persist.write(entries(1, 3))
    rings.work()
    rings.take(rings.persisted)

    assert failed.why.startswith(f"cannot {call} {rings.store.directory}")
    assert names(rings) == []
    assert journal.contents.last == 3
    rings.process.spool.disk = journal.disk
    assert taken(rings, 20).tag == slots.VERIFIED


def test_a_restart_goes_on_from_the_snapshot(journal, between):
    rings = between(journal)
    rings.recovered()
    rings.persist.write(entries(1, 25))
    rings.work()
    taken(rings, 10)
    taken(rings, 20)
    journal.close()

    store = rings.store
    journal = Journal.open(journal.directory, OWNER, segment_bytes=SMALL, covered=store.newest)
    found = between(journal).recovered()

    assert (found.snapshot_index, found.snapshot_term, found.snapshot_build) == (20, 1, "a build")
    assert found.snapshot_bytes == sum(map(len, pieces_of(20)))
    assert (found.first, found.last, found.commit) == (1, 25, 20)
    journal.close()


@pytest.mark.parametrize("capacity", [1 << 10, 1 << 13, 1 << 16])
def test_a_snapshot_is_restored_in_pieces_that_fit_the_ring(journal, between, capacity):
    """The last is marked; a full ring delays no batch."""
    put(journal.directory.parent / "snapshots", 10)
    rings = between(journal, restore=capacity)
    rings.recovered()
    rings.persist.write(slots.pack_restore(10))
    rings.work()
    rings.persist.write(entries(1, 1))
    rings.work()
    assert rings.take(rings.persisted)[0][0] == slots.PERSISTED

    found = []
    while piece := rings.take(rings.restore):
        found += piece
        rings.work()

    assert {kind for kind, _, _ in found} == {slots.SNAPSHOT_CHUNK}
    assert [tag for _, tag, _ in found] == [0] * (len(found) - 1) + [slots.LAST_CHUNK]
    assert b"".join(slot[8:] for _, _, slot in found) == b"".join(pieces_of(10))
    assert max(len(slot) for _, _, slot in found) <= capacity // 8
    journal.close()


def test_damage_found_while_a_snapshot_is_restored_ends_the_process(journal, between):
    path = put(journal.directory.parent / "snapshots", 10)
    rings = between(journal)
    rings.recovered()
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    rings.persist.write(slots.pack_restore(10))

    with pytest.raises(CorruptSnapshot):
        rings.work()
    ((kind, tag, slot),) = rings.take(rings.persisted)
    assert (kind, tag) == (slots.FAILED, OTHER_FAILURE)
    assert f"{path} at offset ".encode() in slot
    journal.abandon()


def test_the_log_goes_up_to_the_older_of_two_snapshots_and_no_further(rings, journal):
    rings.recovered()
    for first in range(1, 2000, 10):
        rings.persist.write(entries(first, first + 9, body_bytes=80))
        rings.work()
        rings.take(rings.persisted)
    rings.persist.write(slots.pack_discard(2000))
    taken(rings, 1000)
    alone = journal.contents.first
    taken(rings, 1500)
    two = journal.contents.first
    taken(rings, 1900)

    def removed():
        rings.work()
        return len(list(journal.directory.glob("*.log"))) == journal.segments

    wait_until(removed, "the segments that may go are gone")
    assert alone == 1, "one snapshot alone lets nothing go"
    assert 900 < two <= 1001
    assert 1400 < journal.contents.first <= 1501
    first, last = journal.contents.first, journal.contents.last
    journal.abandon()
    found = Journal.open(
        journal.directory, OWNER, segment_bytes=SMALL, covered=rings.store.kept[0].header
    )
    assert (found.contents.first, found.contents.last) == (first, last)
    found.close()


def test_the_log_is_kept_as_far_as_somebody_needs_it(rings, journal):
    rings.recovered()
    for first in range(1, 2000, 10):
        rings.persist.write(entries(first, first + 9, body_bytes=80))
        rings.work()
        rings.take(rings.persisted)
    taken(rings, 1000)
    taken(rings, 1500)
    assert journal.contents.first == 1
    rings.persist.write(slots.pack_discard(500))
    rings.work()

    assert 400 < journal.contents.first <= 500


# Room


def statvfs_of(free):
    """A file system of 1000 MiB with so many MiB free."""

    def statvfs(path):
        found = os.statvfs(path)
        fields = list(found)
        fields[0:5] = [4096, MIB, 1000, free[0], free[0]]
        return os.statvfs_result(fields)

    return statvfs


def looked(rings):
    """What is told when the disk is looked at."""
    rings.process._look_due_ns = 0
    rings.work()
    return [
        (tag, slot[8:].decode().rstrip("\0"))
        for kind, tag, slot in rings.take(rings.persisted)
        if kind == slots.ROOM
    ]


def test_a_disk_that_becomes_full_is_told_once_and_room_again_once(rings, journal):
    """By default a twentieth stays free; that the next segment is there, or fits, is part of it."""
    rings.recovered()
    free = [900]
    rings.process.room.statvfs = statvfs_of(free)
    told = [looked(rings)]
    for free[0] in (51, 49, 48, 55, 62, 63, 700):
        told.append(looked(rings))

    (low, sentence), (again, nothing) = [one for some in told for one in some]
    assert [len(some) for some in told] == [0, 0, 1, 0, 0, 0, 1, 0]
    assert (low, again, nothing) == (slots.ROOM_LOW, slots.ROOM_AGAIN, "")
    assert sentence.startswith("The disk is nearly full: 49 MiB are free in ")
    assert "50 MiB must be. Free some space there" in sentence


def test_a_segment_that_would_not_fit_any_more_counts(journal, between):
    rings = between(journal)
    rings.recovered()
    journal.spare.drop()
    journal.spare.size = 100 * MIB
    free = [149]
    rings.process.room.statvfs = statvfs_of(free)

    assert looked(rings)[0][0] == slots.ROOM_LOW
    assert journal.spare.file < 0, "what is left is not taken for the log"


def test_a_limit_on_what_the_replica_takes_pushes_back_until_snapshots_make_room(journal, between):
    rings = between(journal, limits=DiskLimits(6 * SMALL, 0))
    rings.recovered()
    index, told = 0, []
    while not told:
        rings.persist.write(entries(index + 1, index + 10, body_bytes=80))
        index += 10
        told = looked(rings)
    used = rings.process._use().used_bytes
    rings.persist.write(slots.pack_discard(index))
    for at in (index - 1, index):
        send(rings, at)
        state_of(rings, at)
        rings.snapshot.write(slots.pack_snapshot_ended(at, 0))
    rings.process.room.limits = DiskLimits(7 * SMALL, 0)

    assert told[0][0] == slots.ROOM_LOW
    assert "Journal and snapshots in " in told[0][1]
    assert 4 * SMALL < used <= 7 * SMALL
    assert wait_until(lambda: looked(rings), "there is room again")[0] == (slots.ROOM_AGAIN, "")


def test_a_limit_that_no_log_can_live_with_is_refused():
    with pytest.raises(OperatorError, match=f"allow at least {4 * SMALL} bytes"):
        DiskLimits(4 * SMALL - 1).check(SMALL)
    DiskLimits(4 * SMALL).check(SMALL)
