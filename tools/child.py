"""A replica as a child process: `leftfold run --json`, its events, and how to end it; and any other program as one.

The child ends with this process, whatever happens to it. Its stderr goes where ours goes, unless a
file is given.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

from attrs import define, field

from ..runtime.errors import OperatorError
from ..runtime.supervisor import read_status
from .status import is_leftfold

GONE_S = 30.0
POLL_S = 0.01
START = (
    "import os, sys; from leftfold.shm import die_with_parent; "
    "die_with_parent(int(sys.argv[1])); os.execv(sys.argv[2], sys.argv[2:])"
)


def ending_with_us(command: list[str]) -> list[str]:
    """The command that runs this one, whose program is a path, and has the kernel end it with this process."""
    return [sys.executable, "-P", "-c", START, str(os.getpid()), *command]


@define
class Child:
    """One replica that this process has started."""

    app: str
    directory: Path
    ready_s_max: float = 120.0
    options: tuple[str, ...] = ()
    """More of the options of `leftfold run`."""
    process: subprocess.Popen[bytes] = field(init=False)
    port: int = field(default=0, init=False)
    ready: dict[str, Any] = field(factory=dict[str, Any], init=False)
    seen_s: dict[str, float] = field(factory=dict[str, float], init=False)
    """When each kind of event was first seen."""

    def start(self, errors: BinaryIO | None = None) -> None:
        """Start it and wait until it serves. Raises OperatorError when it does not."""
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "leftfold.tools", "run", self.app),
                *("--dir", str(self.directory), "--port", "0", "--json"),
                f"--end-with={os.getpid()}",
                *self.options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            process_group=0,
        )
        self.ready = self._wait_for_ready()
        self.port = int(self.ready["address"][1])

    def _wait_for_ready(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        output = self.process.stdout.fileno()
        waiting = select.poll()  # select() knows no descriptor above 1,023.
        waiting.register(output, select.POLLIN)
        deadline = time.monotonic() + self.ready_s_max
        buffer = b""
        while True:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not waiting.poll(left_s * 1e3):
                self.kill()
                raise OperatorError(f"The replica was not ready within {self.ready_s_max:.0f} s.")
            piece = os.read(output, 65536)
            if not piece:
                code = self.process.wait()
                raise OperatorError(f"The replica ended with code {code} before it was ready.")
            *lines, buffer = (buffer + piece).split(b"\n")
            for line in lines:
                event: dict[str, Any] = json.loads(line)
                self.seen_s.setdefault(event["event"], time.perf_counter())
                if event["event"] == "ready":
                    return event

    def stop(self) -> int:
        """Drain and end it; its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self._reap()

    def kill(self) -> None:
        """kill -9, the supervisor first and then its four processes; returns when all are gone."""
        try:
            pids = list(read_status(self.directory)["pids"].values())
        except OperatorError:
            pids = []
        if self.process.poll() is None:
            self.process.kill()
        self._reap()
        for pid in pids:
            if is_leftfold(pid):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + GONE_S
        while any(is_leftfold(pid) for pid in pids):
            if time.monotonic() > deadline:
                raise OperatorError(f"Processes of the replica do not end: {pids}.")
            time.sleep(POLL_S)

    def _reap(self) -> int:
        code = self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code
