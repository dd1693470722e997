"""One test per sentence of the paper that must hold.

"§" is a section of Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm",
extended version; "thesis" is Ongaro's dissertation. The sentence is quoted in the docstring.
§6 is in test_raft_membership.py, §7 in test_raft_snapshot.py.
"""

import pytest
from raft_cluster import Cluster
from raft_samples import ELECTION_TICKS, append, entry, lead, log_of, raft_with, take

from leftfold.raft import (
    OWN_DISK_TIMEOUTS,
    TERM_START,
    AppendEntries,
    AppendEntriesReply,
    Config,
    Entry,
    HardState,
    Heartbeat,
    HeartbeatReply,
    Log,
    Message,
    ProtocolViolation,
    Raft,
    RequestVote,
    RequestVoteReply,
    Role,
    TimeoutNow,
)

# §5.1 Terms


@pytest.mark.parametrize(
    "message",
    [
        append(7, 0, 0),
        Heartbeat(2, 1, 7, 0),
        AppendEntriesReply(2, 1, 7, False, 0),
        HeartbeatReply(2, 1, 7),
        RequestVoteReply(2, 1, 7, False),
        RequestVote(2, 1, 7, 9, 6, transfer=True),
    ],
    ids=lambda message: type(message).__name__,
)
@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
def test_a_higher_term_makes_any_role_a_follower(role: Role, message: Message) -> None:
    """§5.1: "If a candidate or leader discovers that its term is out of date, it immediately
    reverts to follower state"; a follower updates its term."""
    raft = raft_with([1])
    if role is not Role.FOLLOWER:
        while raft.role is Role.FOLLOWER:
            raft.tick()
        take(raft)
    if role in (Role.CANDIDATE, Role.LEADER):
        raft.step(RequestVoteReply(3, 1, 2, True, pre_vote=True))
        take(raft)
    if role is Role.LEADER:
        raft.step(RequestVoteReply(3, 1, 2, True))
        take(raft)
    assert raft.role is role

    raft.step(message)

    assert raft.role is Role.FOLLOWER
    assert raft.term == 7


@pytest.mark.parametrize("request_", [append(1, 0, 0), Heartbeat(2, 1, 1, 0)])
def test_a_stale_leader_is_refused_and_told_the_term(request_: Message) -> None:
    """§5.1: "If a server receives a request with a stale term number, it rejects the request."""
    raft = raft_with([1], term=3)

    raft.step(request_)
    [reply] = take(raft)

    assert reply == AppendEntriesReply(1, 2, 3, False, 0)
    assert raft.leader_id == 0


def test_a_stale_candidate_is_refused() -> None:
    """§5.1 and figure 2, RequestVote 1: "Reply false if term < currentTerm"."""
    raft = raft_with([1], term=3)

    raft.step(RequestVote(2, 1, 2, 9, 2))
    [reply] = take(raft)

    assert reply == RequestVoteReply(1, 2, 3, False)


# §5.2 Leader election


def test_a_replica_starts_as_a_follower() -> None:
    """§5.2: "When servers start up, they begin as followers."""
    assert raft_with([1]).role is Role.FOLLOWER


def test_a_follower_that_hears_its_leader_stays_one() -> None:
    """§5.2: "A server remains in follower state as long as it receives valid RPCs"."""
    raft = raft_with([1])

    for _ in range(10 * ELECTION_TICKS):
        raft.tick()
        raft.step(Heartbeat(2, 1, 1, 0))

    assert raft.role is Role.FOLLOWER
    assert raft.leader_id == 2


def test_a_leader_heartbeats_all_its_followers() -> None:
    """§5.2: "Leaders send periodic heartbeats to all followers in order to maintain their
    authority."""
    raft = raft_with([1])
    lead(raft, 2)
    take(raft)

    raft.tick()
    beats = [message for message in take(raft) if isinstance(message, Heartbeat)]

    assert [beat.target for beat in beats] == [2, 3]


def test_a_candidate_increments_its_term_votes_for_itself_and_asks_all() -> None:
    """§5.2: "a follower increments its current term and transitions to candidate state. It then
    votes for itself and issues RequestVote RPCs in parallel"."""
    raft = raft_with([1, 1])
    while raft.role is Role.FOLLOWER:
        raft.tick()
    take(raft)

    raft.step(RequestVoteReply(2, 1, 2, True, pre_vote=True))

    assert (raft.role, raft.term, raft.voted_for) == (Role.CANDIDATE, 2, 1)
    assert take(raft) == [RequestVote(1, 2, 2, 2, 1), RequestVote(1, 3, 2, 2, 1)]


