"""Random histories of a one-thread cluster: one seed is one history, and safety is checked after each step.

Drops, duplicates, reordering, partitions, drifting clocks, crashes, disks that lose what was not
synced or tear it, damaged logs, snapshots and compaction, members that come and go, leaders that
hand over, reads. Then `heal`: everything works again, and the cluster must come to agree.
"""

import random
from typing import Any

from attrs import evolve
from raft_cluster import Cluster

from leftfold.raft import Change, InstallSnapshot, Message, Refused, Role

REPLICAS_MAX = 9
FLIPPED = 0.01


class Chaos:
    """Which replica does what next, and what the wire does to messages."""

    def __init__(self, seed: int) -> None:
        rng = self.random = random.Random(seed)
        # Small limits make windows fill, bodies leave memory and proposals be refused.
        tight = rng.random() < 0.5
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
        limits["chunk_bytes_max"] = rng.choice([40, 200, 1000])
        limits["chunks_in_flight_bytes_max"] = limits["chunk_bytes_max"] * rng.choice([1, 3])
        self.cluster = Cluster(
            rng.choice([1, 2, 3, 3, 3, 5, 5]),
            seed,
            learners=rng.choice([0, 0, 1]),
            election_ticks=rng.choice([3, 5, 10]),
            **limits,
        )
        self.cut: set[frozenset[int]] = set()
        self.loss = rng.choice([0.0, 0.02, 0.1])
        self.twice = rng.choice([0.0, 0.1])
        self.crashes = rng.choice([0.0, 0.002, 0.01])
        self.sync_chance = rng.choice([0.3, 1.0])
        self.burst = rng.choice([2, 4, 8])
        self.drift = rng.choice([1, 4, 12])
        self.snapshots = rng.choice([0.0, 0.02, 0.05])
        # Of a damaged replica no vote comes until it is repaired. Should the others be removed
        # meanwhile, no leader could: so a history has the one or the other.
        self.changes = rng.choice([0.0, 0.005, 0.02])
        self.damages = rng.random() < 0.5 and not self.changes and len(self.cluster.voters) >= 3
        self.proposed = 0

    @property
    def ids(self) -> list[int]:
        return list(self.cluster.replicas)

    def up(self) -> list[int]:
        return [id for id, replica in self.cluster.replicas.items() if replica.raft is not None]

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()
        self.heal()

    def step(self) -> None:
        cluster, rng = self.cluster, self.random
        down = [id for id in self.ids if cluster.replicas[id].raft is None]
        if down and rng.random() < 0.03:
            cluster.restart(rng.choice(down))
        up = self.up()
        if not up:
            return
        if rng.random() < self.crashes:
            self.crash_one()
            return
        id = rng.choice(up)
        if rng.random() < self.snapshots:
            self.snapshot_or_compact(id)
            return
        if rng.random() < self.changes:
            self.change_members(id)
            return
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
        elif act < 0.93:
            cluster.apply(id)
        elif act < 0.95:
            for other in up:
                cluster.check(other, damaged=rng.random() < 0.2)
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
        self.cluster.deliver(self.flip(message))

    def flip(self, message: Message) -> Message:
        """A bit of a snapshot may change on the way."""
        if not isinstance(message, InstallSnapshot) or not message.chunk:
            return message
        if self.random.random() >= FLIPPED:
            return message
        at = self.random.randrange(len(message.chunk))
        chunk = bytearray(message.chunk)
        chunk[at] ^= 1 << self.random.randrange(8)
        return evolve(message, chunk=bytes(chunk))

    def crash_one(self) -> None:
        rng, id = self.random, self.random.choice(self.up())
        disk = self.cluster.replicas[id].disk
        whole = rng.randint(0, len(disk.pending))
        torn = None
        if len(disk.pending) > whole and rng.random() < 0.5:
            torn = rng.randint(-1, len(disk.pending[whole].entries))
        self.cluster.crash(id, whole, torn)
        healthy = all(replica.disk.damage is None for replica in self.cluster.replicas.values())
        newest = disk.newest
        behind = disk.first if newest is None else max(disk.first, newest.index + 1)
        if self.damages and healthy and disk.last >= behind and rng.random() < 0.3:
            self.cluster.harm(id, rng.randint(behind, disk.last))

    def snapshot_or_compact(self, id: int) -> None:
        if self.random.random() < 0.5:
            self.cluster.snapshot(id)
        else:
            newest = self.cluster.replicas[id].disk.newest
            if newest is not None:
                keep = self.random.choice([0, 0, 3, 20])
                self.cluster.compact(id, newest.index + 1 - keep)

    def change_members(self, id: int) -> None:
        cluster, rng = self.cluster, self.random
        leader = cluster.leader if cluster.leader is not None and rng.random() < 0.9 else id
        membership = cluster.raft(leader).membership
        voters, learners = sorted(membership.voters), sorted(membership.learners)
        new = membership.last_id + 1
        if not voters:
            return
        kind = rng.random()
        if kind < 0.35 and new <= REPLICAS_MAX and len(membership.members) < 6:
            change = Change(add={new: b""}, promote=[new] if rng.random() < 0.7 else [])
        elif kind < 0.5 and learners:
            change = Change(promote=[rng.choice(learners)])
        elif kind < 0.6 and learners:
            change = Change(remove=[rng.choice(learners)])
        elif kind < 0.7 and len(voters) > 3 and new <= REPLICAS_MAX:
            change = Change(add={new: b""}, promote=[new], remove=rng.sample(voters, 2))
        else:
            change = Change(remove=[rng.choice(voters)])
        begun = cluster.change(leader, change)
        if not isinstance(begun, Refused):
            for added, _ in change.add:
                if added not in cluster.replicas:
                    cluster.join(added)

    def repartition(self) -> None:
        rng, ids = self.random, self.ids
        side = {id for id in ids if rng.random() < 0.5}
        if self.cluster.leader is not None and rng.random() < 0.5:
            side = {self.cluster.leader, rng.choice(ids)}
        self.cut = (
            set()
            if rng.random() < 0.7
            else {frozenset((a, b)) for a in side for b in ids if b not in side}
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
            leader = cluster.leader
            if leader is None:
                continue
            raft = cluster.raft(leader)
            membership = raft.membership
            settled = raft.commit >= raft.membership_index and not membership.outgoing
            if index is None and settled and not membership.joining:
                index = cluster.propose(leader, b"last")
            if index is not None and self.agrees(membership.members, index):
                return
        raise AssertionError("the healed cluster does not commit")

    def agrees(self, members: frozenset[int], index: int) -> bool:
        replicas = [self.cluster.replicas[id] for id in sorted(members)]
        return (
            all(len(replica.applied) >= index for replica in replicas)
            and len({tuple(replica.applied[:index]) for replica in replicas}) == 1
            and all(replica.disk.damage is None for replica in replicas)
        )
