"""Many clients at once: memory and latency with ten thousand connections and a hundred thousand sessions, a thousand of them active.

    python -m leftfold.tools.bench_connections [--connections N] [--sessions N] [--active N] [--commands N] [--dir DIR] [--json]

One replica of the ledger. The active sessions, each on a connection of its own, have one transfer in flight each, as long as there are
any; first alone, then with all other connections open and their sessions too. Then each connection must be answered a PING, and the
replica is killed and started again. One Python program plays all clients (turns.py), so latencies are for comparing the two with each other, not with other benchmarks.
Memory is PSS, of each process: before anybody came, and at the end. There is no threshold here.
"""

import contextlib
import os
import platform
import resource
import secrets
import select
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import define, field, frozen
from rich.console import Console
from rich.table import Table

from ..runtime import frames
from ..runtime.errors import OperatorError
from ..runtime.supervisor import read_status
from . import load
from .bench_replica import LEDGER_APP
from .child import Child
from .figures import command_line, give
from .footprint import pss_bytes
from .progress import progress
from .reading import take
from .redis_server import LOOPBACK
from .turns import take_turns

SPARE_DESCRIPTORS = 512
SOURCES = 8
"""Addresses of loopback that clients come from: each has ports of its own."""
AT_ONCE = 200
"""Connections that are made before their answers are awaited."""
RECEIVE_BYTES = 1 << 16


@frozen
class Sizes:
    """How many of what."""

    connections: int = 10_000
    sessions: int = 100_000
    active: int = 1_000
    commands: int = 20_000


@define(eq=False)
class Idler:
    """A connection with some sessions, which does nothing."""

    link: socket.socket
    expects: int
    """Frames that it waits for."""
    decoder: frames.Decoder = field(factory=frames.Decoder)

    def receive(self) -> int:
        """Take what has come; how many frames are still missing."""
        data = self.link.recv(RECEIVE_BYTES)
        if not data:
            raise OperatorError("The replica closed a connection.")
        for frame in self.decoder.receive(data):
            if isinstance(frame, frames.Error) or (
                isinstance(frame, frames.Reply) and frame.status
            ):
                raise OperatorError(f"The replica did not serve a client: {frame}.")
            self.expects -= 1
        return self.expects


@define(eq=False)
class Idlers:
    """All that are idle."""

    port: int
    all: list[Idler] = field(factory=list[Idler])

    def open(self, connections: int, sessions: int, done: Any) -> None:
        """Connect, and open sessions, spread over the connections."""
        for first in range(0, connections, AT_ONCE):
            some = range(first, min(connections, first + AT_ONCE))
            fresh = [self._opened(number, connections, sessions) for number in some]
            self.all += fresh
            _await(fresh)
            done(len(self.all))

    def _opened(self, number: int, connections: int, sessions: int) -> Idler:
        link = socket.socket()
        link.bind((f"127.0.0.{2 + number % SOURCES}", 0))
        link.connect((LOOPBACK, self.port))
        own = (number + 1) * sessions // connections - number * sessions // connections
        opens = (frames.open_session(secrets.token_bytes(16)) for _ in range(own))
        link.sendall(frames.hello() + b"".join(opens))
        return Idler(link, 1 + own)

    def ping(self) -> None:
        """All of them are there and are answered."""
        for first in range(0, len(self.all), AT_ONCE):
            some = self.all[first : first + AT_ONCE]
            for idler in some:
                idler.expects = 1
                idler.link.sendall(frames.ping(7))
            _await(some)

    def close(self) -> None:
        """Hang up."""
        for idler in self.all:
            idler.link.close()


def _await(some: Sequence[Idler]) -> None:
    """Until each has all that it expects."""
    poller = select.epoll()
    by_fd = {idler.link.fileno(): idler for idler in some}
    try:
        for fd in by_fd:
            poller.register(fd, select.EPOLLIN)
        while by_fd:
            ready = poller.poll(load.STALLED_S)
            if not ready:
                raise OperatorError(f"{len(by_fd)} clients are not answered.")
            for fd, _ in ready:
                if not by_fd[fd].receive():
                    poller.unregister(fd)
                    del by_fd[fd]
    finally:
        poller.close()