@pytest.mark.parametrize(
    ("size", "grants", "refusals", "role"),
    [
        (3, [2], [], Role.LEADER),
        (3, [], [2], Role.CANDIDATE),
        (3, [], [2, 3], Role.FOLLOWER),
        (5, [2], [], Role.CANDIDATE),
        (5, [2, 2, 2], [], Role.CANDIDATE),
        (5, [2, 3], [4, 5], Role.LEADER),
        (5, [2], [3, 4, 5], Role.FOLLOWER),
    ],
)
def test_a_majority_of_votes_decides(
    size: int, grants: list[int], refusals: list[int], role: Role
) -> None:
    """§5.2: "A candidate wins an election if it receives votes from a majority of the servers in
    the full cluster for the same term." A voter counts once."""
    raft = raft_with([1], size=size)
    while raft.role is Role.FOLLOWER:
        raft.tick()
    take(raft)
    for peer in range(2, size + 1):
        raft.step(RequestVoteReply(peer, 1, 2, True, pre_vote=True))
    take(raft)

    for voter in refusals:
        raft.step(RequestVoteReply(voter, 1, 2, False))
    for voter in grants:
        raft.step(RequestVoteReply(voter, 1, 2, True))

    assert raft.role is role


def test_a_vote_goes_to_one_candidate_per_term() -> None:
    """§5.2: "Each server will vote for at most one candidate in a given term, on a
    first-come-first-served basis."""
    raft = raft_with([1])

    raft.step(RequestVote(2, 1, 2, 1, 1))
    raft.step(RequestVote(3, 1, 2, 1, 1))
    raft.step(RequestVote(2, 1, 2, 1, 1))

    assert sorted(take(raft), key=lambda message: message.target) == [
        RequestVoteReply(1, 2, 2, True),
        RequestVoteReply(1, 2, 2, True),
        RequestVoteReply(1, 3, 2, False),
    ]


def test_a_vote_survives_a_restart() -> None:
    """Figure 2: "votedFor: candidateId that received vote in current term", persistent state."""
    raft = Raft(Config(id=1, voters=[1, 2, 3]), HardState(2, 3, 0), log_of([1]))

    raft.step(RequestVote(2, 1, 2, 1, 1))

    assert take(raft) == [RequestVoteReply(1, 2, 2, False)]


def test_a_vote_leaves_only_when_it_is_durable() -> None:
    """Figure 2: persistent state is "Updated on stable storage before responding to RPCs" (I4)."""
    raft = raft_with([1])
    raft.step(RequestVote(2, 1, 2, 1, 1))

    asked = raft.ready()
    assert asked.send_now == asked.send_after_persist == ()
    assert asked.persist is not None and asked.persist.hard_state == HardState(2, 2, 0)
    raft.persisted(asked.persist.sequence)

    assert raft.ready().send_after_persist == (RequestVoteReply(1, 2, 2, True),)


def test_a_vote_in_a_term_that_is_durable_already_still_waits_for_its_own_write() -> None:
    """Figure 2: the term alone does not keep the replica from voting twice after a crash (I4)."""
    raft = raft_with([1], term=2)
    raft.step(RequestVote(2, 1, 2, 1, 1))

    asked = raft.ready()

    assert asked.send_now == ()
    assert asked.persist is not None and asked.persist.hard_state == HardState(2, 2, 0)


@pytest.mark.parametrize("message", [append(2, 1, 1), Heartbeat(2, 1, 2, 0)])
def test_a_candidate_follows_the_leader_of_its_term(message: Message) -> None:
    """§5.2: "If the leader's term is at least as large as the candidate's current term, then the
    candidate recognizes the leader as legitimate and returns to follower state."""
    raft = raft_with([1])
    while raft.role is Role.FOLLOWER:
        raft.tick()
    raft.step(RequestVoteReply(3, 1, 2, True, pre_vote=True))
    assert (raft.role, raft.term) == (Role.CANDIDATE, 2)

    raft.step(message)

    assert (raft.role, raft.leader_id, raft.term) == (Role.FOLLOWER, 2, 2)


