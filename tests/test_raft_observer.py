"""What an observer is told: every step, in the order in which it happens, with the state just then."""

from attrs import define, field
from raft_samples import ELECTION_TICKS, append, entry, lead, log_of, raft_with, take

from leftfold.raft import (
    CONFIGURATION,
    AppendEntriesReply,
    Config,
    Entry,
    Happening,
    HardState,
    Heartbeat,
    Membership,
    Observation,
    Raft,
    Received,
    RequestVote,
    Role,
)


@define
class Notes:
    """An observer that remembers."""

    seen: list[Observation] = field(factory=list[Observation])

    def observed(self, observation: Observation) -> None:
        self.seen.append(observation)

    def take(self) -> list[Happening]:
        seen, self.seen = [each.what for each in self.seen], []
        return seen


def test_a_leader_s_life_as_it_is_told() -> None:
    notes = Notes()
    raft = raft_with([], observer=notes)
    lead(raft, 2)
    take(raft)
    roles = [
        (each.role, each.term, each.voted_for) for each in notes.seen if each.what is Happening.ROLE
    ]
    assert roles == [
        (Role.PRE_CANDIDATE, 0, 0),
        (Role.CANDIDATE, 1, 1),
        (Role.LEADER, 1, 1),
    ]
    notes.take()

    raft.propose(0, b"x", 9)
    ready = raft.ready()
    assert ready.persist is not None
    raft.persisted(ready.persist.sequence)
    raft.step(AppendEntriesReply(2, 1, 1, True, 2))

    last = notes.seen[-1]
    assert [each.what for each in notes.seen] == [
        Happening.APPEND,
        Happening.DURABLE,
        Happening.MESSAGE,
        Happening.COMMIT,
    ]
    assert (notes.seen[0].first, notes.seen[0].last, notes.seen[0].durable) == (2, 2, 1)
    assert notes.seen[2].commit == 0, "a message, before it is handled"
    assert notes.seen[2].message == AppendEntriesReply(2, 1, 1, True, 2)
    assert (last.id, last.term, last.voted_for, last.role) == (1, 1, 1, Role.LEADER)
    assert (last.commit, last.last, last.durable, last.membership.voters) == (2, 2, 2, {1, 2, 3})


def test_a_follower_s_life_as_it_is_told() -> None:
    notes = Notes()
    raft = raft_with([1], observer=notes)
    raft.step(RequestVote(2, 1, 2, 1, 1))
    take(raft)
    assert notes.take() == [
        Happening.MESSAGE,
        Happening.ROLE,
        Happening.ROLE,
        Happening.DURABLE,
    ], "a term, a vote, and both durable before the vote is sent"

    four = Membership(voters=[1, 2, 3], learners=[4])
    raft.step(append(2, 1, 1, Entry(2, 2, 2, CONFIGURATION, four.encode()), commit=1))
    assert notes.take() == [
        Happening.MESSAGE,
        Happening.APPEND,
        Happening.MEMBERSHIP,
        Happening.COMMIT,
    ]
    raft.step(append(3, 1, 1, entry(2, 3)))
    assert notes.take() == [
        Happening.MESSAGE,
        Happening.ROLE,
        Happening.TRUNCATE,
        Happening.MEMBERSHIP,
        Happening.APPEND,
    ]
    raft.snapshot_received(Received(9, 3, 9, 1, four))
    assert notes.take() == [Happening.MEMBERSHIP, Happening.RESTORE]


def test_what_was_recovered_is_no_event() -> None:
    notes = Notes()
    four = Membership(voters=[1, 2, 3], learners=[4])
    raft = raft_with([1, 1], configurations=[(2, four)], observer=notes)
    assert raft.membership == four and notes.seen == []


def test_what_was_durable_is_told_before_what_waited_for_it_is_sent() -> None:
    notes = Notes()
    raft = raft_with([1], observer=notes)
    raft.step(append(1, 1, 1, entry(2, 1)))
    ready = raft.ready()
    assert ready.persist is not None and not ready.send_now

    raft.persisted(ready.persist.sequence)

    assert notes.seen[-1].what is Happening.DURABLE and notes.seen[-1].durable == 2
    assert raft.ready().send_after_persist


def test_an_election_time_out_can_be_exact() -> None:
    """So that a test from outside can say who stands first."""
    for seed in range(20):
        raft = Raft(
            Config(id=1, voters=[1, 2, 3], election_ticks=7, election_spread_ticks=1, seed=seed),
            HardState(1),
            log_of([1]),
        )
        for _ in range(6):
            raft.tick()
        assert raft.role is Role.FOLLOWER
        raft.tick()
        assert raft.role is Role.PRE_CANDIDATE


def test_why_a_proposal_is_refused_is_said_with_the_leader_s_id() -> None:
    raft = raft_with([1], unapplied_entries_max=2)
    assert raft.propose(0, b"", 1) is None
    unknown = raft.refusal()
    raft.step(Heartbeat(2, 1, 1, 0))
    known = raft.refusal()
    for _ in range(3 * ELECTION_TICKS):
        raft.tick()
    lead(raft, 2)
    won = raft.refusal()
    take(raft)
    full = raft.refusal()

    for refusal, words in (
        (unknown, "no leader is known"),
        (known, "replica 2 leads"),
        (won, "has only just won term 2"),
        (full, "2 entries are not applied yet"),
    ):
        assert refusal is not None and words in refusal.sentence
    assert raft.propose(0, b"", 9) is None


def test_what_is_not_refused_is_taken() -> None:
    raft = raft_with([], size=1)
    raft.tick()
    take(raft)

    assert raft.refusal(10) is None
    assert raft.propose(0, bytes(10), 9) is not None
    assert raft.refusal(1 << 30) is not None
    assert raft.propose(0, bytes(1 << 25), 9) is None
