"""Whole gateways with links to each other, each in a thread with its real rings, bells and clock; consensus and logic are the test."""

import os
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from gates import CLUSTER
from peer_nodes import hello, ring
from served import slots_of, until

from leftfold.runtime import slots
from leftfold.runtime.descriptors import Descriptors
from leftfold.runtime.gateway import Gateway, GatewayLimits, Identity
from leftfold.runtime.listening import listen
from leftfold.runtime.peers import PeerLimits, Peers
from leftfold.shm import (
    DOORBELL_BYTES,
    Consumer,
    Doorbell,
    Producer,
    create_semaphore,
    unlink_semaphore,
)

CAPACITY = 1 << 16
PATIENCE_NS = 60 * 10**9
PATIENT = PeerLimits(hello_ns=PATIENCE_NS, silent_ns=PATIENCE_NS)
"""These threads have a real clock, and a loaded machine may let any of them wait for seconds."""


class Replica:
    """A gateway's thread; consensus and logic are the test."""

    def __init__(self, replica: int, listener: socket.socket) -> None:
        name = f"/leftfold-test-{os.getpid()}-{id(self):x}"
        create_semaphore(name)
        self._event_fd = os.eventfd(0, os.EFD_NONBLOCK)
        cells = bytearray(DOORBELL_BYTES), bytearray(DOORBELL_BYTES)
        bell, to_rest = Doorbell(cells[0], event_fd=self._event_fd), Doorbell(cells[1], name)
        rest, to_gateway = (
            Doorbell(cells[1], name),
            Doorbell(cells[0], event_fd=self._event_fd),
        )
        unlink_semaphore(name)
        memory = {
            ring_name: ring(CAPACITY)
            for ring_name in ("ingress", "egress", "send", "receive", "bulk_send", "bulk_receive")
        }
        self.said: list[str] = []
        host, port = listener.getsockname()[:2]
        descriptors = Descriptors()
        self.peers = Peers(
            hello(replica, f"{host}:{port}", build=""),
            listener,
            Producer(memory["receive"], bell, to_rest),
            Producer(memory["bulk_receive"], bell, to_rest),
            Consumer(memory["bulk_send"], bell, to_rest),
            descriptors,
            self.said.append,
            random.Random(replica),
            limits=PATIENT,
        )
        self.gateway = Gateway(
            listen("127.0.0.1", 0),
            Identity(CLUSTER, replica, 64),
            Producer(memory["ingress"], bell, to_rest),
            Consumer(memory["egress"], bell, to_rest),
            Consumer(memory["send"], bell, to_rest),
            bell,
            limits=GatewayLimits(frame_bytes_max=4096, hello_ns=PATIENCE_NS),
            peers=self.peers,
            descriptors=descriptors,
        )
        self.replica = replica
        self.ingress = Consumer(memory["ingress"], rest, to_gateway)
        self.receive = Consumer(memory["receive"], rest, to_gateway)
        self.bulk_receive = Consumer(memory["bulk_receive"], rest, to_gateway)
        self.egress = Producer(memory["egress"], rest, to_gateway)
        self.send = Producer(memory["send"], rest, to_gateway)
        self.bulk_send = Producer(memory["bulk_send"], rest, to_gateway)
        self.thread = threading.Thread(target=self.gateway.run, name=f"gateway {replica}")
        self.thread.start()

    def came(self, consumer: Consumer) -> list[bytes]:
        run = consumer.peek_bytes()
        if run:
            consumer.release(len(run))
        return slots_of(run)

    def stop(self) -> None:
        self.gateway.drain()
        until(
            lambda: any(slot[4] == slots.DRAIN for slot in self.came(self.ingress)),
            "the drain comes through ingress",
        )
        assert self.egress.write(slots.pack_drain())
        self.thread.join(30)
        assert not self.thread.is_alive()
        self.gateway.close()
        os.close(self._event_fd)


@contextmanager
def replicas(*ids: int) -> Iterator[list[Replica]]:
    listeners = {replica: listen(f"127.0.0.{replica + 1}", 0) for replica in ids}
    addresses = {r: "{}:{}".format(*found.getsockname()[:2]) for r, found in listeners.items()}
    with ExitStack() as stack:
        started: list[Replica] = []
        for replica, listener in listeners.items():
            started.append(Replica(replica, listener))
            stack.callback(started[-1].stop)
        for one in started:
            assert one.send.write(slots.pack_peers(slots.Peers("b", False, addresses)))
        for one in started:
            told: list[tuple[Any, ...]] = []
            until(
                lambda one=one, told=told: (
                    told.extend(
                        slots.unpack_link(memoryview(slot).toreadonly())
                        for slot in one.came(one.receive)
                    )
                    or len(told) == len(ids) - 1
                ),
                "consensus is told of every link",
            )
            assert {replica for replica, _ in told} == {*ids} - {one.replica}
        yield started
