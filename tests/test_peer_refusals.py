"""Who is refused on the port for peers, and in which words; and that nothing which comes there does more than that."""

import random
import socket
import struct
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
from peer_nodes import CLUSTER, MS, Cluster, Node, answer, call, cluster, hello

from leftfold.raft.messages import AppendEntries, Entry, Heartbeat
from leftfold.runtime import slots
from leftfold.runtime.listening import listen
from leftfold.runtime.peer_hello import ALIVE_FRAME, BULK_LINK, REFUSED, refusal
from leftfold.runtime.peer_intake import DROPPED_IN_A_ROW_MAX
from leftfold.runtime.peers import UNGREETED_MAX
from leftfold.runtime.raft_messages import encode


@pytest.fixture
def running() -> Iterator[Cluster]:
    """Replica 1 alone, whose members are 1 and 2; whoever calls is the test."""
    with cluster((1, 2)) as found:
        found.start(1)
        yield found


def refusals(data: bytes) -> list[str]:
    """The sentences of the REFUSED frames in what a caller was sent."""
    return [
        bytes(slot[slots.HEADER_BYTES :]).decode()
        for kind, tag, slot in slots.slots_of(memoryview(data))
        if kind == slots.PEER and tag == REFUSED
    ]


def greeting(running: Cluster, **said: Any) -> bytes:
    fields: dict[str, Any] = {"target": 1, **said}
    source = fields.pop("source", 2)
    address = fields.pop("address", running.addresses[2])
    return hello(source, address, **fields).encode()


def greeted(running: Cluster, **said: Any) -> socket.socket:
    """A caller who is linked with replica 1 as replica 2."""
    caller = call(running.nodes[1], "127.0.0.3")
    caller.sendall(greeting(running, **said))
    assert answer(running, caller, until_end=False)
    return caller


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"cluster_id": bytes(16)}, "belongs to another cluster"),
        ({"source": 1}, "Two replicas have the id 1"),
        ({"target": 3}, "takes this replica, 1, for replica 3"),
        ({"address": "127.0.0.9:1"}, "Two replicas have the id 2: one is a member at"),
        ({"python": (3, 12)}, "runs Python 3.12, and this one 3.11"),
        ({"build": "build 2"}, "runs build build 2 of the app, and this one build build 1"),
        ({"source": 2, "link": 9}, None),
        ({"version": 7}, None),
    ],
)
def test_who_should_not_be_linked_is_told_why_and_so_is_the_operator(
    running: Cluster, said: dict[str, Any], words: str | None
) -> None:
    one = running.nodes[1]
    for _ in range(3):
        with call(one) as caller:
            caller.sendall(greeting(running, **said))
            data = answer(running, caller)
        told = refusals(data)
        assert len(told) == 1 and (words or "Disconnected: it ") in told[0]

    assert len(one.said) == 1
    assert words is None or one.said == told
    assert one.peers.counts()["peer_refused"] == 3
    running.until(lambda: not one.peers._links, "nothing is left")


def test_builds_may_differ_while_the_cluster_is_told_to_change_them() -> None:
    with cluster((1, 2)) as running:
        running.start(1, any_build=True, build="build 1")
        running.start(2, any_build=True, build="build 2")
        running.until(running.linked, "linked")


def test_the_one_that_dials_learns_why_it_is_refused_and_does_not_knock_all_the_time() -> None:
    with cluster((1, 2)) as running:
        one, two = running.start(1), running.start(2, build="build 2")
        running.run(10_000)

        assert len(one.said) == 1 and "runs build build 2 of the app" in one.said[0]
        assert two.said == [
            f"Replica 1 at {running.addresses[1]}: it refuses this replica: {one.said[0]}"
        ]
        assert one.peers.counts()["peer_refused"] < 20


def test_an_address_that_answers_as_somebody_else_is_refused() -> None:
    with cluster((1, 2, 3)) as running:
        one = running.start(1)
        three = running.start(3, addresses={2: running.addresses[1]})
        running.until(lambda: one.said and three.said, "both say so")

        assert "takes this replica, 1, for replica 2" in one.said[0]
        assert "it refuses this replica" in three.said[0]
        assert not three.peers._by_peer.keys() & {(1, 1), (1, 2)}


def test_an_answer_in_another_name_is_refused_by_the_one_that_dialled() -> None:
    """The other side, which may lie, agrees to be replica 2's peer, and then says that it is 7."""
    with cluster((1, 2)) as running:
        listener = running.listeners[1]
        two = running.start(2)
        running.run(5)
        liar, _ = listener.accept()
        with liar:
            answer(running, liar, until_end=False)
            liar.sendall(hello(7, running.addresses[1], target=2).encode())
            told = refusals(answer(running, liar))

        assert "answers where replica 1 is expected" in told[0]
        assert two.said[0].startswith("Replica 7 at ")


