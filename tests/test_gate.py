"""The gate without sockets: every cut, every room, every route and filter against a model (runtime/gate.h)."""

import random
import socket
import struct
from collections import defaultdict

import pytest
from gates import (
    CLOSING,
    DONE,
    FREE,
    GREETING,
    HELLO,
    OPEN,
    WELCOME,
    Gate,
    event,
    ping,
    reply,
    request,
    run_of,
    session_id,
    subscribe,
    subscribed,
    unsubscribe,
)

from leftfold.runtime._wire import ffi, lib


@pytest.fixture
def rng() -> random.Random:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


def random_frames(rng: random.Random, count: int) -> tuple[list[bytes], bytes, bytes]:
    """Frames of a client, the run that they become, and what the gate answers by itself."""
    frames, forwarded, answered = [HELLO], [], WELCOME
    for number in range(count):
        match rng.randrange(8):
            case 0:
                frames.append(ping(number))
                answered += ping(number, 24)
                continue
            case 1:
                frames.append(unsubscribe(session_id(1), number))
                continue
            case 2:
                frames.append(subscribe(session_id(1), number, 1, rng.randbytes(rng.randrange(9))))
            case 3:
                frames.append(request(rng.choice((2, 4)), session_id(1), 0))
            case _:
                key, body = rng.randbytes(rng.randrange(20)), rng.randbytes(rng.randrange(50))
                frames.append(
                    request(rng.choice((3, 5, 50)), session_id(number % 5), number, key, body)
                )
        forwarded.append(frames[-1])
    return frames, run_of(*forwarded), answered


def test_a_stream_cut_anywhere_becomes_the_same_run(rng: random.Random) -> None:
    frames, run, answered = random_frames(rng, 12)
    stream = b"".join(frames)
    for cut in range(len(stream) + 1):
        gate = Gate()
        number = gate.open(greet=False)
        assert gate.feed(number, stream[:cut]) + gate.feed(number, stream[cut:]) == run
        assert gate.take(number) == answered


def test_a_stream_in_random_pieces_with_little_room_becomes_the_same_run(
    rng: random.Random,
) -> None:
    for _ in range(100):
        frames, run, answered = random_frames(rng, 60)
        stream = b"".join(frames)
        gate = Gate()
        number = gate.open(greet=False)
        found = b""
        while stream:
            piece = stream[: rng.randrange(1, 200)]
            stream = stream[len(piece) :]
            gate.room = rng.randrange(300)
            found += gate.feed(number, piece)
            while gate.report.blocked:
                gate.room = rng.randrange(300)
                found += gate.feed(number, b"")
        assert found == run
        assert gate.take(number) == answered


def test_a_connection_that_waits_for_room_takes_no_more_bytes() -> None:
    gate = Gate()
    number = gate.open()
    frame = request(3, session_id(1), 1)
    gate.room = 39

    assert gate.feed(number, frame) == b""
    assert gate.report.blocked == 1
    gate.room = 40
    assert gate.feed(number, b"") == frame
    assert gate.report.blocked == 0


def test_answers_go_to_whoever_spoke_last_for_the_session(rng: random.Random) -> None:
    gate = Gate(connections_max=8)
    connections = [gate.open() for _ in range(8)]
    owner: dict[bytes, int] = {}
    expected: dict[int, bytes] = defaultdict(bytes)
    unrouted = 0
    for step in range(5000):
        session = session_id(rng.randrange(200))
        if rng.random() < 0.4:
            connection = rng.choice(connections)
            kind = rng.choice((2, 3, 5))
            assert gate.feed(connection, request(kind, session, step))
            owner[session] = connection
        else:
            kind = rng.choice((17, 18))
            answer = reply(session, step, rng.randbytes(rng.randrange(20)), kind)
            gate.scatter(answer)
            if session in owner:
                expected[owner[session]] += answer
            else:
                unrouted += 1
        if step % 500 == 0:
            for connection in connections:
                assert gate.take(connection) == expected.pop(connection, b"")
    assert gate.report.unrouted == unrouted
    assert gate.report.sessions == len(owner)