def test_election_timeouts_are_spread_over_an_interval() -> None:
    """§5.2: "election timeouts are chosen randomly from a fixed interval"."""
    waits: set[int] = set()
    for seed in range(200):
        raft = Raft(
            Config(id=1, voters=[1, 2], seed=seed, election_ticks=ELECTION_TICKS),
            HardState(),
            Log(),
        )
        wait = 0
        while raft.role is Role.FOLLOWER:
            raft.tick()
            wait += 1
        waits.add(wait)

    assert waits == set(range(ELECTION_TICKS, 2 * ELECTION_TICKS))


def test_a_candidate_without_a_majority_tries_again() -> None:
    """§5.2: "each candidate will time out and start a new election"."""
    cluster = Cluster(3)
    cluster.crash(2)
    cluster.crash(3)
    for _ in range(5 * ELECTION_TICKS):
        cluster.tick(1)
        cluster.settle()
    asked = cluster.raft(1).term

    cluster.restart(2)
    cluster.elect(1)

    assert asked == 0, "the pre-vote keeps the term of a lonely replica where it was"
    assert cluster.raft(1).role is Role.LEADER


def test_granting_a_vote_restarts_the_election_timeout() -> None:
    """Figure 2, followers: a campaign follows a time-out "without receiving AppendEntries RPC from
    current leader or granting vote to candidate"."""
    raft = raft_with([1])
    raft.step(RequestVote(3, 1, 2, 0, 0))
    for _ in range(ELECTION_TICKS - 1):
        raft.tick()

    for _ in range(5):
        raft.step(RequestVote(2, 1, 2, 1, 1))
        take(raft)
        for _ in range(ELECTION_TICKS - 1):
            raft.tick()

    assert raft.voted_for == 2
    assert raft.role is Role.FOLLOWER


def test_a_candidate_waits_for_its_own_disk_and_not_for_another_term() -> None:
    """§5.2 asks for a new election when one takes too long; but a disk that has not stored this
    term's vote will not store the next one's sooner."""
    raft = raft_with([1])
    while raft.role is Role.FOLLOWER:
        raft.tick()
    take(raft)
    raft.step(RequestVoteReply(2, 1, 2, True, pre_vote=True))

    for _ in range(10 * ELECTION_TICKS):
        raft.tick()
        raft.ready()

    assert (raft.role, raft.term) == (Role.CANDIDATE, 2)


def test_a_pre_vote_granted_for_an_earlier_term_does_not_count() -> None:
    """§5.2: votes are "for the same term"; so are pre-votes."""
    raft = raft_with([1], term=2)
    while raft.role is Role.FOLLOWER:
        raft.tick()

    raft.step(RequestVoteReply(2, 1, 2, True, pre_vote=True))
    assert raft.role is Role.PRE_CANDIDATE
    raft.step(RequestVoteReply(2, 1, 3, True, pre_vote=True))

    assert raft.role is Role.CANDIDATE


# §5.3 Log replication


def test_an_entry_is_committed_once_a_majority_has_it() -> None:
    """§5.3: "A log entry is committed once the leader that created the entry has replicated it on
    a majority of the servers"."""
    raft = raft_with([], size=5)
    lead(raft, 2, 3)
    take(raft)
    index = raft.propose(0, b"x", 1)
    take(raft)
    assert index == 2

    raft.step(AppendEntriesReply(2, 1, 1, True, 2))
    before = raft.commit
    raft.step(AppendEntriesReply(2, 1, 1, True, 2))
    twice = raft.commit
    raft.step(AppendEntriesReply(3, 1, 1, True, 2))

    assert (before, twice, raft.commit) == (0, 0, 2)


def test_committing_an_entry_commits_all_before_it() -> None:
    """§5.3: "This also commits all preceding entries in the leader's log, including entries
    created by previous leaders."""
    raft = raft_with([1, 1, 2])
    lead(raft, 2)
    take(raft)

    raft.step(AppendEntriesReply(2, 1, 3, True, 4))

    assert raft.commit == 4
    assert raft.ready().apply == (1, 4)


def test_the_leader_counts_itself_only_when_its_disk_has_the_entry() -> None:
    """Thesis §10.2.1: the leader may write to its disk in parallel with replicating, and its own
    log counts only once written."""
    raft = raft_with([])
    lead(raft, 2)
    start = raft.ready()
    assert start.term_to_start
    raft.start_term(0)
    written = raft.ready()
    sent = [message for message in written.send_now if isinstance(message, AppendEntries)]
    assert len(sent) == 2 and written.persist is not None

    raft.step(AppendEntriesReply(2, 1, 1, True, 1))
    before = raft.commit
    raft.persisted(written.persist.sequence)

    assert (before, raft.commit) == (0, 1)


