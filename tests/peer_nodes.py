"""Replicas' links over real loopback sockets and real rings, in one thread, with a clock that the test moves."""

import random
import select
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from leftfold.raft.messages import AppendEntries, Entry, Heartbeat
from leftfold.runtime import slots
from leftfold.runtime.descriptors import Descriptors
from leftfold.runtime.listening import listen
from leftfold.runtime.peer_hello import BULK_LINK, RAFT_LINK, Hello
from leftfold.runtime.peers import PeerLimits, Peers
from leftfold.runtime.raft_messages import encode
from leftfold.runtime.tls import PeerContexts
from leftfold.shm import Consumer, Producer, format_ring, ring_bytes

CLUSTER = bytes(range(16))
MS = 1_000_000
STEPS_MAX = 20_000


def ring(capacity: int) -> bytearray:
    memory = bytearray(ring_bytes(capacity))
    format_ring(memory, capacity)
    return memory


def hello(replica: int, address: str, **changed: Any) -> Hello:
    """What a replica of these tests says."""
    fields: dict[str, Any] = {
        "cluster_id": CLUSTER,
        "source": replica,
        "target": 0,
        "instance": replica * 1000,
        "link": RAFT_LINK,
        "address": address,
        "serves": f"{address}/clients",
        "build": "build 1",
        "python": (3, 11),
        **changed,
    }
    return Hello(**fields)


class Node:
    """One replica's gateway, as far as its peers go, and consensus' ends of the rings."""

    def __init__(
        self,
        replica: int,
        listener: socket.socket,
        addresses: dict[int, str],
        *,
        capacity: int = 1 << 16,
        contexts: PeerContexts | None = None,
        limits: PeerLimits | None = None,
        any_build: bool = False,
        **said: Any,
    ) -> None:
        self.replica = replica
        self.said: list[str] = []
        self.descriptors = Descriptors()
        self.serial = 0
        self.seen: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        receive, bulk_receive, bulk_send = (ring(capacity) for _ in range(3))
        self.receive, self.bulk_receive = Consumer(receive), Consumer(bulk_receive)
        self.bulk_send = Producer(bulk_send)
        host, port = listener.getsockname()[:2]
        self.peers = Peers(
            hello(replica, f"{host}:{port}", **said),
            listener,
            Producer(receive),
            Producer(bulk_receive),
            Consumer(bulk_send),
            self.descriptors,
            self.said.append,
            random.Random(replica),
            addresses,
            contexts,
            any_build,
            limits or PeerLimits(),
        )

    def turn(self, now_ns: int) -> None:
        self.peers.arriving(now_ns)
        self.descriptors.turn()
        self.peers.turn(now_ns)

    def send(self, target: int, size: int = 0, *, bulk: bool = False) -> int:
        """A message with this many bytes of entries, through the ring that it belongs to; returns its serial number."""
        self.serial += 1
        if size:
            entry = Entry(1, 1, 0, 0, bytes(size))
            slot = encode(AppendEntries(self.replica, target, self.serial, 0, 0, (entry,), 0))
        else:
            slot = encode(Heartbeat(self.replica, target, self.serial, 0))
        if bulk:
            assert self.bulk_send.write(slot)
        else:
            self.peers.post(memoryview(slot)[: slots.HEADER.unpack_from(slot)[0]])
        return self.serial

    def came(self, *, bulk: bool = False) -> list[tuple[int, int]]:
        """(source, serial) of the messages that consensus would find now."""
        found: list[tuple[int, int]] = []
        consumer = self.bulk_receive if bulk else self.receive
        while run := consumer.peek():
            for kind, _, slot in slots.slots_of(run):
                if kind == slots.RAFT_MESSAGE:
                    found.append(struct.unpack_from("<QQ", slot, 16))
                del slot
            size = len(run)
            run.release()
            consumer.release(size)
        self.seen[bulk] += found
        return found

    def has_seen(self, count: int, *, bulk: bool = False) -> bool:
        """Whether so many messages have come by now."""
        self.came(bulk=bulk)
        return len(self.seen[bulk]) >= count

    def links_told(self) -> list[tuple[int, int, str]]:
        """(tag, replica, where it serves) of the LINK slots in `receive`, which is emptied."""
        found: list[tuple[int, int, str]] = []
        while run := self.receive.peek():
            for kind, tag, slot in slots.slots_of(run):
                if kind == slots.LINK:
                    found.append((tag, *slots.unpack_link(slot)))
            self.receive.release(len(run))
        return found

    def close(self) -> None:
        self.peers.close()
        self.descriptors.close()


