"""Random histories of a one-thread cluster; raft_cluster.py checks safety after every step.

A failure prints its seed: `LEFTFOLD_SEED=<seed> pytest tests/test_raft_cluster.py` replays it.
"""

import os
import random
from typing import Any

import pytest
from raft_cluster import Cluster

from leftfold.raft import Role

REPLAYED = os.environ.get("LEFTFOLD_SEED")
SEEDS = [int(REPLAYED)] if REPLAYED else list(range(1, 41))
STEPS = 5_000


class Chaos:
    """One random history: which replica does what next, and what the wire does to messages."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        # Small limits make windows fill, bodies leave memory and proposals be refused.
        tight = self.random.random() < 0.5
        limits: dict[str, Any] = (
            {
                "recent_bytes_max": 40,
                "append_bytes_max": 12,
                "appends_in_flight_max": 2,
                "entries_in_flight_bytes_max": 30,
                "unapplied_entries_max": 12,
                "unapplied_bytes_max": 40,
            }
            if tight
            else {}
        )
        self.cluster = Cluster(
            self.random.choice([1, 2, 3, 3, 3, 5, 5]),
            seed,
            learners=self.random.choice([0, 0, 1]),
            election_ticks=self.random.choice([3, 5, 10]),
            **limits,
        )
        self.ids = list(self.cluster.replicas)
        self.cut: set[frozenset[int]] = set()
        self.loss = self.random.choice([0.0, 0.02, 0.1])
        self.twice = self.random.choice([0.0, 0.1])
        self.crashes = self.random.choice([0.0, 0.002, 0.01])
        self.sync_chance = self.random.choice([0.3, 1.0])
        self.burst = self.random.choice([2, 4, 8])
        self.drift = self.random.choice([1, 4, 12])
        self.proposed = 0

    def up(self) -> list[int]:
        return [id for id in self.ids if self.cluster.replicas[id].raft is not None]

    def step(self) -> None:
        cluster, rng = self.cluster, self.random
        down = [id for id in self.ids if cluster.replicas[id].raft is None]
        if down and rng.random() < 0.03:
            cluster.restart(rng.choice(down))
        if len(down) == len(self.ids):
            return
        if rng.random() < self.crashes:
            self.crash_one()
            return
        id = rng.choice(self.up())
        act = rng.random()
        if act < 0.22:
            # Clocks drift: one runs ahead of the others, so a follower may lose patience.
            for _ in range(rng.choice([1, 1, 1, 2, self.drift])):
                cluster.tick(id)
        elif act < 0.60:
            for _ in range(self.burst):
                self.deliver_one()
        elif act < 0.70:
            leader = cluster.leader
            # Mostly the newest leader; sometimes one that was deposed and does not know.
            target = id if leader is None or rng.random() < 0.2 else leader
            for _ in range(rng.choice([1, 1, 4])):
                self.proposed += 1
                cluster.propose(target, b"%d" % self.proposed)
        elif act < 0.74:
            # Of every replica that believes it leads, also if it was deposed.
            for other in self.up():
                if cluster.raft(other).role is Role.LEADER:
                    cluster.read(other)
        elif act < 0.742:
            cluster.transfer(id if cluster.leader is None else cluster.leader, rng.choice(self.ids))
        elif act < 0.88:
            pending = len(cluster.replicas[id].disk.pending)
            if pending and rng.random() < self.sync_chance:
                cluster.sync(id, rng.randint(1, pending))
        elif act < 0.94:
            cluster.apply(id)
        elif act < 0.985:
            cluster.fetch(id)
        else:
            self.repartition()

    def deliver_one(self) -> None:
        wire, rng = self.cluster.wire, self.random
        if not wire:
            return
        # Mostly in order, sometimes far out of it.
        position = 0 if rng.random() < 0.7 else rng.randrange(len(wire))
        message = wire[position]
        if rng.random() >= self.twice:
            del wire[position]
        if rng.random() < self.loss or frozenset((message.source, message.target)) in self.cut:
            return
        self.cluster.deliver(message)

    def crash_one(self) -> None:
        rng, id = self.random, self.random.choice(self.up())
        replica = self.cluster.replicas[id]
        whole = rng.randint(0, len(replica.disk.pending))
        torn = None
        if len(replica.disk.pending) > whole and rng.random() < 0.5:
            torn = rng.randint(-1, len(replica.disk.pending[whole].entries))
        self.cluster.crash(id, whole, torn)

    def repartition(self) -> None:
        side = {id for id in self.ids if self.random.random() < 0.5}
        if self.cluster.leader is not None and self.random.random() < 0.5:
            side = {self.cluster.leader, self.random.choice(self.ids)}
        self.cut = (
            set()
            if self.random.random() < 0.7
            else {frozenset((a, b)) for a in side for b in self.ids if b not in side}
        )

    def heal(self) -> None:
        """Everything works again: the cluster must elect, commit and agree within bounds."""
        cluster = self.cluster
        self.cut.clear()
        for id in self.ids:
            if cluster.replicas[id].raft is None:
                cluster.restart(id)
        index = None
        for _ in range(600):
            for id in self.ids:
                cluster.tick(id)
            cluster.settle()
            if cluster.leader is not None and index is None:
                index = cluster.propose(cluster.leader, b"last")
            if index is not None and all(
                len(replica.applied) >= index for replica in cluster.replicas.values()
            ):
                return
        raise AssertionError("the healed cluster does not commit")


@pytest.mark.parametrize("seed", SEEDS)
def test_no_history_breaks_safety_and_a_healed_cluster_commits(seed: int) -> None:
    print(f"LEFTFOLD_SEED={seed}")
    chaos = Chaos(seed)

    for _ in range(STEPS):
        chaos.step()
    chaos.heal()

    logs = {tuple(replica.applied) for replica in chaos.cluster.replicas.values()}
    assert len(logs) == 1


def test_the_same_seed_gives_the_same_history() -> None:
    def history() -> list[str]:
        lines: list[str] = []
        chaos = Chaos(7)
        chaos.cluster.trace = lines.append
        for _ in range(STEPS):
            chaos.step()
        return lines

    first = history()

    assert len(first) > 100
    assert first == history()


def test_the_histories_reach_what_they_are_meant_to_test() -> None:
    """Without this the random tests could pass by never electing, fetching or truncating."""
    seen: set[str] = set()
    for seed in range(1, 13):
        lines: list[str] = []
        chaos = Chaos(seed)
        chaos.cluster.trace = lines.append
        for _ in range(STEPS):
            chaos.step()
            seen |= {"fetch" for replica in chaos.cluster.replicas.values() if replica.fetches}
        text = "\n".join(lines)
        seen |= {word for word in ("remove from", "cannot follow", "may answer") if word in text}
        seen |= {"a second leader"} if len(chaos.cluster.leaders) > 1 else set()

    assert seen == {"fetch", "remove from", "cannot follow", "may answer", "a second leader"}
