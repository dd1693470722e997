"""Three real replicas hurt under load: cut off, half cut off, on a bad line, stopped and killed, process by process.

Clients record what they see (cluster_load.py). Afterwards every history is linearizable, each command was applied exactly once, the
three replicas have the same digest at the same index, and nothing is left in shared memory. Then what must not be believed:
a directory that lost its votes, a second replica under one id, a journal from elsewhere.
"""

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import attrs
import pytest
from apps.counting import Add, Read, Total
from cluster import Cluster, cluster
from cluster_load import Load, load
from network import host_of, network
from replica import DEADLINE_S, leavings, wait_until

from leftfold.actors.limits import Limits
from leftfold.runtime.client import Client
from leftfold.runtime.identity import member_identity, open_identity
from leftfold.runtime.slots import CONTROL_TRANSFER
from leftfold.runtime.topology import PROCESSES

pytestmark = [pytest.mark.campaign, pytest.mark.xdist_group("serial")]

FIVE = ("supervisor", *PROCESSES)
YEAR_S = 365.0 * 24 * 3600
HURT_S = 2.0
"""How long a fault lasts whose end nothing tells: several election time-outs."""


def hold(seconds: float = HURT_S) -> None:
    """The fault's duration itself is the condition."""
    threading.Event().wait(seconds)


@contextlib.contextmanager
def loaded(directory: Path) -> Generator[tuple[Cluster, Load]]:
    """Three replicas, and clients at work on them; in the end, all that must hold."""
    with cluster(directory, app="cells:app") as running:
        to = ",".join(f"{host}:{port}" for host, port in running.addresses)
        with load(to, directory / "history.jsonl", clients=6, keys=3) as working:
            progress(working)
            yield running, working
            report = working.finish()
        print(f"{report.answered} answered, {report.unknown} unknown, gap {report.gap_s:.3f} s")
        report.check()
        running.agree()
    assert [left for id in running.replicas for left in leavings(running.path(id))] == []


def progress(working: Load, answers: int = 100) -> None:
    """Wait until so many more were answered."""
    goal = working.report.answered + answers

    def answered() -> bool:
        working.check_alive()
        return working.report.answered >= goal

    wait_until(answered, f"{answers} answers more")


def another(running: Cluster, than: int) -> int:
    """A replica that is not this one."""
    return next(id for id in running.replicas if id != than)


def follows_still(running: Cluster, id: int) -> int:
    """This one; should it have come to lead, it has handed over."""
    leader = running.leader()
    if leader == id:
        running.control(leader, CONTROL_TRANSFER)
        wait_until(lambda: running.leader() != id, f"another leads: {running.output()}")
    return id


def follows(running: Cluster, id: int) -> None:
    """Wait until a replica follows the one that leads."""

    def told() -> bool:
        leader = running.leader()
        facts = running.status(id)
        return id == leader or (facts["role"] == "follower" and facts["leader"] == leader)

    wait_until(told, f"{id} follows: {running.output()}")


# Partitions


@pytest.mark.parametrize("clients", [False, True], ids=["with its clients", "without clients"])
def test_an_isolated_leader_is_replaced_and_what_it_says_does_not_count(
    tmp_path: Path, clients: bool
) -> None:
    """Its clients still reach it, or do not: it gives up its office, and answers nothing that is stale."""
    with network() as net, loaded(tmp_path) as (running, working):
        leader = running.leader()
        net.isolate(leader, running.replicas, clients=not clients)
        others = set(running.replicas) - {leader}
        wait_until(lambda: running.leader(others) in others, "another leader")
        progress(working)
        wait_until(lambda: running.counters(leader)["role"] != 3, "it gives up its office")
        net.heal()
        follows(running, leader)
        progress(working)


def test_an_isolated_follower_costs_nothing_and_does_not_disturb_when_it_is_back(
    tmp_path: Path,
) -> None:
    """Pre-vote: it never gets to a new term alone, so nobody loses an office for it."""
    with network() as net, loaded(tmp_path) as (running, working):
        leader = running.leader()
        away = another(running, leader)
        term = running.counters(leader)["term"]
        net.isolate(away, running.replicas)
        wait_until(lambda: running.counters(away)["role"] == 1, "it would like to be elected")
        hold()
        progress(working)
        net.heal()
        follows(running, away)
        assert running.counters(away)["term"] == term
        assert running.leader() == leader
        progress(working)


