"""A follower whose shell went on by itself (raft/stretch.py) is what it would be had it done each step: all of it, field by field."""

import random

import pytest
from raft_samples import append, entry, raft_with, state_of, take

from leftfold.raft import (
    AppendEntries,
    AppendEntriesReply,
    Entry,
    Heartbeat,
    InstallSnapshot,
    InstallSnapshotReply,
    Message,
    Raft,
    RequestVote,
    Role,
)

SEEDS = 500
LEADER = 2
TERM = 3


class Follower:
    """A follower of LEADER in TERM, and the disk and the logic that it has."""

    def __init__(self, rng: random.Random, **limits: int) -> None:
        terms = sorted(rng.choice((1, 2, TERM)) for _ in range(rng.randrange(6)))
        self.raft = raft_with(terms, **limits)
        self.given: list[int] = []
        self.taken: list[Entry] = []
        last = len(terms)
        self.raft.step(append(TERM, last, terms[-1] if terms else 0, entry(last + 1, TERM)))
        self.carry_out()

    def carry_out(self) -> list[Message]:
        said: list[Message] = []
        while ready := self.raft.ready():
            said += ready.send_now + ready.send_after_persist
            if ready.persist is not None:
                self.given.append(ready.persist.sequence)
        return said

    def steps(self, rng: random.Random, count: int) -> list[Message]:
        """Plain steps, in batches of any size."""
        said: list[Message] = []
        for _ in range(count):
            rng.choice((self.append, self.append, self.beat, self.persist, self.apply))(rng)
            if rng.random() < 0.6:
                said += self.carry_out()
        return said + self.carry_out()

    def append(self, rng: random.Random) -> None:
        log = self.raft.log
        bodies = [rng.randbytes(rng.randrange(40)) for _ in range(rng.choice((0, 1, 1, 2, 5)))]
        entries = [
            Entry(log.last + at, TERM, log.last + at, rng.choice((0, 2, 5)), body)
            for at, body in enumerate(bodies, 1)
        ]
        commit = rng.randrange(log.last + 3)
        self.raft.step(append(TERM, log.last, log.last_term, *entries, commit=commit))
        self.taken += entries[: log.last - entries[0].index + 1] if entries else []

    def beat(self, rng: random.Random) -> None:
        commit = rng.randrange(self.raft.log.last + 1)
        self.raft.step(Heartbeat(LEADER, 1, TERM, commit, rng.randrange(9)))

    def persist(self, rng: random.Random) -> None:
        if self.given:
            sequence = self.given[rng.randrange(len(self.given))]
            self.given = [given for given in self.given if given > sequence]
            self.raft.persisted(sequence)

    def apply(self, rng: random.Random) -> None:
        raft = self.raft
        applying: int = state_of(raft)["_applying"]
        raft.applied(rng.randint(raft.applied_index, applying))


@pytest.mark.parametrize("limits", [{}, {"recent_bytes_max": 60, "unapplied_bytes_max": 60}])
def test_it_is_as_if_each_step_had_been_done(limits: dict[str, int]) -> None:
    first = random.randrange(1 << 32)
    print("seed", first)
    went_on = 0
    for seed in range(first, first + SEEDS):
        rng = random.Random(seed)
        step_by_step, at_once = Follower(rng, **limits), Follower(random.Random(seed), **limits)
        before = rng.randrange(8)
        same = rng.randrange(1 << 32)
        step_by_step.steps(random.Random(same), before)
        at_once.steps(random.Random(same), before)
        if not at_once.raft.follows_steadily:
            continue
        assert state_of(step_by_step.raft) == state_of(at_once.raft)

        for _ in range(rng.randrange(3)):
            step_by_step.raft.tick()
            at_once.raft.tick()
        step_by_step.carry_out()
        at_once.carry_out()
        if not at_once.raft.follows_steadily:
            continue  # It has asked for votes.
        step_by_step.taken.clear()
        step_by_step.steps(rng, rng.randrange(30))
        there = step_by_step.raft.standing()
        there.entries = step_by_step.taken
        there.heard = state_of(step_by_step.raft)["_election_elapsed"] == 0
        at_once.raft.stretch(there)
        went_on += bool(step_by_step.taken)
        assert state_of(step_by_step.raft) == state_of(at_once.raft), f"seed {seed}"

        step_by_step.given, at_once.given = list(step_by_step.given), list(step_by_step.given)
        after = rng.randrange(1 << 32)
        assert step_by_step.steps(random.Random(after), 10) == at_once.steps(
            random.Random(after), 10
        )
        assert state_of(step_by_step.raft) == state_of(at_once.raft), f"seed {seed}"
    assert went_on > SEEDS // 4


def following() -> Raft:
    raft = raft_with([TERM], term=TERM)
    raft.step(append(TERM, 1, TERM, entry(2, TERM)))
    take(raft)
    assert raft.follows_steadily
    return raft


def test_who_has_something_to_say_or_is_no_plain_follower_is_not_steady() -> None:
    raft = following()
    raft.step(Heartbeat(LEADER, 1, TERM, 1))
    assert not raft.follows_steadily, "the answer waits"
    take(raft)
    assert raft.follows_steadily

    raft.step(RequestVote(3, 1, TERM + 1, 9, TERM, transfer=True))
    take(raft)
    assert not raft.follows_steadily, "nobody leads"

    raft = following()
    raft.step(AppendEntries(3, 1, TERM + 1, 2, TERM, (), 0))
    take(raft)
    assert not raft.follows_steadily, "no entry of this term is here"

    raft = following()
    while raft.role is Role.FOLLOWER:
        raft.tick()
    raft.ready()
    assert not raft.follows_steadily


def test_an_answer_that_is_no_acknowledgement_is_not_taken_along() -> None:
    raft = raft_with([TERM])
    raft.step(Heartbeat(LEADER, 1, TERM, 1))
    take(raft)
    raft.step(append(TERM, 1, TERM, entry(2, TERM)))
    raft.ready()
    assert raft.follows_steadily
    assert raft.standing().replies == [(1, 2)]
    raft.step(InstallSnapshot(LEADER, 1, TERM, 0, 0, 9, 0, 0, b"", False))
    raft.ready()
    assert not raft.follows_steadily
    raft.persisted(1)
    assert [type(message) for message in take(raft)] == [AppendEntriesReply, InstallSnapshotReply]
    assert raft.follows_steadily
