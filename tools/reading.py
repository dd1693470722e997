"""All figures of a replica at one moment, and what happened between two: for `stat`, `top`, `profile` and `metrics`.

They come from the mapped counters in the replica's directory, from replica.json and from /proc, so that reading costs the replica
nothing, and works for a dead one, whose CPU time alone is gone. Figures over a window are differences of two readings.
"""

import time
from pathlib import Path
from typing import Any

from attrs import field, frozen

from ..runtime.config import TransportLimits
from ..runtime.recording import DOORBELL
from ..runtime.supervisor import read_status
from ..runtime.topology import CONSENSUS, GATEWAY, JOURNAL, LOGIC, PROCESSES, RINGS
from ..shm import Counters, HistogramSnapshot, ShmError, Snapshot
from .status import FINAL_STATES, is_leftfold

PERCENTS = (("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p999", 99.9))
NO_FIGURES = HistogramSnapshot(0, 0, 0, ())


@frozen
class Hop:
    """A stretch of a command's way: who is timed, and by which histograms."""

    name: str
    process: str
    waits: str | None
    serves: str | None
    says: str


HOPS = (
    Hop("gateway in", GATEWAY, None, "ingress_claim_ns", "sockets read, frames checked, copied"),
    Hop("sequenced", CONSENSUS, "ingress_wait_ns", "ingress_service_ns", "made one entry"),
    Hop("journalled", JOURNAL, "persist_wait_ns", "persist_service_ns", "written and synced"),
    Hop("committed", CONSENSUS, "persisted_wait_ns", "persisted_service_ns", "heard to be durable"),
    Hop("applied", LOGIC, "apply_wait_ns", "apply_service_ns", "handled"),
    Hop("gateway out", GATEWAY, "egress_wait_ns", "egress_service_ns", "given to connections"),
)
"""A command's way through the replica, in order; times are those of batches."""

WHOLE = (
    ("in to out", GATEWAY, "latency_ns"),
    ("sequenced to durable", CONSENSUS, "sequenced_to_durable_ns"),
    ("sequenced to applied", CONSENSUS, "sequenced_to_applied_ns"),
)
"""What is timed from one end to the other."""


@frozen
class Reading:
    """Everything at one moment."""

    directory: Path
    at_ns: int
    status: dict[str, Any]
    roles: dict[str, Snapshot]
    cpu_ns: dict[str, int] = field(factory=dict[str, int])
    """CPU time that each process has had, of those that live."""

    @property
    def alive(self) -> bool:
        """Whether the replica runs."""
        return "supervisor" in self.cpu_ns

    @property
    def state(self) -> str:
        """What replica.json says; for one that was killed, that it is dead."""
        state: str = self.status["state"]
        return state if self.alive or state in FINAL_STATES else f"dead (it was {state})"

    def histogram(self, process: str, name: str | None) -> HistogramSnapshot:
        """One histogram; an empty one where there is none of this name."""
        snapshot = self.roles.get(process)
        if snapshot is None or name is None:
            return NO_FIGURES
        return snapshot.histograms.get(name, NO_FIGURES)

    def counter(self, process: str, name: str) -> int:
        """One counter; 0 where there is none of this name."""
        snapshot = self.roles.get(process)
        return 0 if snapshot is None else snapshot.counters.get(name, 0)


def take(directory: Path) -> Reading:
    """Read everything now. Raises OperatorError where there is no replica."""
    status = read_status(directory)
    try:
        roles = Counters.read(directory / "counters")
    except (OSError, ShmError):
        roles = {}
    cpu_ns = {
        name: spent for name, pid in status["pids"].items() if (spent := cpu_of(pid)) is not None
    }
    return Reading(directory, time.monotonic_ns(), status, roles, cpu_ns)


def cpu_of(pid: int) -> int | None:
    """The CPU time of all threads of one of our processes, in ns; None if it is gone."""
    if not is_leftfold(pid):
        return None
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        spent = sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)
    except OSError:
        return None
    return None if state in "ZX" else spent


