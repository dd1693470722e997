"""What the placement of the four processes costs and gives: each named profile that this machine has the cores for, in turn.

    python -m leftfold.tools.bench_placement [--commands N] [--singles N] [--runs N] [--dir DIRECTORY] [--json]

Of each: durable transfers one at a time, their latency and the processor time that each process of the replica took for one, as
the kernel counts it; then as many at once as it takes. The profiles take turns in every run, so that a processor whose speed drifts favours none. There
is no threshold here.
"""

import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..runtime.placement import DEDICATED, PROFILES
from ..runtime.topology import PROCESSES
from . import load
from .bench_replica import LEDGER_APP
from .child import Child
from .figures import command_line, give
from .reading import take

WARM_UP = 200
Figures = dict[str, float]
ROWS = (
    ("alone, p50", "latency_p50_us", "µs"),
    ("alone, p99", "latency_p99_us", "µs"),
    ("processor time of one alone", "cpu_us_per_single", "µs"),
    *((f"· {name}", f"{name}_cpu_us_per_single", "µs") for name in PROCESSES),
    ("pipelined", "transfers_per_s", "/s"),
)


def measure(profile: str, place: Path, commands: int, singles: int) -> Figures:
    """One replica, started for it."""
    child = Child(LEDGER_APP, place / profile, options=(f"--placement={profile}",))
    child.start()
    try:
        load.latency("127.0.0.1", child.port, commands=WARM_UP)
        before = take(child.directory).cpu_ns
        alone = load.latency("127.0.0.1", child.port, commands=singles)
        after = take(child.directory).cpu_ns
        together = load.throughput("127.0.0.1", child.port, commands=commands)
        assert not together["failures"] and not together["refused"], together
    finally:
        child.kill()
    spent = {name: (after[name] - before[name]) / 1e3 / singles for name in PROCESSES}
    return {
        "latency_p50_us": alone["p50_us"],
        "latency_p99_us": alone["p99_us"],
        "cpu_us_per_single": sum(spent.values()),
        **{f"{name}_cpu_us_per_single": each for name, each in spent.items()},
        "transfers_per_s": together["per_second"],
    }


def run(commands: int, singles: int, runs: int, place: Path | None) -> dict[str, Any]:
    """By profile: the median of the runs for each figure, and the single values."""
    cores = len(os.sched_getaffinity(0))
    profiles = [name for name in PROFILES if name != DEDICATED or cores >= len(PROCESSES)]
    measured: dict[str, dict[str, list[float]]] = {name: {} for name in profiles}
    for _ in range(runs):
        for name in profiles:
            with tempfile.TemporaryDirectory(prefix="leftfold-bench-", dir=place) as directory:
                for figure, value in measure(name, Path(directory), commands, singles).items():
                    measured[name].setdefault(figure, []).append(value)
    medians = {
        name: {figure: statistics.median(values) for figure, values in figures.items()}
        for name, figures in measured.items()
    }
    return {"cores": cores, "runs": runs, "medians": medians, "values": measured}


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    table = Table("", *found["medians"])
    for name, figure, unit in ROWS:
        values = (figures[figure] for figures in found["medians"].values())
        table.add_row(name, *(f"{value:,.0f} {unit}" for value in values))
    console = Console()
    console.print(table)
    console.print(f"medians of {found['runs']} runs on {found['cores']} cores")


def main() -> None:
    """Measure and print."""
    parser = command_line(__doc__)
    parser.add_argument("--commands", type=int, default=300_000)
    parser.add_argument("--singles", type=int, default=3_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=None)
    given = parser.parse_args()
    give(run(given.commands, given.singles, given.runs, given.dir), show, as_json=given.json)


if __name__ == "__main__":
    main()
