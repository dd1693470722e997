"""Three etcd nodes on this box, to be measured beside a cluster: Debian's packages, their defaults, puts over etcd's JSON gateway.

Each put is durable on two of three disks before it is answered. The gateway, HTTP/1.1 with keep-alive, turns each request into one call of gRPC
inside the node; a connection has one put in flight, since HTTP answers in order and etcd's clients do not pipeline either. All sockets
are on loopback, everything is in the given directory, and the nodes end with the process that started them.
"""

import base64
import http.client
import json
import select
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from attrs import define, field

from ..runtime.errors import OperatorError
from .child import ending_with_us
from .cluster import free_ports

NODES = 3
READY_S = 60.0
POLL_S = 0.05
STALLED_S = 30.0
KEYS = 1000
PUT = "/v3/kv/put"
HEADERS = {"Content-Type": "application/json"}


def program() -> str | None:
    """Where etcd is, if it is installed."""
    return shutil.which("etcd")


def body(number: int) -> bytes:
    """A put of what a ledger would hold of an account."""
    key = base64.b64encode(b"account%06d" % (number % KEYS)).decode()
    value = base64.b64encode(b"%016d" % number).decode()
    return json.dumps({"key": key, "value": value}).encode()


@define(eq=False)
class Etcd:
    """Three nodes; `start` waits until they serve."""

    directory: Path
    processes: list[subprocess.Popen[bytes]] = field(
        factory=list[subprocess.Popen[bytes]], init=False
    )
    places: list[tuple[str, int]] = field(factory=list[tuple[str, int]], init=False)

    def start(self) -> None:
        """Start all and wait for a leader. Raises OperatorError."""
        etcd = program()
        assert etcd is not None
        hosts = [f"127.0.0.{number + 2}" for number in range(NODES)]
        ports = [free_ports(host, 2) for host in hosts]
        self.places = [(host, client) for host, (client, _) in zip(hosts, ports, strict=True)]
        peers = [f"http://{host}:{peer}" for host, (_, peer) in zip(hosts, ports, strict=True)]
        members = ",".join(f"n{number}={peer}" for number, peer in enumerate(peers))
        self.directory.mkdir(parents=True)
        for number, (host, port) in enumerate(self.places):
            client = f"http://{host}:{port}"
            arguments = [
                *("--name", f"n{number}", "--data-dir", str(self.directory / f"n{number}")),
                *("--listen-client-urls", client, "--advertise-client-urls", client),
                *("--listen-peer-urls", peers[number]),
                *("--initial-advertise-peer-urls", peers[number]),
                *("--initial-cluster", members, "--initial-cluster-state", "new"),
                *("--log-level", "error"),
            ]
            with (self.directory / f"n{number}.txt").open("wb") as output:
                self.processes.append(
                    subprocess.Popen(
                        ending_with_us([etcd, *arguments]),
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        process_group=0,
                    )
                )
        self.leader()

    def leader(self) -> tuple[str, int]:
        """Where the leader takes clients; waits for one."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            for host, port in self.places:
                status = _ask(host, port, "/v3/maintenance/status", b"{}")
                if status is not None and status.get("leader") == status["header"]["member_id"]:
                    return host, port
            time.sleep(POLL_S)
        raise OperatorError(f"etcd has no leader within {READY_S:.0f} s: see {self.directory}.")

    def latencies_ns(self, commands: int, warm_up: int) -> list[int]:
        """One put at a time, to the leader: how long each took."""
        took_ns: list[int] = []
        link = http.client.HTTPConnection(*self.leader(), timeout=STALLED_S)
        link.connect()
        assert isinstance(link.sock, socket.socket)
        link.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for number in range(commands + warm_up):
                data = body(number)
                began_ns = time.perf_counter_ns()
                link.request("POST", PUT, data, HEADERS)
                answer = link.getresponse()
                read = answer.read()
                took_ns.append(time.perf_counter_ns() - began_ns)
                if answer.status != http.client.OK:
                    raise OperatorError(f"etcd refused a put: {read.decode()}.")
        finally:
            link.close()
        return took_ns[warm_up:]

    def throughput(self, commands: int, clients: int) -> float:
        """Puts per second of so many clients with one put in flight each, all at the leader."""
        place = self.leader()
        head = f"POST {PUT} HTTP/1.1\r\nHost: etcd\r\nContent-Type: application/json\r\nContent-Length: "
        requests: list[bytes] = []
        for number in range(commands):
            data = body(number)
            requests.append(f"{head}{len(data)}\r\n\r\n".encode() + data)
        links: dict[int, socket.socket] = {}
        buffers: dict[int, bytes] = {}
        poller = select.epoll()
        try:
            for _ in range(clients):
                link = socket.create_connection(place, STALLED_S)
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                links[link.fileno()], buffers[link.fileno()] = link, b""
                poller.register(link.fileno(), select.EPOLLIN)
            began_s = time.perf_counter()
            waiting = iter(requests)
            for link, request in zip(links.values(), waiting, strict=False):
                link.sendall(request)
            answered = 0
            while answered < commands:
                ready = poller.poll(STALLED_S)
                if not ready:
                    raise OperatorError(f"etcd answered nothing for {STALLED_S:.0f} s.")
                for fd, _ in ready:
                    data = links[fd].recv(65536)
                    if not data:
                        raise OperatorError("etcd closed a connection under load.")
                    buffers[fd] += data
                    if _whole(buffers[fd]):
                        buffers[fd] = b""
                        answered += 1
                        request = next(waiting, b"")
                        if request:
                            links[fd].sendall(request)
            return commands / (time.perf_counter() - began_s)
        finally:
            poller.close()
            for link in links.values():
                link.close()

    def stop(self) -> None:
        """End all three."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()


def _whole(answer: bytes) -> bool:
    """Whether this is one whole answer. Raises OperatorError when it is not the one that was hoped for."""
    head, found, rest = answer.partition(b"\r\n\r\n")
    if not found:
        return False
    if not head.startswith(b"HTTP/1.1 200"):
        raise OperatorError(f"etcd refused a put: {answer!r}.")
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    return len(rest) == int(length)


def _ask(host: str, port: int, path: str, data: bytes) -> "dict[str, Any] | None":
    link = http.client.HTTPConnection(host, port, timeout=1.0)
    try:
        link.request("POST", path, data, HEADERS)
        answer = link.getresponse()
        read = answer.read()
        if answer.status != http.client.OK:
            return None
        found: dict[str, Any] = json.loads(read)
        return found
    except (OSError, http.client.HTTPException):
        return None
    finally:
        link.close()
