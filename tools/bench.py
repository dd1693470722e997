"""`leftfold bench`: how fast a ring and a replica are on this machine, beside what else is installed here.

Throughput, as bench_ring.py and bench_redis.py measure it; then latency under load that comes at its own pace, counted from the
moment when a message was due and not from when it could be sent, so that a stall is as bad in the figures as it is for those who
wait (ring_latency.py, paced.py). What is not installed is named, with the way to get it. The other benchmarks, whose figures are in
BENCHMARKS.md, are programs: python -m leftfold.tools.bench_...
"""

import json as json_module
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App as Commands
from cyclopts import Parameter
from rich.table import Table

from ..runtime.errors import OperatorError
from . import bench_ring, load, ring_latency
from .bench_redis import CLIENTS, PIPELINE
from .bench_replica import LEDGER_APP, sync_alone
from .child import Child
from .curves import Curve, drawn, plot, shown_percents
from .figures import machine
from .paced import Paced
from .paper import paper
from .progress import progress
from .ranges import between
from .redis_server import LOOPBACK, benchmark, missing, synced_server
from .tables import shown_ns

Rate = Annotated[float, between(1, 1_000_000)]
Count = Annotated[int, between(1, 10**12)]
Runs = Annotated[int, between(1, 1000)]


def ring(
    *,
    messages: Count = bench_ring.MESSAGES,
    native_messages: Count = bench_ring.NATIVE_MESSAGES,
    runs: Runs = 3,
    rate: Rate = 5_000,
    seconds: Annotated[float, between(0.01, 3600)] = 4.0,
    svg: Path | None = None,
    json: bool = False,
) -> None:
    """Measure a ring between two processes, beside other queues.

    Parameters
    ----------
    messages
        How many messages the Python processes exchange for the throughput.
    native_messages
        How many the C processes and the Disruptor exchange.
    runs
        How often the throughput is measured; the medians are shown.
    rate
        Messages per second for the latency, each at its own moment.
    seconds
        How long the latency is measured, of each system.
    svg
        Write the percentile curves to this file.
    json
        Print the figures as JSON.
    """
    with progress("throughput", runs, "runs") as done:
        found = bench_ring.run(messages, runs, native_messages, done)
    systems = ring_latency.systems()
    curves: list[Curve] = []
    with progress("latency", len(systems), "systems") as done:
        for system in systems:
            curves.append(ring_latency.measure(system, rate, max(1, int(rate * seconds))))
            done(len(curves))
    title = f"From process to process, {rate:,.0f} messages a second"
    _write_svg(svg, curves, title)
    if json:
        _print_json(found | _latency(curves, rate, seconds))
        return
    bench_ring.show(found)
    _show(curves, title)


def replica(
    *,
    commands: Count = 500_000,
    rate: Rate = 5_000,
    seconds: Annotated[int, between(1, 3600)] = 10,
    directory: Annotated[Path | None, Parameter(name="--dir")] = None,
    svg: Path | None = None,
    json: bool = False,
) -> None:
    """Measure a replica, beside a Redis that syncs before each answer.

    Parameters
    ----------
    commands
        How many commands are sent for the throughput.
    rate
        Commands per second for the latency, each at its own moment.
    seconds
        How long the latency is measured.
    directory
        Where the logs go while it lasts: on which disk.
    svg
        Write the percentile curves to this file.
    json
        Print the figures as JSON.
    """
    if directory is not None and not directory.is_dir():
        raise OperatorError(f"{directory} is not a directory: name an existing one.")
    found: dict[str, Any] = {
        "machine": machine() | {"load_average": round(os.getloadavg()[0], 1)},
        "commands": commands,
        "per_second": {},
    }
    curves: list[Curve] = []
    with (
        tempfile.TemporaryDirectory(prefix="leftfold-bench-", dir=directory) as place,
        progress("a replica", 3, "parts") as done,
    ):
        found |= sync_alone(Path(place))
        done(1)
        rates = found["per_second"]
        rates["leftfold"] = _of_ledger(Path(place), commands, rate, seconds, curves)
        done(2)
        absent = missing()
        found["absent"] = {"redis": absent} if absent else {}
        if absent is None:
            rates["redis"] = _of_redis(Path(place), commands, rate, seconds, curves)
        done(3)
    title = f"A durable command, {rate:,.0f} a second"
    _write_svg(svg, curves, title)
    if json:
        _print_json(found | _latency(curves, rate, seconds))
        return
    console = paper()
    table = Table("pipelined", "commands/s")
    for name, per_second in found["per_second"].items():
        table.add_row(name, f"{per_second:,.0f}")
    console.print(table)
    for name, reason in found["absent"].items():
        console.print(f"not measured: {name}: {reason}")
    _show(curves, title)
    console.print(
        f"fdatasync of 4 KiB alone: p50 {found['fdatasync_p50_us']:,.0f} µs, "
        f"p99 {found['fdatasync_p99_us']:,.0f} µs"
    )


def _of_ledger(place: Path, commands: int, rate: float, seconds: int, curves: list[Curve]) -> float:
    child = Child(LEDGER_APP, place / "ledger")
    child.start()
    try:
        full = load.throughput(LOOPBACK, child.port, commands=commands)
        if full["failures"] or full["refused"]:
            raise OperatorError(f"The ledger refused transfers: {full}.")
        paced = Paced.connect(LOOPBACK, child.port, load.ONE_LEDGER, load.ACCOUNTS, rate, seconds)
        curves.append(_curve("leftfold, transfers", paced))
    finally:
        child.kill()
    return full["per_second"]


def _of_redis(place: Path, commands: int, rate: float, seconds: int, curves: list[Curve]) -> float:
    server, port = synced_server(place / "redis")
    with server:
        full = benchmark(port, clients=CLIENTS, pipeline=PIPELINE, requests=commands)
        curves.append(_curve("Redis, INCR", Paced.connect_resp(LOOPBACK, port, rate, seconds)))
    return full.per_second


def _curve(name: str, paced: Paced) -> Curve:
    try:
        paced.run()
    finally:
        paced.close()
    return Curve(name, sorted(paced.took_ns))


def _latency(curves: Sequence[Curve], rate: float, seconds: float) -> dict[str, Any]:
    figures = {curve.name: curve.figures() for curve in curves}
    return {"rate_per_s": rate, "seconds": seconds, "latency": figures}


def _show(curves: Sequence[Curve], title: str) -> None:
    console = paper()
    percents = shown_percents(min(len(curve.values) for curve in curves))
    console.print(f"{title}; from the moment when each was due:")
    table = Table("latency", *(f"p{percent:g}" for percent in percents), "max")
    for curve in curves:
        shown = [*map(curve.at, percents), curve.values[-1]]
        table.add_row(curve.name, *map(shown_ns, shown))
    console.print(table)
    sys.stdout.write(plot(curves) + "\n")


def _write_svg(path: Path | None, curves: Sequence[Curve], title: str) -> None:
    if path is None:
        return
    try:
        path.write_text(drawn(curves, title))
    except OSError as error:
        raise OperatorError(f"Cannot write {path}: {error.strerror}.") from None


def _print_json(found: dict[str, Any]) -> None:
    print(json_module.dumps(found, indent=2))


benches = Commands(name="bench")
benches.command(ring)
benches.command(replica)
