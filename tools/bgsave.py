"""Redis's BGSAVE of a set of accounts, measured on a server of its own that ends with the call.

The server listens on a Unix socket in a directory of its own, and nowhere else. What is compared:
how long BGSAVE takes until the dump is complete, how large the dump is, and how long a new server
takes to load it, as it says itself.
"""

import re
import shutil
import tempfile
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from attrs import frozen

from .redis_server import POLL_S, Server, command

SERVER = "redis-server"
SAVE_S_MAX = 600
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
            _fill(server, accounts, hashed)
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


def _fill(server: Server, accounts: Iterable[tuple[str, int]], hashed: bool) -> None:
    head = (b"HSET", b"ledger") if hashed else (b"SET",)
    rest = iter(accounts)
    while batch := list(islice(rest, BATCH)):
        words = ((*head, name.encode(), b"%d" % cents) for name, cents in batch)
        server.send(b"".join(map(command, words)))
        for _ in batch:
            answer = server.line()
            assert not answer.startswith(b"-"), answer
