"""How fast a ring carries messages from one Python process to another, beside other Python queues.

    python -m leftfold.tools.bench_ring [--messages N] [--native-messages N] [--runs N] [--json]

Each system sends the same 32-byte messages, made before the clock starts; the receiver reads one
field of every message in a plain loop and the sum is checked. The clock runs at the receiver, from
the word "go" to the last message. All systems take turns within a run, so that a slow moment of the
machine strikes all; the figure of a system is the median of its runs.

Beside them, in the same runs: C processes through a ring, and the Disruptor's threads (ring_native.py).

Left to others: latency (ring_latency.py), and sizes other than the one that commands have as a rule.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import struct
import time
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing.synchronize import Event
from typing import Any

from rich.console import Console
from rich.table import Table

from ..shm import (
    DOORBELL_BYTES,
    Consumer,
    Doorbell,
    Producer,
    Segment,
    create_semaphore,
    format_ring,
    ring_bytes,
    unlink_semaphore,
)
from . import ring_native
from .progress import Advance

MESSAGE = struct.Struct("<IHHQ16x")
FIELD = struct.Struct("<8xQ16x")
BATCH = 256
MESSAGES = 2_000_000
NATIVE_MESSAGES = 100_000_000
CAPACITY = 1 << 20
RING_OFFSET = 4096
SPIN_NS = 20_000
TIMEOUT_NS = 50_000_000
RING = "ring"
MANY = "faster-fifo put_many/get_many"
ONE = "faster-fifo put/get"
STANDARD = "multiprocessing.Queue"
SPAWN = multiprocessing.get_context("spawn")


def messages_of(count: int) -> list[bytes]:
    """Return the messages, numbered from 1."""
    return [MESSAGE.pack(MESSAGE.size, 7, 0, number) for number in range(1, count + 1)]


def check(total: int, count: int) -> None:
    """Say at once that a figure would be worth nothing."""
    assert total == count * (count + 1) // 2, "messages were lost or doubled"


class RingPlace:
    """A segment with a ring and two bells, under a name of its own."""

    def __init__(self) -> None:
        self.name = f"/leftfold-bench-{os.getpid()}"
        self.segment = Segment.create(self.name, RING_OFFSET + ring_bytes(CAPACITY))
        format_ring(self.segment.memory[RING_OFFSET:], CAPACITY)
        for who in ("p", "c"):
            create_semaphore(f"{self.name}-{who}")

    def remove(self) -> None:
        """Remove every name."""
        self.segment.unlink()
        for who in ("p", "c"):
            unlink_semaphore(f"{self.name}-{who}")


def bells(segment: Segment, name: str) -> tuple[Doorbell, Doorbell]:
    """Open the producer's bell and the consumer's."""
    producer = Doorbell(segment.memory[:DOORBELL_BYTES], f"{name}-p")
    return producer, Doorbell(segment.memory[DOORBELL_BYTES:RING_OFFSET], f"{name}-c")


def send_through_ring(name: str, count: int, ready: Event, go: Event) -> None:
    """Run the sender's process."""
    segment = Segment.attach(name)
    own, peer = bells(segment, name)
    producer = Producer(segment.memory[RING_OFFSET:], own, peer)
    ends = (producer,)
    messages = messages_of(count)
    ready.set()
    go.wait()
    for first in range(0, count, BATCH):
        run = b"".join(messages[first : first + BATCH])
        while not producer.write(run):
            own.wait(ends, SPIN_NS, TIMEOUT_NS)


def measure_ring(count: int) -> float:
    """Return messages per second through a ring."""
    place = RingPlace()
    try:
        peer, own = bells(place.segment, place.name)
        consumer = Consumer(place.segment.memory[RING_OFFSET:], own, peer)
        ends = (consumer,)

        def receive() -> None:
            total = received = 0
            while received < count:
                run = consumer.peek()
                if not run:
                    own.wait(ends, SPIN_NS, TIMEOUT_NS)
                    continue
                for (number,) in FIELD.iter_unpack(run):
                    total += number
                received += len(run) // MESSAGE.size
                consumer.release(len(run))
            check(total, count)

        return measure(receive, count, send_through_ring, place.name)
    finally:
        place.remove()


def send_one_by_one(queue: Any, count: int, ready: Event, go: Event) -> None:
    """Run the sender's process of a queue with put()."""
    messages = messages_of(count)
    ready.set()
    go.wait()
    for message in messages:
        queue.put(message)


def measure_one_by_one(queue: Any, count: int) -> float:
    """Return messages per second through a queue with put() and get()."""

    def receive() -> None:
        total = 0
        for _ in range(count):
            total += FIELD.unpack(queue.get())[0]
        check(total, count)

    return measure(receive, count, send_one_by_one, queue)


