"""How long a message takes from one Python process to another, at a pace that nothing slows down.

Every message is due at a moment of its own and carries it; its latency counts from that moment, not from when it could be
sent, so a queue that stalls shows with all of its weight. The sender spins until a message is due; the receiver sleeps as its
queue lets it. The first messages warm up and do not count.
"""

import time
from array import array
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from ..shm import Consumer, Producer, Segment
from .bench_ring import (
    FIELD,
    MESSAGE,
    ONE,
    RING,
    RING_OFFSET,
    SPAWN,
    SPIN_NS,
    STANDARD,
    TIMEOUT_NS,
    RingPlace,
    bells,
    faster_fifo,
)
from .curves import Curve

WARM_UP = 200
START_NS = 20_000_000
"""Between "go" and the first message."""


def systems() -> list[str]:
    """Those that are here."""
    return [RING, *([ONE] if find_spec("faster_fifo") else []), STANDARD]


def measure(system: str, per_second: float, count: int) -> Curve:
    """So many messages at this pace, one by one."""
    if system == RING:
        took = through_ring(per_second, count)
    else:
        took = through_queue(system, per_second, count)
    return Curve(system, sorted(took[WARM_UP:]))


def through_ring(per_second: float, count: int) -> "array[int]":
    """Through ours."""
    place = RingPlace()
    try:
        peer, own = bells(place.segment, place.name)
        consumer = Consumer(place.segment.memory[RING_OFFSET:], own, peer)
        ends = (consumer,)
        took: array[int] = array("q")

        def receive() -> None:
            while len(took) < count + WARM_UP:
                run = consumer.peek()
                if not run:
                    own.wait(ends, SPIN_NS, TIMEOUT_NS)
                    continue
                now_ns = time.monotonic_ns()
                took.extend(now_ns - due_ns for (due_ns,) in FIELD.iter_unpack(run))
                consumer.release(len(run))

        _paced(receive, _send_through_ring, place.name, per_second, count + WARM_UP)
        return took
    finally:
        place.remove()


def through_queue(system: str, per_second: float, count: int) -> "array[int]":
    """Through a queue with put() and get()."""
    queue = faster_fifo() if system == ONE else SPAWN.Queue()
    took: array[int] = array("q")

    def receive() -> None:
        while len(took) < count + WARM_UP:
            (due_ns,) = FIELD.unpack(queue.get())
            took.append(time.monotonic_ns() - due_ns)

    _paced(receive, _send_through_queue, queue, per_second, count + WARM_UP)
    return took


def _paced(
    receive: Callable[[], None],
    send: Callable[..., None],
    place: object,
    per_second: float,
    count: int,
) -> None:
    ready, go = SPAWN.Event(), SPAWN.Event()
    arguments = (place, per_second, count, ready, go)
    sender = SPAWN.Process(target=send, args=arguments, daemon=True)
    sender.start()
    ready.wait()
    go.set()
    receive()
    sender.join()


def _send_through_ring(name: str, per_second: float, count: int, ready: Any, go: Any) -> None:
    segment = Segment.attach(name)
    own, peer = bells(segment, name)
    producer = Producer(segment.memory[RING_OFFSET:], own, peer)
    ends = (producer,)

    def put(message: bytes) -> None:
        while not producer.write(message):
            own.wait(ends, SPIN_NS, TIMEOUT_NS)

    ready.set()
    go.wait()
    _keep_pace(put, per_second, count)


def _send_through_queue(queue: Any, per_second: float, count: int, ready: Any, go: Any) -> None:
    ready.set()
    go.wait()
    _keep_pace(queue.put, per_second, count)


def _keep_pace(put: Callable[[bytes], object], per_second: float, count: int) -> None:
    began_ns = time.monotonic_ns() + START_NS
    interval_ns = 1e9 / per_second
    for number in range(count):
        due_ns = began_ns + int(number * interval_ns)
        while time.monotonic_ns() < due_ns:
            pass
        put(MESSAGE.pack(MESSAGE.size, 7, 0, due_ns))
