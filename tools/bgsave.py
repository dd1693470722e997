"""Redis's BGSAVE of a set of accounts, measured on a server of its own that ends with the call.

The server listens on a Unix socket in a directory of its own, and nowhere else. What is compared:
how long BGSAVE takes until the dump is complete, how large the dump is, and how long a new server
takes to load it, as it says itself.
"""

import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Self

from attrs import define, field, frozen

SERVER = "redis-server"
START_S_MAX = 60
SAVE_S_MAX = 600
POLL_S = 0.002
BATCH = 10_000


class RedisAbsent(Exception):
    """There is no redis-server on this machine."""


@frozen
class Dump:
    """What BGSAVE did."""

    version: str
    save_s: float
    dump_bytes: int
    load_s: float
    memory_bytes: int


def measure_bgsave(accounts: Iterable[tuple[str, int]], hashed: bool) -> Dump:
    """`hashed`: all accounts in one hash; otherwise a key for each."""
    program = shutil.which(SERVER)
    if program is None:
        raise RedisAbsent(f"{SERVER} is not installed; install it to compare with BGSAVE")
    with tempfile.TemporaryDirectory(prefix="leftfold-bench-") as name:
        place = Path(name)
        with Server(program, place) as server:
            server.fill(accounts, hashed)
            memory = int(server.info("memory", "used_memory"))
            version = server.info("server", "redis_version")
            started_s = time.perf_counter()
            server.ask(b"BGSAVE")
            deadline_s = started_s + SAVE_S_MAX
            while server.info("persistence", "rdb_bgsave_in_progress") != "0":
                if time.perf_counter() > deadline_s:
                    raise TimeoutError("BGSAVE does not end")
                time.sleep(POLL_S)
            save_s = time.perf_counter() - started_s
            assert server.info("persistence", "rdb_last_bgsave_status") == "ok"
        with Server(program, place) as server:
            loaded = re.search(r"DB loaded from disk: ([0-9.]+) seconds", server.log())
            assert loaded is not None, server.log()
        size = (place / "dump.rdb").stat().st_size
        return Dump(version, save_s, size, float(loaded[1]), memory)


@define(eq=False)
class Server:
    """A server, from `with` to its end."""

    program: str
    place: Path
    _process: subprocess.Popen[bytes] = field(init=False)
    _socket: socket.socket = field(init=False)
    _received: bytes = field(default=b"", init=False)

    def __enter__(self) -> Self:
        path = self.place / "socket"
        options = {
            "--port": "0",
            "--unixsocket": str(path),
            "--dir": str(self.place),
            "--save": "",
            "--logfile": str(self.place / "log"),
        }
        (self.place / "log").unlink(missing_ok=True)
        arguments = [self.program, *(word for option in options.items() for word in option)]
        self._process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
        deadline_s = time.monotonic() + START_S_MAX
        self._socket = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self._socket.connect(str(path))
                break
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline_s:
                    raise
                time.sleep(POLL_S)
        while self.ask(b"PING").startswith(b"-LOADING"):
            time.sleep(POLL_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait()

    def fill(self, accounts: Iterable[tuple[str, int]], hashed: bool) -> None:
        """Store the accounts."""
        head = (b"HSET", b"ledger") if hashed else (b"SET",)
        rest = iter(accounts)
        while batch := list(islice(rest, BATCH)):
            words = ((*head, name.encode(), b"%d" % cents) for name, cents in batch)
            self._socket.sendall(b"".join(map(command, words)))
            for _ in batch:
                answer = self._line()
                assert not answer.startswith(b"-"), answer

    def info(self, section: str, name: str) -> str:
        """One value of INFO."""
        lines = self.ask(b"INFO", section.encode()).decode().splitlines()
        return next(line.partition(":")[2] for line in lines if line.startswith(f"{name}:"))

    def ask(self, *words: bytes) -> bytes:
        """The answer to a command: a line, or a text."""
        self._socket.sendall(command(words))
        line = self._line()
        if not line.startswith(b"$"):
            return line
        length = int(line[1:])
        while len(self._received) < length + 2:
            self._receive()
        text, self._received = self._received[:length], self._received[length + 2 :]
        return text

    def log(self) -> str:
        """What the server has written about itself."""
        return (self.place / "log").read_text()

    def _line(self) -> bytes:
        while (end := self._received.find(b"\r\n")) < 0:
            self._receive()
        line, self._received = self._received[:end], self._received[end + 2 :]
        return line

    def _receive(self) -> None:
        data = self._socket.recv(1 << 20)
        if not data:
            raise ConnectionError("the server has hung up")
        self._received += data


def command(words: Iterable[bytes]) -> bytes:
    """A command as Redis reads it."""
    parts = list(words)
    body = b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
    return b"*%d\r\n" % len(parts) + body
