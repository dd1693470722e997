"""Members that come and go: §6 of the paper and chapter 4 of the thesis, sentence by sentence.

First the configuration as a value, then what the core makes of it.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raft_cluster import Cluster
from raft_samples import ELECTION_TICKS, append, lead, raft_with, take

from leftfold.raft import (
    CONFIGURATION,
    AppendEntriesReply,
    Change,
    Config,
    ConfigurationError,
    ConfigurationUnreadable,
    Entry,
    HardState,
    Heartbeat,
    HeartbeatReply,
    Log,
    Membership,
    Raft,
    Refused,
    RequestVote,
    RequestVoteReply,
    Role,
    TimeoutNow,
)

THREE = Membership(voters=[1, 2, 3], addresses={1: b"a", 2: b"b", 3: b"c"})


@st.composite
def memberships(draw: st.DrawFn) -> Membership:
    kinds = draw(st.dictionaries(st.integers(1, 2**62), st.integers(0, 4), max_size=8))

    def having(*wanted: int) -> list[int]:
        return [id for id, kind in kinds.items() if kind in wanted]

    return Membership(
        voters=having(0, 1),
        outgoing=having(1, 2),
        learners=having(3, 4),
        joining=having(4),
        addresses={id: draw(st.binary(min_size=1, max_size=20)) for id in kinds},
        last_id=max(kinds, default=0) + draw(st.integers(0, 3)),
    )


@given(memberships())
def test_a_configuration_comes_back_from_its_bytes(membership: Membership) -> None:
    assert Membership.decode(membership.encode()) == membership


@given(st.binary(max_size=80))
def test_no_bytes_do_more_than_be_refused(body: bytes) -> None:
    try:
        membership = Membership.decode(body)
    except ConfigurationUnreadable:
        return
    assert membership.encode() == body


@given(memberships(), st.data())
def test_a_flipped_or_missing_byte_gives_another_configuration_or_none(
    membership: Membership, data: st.DataObject
) -> None:
    body = bytearray(membership.encode())
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= 1 << data.draw(st.integers(0, 7))
    for wrong in (bytes(body), membership.encode()[:at]):
        try:
            assert Membership.decode(wrong) != membership
        except ConfigurationUnreadable:
            pass


def test_a_later_version_is_named() -> None:
    body = b"\x02" + THREE.encode()[1:]

    with pytest.raises(ConfigurationUnreadable, match="has version 2; this program reads up to 1"):
        Membership.decode(body)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (Change(), "Nothing would change"),
        (Change(move={2: b"b"}), "Nothing would change"),
        (Change(add={3: b""}), "id 3 has been used.*next free id is 6"),
        (Change(add={4: b""}), "id 4 has been used"),
        (Change(remove=[9]), "Replica 9 is no member"),
        (Change(promote=[9]), "Replica 9 is no member"),
        (Change(move={9: b"x"}), "Replica 9 is no member"),
        (Change(promote=[2]), "Replica 2 is a voter already"),
        (Change(add={6: b""}, remove=[6]), "Replica 6 is no member|Replica 6 cannot be"),
        (Change(promote=[5], remove=[5]), "Replica 5 cannot be removed and kept"),
        (Change(remove=[1, 2, 3]), "at least one voter"),
        (Change(add={id: b"" for id in range(6, 100)}), "at most 64 members"),
        (Change(move={1: bytes(5000)}), "5000 bytes is longer than 4096"),
    ],
)
def test_a_change_that_cannot_be_is_refused_in_words(change: Change, sentence: str) -> None:
    membership = Membership(voters=[1, 2, 3], learners=[5], addresses={1: b"a", 2: b"b"}, last_id=5)

    refused = membership.changed(change)

    assert isinstance(refused, Refused)
    with pytest.raises(ValueError, match=sentence):
        raise ValueError(refused.sentence)


def test_a_new_member_is_a_learner_and_needs_no_joint_configuration() -> None:
    """Thesis §4.2.1: the server "joins the cluster as a non-voting member"."""
    changed = THREE.changed(Change(add={4: b"d"}, promote=[4]))

    assert changed == Membership(
        voters=[1, 2, 3],
        learners=[4],
        joining=[4],
        addresses={1: b"a", 2: b"b", 3: b"c", 4: b"d"},
    )


def test_a_change_of_voters_is_joint_and_then_left() -> None:
    """§6: "the cluster first switches to a transitional configuration we call joint consensus"."""
    joint = THREE.changed(Change(add={4: b"d"}, remove=[2, 3]))
    assert isinstance(joint, Membership)

    assert joint.quorum == (frozenset({1}), frozenset({1, 2, 3}))
    assert joint.members == {1, 2, 3, 4} and joint.address(3) == b"c"
    assert isinstance(joint.changed(Change(remove=[4])), Refused)
    new = joint.left()
    assert new.quorum == (frozenset({1}),) and new.address(3) == b""
    assert new.last_id == 4, "the ids of those who left are not free"


def test_learners_that_caught_up_become_voters_together() -> None:
    learning = Membership(voters=[1], learners=[2, 3, 4], joining=[2, 3])

    joint = learning.promoted(frozenset({2, 3}))

    assert joint.quorum == (frozenset({1, 2, 3}), frozenset({1}))
    assert (joint.learners, joint.joining) == ({4}, set())


def test_who_joins_is_not_told_who_else_is_there() -> None:
    with pytest.raises(ConfigurationError, match="learns from the leader"):
        Config(id=4, voters=[1], joining=True)


# The core. Configurations in logs


def configuration(index: int, term: int, membership: Membership) -> Entry:
    return Entry(index, term, index, CONFIGURATION, membership.encode())


def leading(*, size: int = 3, **more: object) -> Raft:
    """Replica 1 leads; its first entry is committed, and all others are heard."""
    raft = raft_with([], size=size, **more)
    peers = range(2, size + 1)
    lead(raft, *peers)
    take(raft)
    for peer in peers:
        raft.step(AppendEntriesReply(peer, 1, 1, True, 1))
        raft.step(HeartbeatReply(peer, 1, 1))
    take(raft)
    assert raft.commit == raft.log.last == 1
    return raft


def acknowledge(raft: Raft, *peers: int) -> None:
    """These have everything."""
    take(raft)
    for peer in peers:
        raft.step(AppendEntriesReply(peer, 1, raft.term, True, raft.log.last))
    take(raft)


def test_a_configuration_counts_as_soon_as_it_is_in_the_log() -> None:
    """§6: "a server always uses the latest configuration in its log, regardless of whether the
    entry is committed"."""
    raft = raft_with([])
    four = Membership(voters=[2, 3, 4], outgoing=[1, 2, 3])

    raft.step(append(1, 0, 0, configuration(1, 1, four)))

    assert (raft.membership, raft.membership_index, raft.commit) == (four, 1, 0)
    assert raft.ready().membership == four
    assert raft.ready().membership is None, "said once"


