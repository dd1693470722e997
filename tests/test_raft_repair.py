"""A replica whose log was damaged in the middle: until its leader has repaired it, it counts for nothing.

It once acknowledged what it cannot read any more. Its vote could make a leader of one who lacks it.
"""

from typing import Any

import pytest
from raft_cluster import Cluster
from raft_samples import ELECTION_TICKS, append, entry, lead, raft_with, take

from leftfold.raft import (
    OWN_DISK_TIMEOUTS,
    AppendEntriesReply,
    Change,
    Config,
    Damage,
    HardState,
    Heartbeat,
    HeartbeatReply,
    Log,
    Message,
    Raft,
    Refused,
    RequestVote,
    RequestVoteReply,
    Role,
    StateLost,
    TimeoutNow,
)

DAMAGE = Damage(first=3, last=6, last_term=1)


def damaged(*, term: int = 1, damage: Damage = DAMAGE, **more: Any) -> Raft:
    """Replica 1 of 3 had entries 1 … 6, six of them committed, and can read two."""
    return raft_with([1, 1], term=term, commit=6, damage=damage, **more)


def test_what_lies_before_the_damage_is_kept_and_applied() -> None:
    raft = Raft(
        Config(id=1, voters=[1, 2, 3]),
        HardState(1, 0, 6),
        Log(1, 2, 1, [(1, 1)]),
        damage=DAMAGE,
    )

    assert raft.is_damaged and raft.commit == 2
    assert raft.ready().apply == (1, 2)


def test_a_damaged_replica_does_not_vote() -> None:
    raft = damaged()

    raft.step(RequestVote(2, 1, 5, 99, 4, pre_vote=True))
    raft.step(RequestVote(2, 1, 5, 99, 4))

    assert take(raft) == [
        RequestVoteReply(1, 2, 1, False, pre_vote=True),
        RequestVoteReply(1, 2, 5, False),
    ]
    assert raft.voted_for == 0


def test_a_damaged_replica_does_not_campaign() -> None:
    raft = damaged()
    for _ in range(10 * ELECTION_TICKS):
        raft.tick()
    assert raft.role is Role.FOLLOWER and take(raft) == []

    raft.step(Heartbeat(2, 1, 1, 0))
    raft.step(TimeoutNow(2, 1, 1))

    assert raft.role is Role.FOLLOWER


def test_it_follows_and_says_that_it_is_being_repaired_until_it_has_all_that_it_had() -> None:
    raft = damaged()

    raft.step(append(1, 6, 1, commit=6))
    refused = take(raft)
    raft.step(append(1, 2, 1, entry(3, 1), entry(4, 1), entry(5, 1), commit=6))
    partly = take(raft)
    raft.step(append(1, 5, 1, entry(6, 1), commit=6))
    ready = raft.ready()
    assert not ready.repaired and ready.persist is not None, "it is not durable yet"
    raft.persisted(ready.persist.sequence)
    whole = raft.ready()

    assert refused == [AppendEntriesReply(1, 2, 1, False, 6, 2, 1, repairing=True)]
    assert partly == [AppendEntriesReply(1, 2, 1, True, 5, repairing=True)]
    assert whole.repaired and not raft.is_damaged
    assert whole.send_after_persist[-1] == AppendEntriesReply(1, 2, 1, True, 6)
    assert not raft.ready().repaired, "said once"


def test_of_a_later_term_it_needs_that_term_s_own_entry() -> None:
    """What it acknowledged before is in that leader's log, below the entry that opens the term; it
    may reach less far than the damaged log did."""
    raft = damaged(damage=Damage(3, 60, 1))

    raft.step(append(2, 2, 1, entry(3, 1), entry(4, 1), commit=4))
    take(raft)
    before = raft.is_damaged
    raft.step(append(2, 4, 1, entry(5, 2), commit=4))
    take(raft)

    assert before and not raft.is_damaged


def test_an_entry_of_an_earlier_leader_repairs_nothing() -> None:
    """The term has risen; nobody has said yet what its log is."""
    raft = damaged(term=2, damage=Damage(3, 3, 1))
    raft.step(append(2, 2, 1, entry(3, 2)))
    ready = raft.ready()
    assert ready.persist is not None
    raft.step(RequestVote(3, 1, 3, 99, 2, transfer=True))

    raft.persisted(ready.persist.sequence)

    assert raft.is_damaged


