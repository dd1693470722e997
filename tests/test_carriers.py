"""Message links that C carries: only what Python would let pass, in order, and everything else is still Python's."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from peer_gateways import CAPACITY, Replica, replicas
from peer_nodes import hello
from served import until

from leftfold.raft.messages import AppendEntries, Entry, Heartbeat
from leftfold.runtime import slots
from leftfold.runtime.listening import listen
from leftfold.runtime.peer_hello import ALIVE_FRAME, REFUSED
from leftfold.runtime.raft_messages import encode


def test_messages_between_gateways_are_carried_and_python_sees_none() -> None:
    with replicas(1, 2) as (one, two):
        for term in range(1, 100):
            for source, target in ((one, two), (two, one)):
                beat = encode(Heartbeat(source.replica, target.replica, term, 0))
                assert source.send.write(beat)
                assert until(lambda at=target: at.came(at.receive), "the heartbeat") == [beat]
        for replica in (one, two):
            assert replica.peers.carriers is not None
            counts = replica.peers.carriers.counts
            until(lambda counts=counts: counts() == (99, 99), "the last is counted after it went")
            assert replica.peers.counts()["peer_messages_in"] == 99
            assert replica.peers.counts()["peer_messages_out"] == 99


@contextmanager
def called() -> Iterator[tuple[Replica, socket.socket]]:
    """Replica 1, and a caller that is linked with it as replica 2."""
    listener = listen("127.0.0.2", 0)
    where = "{}:{}".format(*listener.getsockname()[:2])
    one = Replica(1, listener)
    caller = socket.socket()
    try:
        other = "127.0.0.3:9"
        assert one.send.write(slots.pack_peers(slots.Peers("b", False, {1: where, 2: other})))
        caller.settimeout(30)
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.bind(("127.0.0.3", 0))
        caller.connect(listener.getsockname())
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        caller.sendall(hello(2, other, target=1, build="b").encode())
        until(lambda: one.came(one.receive), "consensus is told of the link")
        greeting = struct.unpack("<I", caller.recv(4, socket.MSG_WAITALL))[0]
        caller.recv(slots.padded(greeting) - 4, socket.MSG_WAITALL)
        yield one, caller
    finally:
        caller.close()
        one.stop()


def beat(term: int) -> bytes:
    """From the caller."""
    return encode(Heartbeat(2, 1, term, 0))


def test_a_message_may_come_byte_by_byte_and_behind_frames_that_say_nothing() -> None:
    with called() as (one, caller):
        for byte in beat(1) + ALIVE_FRAME + beat(2):
            caller.send(bytes([byte]))
        caller.sendall(ALIVE_FRAME + beat(3) + beat(4) + ALIVE_FRAME + beat(5)[:20])
        caller.sendall(beat(5)[20:])
        came: list[bytes] = []
        until(lambda: came.extend(one.came(one.receive)) or len(came) >= 5, "all messages")
        assert came == [beat(term) for term in range(1, 6)]
        assert one.said == []


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (encode(Heartbeat(3, 1, 9, 0)), "it sent a message of replica 3 to replica 1"),
        (encode(Heartbeat(2, 3, 9, 0)), "it sent a message of replica 2 to replica 3"),
        (struct.pack("<IHHQQ", 24, 41, 77, 1, 2), "a slot of type 41 and tag 77"),
        (struct.pack("<IHH", 1 << 30, 41, 5), f"it sent a frame of {1 << 30} bytes"),
        (struct.pack("<IHH", 8, 3, 0), "it sent a slot of type 3"),
    ],
)
def test_who_sends_nonsense_is_told_by_python_and_what_came_before_counts(
    data: bytes, why: str
) -> None:
    with called() as (one, caller):
        caller.sendall(beat(1) + data)
        assert until(lambda: slots_of_messages(one), "what came before") == [beat(1)]
        answer = b""
        while more := caller.recv(65536):
            answer += more
        assert struct.unpack_from("<HH", answer, 4) == (slots.PEER, REFUSED)
        assert why in answer.decode(errors="replace")
        assert why in until(lambda: one.said, "the operator is told")[0]


def slots_of_messages(one: Replica) -> list[bytes]:
    """Without what is told of links."""
    return [
        slot for slot in one.came(one.receive) if slot[4:6] == struct.pack("<H", slots.RAFT_MESSAGE)
    ]


def test_who_hangs_up_in_the_middle_of_a_frame_is_lost_and_may_call_again() -> None:
    with called() as (one, caller):
        caller.sendall(beat(1) + beat(2)[:20])
        assert until(lambda: slots_of_messages(one), "what came before") == [beat(1)]
        caller.close()
        sentence = until(lambda: one.said, "the operator is told")[0]
        assert "it closed the connection in the middle of a frame" in sentence
        until(lambda: not one.peers.counts()["peers_linked"], "the link is gone")
        assert one.peers.counts()["peer_messages_in"] == 1


def test_what_receive_has_no_room_for_is_dropped_and_the_link_goes_on() -> None:
    with called() as (one, caller):
        count = 2 * CAPACITY // len(beat(1))
        for term in range(1, count + 1):
            caller.sendall(beat(term))
        until(lambda: counted(one) == count, "each has been taken or dropped")
        assert one.peers.counts()["peer_dropped_in"]
        came = slots_of_messages(one)
        caller.sendall(beat(count + 1))
        until(
            lambda: came.extend(slots_of_messages(one)) or came[-1] == beat(count + 1), "the last"
        )
        terms = [struct.unpack_from("<Q", slot, 24)[0] for slot in came]
        assert terms == sorted(set(terms))
        until(lambda: counted(one) == count + 1, "the last is counted")
        assert len(came) == one.peers.counts()["peer_messages_in"]
        assert one.said == []


def counted(one: Replica) -> int:
    """Messages that have come, taken or dropped."""
    counts = one.peers.counts()
    return counts["peer_messages_in"] + counts["peer_dropped_in"]


def test_who_does_not_read_gets_what_fits_in_order_and_the_rest_is_dropped() -> None:
    """In the end the link is carried again."""
    with called() as (one, caller):
        assert one.peers.carriers is not None
        term = 0
        while not one.peers.counts()["peer_dropped_out"]:
            term += one.send.write(large(term + 1))
        until(lambda: not one.send.used(), "all was taken from send")
        came: list[int] = []
        while len(came) < one.peers.counts()["peer_messages_out"]:
            came += terms(caller)
        assert came == sorted(set(came))
        assert len(came) + one.peers.counts()["peer_dropped_out"] == term

        carried = one.peers.carriers.counts()[1]
        while one.peers.carriers.counts()[1] == carried:
            term += 1
            assert one.send.write(large(term))
            while term not in terms(caller):
                pass


def large(term: int) -> bytes:
    """To the caller."""
    return encode(AppendEntries(1, 2, term, 0, 0, (Entry(1, term, 0, 0, bytes(7000)),), 0))


def terms(caller: socket.socket) -> list[int]:
    """Of the next message, if the next frame is one."""
    head = caller.recv(slots.HEADER_BYTES, socket.MSG_WAITALL)
    length, kind, _ = slots.HEADER.unpack(head)
    rest = caller.recv(slots.padded(length) - len(head), socket.MSG_WAITALL) if length > 8 else b""
    return [struct.unpack_from("<Q", rest, 16)[0]] if kind == slots.RAFT_MESSAGE else []
