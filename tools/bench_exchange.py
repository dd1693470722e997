"""Where the time of a real order goes: in which process, and within logic in which handler.

    python -m leftfold.tools.bench_exchange [--file PITCH] [--runs N] [--json]

The orders of the file (without one: generated ones) go through the asyncio client into a replica of the exchange. The processor time of each process is what
the kernel counted for it in between. Then the log that came of it is folded again in this process, with a clock around
each handler, so that the handlers can be told from the machine around them; what the clock itself costs is measured
and taken off. Medians of the runs; load and replica share the cores of the machine.
"""

import asyncio
import contextlib
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from attrs import define
from rich.console import Console
from rich.table import Table

from ..actors import App
from ..actors.machine import Outputs
from ..runtime.supervisor import read_status
from . import traffic
from .bench_replica import EXCHANGE_APP
from .child import Child
from .figures import command_line, give
from .fold import apply, new_machine
from .history import open_history
from .orderflow import generate, read_pitch, to_command

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SEED = 1
Figures = dict[str, float]


@define
class Spent:
    """What one handler has taken."""

    calls: int = 0
    ns: int = 0


def measure(orders: Sequence[traffic.Order]) -> tuple[Figures, dict[str, Spent]]:
    """One run: figures for each order, and what each handler has taken."""
    with tempfile.TemporaryDirectory() as directory:
        child = Child(EXCHANGE_APP, Path(directory) / "exchange")
        child.start()
        try:
            pids = read_status(child.directory)["pids"]
            before = {name: processor_s(pid) for name, pid in pids.items()}
            own_s = time.process_time()
            sent = asyncio.run(traffic.send("127.0.0.1", child.port, orders, lambda done: None))
            own_s = time.process_time() - own_s
            spent = {name: processor_s(pid) - before[name] for name, pid in pids.items()}
        finally:
            child.kill()
        figures = {"orders_per_s": sent.orders / sent.seconds, "client_us": own_s}
        figures |= {f"{name}_us": seconds for name, seconds in spent.items()}
        for name in figures.keys() - {"orders_per_s"}:
            figures[name] *= 1e6 / sent.orders
        handlers, fold_ns = fold_timed(child.directory)
    handled_ns = sum(found.ns for found in handlers.values())
    figures["fold_us"] = fold_ns / 1e3 / sent.orders
    figures["handlers_us"] = handled_ns / 1e3 / sent.orders
    figures["machine_us"] = figures["fold_us"] - figures["handlers_us"]
    return figures, handlers


def fold_timed(directory: Path) -> tuple[dict[str, Spent], int]:
    """Fold a log with a clock around each handler; (what each took, nanoseconds for all)."""
    from ..runtime.discovery import load_app

    history = open_history(directory)
    app = load_app(history.identity.app)
    clock_ns = cost_of_clock_ns()
    entries = [(entry, bytes(body)) for entry, body in history.entries(1, history.last)]
    with _clocks(app) as handlers:
        machine = new_machine(history, app)
        outputs = Outputs()
        began_ns = time.perf_counter_ns()
        for entry, body in entries:
            apply(machine, entry, memoryview(body), outputs)
            outputs.egress.clear()
        took_ns = time.perf_counter_ns() - began_ns
    for found in handlers.values():
        found.ns -= found.calls * clock_ns[0]
    calls = sum(found.calls for found in handlers.values())
    return handlers, took_ns - calls * clock_ns[1]


@contextlib.contextmanager
def _clocks(app: App) -> Generator[dict[str, Spent]]:
    """A clock around each handler, for the machines that are made inside."""
    spent: dict[str, Spent] = {}
    methods = [route.method for route in app.commands.values()]
    plain = [(method, method.function, method.takes_context) for method in methods]
    for route in app.commands.values():
        found = spent[route.method.name] = Spent()
        object.__setattr__(route.method, "function", timed(route.call, found))
        object.__setattr__(route.method, "takes_context", True)
    try:
        yield spent
    finally:
        for method, function, takes_context in plain:
            object.__setattr__(method, "function", function)
            object.__setattr__(method, "takes_context", takes_context)


def timed(function: Callable[..., Any], spent: Spent) -> Callable[..., Any]:
    """The function, with its time added to `spent`."""
    now_ns = time.perf_counter_ns

    def call(instance: Any, message: Any, context: Any) -> Any:
        began_ns = now_ns()
        try:
            return function(instance, message, context)
        finally:
            spent.ns += now_ns() - began_ns
            spent.calls += 1

    return call


def cost_of_clock_ns(calls: int = 200_000) -> tuple[int, int]:
    """What a clock around a function adds to what is measured, and to the whole."""
    spent = Spent()

    def nothing(instance: Any, message: Any, context: Any) -> None:
        del instance, message, context

    def loop(function: Callable[..., Any]) -> int:
        began_ns = time.perf_counter_ns()
        for _ in range(calls):
            function(None, None, None)
        return (time.perf_counter_ns() - began_ns) // calls

    plain_ns = loop(nothing)
    whole_ns = loop(timed(nothing, spent)) - plain_ns
    return max(0, spent.ns // calls - plain_ns), max(0, whole_ns)


def processor_s(pid: int) -> float:
    """The processor time that a process has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def run(orders: Sequence[traffic.Order], runs: int) -> dict[str, Any]:
    """Medians over the runs."""
    found = [measure(orders) for _ in range(runs)]
    names = found[0][0]
    handlers = {
        name: {
            "calls": found[0][1][name].calls,
            "us_each": statistics.median(
                each[name].ns / 1e3 / each[name].calls for _, each in found
            ),
        }
        for name, spent in found[0][1].items()
        if spent.calls
    }
    return {
        "machine": {
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
        "median": {
            name: statistics.median(figures[name] for figures, _ in found) for name in names
        },
        "runs": {name: [figures[name] for figures, _ in found] for name in names},
        "handlers": handlers,
    }


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    table = Table("for each order", "median", "runs", title=str(found["machine"]))
    for name, values in found["runs"].items():
        shown = " ".join(f"{value:,.1f}" for value in values)
        table.add_row(name, f"{found['median'][name]:,.1f}", shown)
    Console().print(table)
    table = Table("handler", "calls", "us each", "us for each order")
    orders = sum(found["calls"] for found in found["handlers"].values())
    for name, handler in found["handlers"].items():
        whole = handler["us_each"] * handler["calls"]
        table.add_row(
            name, f"{handler['calls']:,}", f"{handler['us_each']:.2f}", f"{whole / orders:.2f}"
        )
    Console().print(table)


def main() -> None:
    """Measure and print."""
    parser = command_line(__doc__)
    parser.add_argument("--file", type=Path, help="a PITCH file of real orders")
    parser.add_argument(
        "--orders", type=int, default=20_000, help="how many to generate without it"
    )
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    flow = read_pitch(given.file) if given.file else generate(SEED, given.orders)
    give(run([to_command(action) for action in flow], given.runs), show, as_json=given.json)


if __name__ == "__main__":
    main()
