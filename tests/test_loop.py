"""The gateway's turns in C: what they do alone, and what they call Python for."""

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gates import CLUSTER, HELLO, pad, reply, request, session_id
from served import Echo, Served, slots_of, until

from leftfold.runtime import slots
from leftfold.runtime._wire import ffi, lib
from leftfold.runtime.gateway import Gateway, GatewayLimits, Identity
from leftfold.runtime.listening import listen
from leftfold.shm import DOORBELL_BYTES, Consumer, Doorbell, Producer, RingCorrupt, format_ring
from leftfold.shm.ring import HEADER_BYTES, ring_bytes

CAPACITY = 1 << 16
SECOND_NS = 1_000_000_000


def receive(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = client.recv(size - len(data))
        assert more
        data += more
    return data


class Alone:
    """A gateway whose loop this thread calls, with the other ends of its rings."""

    def __init__(self) -> None:
        self.event_fd = os.eventfd(0, os.EFD_NONBLOCK)
        cell = bytearray(DOORBELL_BYTES)
        self.bell = Doorbell(cell, event_fd=self.event_fd)
        to_gateway = Doorbell(cell, event_fd=self.event_fd)
        self.memory = {name: bytearray(ring_bytes(CAPACITY)) for name in ("in", "out", "send")}
        for memory in self.memory.values():
            format_ring(memory, CAPACITY)
        self.gateway = Gateway(
            listen("127.0.0.1", 0),
            Identity(CLUSTER, 1, 64),
            Producer(self.memory["in"], self.bell),
            Consumer(self.memory["out"], self.bell),
            Consumer(self.memory["send"], self.bell),
            self.bell,
            limits=GatewayLimits(frame_bytes_max=4096),
        )
        self.ingress = Consumer(self.memory["in"], peer_bell=to_gateway)
        self.egress = Producer(self.memory["out"], peer_bell=to_gateway)
        self.send = Producer(self.memory["send"], peer_bell=to_gateway)
        self.loop: Any = self.gateway._loop
        self.gate: Any = self.gateway._gate
        self.loop.reading = 1
        self.loop.due_ns = 1 << 62

    def run(self) -> int:
        return lib.loop_run(self.gate, self.loop)

    def answer_one(self) -> None:
        """One command in, and its reply out."""
        with self.connect() as client:
            client.sendall(request(3, session_id(1), 1))
            while not self.ingress.peek_bytes():
                self.loop.leave = 1
                self.run()
            assert self.egress.write(pad(reply(session_id(1), 1)))
            self.loop.leave = 1
            self.run()

    def connect(self) -> socket.socket:
        client = socket.create_connection(self.gateway.address, 30)
        assert self.run() == lib.LOOP_ACCEPT
        self.gateway._accept(1)
        client.sendall(HELLO)
        return client

    def close(self) -> None:
        self.gateway.close()
        os.close(self.event_fd)


@pytest.fixture
def alone() -> Iterator[Alone]:
    alone = Alone()
    yield alone
    alone.close()


def test_a_command_and_its_reply_cost_no_call_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    heed = Gateway._heed

    def counted(gateway: Gateway, reasons: int, now_ns: int) -> None:
        calls.append(reasons)
        heed(gateway, reasons, now_ns)

    monkeypatch.setattr(Gateway, "_heed", counted)
    with (
        Served(Echo()) as served,
        socket.create_connection((served.host, served.port), 30) as client,
    ):
        client.sendall(HELLO)
        assert len(receive(client, 40)) == 40
        for number in range(1, 200):
            client.sendall(request(3, session_id(1), number))
            assert receive(client, 48) == reply(session_id(1), number)
    # One connection was accepted; apart from that there are ticks, and the end.
    assert sum(bool(reasons & lib.LOOP_ACCEPT) for reasons in calls) == 1
    expected = lib.LOOP_ACCEPT | lib.LOOP_DUE | lib.LOOP_LEFT | lib.LOOP_DRAINED
    assert not any(reasons & ~expected for reasons in calls)


def test_a_run_comes_in_and_its_replies_go_out_within_one_call(alone: Alone) -> None:
    came: list[bytes] = []
    with alone.connect() as client:
        client.sendall(request(3, session_id(1), 1))

        def answer() -> None:
            try:
                run = until(alone.ingress.peek_bytes, "the command")
                alone.ingress.release(len(run))
                assert alone.egress.write(pad(reply(session_id(1), 1)))
                came.append(receive(client, 40 + 48)[40:])
            finally:
                alone.loop.leave = 1
                alone.egress.write(pad(reply(session_id(2), 1)))  # which rings the bell

        thread = threading.Thread(target=answer)
        thread.start()
        assert alone.run() == lib.LOOP_LEFT
        thread.join()
    assert came == [reply(session_id(1), 1)]


def test_it_ends_when_something_is_due(alone: Alone) -> None:
    alone.loop.due_ns = 1
    assert alone.run() == lib.LOOP_DUE
    alone.loop.due_ns = alone.loop.now_ns + SECOND_NS // 100
    due_ns = alone.loop.due_ns
    assert alone.run() == lib.LOOP_DUE
    assert alone.loop.now_ns >= due_ns


def test_it_ends_at_a_signal(alone: Alone) -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: came.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        assert alone.run() == lib.LOOP_LEFT
        until(lambda: came, "the handler was called")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_descriptors_that_python_watches_end_it(alone: Alone) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        came: list[bytes] = []
        alone.gateway.descriptors.watch(
            ours.fileno(), 1, lambda events: came.append(ours.recv(100))
        )
        theirs.sendall(b"x")
        assert alone.run() == lib.LOOP_FOREIGN
        alone.gateway.descriptors.turn()
        assert came == [b"x"]
        alone.gateway.descriptors.forget(ours.fileno())


def test_what_is_for_peers_stays_in_send_and_what_came_before_it_is_gone(alone: Alone) -> None:
    message = struct.pack("<IHHQQ", 24, slots.RAFT_MESSAGE, 5, 1, 2)
    refused = pad(reply(session_id(1), 1, kind=22))
    assert alone.send.write(refused + message)
    assert alone.run() == lib.LOOP_SEND
    assert slots_of(alone.gateway.send.peek_bytes()) == [message]


def test_a_drain_ends_it(alone: Alone) -> None:
    assert alone.egress.write(b"\x08\0\0\0" + bytes([lib.WIRE_DRAIN, 0, 0, 0]))
    assert alone.run() == lib.LOOP_DRAINED


def test_a_ring_that_is_broken_is_told_and_raises_from_python(alone: Alone) -> None:
    assert alone.egress.write(pad(reply(session_id(1), 1)))
    alone.memory["out"][HEADER_BYTES : HEADER_BYTES + 4] = b"\xff\xff\xff\x7f"
    assert alone.run() == lib.LOOP_BROKEN
    with pytest.raises(RingCorrupt):
        alone.gateway.turn()


def test_a_slot_that_logic_must_not_write_is_our_bug(alone: Alone) -> None:
    assert alone.egress.write(pad(request(3, session_id(1), 1)))
    with pytest.raises(AssertionError, match="logic wrote"):
        alone.gateway.turn()


def test_a_full_ingress_is_counted_once_and_clients_are_read_again_when_there_is_room(
    alone: Alone,
) -> None:
    with alone.connect() as client:
        frame = request(3, session_id(1), 1, b"k", b"x" * 4000)
        client.setblocking(False)
        sent = 0
        while not alone.loop.paused:
            alone.loop.leave = 1
            alone.run()
            try:
                sent += client.send(frame[sent % len(frame) :])
            except BlockingIOError:
                continue
        for _ in range(3):
            alone.loop.leave = 1
            alone.run()
        assert alone.loop.pauses == 1
        came = 0
        while came < sent // len(frame):
            run = alone.ingress.peek_bytes()
            alone.ingress.release(len(run))
            came += len(slots_of(run))
            alone.loop.leave = 1
            alone.run()
    assert not alone.loop.paused


def test_latencies_are_recorded_where_a_histogram_is_given(alone: Alone) -> None:
    words = ffi.new("uint64_t[]", 4 + 2368)
    alone.loop.latency_ns = words
    alone.answer_one()
    assert sum(words[4 : 4 + 2368]) == 1
    assert words[0] > 0


def test_a_slot_on_send_that_is_broken_is_not_said_to_be_of_logic(alone: Alone) -> None:
    """loop.h: LOOP_SEND is what `send` gives where its first slot is for peers, or broken."""
    assert alone.send.write(struct.pack("<IHHQ", 16, 99, 0, 0))
    reasons = alone.run()
    assert reasons == lib.LOOP_SEND and not reasons & lib.LOOP_MALFORMED


def test_a_drain_that_waits_for_room_goes_as_soon_as_there_is_room(alone: Alone) -> None:
    """Nothing is due, so that only the ring can wake it."""
    gateway = alone.gateway
    gateway._tick_ns = 1 << 62
    slot = struct.pack("<IHH", 4096, 3, 0) + bytes(4088)
    while gateway.ingress.write(slot):
        pass
    gateway.drain()
    gateway._begin_drain()
    assert not gateway._drain_sent
    turn = threading.Thread(target=lambda: gateway.turn(reading=False))
    alone.loop.leave = 0
    turn.start()
    while not gateway.doorbell.armed():
        os.sched_yield()
    alone.ingress.release(len(alone.ingress.peek_bytes()))
    turn.join()
    assert alone.ingress.peek_bytes() == b"" and gateway.ingress.free() > 0


FILL = """
import gc, sys
sys.path.insert(0, sys.argv[1])
from test_loop import Alone
from leftfold.runtime.metrics import schema
from leftfold.shm import Counters
Counters.create(sys.argv[2], schema())
alone = Alone()
counters = Counters.attach(sys.argv[2], "gateway")
alone.gateway.counters = counters
alone.loop.latency_ns = alone.gateway._new_loop(4096).latency_ns
counters.close()
gc.collect()
alone.answer_one()
print("fine")
"""


def test_the_histogram_that_the_loop_fills_stays_mapped(tmp_path: Path) -> None:
    here = Path(__file__).parent
    command = [sys.executable, "-c", FILL, str(here), str(tmp_path / "counters")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "fine\n"), ran.stderr
