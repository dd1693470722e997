"""Snapshots that travel: §7 of the paper, and what a transfer in pieces has to bear.

A leader that no longer has the entries a peer needs sends it its newest snapshot: in chunks, from the
byte where the peer stands, a bounded number of them unanswered, and on the bulk flow.
"""

import zlib
from typing import Any

import pytest
from attrs import evolve
from raft_cluster import Cluster
from raft_samples import ELECTION_TICKS, append, entry, lead, raft_with, take

from leftfold.raft import (
    CONFIGURATION,
    AppendEntries,
    AppendEntriesReply,
    Entry,
    FetchChunk,
    HardState,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    InstallSnapshotReply,
    Membership,
    Persist,
    ProgressState,
    ProtocolViolation,
    Raft,
    Received,
    RequestVote,
    RequestVoteReply,
    Restart,
    Role,
    SnapshotChunk,
    Stored,
    is_bulk,
)
from leftfold.raft.transfer import checksum

THREE = Membership(voters=[1, 2, 3])
CONTENT = bytes(range(100)) * 3
SNAPSHOT = Stored(5, 1, len(CONTENT))


def chunk(
    offset: int, size: int, *, source: int = 2, term: int = 1, **other: Any
) -> InstallSnapshot:
    """A piece of SNAPSHOT for replica 1."""
    piece = CONTENT[offset : offset + size]
    check = checksum(5, 1, len(CONTENT), offset, piece)
    done = offset + len(piece) == len(CONTENT)
    message = InstallSnapshot(source, 1, term, 5, 1, len(CONTENT), offset, check, piece, done)
    return evolve(message, **other)


def sender(**limits: int) -> Raft:
    """Replica 1 leads term 2; its log begins behind entry 5, and peer 3 needs entry 2."""
    limits = {"chunk_bytes_max": 100, "chunks_in_flight_bytes_max": 200, **limits}
    raft = raft_with([1] * 6, commit=6, **limits)
    ready = raft.ready()
    raft.applied(6)
    raft.snapshot_taken(SNAPSHOT)
    raft.compacted(6)
    assert not ready
    lead(raft, 2)
    take(raft)
    raft.step(AppendEntriesReply(2, 1, 2, True, 7))
    raft.step(AppendEntriesReply(3, 1, 2, False, 6, 1, 1))
    return raft


def read(raft: Raft) -> tuple[list[InstallSnapshot], list[FetchChunk]]:
    """What is sent to peer 3, with all that is asked of the file read at once."""
    sent: list[InstallSnapshot] = []
    asked: list[FetchChunk] = []
    while ready := raft.ready():
        sent += [m for m in ready.send_now if isinstance(m, InstallSnapshot)]
        for wanted in ready.fetch_chunks:
            asked.append(wanted)
            piece = CONTENT[wanted.offset : wanted.offset + wanted.bytes_max]
            raft.fetched_chunk(wanted.peer, wanted.index, wanted.offset, piece)
    return sent, asked


def answer(raft: Raft, offset: int, *, done: bool = False, refused: bool = False) -> None:
    raft.step(InstallSnapshotReply(3, 1, 2, 5, offset, done, refused))


# The leader


def test_a_peer_that_needs_what_is_gone_is_asked_where_it_stands_and_sent_the_rest() -> None:
    """§7: "the leader must occasionally send snapshots to followers that lag behind. This happens
    when the leader has already discarded the next log entry that it needs to send"."""
    raft = sender()

    [probe], asked = read(raft)
    assert (probe.offset, probe.chunk, probe.done, asked) == (0, b"", False, [])
    assert raft.progress[3].state is ProgressState.SNAPSHOT

    answer(raft, 0)
    sent, asked = read(raft)
    assert asked == [FetchChunk(3, 5, 0, 100), FetchChunk(3, 5, 100, 100)]
    assert [(m.offset, m.chunk, m.done) for m in sent] == [
        (0, CONTENT[:100], False),
        (100, CONTENT[100:200], False),
    ], "a window of 200 bytes"

    answer(raft, 100)
    [last], _ = read(raft)
    assert (last.offset, last.chunk, last.done) == (200, CONTENT[200:], True)
    answer(raft, 300)
    assert read(raft) == ([], []), "the peer looks whether the file is whole"

    answer(raft, 300, done=True)
    assert raft.progress[3].state is ProgressState.REPLICATE
    assert [(f.peer, f.first) for f in raft.ready().fetch] == [(3, 6)], "what follows it"


