"""Three real replicas on disks of their own that are slow, refuse, are full, or lose their power: one of them, or all at once.

A power cut is disks.py's: what no sync has reached is not in the copy that the replica goes on with.
"""

import asyncio
import contextlib
import os
import re
from collections.abc import Generator, Iterable
from pathlib import Path

import pytest
from apps.counting import Add, Read, Total
from cluster import Cluster, cluster
from disks import cut_power, failing_calls, loop_disk, mounted
from replica import DEADLINE_S, wait_until
from test_cluster import Load, check, load
from test_replica_campaign import SMALL

from leftfold.runtime.client import Client
from leftfold.runtime.failures import DiskFull

pytestmark = [pytest.mark.campaign, pytest.mark.xdist_group("serial")]

DISK_BYTES = 128 * 1024 * 1024
SLOW_US = 3_000_000


class Machines:
    """A disk for each replica, whose power can be cut."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.images = {id: directory / f"image-{id}" for id in (1, 2, 3)}
        self._held: dict[int, contextlib.ExitStack] = {}
        for id, image in self.images.items():
            self._mount(id, loop_disk(image, self.place(id), DISK_BYTES))

    def place(self, id: int) -> Path:
        return self.directory / f"replica-{id}"

    def cut(self, running: Cluster, ids: Iterable[int]) -> None:
        """All of these at one moment; they are down then, and their disks hold what had been synced."""
        ids = [*ids]
        for id in ids:
            running.pause(id)
        for id in ids:
            cut_power(self.images[id], self.images[id].with_suffix(".cut"))
        for id in ids:
            running.kill(id)
            running.paused.discard(id)
        for id in ids:
            self._held.pop(id).close()
            self.place(id).rmdir()
            copy = self.images[id].with_suffix(".cut")
            copy.replace(self.images[id])
            self._mount(id, mounted(self.place(id), "-o", "loop", str(self.images[id])))

    def _mount(self, id: int, disk: contextlib.AbstractContextManager[Path]) -> None:
        stack = contextlib.ExitStack()
        stack.enter_context(disk)
        self._held[id] = stack

    @contextlib.contextmanager
    def filled(self, running: Cluster, id: int) -> Generator[None]:
        """All but 64 blocks of a replica's disk are taken, and it has said so; in the end it has room again, and has said that."""
        ballast = self.place(id) / "ballast"
        room = os.statvfs(self.place(id))
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, (room.f_bavail - 64) * room.f_frsize)
        output = running.replicas[id].output
        wait_until(lambda: "The disk is nearly full" in output(), running.output())
        yield
        ballast.unlink()
        wait_until(lambda: "There is room on disk again" in output(), running.output())

    def close(self) -> None:
        for stack in self._held.values():
            stack.close()


@contextlib.contextmanager
def at_work(directory: Path) -> Generator[tuple[Machines, Cluster, Load]]:
    """Three replicas on their disks, with clients; in the end each answer is there once, and the replicas are equal."""
    with contextlib.ExitStack() as stack:
        machines = Machines(directory)
        stack.callback(machines.close)
        running = stack.enter_context(cluster(directory, limits=SMALL))
        work = stack.enter_context(load(running))
        work.wait_for(100)
        yield machines, running, work
        work.wait_for(100)
        check(running, work)


def test_a_slow_sync_costs_the_leader_its_office_and_a_power_cut_then_nothing(
    tmp_path: Path,
) -> None:
    """It starts again, with what it had promised."""
    with at_work(tmp_path) as (machines, running, work):
        leader = running.leader()
        journal = running.replicas[leader].pid("journal")
        slow = f"fdatasync:delay_enter={SLOW_US}"
        with failing_calls(journal, slow, tmp_path / "strace"):
            wait_until(lambda: running.leader() != leader, f"another leads: {running.output()}")
            work.wait_for(100)
            machines.cut(running, [leader])
        work.wait_for(100)
        running.start(leader)
        running.wait_ready(leader)


def test_the_power_of_all_three_goes_at_once(tmp_path: Path) -> None:
    """What was answered is on two of three disks; nothing else need be there."""
    with at_work(tmp_path) as (machines, running, work):
        for _ in range(2):
            machines.cut(running, running.replicas)
            running.start_all()
            work.wait_for(100)


@pytest.mark.parametrize(
    ("injection", "said"),
    [
        ("fdatasync:error=EIO:when=1", r"Cannot sync .*Input/output error"),
        ("pwritev2:error=ENOSPC:when=1+", r"The disk is full: cannot write to .*start the replica"),
    ],
    ids=["a sync fails", "there is no room"],
)
def test_a_leader_whose_disk_refuses_stops_and_the_others_go_on(
    tmp_path: Path, injection: str, said: str
) -> None:
    """It started again, it has what it had promised, and is given the rest."""
    with at_work(tmp_path) as (_, running, work):
        leader = running.leader()
        one = running.replicas[leader]
        with failing_calls(one.pid("journal"), injection, tmp_path / "strace"):
            assert one.process.wait(DEADLINE_S) == 1, one.output()
        assert re.search(said, one.output()), one.output()
        work.wait_for(200)
        running.start(leader)
        running.wait_ready(leader)


def test_a_follower_whose_disk_is_full_is_passed_by_and_catches_up_when_there_is_room(
    tmp_path: Path,
) -> None:
    with at_work(tmp_path) as (machines, running, work):
        leader = running.leader()
        follower = next(id for id in running.replicas if id != leader)
        with machines.filled(running, follower):
            work.wait_for(300)
            assert running.alive(follower) and running.leader() == leader


def test_a_leader_whose_disk_is_full_refuses_commands_and_goes_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    """With the sentence, and each for good; what was answered is there, and is read meanwhile."""
    with contextlib.ExitStack() as stack:
        machines = Machines(tmp_path)
        stack.callback(machines.close)
        running = stack.enter_context(cluster(tmp_path, limits=SMALL))

        async def inner() -> None:
            async with Client.connect(running.addresses, deadline_s=DEADLINE_S) as client:
                assert await client.ask("a", Add(amount=1)) == Total(value=1, commands=1)
                leader = running.leader()
                with machines.filled(running, leader):
                    for _ in range(3):
                        with pytest.raises(DiskFull, match="The disk is nearly full"):
                            await client.ask("a", Add(amount=2))
                    assert await client.query("a", Read()) == Total(value=1, commands=1)
                    assert running.leader() == leader
                assert await client.ask("a", Add(amount=4)) == Total(value=5, commands=2)

        asyncio.run(inner())
        running.agree()
