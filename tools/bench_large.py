"""What a replica with a large state does: how it comes back, and what its clients notice of a snapshot.

    python -m leftfold.tools.bench_large [--commands N] [--accounts N] [--tail N] [--seconds N]
                                         [--part log|snapshot|service]... [--json]

log       the time from the start of the processes to ready, with N commands in the log and no snapshot, beside the time
          that the same commands took live; and the bytes that the log holds per command beside its body.
snapshot  the same with a snapshot of so many accounts and a tail behind it; and when the snapshot, and when the tail, began to
          be read: before that, five interpreters start.
service   half of the highest load that was reached, paced, for so many seconds without a snapshot and for as many with one:
          the latency that clients have, the PSS of all processes, and how long the call of fork took.

The last two for one ledger with all accounts, and for an actor for each. Every replica is new, in a temporary directory (`--dir`:
on which disk), and shares the cores with the load. There is no threshold here; the load average is beside the figures.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import asdict
from rich.console import Console
from rich.table import Table

from ..runtime.slots import CONTROL_SNAPSHOT, CONTROL_STATUS
from ..shm import Counters
from . import load
from .child import Child
from .figures import command_line, give, machine
from .footprint import footprint
from .inquiry import Inquiry, address_of
from .paced import Paced
from .progress import progress
from .snapshot import take

APP = "leftfold.actors.ledger:app"
BLOCK = 1_000_000
"""So many commands are encoded at a time."""
NO_SCHEDULE = ("--snapshot-log-mib", "1000000")
READY_S_MAX = 1800.0
SNAPSHOT_AFTER_S = 5.0
LOOK_EVERY_S = 0.25
FULL_LOAD = 400_000
SHAPES = (load.ONE_LEDGER, load.AN_ACTOR_EACH)
Figures = dict[str, Any]


@contextmanager
def replica(directory: Path) -> Generator[Child]:
    """One that takes no snapshot by itself, and is killed in the end."""
    child = Child(APP, directory, ready_s_max=READY_S_MAX, options=NO_SCHEDULE)
    child.start()
    try:
        yield child
    finally:
        child.kill()


def recovery(directory: Path) -> Figures:
    """From the start of the first process to ready, and to what comes before that."""
    began_s = time.perf_counter()
    with replica(directory) as child:
        found: Figures = {"recovery_s": time.perf_counter() - began_s}
        for event in ("restoring", "replaying"):
            if event in child.seen_s:
                found[f"until_{event}_s"] = child.seen_s[event] - began_s
        return found


def from_the_log(place: Path, commands: int) -> Figures:
    """Live, and again from the log alone."""
    directory = place / "replica"
    began_s = time.perf_counter()
    live_s = 0.0
    done = 0
    with replica(directory) as child, progress("live", commands, "commands") as advance:
        empty_s = time.perf_counter() - began_s
        while done < commands:
            block = min(BLOCK, commands - done)
            found = load.throughput("127.0.0.1", child.port, commands=block, prepared=done > 0)
            assert not found["failures"] and not found["refused"], found
            done += found["commands"]
            live_s += found["elapsed_s"]
            advance(done)
    recovery_s = recovery(directory)["recovery_s"]
    asked = [sys.executable, "-P", "-m", "leftfold.tools", "log", "stat", str(directory)]
    usage = json.loads(subprocess.check_output([*asked, "--json"]))
    return {
        "commands": done,
        "live_s": live_s,
        "live_per_s": done / live_s,
        "recovery_s": recovery_s,
        "recovered_per_s": done / recovery_s,
        "empty_start_s": empty_s,
        "live_over_recovery": live_s / recovery_s,
        "log_bytes_per_command_over_the_body": usage["bytes_per_command_over_the_body"],
        "commands_per_entry": usage["commands"] / usage["entries"]["commands"],
    }


def from_a_snapshot(place: Path, shape: load.Shape, accounts: int, tail: int) -> Figures:
    """A snapshot of all accounts, so many transfers behind it, kill -9, and a start."""
    directory = place / "replica"
    with replica(directory) as child:
        load.prepare("127.0.0.1", child.port, accounts, shape)
        address = address_of(directory)
        assert address is not None
        with Inquiry(address, deadline_s=READY_S_MAX) as inquiry:
            taken = take(inquiry, directory)
        load.throughput(
            "127.0.0.1",
            child.port,
            commands=tail,
            accounts=accounts,
            shape=shape,
            prepared=True,
        )
    return {
        "snapshot_s": taken["seconds"],
        "snapshot_bytes": taken["bytes"],
        "tail": tail,
        **recovery(directory),
    }


def in_service(place: Path, shape: load.Shape, accounts: int, seconds: int) -> Figures:
    """Half of the highest load, without a snapshot and with one."""
    directory = place / "replica"
    with replica(directory) as child:
        load.prepare("127.0.0.1", child.port, accounts, shape)
        full = load.throughput(
            "127.0.0.1",
            child.port,
            commands=FULL_LOAD,
            accounts=accounts,
            shape=shape,
            prepared=True,
        )
        found: Figures = {"full_load_per_s": full["per_second"]}
        for name, with_snapshot in (("without", False), ("with", True)):
            paced = Paced.connect(
                "127.0.0.1", child.port, shape, accounts, full["per_second"] / 2, seconds
            )
            try:
                with _watched(directory, with_snapshot) as seen:
                    latencies = paced.run()
            finally:
                paced.close()
            found[name] = asdict(latencies) | seen
        logic = Counters.read(directory / "counters")["logic"]
        found["fork_ms"] = logic.histograms["fork_ns"].max / 1e6
    found["p999_ratio"] = found["with"]["p999_ms"] / found["without"]["p999_ms"]
    found["pss_ratio"] = found["with"]["pss_bytes_max"] / found["without"]["pss_bytes_max"]
    return found


@contextmanager
def _watched(directory: Path, with_snapshot: bool) -> Generator[Figures]:
    """Look at the replica from a process of its own; what it saw is there when the block was left."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_watch, args=(directory, with_snapshot, there), daemon=True)
    process.start()
    seen: Figures = {}
    try:
        here.recv()
        yield seen
        here.send(None)
        seen.update(here.recv())
    finally:
        process.join(READY_S_MAX)