def test_a_closed_connection_forgets_its_sessions_and_its_number_is_used_again() -> None:
    gate = Gate()
    first = gate.open()
    gate.feed(first, request(3, session_id(1), 1) + struct.pack("<IHH", 8, 99, 0))
    assert gate.state(first) == CLOSING
    gate.now_ns += 501
    gate.expire()
    assert gate.state(first) == DONE
    gate.flush()
    assert gate.state(first) == FREE
    assert (gate.report.sessions, gate.report.closing, gate.report.closed) == (0, 0, 1)

    assert gate.open() == first
    gate.scatter(reply(session_id(1), 1))
    assert gate.report.unrouted == 1 and gate.take(first) == b""


def test_a_hundred_thousand_sessions_are_routed() -> None:
    gate = Gate(sessions_max=150_000)
    left, right = gate.open(), gate.open()
    for start in range(0, 120_000, 1000):
        frames = b"".join(request(2, session_id(n), 0) for n in range(start, start + 1000))
        assert len(gate.feed(left if start % 2000 else right, frames)) == 40_000
    assert gate.report.sessions == 120_000

    gate.scatter(*(reply(session_id(n), n) for n in (0, 999, 1000, 119_999)))

    assert gate.take(right) == reply(session_id(0), 0) + reply(session_id(999), 999)
    assert gate.take(left) == reply(session_id(1000), 1000) + reply(session_id(119_999), 119_999)


def test_one_session_too_many_closes_the_connection_that_brought_it() -> None:
    gate = Gate(sessions_max=3)
    number = gate.open()

    run = gate.feed(number, b"".join(request(2, session_id(n), 0) for n in range(4)))

    assert len(run) == 3 * 40
    assert gate.error(number) == lib.WIRE_TOO_MANY_SESSIONS


def test_closing_a_session_ends_its_route_with_the_reply() -> None:
    gate = Gate()
    number = gate.open()
    gate.feed(number, request(3, session_id(1), 1) + request(4, session_id(1), 0))

    gate.scatter(reply(session_id(1), 1), reply(session_id(1), 0), reply(session_id(1), 2))

    assert gate.take(number) == reply(session_id(1), 1) + reply(session_id(1), 0)


def test_events_reach_each_matching_connection_once(rng: random.Random) -> None:
    gate = Gate(connections_max=10, subscriptions_max=200)
    connections = [gate.open() for _ in range(10)]
    keys, actors = [b"", b"a", b"b", b"a key of more than eight bytes"], [0, 1, 2]
    live: dict[tuple[int, int], tuple[int, bytes]] = {}
    for step in range(4000):
        connection = rng.choice(connections)
        number = rng.randrange(10)
        session = session_id(100 + connection)
        match rng.randrange(6):
            case 0:
                actor, key = rng.choice(actors), rng.choice(keys)
                gate.feed(connection, subscribe(session, number, actor, key))
                live.pop((connection, number), None)
                if rng.random() < 0.8:
                    gate.scatter(subscribed(session, number))
                    assert gate.take(connection) == subscribed(session, number)
                    live[connection, number] = actor, key
            case 1:
                gate.feed(connection, unsubscribe(session, number))
                live.pop((connection, number), None)
            case _:
                actor, key = rng.choice(actors), rng.choice(keys)
                happened = event(actor, key, struct.pack("<I", step))
                gate.scatter(happened)
                wanting = {
                    who
                    for (who, _), (wanted, wanted_key) in live.items()
                    if wanted in (0, actor) and wanted_key in (b"", key)
                }
                for one in connections:
                    assert gate.take(one) == (happened if one in wanting else b"")


