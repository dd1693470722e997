"""TLS for peers and clients: the standard library's, as bytes in and bytes out; and when there must be some.

`TlsStream` and `PlainStream` have one shape, so that who holds the socket need not know which it is. Peers show each other
certificates of one private authority (mutual TLS); a replica shows its own to clients, and asks them for a token instead
(gateway.py). Who may say which replica id is for peers.py to compare with `names`.

Without certificates a replica starts only where every address is loopback, or when the operator says so in words.
"""

import ipaddress
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from attrs import define, field, frozen

from .errors import LeftfoldError, OperatorError
from .hosts import is_loopback

INSECURE_FLAG = "--insecure-i-know"
READ_BYTES = 64 * 1024
TLS_RECORD, TLS_ALERT = 0x16, 0x15
"""The first byte of a TLS connection, from either side; an alert may come first too."""


class StreamBroken(LeftfoldError):
    """The other side cannot be understood or trusted; the text is a clause about it: 'it …'."""


@frozen
class TlsFiles:
    """Paths of PEM files: this replica's certificate (with what leads to the authority), its key, the authority."""

    certificate: Path = field(converter=Path)
    key: Path = field(converter=Path)
    authority: Path = field(converter=Path)


@frozen
class PeerContexts:
    """For connections that are accepted, and for those that are made."""

    accept: ssl.SSLContext
    dial: ssl.SSLContext


def peer_contexts(files: TlsFiles) -> PeerContexts:
    """Both sides show a certificate of the authority. Raises OperatorError."""
    accept = _context(ssl.PROTOCOL_TLS_SERVER, files)
    accept.verify_mode = ssl.CERT_REQUIRED
    return PeerContexts(accept, _context(ssl.PROTOCOL_TLS_CLIENT, files))


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """For the port of clients: the replica shows its certificate, the client shows a token. Raises OperatorError."""
    return _context(ssl.PROTOCOL_TLS_SERVER, files)


def _context(protocol: int, files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # Sessions are not resumed: connections last.
    try:
        context.load_verify_locations(files.authority)
    except (OSError, ssl.SSLError) as error:
        raise OperatorError(
            f"{files.authority} is no authority's certificate: {_why(error)}."
        ) from error
    try:
        # An encrypted key must not ask for its password on a terminal that nobody sees.
        context.load_cert_chain(files.certificate, files.key, password="")
    except (OSError, ssl.SSLError) as error:
        raise OperatorError(
            f"{files.certificate} and {files.key} are no certificate with its unencrypted key: {_why(error)}."
        ) from error
    return context


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM").lower().replace("_", " ")
    return error.strerror or str(error)


def require_security(addresses: Iterable[str], files: TlsFiles | None, *, insecure: bool) -> None:
    """Raise OperatorError if somebody else than this machine could read and write without a certificate.

    The addresses are those of the listening sockets and of every peer, as host or host:port.
    """
    exposed = [address for address in addresses if not is_loopback(address)]
    if exposed and files is None and not insecure:
        raise OperatorError(
            f"{exposed[0]} can be reached from other machines, and without certificates anybody there could read and "
            "write: give --tls-certificate, --tls-key and --tls-authority, stay on loopback addresses, or say "
            f"{INSECURE_FLAG}."
        )


class Stream(Protocol):
    """One connection's bytes, before and behind encryption."""

    @property
    def ready(self) -> bool:
        """Whether the other side is known, as far as this stream can know it."""
        ...

    def receive(self, data: bytes) -> bytes:
        """What the socket gave becomes what the other side wrote. Raises StreamBroken."""
        ...

    def send(self, data: bytes) -> None:
        """Take what is to be written; before `ready` it is kept."""
        ...

    def outgoing(self) -> bytes:
        """Take what is to be given to the socket now."""
        ...

    def names(self) -> frozenset[str] | None:
        """The hosts that the other side's certificate is for; None: there is none."""
        ...


@define(eq=False)
class PlainStream:
    """Bytes as they are."""

    ready: bool = field(default=True, init=False)
    _out: bytearray = field(factory=bytearray, init=False)

    def receive(self, data: bytes) -> bytes:
        """As it came."""
        return data

    def send(self, data: bytes) -> None:
        """Goes out as it is."""
        self._out += data

    def outgoing(self) -> bytes:
        """All of it."""
        data = bytes(self._out)
        self._out.clear()
        return data

    def names(self) -> frozenset[str] | None:
        """Nobody vouches for anybody."""
        return None


@define(eq=False)
class TlsStream:
    """TLS over memory: the handshake goes on by itself as bytes come and go."""

    context: ssl.SSLContext
    accepted: bool
    host: str | None = None
    """The host that was dialled, whose certificate it must be."""
    ready: bool = field(default=False, init=False)
    ended: bool = field(default=False, init=False)
    """Nothing more can come; what is still sent is thrown away if TLS broke."""
    _incoming: ssl.MemoryBIO = field(factory=ssl.MemoryBIO, init=False)
    _outgoing: ssl.MemoryBIO = field(factory=ssl.MemoryBIO, init=False)
    _tls: ssl.SSLObject = field(init=False)
    _waiting: bytearray = field(factory=bytearray, init=False)
    _first: bool = field(default=True, init=False)

    def __attrs_post_init__(self) -> None:
        self._tls = self.context.wrap_bio(
            self._incoming, self._outgoing, self.accepted, self.host if not self.accepted else None
        )
        if not self.accepted:
            self._shake_hands()

    def receive(self, data: bytes) -> bytes:
        """Decrypt. Raises StreamBroken."""
        if self._first and data:
            self._first = False
            if data[0] != TLS_RECORD and (self.accepted or data[0] != TLS_ALERT):
                raise StreamBroken("it does not speak TLS, and this replica speaks nothing else")
        self._incoming.write(data)
        if not self.ready:
            self._shake_hands()
        return self._read() if self.ready else b""

    def send(self, data: bytes) -> None:
        """Encrypt, once that is possible."""
        if not self.ready:
            self._waiting += data
            return
        try:
            self._tls.write(data)
        except ssl.SSLError:
            self.ended = True  # It had broken before; who reads is told why.

    def outgoing(self) -> bytes:
        """Ciphertext for the socket."""
        return self._outgoing.read()

    def names(self) -> frozenset[str] | None:
        """The hosts of the other side's certificate, numeric ones in their usual form."""
        if not self.ready:
            return None
        found: set[str] = set()
        certificate = self._tls.getpeercert()
        for kind, name in (certificate or {}).get("subjectAltName", ()):  # pyright: ignore[reportUnknownVariableType]
            text = str(name)
            found.add(str(ipaddress.ip_address(text)) if kind == "IP Address" else text)
        return frozenset(found)

    def end(self) -> None:
        """Say that nothing follows."""
        if self.ready:
            try:
                self._tls.unwrap()
            except ssl.SSLError:
                pass

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as error:
            raise StreamBroken(_clause(error)) from error
        self.ready = True
        if self._waiting:
            self._tls.write(self._waiting)
            self._waiting.clear()

    def _read(self) -> bytes:
        parts: list[bytes] = []
        try:
            while part := self._tls.read(READ_BYTES):
                parts.append(part)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as error:
            self.ended = True
            raise StreamBroken(_clause(error)) from error
        return b"".join(parts)


def _clause(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"it showed a certificate that is not accepted: {error.verify_message}"
    reason = (error.reason or "unknown").lower().replace("_", " ")
    if "alert" in reason:
        return f"it did not accept this replica's certificate or TLS ({reason})"
    if "peer did not return a certificate" in reason:
        return "it showed no certificate"
    return f"TLS with it failed ({reason})"
