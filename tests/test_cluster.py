"""Three real replicas: what clients see of them, and what is on their disks, when one is killed, paused, wiped or stopped.

Load is many counters at once, each asked one command after the other: the answer to the n-th names n and the sum of all n
amounts, so a command that was lost, or applied twice, shows in the very next answer.
"""

import asyncio
import shutil
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from apps.counting import Add, Read, Total
from cluster import Cluster, cluster
from replica import DEADLINE_S, wait_until

from leftfold.runtime.client import Client
from leftfold.runtime.slots import CONTROL_SNAPSHOT, CONTROL_TRANSFER

pytestmark = pytest.mark.xdist_group("serial")

KEYS = 12


class Load:
    """Counters kept busy from a thread of their own, through one client with all addresses."""

    def __init__(self, running: Cluster, keys: int = KEYS) -> None:
        self.running = running
        self.keys = [f"key {number}" for number in range(keys)]
        self.answered = dict.fromkeys(self.keys, 0)
        self.stopping = threading.Event()
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    @property
    def total(self) -> int:
        return sum(self.answered.values())

    def wait_for(self, more: int) -> None:
        """Wait until so many more were answered."""
        goal = self.total + more

        def reached() -> bool:
            assert self.failure is None, self.failure
            return self.total >= goal

        wait_until(reached, f"{more} more answers")

    def finish(self) -> None:
        self.stopping.set()
        self.thread.join()
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            asyncio.run(self._load())
        except BaseException as failure:  # noqa: BLE001 - told to whoever waits
            self.failure = failure

    async def _load(self) -> None:
        async with Client.connect(self.running.addresses, deadline_s=DEADLINE_S) as client:
            await asyncio.gather(*(self._count(client, key) for key in self.keys))

    async def _count(self, client: Client, key: str) -> None:
        total = 0
        while not self.stopping.is_set():
            number = self.answered[key] + 1
            total += number
            found = await client.ask(key, Add(amount=number))
            assert found == Total(value=total, commands=number), (key, number, found)
            self.answered[key] = number


@contextmanager
def load(running: Cluster) -> Generator[Load]:
    """Traffic; `finish()` says whether all of it was answered rightly."""
    working = Load(running)
    try:
        yield working
    finally:
        working.stopping.set()
        working.thread.join()


def ask(running: Cluster, act: Callable[[Client], Any], **options: Any) -> Any:
    """Do something with a client of the cluster."""

    async def inner() -> Any:
        async with Client.connect(running.addresses, deadline_s=DEADLINE_S, **options) as client:
            return await act(client)

    return asyncio.run(inner())