def test_retained_events_go_to_their_subscriber_alone_also_across_runs() -> None:
    gate = Gate()
    old, new = gate.open(), gate.open()
    gate.feed(old, subscribe(session_id(1), 1))
    gate.feed(new, subscribe(session_id(2), 1))
    gate.scatter(subscribed(session_id(1), 1))
    gate.take(old)
    retained = [event(1, b"k", bytes([n])) for n in range(3)]

    gate.scatter(subscribed(session_id(2), 1, len(run_of(*retained)), 3), retained[0])
    gate.scatter(*retained[1:], event(1, b"k", b"live"))

    assert gate.take(old) == event(1, b"k", b"live")
    assert gate.take(new) == b"".join(
        [
            subscribed(session_id(2), 1, len(run_of(*retained)), 3),
            *retained,
            event(1, b"k", b"live"),
        ]
    )


def test_retained_events_of_a_subscriber_that_left_reach_nobody() -> None:
    gate = Gate()
    here, there = gate.open(), gate.open()
    gate.feed(here, subscribe(session_id(1), 1))
    gate.scatter(subscribed(session_id(1), 1))
    gate.take(here)
    gate.feed(there, subscribe(session_id(2), 1) + unsubscribe(session_id(2), 1))
    retained = event(1, b"k")

    gate.scatter(subscribed(session_id(2), 1, len(run_of(retained)), 1), retained)

    assert gate.take(there) == gate.take(here) == b""


def test_a_partial_subscription_gets_no_live_events() -> None:
    gate = Gate()
    number = gate.open()
    gate.feed(number, subscribe(session_id(1), 1))
    retained = event(1, b"k", b"old")

    gate.scatter(
        subscribed(session_id(1), 1, len(run_of(retained)), 1, tag=1), retained, event(1, b"k")
    )

    assert (
        gate.take(number)
        == subscribed(session_id(1), 1, len(run_of(retained)), 1, tag=1) + retained
    )


def test_a_slow_reader_gets_what_was_queued_then_the_reason_and_no_more() -> None:
    gate = Gate(output_bytes_max=1000)
    number = gate.open()
    gate.feed(number, request(3, session_id(1), 1))
    answers = [reply(session_id(1), n, b"x" * 100) for n in range(1, 20)]

    gate.scatter(*answers)

    assert gate.state(number) == CLOSING
    data = gate.take(number)
    whole = b"".join(answers[: 1000 // 148])
    assert data.startswith(whole)
    assert struct.unpack_from("<HH", data, len(whole) + 4) == (23, lib.WIRE_SLOW_READER)
    assert b"slow reader" in data and gate.report.slow_readers == 1
    assert gate.feed(number, request(3, session_id(1), 2)) == b""


def test_an_event_to_many_subscriptions_of_a_full_connection_is_survived() -> None:
    """The connection ends while its subscriptions are walked; they are forgotten afterwards."""
    gate = Gate(output_bytes_max=100)
    number = gate.open()
    for actor, key in ((0, b""), (1, b""), (0, b"k"), (1, b"k")):
        gate.feed(number, subscribe(session_id(1), actor * 10 + len(key) + 1, actor, key))
        gate.scatter(subscribed(session_id(1), actor * 10 + len(key) + 1))
        gate.take(number)

    gate.scatter(event(1, b"k", b"x" * 100), event(1, b"k"))
    gate.flush()

    assert gate.error(number) == lib.WIRE_SLOW_READER
    assert gate.report.subscriptions == 0


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (ping(1), lib.WIRE_NO_HELLO),
        (b"GET / HTTP/1.1\r\n\r\n", lib.WIRE_UNKNOWN_TYPE),
        (HELLO[:24] + b"leftover", lib.WIRE_NO_HELLO),
        (struct.pack("<IHH16s8s", 32, 1, 2, bytes(16), b"leftfold"), lib.WIRE_WRONG_VERSION),
        (struct.pack("<IHH16s8s", 32, 1, 1, b"x" * 16, b"leftfold"), lib.WIRE_WRONG_CLUSTER),
        (HELLO + HELLO, lib.WIRE_UNKNOWN_TYPE),
        (HELLO + request(3, bytes(16), 1), lib.WIRE_ZERO_SESSION),
        (HELLO + struct.pack("<IHH", 5000, 3, 0), lib.WIRE_BAD_LENGTH),
        (HELLO + request(3, session_id(1), 1, b"k" * 65), lib.WIRE_BAD_KEY),
    ],
)
def test_who_breaks_a_rule_is_told_and_closed(stream: bytes, code: int) -> None:
    gate = Gate()
    number = gate.open(greet=False)

    if code == lib.WIRE_UNKNOWN_TYPE and stream.startswith(b"GET"):
        code = lib.WIRE_NO_HELLO
    gate.feed(number, stream)

    assert gate.error(number) == code
    assert gate.state(number) == CLOSING


