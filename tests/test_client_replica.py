"""Clients and a whole replica: a client that is killed, a replica that is paused; each command is applied once, and that is known."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_load import load
from replica import APPS, RunningReplica, replica, wait_until

from leftfold.runtime.blocking_client import BlockingClient
from leftfold.runtime.failures import NotApplied, TimedOut, Unknown
from leftfold.tools.cluster import free_ports

sys.path.append(str(APPS))
from counting import Add, Read, Total

pytestmark = pytest.mark.xdist_group("serial")

ASKER = """
import itertools, os, sys
sys.path.append({apps!r})
from counting import Add
from leftfold.runtime.blocking_client import BlockingClient
session = bytes.fromhex(sys.argv[2]) if len(sys.argv) > 2 else None
with BlockingClient.connect(sys.argv[1], session=session) as client:
    print(client.session_id.hex(), client.last_request, flush=True)
    for reply in client.ask_many(("a", Add(number)) for number in itertools.count(1)):
        pass
"""


def paused(running: RunningReplica, signal_: signal.Signals) -> None:
    """Send a signal to all five processes."""
    for pid in running.status()["pids"].values():
        os.kill(pid, signal_)


def test_a_client_killed_again_and_again_goes_on_with_its_session(tmp_path: Path) -> None:
    """A pipeline is in flight whenever it dies; nothing of it is applied twice, and the next process knows what was."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    with replica(tmp_path / "r") as running:
        to = f"127.0.0.1:{running.port}"
        session = ""
        with BlockingClient.connect(to) as reader:
            before = reader.ask("a", Add(0))
            for _ in range(4):
                command = [sys.executable, "-c", ASKER.format(apps=str(APPS)), to]
                child = subprocess.Popen(
                    [*command, *([session] if session else [])], stdout=subprocess.PIPE, text=True
                )
                assert child.stdout is not None
                session, begin = child.stdout.readline().split()
                goal = before.commands + rng.randrange(1, 4000)
                wait_until(
                    lambda goal=goal: reader.query("a", Read()).commands > goal, "it is at work"
                )
                child.kill()
                child.wait()
                child.stdout.close()

                with BlockingClient.connect(to, session=bytes.fromhex(session), keep=True) as after:
                    found = after.query("a", Read())
                    # The n-th request of the killed process added n.
                    applied = after.applied_before - int(begin)
                    assert found.commands - before.commands == applied > 0
                    assert found.value - before.value == applied * (applied + 1) // 2
                    assert after.resolve(after.applied_before, "a", Add(applied)) == found
                    with pytest.raises(NotApplied):
                        after.resolve(after.applied_before + 1)
                    before = after.ask("a", Add(0))
                    assert before == Total(found.value, found.commands + 1)


def test_what_is_unknown_while_a_replica_is_paused_is_resolved_when_it_goes_on(
    tmp_path: Path,
) -> None:
    with (
        replica(tmp_path / "r") as running,
        BlockingClient.connect(f"127.0.0.1:{running.port}") as client,
    ):
        assert client.ask("a", Add(1)) == Total(1, 1)
        paused(running, signal.SIGSTOP)
        try:
            with pytest.raises(Unknown) as unknown:
                client.ask("a", Add(10), deadline_s=0.3)
            with pytest.raises(TimedOut):
                client.query("a", Read(), deadline_s=0.1)
            with pytest.raises(Unknown):
                client.resolve(unknown.value, deadline_s=0.1)
        finally:
            paused(running, signal.SIGCONT)
        assert client.resolve(unknown.value) == Total(11, 2)
        assert client.ask("a", Add(100)) == Total(111, 3)


def test_a_load_on_a_replica_whose_processes_are_killed_is_judged_good(tmp_path: Path) -> None:
    with (
        replica(tmp_path / "r", "cells:app", port=free_ports("127.0.0.1", 1)[0]) as running,
        load(f"127.0.0.1:{running.port}", tmp_path / "history.jsonl", deadline_s=0.5) as working,
    ):
        seen = working.report
        for generation, process in enumerate(("logic", "gateway", "journal"), 1):
            before = seen.answered
            wait_until(lambda before=before: seen.answered > before + 50, "the load goes on")
            running.kill(process)
            running.wait_for("ready", generation + 1)
        before = seen.answered
        wait_until(lambda: seen.answered > before + 50, "the load goes on")
        report = working.finish()
        report.check()
    print(f"{report.answered} answered, {report.unknown} unknown, gap {report.gap_s:.2f} s")