def test_followers_may_commit_without_the_leader_s_disk() -> None:
    """Thesis §10.2.1: entries may be committed before the leader has written them itself; what
    logic gets here still waits for this disk."""
    raft = raft_with([])
    lead(raft, 2)
    raft.start_term(0)
    raft.ready()

    raft.step(AppendEntriesReply(2, 1, 1, True, 1))
    raft.step(AppendEntriesReply(3, 1, 1, True, 1))

    assert raft.commit == 1
    assert raft.ready().apply is None


def test_a_follower_learns_what_is_committed() -> None:
    """§5.3: "Once a follower learns that a log entry is committed, it applies the entry to its
    local state machine (in log order)."""
    raft = raft_with([])

    raft.step(append(1, 0, 0, entry(1, 1), entry(2, 1), commit=1))
    take(raft)
    raft.step(append(1, 2, 1, entry(3, 1), commit=2))
    written = raft.ready()

    assert raft.commit == 2
    assert written.apply == (2, 2)


def test_an_append_whose_predecessor_is_missing_is_refused() -> None:
    """§5.3, AppendEntries 2: "Reply false if log doesn't contain an entry at prevLogIndex whose
    term matches prevLogTerm"."""
    raft = raft_with([1, 2, 2])

    raft.step(append(4, 3, 3, entry(4, 4)))
    raft.step(append(4, 9, 2, entry(10, 4)))
    replies = take(raft)

    assert raft.log.last == 3
    assert [(r.success, r.index) for r in replies if isinstance(r, AppendEntriesReply)] == [
        (False, 3),
        (False, 9),
    ]


@pytest.mark.parametrize(
    ("have", "prev", "entries", "terms"),
    [
        ([1, 1], (2, 1), [3], [1, 1, 3]),
        ([1, 1], (1, 1), [3, 4], [1, 3, 4]),
        ([], (0, 0), [3, 4], [3, 4]),
        ([1, 1, 1], (0, 0), [3], [3]),
        ([1, 2, 2], (1, 1), [2], [1, 2, 2]),
    ],
)
def test_conflicting_entries_are_replaced_and_others_kept(
    have: list[int], prev: tuple[int, int], entries: list[int], terms: list[int]
) -> None:
    """§5.3, AppendEntries 3 and 4: "If an existing entry conflicts with a new one (same index but
    different terms), delete the existing entry and all that follow it. Append any new entries not
    already in the log"."""
    raft = raft_with(have)

    raft.step(append(4, *prev, *[entry(prev[0] + n, term) for n, term in enumerate(entries, 1)]))

    assert [raft.log.term_at(index) for index in range(1, raft.log.last + 1)] == terms


def test_a_late_append_removes_nothing_and_commits_nothing_behind_it() -> None:
    """AppendEntries 3 and 5: only a *conflict* deletes; commitIndex becomes at most the "index of
    last new entry", since what follows was not compared."""
    raft = raft_with([1, 1, 1], term=2)

    raft.step(append(2, 0, 0, entry(1, 1), commit=3))

    assert raft.log.last == 3
    assert raft.commit == 1