def test_once_repaired_it_votes_and_campaigns_again() -> None:
    raft = damaged()
    raft.step(append(1, 2, 1, *[entry(n, 1) for n in range(3, 7)]))
    take(raft)
    for _ in range(3 * ELECTION_TICKS):
        raft.tick()

    assert raft.role is Role.PRE_CANDIDATE
    raft.step(RequestVote(3, 1, 7, 6, 1))
    assert raft.voted_for == 3


def test_its_leader_sends_again_what_it_had_acknowledged_and_counts_it_only_then() -> None:
    """Within a term `match` never falls, but for this."""
    raft = raft_with([], size=3)
    lead(raft, 2, 3)
    take(raft)
    for _ in range(3):
        raft.propose(0, b"x", 9)
    take(raft)
    raft.step(AppendEntriesReply(2, 1, 1, True, 4))
    assert raft.commit == 4
    raft.propose(0, b"y", 9)
    take(raft)

    raft.step(AppendEntriesReply(2, 1, 1, False, 4, 1, 1, repairing=True))
    [again] = [m for m in take(raft) if m.target == 2]
    assert again.prev_index == 1  # pyright: ignore[reportAttributeAccessIssue]
    raft.step(AppendEntriesReply(2, 1, 1, True, 5, repairing=True))
    assert raft.commit == 4, "not counted"
    assert not raft.transfer(2)
    raft.step(AppendEntriesReply(2, 1, 1, True, 5))

    assert raft.commit == 5
    assert raft.transfer(2)


def test_who_is_under_repair_is_no_heir_whatever_it_has() -> None:
    """Whoever gives its office away, for whatever reason: the transfer would be refused, and nobody take over."""
    raft = raft_with([], size=3)
    lead(raft, 2, 3)
    take(raft)
    raft.propose(0, b"x", 9)
    hung = raft.ready()  # Its own disk never has it.
    assert hung.persist is not None
    for peer in (2, 3):
        raft.step(AppendEntriesReply(peer, 1, 1, True, 2))
    assert raft.commit == 2 and raft.heir() == 2, "alike, they are taken in order"

    raft.step(AppendEntriesReply(2, 1, 1, True, 2, repairing=True))
    said: list[Message] = []
    for _ in range(OWN_DISK_TIMEOUTS * ELECTION_TICKS + 1):
        raft.tick()
        for peer in (2, 3):
            raft.step(HeartbeatReply(peer, 1, 1))
        said += raft.ready().send_now

    assert raft.heir() == 3 and raft.heir(frozenset({3})) == 0
    assert [message for message in said if isinstance(message, TimeoutNow)] == [TimeoutNow(1, 3, 1)]


def test_a_voter_that_is_heard_is_an_heir_before_one_that_has_more() -> None:
    raft = raft_with([], size=3)
    lead(raft, 2, 3)
    take(raft)
    raft.step(AppendEntriesReply(2, 1, 1, True, 1))
    assert raft.heir() == 2
    for _ in range(ELECTION_TICKS):
        raft.tick()
        raft.step(HeartbeatReply(3, 1, 1))
    assert raft.heir() == 3


def test_a_heartbeat_commits_nothing_of_what_is_left() -> None:
    """The leader counts what was acknowledged before; what is left may have been replaced by that time."""
    raft = Raft(
        Config(id=1, voters=[1, 2, 3]),
        HardState(3, 0, 1),
        Log(1, 4, 1, [(1, 1)]),
        damage=Damage(first=5, last=7, last_term=3),
    )
    raft.ready()

    for commit in (7, 3):
        raft.step(Heartbeat(2, 1, 3, commit))
        assert take(raft) == [
            AppendEntriesReply(1, 2, 3, False, 5, 4, 1, repairing=True),
            HeartbeatReply(1, 2, 3, 0),
        ]
    assert raft.commit == 1

    raft.step(append(3, 1, 1, entry(2, 2), entry(3, 2), commit=3))
    take(raft)
    assert raft.commit == 3


