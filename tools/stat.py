"""`leftfold stat`: all figures of a replica, once: counters, rates, percentiles, rings; also of a dead one.

With --json everything that there is; without, what a person asks first. With --hdr the histograms go to a file that the
tools of HdrHistogram read.
"""

import json as json_module
import time
from pathlib import Path
from typing import Annotated

from attrs import asdict
from rich.console import Group

from ..runtime.errors import OperatorError
from ..runtime.topology import PROCESSES
from .handlers import Names, handled
from .hdrlog import Interval, write
from .paper import paper
from .ranges import between
from .reading import Window, report_of, take
from .status import DEFAULT_DIRECTORY
from .tables import handlers_of, headline, hops_of, processes_of, rings_of


def stat(
    directory: Path = DEFAULT_DIRECTORY,
    /,
    *,
    json: bool = False,
    seconds: Annotated[float, between(0.01, 3600)] = 1.0,
    hdr: Path | None = None,
) -> None:
    """Show all figures of a replica once, also of a dead one.

    Parameters
    ----------
    directory
        The replica's directory.
    json
        Print one JSON object with everything.
    seconds
        Over which time rates are taken, of a replica that runs.
    hdr
        Write the histograms to this file, in the log format of HdrHistogram.
    """
    window = observe(directory, seconds)
    names = Names.of(window.after.status.get("app"))
    if hdr is not None:
        _write_hdr(hdr, window)
    if json:
        handlers = [asdict(one) for one in handled(window, names)]
        print(json_module.dumps(report_of(window) | {"handlers": handlers}, indent=2))
        return
    paper().print(
        Group(
            headline(window),
            processes_of(window),
            hops_of(window),
            rings_of(window),
            handlers_of(window, names),
        )
    )


def observe(directory: Path, seconds: float) -> Window:
    """Two readings of a live replica, `seconds` apart; one of a dead one."""
    before = take(directory)
    if not before.alive:
        return Window(before, before)
    time.sleep(seconds)
    return Window(before, take(directory))


def _write_hdr(path: Path, window: Window) -> None:
    intervals = [
        Interval(f"{name}.{figure}", 0.0, window.seconds, window.histogram(name, figure))
        for name in PROCESSES
        if name in window.after.roles
        for figure in window.after.roles[name].histograms
    ]
    try:
        with path.open("w") as file:
            write(file, intervals, time.time() - window.seconds)
    except OSError as error:
        raise OperatorError(f"Cannot write {path}: {error.strerror}.") from None
