"""A client of RESP2 that hides nothing, for tests: what goes out and what comes back are bytes. And a real Redis."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from leftfold.tools.cluster import free_ports

DEADLINE_S = 60.0


def encoded(*words: bytes) -> bytes:
    """A request."""
    parts = [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
    return b"*%d\r\n%b" % (len(words), b"".join(parts))


def replies_in(data: bytes) -> list[bytes]:
    """The whole replies that these bytes begin with."""
    found: list[bytes] = []
    at = 0
    while (end := _end(data, at)) is not None:
        found.append(data[at:end])
        at = end
    return found


def _end(data: bytes, at: int) -> int | None:
    """Where the reply that begins here ends; None if it is not whole."""
    line = data.find(b"\r\n", at)
    if line < 0:
        return None
    kind, number = data[at : at + 1], data[at + 1 : line]
    end = line + 2
    if kind == b"$" and int(number) >= 0:
        end += int(number) + 2
        return end if end <= len(data) else None
    if kind == b"*":
        for _ in range(int(number)):
            found = _end(data, end)
            if found is None:
                return None
            end = found
        return end
    assert kind in b"+-:$", data[at : at + 40]
    return end


class RespClient:
    """One connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.settimeout(DEADLINE_S)
        self._data = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """These bytes, as they are."""
        self.socket.sendall(data)

    def replies(self, count: int) -> list[bytes]:
        """The next so many replies."""
        while len(found := replies_in(self._data)) < count:
            more = self.socket.recv(1 << 20)
            if not more:
                raise ConnectionError(f"{count} replies were wanted, {self._data!r} came")
            self._data += more
        found = found[:count]
        self._data = self._data[sum(map(len, found)) :]
        return found

    def ask(self, *words: bytes) -> bytes:
        """The reply to one command."""
        self.send(encoded(*words))
        return self.replies(1)[0]

    def rest(self) -> bytes:
        """Everything until the other side closes."""
        data, self._data = self._data, b""
        try:
            while more := self.socket.recv(1 << 20):
                data += more
        except ConnectionResetError:
            pass
        return data


def started_redis(directory: Path) -> Iterator[int]:
    """A real Redis, on the port that is given; it ends with the iterator."""
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("redis-server is not installed: apt install redis-server")
    for _ in range(20):
        [port] = free_ports("127.0.0.1", 1)
        process = subprocess.Popen(
            [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", directory],
            stdout=subprocess.DEVNULL,
        )
        if _answers(process, port):
            try:
                yield port
            finally:
                process.kill()
                process.wait()
            return
        process.wait()
    raise AssertionError("no Redis came up")


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether it serves; False if it ended, because somebody else took the port."""
    deadline = time.monotonic() + DEADLINE_S
    while process.poll() is None:
        assert time.monotonic() < deadline
        try:
            with RespClient(port) as client:
                return client.ask(b"PING") == b"+PONG\r\n"
        except OSError:
            time.sleep(0.01)
    return False