def test_a_configuration_that_is_overwritten_counts_no_more() -> None:
    """Thesis §4.1: "a server must be prepared to fall back to the previous configuration in its
    log"."""
    raft = raft_with([])
    founded = raft.membership
    first, second = Membership(voters=[1, 2]), Membership(voters=[1])
    raft.step(
        append(
            1, 0, 0, configuration(1, 1, first), Entry(2, 1, 2, 0, b""), configuration(3, 1, second)
        )
    )
    assert raft.membership == second
    raft.ready()

    raft.step(append(2, 1, 1, Entry(2, 2, 2, 0, b"")))
    assert raft.membership == first
    assert raft.ready().membership == first
    raft.step(append(3, 0, 0, Entry(1, 3, 1, 0, b"")))

    assert (raft.membership, raft.membership_index) == (founded, 0)


def test_a_restart_goes_by_the_latest_configuration_of_its_log() -> None:
    """Thesis §4.1; and what a truncation may bring back is known too."""
    first, second = Membership(voters=[1, 2, 3, 4]), Membership(voters=[1, 2])
    raft = raft_with([1, 1, 1], configurations=[(1, first), (3, second)])
    assert raft.membership == second
    assert (raft.membership_at(2), raft.membership_at(3)) == (first, second)
    assert raft.membership_at(0).voters == {1, 2, 3}

    raft.step(append(2, 2, 1, Entry(3, 2, 3, 0, b"")))

    assert raft.membership == first


def test_a_configuration_of_a_later_version_ends_the_replica() -> None:
    raft = raft_with([])

    with pytest.raises(ConfigurationUnreadable, match="version 9"):
        raft.step(append(1, 0, 0, Entry(1, 1, 1, CONFIGURATION, b"\x09" + bytes(40))))


# Joint consensus