def test_a_transfer_goes_on_at_the_byte_that_the_peer_has() -> None:
    """After a loss of the connection, or with a leader that is elected again."""
    raft = sender()
    read(raft)

    answer(raft, 250)
    [last], asked = read(raft)

    assert asked == [FetchChunk(3, 5, 250, 50)]
    assert (last.offset, last.done) == (250, True)


def test_a_refusal_is_followed_by_one_question_however_many_there_are() -> None:
    raft = sender()
    read(raft)
    answer(raft, 0)
    read(raft)

    answer(raft, 0, refused=True)
    answer(raft, 0, refused=True)
    [probe], asked = read(raft)
    answer(raft, 0, refused=True)
    assert (probe.chunk, asked, read(raft)) == (b"", [], ([], []))
    answer(raft, 100)

    assert [m.offset for m in read(raft)[0]] == [100, 200]


def test_what_was_lost_without_a_trace_is_asked_after_two_heartbeats() -> None:
    raft = sender()
    read(raft)
    answer(raft, 0)
    read(raft)

    sent: list[list[InstallSnapshot]] = []
    for _ in range(3):
        raft.step(HeartbeatReply(3, 1, 2))
        sent.append(read(raft)[0])

    assert [[m.chunk for m in round_] for round_ in sent] == [[], [b""], [b""]]


def test_a_file_that_is_gone_gives_way_to_the_newest() -> None:
    raft = sender()
    read(raft)
    answer(raft, 0)
    raft.ready()
    raft.applied(raft.commit)
    newer = Stored(7, 2, 10)
    raft.snapshot_taken(newer)

    raft.fetched_chunk(3, 5, 0, b"")
    assert read(raft) == ([], []), "not at once: it might be gone again"
    raft.step(HeartbeatReply(3, 1, 2))
    [probe], _ = read(raft)

    assert (probe.last_index, probe.size, probe.chunk) == (7, 10, b"")


def test_an_answer_of_the_journal_that_comes_late_is_not_sent() -> None:
    raft = sender()
    read(raft)
    answer(raft, 0)
    assert raft.ready().fetch_chunks == (FetchChunk(3, 5, 0, 100),)

    raft.fetched_chunk(3, 4, 0, b"another snapshot")
    raft.fetched_chunk(3, 5, 100, b"another place")
    raft.fetched_chunk(2, 5, 0, b"another peer")
    raft.fetched_chunk(9, 5, 0, b"nobody")
    assert not raft.ready()
    answer(raft, 0, refused=True)
    raft.fetched_chunk(3, 5, 0, CONTENT[:100])

    assert [m.chunk for m in read(raft)[0]] == [b""], "it stands elsewhere, perhaps"


def test_an_acknowledgement_beyond_what_is_being_read_does_not_stop_the_transfer() -> None:
    """The peer had more than its first answer said; the piece that was being read is void."""
    raft = sender(chunks_in_flight_bytes_max=1000)
    read(raft)
    answer(raft, 0)
    assert raft.ready().fetch_chunks == (FetchChunk(3, 5, 0, 100),)

    answer(raft, 150)
    raft.fetched_chunk(3, 5, 0, CONTENT[:100])

    assert [m.offset for m in read(raft)[0]] == [150, 250]


