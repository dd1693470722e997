"""A replica beside a Redis that syncs before each answer, on one disk in one run.

    python -m leftfold.tools.bench_redis [--commands N] [--singles N] [--runs N] [--clients N] [--dir DIR] [--json]

Three servers stand beside each other and take turns: Redis with `appendfsync always`, a replica of the ledger, a replica of the
cache with its door open to Redis's clients. The one that begins is another in each run.

pipelined   commands per second: redis-benchmark's INCR with 128 in flight on each of its connections, for Redis and for the
            door; the ledger's transfers, with frames that were encoded before and replies that are counted in C
each one    so many clients with one command in flight each: redis-benchmark for Redis and for the door, and one Python program
            that plays all clients for all three, since there is no redis-benchmark for frames
Python      what one BlockingClient of ours reaches, with ask_many

Ratios are those of one run, and their median is shown; there is no threshold here. Load and servers share the machine's cores.
"""

import contextlib
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from attrs import frozen
from rich.console import Console
from rich.table import Table

from ..runtime.errors import OperatorError
from ..runtime.supervisor import read_status
from . import load
from .bench_replica import LEDGER_APP, python_client, sync_alone
from .child import Child
from .figures import command_line, give, machine
from .progress import progress
from .redis_server import LOOPBACK, Benchmark, benchmark, missing, synced_server
from .resp_load import connect_resp_lanes
from .turns import take_turns

CACHE_APP = "leftfold.actors.cache:app"
PIPELINE = 128
CLIENTS = 50
REDIS, LEDGER, DOOR = "redis", "ledger", "door"

Figures = dict[str, float]

RATIOS = {
    "transfers_by_redis": ("ledger_pipelined_per_s", "redis_pipelined_per_s"),
    "door_by_redis": ("door_pipelined_per_s", "redis_pipelined_per_s"),
    "door_p50_by_redis": ("door_each_one_p50_us", "redis_each_one_p50_us"),
    "door_p99_by_redis": ("door_each_one_p99_us", "redis_each_one_p99_us"),
    "turns_ledger_p50_by_redis": ("ledger_turns_p50_us", "redis_turns_p50_us"),
    "turns_ledger_p99_by_redis": ("ledger_turns_p99_us", "redis_turns_p99_us"),
    "turns_door_p50_by_redis": ("door_turns_p50_us", "redis_turns_p50_us"),
    "turns_door_p99_by_redis": ("door_turns_p99_us", "redis_turns_p99_us"),
}
"""What is divided by what; above 1 is more, which is good for rates and bad for times."""


@frozen
class Sizes:
    """How much of each."""

    commands: int = 500_000
    singles: int = 20_000
    clients: int = CLIENTS


@frozen
class Ports:
    """Where the three listen."""

    redis: int
    ledger: int
    door: int


@contextlib.contextmanager
def servers(place: Path) -> Generator[Ports]:
    """All three, until the block is left."""
    server, redis_port = synced_server(place / REDIS)
    ledger = Child(LEDGER_APP, place / LEDGER)
    cache = Child(CACHE_APP, place / DOOR, options=("--resp", "0"))
    with contextlib.ExitStack() as running:
        running.enter_context(server)
        for child in (ledger, cache):
            child.start()
            running.callback(child.kill)
        load.prepare(LOOPBACK, ledger.port)
        yield Ports(redis_port, ledger.port, int(read_status(cache.directory)["resp_port"]))


def of_redis(ports: Ports, sizes: Sizes) -> Figures:
    """Redis by its own load, and by ours."""
    return _of_resp(REDIS, ports.redis, sizes)


def of_door(ports: Ports, sizes: Sizes) -> Figures:
    """The same of the door."""
    return _of_resp(DOOR, ports.door, sizes)


