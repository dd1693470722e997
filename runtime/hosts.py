"""Addresses of replicas, as text: host:port with a numeric host, [host]:port for IPv6.

Numeric, because resolving a name may take seconds, and the gateway's loop never waits.
"""

import ipaddress
import socket

from .errors import OperatorError


def numeric_address(address: str) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Family and (host, port) of host:port. Raises OperatorError: nothing resolves a name in the gateway's loop."""
    host, port = host_of(address), address.rpartition(":")[2]
    try:
        version = ipaddress.ip_address(host).version
        if not port.isdecimal() or not 0 <= int(port) <= 65535:
            raise ValueError(port)
    except ValueError as error:
        raise OperatorError(
            f"{address!r} is no address of a replica: write a numeric host and a port, as in 127.0.0.2:7800."
        ) from error
    return (socket.AF_INET6 if version == 6 else socket.AF_INET), (host, int(port))


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach it; a name other than localhost may mean anything."""
    host = host_of(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def host_of(address: str) -> str:
    """The host of host, host:port or [host]:port."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address
