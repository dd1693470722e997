"""Nothing but business logic costs Python per message: what each process of a replica calls, counted under load.

The count is of function calls, Python's and C's, in each process (counted/sitecustomize.py). In full batches a process that called
anything for each command would make more calls than there are commands.
"""

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from replica import RUNNER, RunningReplica, leavings

from leftfold.runtime.topology import CONSENSUS, GATEWAY, JOURNAL, LOGIC, PROCESSES
from leftfold.tools import load
from leftfold.tools.reading import take

pytestmark = [pytest.mark.campaign, pytest.mark.xdist_group("serial")]

LEDGER = "leftfold.actors.ledger:app"
COUNTED = Path(__file__).parent / "counted"
COMMANDS = 60_000

INJECT = """
import os
import leftfold.runtime.supervisor as supervisor
clean = supervisor._clean_environment
added = {name: os.environ[name] for name in ("PYTHONPATH", "LEFTFOLD_CALLS")}
supervisor._clean_environment = lambda seed: clean(seed) | added
"""


class CountedReplica(RunningReplica):
    """A replica whose processes count their calls."""

    def __init__(self, directory: Path, calls: Path) -> None:
        self.directory = directory
        self.calls = calls
        self.config = self.configured(directory, LEDGER)
        self.log = directory.with_suffix(".log")
        added = {"PYTHONPATH": str(COUNTED), "LEFTFOLD_CALLS": str(calls)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", INJECT + RUNNER, self.config.to_json()],
                stdout=log,
                stderr=log,
                env=os.environ | added,
            )

    def counts(self) -> dict[str, int]:
        """Calls of each process so far."""
        pids = self.status()["pids"]
        return {
            name: int.from_bytes((self.calls / str(pids[name])).read_bytes(), "little")
            for name in PROCESSES
        }


@contextmanager
def counted(place: Path) -> Generator[CountedReplica]:
    (place / "calls").mkdir()
    running = CountedReplica(place / "replica", place / "calls")
    try:
        running.wait_for("ready")
        yield running
    finally:
        running.end()
    assert leavings(running.directory) == []


def test_only_logic_calls_python_for_each_command(tmp_path: Path) -> None:
    with counted(tmp_path) as running:
        load.prepare("127.0.0.1", running.port)
        load.throughput("127.0.0.1", running.port, commands=COMMANDS // 10, prepared=True)
        before, entries = running.counts(), take(running.directory).counter(CONSENSUS, "entries")
        load.throughput(
            "127.0.0.1", running.port, commands=COMMANDS, window=4096, sessions=16, prepared=True
        )
        after = running.counts()
        entries = take(running.directory).counter(CONSENSUS, "entries") - entries

    per_command = {name: (after[name] - before[name]) / COMMANDS for name in PROCESSES}
    print(f"{entries} entries; calls for each command: {per_command}")
    for name in (GATEWAY, CONSENSUS, JOURNAL):
        assert per_command[name] < 1, "it calls something for each command"
    assert per_command[LOGIC] > 1, "the handler is called"
