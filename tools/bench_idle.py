"""What a replica costs that nobody asks anything: CPU time and wake-ups of its processes, over some seconds.

    python -m leftfold.tools.bench_idle [--seconds N] [--app APP] [--json]

The CPU time is the kernel's, of all threads of all five processes, the supervisor with them; a share is of one core. The first seconds
after a start do not count: segments of the log are filled ahead then. There is no threshold here.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..runtime.topology import PROCESSES
from .bench_replica import LEDGER_APP
from .child import Child
from .figures import command_line, give
from .footprint import pss_bytes
from .reading import Window, take

SETTLE_S = 3.0
CALM_PERCENT = 20.0
SETTLE_S_MAX = 60.0


def run(seconds: float, app: str = LEDGER_APP, settle_s: float = SETTLE_S) -> dict[str, Any]:
    """Start one, leave it alone, and look at it twice."""
    with tempfile.TemporaryDirectory(prefix="leftfold-bench-") as place:
        child = Child(app, Path(place) / "replica")
        child.start()
        try:
            _settle(child.directory, settle_s)
            before = take(child.directory)
            time.sleep(seconds)
            window = Window(before, take(child.directory))
            pids: dict[str, int] = window.after.status["pids"]
            memory = {name: pss_bytes(pid) for name, pid in pids.items()}
        finally:
            child.kill()
    shares = {name: window.cpu_percent(name) for name in window.after.cpu_ns}
    assert all(share is not None for share in shares.values()), "a process ended"
    return {
        "seconds": round(window.seconds, 2),
        "percent_of_a_core": sum(share or 0.0 for share in shares.values()),
        "percent": shares,
        "wakes_per_s": {name: window.wakes_per_s(name) for name in PROCESSES},
        "pss_bytes": memory,
    }


def _settle(directory: Path, seconds: float) -> None:
    """Wait until what is done after a start is over: a stretch in which no process works much."""
    deadline_s = time.monotonic() + SETTLE_S_MAX
    while time.monotonic() < deadline_s:
        before = take(directory)
        time.sleep(seconds)
        window = Window(before, take(directory))
        if sum(window.cpu_percent(name) or 0.0 for name in PROCESSES) < CALM_PERCENT:
            return


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    table = Table("process", "of one core", "wakes/s", "PSS")
    for name, share in found["percent"].items():
        wakes = found["wakes_per_s"].get(name)
        table.add_row(
            name,
            f"{share:.2f} %",
            "" if wakes is None else f"{wakes:.1f}",
            f"{found['pss_bytes'][name] / 2**20:.1f} MiB",
        )
    memory = sum(found["pss_bytes"].values()) / 2**20
    table.add_row("all", f"{found['percent_of_a_core']:.2f} %", "", f"{memory:.1f} MiB")
    console = Console()
    console.print(table)
    console.print(f"over {found['seconds']} s")


def main() -> None:
    """Measure and print."""
    parser = command_line(__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--settle", type=float, default=SETTLE_S)
    parser.add_argument("--app", default=LEDGER_APP)
    given = parser.parse_args()
    give(run(given.seconds, given.app, given.settle), show, as_json=given.json)


if __name__ == "__main__":
    main()
