"""Where the processes of a replica run: by profile, and under `shared` by how much comes together."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from replica import replica, wait_until

from leftfold.actors.ledger import Deposit
from leftfold.runtime import metrics
from leftfold.runtime.blocking_client import BlockingClient
from leftfold.runtime.errors import OperatorError
from leftfold.runtime.placement import (
    DEDICATED,
    SHARED,
    SPREAD,
    Placement,
    profile_for,
    spin_ns,
)
from leftfold.runtime.topology import CONSENSUS, GATEWAY, JOURNAL, LOGIC, PROCESSES
from leftfold.shm import Counters

CORES = tuple(sorted(os.sched_getaffinity(0)))
several_cores = pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")


def test_the_number_of_cores_chooses_and_a_name_overrules_it() -> None:
    assert [profile_for("", cores) for cores in (1, 2, 3, 4, 16)] == [SHARED] * 3 + [SPREAD] * 2
    assert profile_for(SPREAD, 1) == SPREAD
    assert profile_for(DEDICATED, 4) == DEDICATED


@pytest.mark.parametrize(
    ("name", "words"), [("fast", "choose one of"), (DEDICATED, "choose shared")]
)
def test_what_cannot_be_is_a_sentence(name: str, words: str) -> None:
    with pytest.raises(OperatorError, match=words):
        profile_for(name, 2)


def test_nobody_spins_where_cores_are_shared() -> None:
    assert [spin_ns(SHARED, process) for process in PROCESSES] == [0, 0, 0, 0]
    assert all(spin_ns(DEDICATED, process) > spin_ns(SPREAD, process) for process in PROCESSES)


@pytest.fixture
def figures(tmp_path: Path) -> Path:
    Counters.create(tmp_path / "counters", metrics.schema())
    return tmp_path / "counters"


@pytest.fixture
def placed(figures: Path) -> Iterator[Placement]:
    """Four processes that do nothing, placed as on a machine with few cores."""
    commands = [sys.executable, "-c", "input()"]
    processes = {
        name: subprocess.Popen(commands, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for name in PROCESSES
    }
    placement = Placement(SHARED, CORES, 1)
    placement.begin({name: process.pid for name, process in processes.items()}, figures)
    yield placement
    placement.end()
    for process in processes.values():
        process.kill()
        process.communicate()


def came(figures: Path, *, turns: int, turn_bytes: int, batches: int, batch_bytes: int) -> None:
    """So much has come since the last time."""
    with Counters.attach(figures, GATEWAY) as gateway:
        gateway.counters["turns"].add(turns)
        gateway.counters["bytes_in"].add(turns * turn_bytes)
    with Counters.attach(figures, JOURNAL) as journal:
        journal.counters["batches"].add(batches)
        journal.counters["bytes"].add(batches * batch_bytes)


def where(placement: Placement) -> list[int]:
    return [len(os.sched_getaffinity(placement.pids[name])) for name in PROCESSES]


@several_cores
def test_little_at_a_time_brings_them_together_and_much_sets_them_free(
    placed: Placement, figures: Path
) -> None:
    little = {"turns": 200, "turn_bytes": 60, "batches": 100, "batch_bytes": 200}
    free = [len(CORES)] * 4
    assert where(placed) == free

    came(figures, **little)
    placed.look()
    assert where(placed) == free, "once may be chance"
    came(figures, **little)
    placed.look()
    assert where(placed) == [len(CORES) - 1, 1, 1, 1]
    core = os.sched_getaffinity(placed.pids[LOGIC])
    assert core == os.sched_getaffinity(placed.pids[CONSENSUS])
    assert not core & os.sched_getaffinity(placed.pids[GATEWAY])

    placed.look()
    assert where(placed) == [len(CORES) - 1, 1, 1, 1], "silence changes nothing"
    came(figures, **(little | {"turn_bytes": 5000}))
    placed.look()
    assert where(placed) == free, "many queries, which are in no batch"
    for _ in range(2):
        came(figures, **little)
        placed.look()
    came(figures, **(little | {"batch_bytes": 50_000, "turn_bytes": 0}))
    placed.look()
    assert where(placed) == free, "a follower, which has no clients"


@several_cores
def test_processes_that_are_gone_are_not_moved(placed: Placement, figures: Path) -> None:
    placed.pids = dict.fromkeys(PROCESSES, 2**22 - 1)
    for _ in range(3):
        came(figures, turns=1, turn_bytes=1, batches=1, batch_bytes=1)
        placed.look()
    assert placed.together


@several_cores
@pytest.mark.skipif(len(CORES) >= 4, reason="such a machine is not shared by itself")
@pytest.mark.xdist_group("serial")
def test_a_replica_with_one_client_runs_together(tmp_path: Path) -> None:
    with replica(tmp_path / "replica", "leftfold.actors.ledger:app") as running:
        pids = {name: running.pid(name) for name in (*PROCESSES, "supervisor")}
        with BlockingClient("127.0.0.1", running.port) as client:

            def asked_and_together() -> bool:
                client.ask("a", Deposit("b", 1))
                return len(os.sched_getaffinity(pids[LOGIC])) == 1

            wait_until(asked_and_together, "the processes share a core")
        places = {name: os.sched_getaffinity(pids[name]) for name in PROCESSES}
        assert places[CONSENSUS] == places[JOURNAL] == places[LOGIC]
        assert len(os.sched_getaffinity(pids["supervisor"])) == len(CORES)