def send_in_batches(queue: Any, count: int, ready: Event, go: Event) -> None:
    """Run the sender's process of a faster-fifo with put_many()."""
    messages = messages_of(count)
    ready.set()
    go.wait()
    for first in range(0, count, BATCH):
        queue.put_many(messages[first : first + BATCH])


def measure_in_batches(queue: Any, count: int) -> float:
    """Return messages per second through a faster-fifo with put_many() and get_many()."""

    def receive() -> None:
        total = received = 0
        while received < count:
            messages = queue.get_many(max_messages_to_get=CAPACITY // MESSAGE.size)
            for message in messages:
                total += FIELD.unpack(message)[0]
            received += len(messages)
        check(total, count)

    return measure(receive, count, send_in_batches, queue)


def measure(
    receive: Callable[[], None], count: int, send: Callable[..., None], place: object
) -> float:
    """Start the sender, wait until it is ready, and time the receiver in this process."""
    ready, go = SPAWN.Event(), SPAWN.Event()
    sender = SPAWN.Process(target=send, args=(place, count, ready, go), daemon=True)
    sender.start()
    ready.wait()
    start_ns = time.monotonic_ns()
    go.set()
    receive()
    elapsed_ns = time.monotonic_ns() - start_ns
    sender.join()
    return count / elapsed_ns * 1e9


def faster_fifo() -> Any:
    """Make a faster-fifo of the ring's capacity."""
    from faster_fifo import Queue  # pyright: ignore

    return Queue(max_size_bytes=CAPACITY)  # pyright: ignore


def systems() -> dict[str, tuple[Callable[[int], float], int]]:
    """Return how to measure each system, and which part of the messages it is given."""
    found: dict[str, tuple[Callable[[int], float], int]] = {RING: (measure_ring, 1)}
    if find_spec("faster_fifo"):
        found[MANY] = (lambda count: measure_in_batches(faster_fifo(), count), 5)
        found[ONE] = (lambda count: measure_one_by_one(faster_fifo(), count), 20)
    found[STANDARD] = (lambda count: measure_one_by_one(SPAWN.Queue(), count), 20)
    return found


def run(
    messages: int,
    runs: int,
    native_messages: int = NATIVE_MESSAGES,
    done: Advance = lambda at: None,
) -> dict[str, Any]:
    """Measure every system `runs` times: messages per second, and how much faster the ring is.

    The slower systems get a fifth or a twentieth of the messages, so that a run ends.
    """
    rates: dict[str, list[float]] = {}
    native: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    for at in range(runs):
        for name, (measure_system, part) in systems().items():
            rates.setdefault(name, []).append(measure_system(max(BATCH, messages // part)))
        found, missing = ring_native.measure(native_messages)
        for name, rate in found.items():
            native.setdefault(name, []).append(rate)
        done(at + 1)
    medians = {name: statistics.median(found) for name, found in rates.items()}
    return {
        "message_bytes": MESSAGE.size,
        "batch": BATCH,
        "messages": messages,
        "runs": runs,
        "messages_per_s": medians,
        "messages_per_s_runs": rates,
        "ring_is_faster_by": {
            name: medians[RING] / rate for name, rate in medians.items() if name != RING
        },
        "absent": [] if find_spec("faster_fifo") else ["faster-fifo"],
        "native": {
            "message_bytes": 8,
            "batch": ring_native.BATCH,
            "messages": native_messages,
            "messages_per_s": {name: statistics.median(found) for name, found in native.items()},
            "messages_per_s_runs": native,
            "absent": missing,
        },
    }


def show(found: dict[str, Any]) -> None:
    """Print the figures as tables."""
    table = Table("from Python process to Python process", "messages/s", "the ring is faster by")
    for name, rate in found["messages_per_s"].items():
        ratio = found["ring_is_faster_by"].get(name)
        table.add_row(name, f"{rate:,.0f}", "" if ratio is None else f"{ratio:.1f} times")
    console = Console()
    console.print(table)
    for name in found["absent"]:
        console.print(f"{name} is absent: pip install {name}")
    native = found["native"]
    table = Table(f"8 bytes in batches of {native['batch']}", "messages/s")
    for name, rate in native["messages_per_s"].items():
        table.add_row(name, f"{rate:,.0f}")
    console.print(table)
    for name, reason in native["absent"].items():
        console.print(f"not measured: {name}: {reason}")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--messages", type=int, default=MESSAGES)
    parser.add_argument("--native-messages", type=int, default=NATIVE_MESSAGES)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    found = run(arguments.messages, arguments.runs, arguments.native_messages)
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)


if __name__ == "__main__":
    main()