def test_a_transfer_delays_no_heartbeat_and_no_entry_of_others() -> None:
    """Chunks and catching up are marked, so that the shell sends them on a connection of their own."""
    raft = sender()
    [probe], _ = read(raft)
    answer(raft, 0)
    chunks, _ = read(raft)
    raft.propose(0, b"x", 9)
    raft.tick()
    others = take(raft)

    assert all(map(is_bulk, [probe, *chunks]))
    assert not any(map(is_bulk, others))
    assert {m.target for m in others if isinstance(m, Heartbeat)} == {2, 3}
    assert {m.target for m in others if isinstance(m, AppendEntries)} == {2}


def test_who_catches_up_changes_flows_only_with_nothing_unanswered() -> None:
    """Two flows may overtake each other, and the follower would refuse what came too early."""
    raft = raft_with([1] * 6, append_bytes_max=2)
    lead(raft, 2)
    take(raft)
    raft.step(AppendEntriesReply(2, 1, 2, False, 6, 2, 1))
    fetch = raft.ready().fetch
    assert [(f.first, f.last) for f in fetch] == [(3, 6)]
    raft.fetched(2, tuple(entry(n, 1) for n in range(3, 7)))
    raft.step(AppendEntriesReply(2, 1, 2, True, 6))
    for body in (b"aa", b"bb", b"cc"):
        raft.propose(0, body, 9)

    flows: list[tuple[int, bool]] = []
    for _ in range(6):
        sent = [m for m in take(raft) if isinstance(m, AppendEntries) and m.target == 2]
        flows += [(m.entries[-1].index, m.bulk) for m in sent]
        if sent:
            raft.step(AppendEntriesReply(2, 1, 2, True, sent[-1].entries[-1].index))

    assert flows == [(6, True), (8, True), (9, True), (10, False)]


def test_a_leader_without_a_snapshot_asks_whether_the_peer_was_given_one() -> None:
    raft = raft_with([1] * 6)
    raft.log.compact(6)
    lead(raft, 2)
    take(raft)
    raft.step(AppendEntriesReply(3, 1, 2, False, 6, 1, 1))
    take(raft)

    raft.step(HeartbeatReply(3, 1, 2))

    assert take(raft) == [AppendEntries(1, 3, 2, 5, 1, (), 0)]


def test_a_peer_cannot_have_a_snapshot_of_what_was_never_written() -> None:
    with pytest.raises(ProtocolViolation, match="has a snapshot of 99"):
        sender().step(InstallSnapshotReply(3, 1, 2, 99, 0, True))


def test_the_journal_may_ask_what_a_peer_still_needs() -> None:
    raft = sender()
    raft.step(HeartbeatReply(2, 1, 2))
    assert raft.needed_from() == 1, "nothing is known of peer 3"
    read(raft)
    assert raft.needed_from() == 6, "it is sent snapshot 5 and will need what follows"
    for _ in range(ELECTION_TICKS):
        raft.tick()
        raft.step(HeartbeatReply(2, 1, 2))

    assert raft.needed_from() == 8, "peer 3 is not heard any more"


# The follower


def test_chunks_are_written_in_order_and_answered_when_durable() -> None:
    raft = raft_with([], chunk_bytes_max=100)

    raft.step(chunk(0, 100))
    first = raft.ready()
    raft.step(chunk(100, 200))
    second = raft.ready()

    written = SnapshotChunk(5, 1, 300, 0, CONTENT[:100], False)
    assert first.persist is not None and first.persist.chunks == (written,)
    assert first.send_now == () and second.persist is not None
    assert [(c.offset, c.done) for c in second.persist.chunks] == [(100, True)]
    raft.persisted(1)
    assert raft.ready().send_after_persist == (InstallSnapshotReply(1, 2, 1, 5, 100, False),)
    raft.persisted(2)
    assert raft.ready().send_after_persist == (InstallSnapshotReply(1, 2, 1, 5, 300, False),)