def _watch(directory: Path, with_snapshot: bool, connection: Any) -> None:
    address = address_of(directory)
    assert address is not None
    most = footprint(directory)
    connection.send(None)
    began_s = time.monotonic()
    asked_s = taken_s = 0.0
    index = 0
    with Inquiry(address) as inquiry:
        while not connection.poll(LOOK_EVERY_S):
            most = max(most, footprint(directory))
            now_s = time.monotonic()
            if with_snapshot and not asked_s and now_s - began_s >= SNAPSHOT_AFTER_S:
                index = json.loads(inquiry.control(CONTROL_SNAPSHOT).body)["index"]
                asked_s = now_s
            elif asked_s and not taken_s:
                state = json.loads(inquiry.control(CONTROL_STATUS).body)["snapshot"]
                if state["index"] >= index:
                    taken_s = now_s
    assert bool(taken_s) == with_snapshot, "the snapshot was not over within the time"
    connection.send({"pss_bytes_max": most, "snapshot_s": taken_s - asked_s})


def run(arguments: argparse.Namespace) -> Figures:
    """All parts that are wanted."""
    found: Figures = {
        "machine": machine(),
        "load_average_before": os.getloadavg()[0],
        "accounts": arguments.accounts,
    }
    parts: list[tuple[str, str, Callable[[Path], Figures]]] = []
    if "log" in arguments.part:
        parts.append(("log", "", lambda place: from_the_log(place, arguments.commands)))
    for shape in SHAPES:
        if "snapshot" in arguments.part:
            parts.append(
                (
                    "snapshot",
                    shape.name,
                    lambda place, shape=shape: from_a_snapshot(
                        place, shape, arguments.accounts, arguments.tail
                    ),
                )
            )
        if "service" in arguments.part:
            parts.append(
                (
                    "service",
                    shape.name,
                    lambda place, shape=shape: in_service(
                        place, shape, arguments.accounts, arguments.seconds
                    ),
                )
            )
    for part, shape, measure in parts:
        print(f"{part} {shape}".strip(), file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=arguments.dir) as place:
            figures = measure(Path(place))
        found.setdefault(part, {}).update({shape: figures} if shape else figures)
    found["load_average_after"] = os.getloadavg()[0]
    return found


def show(found: Figures) -> None:
    """Print the tables."""
    console = Console()
    console.print(
        f"{found['machine']}, {found['accounts']:,} accounts; load average "
        f"{found['load_average_before']:.1f} before, {found['load_average_after']:.1f} after"
    )
    if "log" in found:
        table = Table("from the log alone", "")
        for name, value in found["log"].items():
            table.add_row(name, f"{value:,.2f}")
        console.print(table)
    if "snapshot" in found:
        _show_shapes(console, "from a snapshot and a tail", found["snapshot"])
    if "service" in found:
        for shape, figures in found["service"].items():
            table = Table(f"in service: {shape}", "without", "with a snapshot")
            for name in figures["without"]:
                table.add_row(
                    name, *(f"{figures[window][name]:,.2f}" for window in ("without", "with"))
                )
            table.add_row("p99.9, and PSS, relatively", "", _ratios(figures))
            table.add_row("fork_ms", "", f"{figures['fork_ms']:,.2f}")
            table.add_row("full load per s", f"{figures['full_load_per_s']:,.0f}", "")
            console.print(table)


def _ratios(figures: Figures) -> str:
    return f"{figures['p999_ratio']:.2f} x, {figures['pss_ratio']:.2f} x"


def _show_shapes(console: Console, title: str, shapes: Figures) -> None:
    table = Table(title, *shapes)
    for name in next(iter(shapes.values())):
        table.add_row(name, *(f"{figures[name]:,.2f}" for figures in shapes.values()))
    console.print(table)


def main() -> None:
    """Measure and print."""
    parser = command_line(__doc__)
    parser.add_argument("--commands", type=int, default=10_000_000)
    parser.add_argument("--accounts", type=int, default=1_000_000)
    parser.add_argument("--tail", type=int, default=100_000)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--part", action="append", choices=("log", "snapshot", "service"))
    parser.add_argument("--dir", type=Path, help="where to put the replicas' directories")
    given = parser.parse_args()
    given.part = given.part or ["log", "snapshot", "service"]
    give(run(given), show, as_json=given.json)


if __name__ == "__main__":
    main()
