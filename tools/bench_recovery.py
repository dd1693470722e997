"""How long clients wait when a process of the replica is killed: from kill -9 to the first answer, with a long log.

    python -m leftfold.tools.bench_recovery [--commands N]

One replica of the ledger is given N commands (a million by default). Then each of the five processes is killed in
turn, and a client asks until it is answered. When the supervisor is the victim, another one is started at once, as
a service manager would. There is no threshold here: the figures are for people to judge. With LEFTFOLD_FIGURES set, they
are written to recovery.json in that directory too.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..actors.layout import Status
from ..actors.ledger import Account, Deposit
from ..actors.ledger import app as ledger
from ..runtime import frames
from ..runtime.supervisor import read_status
from ..runtime.topology import PROCESSES
from .child import Child

APP = "leftfold.actors.ledger:app"
WINDOW = 2048
ACCOUNTS = 1000
RECEIVE_BYTES = 1 << 20
PATIENCE_S = 0.002
VICTIMS = ("supervisor", *PROCESSES)


@contextlib.contextmanager
def connection(port: int) -> Generator[tuple[socket.socket, frames.Decoder]]:
    """A connection that has said HELLO; WELCOME is left to be received."""
    with socket.create_connection(("127.0.0.1", port)) as opened:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.sendall(frames.hello())
        yield opened, frames.Decoder()


def replies_on(opened: socket.socket, decoder: frames.Decoder) -> list[frames.Reply]:
    """Wait for bytes, and return the replies that are whole. Raises ConnectionError at the end."""
    data = opened.recv(RECEIVE_BYTES)
    if not data:
        raise ConnectionError("the gateway has hung up")
    return [frame for frame in decoder.receive(data) if isinstance(frame, frames.Reply)]


def deposit(session: bytes, number: int, unanswered: int) -> bytes:
    """A deposit of one cent into one of the accounts."""
    name = f"account {number % ACCOUNTS}"
    message_id, body = ledger.encode(Deposit(name, 1))
    key = ledger.encode_key(Account, name)
    return frames.command(message_id, session, number, unanswered, key, body)


def fill(port: int, session: bytes, count: int) -> None:
    """Have this many commands applied."""
    answered = sent = 0
    with connection(port) as (opened, decoder):
        opened.sendall(frames.open_session(session))
        while answered < count:
            burst = range(sent + 1, min(count, answered + WINDOW) + 1)
            if burst:
                opened.sendall(b"".join(deposit(session, n, n - answered) for n in burst))
                sent = burst[-1]
            for reply in replies_on(opened, decoder):
                assert reply.status == Status.OK, frames.failure_text(reply.body)
                answered += reply.request > 0


def first_answer(port: int, session: bytes, number: int) -> float:
    """Ask this command until it is answered; when that was (monotonic)."""
    while True:
        try:
            with connection(port) as (opened, decoder):
                opened.sendall(deposit(session, number, 1))
                while True:
                    for reply in replies_on(opened, decoder):
                        assert reply.status == Status.OK, frames.failure_text(reply.body)
                        return time.monotonic()
        except OSError:
            time.sleep(PATIENCE_S)


def pid_of(directory: Path, victim: str) -> int:
    """Which process to kill: the first answer may come a moment before the supervisor has said who they are."""
    while (status := read_status(directory))["state"] != "ready":
        time.sleep(PATIENCE_S)
    return status["pids"][victim]


def measure(directory: Path, commands: int) -> dict[str, float]:
    """Seconds from kill to answer, for each victim."""
    seconds: dict[str, float] = {}
    session = os.urandom(16)
    child = Child(APP, directory)
    child.start()
    try:
        fill(child.port, session, commands)
        for number, victim in enumerate(VICTIMS, commands + 1):
            pid = pid_of(directory, victim)
            killed = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            if victim == "supervisor":
                child.kill()
                child = Child(APP, directory)
                child.start()
            seconds[victim] = first_answer(child.port, session, number) - killed
    finally:
        child.kill()
    return seconds


def show(seconds: dict[str, float], commands: int) -> None:
    """Print the table."""
    table = Table("killed", "to the first answer", title=f"{commands:,} commands in the log")
    for victim, duration in seconds.items():
        table.add_row(victim, f"{duration:.2f} s")
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of this file."""
    parser = argparse.ArgumentParser(prog="python -m leftfold.tools.bench_recovery")
    parser.add_argument("--commands", type=int, default=1_000_000, help="how long the log is")
    commands: int = parser.parse_args(arguments).commands
    with tempfile.TemporaryDirectory() as place:
        seconds = measure(Path(place) / "replica", commands)
    show(seconds, commands)
    if figures := os.environ.get("LEFTFOLD_FIGURES"):
        record = {"commands": commands, "seconds": seconds}
        Path(figures, "recovery.json").write_text(json.dumps(record, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