def of_ledger(ports: Ports, sizes: Sizes) -> Figures:
    """Transfers in frames."""
    rate = load.throughput(LOOPBACK, ports.ledger, commands=sizes.commands, prepared=True)
    if rate["failures"] or rate["refused"]:
        raise OperatorError(f"The ledger refused transfers: {rate}.")
    lanes, replies = load.connect_lanes(LOOPBACK, ports.ledger, sizes.clients)
    try:
        each = max(1, sizes.singles // sizes.clients)
        for lane in lanes:
            lane.load(load.transfers(load.ONE_LEDGER, lane.index, each, load.ACCOUNTS), 1)
        curve, per_second = take_turns(LEDGER, lanes, replies)
    finally:
        for lane in lanes:
            lane.close()
    return {
        "ledger_pipelined_per_s": rate["per_second"],
        "ledger_turns_per_s": per_second,
        "ledger_turns_p50_us": curve.at(50) / 1e3,
        "ledger_turns_p99_us": curve.at(99) / 1e3,
        "python_client_per_s": python_client(ports.ledger, max(1000, sizes.commands // 20)),
    }


def _of_resp(name: str, port: int, sizes: Sizes) -> Figures:
    clients = sizes.clients
    many = benchmark(port, clients=clients, pipeline=PIPELINE, requests=sizes.commands)
    single: Benchmark = benchmark(port, clients=clients, pipeline=1, requests=sizes.singles)
    lanes, replies = connect_resp_lanes(LOOPBACK, port, clients)
    try:
        for lane in lanes:
            lane.load(max(1, sizes.singles // clients), 1)
        curve, per_second = take_turns(name, lanes, replies)
    finally:
        for lane in lanes:
            lane.close()
    return {
        f"{name}_pipelined_per_s": many.per_second,
        f"{name}_each_one_per_s": single.per_second,
        f"{name}_each_one_p50_us": single.p50_us,
        f"{name}_each_one_p99_us": single.p99_us,
        f"{name}_turns_per_s": per_second,
        f"{name}_turns_p50_us": curve.at(50) / 1e3,
        f"{name}_turns_p99_us": curve.at(99) / 1e3,
    }


def run(sizes: Sizes, runs: int, directory: Path | None = None) -> dict[str, Any]:
    """All figures of all runs. Raises OperatorError where there is no Redis."""
    if sentence := missing():
        raise OperatorError(f"{sentence}.")
    parts: list[Callable[[Ports, Sizes], Figures]] = [of_redis, of_ledger, of_door]
    measured: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="leftfold-bench-", dir=directory) as name:
        place = Path(name)
        with servers(place) as ports, progress("beside Redis", runs * len(parts), "parts") as done:
            for at in range(runs):
                found = sync_alone(place)
                for number in range(len(parts)):
                    found |= parts[(at + number) % len(parts)](ports, sizes)
                    done(at * len(parts) + number + 1)
                found |= {
                    name: found[over] / found[under] for name, (over, under) in RATIOS.items()
                }
                for name, value in found.items():
                    measured.setdefault(name, []).append(value)
    return {
        "machine": machine(),
        "load_average": round(os.getloadavg()[0], 1),
        "commands": sizes.commands,
        "singles": sizes.singles,
        "clients": sizes.clients,
        "median": {name: statistics.median(values) for name, values in measured.items()},
        "runs": measured,
    }


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    machine = found["machine"]
    console = Console()
    console.print(
        f"{found['commands']:,} pipelined, {found['singles']:,} one at a time of {found['clients']} "
        f"clients; {machine['cores']} cores, Linux {machine['kernel']}, load average "
        f"{found['load_average']}"
    )
    table = Table("figure", "median", "runs")
    for name, values in found["runs"].items():
        shown = _times if name in RATIOS else _whole
        table.add_row(name, shown(found["median"][name]), " ".join(map(shown, values)))
    console.print(table)


def _times(value: float) -> str:
    return f"{value:.2f} x"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def main() -> None:
    """Measure and print."""
    parser = command_line(__doc__)
    parser.add_argument("--commands", type=int, default=500_000)
    parser.add_argument("--singles", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--dir", type=Path, help="on which disk")
    given = parser.parse_args()
    sizes = Sizes(given.commands, given.singles, given.clients)
    try:
        found = run(sizes, given.runs, given.dir)
    except OperatorError as error:
        sys.exit(str(error))
    give(found, show, as_json=given.json)


if __name__ == "__main__":
    main()