@pytest.mark.parametrize(
    "wrong",
    [
        chunk(100, 100),
        chunk(0, 100, checksum=0),
        chunk(0, 100, chunk=b"x" * 100),
        chunk(0, 100, checksum=zlib.crc32(CONTENT[:100])),
        chunk(0, 100, done=True),
        chunk(0, 300, done=False),
        evolve(chunk(0, 100), size=50),
    ],
    ids=["a gap", "checksum", "flipped", "another place", "early end", "no end", "too long"],
)
def test_a_chunk_that_does_not_fit_is_refused_and_not_written(wrong: InstallSnapshot) -> None:
    raft = raft_with([], term=1)

    raft.step(wrong)
    ready = raft.ready()

    assert ready.persist is None
    assert ready.send_now == (InstallSnapshotReply(1, 2, 1, 5, 0, False, refused=True),)


def test_a_repeated_chunk_is_written_once() -> None:
    raft = raft_with([], term=1)
    raft.step(chunk(0, 100))
    take(raft)

    raft.step(chunk(0, 100))
    raft.step(chunk(50, 100))

    assert not raft.ready()


def test_a_question_is_answered_with_what_is_durable() -> None:
    raft = raft_with([], term=1)
    raft.step(chunk(0, 0, done=False))
    assert take(raft) == [InstallSnapshotReply(1, 2, 1, 5, 0, False)]
    raft.step(chunk(0, 100))
    asked = raft.ready().persist
    assert asked is not None

    raft.step(chunk(0, 0, done=False))
    early = raft.ready()
    raft.persisted(asked.sequence)

    assert not early
    assert raft.ready().send_after_persist[-1] == InstallSnapshotReply(1, 2, 1, 5, 100, False)


def test_a_receiver_takes_no_more_than_its_limit_before_its_disk_does() -> None:
    """I10: against a leader that does not wait for answers."""
    raft = raft_with([], term=1, chunks_in_flight_bytes_max=200)
    for offset in (0, 100, 200):
        raft.step(chunk(offset, 100))
    ready = raft.ready()
    assert ready.persist is not None and len(ready.persist.chunks) == 2
    raft.persisted(ready.persist.sequence)

    raft.step(chunk(200, 100))

    ready = raft.ready()
    assert ready.persist is not None and len(ready.persist.chunks) == 1


def test_a_late_piece_of_an_older_snapshot_does_not_stop_the_newer_one() -> None:
    raft = raft_with([], term=1)
    raft.step(chunk(0, 100))
    take(raft)

    raft.step(InstallSnapshot(2, 1, 1, 3, 1, 10, 0, 0, b"", False))
    assert take(raft) == []
    raft.step(chunk(100, 100))

    assert take(raft) == [InstallSnapshotReply(1, 2, 1, 5, 200, False)]


def test_another_leader_s_snapshot_begins_at_its_first_byte() -> None:
    """Two replicas' files of one index differ in their headers; only the same sender may go on."""
    raft = raft_with([], term=1)
    raft.step(chunk(0, 100))
    take(raft)
    raft.step(chunk(0, 0, done=False, source=3, term=2))
    other = take(raft)
    raft.step(chunk(0, 0, done=False, source=2, term=3))

    assert other == [InstallSnapshotReply(1, 3, 2, 5, 0, False)]
    assert take(raft) == [InstallSnapshotReply(1, 2, 3, 5, 0, False)]


def test_the_same_leader_of_a_later_term_goes_on() -> None:
    raft = raft_with([], term=1)
    raft.step(chunk(0, 100))
    take(raft)

    raft.step(chunk(0, 0, done=False, term=4))

    assert take(raft) == [InstallSnapshotReply(1, 2, 4, 5, 100, False)]


def test_a_stale_leader_s_snapshot_is_refused_with_the_newer_term() -> None:
    """§7, InstallSnapshot 1: "Reply immediately if term < currentTerm"."""
    raft = raft_with([], term=7)

    raft.step(chunk(0, 100))

    assert take(raft) == [InstallSnapshotReply(1, 2, 7, 5, 0, False, refused=True)]
    assert raft.leader_id == 0