def from_leader(leader: int, followers: list[int]) -> list[tuple[str, str]]:
    """It is heard by nobody, and hears all."""
    return [(host_of(leader), host_of(id)) for id in followers]


def to_leader(leader: int, followers: list[int]) -> list[tuple[str, str]]:
    """It hears nobody, and is heard by all."""
    return [(host_of(id), host_of(leader)) for id in followers]


def to_one(leader: int, followers: list[int]) -> list[tuple[str, str]]:
    """One follower does not hear it."""
    return [(host_of(leader), host_of(followers[0]))]


def from_one(leader: int, followers: list[int]) -> list[tuple[str, str]]:
    """It does not hear one follower."""
    return [(host_of(followers[0]), host_of(leader))]


def in_a_ring(leader: int, followers: list[int]) -> list[tuple[str, str]]:
    """Each is heard by one other only: no two can talk."""
    a, b, c = (host_of(id) for id in (leader, *followers))
    return [(a, c), (c, b), (b, a)]


Cut = Callable[[int, list[int]], list[tuple[str, str]]]


@pytest.mark.parametrize(
    ("cut", "serves"),
    [
        (from_leader, True),
        (to_leader, True),
        (to_one, True),
        (from_one, True),
        (in_a_ring, False),
    ],
)
def test_a_one_way_cut(tmp_path: Path, cut: Cut, serves: bool) -> None:
    """Where two replicas can talk, clients are served while the cut lasts; everywhere they are when it is healed."""
    with network() as net, loaded(tmp_path) as (running, working):
        leader = running.leader()
        net.cut(cut(leader, [id for id in running.replicas if id != leader]))
        hold()
        if serves:
            progress(working)
        net.heal()
        for id in running.replicas:
            follows(running, id)
        progress(working)


def test_one_packet_in_five_is_lost(tmp_path: Path) -> None:
    """Between all replicas, at random: slow, with elections, and right."""
    with network() as net, loaded(tmp_path) as (_, working):
        net.lose(20)
        progress(working, 200)
        hold(2 * HURT_S)
        net.heal()
        progress(working)


def test_a_link_that_comes_and_goes(tmp_path: Path) -> None:
    """First the leader's with a follower, then everything of whoever leads."""
    with network() as net, loaded(tmp_path) as (running, working):
        for round in range(8):
            leader = running.leader()
            if round < 4:
                net.isolate(leader, [another(running, leader)])
            else:
                net.isolate(leader, running.replicas)
            hold(0.1 * (1 + round % 4))
            net.heal()
            hold(0.3)
        progress(working)


def test_a_line_on_which_everything_takes_its_time(tmp_path: Path) -> None:
    """First so long that it is merely slow; then longer than an election takes, and of changing length, until it is healed."""
    with network() as net, loaded(tmp_path) as (running, working):
        with net.delayed(0.02, jitter_s=0.02) as line:
            progress(working)
            hold()
            assert line.carried > 100
        with net.delayed(0.2, jitter_s=0.4) as line:
            hold(2 * HURT_S)
            assert line.carried
        for id in running.replicas:
            follows(running, id)
        progress(working)


# Processes that stand still


@pytest.mark.parametrize("who", ["leader", "first follower", "second follower"])
def test_each_process_of_each_replica_stops_and_goes_on(tmp_path: Path, who: str) -> None:
    """Clients are served meanwhile, but where it is the leader's logic: that costs the time that it stands, and nothing else.
    Where it is the leader's journal, the leader hands over."""
    leads = who == "leader"
    with loaded(tmp_path) as (running, working):
        followers = [id for id in running.replicas if id != running.leader()]
        follower = followers[who == "second follower"]
        for process in FIVE:
            id = running.leader() if leads else follows_still(running, follower)
            pid = running.replicas[id].pid(process)
            os.kill(pid, signal.SIGSTOP)
            try:
                hold()
                if not leads or process != "logic":
                    progress(working)
                if leads and process == "journal":
                    assert running.leader() != id
            except AssertionError as failed:
                raise AssertionError(f"{process} of {id}: {running.output()}") from failed
            finally:
                os.kill(pid, signal.SIGCONT)
            follows(running, id)
            progress(working)
        assert [running.replicas[id].events("died") for id in running.replicas] == [[], [], []]


