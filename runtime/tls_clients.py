"""TLS for clients: each connection is decrypted here and goes on, as plain bytes, over a socket pair into the gate.

So the gate knows nothing of TLS, and all its rules (greeting, tokens, limits, slow readers, idleness) hold as they are; what
a client does not read fills its pair, and the gate notices. Costs per read, not per frame: two copies and two system calls
beyond the gate's own. Bounded: nothing is read from one side while more than WAITING_BYTES_MAX wait for the other.

A client that never finishes the TLS handshake has not greeted either, and is closed by the gate's time limit.
"""

import socket
import ssl
from typing import TYPE_CHECKING

from attrs import define, field

from ._wire import lib
from .descriptors import IN, OUT, Descriptors
from .tls import StreamBroken, TlsStream

if TYPE_CHECKING:
    from ._wire import CData

READ_BYTES = 128 * 1024
WAITING_BYTES_MAX = 512 * 1024


@define(eq=False)
class Passage:
    """One client: its socket with TLS on one side, the gate's socket on the other."""

    client: socket.socket
    gate: socket.socket
    stream: TlsStream
    to_client: bytearray = field(factory=bytearray, init=False)
    to_gate: bytearray = field(factory=bytearray, init=False)
    client_ended: bool = field(default=False, init=False)
    """Nothing more comes from the client."""
    gate_ended: bool = field(default=False, init=False)
    """Nothing more comes from the gate: what waits goes out, and that is the end."""
    told_gate: bool = field(default=False, init=False)
    told_client: bool = field(default=False, init=False)

    def take_from_client(self) -> None:
        """Read and decrypt once. Raises OSError, StreamBroken."""
        try:
            data = self.client.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        if data:
            self.to_gate += self.stream.receive(data)
            self.to_client += self.stream.outgoing()
        if not data or self.stream.ended:
            self.client_ended = True

    def take_from_gate(self) -> None:
        """Read and encrypt once. Raises OSError."""
        try:
            data = self.gate.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        if not data:
            self.gate_ended = True
            self.stream.end()
        elif self.stream.ready:
            self.stream.send(data)
        self.to_client += self.stream.outgoing()

    def flush(self) -> bool:
        """Send what both sides take; False when this is over. Raises OSError."""
        _send(self.client, self.to_client)
        _send(self.gate, self.to_gate)
        if self.client_ended and not self.to_gate and not self.told_gate:
            self.told_gate = True
            self.gate.shutdown(socket.SHUT_WR)
        if self.gate_ended and not self.to_client:
            if not self.told_client:
                self.told_client = True
                self.client.shutdown(socket.SHUT_WR)
            return not self.client_ended
        return True

    def client_events(self) -> int:
        """What the client's socket is watched for."""
        reading = not self.client_ended and len(self.to_gate) < WAITING_BYTES_MAX
        return (IN if reading else 0) | (OUT if self.to_client else 0)

    def gate_events(self) -> int:
        """What the gate's socket is watched for."""
        reading = not self.gate_ended and len(self.to_client) < WAITING_BYTES_MAX
        return (IN if reading else 0) | (OUT if self.to_gate else 0)


def _send(sock: socket.socket, waiting: bytearray) -> None:
    while waiting:
        try:
            del waiting[: sock.send(waiting)]
        except (BlockingIOError, InterruptedError):
            return


@define(eq=False)
class TlsClients:
    """Every client's passage."""

    context: ssl.SSLContext
    descriptors: Descriptors
    gate: "CData"
    failed: int = field(default=0, init=False)
    """Connections that ended because TLS did."""
    _passages: set[Passage] = field(factory=set[Passage], init=False)

    def accept(self, listener: socket.socket, count: int, now_ns: int) -> bool:
        """Take up to so many callers. False: nobody waits any more. Raises OSError out of descriptors."""
        for _ in range(count):
            try:
                client, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return False
            try:
                ours, gates = socket.socketpair()
            except OSError:
                client.close()
                raise
            for sock in (client, ours, gates):
                sock.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if lib.gate_adopt(self.gate, gates.fileno(), now_ns) < 0:
                for sock in (client, ours, gates):
                    sock.close()
                continue
            gates.detach()
            self._begin(Passage(client, ours, TlsStream(self.context, accepted=True)))
        return True

    def _begin(self, passage: Passage) -> None:
        self._passages.add(passage)
        watch = self.descriptors.watch
        watch(passage.client.fileno(), IN, lambda events: self._on_client(passage, events))
        watch(passage.gate.fileno(), IN, lambda events: self._on_gate(passage, events))

    def _on_client(self, passage: Passage, events: int) -> None:
        self._move(passage, client=bool(events & ~OUT), gate=False)

    def _on_gate(self, passage: Passage, events: int) -> None:
        self._move(passage, client=False, gate=bool(events & ~OUT))

    def _move(self, passage: Passage, *, client: bool, gate: bool) -> None:
        broken = False
        try:
            if client:
                passage.take_from_client()
            if gate:
                passage.take_from_gate()
        except StreamBroken:
            passage.to_client += passage.stream.outgoing()  # The alert that says why.
            broken = True
        except OSError:
            broken = True
        try:
            if passage.flush() and not broken:
                self.descriptors.change(passage.client.fileno(), passage.client_events())
                self.descriptors.change(passage.gate.fileno(), passage.gate_events())
                return
        except OSError:
            broken = True
        self.failed += broken
        self._end(passage)

    def _end(self, passage: Passage) -> None:
        if passage not in self._passages:
            return
        self._passages.remove(passage)
        for sock in (passage.client, passage.gate):
            self.descriptors.forget(sock.fileno())
            sock.close()

    def close(self) -> None:
        """Close every connection."""
        for passage in [*self._passages]:
            self._end(passage)
