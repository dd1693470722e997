"""Whole gateways, each in a thread with its real rings, bells and clock, that carry each other's messages and clients' too."""

import os
import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from gates import CLUSTER, HELLO, reply, request, session_id
from peer_nodes import hello, ring
from served import slots_of, until

from leftfold.raft.messages import AppendEntries, Entry, Heartbeat
from leftfold.runtime import slots
from leftfold.runtime.descriptors import Descriptors
from leftfold.runtime.gateway import Gateway, GatewayLimits, Identity
from leftfold.runtime.listening import listen
from leftfold.runtime.metrics import schema
from leftfold.runtime.peers import PeerLimits, Peers
from leftfold.runtime.raft_messages import encode
from leftfold.runtime.topology import GATEWAY
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


def test_messages_go_from_send_to_receive_and_bulk_to_bulk() -> None:
    with replicas(1, 2, 3) as (one, two, three):
        for source, target in ((one, two), (two, three), (three, one), (two, one)):
            beat = encode(Heartbeat(source.replica, target.replica, 7, 6, 5))
            entry = Entry(1, 7, 0, 0, b"x" * 5000)
            bulk = encode(AppendEntries(source.replica, target.replica, 7, 0, 0, (entry,), 0))
            assert source.send.write(beat) and source.bulk_send.write(bulk)

            assert until(lambda at=target: at.came(at.receive), "the message") == [beat]
            assert until(lambda at=target: at.came(at.bulk_receive), "the bulk") == [bulk]
        assert one.said == two.said == three.said == []


def test_messages_for_peers_and_answers_for_clients_share_send() -> None:
    with (
        replicas(1, 2) as (one, two),
        socket.create_connection(one.gateway.address, 30) as client,
    ):
        client.sendall(HELLO + request(5, session_id(1), 1))
        until(lambda: one.came(one.ingress), "the query is in ingress")
        answers = [reply(session_id(1), n, b"yes" * n, 18) for n in range(1, 6)]
        beats = [encode(Heartbeat(1, 2, 7, n)) for n in range(6)]
        run = beats[0]
        for answer, beat in zip(answers, beats[1:], strict=True):
            run += answer + bytes(-len(answer) % 8) + beat
        assert one.send.write(run)

        expected = b"".join(answers)
        data = b""
        client.settimeout(30)
        while len(data) < 40 + len(expected):
            data += client.recv(65536)
        assert data[40:] == expected
        came: list[bytes] = []
        until(lambda: came.extend(two.came(two.receive)) or len(came) >= 6, "all beats")
        assert came == beats


def test_a_full_ingress_stops_clients_and_no_peer() -> None:
    with replicas(1, 2) as (one, two), socket.create_connection(one.gateway.address, 30) as client:
        client.sendall(HELLO)
        client.setblocking(False)
        flood = request(3, session_id(1), 1, b"k", b"x" * 4000) * 250
        sent = 0
        while not one.gateway.pauses:
            try:
                sent += client.send(flood[sent % len(flood) :])
            except BlockingIOError:
                pass
        for term in range(1, 200):
            beat = encode(Heartbeat(2, 1, term, 0))
            assert two.send.write(beat)
            assert until(lambda: one.came(one.receive), "the heartbeat") == [beat]
        until(lambda: one.came(one.ingress), "the clients go on")


def test_bulk_waits_for_room_in_a_parked_gateway_and_goes_on_by_the_bell() -> None:
    with replicas(1, 2) as (one, two):
        entry = Entry(1, 7, 0, 0, b"x" * 7000)
        bulk = encode(AppendEntries(2, 1, 7, 0, 0, (entry,), 0))
        for _ in range(40):
            until(lambda: two.bulk_send.write(bulk), "room to send")
        until(lambda: one.peers.counts()["bulk_pauses"], "the link pauses")
        came: list[bytes] = []
        until(lambda: came.extend(one.came(one.bulk_receive)) or len(came) == 40, "all of it")
        assert came == [bulk] * 40


def test_what_is_counted_of_peers_is_in_the_schema() -> None:
    with replicas(1, 2) as (one, _):
        assert set(one.peers.counts()) < set(schema()[GATEWAY].counters)
        assert one.peers.counts()["peers_linked"] == 1


@pytest.mark.parametrize("kind", [slots.RAFT_MESSAGE, slots.PEERS])
def test_a_gateway_without_peers_says_that_it_was_told_nonsense(kind: int) -> None:
    bell = Doorbell(bytearray(DOORBELL_BYTES), event_fd=(fd := os.eventfd(0, os.EFD_NONBLOCK)))
    other = Doorbell(bytearray(DOORBELL_BYTES), event_fd=fd)
    memory = [ring(1 << 16) for _ in range(3)]
    gateway = Gateway(
        listen("127.0.0.1", 0),
        Identity(CLUSTER, 1, 64),
        Producer(memory[0], bell, other),
        Consumer(memory[1], bell, other),
        Consumer(memory[2], bell, other),
        bell,
        limits=GatewayLimits(frame_bytes_max=4096),
    )
    assert Producer(memory[2], other, bell).write(struct.pack("<IHHQQ", 24, kind, 5, 1, 2))
    with pytest.raises(AssertionError, match="a replica without peers"):
        gateway.turn()
    gateway.close()
    os.close(fd)