# Deaths


@pytest.mark.long
def test_kill_9_of_each_process_of_each_replica_in_turn(tmp_path: Path) -> None:
    """Fifteen deaths, each of a replica that has caught up since the last."""
    with loaded(tmp_path) as (running, working):
        for process, id in itertools.product(FIVE, list(running.replicas)):
            found = running.replicas[id].wait_for("ready")
            if process == "supervisor":
                running.kill(id)
                running.start(id)
                running.wait_ready(id)
            else:
                running.replicas[id].kill(process)
                running.replicas[id].wait_for("ready", found["generation"] + 1)
            follows(running, id)
            progress(working, 20)


def test_all_three_are_killed_at_once(tmp_path: Path) -> None:
    """The fifteen processes; twice, so that the second time the log has entries of the first."""
    with loaded(tmp_path) as (running, working):
        for _ in range(2):
            progress(working)
            pids = [
                pid for one in running.replicas.values() for pid in one.status()["pids"].values()
            ]
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for id in list(running.replicas):
                running.kill(id)
                running.start(id)
            running.wait_ready()
        progress(working)


# Clocks that jump


def test_a_clock_that_is_a_year_off_is_named_or_does_not_matter(tmp_path: Path) -> None:
    """Ahead: who would lead by it stops, and another leads. Behind: log time goes on from where it was."""
    with cluster(tmp_path) as running:
        assert add(running, 1) == Total(value=1, commands=1)
        leader = running.leader()
        off = another(running, leader)
        running.stop(off)
        running.start(off, wall_offset_s=YEAR_S)
        running.wait_ready(off)
        running.control(leader, CONTROL_TRANSFER, to=off)
        process = running.replicas[off].process
        wait_until(lambda: process.poll() is not None, f"it stops: {running.output()}")
        assert process.wait(DEADLINE_S) == 1
        assert "--accept-clock-step" in running.replicas[off].output(), running.output()
        assert add(running, 2) == Total(value=3, commands=2)

        running.start(off, wall_offset_s=-YEAR_S)
        running.wait_ready(off)
        leader = running.leader()
        running.control(leader, CONTROL_TRANSFER, to=off)
        wait_until(lambda: running.leader() == off, "the one with the slow clock leads")
        assert add(running, 4) == Total(value=7, commands=3)
        running.agree()


# What was lost, and what is not to be believed


def add(running: Cluster, amount: int, but: int = 0) -> Total:
    """One command, asked of whoever leads; one replica's address may be left out."""
    addresses = [address for id, address in running.serves.items() if id != but]

    async def inner() -> Total:
        async with Client.connect(addresses, deadline_s=DEADLINE_S) as client:
            return await client.ask("a", Add(amount=amount))

    return asyncio.run(inner())


def total(running: Cluster) -> Total:
    """What the counter holds."""

    async def inner() -> Total:
        async with Client.connect(running.addresses, deadline_s=DEADLINE_S) as client:
            return await client.query("a", Read())

    return asyncio.run(inner())


def kill_all(running: Cluster) -> None:
    for id in running.replicas:
        running.kill(id)


def refused(running: Cluster, id: int) -> str:
    """A start that must fail: what it said."""
    one = running.start(id)
    assert one.process.wait(DEADLINE_S) == 1, one.output()
    said = one.output().splitlines()[-1]
    assert not said.startswith(("[", " ")), one.output()
    return said


def test_what_is_on_one_disk_only_is_not_forgotten(tmp_path: Path) -> None:
    """Committed on A and B; A is wiped, B is down, C is behind: nobody leads, and when B is back nothing is lost."""
    with cluster(tmp_path) as running:
        a = running.leader()
        b, c = (id for id in running.replicas if id != a)
        assert add(running, 1) == Total(value=1, commands=1)
        running.agree()
        running.kill(c)
        assert add(running, 10) == Total(value=11, commands=2)
        running.kill(b)
        running.kill(a)
        for path in running.path(a).iterdir():
            if path.name != "identity.json":  # Wiped by a hand that meant well.
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        running.start(c)
        wait_until(lambda: running.counters(c)["role"] == 1, "it would like to be elected")
        hold(2 * HURT_S)
        assert running.replicas[c].events("ready") == running.replicas[c].events("ready")[:1]
        assert running.counters(c)["role"] == 1
        running.start(b)
        wait_until(lambda: running.leader({b, c}) == b, "the one that has it leads")
        assert total(running) == Total(value=11, commands=2)
        assert add(running, 100) == Total(value=111, commands=3)


