"""Mutual TLS between replicas, TLS and tokens for clients, and when a replica does not start without (runtime/tls.py)."""

import asyncio
import random
import socket
import ssl
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
from certificates import Authority
from gates import CLUSTER, HELLO, event, ping, reply, request, session_id, subscribe
from peer_nodes import Cluster, answer, call, cluster, hello
from served import Echo, Flood, Served, until

from leftfold.runtime._wire import lib
from leftfold.runtime.errors import OperatorError
from leftfold.runtime.frames import hello as client_hello
from leftfold.runtime.gateway import Identity
from leftfold.runtime.peer_hello import BULK_LINK, RAFT_LINK
from leftfold.runtime.tls import (
    PeerContexts,
    TlsFiles,
    client_context,
    peer_contexts,
    require_security,
)

OVER = "20210101000000Z"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "ours")


@pytest.fixture(scope="module")
def contexts(authority: Authority) -> dict[int, PeerContexts]:
    """Replica 1 at 127.0.0.2, 2 at 127.0.0.3."""
    return {
        replica: peer_contexts(authority.issue(f"replica-{replica}", f"127.0.0.{replica + 1}"))
        for replica in (1, 2)
    }


def start_both(running: Cluster, one: PeerContexts | None, two: PeerContexts | None) -> None:
    running.start(1, contexts=one)
    running.start(2, contexts=two)


# Between replicas


def test_replicas_with_certificates_of_one_authority_link_and_talk(
    contexts: dict[int, PeerContexts],
) -> None:
    with cluster((1, 2)) as running:
        start_both(running, contexts[1], contexts[2])
        running.until(running.linked, "linked")
        one, two = running.nodes[1], running.nodes[2]
        for _ in range(50):
            for node, other in ((one, 2), (two, 1)):
                node.send(other)
                node.send(other, 3000)
                node.send(other, 3000, bulk=True)
            running.run(2)
            for node in (one, two):
                node.came()
                node.came(bulk=True)
        running.until(
            lambda: all(node.has_seen(100) and node.has_seen(50, bulk=True) for node in (one, two)),
            "all arrive",
        )
        assert one.said == two.said == []
        assert all(link.stream.names() for link in one.peers._links)


def test_tls_fits_small_rings_too(contexts: dict[int, PeerContexts]) -> None:
    """A record of TLS may be longer than a run that the ring takes."""
    with cluster((1, 2), capacity=1 << 13) as running:
        start_both(running, contexts[1], contexts[2])
        running.until(running.linked, "linked")
        one, two = running.nodes[1], running.nodes[2]
        sent = 0
        for _ in range(300):
            for _ in range(4):
                if two.bulk_send.free() > 2048:
                    two.send(1, 800, bulk=True)
                    sent += 1
            running.step()
            if sent % 3 == 0:
                one.came(bulk=True)
        running.until(lambda: one.has_seen(sent - two.peers.dropped_out, bulk=True), "all arrive")
        assert one.seen[True] == sorted(one.seen[True])


def both_say(running: Cluster, word_of_one: str, word_of_two: str) -> None:
    one, two = running.nodes[1], running.nodes[2]
    running.until(lambda: one.said and two.said, "both say something")
    running.run(3000)
    assert word_of_one in one.said[0], one.said
    assert any(word_of_two in said for said in two.said), two.said
    assert len(one.said) <= 3 and len(two.said) <= 3
    assert not one.peers.is_linked(2) and not two.peers.is_linked(1)


def test_a_replica_of_another_authority_is_refused(
    contexts: dict[int, PeerContexts], tmp_path: Path
) -> None:
    other = Authority(tmp_path, "theirs").issue("replica-2", "127.0.0.3")
    with cluster((1, 2)) as running:
        start_both(running, contexts[1], peer_contexts(other))
        both_say(running, "alert", "it showed a certificate that is not accepted")


def test_a_caller_of_another_authority_that_believes_everybody_is_refused(
    contexts: dict[int, PeerContexts], tmp_path: Path
) -> None:
    theirs = peer_contexts(Authority(tmp_path, "theirs").issue("replica-2", "127.0.0.3"))
    theirs.dial.check_hostname = False
    theirs.dial.verify_mode = ssl.CERT_NONE
    with cluster((1, 2)) as running:
        start_both(running, contexts[1], theirs)
        both_say(
            running,
            "it showed a certificate that is not accepted",
            "it did not accept this replica's certificate",
        )


