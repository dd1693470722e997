"""The figures of a window as a person reads them in a terminal: for `stat` and `top`."""

from rich.table import Table
from rich.text import Text

from ..runtime.config import KIB, TransportLimits
from ..runtime.quarantines import sentences
from ..runtime.topology import CONSENSUS, GATEWAY, JOURNAL, PROCESSES, RINGS
from ..shm import HistogramSnapshot
from .handlers import Names, handled
from .reading import HOPS, WHOLE, Window

BATCHED = (
    ("commands", CONSENSUS, "commands"),
    ("entries", CONSENSUS, "entries"),
    ("syncs", JOURNAL, "syncs"),
    ("frames in", GATEWAY, "frames_in"),
    ("frames out", GATEWAY, "frames_out"),
)
"""What is shown as a rate."""


def headline(window: Window) -> Text:
    """What it is, whether it lives, and how much it does."""
    after = window.after
    status = after.status
    lines = [f"{status['app']} in {after.directory}: {after.state}"]
    if not after.alive:
        lines[0] += "; these are the last figures, since the counters were made"
    if status.get("error"):
        lines.append(str(status["error"]))
    lines.extend(sentences(status.get("quarantined")))
    rates = [f"{window.rate(process, name):,.0f} {label}/s" for label, process, name in BATCHED]
    if window.seconds:
        lines.append("  ".join(rates))
    style = "bold" if after.alive else "bold red"
    return Text("\n".join(lines), style=style)


def processes_of(window: Window) -> Table:
    """Each process: CPU, time awake, wake-ups, collections, syncs."""
    table = _table("process", "pid")
    for heading in ("CPU", "awake", "wakes/s", "awake for p50", "p99", "gc", "gc max"):
        table.add_column(heading, justify="right")
    for name in PROCESSES:
        awake = window.histogram(name, "awake_ns")
        collections = window.histogram(name, "gc_ns")
        pid = window.after.status["pids"].get(name)
        table.add_row(
            name,
            f"{pid}" if name in window.after.cpu_ns else f"{pid} (gone)",
            _percent(window.cpu_percent(name)),
            _percent(window.awake_percent(name)),
            f"{window.wakes_per_s(name):,.0f}" if window.seconds else "-",
            _time(awake, 50),
            _time(awake, 99),
            f"{collections.count:,}",
            shown_ns(collections.max) if collections.count else "-",
        )
    return table


def hops_of(window: Window) -> Table:
    """A command's way: what each hop waits and serves, and what takes from end to end."""
    table = _table("hop", "process")
    for heading in ("batches", "wait p50", "p99", "p99.9", "max"):
        table.add_column(heading, justify="right")
    for heading in ("service p50", "p99", "p99.9", "max"):
        table.add_column(heading, justify="right")
    for hop in HOPS:
        waits = window.histogram(hop.process, hop.waits)
        serves = window.histogram(hop.process, hop.serves)
        table.add_row(hop.name, hop.process, f"{serves.count:,}", *_spread(waits), *_spread(serves))
    for name, process, figure in (
        *WHOLE,
        ("write", JOURNAL, "write_ns"),
        ("fsync", JOURNAL, "fsync_ns"),
    ):
        whole = window.histogram(process, figure)
        table.add_row(name, process, f"{whole.count:,}", *[""] * 4, *_spread(whole))
    return table


def rings_of(window: Window) -> Table:
    """Each ring that carried anything: how full it was when somebody looked, and what was taken at once."""
    table = _table("ring", "from → to")
    for heading in ("now", "fill p50", "p99", "max", "batch p50", "p99", "max"):
        table.add_column(heading, justify="right")
    limits = TransportLimits()
    for row in RINGS:
        fill = window.histogram(row.consumer, f"{row.name}_fill_bytes")
        batch = window.histogram(row.consumer, f"{row.name}_batch_bytes")
        if not window.after.histogram(row.consumer, f"{row.name}_fill_bytes").count:
            continue
        capacity = row.capacity_bytes(limits)
        used = window.after.counter(row.consumer, f"{row.name}_used_bytes")
        table.add_row(
            row.name,
            f"{row.producer} → {row.consumer}",
            *(f"{100 * size / capacity:.1f} %" for size in (used, *_sizes(fill))),
            *(_bytes(size) for size in _sizes(batch)),
        )
    return table


def handlers_of(window: Window, names: Names, shown: int | None = None) -> Table:
    """Each handler that was called; those that take most of the time first."""
    table = _table("handler", "message")
    share = "of the time" if window.seconds else "of all handlers"
    for heading in ("calls", "calls/s", "each", share):
        table.add_column(heading, justify="right")
    for one in handled(window, names)[:shown]:
        table.add_row(
            one.handler,
            one.message,
            f"{one.calls:,}",
            "-" if one.calls_per_s is None else f"{one.calls_per_s:,.0f}",
            "-" if one.each_ns is None else shown_ns(one.each_ns),
            f"{one.share:.1%}",
        )
    return table


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    return table


def _sizes(histogram: HistogramSnapshot) -> tuple[int, int, int]:
    return histogram.p50, histogram.p99, histogram.max


def _spread(histogram: HistogramSnapshot) -> list[str]:
    if not histogram.count:
        return ["-"] * 4
    found = (histogram.p50, histogram.p99, histogram.p999, histogram.max)
    return [shown_ns(value) for value in found]


def _time(histogram: HistogramSnapshot, percent: float) -> str:
    return shown_ns(histogram.percentile(percent)) if histogram.count else "-"


def shown_ns(value: float) -> str:
    """A time with three digits or so."""
    for factor, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if value >= factor:
            return (
                f"{value / factor:.3g} {unit}"
                if value < 1e3 * factor
                else f"{value / factor:.0f} {unit}"
            )
    return f"{value:.0f} ns"


def _bytes(value: float) -> str:
    return f"{value:.0f} B" if value < 10 * KIB else f"{value / KIB:.0f} KiB"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} %"