@pytest.mark.parametrize("lost", ["journal", "journal's files"])
def test_a_replica_that_lost_its_vote_does_not_come_back_under_its_id(
    tmp_path: Path, lost: str
) -> None:
    """Term and vote are in the journal. The others go on without it."""
    with cluster(tmp_path) as running:
        assert add(running, 1) == Total(value=1, commands=1)
        gone = another(running, running.leader())
        running.kill(gone)
        journal = running.path(gone) / "journal"
        shutil.rmtree(journal)
        if lost != "journal":
            journal.mkdir()
        said = refused(running, gone)
        assert "holds no journal" in said and "vote" in said, said
        assert add(running, 2) == Total(value=3, commands=2)


def test_a_replica_that_lost_its_identity_is_given_no_new_one(tmp_path: Path) -> None:
    """Its votes would come back under another name."""
    with cluster(tmp_path) as running:
        assert add(running, 1) == Total(value=1, commands=1)
        gone = another(running, running.leader())
        running.kill(gone)
        identity = running.path(gone) / "identity.json"
        kept = identity.read_bytes()
        identity.unlink()
        said = refused(running, gone)
        assert "has lost its identity" in said, said
        assert add(running, 2) == Total(value=3, commands=2)
        identity.write_bytes(kept)
        running.start(gone)
        running.wait_ready(gone)
        running.agree()


def test_two_replicas_with_one_id_are_told_apart_and_named(tmp_path: Path) -> None:
    """A copy of a follower's directory is started elsewhere: it is linked with nobody, and both sides say why."""
    with cluster(tmp_path) as running:
        assert add(running, 1) == Total(value=1, commands=1)
        leader, twin = running.leader(), max(running.replicas)  # The later one calls.
        if leader == twin:
            running.control(leader, CONTROL_TRANSFER, to=1)
            leader = wait_until(lambda: running.leader() == 1, "another one leads")
        running.stop(twin)
        shutil.copytree(running.path(twin), running.path(9))
        running.start(twin)
        running.wait_ready(twin)
        running.place(9)
        second = running.start(9)
        words = f"Two replicas have the id {twin}"
        wait_until(
            lambda: words in running.replicas[leader].output() and words in second.output(),
            "it is named on both sides",
        )
        assert add(running, 2, but=9) == Total(value=3, commands=2)
        assert second.events("ready") == [], second.output()
        running.kill(9)
        del running.replicas[9]
        running.agree()


def test_a_journal_from_another_cluster_is_not_opened(tmp_path: Path) -> None:
    """And one from another replica of the same cluster is not either."""
    with cluster(tmp_path / "here") as running, cluster(tmp_path / "there") as other:
        assert add(running, 1) == Total(value=1, commands=1)
        assert add(other, 5) == Total(value=5, commands=1)
        gone = another(running, running.leader())
        running.kill(gone)
        for source in (other.path(gone), running.path(running.leader())):
            for name in ("journal", "snapshots"):
                shutil.rmtree(running.path(gone) / name, ignore_errors=True)
                if (source / name).exists():
                    shutil.copytree(source / name, running.path(gone) / name)
            said = refused(running, gone)
            assert "belongs to replica" in said and "not to replica" in said, said
        assert add(running, 2) == Total(value=3, commands=2)


def test_a_cluster_of_another_name_is_not_joined(tmp_path: Path) -> None:
    """A replica whose directory was made for another cluster finds nobody who talks with it."""
    with cluster(tmp_path) as running:
        assert add(running, 1) == Total(value=1, commands=1)
        leader = running.leader()
        gone = another(running, leader)
        running.kill(gone)
        shutil.rmtree(running.path(gone))
        stranger = member_identity(
            running.app,
            gone,
            os.urandom(16),
            running.founders,
            limits=attrs.asdict(Limits()),
        )
        open_identity(running.path(gone), running.app, stranger)
        ready = running.replicas[gone].events("ready")
        there = running.start(gone)
        wait_until(
            lambda: "belongs to another cluster" in running.replicas[leader].output(),
            "it is named",
        )
        assert add(running, 2, but=gone) == Total(value=3, commands=2)
        assert there.events("ready") == ready
