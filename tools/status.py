"""`leftfold status`: what a replica does now, or what a dead one did last.

Everything comes from two files in the replica's directory: `replica.json`, which the supervisor
replaces, and the mapped `counters`, which the processes write. So it costs the replica nothing, and
works after kill -9 too.
"""

import json as json_module
import time
from pathlib import Path
from typing import Any

from attrs import frozen
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..runtime.config import KIB, MIB, TransportLimits
from ..runtime.quarantines import sentences
from ..runtime.supervisor import read_status
from ..runtime.topology import RINGS
from ..shm import Counters, HistogramSnapshot, ShmError, Snapshot
from .paper import paper

RATE_S = 0.5
WATCH_S = 1.0
DEFAULT_DIRECTORY = Path("leftfold-data")
FINAL_STATES = ("stopped", "failed", "parked")
RATED = (
    ("consensus", "commands", "commands"),
    ("consensus", "entries", "entries"),
    ("gateway", "frames_in", "frames in"),
    ("journal", "syncs", "syncs"),
)
INDICES = (
    ("journal", "durable_index", "durable"),
    ("consensus", "commit_index", "committed"),
    ("logic", "applied_index", "applied"),
)


@frozen
class Sample:
    """All figures at one moment."""

    at_s: float
    roles: dict[str, Snapshot]


def status(
    directory: Path = DEFAULT_DIRECTORY, /, *, json: bool = False, watch: bool = False
) -> None:
    """Show what a replica does, or what a dead one did last.

    Parameters
    ----------
    directory
        The replica's directory.
    json
        Print one JSON object (with --watch: one a second, one a line).
    watch
        Go on until Ctrl-C.
    """
    before = take_sample(directory)
    report = make_report(directory, before, before)
    if report["alive"]:
        time.sleep(RATE_S)
        after = take_sample(directory)
        report, before = make_report(directory, before, after), after
    if not watch:
        if json:
            print(json_module.dumps(report, indent=2))
        else:
            console = paper()
            console.print(_headline(report), soft_wrap=True)
            console.print(_hops(report), _rings(report))
        return
    _watch(directory, before, report, as_json=json)


def _watch(directory: Path, before: Sample, report: dict[str, Any], *, as_json: bool) -> None:
    console = paper()
    live = Live(show(report), console=console, auto_refresh=False)
    with live:
        while True:
            if as_json:
                print(json_module.dumps(report), flush=True)
            elif console.is_terminal:
                live.update(show(report), refresh=True)
            else:
                console.print(show(report))
            time.sleep(WATCH_S)
            after = take_sample(directory)
            report, before = make_report(directory, before, after), after


def take_sample(directory: Path) -> Sample:
    """Read the counters; empty where no process has written any yet."""
    at_s = time.monotonic()
    try:
        return Sample(at_s, Counters.read(directory / "counters"))
    except (OSError, ShmError):
        return Sample(at_s, {})


def make_report(directory: Path, before: Sample, after: Sample) -> dict[str, Any]:
    """Everything that is shown, as plain values. Raises OperatorError where there is no replica."""
    record = read_status(directory)
    pids: dict[str, int] = record.get("pids", {})
    alive = {name: is_leftfold(pid) for name, pid in pids.items()}
    limits = TransportLimits()
    return {
        "directory": str(directory),
        "state": record["state"],
        "alive": alive.get("supervisor", False),
        "app": record.get("app"),
        "address": record.get("address"),
        "port": record.get("port"),
        "generation": record["generation"],
        "error": record.get("error"),
        "quarantined": record.get("quarantined"),
        "processes": {name: {"pid": pid, "alive": alive[name]} for name, pid in pids.items()},
        "indices": {label: _counter(after, role, name) for role, name, label in INDICES},
        "log": _log(after),
        "rates_per_s": _rates(before, after),
        "hops": {
            role: {name: _percentiles(found) for name, found in snapshot.histograms.items()}
            for role, snapshot in after.roles.items()
        },
        "counters": {role: dict(snapshot.counters) for role, snapshot in after.roles.items()},
        "rings": [
            {
                "name": row.name,
                "from": row.producer,
                "to": row.consumer,
                "used_bytes": _counter(after, row.consumer, f"{row.name}_used_bytes"),
                "capacity_bytes": row.capacity_bytes(limits),
            }
            for row in RINGS
        ],
    }