def check(running: Cluster, work: Load) -> None:
    """Every counter holds what was answered, and all replicas agree."""
    work.finish()
    expected = {
        key: Total(value=count * (count + 1) // 2, commands=count)
        for key, count in work.answered.items()
    }

    async def read(client: Client) -> dict[str, Total]:
        return {key: await client.query(key, Read()) for key in expected}

    assert ask(running, read) == expected
    running.agree()


def test_three_replicas_elect_and_answer_wherever_a_client_goes(tmp_path: Path) -> None:
    """A client that knows a follower alone is sent to the leader."""
    with cluster(tmp_path) as running:
        leader = running.leader()
        follower = next(id for id in running.replicas if id != leader)

        async def add(client: Client) -> Total:
            await client.ask("a", Add(amount=2))
            return await client.ask("a", Add(amount=3))

        async def elsewhere() -> Total:
            async with Client.connect([running.serves[follower]]) as client:
                return await client.query("a", Read())

        assert ask(running, add) == Total(value=5, commands=2)
        assert asyncio.run(elsewhere()) == Total(value=5, commands=2)
        assert {running.status(id)["role"] for id in running.replicas} == {"leader", "follower"}
        running.agree()


def test_kill_9_of_the_leader_under_load_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Twice, so that each log has been another's leader's; the killed one comes back and catches up."""
    with cluster(tmp_path) as running, load(running) as work:
        for _ in range(2):
            work.wait_for(300)
            leader = running.leader()
            running.kill(leader)
            work.wait_for(300)
            assert running.leader(set(running.replicas) - {leader}) != leader
            running.start(leader)
            running.wait_ready(leader)
        work.wait_for(100)
        check(running, work)


def test_a_paused_leader_is_replaced_and_follows_when_it_wakes(tmp_path: Path) -> None:
    """SIGSTOP of all five processes: it does not know that it was deposed, and nothing that it says counts."""
    with cluster(tmp_path) as running, load(running) as work:
        work.wait_for(200)
        leader = running.leader()
        running.pause(leader)
        work.wait_for(200)
        running.resume(leader)
        wait_until(
            lambda: running.status(leader)["role"] == "follower" and running.leader(), "it follows"
        )
        work.wait_for(100)
        check(running, work)


def test_all_three_stop_and_start_with_what_they_had(tmp_path: Path) -> None:
    """Stopped cleanly one after the other, and killed all at once."""
    with cluster(tmp_path) as running:

        async def add(client: Client) -> Total:
            return await client.ask("a", Add(amount=7))

        assert ask(running, add) == Total(value=7, commands=1)
        assert [running.stop(id) for id in running.replicas] == [0, 0, 0]
        running.start_all()
        assert ask(running, add) == Total(value=14, commands=2)
        for id in running.replicas:
            running.replicas[id].process.kill()
        for id in running.replicas:
            running.kill(id)
        running.start_all()
        assert ask(running, add) == Total(value=21, commands=3)
        running.agree()


def test_a_replica_that_was_away_is_sent_a_snapshot_and_the_log_behind_it(tmp_path: Path) -> None:
    """The log that it lacks was let go of: the others have two snapshots behind it."""
    with cluster(tmp_path) as running, load(running) as work:
        work.wait_for(100)
        leader = running.leader()
        away = next(id for id in running.replicas if id != leader)
        running.kill(away)
        for _ in range(2):
            work.wait_for(200)
            for id in set(running.replicas) - {away}:
                take_snapshot(running, id)
        wait_until(lambda: running.counters(leader)["log_first_index"] > 1, "the log is let go of")
        lost = running.counters(leader)["log_first_index"]
        running.start(away)
        running.wait_ready(away)
        wait_until(lambda: running.counters(away)["snapshot_index"] >= lost - 1, "the snapshot")
        work.wait_for(100)
        check(running, work)
        running.kill(away)  # What it received is durable, and it starts from that.
        running.start(away)
        running.wait_ready(away)
        running.agree()


def take_snapshot(running: Cluster, id: int) -> None:
    """Have one replica take a snapshot, and wait until it counts."""
    index = running.control(id, CONTROL_SNAPSHOT)["index"]
    wait_until(lambda: running.status(id)["snapshot"]["index"] >= index, f"snapshot {index}")


def test_leadership_is_handed_over_on_request(tmp_path: Path) -> None:
    """Under load, and to the one that was named."""
    with cluster(tmp_path) as running, load(running) as work:
        work.wait_for(100)
        leader = running.leader()
        heir = next(id for id in running.replicas if id != leader)
        assert running.control(leader, CONTROL_TRANSFER, to=heir)["to"] == heir
        wait_until(lambda: running.leader() == heir, "the heir leads")
        work.wait_for(100)
        check(running, work)


def test_a_wiped_replica_is_replaced_by_one_with_a_new_id(tmp_path: Path) -> None:
    """Removed, added as a learner, caught up, promoted: the old id never comes back."""
    with cluster(tmp_path) as running, load(running) as work:
        work.wait_for(100)
        leader = running.leader()
        gone = next(id for id in running.replicas if id != leader)
        running.kill(gone)
        shutil.rmtree(running.path(gone))
        del running.replicas[gone]
        running.members(leader, operation="remove", id=gone)
        wait_until(lambda: running.members(leader)["settled"], "the removal")
        new = running.join(leader)
        wait_until(
            lambda: (
                [m for m in running.members(running.leader())["members"] if m["id"] == new]
                and running.members(running.leader())["settled"]
            ),
            "the new one is a voter",
        )
        kinds = {m["id"]: m["kind"] for m in running.members(running.leader())["members"]}
        assert kinds == dict.fromkeys({1, 2, 3, new} - {gone}, "voter")
        work.wait_for(100)
        check(running, work)