def test_the_leader_finds_where_a_follower_agrees_and_overwrites_the_rest() -> None:
    """§5.3, figure 7: "the leader must find the latest log entry where the two logs agree, delete
    any entries in the follower's log after that point, and send the follower all of the leader's
    entries after that point." All six followers of the figure."""
    leader_terms = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
    followers = [
        [1, 1, 1, 4, 4, 5, 5, 6, 6],
        [1, 1, 1, 4],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        [1, 1, 1, 4, 4, 4, 4],
        [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ]
    for terms in followers:
        cluster = Cluster(3)
        for id, log in ((1, leader_terms), (2, terms), (3, leader_terms[:3])):
            cluster.crash(id)
            cluster.replicas[id].disk.entries = [entry(i, term) for i, term in enumerate(log, 1)]
            cluster.replicas[id].disk.hard_state = HardState(7, 0, 0)
            for index, (kept, before) in enumerate(zip(log, [0, *log], strict=False), 1):
                cluster.known[index, kept] = (entry(index, kept), before)
            cluster.restart(id)

        cluster.crash(2)  # It might not vote for replica 1; replica 3 does.
        cluster.elect(1)
        cluster.restart(2)
        for _ in range(3):
            cluster.tick(1)
            cluster.settle()

        assert cluster.replicas[2].applied == cluster.replicas[1].applied
        assert len(cluster.replicas[2].applied) == len(leader_terms) + 1


def test_one_refusal_steps_back_over_a_whole_term() -> None:
    """§5.3: "the follower can include the term of the conflicting entry ... one AppendEntries RPC
    will be required for each term with conflicting entries, rather than one RPC per entry."""
    cluster = Cluster(2)
    common = [1] * 3
    logs = {1: common + [3] * 40, 2: common + [2] * 40}
    for id, log in logs.items():
        cluster.crash(id)
        cluster.replicas[id].disk.entries = [entry(i, term) for i, term in enumerate(log, 1)]
        cluster.replicas[id].disk.hard_state = HardState(3, 0, 0)
        for index, (kept, before) in enumerate(zip(log, [0, *log], strict=False), 1):
            cluster.known[index, kept] = (entry(index, kept), before)
        cluster.restart(id)
    lines: list[str] = []
    cluster.trace = lines.append

    cluster.elect(1)

    assert len(cluster.replicas[2].written) == 44
    assert sum("cannot follow" in line for line in lines) <= 2


def test_appends_are_repeated_until_all_followers_have_everything() -> None:
    """§5.3: "If followers crash or run slowly, or if network packets are lost, the leader retries
    AppendEntries RPCs indefinitely"."""
    cluster = Cluster(3)
    cluster.elect(1)
    for body in (b"a", b"b", b"c"):
        cluster.propose(1, body)
        cluster.wire.clear()  # All of them are lost.

    cluster.tick(1)
    cluster.settle()

    assert len(cluster.replicas[3].written) == 4
    assert cluster.raft(1).commit == 4


# §5.4 Safety


@pytest.mark.parametrize(
    ("have", "candidate", "granted"),
    [
        ([1], (1, 1), True),
        ([1], (2, 1), True),
        ([1], (1, 2), True),
        ([1, 1], (1, 2), True),
        ([1, 1], (1, 1), False),
        ([1, 2], (3, 1), False),
        ([2], (5, 1), False),
    ],
)
def test_a_voter_denies_a_candidate_whose_log_is_behind(
    have: list[int], candidate: tuple[int, int], granted: bool
) -> None:
    """§5.4.1: "the voter denies its vote if its own log is more up-to-date than that of the
    candidate. If the logs have last entries with different terms, then the log with the later term
    is more up-to-date. If the logs end with the same term, then whichever log is longer"."""
    for pre_vote in (False, True):
        raft = raft_with(have, term=2)

        raft.step(RequestVote(2, 1, 3, *candidate, pre_vote=pre_vote))
        [reply] = take(raft)

        assert isinstance(reply, RequestVoteReply) and reply.granted is granted


def test_only_entries_of_the_leader_s_term_are_committed_by_counting() -> None:
    """§5.4.2 and figure 8: "Raft never commits log entries from previous terms by counting
    replicas."""
    raft = raft_with([1, 2], size=5)
    lead(raft, 2, 3)
    take(raft)
    assert raft.log.last == 3

    raft.step(AppendEntriesReply(2, 1, 3, True, 2))
    raft.step(AppendEntriesReply(3, 1, 3, True, 2))
    counted = raft.commit
    raft.step(AppendEntriesReply(2, 1, 3, True, 3))
    raft.step(AppendEntriesReply(3, 1, 3, True, 3))

    assert (counted, raft.commit) == (0, 3)


@pytest.mark.parametrize(
    "message",
    [append(3, 1, 1, entry(2, 3)), append(3, 2, 3), append(3, 1, 2), append(3, 0, 0, entry(1, 3))],
)
def test_a_committed_entry_is_never_overwritten(message: AppendEntries) -> None:
    """§5.4.3, leader completeness: a leader that would do so is broken, and is not obeyed."""
    raft = raft_with([1, 1], commit=2)

    with pytest.raises(ProtocolViolation, match="overwrite committed entry"):
        raft.step(message)


def test_two_leaders_in_one_term_are_a_violation() -> None:
    """§5.2, election safety: "at most one leader can be elected in a given term"."""
    raft = raft_with([1])
    raft.step(Heartbeat(2, 1, 1, 0))

    with pytest.raises(ProtocolViolation, match="two leaders"):
        raft.step(Heartbeat(3, 1, 1, 0))


# §5.5, §8 and the thesis


def test_a_repeated_append_does_no_harm() -> None:
    """§5.5: "Raft RPCs are idempotent, so this causes no harm."""
    raft = raft_with([])
    message = append(1, 0, 0, entry(1, 1), entry(2, 1))

    raft.step(message)
    first = take(raft)
    raft.step(message)
    again = take(raft)

    assert first == again == [AppendEntriesReply(1, 2, 1, True, 2)]
    assert raft.log.last == 2


def test_a_leader_opens_its_term_with_an_entry_of_its_own() -> None:
    """§8: "each leader commit a blank no-op entry into the log at the start of its term."""
    raft = raft_with([1, 1])
    lead(raft, 2)
    assert raft.propose(0, b"too early", 9) is None
    assert raft.ready().term_to_start

    index = raft.start_term(9)

    assert raft.log.entries(index, index) == (Entry(3, 2, 9, TERM_START, b""),)
    assert raft.propose(0, b"now", 9) == 4


def test_a_deposed_leader_answers_no_reads() -> None:
    """§8: "a leader must check whether it has been deposed before processing a read-only
    request"; it exchanges "heartbeat messages with a majority of the cluster"."""
    cluster = Cluster(3)
    cluster.elect(1)
    others = frozenset({2, 3})
    for _ in range(3 * ELECTION_TICKS):
        for id in others:
            cluster.tick(id)
        cluster.settle(others)
    newer = cluster.leader
    assert newer in others
    cluster.propose(newer, b"new")
    cluster.settle(others)
    cluster.wire.clear()

    assert cluster.raft(1).role is Role.LEADER, "it does not know yet"
    cluster.read(1)
    assert cluster.reads_answered == []
    cluster.settle()

    assert cluster.reads_answered == []
    assert cluster.raft(1).role is Role.FOLLOWER


def test_a_heartbeat_sent_before_the_read_does_not_confirm_it() -> None:
    """§8, thesis §6.4: the round must start after the query arrived."""
    raft = raft_with([])
    lead(raft, 2)
    take(raft)
    raft.step(AppendEntriesReply(2, 1, 1, True, 1))
    raft.read_index(1)
    rounds = [m.round for m in take(raft) if isinstance(m, Heartbeat)]
    assert rounds == [1, 1]

    raft.read_index(2)
    raft.read_index(3)
    rounds = [m.round for m in take(raft) if isinstance(m, Heartbeat)]
    raft.step(HeartbeatReply(2, 1, 1, 1))
    first = [read.context for read in raft.ready().reads]
    raft.step(HeartbeatReply(3, 1, 1, 2))
    rest = [read.context for read in raft.ready().reads]

    assert rounds == [2, 2], "one round for the batch"
    assert (first, rest) == ([1], [2, 3])


def test_a_query_that_was_waiting_when_the_leader_fell_is_never_answered() -> None:
    """§8: it was asked of a leader that was deposed; leading again later does not revive it."""
    raft = raft_with([])
    lead(raft, 2)
    take(raft)
    assert raft.read_index(1)
    raft.step(Heartbeat(3, 1, 2, 0))
    take(raft)

    lead(raft, 2)
    take(raft)
    raft.step(AppendEntriesReply(2, 1, raft.term, True, raft.log.last))
    raft.step(HeartbeatReply(2, 1, raft.term, 9))

    assert raft.commit == raft.log.last
    assert raft.ready().reads == ()


def test_a_read_waits_for_the_leader_s_own_term() -> None:
    """§8: "a leader must have the latest information on which entries are committed", which it
    has once an entry of its own term is."""
    raft = raft_with([1, 1], commit=2)
    lead(raft, 2)
    assert not raft.read_index(1), "refused: its term has not started"
    raft.start_term(5)
    take(raft)

    assert raft.read_index(1)
    take(raft)
    raft.step(HeartbeatReply(2, 1, 2, 1))
    confirmed = raft.ready().reads
    raft.step(AppendEntriesReply(2, 1, 2, True, 3))

    assert confirmed == ()
    assert [read.index for read in raft.ready().reads] == [3]


def test_a_replica_that_hears_a_leader_ignores_candidates() -> None:
    """Thesis §4.2.3: "if a server receives a RequestVote request within the minimum election
    timeout of hearing from a current leader, it does not update its term or grant its vote."""
    raft = raft_with([1])
    raft.step(Heartbeat(2, 1, 1, 0))
    take(raft)
    for _ in range(ELECTION_TICKS - 1):
        raft.tick()

    raft.step(RequestVote(3, 1, 5, 9, 4))
    raft.step(RequestVote(3, 1, 5, 9, 4, pre_vote=True))
    assert take(raft) == [] and raft.term == 1
    raft.step(RequestVote(3, 1, 5, 9, 4, transfer=True))

    assert take(raft) == [RequestVoteReply(1, 3, 5, True)]


def test_a_leader_ignores_candidates_while_it_hears_its_quorum() -> None:
    """Thesis §4.2.3, for the leader itself."""
    raft = raft_with([1])
    lead(raft, 2)
    take(raft)

    raft.step(RequestVote(3, 1, 9, 9, 8))

    assert (raft.role, raft.term) == (Role.LEADER, 2)


def test_a_leader_that_hears_no_majority_steps_down() -> None:
    """Thesis §6.2: "a leader steps down if an election timeout elapses without a successful round
    of heartbeats to a majority of its cluster"."""
    raft = raft_with([1], size=5)
    lead(raft, 2, 3)
    take(raft)
    for _ in range(5 * ELECTION_TICKS):
        raft.tick()
        for peer in (2, 3):
            raft.step(HeartbeatReply(peer, 1, 2))
    assert raft.role is Role.LEADER

    for _ in range(2 * ELECTION_TICKS):
        raft.tick()
        raft.step(HeartbeatReply(2, 1, 2))

    assert (raft.role, raft.term, raft.leader_id) == (Role.FOLLOWER, 2, 0)


def test_a_pre_vote_changes_nothing_at_the_voter() -> None:
    """Thesis §9.6: a candidate "only increments its term number if it first learns from a majority
    of the cluster that they would be willing to grant the candidate their votes"."""
    raft = raft_with([1])

    raft.step(RequestVote(2, 1, 2, 1, 1, pre_vote=True))
    raft.step(RequestVote(3, 1, 2, 1, 1, pre_vote=True))
    ready = raft.ready()

    assert ready.persist is None and (raft.term, raft.voted_for) == (1, 0)
    assert ready.send_now == (
        RequestVoteReply(1, 2, 2, True, pre_vote=True),
        RequestVoteReply(1, 3, 2, True, pre_vote=True),
    )


def test_a_replica_that_was_cut_off_disturbs_nobody_when_it_returns() -> None:
    """Thesis §9.6: the pre-vote "solves the issue of a partitioned server disrupting the cluster
    when it rejoins"."""
    cluster = Cluster(3)
    cluster.elect(1)
    for _ in range(20 * ELECTION_TICKS):
        cluster.tick(3)
        cluster.sync(3)
        cluster.tick(1)
        cluster.settle(frozenset({1, 2}))
    cluster.wire.clear()
    term = cluster.raft(1).term

    for _ in range(ELECTION_TICKS):
        for id in (1, 2, 3):
            cluster.tick(id)
        cluster.settle()

    assert cluster.leader == 1
    assert {cluster.raft(id).term for id in (1, 2, 3)} == {term}


def test_a_replica_with_a_higher_term_is_not_locked_out() -> None:
    """§5.1 with the two rules above: the refusal of its stale leader carries the higher term."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.crash(3)
    cluster.replicas[3].disk.hard_state = HardState(40, 0, 0)
    cluster.restart(3)

    for _ in range(4 * ELECTION_TICKS):
        for id in (1, 2, 3):
            cluster.tick(id)
        cluster.settle()
    assert cluster.leader is not None
    cluster.propose(cluster.leader, b"together again")
    cluster.settle()

    assert {cluster.raft(id).term for id in (1, 2, 3)} == {cluster.raft(cluster.leader).term}
    assert cluster.raft(cluster.leader).term > 40


def test_a_learner_is_counted_nowhere_and_never_campaigns() -> None:
    """Thesis §4.2.1: a new server "is not yet counted towards majorities"."""
    cluster = Cluster(1, learners=2)
    cluster.tick(1)
    cluster.settle()
    index = cluster.propose(1, b"x")
    cluster.sync(1)
    committed = cluster.raft(1).commit
    for _ in range(5 * ELECTION_TICKS):
        cluster.tick(2)
    cluster.settle()

    assert index == committed == 2
    assert cluster.raft(2).role is Role.FOLLOWER
    assert len(cluster.replicas[2].applied) >= 1
    cluster.tick(1)
    cluster.settle()
    assert len(cluster.replicas[3].applied) == 2


def test_a_leader_hands_over_to_a_peer_that_has_its_whole_log() -> None:
    """Thesis §3.10: the prior leader stops accepting client requests, brings the target's log up
    to date, and sends TimeoutNow; "it is very likely to become leader"."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.propose(1, b"before")

    assert cluster.transfer(1, 2)
    assert cluster.propose(1, b"too late") is None
    assert not any(isinstance(message, TimeoutNow) for message in cluster.wire), "not up to date"
    cluster.settle()

    assert (cluster.leader, cluster.raft(2).term) == (2, 2)
    assert cluster.propose(2, b"after") == 4
    cluster.settle()
    assert cluster.raft(2).commit == 4


def test_a_leader_whose_own_disk_hangs_hands_over_to_one_that_has_what_is_committed() -> None:
    """Thesis §10.2.1: "The leader may even commit an entry before it has been written to its own
    disk, if a majority of followers have written it to their disks; this is still safe." Logic
    waits for this disk, so clients would wait with it: another leader serves them (§3.10)."""
    cluster = Cluster(3)
    cluster.elect(1)
    assert cluster.propose(1, b"hung") == 2

    def settle_but_the_disk_of_1() -> None:
        while cluster.wire or any(cluster.replicas[id].disk.pending for id in (2, 3)):
            wire, cluster.wire = cluster.wire, []
            for message in wire:
                cluster.deliver(message)
            for id in (2, 3):
                cluster.sync(id)

    settle_but_the_disk_of_1()
    assert (cluster.raft(1).commit, cluster.raft(1).durable) == (2, 1)
    for _ in range(OWN_DISK_TIMEOUTS * ELECTION_TICKS):
        assert cluster.raft(1).role is Role.LEADER
        cluster.tick(1)
        settle_but_the_disk_of_1()
    cluster.tick(1)
    settle_but_the_disk_of_1()

    assert cluster.leader in (2, 3) and cluster.raft(1).role is Role.FOLLOWER
    assert cluster.raft(cluster.leader).commit == 3, "what was committed, and the new term's first"
    assert cluster.raft(1).durable == 1


def test_a_leader_whose_disk_is_slow_stays_in_office() -> None:
    """Each entry comes to its disk late, none of them for too long."""
    cluster = Cluster(3)
    cluster.elect(1)
    for _ in range(4 * OWN_DISK_TIMEOUTS):
        assert cluster.propose(1, b"slow") is not None
        for _ in range(ELECTION_TICKS):
            cluster.tick(1)
        cluster.settle()
    assert (cluster.leader, cluster.raft(1).term) == (1, 1)


def test_a_leader_whose_target_does_not_take_over_goes_on() -> None:
    """Thesis §3.10: "If leadership transfer does not complete after about an election timeout, the
    prior leader aborts the transfer and resumes accepting client requests."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.crash(2)

    assert cluster.transfer(1, 2)
    assert cluster.propose(1, b"refused") is None
    for _ in range(ELECTION_TICKS):
        cluster.tick(1)
        cluster.settle()

    assert cluster.leader == 1
    assert cluster.propose(1, b"accepted") == 2


def test_leadership_is_handed_over_only_by_leaders_and_to_voters() -> None:
    """Thesis §3.10; a learner could not campaign."""
    cluster = Cluster(2, learners=1)
    cluster.elect(1)

    assert not cluster.transfer(2, 1)
    assert [cluster.transfer(1, target) for target in (1, 3, 9)] == [False] * 3


def test_only_the_known_leader_can_make_a_follower_campaign() -> None:
    """Thesis §3.10: the TimeoutNow comes from the leader of this term, or means nothing."""
    raft = raft_with([1])
    raft.step(Heartbeat(2, 1, 1, 0))
    take(raft)

    raft.step(TimeoutNow(3, 1, 1))
    raft.step(TimeoutNow(2, 1, 0))
    assert (raft.role, raft.term) == (Role.FOLLOWER, 1)
    raft.step(TimeoutNow(2, 1, 1))

    assert [m.transfer for m in take(raft) if isinstance(m, RequestVote)] == [True, True]