def is_leftfold(pid: int) -> bool:
    """Whether this process id is (still) one of ours."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"leftfold" in command


def _counter(sample: Sample, role: str, name: str) -> int | None:
    snapshot = sample.roles.get(role)
    return None if snapshot is None else snapshot.counters.get(name)


def _log(sample: Sample) -> dict[str, int] | None:
    """What is kept: the newest snapshot, the entries behind it, where the log begins, what all of it takes on disk."""
    snapshot = _counter(sample, "consensus", "snapshot_index")
    if snapshot is None:
        return None
    committed = _counter(sample, "consensus", "commit_index") or 0
    return {
        "snapshot_index": snapshot,
        "snapshot_age_entries": max(0, committed - snapshot),
        "first_index": _counter(sample, "consensus", "log_first_index") or 0,
        "disk_bytes": _counter(sample, "journal", "disk_bytes") or 0,
        "refused": _counter(sample, "consensus", "refused") or 0,
    }


def _rates(before: Sample, after: Sample) -> dict[str, float]:
    seconds = after.at_s - before.at_s
    rates: dict[str, float] = {}
    for role, name, label in RATED:
        old, new = _counter(before, role, name), _counter(after, role, name)
        if old is not None and new is not None and seconds > 0:
            rates[label] = round(max(0, new - old) / seconds, 1)
    return rates


def _percentiles(histogram: HistogramSnapshot) -> dict[str, float]:
    return {
        "count": histogram.count,
        "p50": histogram.p50,
        "p99": histogram.p99,
        "p999": histogram.p999,
        "max": histogram.max,
        "mean": round(histogram.mean, 1),
    }


def show(report: dict[str, Any]) -> Group:
    """The report as a person reads it."""
    return Group(_headline(report), _hops(report), _rings(report))


def _headline(report: dict[str, Any]) -> Text:
    state = report["state"]
    if not report["alive"] and state not in FINAL_STATES:
        state = f"dead (it was {state})"
    lines = [
        f"{report['app']} in {report['directory']}: {state}, generation {report['generation']}"
    ]
    if report["error"]:
        lines.append(report["error"])
    lines.extend(sentences(report["quarantined"]))
    if report["alive"] and report["port"]:
        lines.append(f"listens on {report['address']}:{report['port']}")
    lines.append(
        "processes: "
        + ", ".join(
            f"{name} {process['pid']}{'' if process['alive'] else ' (gone)'}"
            for name, process in report["processes"].items()
        )
    )
    indices = [f"{name} {index}" for name, index in report["indices"].items() if index is not None]
    if indices:
        lines.append("indices: " + ", ".join(indices))
    if report["log"]:
        lines.append(_kept(report["log"]))
    if report["rates_per_s"]:
        lines.append(
            "rates: "
            + ", ".join(f"{rate:.0f} {name}/s" for name, rate in report["rates_per_s"].items())
        )
    return Text("\n".join(lines))


def _kept(log: dict[str, int]) -> str:
    index, age = log["snapshot_index"], log["snapshot_age_entries"]
    snapshot = f"snapshot of entry {index}, {age} entries ago" if index else "no snapshot yet"
    kept = f"{snapshot}; log from entry {log['first_index']}, {log['disk_bytes'] / MIB:.1f} MiB on disk"
    return f"kept: {kept}" + (f"; {log['refused']} commands refused" if log["refused"] else "")


def _hops(report: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("process")
    table.add_column("what")
    for heading in ("count", "p50", "p99", "p99.9", "max"):
        table.add_column(heading, justify="right")
    for role, histograms in report["hops"].items():
        for name, found in histograms.items():
            if not found["count"]:
                continue
            cells = [_with_unit(name, found[part]) for part in ("p50", "p99", "p999", "max")]
            table.add_row(
                role, name.removesuffix("_ns").removesuffix("_bytes"), f"{found['count']}", *cells
            )
    return table


def _with_unit(name: str, value: float) -> str:
    if name.endswith("_ns"):
        return f"{value / 1e3:.0f} µs" if value < 1e7 else f"{value / 1e6:.0f} ms"
    if name.endswith("_bytes"):
        return f"{value:.0f} B" if value < 10 * KIB else f"{value / KIB:.0f} KiB"
    return f"{value:.0f}"


def _rings(report: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("ring")
    table.add_column("from → to")
    table.add_column("in use", justify="right")
    for ring in report["rings"]:
        used = ring["used_bytes"]
        if used is None:
            continue
        share = 100 * used / ring["capacity_bytes"]
        table.add_row(ring["name"], f"{ring['from']} → {ring['to']}", f"{share:.1f} %")
    return table
