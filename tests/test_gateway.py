"""The gateway on a real port, over real rings: manners towards good clients, bad ones, slow ones and floods."""

import errno
import random
import resource
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
from gates import (
    HELLO,
    event,
    pad,
    ping,
    reply,
    request,
    session_id,
    subscribe,
    subscribed,
)
from served import Echo, Flood, Served, until

from leftfold.runtime._wire import lib
from leftfold.runtime.errors import OperatorError
from leftfold.runtime.listening import listen

WELCOME_BYTES = 40
NS = 1_000_000_000


@pytest.fixture
def served() -> Iterator[Served]:
    with Served(Echo()) as served:
        yield served


def connect(served: Served, *, greet: bool = True) -> socket.socket:
    client = socket.create_connection((served.host, served.port), 30)
    if greet:
        client.sendall(HELLO)
        assert len(receive(client, WELCOME_BYTES)) == WELCOME_BYTES
    return client


def receive(client: socket.socket, size: int) -> bytes:
    """Exactly so many bytes, or fewer at the end of the stream."""
    data = b""
    while len(data) < size:
        more = client.recv(min(65536, size - len(data)))
        if not more:
            break
        data += more
    return data


def receive_all(client: socket.socket) -> bytes:
    data = b""
    while more := client.recv(65536):
        data += more
    return data


def error_of(data: bytes) -> int:
    """The code of the ERROR frame at the end of the data."""
    at = 0
    while True:
        length, kind, tag = struct.unpack_from("<IHH", data, at)
        at += length
        if at == len(data):
            assert kind == 23, f"the last frame is a {kind}"
            return tag


def test_commands_queries_and_pings_are_answered(served: Served) -> None:
    with connect(served) as client:
        client.sendall(request(3, session_id(1), 1, b"key", b"body") + ping(7))
        client.sendall(request(5, session_id(1), 2))

        data = receive(client, 48 + 16 + 48)
    assert sorted([data.count(reply(session_id(1), 1)), data.count(ping(7, 24))]) == [1, 1]
    assert reply(session_id(1), 2, kind=18) in data


def test_a_frame_may_come_byte_by_byte(served: Served) -> None:
    with connect(served, greet=False) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in HELLO + request(3, session_id(1), 1, b"key", b"body"):
            client.send(bytes([byte]))

        assert receive(client, WELCOME_BYTES + 48)[WELCOME_BYTES:] == reply(session_id(1), 1)


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", lib.WIRE_NO_HELLO),
        (request(3, session_id(1), 1), lib.WIRE_NO_HELLO),
        (HELLO + struct.pack("<IHH", 2**31, 3, 0), lib.WIRE_BAD_LENGTH),
        (HELLO + request(3, bytes(16), 1), lib.WIRE_ZERO_SESSION),
        (HELLO + struct.pack("<IHH", 40, 33, 0) + bytes(100_000), lib.WIRE_UNKNOWN_TYPE),
    ],
)
def test_who_breaks_a_rule_is_told_why_and_closed(served: Served, stream: bytes, code: int) -> None:
    with connect(served, greet=False) as client:
        client.sendall(stream)

        data = receive_all(client)
    assert error_of(data[WELCOME_BYTES:] if stream.startswith(HELLO) else data) == code


