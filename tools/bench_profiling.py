"""What always-on recording costs: CPU time for a command with it and without it, in alternating pairs.

    python -m leftfold.tools.bench_profiling [--pairs N] [--commands N] [--json]

Two ledger replicas run, one with LEFTFOLD_RECORDING off. A pair is twenty short slices of load for each of them, in turns (on, off,
off, on, …): transfers pipelined, then one at a time. The CPU time of a replica's four processes is divided by the commands, and a
pair gives the ratio of the two. CPU time depends on what else the machine does and on how fast it happens to run: slices are
shorter than its moods, so that the two of a pair share them; and pairs that something struck on one side only would decide a mean. So the figure is the mean of the
middle ratios, without the greatest and the least fifth, and the interval a bootstrap of it over the pairs. How a process happens to
lie in memory makes some percent as well, so there are new replicas after every few pairs. The verdict says whether the whole
interval is within the limit. Commands one at a time cost mostly what the kernel does to wake five processes, which varies by more
than recording costs; so that is told from its parts as well (recording_cost.py), as a bound.
"""

import os
import platform
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..runtime.recording import OFF, VARIABLE
from ..runtime.topology import PROCESSES
from . import load
from .child import Child
from .figures import command_line, give
from .progress import progress
from .reading import take
from .recording_cost import cost_of_a_figure_ns, figures_of_a_command

APP = "leftfold.actors.ledger:app"
LOOPBACK = "127.0.0.1"
RESAMPLES = 10_000
CONFIDENCE = 0.95
SEED = 20
PAIRS_EACH = 5
"""Pairs for which the same two replicas serve: then there are new ones, with another layout in memory."""
LOADS = ("pipelined", "one_at_a_time")
TRIMMED = 0.2
"""The share of ratios that does not count, at each end."""
SLICES = 20
"""Of each half of a pair."""
LIMIT = 0.05

Figures = dict[str, float]


def started(place: Path, *, recording: bool) -> Child:
    """A new replica, ready for transfers."""
    before = os.environ.pop(VARIABLE, None)
    if not recording:
        os.environ[VARIABLE] = OFF
    child = Child(APP, place)
    try:
        child.start()
    finally:
        os.environ.pop(VARIABLE, None)
        if before is not None:
            os.environ[VARIABLE] = before
    load.prepare(LOOPBACK, child.port)
    recorded = take(place).histogram("logic", "apply_service_ns").count
    assert bool(recorded) == recording, "the switch does nothing"
    return child


