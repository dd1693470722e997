"""A real replica for tests: the supervisor and its four processes, started from nothing, killed as one likes.

Waiting is for conditions, each with a deadline far beyond what it takes; none of them is a timing threshold.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from leftfold.runtime.config import ReplicaConfig
from leftfold.runtime.topology import PROCESSES, segment_prefix
from leftfold.shm import Counters

DEADLINE_S = 60.0
APPS = Path(__file__).parent / "apps"

RUNNER = """
import json, sys
from leftfold.runtime.config import ReplicaConfig
from leftfold.runtime.errors import OperatorError
from leftfold.runtime.supervisor import Supervisor
config = ReplicaConfig.from_json(sys.argv[1])
def observe(event, facts):
    print(json.dumps([event, facts], default=str), flush=True)
try:
    sys.exit(Supervisor(config, observe).run())
except OperatorError as error:
    print(error, file=sys.stderr)
    sys.exit(1)
"""


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """Poll until the condition gives something true; fail with `what` if it never does."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {DEADLINE_S:.0f} s in vain: {what}"
        time.sleep(0.005)


class RunningReplica:
    """One supervisor with its processes."""

    def __init__(self, directory: Path, app: str, **config: Any) -> None:
        self.directory = directory
        self.config = self.configured(directory, app, **config)
        self.log = directory.with_suffix(".log")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", RUNNER, self.config.to_json()], stdout=log, stderr=log
            )

    @staticmethod
    def configured(directory: Path, app: str, **config: Any) -> ReplicaConfig:
        """The config of a start in a test, any field of which may be given."""
        defaults = {"app_directory": str(APPS), "port": 0}
        return ReplicaConfig(directory=directory, app=app, **(defaults | config))

    def status(self) -> dict[str, Any]:
        """What replica.json says, if it is there."""
        try:
            record: dict[str, Any] = json.loads((self.directory / "replica.json").read_text())
        except (OSError, ValueError):
            return {}
        return record if record["pids"]["supervisor"] == self.process.pid else {}

    def wait_for(self, state: str, generation: int = 0) -> dict[str, Any]:
        """Wait until the replica is in this state, in this generation or a later one."""

        def reached() -> dict[str, Any] | None:
            status = self.status()
            if status.get("state") == state and status["generation"] >= generation:
                return status
            assert self.process.poll() is None, self.output()
            return None

        found: dict[str, Any] = wait_until(reached, f"state {state}: {self.output()}")
        return found

    @property
    def port(self) -> int:
        """The port that clients connect to."""
        port: int = self.wait_for("ready")["port"]
        return port

    def pid(self, process: str) -> int:
        """The process id of one of the five."""
        pid: int = self.status()["pids"][process]
        return pid

    def kill(self, process: str) -> None:
        """kill -9 one of the five."""
        os.kill(self.pid(process), signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM to the supervisor; its exit code."""
        self.process.terminate()
        return self.process.wait(DEADLINE_S)

    def output(self) -> str:
        """Everything that supervisor and processes printed."""
        return self.log.read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        """What the supervisor's observer was told under one name."""
        found: list[dict[str, Any]] = []
        for line in self.output().splitlines():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, list) and event[0] == name:
                    found.append(event[1])
        return found

    def end(self) -> None:
        """Whatever happened: nothing of it runs on, and nothing is left in shared memory."""
        pids = [pid for name, pid in self.status().get("pids", {}).items() if name in PROCESSES]
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE_S)
        wait_until(lambda: not any(_runs(pid) for pid in pids), f"{pids} end with the supervisor")


def _runs(pid: int) -> bool:
    try:
        return b"leftfold" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def leavings(directory: Path) -> list[str]:
    """What of this replica is left in shared memory."""
    prefix = segment_prefix(directory)
    return [name for name in os.listdir("/dev/shm") if prefix in name]


@contextlib.contextmanager
def replica(directory: Path, app: str = "counting:app", **config: Any) -> Iterator[RunningReplica]:
    """A replica that is serving; ended when the block is left."""
    running = RunningReplica(directory, app, **config)
    try:
        running.wait_for("ready")
        yield running
    finally:
        running.end()


def refusal(directory: Path, **config: Any) -> str:
    """Start a replica that must not run: the only sentence that it printed."""
    log = directory.with_suffix(".log")
    before = len(log.read_text()) if log.exists() else 0
    starting = RunningReplica(directory, config.pop("app", "counting:app"), **config)
    assert starting.process.wait(DEADLINE_S) == 1
    printed = starting.output()[before:].splitlines()
    sentences = [text for text in printed if not text.startswith("[")]
    assert len(sentences) == 1, "\n".join(printed)
    return sentences[0]


def figure(directory: Path, process: str, name: str) -> int:
    """One counter of a replica, read without disturbing it."""
    return Counters.read(directory / "counters")[process].counters[name]