def active(port: int, sizes: Sizes) -> dict[str, float]:
    """Those that have a command in flight: how long it takes."""
    lanes, replies = load.connect_lanes(LOOPBACK, port, sizes.active)
    try:
        each = max(1, sizes.commands // sizes.active)
        for lane in lanes:
            lane.load(load.transfers(load.ONE_LEDGER, lane.index, each, load.ACCOUNTS), 1)
        curve, per_second = take_turns("active", lanes, replies)
    finally:
        for lane in lanes:
            lane.close()
    return {"per_second": per_second} | curve.figures()


def memory(directory: Path) -> dict[str, int]:
    """PSS of each process."""
    pids: dict[str, int] = read_status(directory)["pids"]
    return {name: pss_bytes(pid) for name, pid in pids.items()}


def run(sizes: Sizes, directory: Path | None = None) -> dict[str, Any]:
    """All figures. Raises OperatorError where something fell over."""
    idle = sizes.connections - sizes.active
    assert idle > 0 and sizes.sessions > sizes.active, "there are more than the active ones"
    _allow(sizes.connections + SPARE_DESCRIPTORS)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="leftfold-bench-", dir=directory) as place:
        child = Child(LEDGER_APP, Path(place) / "replica")
        child.start()
        idlers = Idlers(child.port)
        try:
            load.prepare(LOOPBACK, child.port)
            found["pss_bytes_before"] = memory(child.directory)
            found["alone"] = active(child.port, sizes)
            with progress("connections", idle, "clients") as done:
                idlers.open(idle, sizes.sessions - sizes.active, done)
            found["among_all"] = active(child.port, sizes)
            idlers.ping()
            found["pss_bytes"] = memory(child.directory)
            reading = take(child.directory)
            found["connections"] = reading.counter("gateway", "connections")
            found["sessions"] = reading.counter("gateway", "sessions")
            child.kill()
            child = Child(LEDGER_APP, child.directory)
            began_s = time.perf_counter()
            child.start()
            found["started_again_s"] = time.perf_counter() - began_s
        finally:
            idlers.close()
            child.kill()
    grown = sum(found["pss_bytes"].values()) - sum(found["pss_bytes_before"].values())
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load_average": round(os.getloadavg()[0], 1),
        "active": sizes.active,
        **found,
        "bytes_per_session": grown / sizes.sessions,
        "p50_ratio": found["among_all"]["p50_us"] / found["alone"]["p50_us"],
    }


def _allow(descriptors: int) -> None:
    """As many open files as this takes, here and in the processes that are started."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= descriptors:
        return
    if hard < descriptors:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
            return
        raise OperatorError(f"{descriptors} open files are not allowed here: raise `ulimit -Hn`.")
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, hard))


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    console = Console()
    console.print(
        f"{found['connections']:,} connections and {found['sessions']:,} sessions idle, {found['active']:,} active; "
        f"{found['machine']}, load average {found['load_average']}"
    )
    table = Table("one in flight each", "per s", "p50", "p99", "max")
    for name in ("alone", "among_all"):
        one = found[name]
        times = (f"{one[figure] / 1e3:,.1f} ms" for figure in ("p50_us", "p99_us", "max_us"))
        table.add_row(name.replace("_", " "), f"{one['per_second']:,.0f}", *times)
    console.print(table)
    table = Table("PSS", "before", "with all of them")
    for name, size in found["pss_bytes"].items():
        before = found["pss_bytes_before"][name]
        table.add_row(name, f"{before / 2**20:,.1f} MiB", f"{size / 2**20:,.1f} MiB")
    console.print(table)
    console.print(
        f"{found['bytes_per_session']:,.0f} bytes for each session, all processes together; "
        f"killed and started again in {found['started_again_s']:.2f} s"
    )


def main() -> None:
    """Measure and print."""
    sizes = Sizes()
    parser = command_line(__doc__)
    parser.add_argument("--connections", type=int, default=sizes.connections)
    parser.add_argument("--sessions", type=int, default=sizes.sessions)
    parser.add_argument("--active", type=int, default=sizes.active)
    parser.add_argument("--commands", type=int, default=sizes.commands)
    parser.add_argument("--dir", type=Path, help="on which disk")
    given = parser.parse_args()
    sizes = Sizes(given.connections, given.sessions, given.active, given.commands)
    try:
        found = run(sizes, given.dir)
    except OperatorError as error:
        sys.exit(str(error))
    give(found, show, as_json=given.json)


if __name__ == "__main__":
    main()