def held_port(host: str) -> socket.socket:
    """A port that nobody else is given while this is open; who listens there may go and come back."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((host, 0))
    return held


class Cluster:
    """Nodes, each on its own loopback address, and their one clock."""

    def __init__(self, ids: Sequence[int] = (1, 2), **options: Any) -> None:
        self.now_ns = 1_000_000_000
        self.options = options
        self.held = {replica: held_port(f"127.0.0.{replica + 1}") for replica in ids}
        self.listeners = {
            replica: listen(*held.getsockname()) for replica, held in self.held.items()
        }
        self.addresses = {
            replica: "{}:{}".format(*listener.getsockname()[:2])
            for replica, listener in self.listeners.items()
        }
        self.nodes: dict[int, Node] = {}

    def start(self, replica: int, **options: Any) -> Node:
        """Start a node; one that was closed listens again where it did."""
        listener = self.listeners[replica]
        if listener.fileno() < 0:
            host, port = self.addresses[replica].split(":")
            listener = self.listeners[replica] = listen(host, int(port))
        given = {"addresses": dict(self.addresses), **self.options, **options}
        self.nodes[replica] = Node(replica, listener, **given)
        return self.nodes[replica]

    def start_all(self, **options: Any) -> list[Node]:
        return [self.start(replica, **options) for replica in self.listeners]

    def kill(self, replica: int) -> None:
        """The kernel closes the sockets; nobody says goodbye."""
        self.nodes.pop(replica).close()

    def step(self, ms: float = 1) -> None:
        """A turn of everybody, a millisecond later."""
        self.now_ns += int(ms * MS)
        for node in [*self.nodes.values()]:
            node.turn(self.now_ns)

    def run(self, ms: int) -> None:
        for _ in range(ms):
            self.step()

    def until(self, condition: Callable[[], Any], what: str, ms: float = 1) -> Any:
        """Go on until it holds."""
        for _ in range(STEPS_MAX):
            if found := condition():
                return found
            self.step(ms)
        raise AssertionError(f"in vain: {what}; said: {[n.said for n in self.nodes.values()]}")

    def linked(self, *ids: int) -> bool:
        """Whether these (all, if none are named) are linked with each other, both ways and both kinds."""
        wanted = ids or tuple(self.nodes)
        return all(
            self.nodes[a].peers.is_linked(b, kind)
            for a in wanted
            for b in wanted
            for kind in (RAFT_LINK, BULK_LINK)
            if a != b
        )

    def close(self) -> None:
        for node in self.nodes.values():
            node.close()
        for listener in (*self.listeners.values(), *self.held.values()):
            listener.close()


@contextmanager
def cluster(ids: Sequence[int] = (1, 2), **options: Any) -> Iterator[Cluster]:
    found = Cluster(ids, **options)
    try:
        yield found
    finally:
        found.close()


def call(node: Node, host: str = "127.0.0.1") -> socket.socket:
    """A plain connection to a node's port for peers."""
    return socket.create_connection(
        node.peers.listener.getsockname()[:2], 10, source_address=(host, 0)
    )


def answer(running: Cluster, caller: socket.socket, until_end: bool = True) -> bytes:
    """What the caller is sent while the nodes run, until it is hung up on (or until something came)."""
    caller.setblocking(False)
    data = b""
    for _ in range(STEPS_MAX):
        running.step()
        if not select.select([caller], [], [], 0)[0]:
            continue
        try:
            more = caller.recv(65536)
        except ConnectionResetError:
            return data
        data += more
        if not more or not until_end:
            return data
    raise AssertionError("nobody hung up")