def test_an_expired_certificate_is_refused(
    contexts: dict[int, PeerContexts], authority: Authority
) -> None:
    expired = peer_contexts(authority.issue("expired-1", "127.0.0.2", end=OVER))
    with cluster((1, 2)) as running:
        start_both(running, expired, contexts[2])
        both_say(running, "certificate", "certificate has expired")
    expired = peer_contexts(authority.issue("expired-2", "127.0.0.3", end=OVER))
    with cluster((1, 2)) as running:
        start_both(running, contexts[1], expired)
        both_say(running, "certificate has expired", "it did not accept this replica's certificate")


def test_a_certificate_for_another_address_is_refused_by_either_side(
    contexts: dict[int, PeerContexts], authority: Authority
) -> None:
    wrong = peer_contexts(authority.issue("wrong-1", "127.0.0.9"))
    with cluster((1, 2)) as running:
        start_both(running, wrong, contexts[2])
        both_say(running, "certificate", "IP address mismatch")
    wrong = peer_contexts(authority.issue("wrong-2", "127.0.0.9"))
    with cluster((1, 2)) as running:
        start_both(running, contexts[1], wrong)
        words = "The certificate of replica 2 is not for 127.0.0.3"
        both_say(running, words, words)


def while_it_waits(running: Cluster, step: Callable[[], object]) -> None:
    """What the caller does in this thread, so that the replica's clock goes on no faster than the caller."""
    for _ in range(1000):
        try:
            step()
        except ssl.SSLWantReadError:
            running.step()
        else:
            return
    raise AssertionError("the caller waits in vain")


def test_a_caller_without_a_certificate_is_refused(
    contexts: dict[int, PeerContexts], authority: Authority
) -> None:
    context = ssl.create_default_context(cafile=authority.certificate)
    with cluster((1, 2)) as running:
        one = running.start(1, contexts=contexts[1])
        with call(one, "127.0.0.3") as plain:
            plain.setblocking(False)
            caller = context.wrap_socket(
                plain, server_hostname="127.0.0.2", do_handshake_on_connect=False
            )
            while_it_waits(running, caller.do_handshake)
            caller.sendall(hello(2, running.addresses[2], target=1).encode())
            with pytest.raises(ssl.SSLError) as refused:
                while_it_waits(running, lambda: caller.recv(1000))
            caller.close()

    assert one.said == ["A caller from 127.0.0.3: it showed no certificate."]
    assert refused.value.reason == "TLSV13_ALERT_CERTIFICATE_REQUIRED"


def test_plain_bytes_to_a_tls_port_and_tls_to_a_plain_port_are_named(
    contexts: dict[int, PeerContexts],
) -> None:
    with cluster((1, 2)) as running:
        start_both(running, contexts[1], None)
        both_say(
            running, "it does not speak TLS, and this replica speaks nothing else", "it closed"
        )
    with cluster((1, 2)) as running:
        start_both(running, None, contexts[2])
        both_say(
            running,
            "it speaks TLS, and this replica was started without certificates",
            "it does not speak TLS, and this replica speaks nothing else",
        )


def test_random_bytes_on_a_tls_port_never_do_more_than_close_their_connection(
    contexts: dict[int, PeerContexts],
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    with cluster((1, 2)) as running:
        start_both(running, contexts[1], contexts[2])
        running.until(running.linked, "linked")
        one = running.nodes[1]
        for _ in range(100):
            start = rng.choice(
                (b"\x16\x03\x01", b"\x16\x03\x03\x00\x40\x01", b"\x15\x03\x03\x00\x02", b"")
            )
            with call(one) as caller:
                caller.sendall(start + rng.randbytes(rng.randrange(1, 400)))
                if rng.random() < 0.5:
                    answer(running, caller)
        running.until(lambda: len(one.peers._links) == 2, "nothing is left behind", ms=10)
        assert running.linked()


def test_a_killed_replica_comes_back_over_tls(contexts: dict[int, PeerContexts]) -> None:
    with cluster((1, 2)) as running:
        start_both(running, contexts[1], contexts[2])
        running.until(running.linked, "linked")
        for victim in (1, 2):
            running.kill(victim)
            running.run(500)
            running.start(victim, contexts=contexts[victim], instance=9000 + victim)
            running.until(running.linked, "linked again")
        assert {kind for _, kind in running.nodes[1].peers._by_peer} == {RAFT_LINK, BULK_LINK}


# Clients


@pytest.fixture
def secured(authority: Authority) -> Iterator[Served]:
    files = authority.issue("gateway", "127.0.0.1", "localhost")
    with Served(Echo(), tls=client_context(files), output_bytes_max=1 << 18) as served:
        yield served


def connect(served: Served, authority: Authority) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=authority.certificate)
    plain = socket.create_connection((served.host, served.port), 30)
    return context.wrap_socket(plain, server_hostname=served.host)