def test_a_decision_needs_both_majorities_until_the_change_is_done() -> None:
    """§6: "Agreement (for elections and entry commitment) requires separate majorities from both
    the old and new configurations." Then C_new by itself, and "the old configuration is
    irrelevant"."""
    raft = leading(size=5)
    begun = raft.change(Change(remove=[4, 5]))
    assert begun == 2 and raft.membership.quorum == (
        frozenset({1, 2, 3}),
        frozenset({1, 2, 3, 4, 5}),
    )
    take(raft)

    raft.step(AppendEntriesReply(4, 1, 1, True, 2))
    raft.step(AppendEntriesReply(5, 1, 1, True, 2))
    old_alone = raft.commit
    raft.step(AppendEntriesReply(2, 1, 1, True, 2))
    assert (old_alone, raft.commit) == (1, 2)
    take(raft)

    assert raft.membership.quorum == (frozenset({1, 2, 3}),)
    assert (raft.log.last, raft.membership_index) == (3, 3)
    raft.step(AppendEntriesReply(2, 1, 1, True, 3))
    assert raft.commit == 3


def test_the_new_majority_alone_does_not_decide() -> None:
    """§6, the other half."""
    raft = leading(size=5)
    raft.change(Change(remove=[3, 4, 5]))
    take(raft)

    raft.step(AppendEntriesReply(2, 1, 1, True, 2))
    new_alone = raft.commit
    raft.step(AppendEntriesReply(5, 1, 1, True, 2))

    assert (new_alone, raft.commit) == (1, 2)


@pytest.mark.parametrize(
    ("voters", "role"),
    [([2, 3], Role.CANDIDATE), ([4, 5], Role.CANDIDATE), ([2, 4], Role.LEADER)],
)
def test_an_election_in_a_joint_configuration_needs_both_majorities(
    voters: list[int], role: Role
) -> None:
    """§6: the same for elections."""
    joint = Membership(voters=[1, 4, 5], outgoing=[1, 2, 3])
    raft = raft_with([1], configurations=[(1, joint)])
    while raft.role is Role.FOLLOWER:
        raft.tick()
    asked = {message.target for message in take(raft)}
    for peer in (2, 4):
        raft.step(RequestVoteReply(peer, 1, 2, True, pre_vote=True))
    take(raft)

    for voter in voters:
        raft.step(RequestVoteReply(voter, 1, 2, True))

    assert asked == {2, 3, 4, 5}
    assert raft.role is role


def test_a_new_leader_finishes_what_its_predecessor_began() -> None:
    """§6: if C_old,new is in the new leader's log, it goes on from there; but first an entry of its
    own term commits (§5.4.2)."""
    joint = Membership(voters=[1, 2], outgoing=[1, 2, 3])
    raft = raft_with([1], configurations=[(1, joint)])
    lead(raft, 2)
    take(raft)
    assert raft.membership == joint, "C_old,new may not be committed yet"

    acknowledge(raft, 2)

    assert raft.membership == joint.left()
    assert raft.log.entries(3, 3) == (Entry(3, 2, 1, CONFIGURATION, joint.left().encode()),)


def test_one_change_at_a_time() -> None:
    """Thesis §4.1 and §4.3: a change begins when the one before it is committed, and no sooner than
    an entry of the leader's term is."""
    raft = raft_with([1])
    lead(raft, 2)
    take(raft)
    too_early = raft.change(Change(add={4: b""}))
    acknowledge(raft, 2)
    begun = raft.change(Change(add={4: b""}))
    second = raft.change(Change(add={5: b""}))
    acknowledge(raft, 2)
    third = raft.change(Change(add={5: b""}))

    assert isinstance(too_early, Refused) and "not committed yet" in too_early.sentence
    assert isinstance(second, Refused) and "not committed yet" in second.sentence
    assert (begun, third) == (3, 4)


def test_only_a_leader_changes_the_members_and_not_while_it_hands_over() -> None:
    refused = raft_with([1]).change(Change(add={4: b""}))
    raft = leading()
    raft.transfer(2)
    handing = raft.change(Change(add={4: b""}))

    assert isinstance(refused, Refused) and "no leader is known" in refused.sentence
    assert isinstance(handing, Refused) and "hands over to replica 2" in handing.sentence