def test_a_snapshot_is_a_word_of_the_leader_like_any_other() -> None:
    """It keeps followers from campaigning, and makes candidates follow."""
    raft = raft_with([], term=1)
    while raft.role is Role.FOLLOWER:
        raft.tick()
    raft.step(chunk(0, 100))

    assert (raft.role, raft.leader_id) == (Role.FOLLOWER, 2)
    for _ in range(5 * ELECTION_TICKS):
        raft.step(chunk(0, 0, done=False))
        raft.tick()
    assert raft.role is Role.FOLLOWER


def received(**other: Any) -> Received:
    return evolve(Received(5, 1, 500, len(CONTENT), THREE), **other)


def test_a_whole_snapshot_replaces_a_log_that_does_not_reach_it() -> None:
    """§7: "the follower discards its entire log; it is all superseded by the snapshot"."""
    raft = raft_with([1, 1], term=1)
    raft.step(chunk(0, 300))
    take(raft)
    five = Membership(voters=[1, 2, 3], learners=[5])

    assert raft.snapshot_received(received(membership=five))
    ready = raft.ready()

    assert ready.restore == 5 and ready.apply is None
    assert ready.persist == Persist(2, HardState(1, 0, 5), None, (), Restart(5, 1, False))
    assert (raft.log.first, raft.log.last, raft.log.last_term) == (6, 5, 1)
    assert (raft.commit, raft.applied_index, raft.log.last_time_ns) == (5, 0, 500)
    assert raft.membership == raft.membership_at(5) == five
    raft.persisted(2)
    assert raft.ready().send_after_persist == (InstallSnapshotReply(1, 2, 1, 5, 300, True),)
    raft.applied(5)
    raft.step(append(1, 5, 1, entry(6, 1), commit=6))
    assert raft.log.last == 6 and raft.ready().restore is None


def test_a_log_of_another_branch_is_discarded_as_a_whole() -> None:
    """§7; its entry 5 is not the one that was committed, so neither is what follows it."""
    raft = raft_with([1, 1, 1, 2, 2, 2, 2], term=3)

    assert raft.snapshot_received(received(term=3))
    ready = raft.ready()

    assert (raft.log.first, raft.log.last, raft.log.term_at(5)) == (6, 5, 3)
    assert ready.persist is not None and ready.persist.restart == Restart(5, 3, False)


def test_what_follows_the_snapshot_in_the_log_stays() -> None:
    """§7: "If instead the follower receives a snapshot that describes a prefix of its log ... then
    log entries covered by the snapshot are deleted but entries following the snapshot are still
    valid and must be retained"."""
    raft = raft_with([1] * 5, term=1)
    learner = Membership(voters=[1, 2, 3], learners=[4])
    raft.step(append(1, 5, 1, Entry(6, 1, 6, CONFIGURATION, learner.encode()), entry(7, 1)))
    take(raft)

    assert raft.snapshot_received(received())
    ready = raft.ready()

    assert ready.persist is not None and ready.persist.restart == Restart(5, 1, True)
    assert (raft.log.first, raft.log.last, raft.durable, raft.commit) == (6, 7, 7, 5)
    assert raft.log.entries(6, 7) is not None
    assert (raft.membership, raft.membership_at(5)) == (learner, THREE)


def test_a_write_under_way_vouches_for_nothing_that_the_snapshot_discarded() -> None:
    raft = raft_with([1, 1, 1], term=1)
    raft.step(append(2, 3, 1, entry(4, 2), entry(5, 2), entry(6, 2)))
    writing = raft.ready().persist
    assert writing is not None and writing.entries

    raft.snapshot_received(received(term=3))
    raft.persisted(writing.sequence)

    assert (raft.durable, raft.log.last) == (5, 5)


def test_a_snapshot_that_came_too_late_changes_nothing() -> None:
    raft = raft_with([1] * 7, commit=5)
    raft.ready()

    assert not raft.snapshot_received(received())
    assert (raft.log.first, raft.commit) == (1, 5)
    assert not raft.ready()