def test_hello_must_come_in_time_and_silence_has_a_limit() -> None:
    gate = Gate(idle_ns=5000)
    silent, polite = gate.open(greet=False), gate.open()
    gate.now_ns += 1001
    gate.expire()
    assert gate.error(silent) == lib.WIRE_NO_HELLO and gate.state(polite) == OPEN

    gate.now_ns += 3000
    gate.feed(polite, ping(1))
    gate.now_ns += 5000
    gate.expire()
    assert gate.state(polite) == OPEN
    gate.now_ns += 1
    gate.expire()
    assert gate.error(polite) == lib.WIRE_IDLE


def test_a_connection_too_many_is_told_so() -> None:
    gate = Gate(connections_max=2)
    gate.open()
    gate.open()

    assert gate.error(gate.open(greet=False)) == lib.WIRE_TOO_MANY_CONNECTIONS
    assert gate.report.connections == 2


def test_latency_is_sampled_one_request_in_flight_for_each_connection() -> None:
    gate = Gate()
    number = gate.open()
    gate.now_ns = 1000
    gate.feed(number, request(3, session_id(1), 1) + request(3, session_id(1), 2))
    gate.now_ns = 1500
    gate.scatter(reply(session_id(1), 1), reply(session_id(1), 2))

    assert list(gate.report.sample_ns)[: gate.report.samples] == [500]


def test_random_bytes_never_do_more_than_close_their_connection(rng: random.Random) -> None:
    gate = Gate()
    for _ in range(3000):
        number = gate.open()
        stream = bytearray(b"".join(random_frames(rng, 6)[0][1:]))
        for _ in range(rng.randrange(6)):
            stream[rng.randrange(len(stream)) if stream else 0 :][:1] = b""
            if stream:
                stream[rng.randrange(len(stream))] = rng.randrange(256)
        cut = rng.randrange(len(stream) + 1)
        for piece in (bytes(stream[:cut]), bytes(stream[cut:])):
            run = gate.feed(number, piece)
            while run:
                length, kind = struct.unpack_from("<IH", run)
                assert kind in (2, 3, 4, 5, 6, 50) and 40 <= length <= 4096
                run = run[(length + 7) & ~7 :]
        if gate.state(number) == OPEN:
            gate.feed(number, struct.pack("<IHH", 0, 0, 0) * 1000)
        gate.now_ns += 501
        gate.expire()
        gate.flush()
        assert gate.report.connections == 0 or gate.state(number) == OPEN


def greeting(token: bytes) -> bytes:
    return struct.pack("<I", 32 + len(token)) + HELLO[4:] + token


def test_where_tokens_are_wanted_a_known_one_opens_and_everything_else_does_not() -> None:
    tokens = (b"correct horse", b"x" * 64)
    for token in tokens:
        gate = Gate(tokens=tokens)
        number = gate.open(greet=False)
        assert gate.feed(number, greeting(token)[:40]) == b""
        assert gate.state(number) == GREETING
        gate.feed(number, greeting(token)[40:] + ping(1))
        assert gate.take(number) == WELCOME + ping(1, 24)
    for token in (b"", b"c", b"correct horsf", b"correct horse\0", b"x" * 63, bytes(13)):
        gate = Gate(tokens=tokens)
        number = gate.open(greet=False)
        gate.feed(number, greeting(token) + request(3, session_id(1), 1))
        assert gate.error(number) == lib.WIRE_BAD_TOKEN


