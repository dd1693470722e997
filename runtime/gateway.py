"""The gateway process: every socket of the replica, between the clients and the rings.

One loop, one thread. The turns are in C (loop.h): wait, split what came into `ingress`, scatter `egress` and `send` to the
connections, flush, however many are ready (gate.h). Python comes in when there is something for it: the links to other
replicas (peers.py), a few calls for each batch, clients who speak TLS, connections to accept, and a tick now and then. It
never waits on a ring (I12): `egress`, `send` and `bulk_send` are always drained, and while `ingress` is full the clients are
not read, the peers are; the doorbell says when there is room. It looks at no command, and keeps no state that matters:
sessions and events live in logic.

On `drain()` it stops accepting and reading, sends DRAIN through the replica behind the last command, and when DRAIN
comes back on `egress` it flushes, tells every client that the replica stops, and `run()` returns 0.
"""

import errno
import os
import socket
import ssl
from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, NoReturn

from attrs import define, field, frozen

from ..shm import Consumer, Counters, Doorbell, Histogram, Producer
from . import slots
from ._wire import ffi, lib
from .clock import Clock
from .config import TransportLimits, require_tokens
from .descriptors import Descriptors
from .metrics import COUNTED
from .shm_table import SHM_TABLE
from .tls_clients import TlsClients
from .visitors import Vocabulary, admit

if TYPE_CHECKING:
    from ._wire import CData
    from .peers import Peers

PARK_MS = 100
"""The longest sleep, so that signals and time-outs are seen; a wake-up never depends on it."""

ACCEPTS_PER_TURN = 64
CLAIM_BYTES_MAX = 1024 * 1024
SCATTER_BYTES_MAX = 1024 * 1024
TICK_NS = PARK_MS * 1_000_000
NS_PER_S = 1_000_000_000

WELCOME = Struct("<IHH16sIIQ")
DRAIN = Struct("<IHH").pack(8, lib.WIRE_DRAIN, 0)


