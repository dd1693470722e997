"""Replicas by script: several addresses on real loopback sockets, one real machine behind them, and whatever goes wrong on cue.

The machine (tests/served.py's Fold) makes the cluster's half of exactly-once real; who leads, who answers, who lies and who
hangs up is the test's to say, at any moment. All replicas live in one thread with an event loop of its own.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any, Self

from gates import CLUSTER, ping
from served import Fold, slots_of

from leftfold.actors import App
from leftfold.actors.limits import Limits

HELLO, OPEN, SUBSCRIBE, UNSUBSCRIBE, PING, EVENT = 1, 2, 6, 7, 8, 19
NOT_LEADER = 1
WINDOW = 64


def frame(kind: int, tag: int, content: bytes) -> bytes:
    """Any frame."""
    return struct.pack("<IHH", 8 + len(content), kind, tag) + content


def refused(slot: bytes, reason: int, hint: str) -> bytes:
    """REFUSED, for this frame of a client."""
    kind = struct.unpack_from("<H", slot, 4)[0]
    return frame(22, reason | kind << 8, slot[8:32] + hint.encode())


class Replica:
    """One address. What it does is in the attributes, which a test may set at any time."""

    def __init__(self, cluster: "Scripted", number: int) -> None:
        self.cluster, self.number = cluster, number
        self.cluster_id = CLUSTER
        self.refuses: tuple[int, str] | None = None
        """Answer everything with REFUSED: reason and hint. None: serve as leader, else hint at the leader."""
        self.greets = True
        self.answers = True
        """Whether it handles what comes, PING too; if not, it hears and is silent."""
        self.works = True
        """Whether it handles requests; PING is answered all the same."""
        self.twist: Callable[[bytes], list[bytes]] = lambda slot: [slot]
        """What is sent in place of a frame."""
        self.cut_after: int | None = None
        """After so many more bytes the connection is cut, in the middle of a frame."""
        self.accepted = 0
        self.asked: list[bytes] = []
        """The frames that came, but for HELLO and PING."""
        self.open: set[Connection] = set()
        self.address: tuple[str, int] = ("127.0.0.1", 0)

    @property
    def text(self) -> str:
        """host:port."""
        return "{}:{}".format(*self.address)

    def hang_up(self) -> None:
        """Cut every connection."""
        self.cluster.do(lambda: [one.transport.abort() for one in list(self.open)])


class Connection(asyncio.Protocol):
    """One client's connection to one replica."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.received = bytearray()
        self.subscribed = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.replica.accepted += 1
        self.replica.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.replica.open.discard(self)

    def data_received(self, data: bytes) -> None:
        self.received += data
        while len(self.received) >= 8:
            length = struct.unpack_from("<I", self.received)[0]
            if len(self.received) < length:
                return
            slot = bytes(self.received[:length])
            del self.received[:length]
            if self.replica.answers and not self.transport.is_closing():
                self._take(slot)

    def _take(self, slot: bytes) -> None:
        replica = self.replica
        kind = struct.unpack_from("<H", slot, 4)[0]
        if kind == HELLO:
            self._greet(slot[8:24])
            return
        if kind == PING:
            self.send(ping(struct.unpack_from("<Q", slot, 8)[0], 24))
            return
        replica.asked.append(slot)
        if not replica.works or kind == UNSUBSCRIBE:
            return
        leader = replica.cluster.leader
        if replica.refuses is not None:
            self.send(refused(slot, *replica.refuses))
        elif leader is not replica and kind != SUBSCRIBE:
            self.send(refused(slot, NOT_LEADER, leader.text if leader else ""))
        else:
            self.subscribed = self.subscribed or kind == SUBSCRIBE
            self._handle(slot, kind)

    def _greet(self, wanted: bytes) -> None:
        replica = self.replica
        if not replica.greets:
            return
        if wanted not in (bytes(16), replica.cluster_id):
            self.send(frame(23, 3, b"this replica belongs to another cluster"))
            self.transport.close()
            return
        content = struct.pack("<16sIIQ", replica.cluster_id, 65536, WINDOW, replica.number)
        self.send(frame(16, 1, content))

    def _handle(self, slot: bytes, kind: int) -> None:
        run = self.replica.cluster.fold.answer([slot + bytes(-len(slot) % 8)])
        for padded in slots_of(run):
            length, type_ = struct.unpack_from("<IH", padded)
            if type_ == EVENT and kind != SUBSCRIBE:
                self.replica.cluster.publish(padded[:length])
            else:
                self.send(padded[:length])

    def send(self, slot: bytes) -> None:
        """Send a frame, as the script twists it."""
        replica = self.replica
        for twisted in replica.twist(slot):
            if self.transport.is_closing():
                return
            if replica.cut_after is not None and len(twisted) > replica.cut_after:
                # What was written is on its way before the end is.
                self.transport.write(twisted[: replica.cut_after])
                self.transport.close()
                replica.cut_after = None
                return
            if replica.cut_after is not None:
                replica.cut_after -= len(twisted)
            self.transport.write(twisted)


class Scripted:
    """A cluster of scripted replicas; the first one leads until the test says otherwise."""

    def __init__(self, app: App, replicas: int, limits: Limits | None = None) -> None:
        self.fold = Fold(app, limits or Limits(session_window=WINDOW))
        self.replicas = [Replica(self, number) for number in range(1, replicas + 1)]
        self.leader: Replica | None = self.replicas[0]
        self.late = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._servers: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self._run, name="scripted replicas", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        future = asyncio.run_coroutine_threadsafe(self._listen(), self._loop)
        future.result(30)
        return self

    def __exit__(self, *raised: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    @property
    def text(self) -> str:
        """The addresses of all."""
        return ",".join(replica.text for replica in self.replicas)

    def do(self, what: Callable[[], Any]) -> Any:
        """Call it in the thread of the replicas."""

        async def call() -> Any:
            return what()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(30)

    def serve(self, number: int) -> None:
        """A replica whose accepting was put off accepts."""
        asyncio.run_coroutine_threadsafe(self._servers[number].start_serving(), self._loop).result(
            30
        )

    def close(self, number: int) -> None:
        """A replica ends: it accepts nobody, and everybody is cut off."""
        self.do(self._servers[number].close)
        self.replicas[number].hang_up()

    def publish(self, event: bytes) -> None:
        """An event goes to the subscribers, wherever they are connected."""
        for replica in self.replicas:
            for connection in list(replica.open):
                if connection.subscribed and replica.answers:
                    connection.send(event)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _listen(self) -> None:
        for replica in self.replicas:
            listener = socket.create_server(("127.0.0.1", 0), backlog=100)
            replica.address = listener.getsockname()
            server = await self._loop.create_server(
                lambda replica=replica: Connection(replica), sock=listener, start_serving=False
            )
            if replica not in self.slow:
                await server.start_serving()
            self._servers.append(server)

    slow: tuple[Replica, ...] = ()
    """Those who listen, but do not accept before `serve`."""

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        for replica in self.replicas:
            for connection in list(replica.open):
                connection.transport.abort()
        for _ in range(10):
            await asyncio.sleep(0)