def test_a_token_that_nobody_asked_for_is_passed_over() -> None:
    gate = Gate()
    number = gate.open(greet=False)
    gate.feed(number, greeting(b"token") + ping(1))

    assert gate.take(number) == WELCOME + ping(1, 24)


def test_routing_stops_at_what_is_for_the_peers_and_goes_on_behind_it() -> None:
    gate = Gate()
    number = gate.open()
    gate.feed(number, request(3, session_id(1), 1))
    before, between = reply(session_id(1), 1), reply(session_id(1), 2, b"later")
    message, peers = struct.pack("<IHHQ", 16, 41, 1, 2), struct.pack("<IHH", 13, 54, 0) + b"{...}"
    run = run_of(before, message, peers, between)

    routed = lib.gate_scatter(gate.handle, run, len(run), 1)
    assert run[routed:].startswith(message)
    assert lib.gate_scatter(gate.handle, run[routed:], len(run) - routed, 1) == 0
    rest = run_of(between)
    assert lib.gate_scatter(gate.handle, rest, len(rest), 1) == len(rest)
    assert gate.take(number) == before + between


def test_a_descriptor_of_somebody_else_is_reported_until_it_is_read() -> None:
    gate = Gate()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert lib.gate_watch(gate.handle, ours.fileno(), lib.GATE_FOREIGN) == 0
        lib.gate_wait(gate.handle, 0)
        assert gate.report.foreign == 0
        theirs.send(b"x")
        for _ in range(2):
            lib.gate_wait(gate.handle, 1000)
            assert gate.report.foreign == 1
        ours.recv(1)
        lib.gate_wait(gate.handle, 0)
        assert gate.report.foreign == 0


def test_a_socket_that_was_connected_elsewhere_can_be_taken_over() -> None:
    gate = Gate()
    theirs, ours = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        destination = ffi.new("uint8_t[]", 1 << 16)
        number = lib.gate_adopt(gate.handle, ours.detach(), 1)
        theirs.sendall(HELLO + ping(5))
        while gate.report.frames_in < 2:
            assert lib.gate_wait(gate.handle, 1000) >= 0
            lib.gate_receive(gate.handle, destination, 1 << 16, 1)
        lib.gate_flush(gate.handle)
        assert theirs.recv(1000) == WELCOME + ping(5, 24)
    while gate.state(number) != FREE:
        lib.gate_wait(gate.handle, 1000)
        lib.gate_receive(gate.handle, destination, 1 << 16, 1)
        gate.flush()


def test_who_spoke_while_the_process_stood_still_is_not_late() -> None:
    gate = Gate(idle_ns=5000)
    destination = ffi.new("uint8_t[]", 1 << 16)
    theirs, ours = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        number = lib.gate_adopt(gate.handle, ours.detach(), gate.now_ns)
        for said, answer in ((HELLO, WELCOME), (ping(5), ping(5, 24))):
            theirs.sendall(said)
            gate.now_ns += 6000  # It is looked at only now, and first for who is late.
            gate.expire()
            assert gate.report.ready == 1
            lib.gate_receive(gate.handle, destination, 1 << 16, gate.now_ns)
            lib.gate_flush(gate.handle)
            while not (got := _received(theirs, gate)):
                pass
            assert got == answer
            assert gate.state(number) == OPEN

        gate.now_ns += 5001
        gate.expire()
        assert gate.error(number) == lib.WIRE_IDLE


def _received(link: socket.socket, gate: Gate) -> bytes:
    """What the gate has sent there by now."""
    lib.gate_wait(gate.handle, 1000)  # It learns that it may write.
    lib.gate_flush(gate.handle)
    try:
        return link.recv(1000, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b""
