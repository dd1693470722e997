"""A replica whose journal was damaged counts for nothing until its leader has given it back what it had: real processes."""

import random
from pathlib import Path

import pytest
from apps.counting import Add
from cluster import Cluster, cluster
from replica import DEADLINE_S, wait_until
from test_cluster import ask

from leftfold.raft import Role
from leftfold.runtime.client import Client
from leftfold.runtime.consensus import ROLES
from leftfold.runtime.salvage import NOTE_NAME
from leftfold.runtime.segments import list_segments

pytestmark = [pytest.mark.campaign, pytest.mark.xdist_group("serial")]


def add_all(running: Cluster, count: int) -> int:
    """Count so often, one after the other, each an entry of its own; how often it was counted in all."""

    async def inner(client: Client) -> int:
        for _ in range(count):
            found = await client.ask("a", Add(amount=1))
        return int(found.commands)

    return int(ask(running, inner))


def damage(running: Cluster, id: int, rng: random.Random) -> tuple[Path, int]:
    """Flip a bit in the middle of what a replica that is down has written."""
    _, path = list_segments(running.path(id) / "journal")[-1]
    content = bytearray(path.read_bytes())
    written = len(content.rstrip(b"\0"))
    at = rng.randrange(4096 + (written - 4096) // 4, 4096 + (written - 4096) // 2)
    content[at] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return path, at


def test_a_damaged_journal_is_repaired_and_does_not_vote_until_then(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    with cluster(tmp_path) as running:
        counted = add_all(running, 150)
        running.agree()
        for id in running.replicas:
            running.kill(id)
        hurt, whole, third = running.replicas
        path, _ = damage(running, hurt, rng)
        running.start(hurt)
        running.start(whole)
        wait_until(lambda: running.counters(whole)["role"] == 1, "one would like to be elected")
        said = f"The journal was damaged at {path}"
        wait_until(lambda: said in running.replicas[hurt].output(), "the damage is told")
        ready = running.replicas[hurt].events("ready")
        wait_until(
            lambda: "role" in running.counters(hurt) and running.counters(hurt)["role"] == 0,
            "the damaged one does not ask for votes",
        )
        found = running.counters(whole)  # It may have just learnt of a later term, and ask again.
        assert ROLES[found["role"]] in (Role.FOLLOWER, Role.PRE_CANDIDATE), "a damaged one voted"
        assert found["leader"] == 0

        running.start(third)
        running.wait_ready(whole, third)
        wait_until(lambda: running.replicas[hurt].events("ready") != ready, running.output())
        running.agree()
        assert add_all(running, 10) == counted + 10
        running.agree()
        assert not (path.parent / NOTE_NAME).exists()


def test_a_follower_with_a_damaged_journal_catches_up_while_the_others_go_on(
    tmp_path: Path,
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    with cluster(tmp_path) as running:
        add_all(running, 150)
        leader = running.leader()
        follower = next(id for id in running.replicas if id != leader)
        running.agree()
        for _ in range(2):
            add_all(running, 30)  # Each says term and vote behind what will be damaged.
            running.agree()
            running.kill(follower)
            counted = add_all(running, 20)
            damage(running, follower, rng)
            running.start(follower)
            running.wait_ready(follower)
            running.agree()
        assert add_all(running, 1) == counted + 1


def test_a_replica_without_others_is_refused_with_file_and_offset(tmp_path: Path) -> None:
    with cluster(tmp_path, count=1) as running:
        add_all(running, 150)
        running.kill(1)
        path, at = damage(running, 1, random.Random(1))
        one = running.start(1)
        assert one.process.wait(DEADLINE_S) == 1, one.output()
        said = one.output().splitlines()[-1]
        assert said.startswith(f"The journal is damaged: {path} at offset "), said
        assert int(said.split(" at offset ")[1].split(":")[0]) <= at