@frozen(kw_only=True)
class GatewayLimits:
    """How much clients may ask of the gateway (I10), and how long it waits for them."""

    connections_max: int = 10_240
    sessions_max: int = 262_144
    subscriptions_max: int = 16_384
    frame_bytes_max: int = 64 * 1024
    key_bytes_max: int = 1024
    output_bytes_max: int = 4 * 1024 * 1024
    hello_ns: int = 5 * NS_PER_S
    idle_ns: int = 300 * NS_PER_S
    linger_ns: int = 2 * NS_PER_S
    flush_ns: int = 2 * NS_PER_S

    @classmethod
    def of(cls, limits: TransportLimits) -> "GatewayLimits":
        """What the replica's transport allows; the rest by default."""
        return cls(
            connections_max=limits.connections_max,
            sessions_max=limits.sessions_routed_max,
            frame_bytes_max=limits.frame_bytes_max,
            key_bytes_max=min(1024, limits.frame_bytes_max // 4),
            output_bytes_max=limits.connection_output_bytes_max,
        )


@frozen
class Identity:
    """What WELCOME tells a client, and what it must know to get one."""

    cluster_id: bytes
    replica_id: int
    window: int
    tokens: tuple[str, ...] = ()
    """A client must know one of these; none: anybody may ask."""

    def __attrs_post_init__(self) -> None:
        require_tokens(self.tokens)


@define(eq=False)
class Gateway:
    """Process 1. `run()` serves until `drain()` has gone through the replica, and returns 0."""

    listener: socket.socket
    identity: Identity
    ingress: Producer
    egress: Consumer
    send: Consumer
    doorbell: Doorbell
    counters: Counters | None = None
    limits: GatewayLimits = field(factory=GatewayLimits)
    spin_ns: int = 0
    clock: Callable[[], int] = Clock().monotonic_ns
    peers: "Peers | None" = None
    """The links to other replicas; its descriptors are `descriptors`."""
    tls: ssl.SSLContext | None = None
    """What clients must speak; None: plain bytes."""
    descriptors: Descriptors = field(factory=Descriptors)
    visitors: tuple[socket.socket, Vocabulary] | None = None
    """Where clients that speak Redis's protocol knock, and what they may say."""
    _tls_clients: TlsClients | None = field(init=False, default=None)
    _gate: "CData" = field(init=False, repr=False)
    _report: "CData" = field(init=False, repr=False)
    _loop: "CData" = field(init=False, repr=False)
    _latency: Histogram | None = field(init=False, default=None)
    """What the loop fills: it stays mapped for as long."""
    _drain_asked: bool = field(init=False, default=False)
    _drain_sent: bool = field(init=False, default=False)
    _tick_ns: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        slot = (self.limits.frame_bytes_max + 7) & ~7
        assert slot <= self.ingress.slot_bytes_max, "ingress must take the largest frame"
        gate = lib.gate_new(_gate_limits(self.limits, self.identity))
        if gate == ffi.NULL:
            raise MemoryError("no memory for the gateway's tables")
        self._gate = ffi.gc(gate, lib.gate_free)
        self._report = lib.gate_report(self._gate)
        self._loop = self._new_loop(slot)
        ends: tuple[Consumer | Producer, ...] = (self.egress, self.send, self.ingress)
        if self.peers is not None:
            assert self.peers.descriptors is self.descriptors
            ends = (*ends, *self.peers.ends)
            self.peers.carry(self._gate, self._loop)
        self.doorbell.watch(ends)
        if self.tls is not None:
            self._tls_clients = TlsClients(self.tls, self.descriptors, self._gate)
        if self.visitors is not None:
            listener, vocabulary = self.visitors
            admit(self._gate, vocabulary, self.limits.frame_bytes_max, self.limits.output_bytes_max)
            self._watch(listener.fileno(), lib.GATE_VISITORS)
        self._watch(self.descriptors.fileno(), lib.GATE_FOREIGN)
        self._watch(self.listener.fileno(), lib.GATE_LISTENER)
        self._watch(self.doorbell.fileno(), lib.GATE_BELL)

    @property
    def address(self) -> tuple[str, int]:
        """Where clients connect to; the port is the real one."""
        host, port = self.listener.getsockname()[:2]
        return host, port

    @property
    def turns(self) -> int:
        """How often it looked at everything."""
        return self._loop.turns

    @property
    def pauses(self) -> int:
        """How often `ingress` was full, so that clients were not read."""
        return self._loop.pauses

    def _new_loop(self, frame_bytes: int) -> "CData":
        loop = ffi.new("struct loop *")
        loop.calls = SHM_TABLE
        loop.bell = ffi.cast("struct doorbell *", self.doorbell.handle)
        for name in ("ingress", "egress", "send"):
            setattr(loop, name, ffi.cast("struct ring_end *", getattr(self, name).handle))
        if self.peers is not None:
            loop.bulk = ffi.cast("struct ring_end *", self.peers.bulk_send.handle)
        if self.counters is not None:
            self._latency = self.counters.histograms["latency_ns"]
            loop.latency_ns = ffi.cast("uint64_t *", self._latency.words)
        loop.frame_bytes = frame_bytes
        loop.claim_bytes_max = min(CLAIM_BYTES_MAX, self.ingress.run_bytes_max)
        loop.scatter_bytes_max = SCATTER_BYTES_MAX
        loop.spin_ns = self.spin_ns
        return loop

    def drain(self) -> None:
        """Ask for an orderly end; safe in a signal handler and from another thread."""
        self._drain_asked = True
        self._loop.leave = 1

    def run(self) -> int:
        """Serve until drained."""
        while not self._report.drained:
            self.turn(reading=not self._drain_asked)
            if self._drain_asked and not self._drain_sent:
                self._begin_drain()
        self._end()
        return 0

    def turn(self, *, reading: bool = True) -> None:
        """Turns of the loop, until there was something for Python to do, and that."""
        loop = self._loop
        loop.reading = reading
        loop.due_ns = self._tick_ns
        loop.watchful = self._drain_asked and not self._drain_sent  # DRAIN waits for room.
        if self.peers is not None:
            loop.due_ns = min(self._tick_ns, self.peers.due_ns)
            loop.watchful |= self.peers.is_held_up
        reasons = lib.loop_run(self._gate, loop)
        loop.leave = 0
        if reasons < 0:
            raise OSError(-reasons, os.strerror(-reasons))
        if reasons & ~lib.LOOP_FOREIGN:
            self._heed(reasons, loop.now_ns)
        self._turn_foreign(loop.now_ns)

    def _heed(self, reasons: int, now_ns: int) -> None:
        assert not reasons & lib.LOOP_MALFORMED, "logic wrote a slot that is not for the gateway"
        if reasons & lib.LOOP_BROKEN:
            self._say_what_broke()
        if reasons & lib.LOOP_LINK and self.peers is not None:
            self.peers.heed_carriers(now_ns)
        if reasons & lib.LOOP_SEND:
            self._scatter_send(now_ns)
        if reasons & lib.LOOP_ACCEPT:
            self._accept(now_ns)
        if now_ns >= self._tick_ns:
            self._tick(now_ns)

    def _say_what_broke(self) -> NoReturn:
        """The same calls from Python raise what C could only refuse."""
        self.egress.peek()
        self.send.peek()
        self.ingress.claim(8)
        self.doorbell.disarm(rung=False)
        raise AssertionError("a ring refused the gateway, and does so no more")

    def close(self) -> None:
        """Close every socket."""
        self._close_listeners()
        if self.peers is not None:
            self.peers.close()
        if self._tls_clients is not None:
            self._tls_clients.close()
        ffi.release(self._gate)
        self.descriptors.close()

    def _poll(self, timeout_ms: int) -> None:
        seen = lib.gate_wait(self._gate, timeout_ms)
        if seen < 0 and seen != -errno.EINTR:
            raise OSError(-seen, os.strerror(-seen))

    def _watch(self, fd: int, role: int) -> None:
        error = lib.gate_watch(self._gate, fd, role)
        if error < 0:
            raise OSError(-error, os.strerror(-error))

    # Moving bytes

    def _scatter_send(self, now_ns: int) -> None:
        """What consensus says, some of it to peers."""
        run = self.send.peek(SCATTER_BYTES_MAX)
        length = self.send.length
        address = ffi.cast("uint8_t *", self.send.address)
        at = 0
        while at < length:
            routed = lib.gate_scatter(self._gate, address + at, length - at, now_ns)
            assert routed >= 0, "a process of this replica wrote a malformed slot for the gateway"
            at += routed
            if at < length:
                at += self._pass_to_peers(run[at:])
        self.send.release(length)

    def _pass_to_peers(self, run: memoryview) -> int:
        """The first slot of the run is for them; how long it is."""
        kind, _, slot = next(slots.slots_of(run))
        assert self.peers is not None, "a replica without peers has nothing to say to them"
        if kind == slots.PEERS:
            self.peers.change(slots.unpack_peers(slot))
        else:
            self.peers.post(slot)
        return slots.padded(len(slot))

    def _turn_foreign(self, now_ns: int) -> None:
        """Peers, and clients who speak TLS."""
        moved = 0
        if self.peers is not None:
            self.peers.arriving(now_ns)
        if self._report.foreign:
            moved = self.descriptors.turn()
        if self.peers is not None:
            moved += self.peers.turn(now_ns)
        if moved:
            self._loop.busy_ns = now_ns

    def _accept(self, now_ns: int) -> None:
        if self._report.visitors and self.visitors is not None:
            fd = self.visitors[0].fileno()
            accepted = lib.gate_accept_visitors(self._gate, fd, ACCEPTS_PER_TURN, now_ns)
            self._loop.accept_ns = now_ns + TICK_NS if accepted < 0 else 0
        if self._report.listening:
            self._accept_clients(now_ns)

    def _accept_clients(self, now_ns: int) -> None:
        if self._tls_clients is not None:
            self._accept_tls(self._tls_clients, now_ns)
            return
        accepted = lib.gate_accept(self._gate, self.listener.fileno(), ACCEPTS_PER_TURN, now_ns)
        # Out of descriptors or memory: who waits in the backlog is asked in again a little later.
        self._loop.accept_ns = now_ns + TICK_NS if accepted < 0 else 0

    def _accept_tls(self, clients: TlsClients, now_ns: int) -> None:
        self._loop.accept_ns = 0
        try:
            self._report.listening = clients.accept(self.listener, ACCEPTS_PER_TURN, now_ns)
        except OSError:
            self._loop.accept_ns = now_ns + TICK_NS

    # Looking after it

    def _tick(self, now_ns: int) -> None:
        self._tick_ns = now_ns + TICK_NS
        lib.gate_expire(self._gate, now_ns)
        if self.counters is not None:
            self._publish(self.counters)

    def _publish(self, counters: Counters) -> None:
        for name in COUNTED:
            counters.counters[name].set(getattr(self._report, name))
        if self.peers is not None:
            for name, count in self.peers.counts().items():
                counters.counters[name].set(count)
        if self._tls_clients is not None:
            counters.counters["tls_failed"].set(self._tls_clients.failed)
        counters.counters["pauses"].set(self.pauses)
        counters.counters["turns"].set(self.turns)
        rings = {"egress": self.egress, "send": self.send}
        if self.peers is not None:
            rings["bulk_send"] = self.peers.bulk_send
        for name, ring in rings.items():
            word = counters.counters.get(f"{name}_used_bytes")
            if word is not None:
                word.set(ring.used())

    # Ending

    def _begin_drain(self) -> None:
        self._close_listeners()
        self._drain_sent = self.ingress.write(DRAIN)

    def _close_listeners(self) -> None:
        listeners = [self.listener] if self.visitors is None else [self.listener, self.visitors[0]]
        for listener in listeners:
            if listener.fileno() >= 0:
                lib.gate_unwatch(self._gate, listener.fileno())
                listener.close()

    def _end(self) -> None:
        """Flush, say why, and linger until the clients have read it or the time is over."""
        now_ns = self.clock()
        deadline_ns = now_ns + self.limits.flush_ns
        lib.gate_stop(self._gate, now_ns)
        if self.peers is not None:
            self.peers.lay_down_carriers()
        while self._report.closing and now_ns < deadline_ns:
            lib.gate_flush(self._gate)
            self._poll(0 if self._report.dirty else 10)
            now_ns = self.clock()
            self._turn_foreign(now_ns)
            lib.gate_receive(self._gate, ffi.NULL, 0, now_ns)  # discards; sees who has hung up
        if self.counters is not None:
            self._publish(self.counters)


def _gate_limits(limits: GatewayLimits, identity: Identity) -> "CData":
    assert len(identity.cluster_id) == 16
    converted = ffi.new("struct gate_limits *")
    for name in (
        "connections_max",
        "sessions_max",
        "subscriptions_max",
        "frame_bytes_max",
        "key_bytes_max",
        "output_bytes_max",
        "hello_ns",
        "idle_ns",
        "linger_ns",
    ):
        setattr(converted, name, getattr(limits, name))
    welcome = WELCOME.pack(
        WELCOME.size,
        lib.WIRE_WELCOME,
        lib.WIRE_VERSION,
        identity.cluster_id,
        limits.frame_bytes_max,
        identity.window,
        identity.replica_id,
    )
    ffi.memmove(converted.welcome, welcome, len(welcome))
    ffi.memmove(converted.seed, os.urandom(16), 16)
    converted.tokens_count = len(identity.tokens)
    for place, token in zip(converted.tokens, identity.tokens, strict=False):
        place.length = len(token.encode())
        place.bytes = token.encode()
    return converted