def pair(
    children: dict[bool, Child], commands: int, order: tuple[bool, bool]
) -> tuple[Figures, Figures]:
    """CPU time for a command, in µs, under each load: with recording, and without."""
    spent = {recording: dict.fromkeys(LOADS, 0) for recording in order}
    pipelined, alone = max(100, commands // SLICES), max(20, commands // 50 // SLICES)
    for turn in range(SLICES):
        for recording in order if turn % 2 else reversed(order):
            child, so_far = children[recording], spent[recording]
            began_ns = _cpu_ns(child.directory)
            load.throughput(LOOPBACK, child.port, commands=pipelined, prepared=True)
            between_ns = _cpu_ns(child.directory)
            load.latency(LOOPBACK, child.port, commands=alone, warm_up=0, prepared=True)
            so_far["pipelined"] += between_ns - began_ns
            so_far["one_at_a_time"] += _cpu_ns(child.directory) - between_ns
    counts = {"pipelined": pipelined * SLICES, "one_at_a_time": alone * SLICES}
    with_it, without = (
        {name: spent[recording][name] / counts[name] / 1e3 for name in LOADS}
        for recording in (True, False)
    )
    return with_it, without


def _some_pairs(place: Path, wanted: range, commands: int) -> list[tuple[Figures, Figures]]:
    """Pairs of the same two replicas."""
    found: list[tuple[Figures, Figures]] = []
    children: dict[bool, Child] = {}
    place.mkdir()
    try:
        for recording in (True, False):
            children[recording] = started(
                place / ("on" if recording else "off"), recording=recording
            )
        for number in wanted:
            order = (True, False) if number % 2 else (False, True)
            found.append(pair(children, commands, order))
    finally:
        for child in children.values():
            child.kill()
    return found


def _cpu_ns(directory: Path) -> int:
    reading = take(directory)
    return sum(reading.cpu_ns[name] for name in PROCESSES)


def run(pairs: int, commands: int, directory: Path | None = None) -> dict[str, Any]:
    """All pairs, and what they say together."""
    found: list[tuple[Figures, Figures]] = []
    with (
        tempfile.TemporaryDirectory(prefix="leftfold-bench-", dir=directory) as place,
        progress("with and without", pairs, "pairs") as done,
    ):
        for first in range(0, pairs, PAIRS_EACH):
            wanted = range(first, min(pairs, first + PAIRS_EACH))
            found += _some_pairs(Path(place) / str(first), wanted, commands)
            done(len(found))
    return {
        "pairs": pairs,
        "commands": commands,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load_average": round(os.getloadavg()[0], 1),
        **{name: summary(name, found) for name in LOADS},
        "from_its_parts": from_its_parts(pairs, commands, directory),
    }


def from_its_parts(pairs: int, commands: int, directory: Path | None) -> dict[str, Any]:
    """The bound for commands one at a time."""
    costs_ns = cost_of_a_figure_ns(pairs)
    with tempfile.TemporaryDirectory(prefix="leftfold-bench-", dir=directory) as place:
        child = started(Path(place) / "on", recording=True)
        try:
            figures, spent_ns = figures_of_a_command(child, LOOPBACK, max(100, commands // 50))
        finally:
            child.kill()

    def share(cost_ns: float) -> float:
        return figures * cost_ns / (spent_ns - figures * cost_ns)

    low, high = (share(cost_ns) for cost_ns in interval(costs_ns))
    return {
        "figures": round(figures, 1),
        "figure_ns": round(middle(costs_ns), 1),
        "on_us": round(spent_ns / 1e3, 3),
        "overhead": round(share(middle(costs_ns)), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "limit": LIMIT,
        "verdict": verdict(low, high),
    }


def summary(name: str, pairs: list[tuple[Figures, Figures]]) -> dict[str, Any]:
    """The overhead under one load: its mean over the pairs, with an interval."""
    ratios = [on[name] / off[name] - 1 for on, off in pairs]
    low, high = interval(ratios)
    return {
        "on_us": round(statistics.median(on[name] for on, _ in pairs), 3),
        "off_us": round(statistics.median(off[name] for _, off in pairs), 3),
        "overhead": round(middle(ratios), 4),
        "overhead_mean": round(statistics.fmean(ratios), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "limit": LIMIT,
        "verdict": verdict(low, high),
        "each": [round(ratio, 4) for ratio in ratios],
    }


def interval(values: list[float]) -> tuple[float, float]:
    """Where the mean of the middle lies with CONFIDENCE, by resampling."""
    chance = random.Random(SEED)
    means = sorted(middle(chance.choices(values, k=len(values))) for _ in range(RESAMPLES))
    beyond = int(RESAMPLES * (1 - CONFIDENCE) / 2)
    return means[beyond], means[-1 - beyond]


def middle(values: list[float]) -> float:
    """The mean of what lies between the least and the greatest fifth."""
    cut = int(len(values) * TRIMMED)
    return statistics.fmean(sorted(values)[cut : len(values) - cut])


def verdict(low: float, high: float) -> str:
    """What the interval says of the limit."""
    if high <= LIMIT:
        return f"at most {LIMIT:.0%}"
    return f"more than {LIMIT:.0%}" if low > LIMIT else "not decided"


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    table = Table(
        "load",
        "on",
        "off",
        "overhead",
        "95 %",
        "verdict",
        title=f"{found['pairs']} pairs, {found['machine']}",
    )
    for name in LOADS:
        one = found[name]
        table.add_row(
            name.replace("_", " "),
            f"{one['on_us']:.2f} µs",
            f"{one['off_us']:.2f} µs",
            f"{one['overhead']:+.1%}",
            f"{one['low']:+.1%} to {one['high']:+.1%}",
            one["verdict"],
        )
    parts = found["from_its_parts"]
    table.add_row(
        "one at a time, at most",
        f"{parts['on_us']:.2f} µs",
        "",
        f"{parts['overhead']:+.1%}",
        f"{parts['low']:+.1%} to {parts['high']:+.1%}",
        parts["verdict"],
    )
    console = Console()
    console.print(table)
    console.print(f"{parts['figures']} figures for a command, at most {parts['figure_ns']} ns each")


def main() -> None:
    """Measure and print."""
    parser = command_line(__doc__)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--commands", type=int, default=60_000)
    parser.add_argument("--dir", type=Path, help="where to put the replicas' directories")
    given = parser.parse_args()
    give(run(given.pairs, given.commands, given.dir), show, as_json=given.json)


if __name__ == "__main__":
    main()