def test_a_leader_takes_no_snapshot_that_it_was_sent_before() -> None:
    raft = raft_with([1] * 7)
    raft.step(chunk(0, 300))
    take(raft)
    for _ in range(3 * ELECTION_TICKS):
        raft.tick()
    lead(raft, 2)

    assert not raft.snapshot_received(received())
    assert raft.role is Role.LEADER and raft.log.first == 1


def test_a_candidate_whose_log_gives_way_to_a_snapshot_gives_up() -> None:
    """It asked for votes for a log that is gone."""
    raft = raft_with([1, 1, 1])
    while raft.role is Role.FOLLOWER:
        raft.tick()
    take(raft)
    raft.step(RequestVoteReply(2, 1, 2, True, pre_vote=True))
    assert raft.role is Role.CANDIDATE

    raft.snapshot_received(received())

    assert raft.role is Role.FOLLOWER
    assert not any(isinstance(message, RequestVote) for message in take(raft))


def test_a_damaged_snapshot_is_sent_anew() -> None:
    raft = raft_with([], term=1)
    raft.step(chunk(0, 300))
    take(raft)

    raft.snapshot_refused(4)
    raft.snapshot_refused(5)
    raft.step(chunk(0, 0, done=False))

    assert take(raft) == [InstallSnapshotReply(1, 2, 1, 5, 0, False)]


def test_who_has_it_all_says_so() -> None:
    """§7: the leader goes on with entries; also where they came another way."""
    raft = raft_with([1] * 7, commit=5)
    take(raft)

    raft.step(chunk(0, 100))

    assert take(raft) == [InstallSnapshotReply(1, 2, 1, 5, 300, True)]


def test_the_end_of_a_log_behind_a_snapshot_votes_like_any_other() -> None:
    """§5.4.1 with §7: the snapshot's last index and term stand for the log that it replaced."""
    raft = raft_with([], term=1)
    raft.snapshot_received(received())
    take(raft)

    raft.step(RequestVote(2, 1, 9, 4, 1, pre_vote=True))
    raft.step(RequestVote(3, 1, 9, 5, 1, pre_vote=True))

    assert [m.granted for m in take(raft) if isinstance(m, RequestVoteReply)] == [False, True]


# A cluster


def test_a_replica_that_was_away_is_brought_back_by_a_snapshot_and_what_follows_it() -> None:
    cluster = Cluster(3, chunk_bytes_max=60, chunks_in_flight_bytes_max=120)
    cluster.elect(1)
    cluster.crash(3)
    for n in range(20):
        cluster.propose(1, b"%d" % n)
        cluster.settle()
    assert cluster.snapshot(1) == 21
    cluster.compact(1)
    cluster.propose(1, b"later")
    cluster.settle()

    cluster.restart(3)
    for _ in range(3):
        cluster.tick(1)
        cluster.settle()

    assert cluster.counts["installed snapshots"] == 1
    assert cluster.replicas[3].applied == cluster.replicas[1].applied
    assert len(cluster.replicas[3].applied) == 22


@pytest.mark.parametrize("whole", [0, 1, 2])
def test_a_crash_between_the_file_and_the_log_is_recovered(whole: int) -> None:
    """The file is there under its name; that the log goes on behind it was not written yet."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.crash(3)
    for n in range(5):
        cluster.propose(1, b"%d" % n)
        cluster.settle()
    cluster.snapshot(1)
    cluster.compact(1)
    cluster.restart(3)
    cluster.tick(1)
    while cluster.replicas[3].disk.newest is None:
        wire, cluster.wire = cluster.wire, []
        for message in wire:
            cluster.deliver(message)
        for id in (1, 2, 3):
            cluster.sync(id)
            cluster.fetch(id)
        cluster.check(3)
    assert cluster.replicas[3].disk.pending, "the log's new beginning"

    cluster.crash(3, min(whole, len(cluster.replicas[3].disk.pending)))
    cluster.restart(3)
    for _ in range(3):
        cluster.tick(1)
        cluster.settle()

    assert cluster.replicas[3].applied == cluster.replicas[1].applied