def test_a_leader_goes_back_below_what_the_damaged_replica_holds_but_had_replaced() -> None:
    """The record that replaced the end of its log is among what is lost: that end is there again."""
    leader = raft_with([])
    leader.step(append(2, 0, 0, entry(1, 1), *[entry(n, 2) for n in range(2, 7)]))
    take(leader)
    follower = Raft(
        Config(id=2, voters=[1, 2, 3]),
        HardState(3, 0, 1),
        Log(1, 4, 1, [(1, 1)]),
        damage=Damage(first=5, last=7, last_term=3),
    )
    lead(leader, 2, 3)
    take(leader)
    term = leader.term
    leader.step(AppendEntriesReply(2, 1, term, True, 7))  # Before it was damaged.
    leader.step(AppendEntriesReply(3, 1, term, True, 7))
    take(leader)

    for _ in range(20):
        leader.tick()
        for message in take(leader):
            if message.target == 2:
                follower.step(message)
        for message in take(follower):
            leader.step(message)

    assert not follower.is_damaged
    assert follower.log.boundaries == leader.log.boundaries
    assert (leader.progress[2].match, leader.progress[2].repairing) == (7, False)


def test_voters_are_not_removed_while_the_rest_is_being_repaired() -> None:
    raft = raft_with([], size=3)
    lead(raft, 2, 3)
    take(raft)
    for peer in (2, 3):
        raft.step(AppendEntriesReply(peer, 1, 1, True, 1))
        raft.step(HeartbeatReply(peer, 1, 1))
    raft.step(AppendEntriesReply(2, 1, 1, False, 1, 0, 0, repairing=True))

    refused = raft.change(Change(remove=[3]))

    assert isinstance(refused, Refused) and "no majority is heard" in refused.sentence


def test_alone_there_is_nobody_to_repair_it() -> None:
    with pytest.raises(StateLost, match="Entry 3 is damaged, and there is no other voter"):
        Raft(
            Config(id=1, voters=[1]),
            HardState(1, 1, 0),
            Log(1, 2, 1, [(1, 1)]),
            damage=Damage(3, 3, 1),
        )


def test_a_term_that_only_the_damaged_end_knew_is_not_used_twice() -> None:
    raft = damaged(damage=Damage(3, 6, 4))

    assert (raft.term, raft.voted_for) == (4, 0)


def test_two_replicas_with_everything_go_on_and_repair_the_third() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    for n in range(6):
        cluster.propose(1, b"%d" % n)
        cluster.settle()
    cluster.crash(2)
    cluster.harm(2, 3)
    cluster.restart(2)

    cluster.tick(1)
    cluster.settle()

    assert cluster.counts["repaired logs"] == 1
    assert cluster.replicas[2].disk.last == 7
    cluster.crash(1)
    for _ in range(10 * ELECTION_TICKS):
        for id in (2, 3):
            cluster.tick(id)
        cluster.settle()
    assert cluster.leader in (2, 3), "it takes both of them"


def test_nothing_is_lost_though_only_the_damaged_replica_and_a_dead_one_had_it() -> None:
    """Committed on 1 and 2; 1 is damaged, 2 is down, 3 is behind: no leader, until 2 is back."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.crash(3)
    cluster.propose(1, b"kept")
    cluster.settle(frozenset({1, 2}))
    assert cluster.raft(1).commit == 2
    cluster.crash(2)
    cluster.crash(1)
    cluster.harm(1, 2)
    cluster.restart(1)
    cluster.restart(3)

    for _ in range(10 * ELECTION_TICKS):
        for id in (1, 3):
            cluster.tick(id)
        cluster.settle()
    assert cluster.leader is None
    cluster.restart(2)
    cluster.elect(2)
    for _ in range(3):
        cluster.tick(2)
        cluster.settle()

    assert cluster.counts["repaired logs"] == 1
    assert [entry.body for entry in cluster.replicas[3].applied] == [b"", b"kept", b""]


def test_an_end_that_was_replaced_is_neither_committed_nor_kept_when_it_is_there_again() -> None:
    """1 led alone for a while; the record that replaced what it wrote then is the damaged one."""
    cluster = Cluster(3)
    cluster.elect(1)
    for _ in range(3):
        cluster.propose(1, b"replaced")
        cluster.settle(frozenset({1}))
    cluster.elect(2, frozenset({2, 3}))
    for n in range(3):
        cluster.propose(2, b"%d" % n)
        cluster.settle()
    cluster.tick(2)
    cluster.settle()
    assert cluster.raft(2).progress[1].match == 5
    cluster.crash(1)
    cluster.harm(1, cluster.replicas[1].disk.replaced_from)
    cluster.restart(1)
    assert cluster.raft(1).log.last == 4, "what was replaced is there again"

    for _ in range(3):
        cluster.tick(2)
        cluster.settle()

    assert cluster.counts["repaired logs"] == 1
    assert cluster.replicas[1].applied == cluster.replicas[2].applied
