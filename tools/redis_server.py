"""A Redis of our own to be measured beside: the server, and its own load.

The server keeps its files in the given directory and ends with the call, or with this process, whatever happens to it. It is asked
over a Unix socket; it listens on a port of loopback only where one is given. redis-benchmark is Redis's own load: a closed loop of
so many clients, each with so many commands in flight; it measures a replica's door as well.
"""

import csv
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from attrs import define, field, frozen

from ..runtime.errors import OperatorError
from .child import ending_with_us
from .cluster import free_ports

START_S_MAX = 60
POLL_S = 0.002
LOOPBACK = "127.0.0.1"
SYNCED = {"--appendonly": "yes", "--appendfsync": "always", "--auto-aof-rewrite-percentage": "0"}
"""As durable as a replica: synced before each answer. It never writes its log anew while it is measured."""


@frozen
class Benchmark:
    """What redis-benchmark said."""

    per_second: float
    p50_us: float
    p99_us: float
    max_us: float


def missing() -> str | None:
    """What has to be installed for all of this, as a sentence; None: nothing."""
    if shutil.which("redis-server") and shutil.which("redis-benchmark"):
        return None
    return "redis-server and redis-benchmark are not installed: apt install redis-server"


def synced_server(place: Path) -> "tuple[Server, int]":
    """A server that syncs before it answers, not started yet, and its port."""
    program = shutil.which("redis-server")
    assert program is not None
    [port] = free_ports(LOOPBACK, 1)
    place.mkdir()
    options = {"--port": str(port), "--bind": LOOPBACK, **SYNCED}
    return Server(program, place, options), port


def benchmark(port: int, *, clients: int, pipeline: int, requests: int) -> Benchmark:
    """INCR, by redis-benchmark. Raises OperatorError if it was answered with errors."""
    program = shutil.which("redis-benchmark")
    assert program is not None
    numbers = ("-c", str(clients), "-P", str(pipeline), "-n", str(requests))
    done = subprocess.run(
        [program, "-h", LOOPBACK, "-p", str(port), "-t", "incr", "--csv", *numbers],
        capture_output=True,
        text=True,
        check=False,
    )
    rows = [row for row in csv.DictReader(done.stdout.splitlines()) if row.get("test") == "INCR"]
    if done.returncode or len(rows) != 1:
        raise OperatorError(f"redis-benchmark failed: {(done.stderr or done.stdout).strip()}")
    found = {name: float(value) for name, value in rows[0].items() if name != "test"}
    return Benchmark(
        found["rps"],
        found["p50_latency_ms"] * 1e3,
        found["p99_latency_ms"] * 1e3,
        found["max_latency_ms"] * 1e3,
    )


@define(eq=False)
class Server:
    """A server, from `with` to its end."""

    program: str
    place: Path
    options: dict[str, str] = field(factory=dict[str, str])
    """More of its options, by name."""
    _process: subprocess.Popen[bytes] = field(init=False)
    _socket: socket.socket = field(init=False)
    _received: bytes = field(default=b"", init=False)

    def __enter__(self) -> Self:
        path = self.place / "socket"
        options = {
            "--port": "0",
            "--unixsocket": str(path),
            "--dir": str(self.place),
            "--save": "",
            "--logfile": str(self.place / "log"),
            **self.options,
        }
        (self.place / "log").unlink(missing_ok=True)
        arguments = [self.program, *(word for option in options.items() for word in option)]
        self._process = subprocess.Popen(ending_with_us(arguments), stdout=subprocess.DEVNULL)
        deadline_s = time.monotonic() + START_S_MAX
        self._socket = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self._socket.connect(str(path))
                break
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline_s:
                    raise
                time.sleep(POLL_S)
        while self.ask(b"PING").startswith(b"-LOADING"):
            time.sleep(POLL_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait()

    def info(self, section: str, name: str) -> str:
        """One value of INFO."""
        lines = self.ask(b"INFO", section.encode()).decode().splitlines()
        return next(line.partition(":")[2] for line in lines if line.startswith(f"{name}:"))

    def send(self, data: bytes) -> None:
        """Send it these bytes."""
        self._socket.sendall(data)

    def ask(self, *words: bytes) -> bytes:
        """The answer to a command: a line, or a text."""
        self._socket.sendall(command(words))
        line = self.line()
        if not line.startswith(b"$"):
            return line
        length = int(line[1:])
        while len(self._received) < length + 2:
            self._receive()
        text, self._received = self._received[:length], self._received[length + 2 :]
        return text

    def log(self) -> str:
        """What the server has written about itself."""
        return (self.place / "log").read_text()

    def line(self) -> bytes:
        """The next line that it says."""
        while (end := self._received.find(b"\r\n")) < 0:
            self._receive()
        line, self._received = self._received[:end], self._received[end + 2 :]
        return line

    def _receive(self) -> None:
        data = self._socket.recv(1 << 20)
        if not data:
            raise ConnectionError("the server has hung up")
        self._received += data


def command(words: Iterable[bytes]) -> bytes:
    """A command as Redis reads it."""
    parts = list(words)
    body = b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
    return b"*%d\r\n" % len(parts) + body
