"""Histories as clients record them, and the load that is judged by them."""

import asyncio
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cluster_load import cells, load
from linearizability import NEVER, read_history
from scripted import Scripted
from served import until

from leftfold.actors import Rejected
from leftfold.actors.ledger import BalanceOf, Deposit, Withdraw, app
from leftfold.runtime.blocking_client import BlockingClient
from leftfold.runtime.client import Client
from leftfold.runtime.failures import TimedOut, Unknown
from leftfold.runtime.recorder import Recorder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_every_operation_is_recorded_with_how_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with Scripted(app, 1) as cluster:
        one = cluster.replicas[0]
        with BlockingClient.connect(one.text, history=path) as client:
            client.ask("bank", Deposit("alice", 5))
            with pytest.raises(Rejected):
                client.ask("bank", Withdraw("alice", 50))
            one.works = False
            with pytest.raises(Unknown) as unknown:
                client.ask("bank", Deposit("alice", 7), deadline_s=0.05)
            with pytest.raises(TimedOut):
                client.query("bank", BalanceOf("alice"), deadline_s=0.05)
            one.works = True
            one.hang_up()
            client.query("bank", BalanceOf("alice"))
            client.resolve(unknown.value)
            client.query("bank", BalanceOf("alice"))
    found = lines(path)

    ends = [(line["type"], line["f"]) for line in found]
    assert ends == [
        ("invoke", "deposit"),
        ("ok", "deposit"),
        ("invoke", "withdraw"),
        ("fail", "withdraw"),
        ("invoke", "deposit"),
        ("info", "deposit"),
        ("invoke", "balanceof"),
        ("fail", "balanceof"),
        ("invoke", "balanceof"),
        ("ok", "balanceof"),
        ("ok", "deposit"),
        ("invoke", "balanceof"),
        ("ok", "balanceof"),
    ]
    assert found[0]["value"] == {"account": "alice", "cents": 5} and found[0]["key"] == "bank"
    assert found[1]["value"]["cents"] == 5 and found[9]["value"]["cents"] == 12
    times = [line["time"] for line in found]
    assert times == sorted(times)
    first, second = found[0]["process"], found[6]["process"]
    assert [line["process"] for line in found] == [first] * 6 + [second] * 4 + [first] + [
        second
    ] * 2
    assert first // 1_000_000 == os.getpid()


def test_tasks_that_ask_at_once_are_processes_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"

    async def run(to: str) -> None:
        async with Client.connect(to, history=str(path)) as client:
            for _ in range(3):
                await asyncio.gather(*(client.ask("bank", Deposit("alice", 1)) for _ in range(10)))

    with Scripted(app, 1) as cluster:
        asyncio.run(run(cluster.text))
    operations = read_history(path.read_bytes().splitlines())

    assert len(operations) == 30 and all(one.returned_ns != NEVER for one in operations)
    assert len({one.process for one in operations}) == 10


def test_a_cancelled_ask_is_recorded_as_unknown(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"

    async def run(cluster: Scripted) -> None:
        async with Client.connect(cluster.text, history=path) as client:
            cluster.replicas[0].works = False
            asking = asyncio.create_task(client.ask("bank", Deposit("alice", 1)))
            while len(cluster.replicas[0].asked) < 2:
                await asyncio.sleep(0.001)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

    with Scripted(app, 1) as cluster:
        asyncio.run(run(cluster))
    assert [line["type"] for line in lines(path)] == ["invoke", "info"]


def test_several_processes_write_one_file_and_a_killed_one_has_told_what_it_asked(
    tmp_path: Path,
) -> None:
    path = tmp_path / "history.jsonl"
    child = (
        "import os, sys\n"
        "from leftfold.actors.ledger import Deposit\n"
        "from leftfold.runtime.recorder import Recorder\n"
        "recorder = Recorder(sys.argv[1])\n"
        "for cents in range(500):\n"
        "    recorder.invoke('bank', Deposit('alice', cents)).answered(None)\n"
        "recorder.invoke('bank', Deposit('alice', 500))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    children = [subprocess.Popen([sys.executable, "-c", child, str(path)]) for _ in range(2)]
    assert [one.wait(60) for one in children] == [-9, -9]
    operations = read_history(path.read_bytes().splitlines())

    assert len(operations) == 1002
    assert sum(one.returned_ns == NEVER for one in operations) == 2
    assert len({one.process for one in operations}) == 2


def test_what_f_and_value_are_is_the_users_to_say(tmp_path: Path) -> None:
    recorder = Recorder(
        tmp_path / "history.jsonl",
        describe=lambda message: ("add", message.cents),
        outcome=lambda message, reply: reply.cents,
        first_process=70,
    )
    with (
        Scripted(app, 1) as cluster,
        BlockingClient.connect(cluster.text, history=recorder) as client,
    ):
        client.ask("bank", Deposit("alice", 5))
        client.ask("bank", Deposit("alice", 6))
    recorder.close()

    told = [(one["process"], one["f"], one["value"]) for one in lines(recorder.path)]
    assert told == [(70, "add", 5), (70, "add", 5), (70, "add", 6), (70, "add", 11)]


def test_a_load_is_judged_good_though_leaders_change_and_connections_break(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    history = tmp_path / "history.jsonl"
    with (
        Scripted(cells.app, 3) as cluster,
        load(cluster.text, history, deadline_s=0.1, patience_s=0.1) as working,
    ):
        seen = working.report
        for turn in range(25):
            old = cluster.leader
            if turn % 5 == 4:
                cluster.leader = None
                before = seen.unknown
                until(lambda before=before: seen.unknown > before, "somebody is not answered")
            cluster.leader = rng.choice(cluster.replicas)
            if old is not None and rng.random() < 0.5:
                old.hang_up()
            before = seen.answered
            until(lambda before=before: seen.answered > before + 10, "the load goes on")
        report = working.finish()
    report.check()
    assert report.answered > 250 and report.unknown >= 5 and report.gap_s > 0.1


@pytest.mark.parametrize("lie", ["double", "lose"])
def test_a_load_finds_what_is_applied_twice_or_not_at_all(tmp_path: Path, lie: str) -> None:
    """The machine is changed behind the clients' backs."""
    with (
        Scripted(cells.app, 1) as cluster,
        load(cluster.text, tmp_path / "history.jsonl", clients=2) as working,
    ):
        counters = cluster.fold.machine.state.actors[90]
        own = working.workers[0].key.encode()

        def change() -> bool:
            counter = counters.get(own)
            if counter is None or not counter.commands:
                return False
            sign = 1 if lie == "double" else -1
            counter.commands += sign
            counter.value += sign * 5
            return True

        until(lambda: cluster.do(change), "the counter is there")
        report = working.finish()
    with pytest.raises(AssertionError, match="was answered"):
        report.check()
    report.workers.clear()
    with pytest.raises(AssertionError, match="is not linearizable"):
        report.check()
