"""`leftfold profile`: one page about where a replica's time goes, for so many seconds of its life.

The page is one file that loads nothing: percentile curves, a command's way through the processes, throughput over time, the
handlers by their share of logic's time, and a flame graph of each process. Everything but the flames comes from figures that
are recorded anyway. Here the figures are taken; profile.html draws them.
"""

import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

from attrs import asdict, define, field
from cyclopts import Parameter

from ..runtime.errors import OperatorError
from ..runtime.topology import CONSENSUS, GATEWAY, PROCESSES
from ..shm import HistogramSnapshot
from .flames import MISSING, Flame, Flames, find
from .handlers import Names, handled
from .ranges import between
from .reading import HOPS, WHOLE, Reading, Window, figures_of, take
from .status import DEFAULT_DIRECTORY

PAGE = Path(__file__).with_name("profile.html")
PLACE = '{"figures": null}'
"""Where the figures go in the page."""
STEPS = 80


def profile(
    directory: Path = DEFAULT_DIRECTORY,
    /,
    *,
    seconds: Annotated[float, between(1, 3600)] = 10.0,
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path("report.html"),
    no_flames: bool = False,
) -> None:
    """Write a page about where a running replica's time goes.

    Parameters
    ----------
    directory
        The replica's directory.
    seconds
        How long to look.
    output
        The page.
    no_flames
        Do not look at the stacks of the processes with py-spy, which takes some CPU time while it does.
    """
    first = take(directory)
    if not first.alive:
        raise OperatorError(
            f"The replica of {directory} does not run: start it, or read its last figures with "
            "`leftfold stat`."
        )
    try:
        output.write_text(page_of(observe(first, seconds, flames=not no_flames)))
    except OSError as error:
        raise OperatorError(f"Cannot write {output}: {error.strerror}.") from None
    print(f"{output}: {output.stat().st_size / 1024:.0f} KiB, open it in a browser")


def page_of(figures: dict[str, Any]) -> str:
    """The page with the figures in it."""
    text = json.dumps(figures, separators=(",", ":")).replace("<", "\\u003c")
    page = PAGE.read_text()
    assert page.count(PLACE) == 1
    return page.replace(PLACE, text)


@define
class Series:
    """What goes up and down, over time."""

    at_s: list[float] = field(factory=list[float])
    commands_per_s: list[float] = field(factory=list[float])
    syncs_per_s: list[float] = field(factory=list[float])
    cpu_percent: dict[str, list[float]] = field(
        factory=lambda: {name: list[float]() for name in PROCESSES}
    )

    def add(self, window: Window, at_s: float) -> None:
        """One step more."""
        self.at_s.append(round(at_s, 3))
        self.commands_per_s.append(round(window.rate(CONSENSUS, "commands"), 1))
        self.syncs_per_s.append(round(window.rate("journal", "syncs"), 1))
        for name, found in self.cpu_percent.items():
            found.append(round(window.cpu_percent(name) or 0.0, 1))


def observe(first: Reading, seconds: float, *, flames: bool) -> dict[str, Any]:
    """Look at a live replica for so long; all that the page shows."""
    status = first.status
    names = Names.of(status.get("app"))
    pids = {name: status["pids"][name] for name in PROCESSES}
    with tempfile.TemporaryDirectory(prefix="leftfold-profile-") as place:
        samplers = Flames.start(pids if flames else {}, seconds, Path(place))
        first, series, last = _watch(take(first.directory), seconds)
        stacks = samplers.collect()
    window = Window(first, last)
    return {
        "app": status.get("app"),
        "directory": str(first.directory),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "began": time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(time.time() - seconds)),
        "seconds": round(window.seconds, 2),
        "commands": last.counter(CONSENSUS, "commands") - first.counter(CONSENSUS, "commands"),
        "replies": last.counter(GATEWAY, "frames_out") - first.counter(GATEWAY, "frames_out"),
        "load_average": round(os.getloadavg()[0], 1),
        "processes": [_process(window, name) for name in PROCESSES],
        "hops": [_hop(window, hop) for hop in HOPS],
        "curves": [_curve(window, *one) for one in _curves()],
        "series": asdict(series),
        "handlers": [asdict(one) for one in handled(window, names)],
        "flames": {name: asdict(_flame(stacks, name, flames=flames)) for name in PROCESSES},
    }


def _watch(first: Reading, seconds: float) -> tuple[Reading, Series, Reading]:
    series, before = Series(), first
    step_s = max(0.1, seconds / STEPS)
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        time.sleep(max(0.0, min(step_s, until_s - time.monotonic())))
        after = take(first.directory)
        if not after.alive:
            raise OperatorError(
                "The replica ended while it was looked at: start it, and profile again."
            )
        series.add(Window(before, after), (after.at_ns - first.at_ns) / 1e9)
        before = after
    return first, series, before


def _flame(stacks: dict[str, Flame], name: str, *, flames: bool) -> Flame:
    if name in stacks:
        return stacks[name]
    return Flame(None, MISSING if flames and find() is None else "It was not asked for.")


def _process(window: Window, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "pid": window.after.status["pids"].get(name),
        "cpu_percent": window.cpu_percent(name),
        "awake_percent": window.awake_percent(name),
        "wakes_per_s": window.wakes_per_s(name),
        "collections": window.histogram(name, "gc_ns").count,
        "collections_ns": window.histogram(name, "gc_ns").sum,
    }


def _hop(window: Window, hop: Any) -> dict[str, Any]:
    return {
        "name": hop.name,
        "process": hop.process,
        "says": hop.says,
        "wait": figures_of(window.histogram(hop.process, hop.waits)),
        "service": figures_of(window.histogram(hop.process, hop.serves)),
    }


def _curves() -> list[tuple[str, str, str]]:
    found = [(f"{name}", process, figure) for name, process, figure in WHOLE]
    found.append(("fsync", "journal", "fsync_ns"))
    for hop in HOPS:
        if hop.waits:
            found.append((f"{hop.name}: wait", hop.process, hop.waits))
        if hop.serves:
            found.append((f"{hop.name}: service", hop.process, hop.serves))
    return found


def _curve(window: Window, name: str, process: str, figure: str) -> dict[str, Any]:
    histogram = window.histogram(process, figure)
    return {
        "name": name,
        "process": process,
        "figures": figures_of(histogram),
        "points": _points(histogram),
    }


def _points(histogram: HistogramSnapshot) -> list[tuple[float, int]]:
    """(share of all that is not above it, value), for each bucket; the last is the maximum."""
    found: list[tuple[float, int]] = []
    seen = 0
    for last, count in histogram.counted():
        seen += count
        found.append((round(seen / histogram.count, 7), min(last, histogram.max)))
    return found