def test_who_never_says_hello_is_closed() -> None:
    with Served(Echo(), hello_ns=NS // 10) as served, connect(served, greet=False) as client:
        client.sendall(HELLO[:31])

        assert error_of(receive_all(client)) == lib.WIRE_NO_HELLO


def test_hostile_bytes_of_many_do_not_disturb_one(served: Served) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    with connect(served) as good:
        for number in range(1, 200):
            with connect(served, greet=rng.random() < 0.5) as bad:
                bad.sendall(rng.randbytes(rng.randrange(1, 300)))
            good.sendall(request(3, session_id(1), number))
            assert receive(good, 48) == reply(session_id(1), number)


def test_a_thousand_connections_are_served_and_forgotten(served: Served) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = 1000 if hard > 3000 else 200
    clients = [connect(served, greet=False) for _ in range(count)]
    for number, client in enumerate(clients):
        client.sendall(HELLO + request(3, session_id(number), 1))
    for number, client in enumerate(clients):
        data = receive(client, WELCOME_BYTES + 48)
        assert data[WELCOME_BYTES:] == reply(session_id(number), 1)
    for client in clients:
        client.close()

    report = served.gateway._report
    until(lambda: report.connections == 0, "all connections are closed")
    until(lambda: report.sessions == 0, "all sessions are forgotten")


def test_a_connection_too_many_is_told_so() -> None:
    with Served(Echo(), connections_max=3) as served:
        clients = [connect(served) for _ in range(3)]
        with connect(served, greet=False) as late:
            assert error_of(receive_all(late)) == lib.WIRE_TOO_MANY_CONNECTIONS
        clients.pop().close()
        until(lambda: served.gateway._report.connections == 2, "a place is free")
        clients.append(connect(served))
        for client in clients:
            client.close()


def test_a_flood_through_small_rings_arrives_whole_and_in_order() -> None:
    """Both rings fill up again and again: the client is not read, and nothing is lost."""
    echo = Echo()
    with (
        Served(echo, ingress_bytes=1 << 15, egress_bytes=1 << 13, frame_bytes_max=4096) as served,
        connect(served) as client,
    ):
        count = 20_000
        flood = b"".join(request(3, session_id(1), n, b"k", b"x" * 50) for n in range(count))
        sender = threading.Thread(target=client.sendall, args=(flood,))
        sender.start()
        data = receive(client, 48 * count)
        sender.join()

    numbers = [struct.unpack_from("<Q", data, at + 24)[0] for at in range(0, len(data), 48)]
    assert numbers == list(range(count))
    assert len(echo.came) == count


def test_a_replica_that_stands_still_stops_the_clients_and_not_the_gateway() -> None:
    with (
        Served(Echo(), ingress_bytes=1 << 15, frame_bytes_max=4096) as served,
        connect(served) as client,
    ):
        served.frozen.set()
        client.settimeout(0.5)
        frame = request(3, session_id(1), 1, b"k", b"x" * 4000)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 1 << 30:
                sent += client.send(frame[sent % len(frame) :])
        until(lambda: served.gateway.pauses, "the gateway stops reading")
        turns = served.gateway.turns
        served.frozen.clear()
        client.settimeout(30)
        replies = sent // len(frame)
        assert len(receive(client, 48 * replies)) == 48 * replies
        assert served.gateway.turns > turns


def test_a_slow_reader_is_closed_with_the_reason_and_others_go_on() -> None:
    with (
        Served(Echo(), output_bytes_max=1 << 16, linger_ns=20 * NS) as served,
        connect(served) as slow,
        connect(served) as good,
    ):
        slow.sendall(subscribe(session_id(1), 1))
        good.sendall(subscribe(session_id(2), 1))
        assert receive(slow, 48) == receive(good, 48).replace(session_id(2), session_id(1))
        came = 0
        number = 0
        while not served.gateway._report.slow_readers:
            # Events reach both; only one of them reads.
            served.behind = Flood(served.behind, [event(1, b"k", bytes(1000))] * 30)
            good.sendall(request(3, session_id(2), number := number + 1))
            came += len(receive(good, 48 + 30 * 1041))
            assert number < 10_000, "nobody is called slow"
        data = receive_all(slow)

    assert came == number * (48 + 30 * 1041)
    assert error_of(data) == lib.WIRE_SLOW_READER
    assert b"slow reader" in data


def test_refusals_of_consensus_reach_their_client(served: Served) -> None:
    with connect(served) as client:
        client.sendall(request(3, session_id(1), 1))
        receive(client, 48)
        refused = struct.pack("<IHH16sQ", 32, 22, 1 | 3 << 8, session_id(1), 2)
        assert served.send.write(refused)

        assert receive(client, 32) == refused


def test_an_operators_request_goes_in_like_a_query_and_is_answered_by_consensus() -> None:
    echo = Echo()
    with Served(echo) as served, connect(served) as client, connect(served) as other:
        asked = request(50, session_id(1), 3, b"", b'{"op": 1}')
        client.sendall(asked)
        other.sendall(request(50, session_id(2), 3))
        until(lambda: len(echo.came) == 2, "both requests are in ingress")
        answer = reply(session_id(1), 3, b'{"index": 17}', 18)
        refused = struct.pack("<IHH16sQ", 32, 22, 2 | 50 << 8, session_id(2), 3)
        assert served.send.write(pad(answer) + refused)

        assert receive(client, len(answer)) == answer
        assert receive(other, 32) == refused
    assert pad(asked) in echo.came


def test_a_drain_answers_what_was_read_then_says_that_the_replica_stops() -> None:
    with Served(Echo()) as served, connect(served) as client:
        client.sendall(b"".join(request(3, session_id(1), n) for n in range(1, 100)))
        assert receive(client, 48) == reply(session_id(1), 1)
        served.gateway.drain()
        data = receive_all(client)
        assert error_of(data) == lib.WIRE_STOPPING
        client.close()
        until(lambda: served.status == [0], "the gateway ends with 0")
        with pytest.raises(OSError) as refused:
            socket.create_connection((served.host, served.port), 5).close()
        assert refused.value.errno == errno.ECONNREFUSED


def test_a_subscriber_gets_the_events_of_others(served: Served) -> None:
    with connect(served) as watcher, connect(served) as other:
        watcher.sendall(subscribe(session_id(1), 1, 3, b"key"))
        assert receive(watcher, 48) == subscribed(session_id(1), 1)
        happened = [
            event(3, b"key", b"yes"),
            event(3, b"other"),
            event(4, b"key"),
            event(3, b"key"),
        ]
        served.behind = Flood(served.behind, happened)
        other.sendall(request(3, session_id(2), 1))

        assert receive(other, 48) == reply(session_id(2), 1)
        expected = happened[0] + happened[3]
        assert receive(watcher, len(expected)) == expected


def test_a_port_in_use_is_an_operators_mistake() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(OperatorError, match=f"Port {port} on 127.0.0.1 is in use"):
            listen("127.0.0.1", port)


def test_a_foreign_address_is_an_operators_mistake() -> None:
    with pytest.raises(OperatorError, match=r"192\.0\.2\.1 is not an address of this machine"):
        listen("192.0.2.1", 0)