@frozen
class Window:
    """What happened between two readings; with the same one twice, since the counters were made."""

    before: Reading
    after: Reading

    @property
    def seconds(self) -> float:
        """How long it was."""
        return (self.after.at_ns - self.before.at_ns) / 1e9

    def histogram(self, process: str, name: str | None) -> HistogramSnapshot:
        """What was recorded in it."""
        after = self.after.histogram(process, name)
        before = self.before.histogram(process, name)
        if self.before is self.after or not before.buckets:
            return after
        return after.since(before)

    def rate(self, process: str, name: str) -> float:
        """How much a counter grew a second."""
        if not self.seconds:
            return 0.0
        grown = self.after.counter(process, name) - self.before.counter(process, name)
        return max(0, grown) / self.seconds

    def cpu_percent(self, process: str) -> float | None:
        """Of one core; None of a process that is gone."""
        spent, before = self.after.cpu_ns.get(process), self.before.cpu_ns.get(process)
        if spent is None or before is None or not self.seconds:
            return None
        return max(0, spent - before) / (self.after.at_ns - self.before.at_ns) * 100

    def awake_percent(self, process: str) -> float | None:
        """How much of the time it was not parked: CPU time, and waits for disk and for a core."""
        if not self.seconds:
            return None
        # Parks are short, and stretches awake are not: what is not over yet is not recorded.
        parked = self.histogram(process, "parked_ns").sum
        if process not in self.after.cpu_ns or not self.after.histogram(process, "parked_ns").count:
            return None
        return max(0.0, 100.0 - parked / (self.after.at_ns - self.before.at_ns) * 100)

    def wakes_per_s(self, process: str) -> float:
        """How often a second it parked."""
        return self._doorbell(process, "parks") / self.seconds if self.seconds else 0.0

    def _doorbell(self, process: str, name: str) -> int:
        word = DOORBELL.index(name)
        found = [
            reading.roles[process].words["doorbell"][word]
            for reading in (self.before, self.after)
            if process in reading.roles and "doorbell" in reading.roles[process].words
        ]
        return max(0, found[1] - found[0]) if len(found) == 2 else 0


def figures_of(histogram: HistogramSnapshot) -> dict[str, float]:
    """A histogram in a few figures."""
    return {
        "count": histogram.count,
        **{name: histogram.percentile(percent) for name, percent in PERCENTS},
        "max": histogram.max,
        "mean": round(histogram.mean, 1),
    }


def report_of(window: Window) -> dict[str, Any]:
    """Everything, as plain values: since the counters were made, and, of a live replica, over the window."""
    after = window.after
    limits = TransportLimits()
    return {
        "directory": str(after.directory),
        "app": after.status.get("app"),
        "state": after.state,
        "alive": after.alive,
        "generation": after.status["generation"],
        "error": after.status.get("error"),
        "window_s": round(window.seconds, 3),
        "processes": {name: _process(window, name) for name in PROCESSES},
        "hops": [_hop(window, hop) for hop in HOPS],
        "whole": {name: _times(window, process, figure) for name, process, figure in WHOLE},
        "rings": [
            {
                "name": row.name,
                "from": row.producer,
                "to": row.consumer,
                "used_bytes": after.counter(row.consumer, f"{row.name}_used_bytes"),
                "capacity_bytes": row.capacity_bytes(limits),
                "fill_bytes": _times(window, row.consumer, f"{row.name}_fill_bytes"),
                "batch_bytes": _times(window, row.consumer, f"{row.name}_batch_bytes"),
            }
            for row in RINGS
        ],
    }


def _process(window: Window, name: str) -> dict[str, Any]:
    snapshot = window.after.roles.get(name, Snapshot({}, {}, {}))
    return {
        "pid": window.after.status["pids"].get(name),
        "alive": name in window.after.cpu_ns,
        "cpu_percent": _rounded(window.cpu_percent(name)),
        "awake_percent": _rounded(window.awake_percent(name)),
        "counters": dict(snapshot.counters),
        "rates_per_s": {
            counter: round(window.rate(name, counter), 1) for counter in snapshot.counters
        }
        if window.seconds
        else {},
        "doorbell": dict(zip(DOORBELL, snapshot.words.get("doorbell", ()), strict=False)),
        "histograms": {figure: _times(window, name, figure) for figure in snapshot.histograms},
    }


def _hop(window: Window, hop: Hop) -> dict[str, Any]:
    return {
        "name": hop.name,
        "process": hop.process,
        "wait_ns": _times(window, hop.process, hop.waits) if hop.waits else None,
        "service_ns": _times(window, hop.process, hop.serves) if hop.serves else None,
    }


def _times(window: Window, process: str, name: str) -> dict[str, Any]:
    """Since the counters were made; and over the window, where there is one."""
    found: dict[str, Any] = figures_of(window.after.histogram(process, name))
    if window.seconds:
        found["window"] = figures_of(window.histogram(process, name))
    return found


def _rounded(figure: float | None) -> float | None:
    return None if figure is None else round(figure, 1)