def receive(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := client.recv(size - len(data))):
        data += more
    return data


def test_a_client_over_tls_is_served_like_any_other(secured: Served, authority: Authority) -> None:
    with connect(secured, authority) as client:
        client.sendall(HELLO + request(3, session_id(1), 1, b"k", b"v") + ping(7))

        data = receive(client, 40 + 48 + 16)
        assert reply(session_id(1), 1) in data and ping(7, 24) in data
        assert client.version() == "TLSv1.3"


def test_a_flood_over_tls_arrives_whole_and_in_order(authority: Authority) -> None:
    count = 20_000
    files = authority.issue("flooded", "127.0.0.1")
    flood = b"".join(request(3, session_id(1), n, b"k", b"x" * 50) for n in range(count))

    async def pour() -> bytes:
        context = ssl.create_default_context(cafile=authority.certificate)
        reader, writer = await asyncio.open_connection(served.host, served.port, ssl=context)
        writer.write(HELLO + flood)
        data = await reader.readexactly(40 + 48 * count)
        writer.close()
        await writer.wait_closed()
        return data[40:]

    # All answers have room: on a loaded machine this thread may read none of them for a while.
    with Served(Echo(), tls=client_context(files), output_bytes_max=1 << 22) as served:
        data = asyncio.run(pour())
    numbers = [struct.unpack_from("<Q", data, at + 24)[0] for at in range(0, len(data), 48)]
    assert numbers == list(range(count))


def test_a_client_over_tls_that_does_not_read_is_closed_and_bounded(
    secured: Served, authority: Authority
) -> None:
    passages = secured.gateway._tls_clients
    assert passages is not None
    with connect(secured, authority) as slow, connect(secured, authority) as good:
        slow.sendall(HELLO + subscribe(session_id(1), 1))
        good.sendall(HELLO)
        assert receive(slow, 88) and receive(good, 40)
        number = 0
        while not secured.gateway._report.slow_readers:
            secured.behind = Flood(secured.behind, [event(1, b"k", bytes(4000))] * 30)
            good.sendall(request(3, session_id(2), number := number + 1))
            assert receive(good, 48) == reply(session_id(2), number)
            assert all(len(passage.to_client) < 1 << 20 for passage in [*passages._passages])
            assert number < 10_000, "nobody is called slow"
        until(lambda: secured.gateway._report.connections == 1, "the other one stays")


def test_many_clients_over_tls_come_and_go(secured: Served, authority: Authority) -> None:
    clients = [connect(secured, authority) for _ in range(40)]
    for number, client in enumerate(clients):
        client.sendall(HELLO + request(3, session_id(number), 1))
    for number, client in enumerate(clients):
        assert receive(client, 88)[40:] == reply(session_id(number), 1)
    for number, client in enumerate(clients):
        if number % 2:
            client.unwrap().close()
        client.close()
    until(lambda: secured.gateway._report.connections == 0, "all are forgotten")
    passages = secured.gateway._tls_clients
    assert passages is not None
    until(lambda: not passages._passages, "no passage is left")


def test_who_breaks_a_rule_over_tls_is_told_why(secured: Served, authority: Authority) -> None:
    with connect(secured, authority) as client:
        client.sendall(HELLO + request(3, bytes(16), 1))
        data = receive(client, 1 << 16)

    length, kind, code = struct.unpack_from("<IHH", data, 40)
    assert (length, kind, code) == (len(data) - 40, 23, lib.WIRE_ZERO_SESSION)


def test_plain_bytes_to_the_clients_tls_port_are_hung_up_on(secured: Served) -> None:
    with socket.create_connection((secured.host, secured.port), 30) as client:
        client.sendall(HELLO + request(3, session_id(1), 1))

        assert receive(client, 100) == b""
    passages = secured.gateway._tls_clients
    assert passages is not None
    until(lambda: passages.failed == 1, "the failure is counted")


