"""What one replica does: durable transfers a second, the latency of one, replay at start, real order flow.

    python -m leftfold.tools.bench_replica [--commands N] [--runs N] [--file PITCH] [--json]

Each run starts a new replica in a directory of its own (`--dir`: on which disk). Load and replica share the cores of
the machine. fdatasync before every reply is measured beside it, alone, in the same run. Figures are medians of
the runs; there is no threshold here. The rate of replay is that from the first entry to the last, as the progress shows it;
`restarted_per_s` takes the whole start with the log, less the start of the same replica when it was empty, so finding the
end of the log and checking every byte of it is in there as well.
"""

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..actors.ledger import Deposit, Transfer
from ..runtime.blocking_client import BlockingClient
from ..shm import Counters
from . import load, traffic
from .child import Child
from .figures import command_line, give, machine
from .orderflow import read_pitch, to_command

LEDGER_APP = "leftfold.actors.ledger:app"
EXCHANGE_APP = "leftfold.actors.exchange:app"
SYNCS = 400
SINGLES = 2000
SYNC_BYTES = 4096

Figures = dict[str, float]


def ledger(place: Path, commands: int) -> Figures:
    """Pipelined and one at a time; then what the Python client reaches; then the same log again at a new start."""
    child = Child(LEDGER_APP, place / "ledger")
    empty_s = _start(child)
    try:
        rate = load.throughput("127.0.0.1", child.port, commands=commands)
        assert not rate["failures"] and not rate["refused"], rate
        busy_s = _handler_seconds(child.directory)
        alone = load.latency("127.0.0.1", child.port, commands=SINGLES)
        python = python_client(child.port, commands // 10)
        child.kill()
        child = Child(LEDGER_APP, child.directory)
        restart_s = _start(child)
        replay_s = child.seen_s["ready"] - child.seen_s["replaying"]
        replayed = Counters.read(child.directory / "counters")["logic"].histograms["apply_ns"]
    finally:
        child.kill()
    return {
        "transfers_per_s": rate["per_second"],
        "logic_busy_us_per_transfer": busy_s * 1e6 / commands,
        "latency_p50_us": alone["p50_us"],
        "latency_p99_us": alone["p99_us"],
        "latency_p999_us": alone["p999_us"],
        "python_client_per_s": python,
        "empty_start_s": empty_s,
        "restart_s": restart_s,
        "replayed_per_s": (commands + commands // 10) / replay_s,
        "replay_to_live": (commands + commands // 10) / replay_s / rate["per_second"],
        "restarted_per_s": (commands + commands // 10) / (restart_s - empty_s),
        "logic_busy_us_per_replayed": replayed.sum / 1e3 / (commands + commands // 10),
    }


def exchange(place: Path, file: Path) -> Figures:
    """The real file through the asyncio client, one order book actor for each symbol."""
    orders = [to_command(action) for action in read_pitch(file)]
    child = Child(EXCHANGE_APP, place / "exchange")
    child.start()
    try:
        sent = asyncio.run(traffic.send("127.0.0.1", child.port, orders, lambda done: None))
        busy_s = _handler_seconds(child.directory)
    finally:
        child.kill()
    return {
        "orders": float(sent.orders),
        "orders_per_s": sent.orders / sent.seconds,
        "order_p50_us": sent.percentile_ns(50) / 1e3,
        "order_p99_us": sent.percentile_ns(99) / 1e3,
        "logic_busy_us_per_order": busy_s * 1e6 / sent.orders,
        "logic_busy_share": busy_s / sent.seconds,
    }


def sync_alone(place: Path) -> Figures:
    """What the disk alone costs: write 4 KiB, fdatasync, in a file filled with zeros before."""
    took_ns: list[int] = []
    block = bytes(SYNC_BYTES)
    with (place / "sync").open("w+b", buffering=0) as file:
        file.write(bytes(SYNCS * SYNC_BYTES))
        os.fsync(file.fileno())
        for at in range(SYNCS):
            began_ns = time.perf_counter_ns()
            os.pwrite(file.fileno(), block, at * SYNC_BYTES)
            os.fdatasync(file.fileno())
            took_ns.append(time.perf_counter_ns() - began_ns)
    took_ns.sort()
    return {
        "fdatasync_p50_us": took_ns[SYNCS // 2] / 1e3,
        "fdatasync_p99_us": took_ns[SYNCS * 99 // 100] / 1e3,
    }


def run(commands: int, runs: int, file: Path | None, place: Path | None) -> dict[str, Any]:
    """All figures: the median of the runs for each, and the single values."""
    measured: dict[str, list[float]] = {}
    for _ in range(runs):
        with tempfile.TemporaryDirectory(dir=place) as directory:
            here = Path(directory)
            parts: list[Callable[[], Figures]] = [
                lambda here=here: sync_alone(here),
                lambda here=here: ledger(here, commands),
            ]
            if file is not None:
                parts.append(lambda here=here, file=file: exchange(here, file))
            for part in parts:
                for name, value in part().items():
                    measured.setdefault(name, []).append(value)
    return {
        "machine": machine(),
        "commands": commands,
        "median": {name: statistics.median(values) for name, values in measured.items()},
        "runs": measured,
    }


def _start(child: Child) -> float:
    """Start it; the seconds until it serves."""
    started_s = time.perf_counter()
    child.start()
    return time.perf_counter() - started_s


def _handler_seconds(directory: Path) -> float:
    histogram = Counters.read(directory / "counters")["logic"].histograms["apply_ns"]
    return histogram.sum / 1e9


def python_client(port: int, commands: int) -> float:
    """What one BlockingClient reaches."""
    with BlockingClient("127.0.0.1", port) as client:
        client.ask("python", Deposit("from", 10**9))
        client.ask("python", Deposit("to", 1))
        transfers = [("python", Transfer("from", "to", 1)) for _ in range(commands)]
        started_s = time.perf_counter()
        for reply in client.ask_many(transfers):
            assert not isinstance(reply, Exception), reply
        return commands / (time.perf_counter() - started_s)


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    table = Table(
        "figure", "median", "runs", title=f"{found['commands']} transfers, {found['machine']}"
    )
    for name, values in found["runs"].items():
        table.add_row(
            name, f"{found['median'][name]:,.1f}", " ".join(f"{value:,.1f}" for value in values)
        )
    Console().print(table)


def main() -> None:
    """Measure and print."""
    parser = command_line(__doc__)
    parser.add_argument("--commands", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--file", type=Path, help="a PITCH file of real orders")
    parser.add_argument("--dir", type=Path, help="where to put the replicas' directories")
    given = parser.parse_args()
    give(run(given.commands, given.runs, given.file, given.dir), show, as_json=given.json)


if __name__ == "__main__":
    main()