def test_voters_that_would_leave_no_majority_that_is_heard_are_not_removed() -> None:
    """Else the cluster could not commit even C_old,new, and would take no other change either."""
    raft = leading()
    for _ in range(ELECTION_TICKS):
        raft.tick()
        raft.step(HeartbeatReply(2, 1, 1))

    removing_live = raft.change(Change(remove=[2]))
    removing_dead = raft.change(Change(remove=[3]))

    assert isinstance(removing_live, Refused) and "no majority is heard" in removing_live.sentence
    assert removing_dead == 2


# Learners


def test_a_learner_is_promoted_once_a_round_took_no_longer_than_an_election() -> None:
    """Thesis §4.2.1: "If the last round lasts less than an election timeout, then the leader adds
    the new server to the cluster"."""
    raft = leading()
    raft.change(Change(add={4: b""}, promote=[4]))
    acknowledge(raft, 2, 3)
    raft.tick()
    for _ in range(ELECTION_TICKS + 1):  # A long round: the learner is slow.
        raft.tick()
        raft.step(HeartbeatReply(2, 1, 1))
    raft.propose(0, b"x", 2)
    acknowledge(raft, 2, 3)
    raft.step(AppendEntriesReply(4, 1, 1, True, 2))
    raft.tick()
    take(raft)
    assert raft.membership.learners == {4}, "what it has now is what there was at first"

    raft.step(AppendEntriesReply(4, 1, 1, True, 3))
    raft.tick()  # A short one.
    take(raft)

    assert raft.membership.quorum == (frozenset({1, 2, 3, 4}), frozenset({1, 2, 3}))
    acknowledge(raft, 2, 3)
    assert raft.membership == Membership(voters=[1, 2, 3, 4])


def test_a_learner_that_is_not_to_be_promoted_stays_one() -> None:
    cluster = Cluster(1)
    cluster.elect(1)
    cluster.join(2)
    cluster.change(1, Change(add={2: b""}))
    for _ in range(3 * ELECTION_TICKS):
        cluster.tick(1)
        cluster.tick(2)
        cluster.settle()

    assert cluster.raft(2).commit == cluster.raft(1).commit == 2
    assert cluster.raft(2).membership == cluster.raft(1).membership
    assert cluster.raft(1).membership.learners == {2}
    cluster.change(1, Change(promote=[2]))
    for _ in range(3):
        cluster.tick(1)
        cluster.settle()

    assert cluster.raft(2).membership == Membership(voters=[1, 2])


def test_a_learner_s_acknowledgement_commits_nothing() -> None:
    """Thesis §4.2.1: it "is not yet counted towards majorities for voting or commitment"."""
    raft = leading()
    raft.change(Change(add={4: b"", 5: b""}))
    take(raft)

    for learner in (4, 5):
        raft.step(AppendEntriesReply(learner, 1, 1, True, 2))

    assert raft.commit == 1


def test_a_new_replica_waits_until_its_leader_speaks() -> None:
    """It knows nobody, so it campaigns with nobody, and an election of others is not its own."""
    raft = Raft(Config(id=4, joining=True), HardState(), Log())
    for _ in range(10 * ELECTION_TICKS):
        raft.tick()
    assert not raft.ready() and not raft.is_member

    four = Membership(voters=[1, 2, 3], learners=[4])
    raft.step(Heartbeat(2, 4, 1, 0))
    message = append(1, 0, 0, configuration(1, 1, four))
    raft.step(type(message)(2, 4, 1, 0, 0, message.entries, 0))

    assert raft.is_member and raft.leader_id == 2


# Removal


def test_a_leader_that_was_removed_leads_until_c_new_is_committed_and_is_not_counted() -> None:
    """§6: it "steps down (returns to follower state) once it has committed the C_new log entry ...
    there will be a period of time (while it is committing C_new) when the leader is managing a
    cluster that does not include itself; it replicates log entries but does not count itself in
    majorities"."""
    raft = leading()
    raft.change(Change(remove=[1]))
    acknowledge(raft, 2, 3)
    assert raft.membership == Membership(voters=[2, 3], last_id=3)
    assert raft.role is Role.LEADER

    raft.step(AppendEntriesReply(2, 1, 1, True, 3))
    take(raft)
    counted_itself = raft.commit == 3
    raft.step(AppendEntriesReply(3, 1, 1, True, 3))
    last = take(raft)

    assert not counted_itself
    assert (raft.commit, raft.role) == (3, Role.FOLLOWER)
    beats = [m for m in last if isinstance(m, Heartbeat)]
    assert [(m.target, m.commit) for m in beats] == [(2, 3), (3, 3)], "they learn that it is done"
    assert [m.target for m in last if isinstance(m, TimeoutNow)] == [2], "and need not wait"
    for _ in range(5 * ELECTION_TICKS):
        raft.tick()
    assert raft.role is Role.FOLLOWER and not raft.is_member


