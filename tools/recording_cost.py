"""What recording costs, told from its parts: how many figures a command records, times what recording one costs.

The second is measured in one process, where nothing else changes: runs through a ring whose ends record, and through one whose ends do
not, in alternating pairs. Such a run looks at the clock three times and records four figures, so one figure with its look at the clock
is at most a third of it, wherever a process records one. The first are the counts of all histograms of a replica, which serves commands
one at a time meanwhile, when batches share nothing; and its CPU time for a command is what they are compared with.
"""

import tempfile
import time
from pathlib import Path

from ..runtime.topology import PROCESSES
from ..shm import (
    CONSUMER_FIGURES,
    Consumer,
    Counters,
    Producer,
    Schema,
    format_ring,
    ring_bytes,
)
from . import load
from .child import Child
from .reading import Window, take

CAPACITY = 1 << 16
SLOT = (24).to_bytes(4, "little") + (7).to_bytes(4, "little") + bytes(16)
LOOKS_AT_THE_CLOCK = 3
"""Of a run through a ring that records: its stamp, the peek, the release."""
ROLE = "cost"


def cost_of_a_figure_ns(pairs: int, runs: int = 20_000) -> list[float]:
    """Nanoseconds of CPU time for a figure, at most: one value for each pair."""
    found: list[float] = []
    with tempfile.TemporaryDirectory(prefix="leftfold-bench-") as place:
        path = Path(place) / "counters"
        Counters.create(path, {ROLE: Schema(histograms=CONSUMER_FIGURES)})
        counters = Counters.attach(path, ROLE)
        ends = {recording: _ends(counters if recording else None) for recording in (True, False)}
        for pair in range(pairs):
            order = (True, False) if pair % 2 else (False, True)
            took = {recording: _timed(*ends[recording], runs) for recording in order}
            found.append((took[True] - took[False]) / runs / LOOKS_AT_THE_CLOCK)
        assert counters.histograms["service_ns"].snapshot().count == pairs * runs
    return found


def _ends(counters: Counters | None) -> tuple[Producer, Consumer]:
    memory = bytearray(ring_bytes(CAPACITY))
    format_ring(memory, CAPACITY)
    producer, consumer = Producer(memory), Consumer(memory)
    if counters is not None:
        producer.record()
        consumer.record(counters.histograms)
    return producer, consumer


def _timed(producer: Producer, consumer: Consumer, runs: int) -> int:
    began_ns = time.thread_time_ns()
    for _ in range(runs):
        producer.write(SLOT)
        consumer.release(len(consumer.peek()))
    return time.thread_time_ns() - began_ns


def figures_of_a_command(child: Child, host: str, commands: int) -> tuple[float, float]:
    """(figures recorded for a command, CPU time for it in ns), of a replica that serves one at a time."""
    before = take(child.directory)
    load.latency(host, child.port, commands=commands, warm_up=0)
    window = Window(before, take(child.directory))
    recorded = sum(
        window.histogram(name, figure).count
        for name in PROCESSES
        for figure in window.after.roles[name].histograms
    )
    spent_ns = sum(window.after.cpu_ns[name] - before.cpu_ns[name] for name in PROCESSES)
    return recorded / commands, spent_ns / commands