def test_two_replicas_that_take_turns_under_one_id_are_found_out() -> None:
    with cluster((1, 2)) as running:
        one = running.start(1)
        first = running.start(2, instance=1)
        running.until(running.linked, "the first is linked")
        elsewhere = listen("127.0.0.3", 0)
        new = Node(2, elsewhere, dict(running.addresses), instance=2)
        new.peers.own = attrs.evolve(new.peers.own, address=running.addresses[2])
        running.nodes[3] = new
        running.until(
            lambda: any("take turns" in said for said in one.said), "it is found out", ms=5
        )

        assert any("take turns" in said for said in [*first.said, *new.said])
        assert sum("take turns" in said for said in one.said) <= 2


def test_a_restart_under_the_same_id_is_no_second_replica() -> None:
    with cluster((1, 2)) as running:
        one = running.start(1)
        for life in range(30):
            running.start(2, instance=life + 1)
            running.until(running.linked, "linked")
            running.kill(2)
        assert not [said for said in one.said if "Two replicas" in said]


def test_a_new_connection_of_the_same_replica_takes_the_place_of_the_old_one(
    running: Cluster,
) -> None:
    with greeted(running) as old, greeted(running):
        old.setblocking(True)
        old.settimeout(10)
        running.step()
        while old.recv(4096):
            pass
        assert len(running.nodes[1].peers._links) == 1
        assert running.nodes[1].peers.is_linked(2)


# Peers that lie, repeat, truncate, flood


def append(source: int = 2, target: int = 1) -> bytes:
    return encode(AppendEntries(source, target, 1, 0, 0, (Entry(1, 1, 0, 0, b"body"),), 0))


def spoiled(frame: bytes, at: int, value: int) -> bytes:
    changed = bytearray(frame)
    changed[at] = value
    return bytes(changed)


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (append(source=3), "it sent a message of replica 3 to replica 1"),
        (append(target=3), "it sent a message of replica 2 to replica 3"),
        (spoiled(append(), 6, 77), "tag 77 where a message was due"),
        (spoiled(append(), 72, 9), "entry 9 of term 1 where entry 1 was due"),
        (struct.pack("<IHH", 40, 3, 7) + bytes(32), "it sent a slot of type 3"),
        (struct.pack("<IHH", 8, 0, 0), "it sent a slot of type 0"),
        (struct.pack("<IHH", 2**31, 41, 3), "it sent a frame of 2147483648 bytes"),
        (struct.pack("<IHH", 7, 41, 3), "it sent a frame of 7 bytes"),
        (struct.pack("<IHHQ", 16, 45, 1, 0), "it greeted twice"),
        (ALIVE_FRAME * 1000, "it floods this replica with frames that say nothing"),
    ],
    ids=[
        "lies",
        "mistakes",
        "tag",
        "entry",
        "client",
        "padding",
        "huge",
        "tiny",
        "repeats",
        "floods",
    ],
)
def test_a_peer_that_breaks_a_rule_is_disconnected_with_the_reason(
    running: Cluster, sent: bytes, words: str
) -> None:
    one = running.nodes[1]
    with greeted(running) as caller:
        caller.sendall(encode(Heartbeat(2, 1, 5, 0)) + sent)
        told = refusals(answer(running, caller))

    assert len(told) == 1 and words in told[0]
    assert one.said == [f"Replica 2 at 127.0.0.3: {told[0].removeprefix('Disconnected: ')}"]
    assert not one.peers.is_linked(2)
    running.until(lambda: not one.peers._links, "nothing is left")


def test_a_frame_that_is_cut_by_the_end_is_not_passed_on(running: Cluster) -> None:
    one = running.nodes[1]
    for cut in (1, 7, 8, 40, len(append()) - 1):
        with greeted(running) as caller:
            caller.sendall(append()[:cut])
            running.run(3)
        running.until(lambda: not one.peers._links, "the end is seen")
        assert one.came() == []
    assert set(one.said) == {
        "Replica 2 at 127.0.0.3: it closed the connection in the middle of a frame.",
        f"Replica 2 at {running.addresses[2]} is linked.",
    }


def test_frames_may_come_byte_by_byte(running: Cluster) -> None:
    one = running.nodes[1]
    with call(one, "127.0.0.3") as caller:
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in greeting(running) + append() + append():
            caller.send(bytes([byte]))
            running.step(0.1)
        running.until(lambda: one.has_seen(2), "both arrive")


def test_a_flood_of_messages_is_ended_and_others_are_served_meanwhile() -> None:
    with cluster((1, 2, 3), capacity=1 << 12) as running:
        one, _ = running.start(1), running.start(3)
        running.until(lambda: running.linked(1, 3), "linked")
        flood = encode(Heartbeat(2, 1, 5, 0)) * 2000
        with greeted(running) as caller:
            caller.setblocking(False)
            sent = 0
            while not any("floods this replica with messages" in said for said in one.said):
                try:
                    sent += caller.send(flood[sent % len(flood) :])
                except (BlockingIOError, ConnectionError):
                    pass
                running.step(0.05)
                assert sent < 100 * DROPPED_IN_A_ROW_MAX * 48, "the flood is never ended"
                assert one.peers.waiting_bytes() < 1 << 13
        assert running.linked(1, 3)


