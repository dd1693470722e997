"""A real gateway on a real port in a thread, over real rings; behind them a thread in place of the replica.

`Echo` answers every command with an empty reply; `Fold` is the real machine of an app, without log and disk: each run
of the ingress ring is one entry. Both answer DRAIN.
"""

import os
import ssl
import struct
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, Self

from gates import CLUSTER, pad, reply, request, subscribed

from leftfold.actors import App
from leftfold.actors.limits import Limits
from leftfold.actors.machine import Machine, Outputs
from leftfold.runtime.gateway import Gateway, GatewayLimits, Identity
from leftfold.runtime.listening import listen
from leftfold.shm import (
    DOORBELL_BYTES,
    Consumer,
    Doorbell,
    Producer,
    create_semaphore,
    format_ring,
    ring_bytes,
    unlink_semaphore,
)

DRAIN = struct.pack("<IHH", 8, 38, 0)
WAIT_NS = 20_000_000
PATIENCE_NS = 60_000_000_000
"""For a greeting: the clock is real, and a loaded machine may hold up a test's thread for seconds."""


class Behind(Protocol):
    """What stands behind the rings."""

    def answer(self, slots: list[bytes]) -> bytes:
        """The egress run for the padded slots of an ingress run."""
        ...


class Echo:
    """Answers each frame with the emptiest answer there is, and keeps what came."""

    def __init__(self) -> None:
        self.came: list[bytes] = []

    def answer(self, slots: list[bytes]) -> bytes:
        out: list[bytes] = []
        for slot in slots:
            _, kind, _, session, number = struct.unpack_from("<IHH16sQ", slot.ljust(32))
            if kind == 38:
                out.append(DRAIN)
                continue
            self.came.append(slot)
            if kind == 50:
                continue  # answered on `send`, by consensus
            if kind == 6:
                out.append(subscribed(session, number))
            else:
                out.append(pad(reply(session, number, b"", 18 if kind == 5 else 17)))
        return b"".join(out)


class Fold:
    """The machine itself: exactly-once, sessions, events."""

    def __init__(self, app: App, limits: Limits | None = None) -> None:
        self.machine = Machine(app, limits or Limits(), 1)
        self.index = 0

    def answer(self, slots: list[bytes]) -> bytes:
        body: list[bytes] = []
        rest: list[bytes] = []
        out = bytearray()
        for slot in slots:
            (body if struct.unpack_from("<H", slot, 4)[0] in (2, 3, 4) else rest).append(slot)
        if body:
            self.index += 1
            outputs = Outputs()
            self.machine.apply(self.index, self.index * 1000, 0, b"".join(body), outputs=outputs)
            out += outputs.egress
        for slot in rest:
            kind = struct.unpack_from("<H", slot, 4)[0]
            if kind == 5:
                out += self.machine.query(slot, self.index)
            elif kind == 6:
                out += self.machine.subscribe(slot)
            else:
                out += DRAIN
        return bytes(out)


class Flood:
    """Puts events before the next answer, once."""

    def __init__(self, behind: Behind, events: list[bytes]) -> None:
        self.behind: Behind = getattr(behind, "behind", behind)
        self.events = events

    def answer(self, slots: list[bytes]) -> bytes:
        run = b"".join(map(pad, self.events))
        self.events = []
        return run + self.behind.answer(slots)


class Served:
    """The gateway's thread, and the thread behind it."""

    def __init__(
        self,
        behind: Behind,
        *,
        window: int = 1024,
        ingress_bytes: int = 1 << 20,
        egress_bytes: int = 1 << 20,
        tls: ssl.SSLContext | None = None,
        tokens: tuple[str, ...] = (),
        **limits: Any,
    ) -> None:
        self.behind = behind
        self.status: list[int] = []
        self.frozen = threading.Event()
        self._stopped = threading.Event()
        name = f"/leftfold-test-{os.getpid()}-{id(self):x}"
        create_semaphore(name)
        event_fd = os.eventfd(0, os.EFD_NONBLOCK)
        cells = bytearray(DOORBELL_BYTES), bytearray(DOORBELL_BYTES)
        # Each side has its own handle of each bell, as two processes would.
        bell, to_logic = Doorbell(cells[0], event_fd=event_fd), Doorbell(cells[1], semaphore=name)
        self._bell, to_gateway = (
            Doorbell(cells[1], semaphore=name),
            Doorbell(cells[0], event_fd=event_fd),
        )
        unlink_semaphore(name)
        self._event_fd = event_fd
        ingress, egress, send = map(_ring, (ingress_bytes, egress_bytes, 1 << 16))
        self.gateway = Gateway(
            listen("127.0.0.1", 0),
            Identity(CLUSTER, 1, window, tokens),
            Producer(ingress, bell, to_logic),
            Consumer(egress, bell, to_logic),
            Consumer(send, bell, to_logic),
            bell,
            limits=GatewayLimits(**{"hello_ns": PATIENCE_NS, **limits}),
            tls=tls,
        )
        self.host, self.port = self.gateway.address
        self.ingress = Consumer(ingress, self._bell, to_gateway)
        self.egress = Producer(egress, self._bell, to_gateway)
        self.send = Producer(send, self._bell, to_gateway)
        self._threads = [
            threading.Thread(target=self._serve, name="gateway"),
            threading.Thread(target=self._answer, name="behind"),
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.frozen.clear()
        self.gateway.drain()
        self._threads[0].join(30)
        self._stopped.set()
        self._threads[1].join(30)
        alive = [thread.name for thread in self._threads if thread.is_alive()]
        assert not alive, f"still running: {alive}"
        self.gateway.close()
        os.close(self._event_fd)

    def _serve(self) -> None:
        self.status.append(self.gateway.run())

    def _answer(self) -> None:
        ends = (self.ingress, self.egress)
        while not self._stopped.is_set():
            run = b"" if self.frozen.is_set() else self.ingress.peek_bytes(64 * 1024)
            if not run:
                self._bell.wait(ends, 0, WAIT_NS) if not self.frozen.is_set() else time.sleep(0.001)
                continue
            self.write(self.behind.answer(slots_of(run)))
            self.ingress.release(len(run))

    def write(self, run: bytes) -> None:
        """Write an egress run in pieces, waiting for room. Only behind the rings' back."""
        for slot in slots_of(run):
            while not self.egress.write(slot) and not self._stopped.is_set():
                self._bell.wait((self.ingress, self.egress), 0, WAIT_NS)


def _ring(capacity: int) -> bytearray:
    memory = bytearray(ring_bytes(capacity))
    format_ring(memory, capacity)
    return memory


def slots_of(run: bytes) -> list[bytes]:
    """The padded slots of a run."""
    slots: list[bytes] = []
    at = 0
    while at < len(run):
        size = (struct.unpack_from("<I", run, at)[0] + 7) & ~7
        slots.append(run[at : at + size])
        at += size
    return slots


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for a condition, far longer than it takes."""
    deadline = time.monotonic() + 30
    while not (found := condition()):
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.001)
    return found


__all__ = ["Echo", "Flood", "Fold", "Served", "request", "slots_of", "until"]
