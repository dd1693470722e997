"""Whole gateways, each in a thread with its real rings, bells and clock, that carry each other's messages and clients' too."""

import os
import socket
import struct

import pytest
from gates import CLUSTER, HELLO, reply, request, session_id
from peer_gateways import replicas
from peer_nodes import ring
from served import until

from leftfold.raft.messages import AppendEntries, Entry, Heartbeat
from leftfold.runtime import slots
from leftfold.runtime.gateway import Gateway, GatewayLimits, Identity
from leftfold.runtime.listening import listen
from leftfold.runtime.metrics import schema
from leftfold.runtime.raft_messages import encode
from leftfold.runtime.topology import GATEWAY
from leftfold.shm import DOORBELL_BYTES, Consumer, Doorbell, Producer


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
        until(lambda: one.peers.counts()["peers_linked"] == 1, "the other one is counted")


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