def test_repeated_messages_are_passed_on_as_often_as_they_came(running: Cluster) -> None:
    """A network repeats too: Raft does not mind, so neither does the link."""
    one = running.nodes[1]
    with greeted(running) as caller:
        caller.sendall(append() * 50)
        running.until(lambda: one.has_seen(50), "all arrive")
        assert running.nodes[1].peers.is_linked(2)


def test_a_refusal_of_an_open_link_is_said_with_its_words(running: Cluster) -> None:
    one = running.nodes[1]
    with greeted(running) as caller:
        caller.sendall(refusal("Go away."))
        assert refusals(answer(running, caller)) == []
    assert one.said == ["Replica 2 at 127.0.0.3: it refuses this replica: Go away."]


# Callers that are no peers


def test_callers_that_never_greet_are_few_and_do_not_keep_a_replica_out() -> None:
    with cluster((1, 2)) as running:
        one = running.start(1)
        silent = [call(one) for _ in range(3 * UNGREETED_MAX)]
        running.run(20)
        assert len(one.peers._links) <= UNGREETED_MAX + 64
        running.start(2)
        running.until(running.linked, "a replica gets in")
        running.run(3000)
        assert len(one.peers._links) == 2
        for caller in silent:
            caller.close()
        assert len(one.said) <= 3


def test_what_is_said_about_strangers_is_no_flood(running: Cluster) -> None:
    one = running.nodes[1]
    for number in range(300):
        with call(one, f"127.0.{number // 100 + 1}.{number % 100 + 1}") as caller:
            caller.sendall(b"GET / HTTP/1.1\r\n\r\n")
            answer(running, caller)
    assert 10 <= len(one.said) <= 40
    assert one.peers.counts()["peer_refused"] == 300


def test_random_bytes_on_the_port_never_do_more_than_close_their_connection() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    with cluster((1, 2, 3)) as running:
        one, three = running.start(1), running.start(3)
        running.until(lambda: running.linked(1, 3), "linked")
        good = [append(), encode(Heartbeat(2, 1, 5, 0)), ALIVE_FRAME]
        for round_ in range(400):
            source = rng.choice((2, 2, 2, 4))
            address = running.addresses.get(source, "127.0.0.9:9")
            data = bytearray(
                hello(
                    source,
                    address,
                    target=1,
                    instance=round_ + 1,
                    link=rng.choice((1, BULK_LINK)),
                    cluster_id=CLUSTER,
                ).encode()
                if rng.random() < 0.8
                else rng.randbytes(rng.randrange(300))
            )
            for _ in range(rng.randrange(6)):
                data += rng.choice(good)
            for _ in range(rng.randrange(4) if data else 0):
                data[rng.randrange(len(data))] = rng.randrange(256)
            with call(one) as caller:
                for _ in range(rng.randrange(1, 4)):
                    cut = rng.randrange(len(data) + 1)
                    try:
                        caller.sendall(data[:cut])
                    except ConnectionError:
                        break
                    del data[:cut]
                    running.step(rng.choice((0.1, 1, 30)))
            one.came()
            one.came(bulk=True)
            assert running.linked(1, 3) or round_ % 7
        serial = three.send(1)
        running.until(lambda: running.linked(1, 3), "still linked")
        serial = three.send(1)
        running.until(lambda: (3, serial) in one.came(), "a good message still passes")
        running.until(lambda: len(one.peers._links) == 2, "nothing is left behind", ms=10)


def test_nobody_but_the_later_one_calls(running: Cluster) -> None:
    running.kill(1)
    two = running.start(2, addresses={})
    with call(two) as caller:
        caller.sendall(hello(1, running.addresses[1], target=2).encode())
        assert "the later one calls" in refusals(answer(running, caller))[0]


def test_strangers_of_the_cluster_are_few(running: Cluster) -> None:
    one = running.nodes[1]
    callers: list[socket.socket] = []
    for number in range(9):
        callers.append(call(one))
        callers[-1].sendall(
            greeting(running, source=10 + number, address=f"127.0.0.9:{number + 1}")
        )
        last = answer(running, callers[-1], until_end=False)
    assert sum(one.peers.is_linked(10 + number) for number in range(9)) == 8
    assert "one of too many that are no members" in refusals(last)[0]
    for caller in callers:
        caller.close()


def test_a_silent_caller_is_told_nothing_and_dropped_in_time(running: Cluster) -> None:
    with call(running.nodes[1]) as caller:
        before = running.now_ns
        assert answer(running, caller) == b""
        assert running.now_ns - before <= 2000 * MS
    assert attrs.fields(type(running.nodes[1].peers.limits)).hello_ns.default == 1500 * MS
