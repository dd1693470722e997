"""`leftfold metrics`: an endpoint that Prometheus scrapes. A scrape reads the mapped figures; the replica does nothing for it.

It is a process of its own: it may start before the replica, where the directory is there, and outlive it; `leftfold_up` says
whether there is one, and a dead replica's last figures are still given. Needs prometheus-client: pip install 'leftfold[prometheus]'.

A histogram is cut at powers of two, where its own buckets end (shm/histogram.h), so that no count is estimated.
"""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import define

from ..runtime.errors import OperatorError
from ..runtime.recording import DOORBELL
from ..runtime.topology import PROCESSES
from ..shm import HistogramSnapshot
from .handlers import Names, counted
from .ranges import Port
from .reading import Reading, take
from .status import DEFAULT_DIRECTORY

if TYPE_CHECKING:
    from prometheus_client.core import Metric

PORT = 9464
NS_PER_S = 1_000_000_000
NS_BITS = range(10, 35)
"""From a microsecond to seventeen seconds."""
BYTES_BITS = range(6, 28)

UP_AND_DOWN = {
    *("connections", "sessions", "subscriptions", "output_bytes", "peers_linked"),
    *("commit_index", "applied_index", "durable_index", "snapshot_index", "log_first_index"),
    *("term", "role", "leader", "segments", "disk_bytes", "snapshot_written_bytes", "quarantined"),
}
"""Counters that are not sums. So is what ends in _used_bytes."""


def metrics(
    directory: Path = DEFAULT_DIRECTORY, /, *, host: str = "127.0.0.1", port: Port = PORT
) -> None:
    """Serve a replica's figures to Prometheus until Ctrl-C.

    Parameters
    ----------
    directory
        The replica's directory; it must be there, the replica need not.
    host
        The address to listen on.
    port
        The port to listen on; 0 picks a free one.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError:
        raise OperatorError(
            "prometheus-client is not installed: pip install 'leftfold[prometheus]'."
        ) from None
    if not directory.is_dir():
        raise OperatorError(
            f"There is no directory {directory}: name that of a replica, or make it if the replica comes later."
        )
    registry = CollectorRegistry()
    registry.register(Collector(directory))
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise OperatorError(
            f"Cannot listen on {host}:{port}: {error.strerror}; choose another with --port."
        ) from None
    ended = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: ended.set())
    print(f"http://{host}:{server.server_port}/metrics", flush=True)
    try:
        ended.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
        server.shutdown()
        thread.join()
        server.server_close()


@define(eq=False)
class Collector:
    """What a scrape asks."""

    directory: Path

    def collect(self) -> "Iterator[Metric]":
        """Everything, as it is now."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        try:
            reading = take(self.directory)
        except OperatorError:
            reading = None
        alive = reading is not None and reading.alive
        yield GaugeMetricFamily("leftfold_up", "Whether the replica runs.", int(alive))
        if reading is None:
            return
        cpu = CounterMetricFamily(
            "leftfold_cpu_seconds", "CPU time of the processes that run.", labels=["process"]
        )
        for name, spent_ns in reading.cpu_ns.items():
            cpu.add_metric([name], spent_ns / NS_PER_S)
        yield cpu
        yield from _counters(reading)
        yield from _doorbells(reading)
        yield from _handlers(reading)
        yield from _histograms(reading)


def _counters(reading: Reading) -> "Iterator[Metric]":
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    for process in PROCESSES:
        if process not in reading.roles:
            continue
        for name, value in reading.roles[process].counters.items():
            is_gauge = name in UP_AND_DOWN or name.endswith("_used_bytes")
            family = GaugeMetricFamily if is_gauge else CounterMetricFamily
            yield family(f"leftfold_{process}_{name}", f"{name} of {process}.", value)


def _doorbells(reading: Reading) -> "Iterator[Metric]":
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(
        "leftfold_doorbell", "How the processes wait: see doorbell.h.", labels=["process", "what"]
    )
    for process, snapshot in reading.roles.items():
        for what, value in zip(DOORBELL, snapshot.words.get("doorbell", ()), strict=False):
            family.add_metric([process, what], value)
    yield family


def _handlers(reading: Reading) -> "Iterator[Metric]":
    """Seconds are those of all calls, told from the calls that were timed."""
    from prometheus_client.core import CounterMetricFamily

    labels = ["actor", "handler", "message"]
    calls = CounterMetricFamily("leftfold_handler_calls", "Calls of handlers.", labels=labels)
    spent = CounterMetricFamily("leftfold_handler_seconds", "Time in handlers.", labels=labels)
    names = Names.of(reading.status.get("app"))
    for id, (count, timed, timed_ns) in counted(reading).items():
        message, actor, handler = names.of_message(id)
        calls.add_metric([actor, handler, message], count)
        if timed:
            spent.add_metric([actor, handler, message], timed_ns / timed * count / NS_PER_S)
    yield calls
    yield spent


def _histograms(reading: Reading) -> "Iterator[Metric]":
    from prometheus_client.core import HistogramMetricFamily

    for process in PROCESSES:
        if process not in reading.roles:
            continue
        for name, histogram in reading.roles[process].histograms.items():
            is_time = name.endswith("_ns")
            shown = f"{name.removesuffix('_ns')}_seconds" if is_time else name
            unit = NS_PER_S if is_time else 1
            family = HistogramMetricFamily(f"leftfold_{process}_{shown}", f"{name} of {process}.")
            bits = NS_BITS if is_time else BYTES_BITS
            family.add_metric([], buckets_of(histogram, bits, unit), histogram.sum / unit)
            yield family


def buckets_of(histogram: HistogramSnapshot, bits: range, unit: int) -> list[tuple[str, float]]:
    """(upper bound, how many below it) at each power of two, in units; then all."""
    bounds = [(1 << bit) for bit in bits]
    below = [0] * len(bounds)
    for last, count in histogram.counted():
        for at, bound in enumerate(bounds):
            if last < bound:
                below[at] += count
    found = [(f"{bound / unit:g}", float(n)) for bound, n in zip(bounds, below, strict=True)]
    return [*found, ("+Inf", float(histogram.count))]
