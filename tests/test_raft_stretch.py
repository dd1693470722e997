"""Many steps of a leader in one: the core is then as it would be after each of them, in every field."""

import copy
import random

import pytest
from raft_samples import lead, raft_with, take

from leftfold.raft import (
    NOTHING,
    AppendEntries,
    AppendEntriesReply,
    Heartbeat,
    HeartbeatReply,
    Raft,
    Stretch,
)

SEEDS = 400


def state(raft: Raft):
    """All of it, but for what a stretch cannot touch."""
    found = {name: value for name, value in vars(raft).items() if name not in ("_random", "config")}
    return found | {"log": dict(vars(raft.log))}


class Steps:
    """A leader, its shell and its peers, who take plain steps at random."""

    def __init__(self, rng: random.Random, size: int):
        self.rng = rng
        limits = {"recent_bytes_max": 2000, "unapplied_bytes_max": 2000}
        self.raft = raft_with([1, 1], size=size, commit=1, **limits)
        lead(self.raft, *range(2, size + 1))
        take(self.raft)
        self.unsaid = []
        self.spoke = set()
        for peer in range(2, size + 1):
            self.raft.step(AppendEntriesReply(peer, 1, self.raft.term, True, self.raft.log.last))
        take(self.raft)
        self.raft.applied(self.raft.commit)

    def step(self):
        """One input, plain at this moment, and all that it asks for."""
        raft, rng = self.raft, self.rng
        choice = rng.randrange(5)
        if choice == 0 and raft.refusal(300) is None:
            raft.propose(0, rng.randbytes(rng.randrange(300)), raft.log.last_time_ns + 1)
        elif choice == 1:
            known = [write for write, *_ in raft.standing().writes]
            if known:
                raft.persisted(rng.choice(known))
        elif choice == 2:
            raft.applied(rng.randint(raft.applied_index, raft.standing().applying))
        elif choice == 3 and self.unsaid:
            message = self.unsaid.pop(rng.randrange(len(self.unsaid)))
            self.spoke.add(message.source)
            raft.step(message)
        elif choice == 4 and not raft.progress:
            raft.read_index(1)
        while (ready := raft.ready()) is not NOTHING:
            for message in ready.send_now:
                self._hear(message)

    def tick(self):
        self.raft.tick()
        while (ready := self.raft.ready()) is not NOTHING:
            for message in ready.send_now:
                self._hear(message)

    def _hear(self, message):
        term, peer = message.term, message.target
        match message:
            case AppendEntries():
                last = message.prev_index + len(message.entries)
                self.unsaid.append(AppendEntriesReply(peer, 1, term, True, last))
            case Heartbeat():
                self.unsaid.append(HeartbeatReply(peer, 1, term, message.round))

    def is_plain(self):
        """Nobody has fallen behind: the answer of one who had would be no plain step."""
        last = self.raft.log.last
        return all(progress.keeps_up(last) for progress in self.raft.progress.values())


def stretch_between(before: Raft, after: Raft, spoke) -> Stretch:
    """What a shell that had done it would say."""
    found = after.standing()
    entries = after.log.entries(before.log.last + 1, after.log.last)
    assert entries is not None
    found.entries = entries
    found.reads = after._round - before._round
    for peer, gone_on in found.peers.items():
        gone_on.spoke = peer in spoke
    return found


@pytest.mark.parametrize("size", [1, 3])
def test_a_stretch_is_its_steps(size):
    first = random.randrange(1 << 32)
    print("first seed", first)
    compared = 0
    for seed in range(first, first + SEEDS):
        rng = random.Random(seed)
        steps = Steps(rng, size)
        for _ in range(4):
            if size > 1:
                steps.tick()
            if not steps.raft.is_steady or not steps.is_plain():
                break
            before = copy.deepcopy(steps.raft)
            steps.spoke.clear()
            for _ in range(rng.randrange(1, 30)):
                steps.step()
            if not steps.is_plain() or not steps.raft.is_steady:
                break
            if steps.raft.log.entries(before.log.last + 1, steps.raft.log.last) is None:
                break  # They have left memory, and are nobody's to say.
            before.stretch(stretch_between(before, steps.raft, steps.spoke))
            assert state(before) == state(steps.raft), f"seed {seed}"
            compared += 1
    assert compared > SEEDS