def test_the_others_go_on_without_the_leader_that_removed_itself() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.propose(1, b"before")
    cluster.settle()

    cluster.change(1, Change(remove=[1]))
    cluster.settle()
    leader = cluster.leader
    assert leader in (2, 3)
    assert cluster.propose(leader, b"after") is not None
    cluster.settle()

    assert cluster.raft(leader).commit == cluster.raft(leader).log.last


def test_a_removed_replica_learns_that_it_is() -> None:
    """So that it can be stopped: it has C_new, and knows that it is committed."""
    cluster = Cluster(3)
    cluster.elect(1)
    for _ in range(2):
        cluster.tick(1)
        cluster.settle()
    cluster.change(1, Change(remove=[3]))
    for _ in range(3):
        cluster.tick(1)
        cluster.settle()
    removed = cluster.raft(3)

    assert not removed.is_member and removed.commit >= removed.membership_index
    cluster.tick(1)
    assert {message.target for message in cluster.wire} == {2}, "nobody speaks to it any more"


def test_a_removed_replica_that_knows_nothing_of_it_disturbs_nobody() -> None:
    """§6: "removed servers (those not in C_new) can disrupt the cluster ... servers disregard
    RequestVote RPCs when they believe a current leader exists"."""
    cluster = Cluster(3)
    cluster.elect(1)
    for _ in range(2):
        cluster.tick(1)
        cluster.settle()
    cluster.change(1, Change(remove=[3]))
    for _ in range(3):
        cluster.tick(1)
        cluster.settle(frozenset({1, 2}))
    cluster.wire = [message for message in cluster.wire if message.target != 3]
    term = cluster.raft(1).term
    assert cluster.raft(3).membership.voters == {1, 2, 3}, "it was cut off"

    for _ in range(10 * ELECTION_TICKS):
        for id in (1, 2, 3):
            cluster.tick(id)
        cluster.settle()
    assert cluster.leader == 1
    assert {cluster.raft(id).term for id in (1, 2, 3)} == {term}

    for vote in (True, False):
        cluster.deliver(RequestVote(3, 1, term + 9, 99, term + 8, pre_vote=vote))
        cluster.deliver(RequestVote(3, 2, term + 9, 99, term + 8, pre_vote=vote))
    assert (cluster.raft(1).role, cluster.raft(2).term) == (Role.LEADER, term)


def test_the_only_holder_of_c_new_may_lead_though_c_new_does_not_name_it() -> None:
    """Thesis §4.2.2: a removed server "might still be needed to make progress": replica 1 alone has
    C_new, and replica 2 cannot win without its vote."""
    cluster = Cluster(2)
    cluster.elect(1)
    for _ in range(2):
        cluster.tick(1)
        cluster.settle()
    cluster.wire.clear()
    cluster.change(1, Change(remove=[1]))
    cluster.sync(1)
    cluster.deliver(cluster.wire.pop())
    cluster.sync(2)
    cluster.deliver(cluster.wire.pop())
    assert cluster.raft(1).membership.voters == {2} and not cluster.raft(1).membership.outgoing
    cluster.sync(1)
    cluster.crash(1)
    cluster.wire.clear()
    cluster.restart(1)
    assert cluster.raft(1).membership.voters == {2}
    assert cluster.raft(2).membership.outgoing == {1, 2}, "replica 2 knows only C_old,new"

    for _ in range(10 * ELECTION_TICKS):
        cluster.tick(2)
        cluster.settle()
    assert cluster.leader is None
    for _ in range(10 * ELECTION_TICKS):
        cluster.tick(1)
        cluster.tick(2)
        cluster.settle()

    assert cluster.leader == 2
    assert cluster.raft(2).membership.voters == {2}
    assert cluster.raft(2).commit >= cluster.raft(2).membership_index


def test_a_learner_cannot_take_over_and_is_not_handed_to() -> None:
    raft = leading()
    raft.change(Change(add={4: b""}))
    acknowledge(raft, 2, 3)

    assert not raft.transfer(4)