def test_who_never_finishes_the_handshake_is_closed_in_time(authority: Authority) -> None:
    files = authority.issue("hasty", "127.0.0.1")
    with (
        Served(Echo(), tls=client_context(files), hello_ns=10**8, linger_ns=10**8) as served,
        socket.create_connection((served.host, served.port), 30) as client,
    ):
        client.sendall(b"\x16\x03\x01")

        assert receive(client, 100) == b""


def test_a_drain_reaches_clients_over_tls(secured: Served, authority: Authority) -> None:
    with connect(secured, authority) as client:
        client.sendall(HELLO)
        assert receive(client, 40)
        secured.gateway.drain()
        data = receive(client, 1 << 16)
        assert struct.unpack_from("<HH", data, 4) == (23, lib.WIRE_STOPPING)


def test_a_token_is_wanted_where_the_replica_has_some() -> None:
    with Served(Echo(), tokens=("open sesame", "the next one")) as served:
        for token in ("open sesame", "the next one"):
            with socket.create_connection((served.host, served.port), 30) as client:
                client.sendall(client_hello(CLUSTER, token) + request(3, session_id(1), 1))
                assert receive(client, 88)[40:] == reply(session_id(1), 1)
        for token in ("", "open sesam", "open sesame!"):
            with socket.create_connection((served.host, served.port), 30) as client:
                client.sendall(client_hello(CLUSTER, token))
                data = receive(client, 1 << 16)
                assert struct.unpack_from("<HH", data, 4) == (23, lib.WIRE_BAD_TOKEN)


@pytest.mark.parametrize("tokens", [("",), ("x" * 65,), tuple(map(str, range(9)))])
def test_tokens_have_limits(tokens: tuple[str, ...]) -> None:
    with pytest.raises(OperatorError, match="At most 8 tokens"):
        Identity(CLUSTER, 1, 1, tokens)


# When there must be certificates


@pytest.mark.parametrize(
    "addresses",
    [
        ("127.0.0.1", "127.0.0.3:7800", "[::1]:7800", "::1", "localhost:7700", "127.1.2.3:1"),
        (),
    ],
)
def test_loopback_needs_no_certificates(addresses: tuple[str, ...]) -> None:
    require_security(addresses, None, insecure=False)


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0", "10.0.0.1:7800", "::", "[2001:db8::1]:7", "box", "box.local:7700", "128.0.0.1"],
)
def test_every_other_address_does_or_the_operator_says_so(address: str, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="--insecure-i-know") as refused:
        require_security(("127.0.0.1", address), None, insecure=False)
    assert address in str(refused.value) and str(refused.value).count(". ") == 0
    require_security(("127.0.0.1", address), None, insecure=True)
    files = TlsFiles(tmp_path / "c", tmp_path / "k", tmp_path / "a")
    require_security(("127.0.0.1", address), files, insecure=False)


def test_files_that_are_no_certificates_are_an_operators_mistake(
    authority: Authority, tmp_path: Path
) -> None:
    good = authority.issue("good", "127.0.0.1")
    other = authority.issue("other", "127.0.0.1")
    text = tmp_path / "text"
    text.write_text("hello")
    for files, words in (
        (
            attrs.evolve(good, authority=tmp_path / "none"),
            "none is no authority's certificate: No such",
        ),
        (attrs.evolve(good, authority=text), "text is no authority's certificate"),
        (attrs.evolve(good, certificate=text), "text and .*good.key are no certificate with its"),
        (attrs.evolve(good, key=other.key), "key values mismatch"),
        (attrs.evolve(good, key=tmp_path / "none"), "No such file"),
    ):
        for load in (peer_contexts, client_context):
            with pytest.raises(OperatorError, match=words):
                load(files)


def test_a_key_with_a_password_is_refused_without_asking_for_it(
    authority: Authority, tmp_path: Path
) -> None:
    good = authority.issue("locked", "127.0.0.1")
    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "ec", "-aes256", "-passout", "pass:secret", "-in", good.key, "-out", locked],
        check=True,
        capture_output=True,
    )
    with pytest.raises(OperatorError, match="unencrypted key"):
        client_context(attrs.evolve(good, key=locked))
