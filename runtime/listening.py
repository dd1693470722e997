"""The sockets that a replica listens on: opened by the gateway, tried by the supervisor before anything is made or started.

Guarantees: what cannot be listened on is one sentence with the option that names it; a trial does not listen, so that no
client ever connects to it. Between a trial and the opening another program may still be quicker: then the gateway says so.
"""

import errno
import os
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .config import ReplicaConfig
from .errors import OperatorError
from .hosts import is_loopback, numeric_address

if TYPE_CHECKING:
    from .tls import TlsFiles

LISTEN_BACKLOG = 1024


def listen(host: str, port: int, option: str = "--port") -> socket.socket:
    """Open a listening socket; port 0 picks a free one. Raises OperatorError with a sentence."""
    listener = _bound(host, port, option)
    try:
        listener.listen(LISTEN_BACKLOG)
    except OSError as error:
        listener.close()
        raise OperatorError(_why_not(host, port, option, error)) from error
    listener.setblocking(False)
    return listener


def require_address(host: str, port: int, option: str = "--port") -> None:
    """Raise OperatorError unless this address can be listened on."""
    _bound(host, port, option).close()


def require_addresses(config: ReplicaConfig, peers: Iterable[str] = ()) -> None:
    """Raise OperatorError unless the replica can listen where it is told to; `peers` as in require_certificates."""
    wanted = [(config.host, config.port, "--port")]
    if config.resp_port is not None:
        wanted.append((config.resp_host, config.resp_port, "--resp"))
    if config.peer_address:
        _, (host, port) = numeric_address(config.peer_address)
        wanted.append((host, port, "--peer-address"))
    for host, port, option in wanted:
        require_address(host, port, option)
    files = require_certificates(config, peers)
    if files is not None:
        from .tls import client_context

        client_context(files)


def require_certificates(config: ReplicaConfig, peers: Iterable[str]) -> "TlsFiles | None":
    """The files that TLS needs, or None: without. Raises OperatorError where somebody else could read and write.

    `peers` are the addresses of the other replicas.
    """
    exposed = [host for host in (config.host, config.peer_address, *peers) if host]
    if not config.tls_certificate and all(map(is_loopback, exposed)):
        return None
    from .tls import TlsFiles, require_security

    files = None
    if config.tls_certificate:
        files = TlsFiles(config.tls_certificate, config.tls_key, config.tls_authority)
    require_security(exposed, files, insecure=config.insecure)
    return files


def _bound(host: str, port: int, option: str) -> socket.socket:
    if not host:  # It would mean every address of the machine.
        raise OperatorError("An empty host is no address: choose one with --host.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except (socket.gaierror, UnicodeError) as error:
        why = error.strerror if isinstance(error, socket.gaierror) else "no name looks like this"
        raise OperatorError(f"{host!r} is no address of this machine: {why}.") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise OperatorError(_why_not(host, port, option, error)) from error
    return bound


def _why_not(host: str, port: int, option: str, error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"Port {port} on {host} is in use by another program: stop it, or choose another port with {option}."
        case errno.EACCES:
            return f"Port {port} needs privileges: choose one above 1023 with {option}."
        case errno.EADDRNOTAVAIL:
            option = "--host" if option == "--port" else option
            return f"{host} is not an address of this machine: choose another with {option}."
        case _:
            return f"Cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}."
