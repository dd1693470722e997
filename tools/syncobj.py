"""Three processes of PySyncObj on this box, to be measured beside a cluster: a ledger in a dict, transfers as replicated calls.

The leader's process is its own client, which spares PySyncObj the way of a command from a client: each answer asks for the next command in
the callback. With a journal or without, PySyncObj syncs no disk. Run as a module with the place of a node as JSON, this file is one
node, which prints its figures as one JSON line if it is the one that leads.
"""

import contextlib
import importlib
import json
import os
import selectors
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from attrs import define, field

from ..runtime.errors import OperatorError
from ..shm import die_with_parent
from .cluster import free_ports

NODES = 3
READY_S = 60.0
RUN_S = 600.0
TICK_S = 0.05
ACCOUNTS = 1000
OPENING_CENTS = 10**9


def is_installed() -> bool:
    """Whether there is anything to measure."""
    return find_spec("pysyncobj") is not None


def measure(
    directory: Path, *, commands: int, window: int, batched: bool, journal: bool
) -> list[int]:
    """Have the leader apply so many transfers with up to `window` in flight. Nanoseconds: each one's, then that of all."""
    hosts = [f"127.0.0.{number + 2}" for number in range(NODES)]
    addresses = [f"{host}:{free_ports(host, 1)[0]}" for host in hosts]
    directory.mkdir(parents=True)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(NODES):
            place = {
                "parent": os.getpid(),
                "addresses": [*addresses[number:], *addresses[:number]],
                "journal": str(directory / f"journal-{number}") if journal else None,
                "batched": batched,
                "commands": commands,
                "window": window,
            }
            with (directory / f"output-{number}.txt").open("wb") as output:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-P", "-m", "leftfold.tools.syncobj", json.dumps(place)],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE,
                        stderr=output,
                        process_group=0,
                    )
                )
        return _first_line(processes)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _first_line(processes: list[subprocess.Popen[bytes]]) -> list[int]:
    with selectors.DefaultSelector() as selector:
        for process in processes:
            assert process.stdout is not None
            selector.register(process.stdout, selectors.EVENT_READ, process)
        ready = selector.select(READY_S + RUN_S)
        if not ready:
            raise OperatorError("PySyncObj came to no end.")
        line: bytes = ready[0][0].data.stdout.readline()
    if not line:
        raise OperatorError("A node of PySyncObj ended before it had measured anything.")
    found: list[int] = json.loads(line)
    return found


@define(eq=False)
class Asking:
    """The client inside of the leader."""

    node: Any
    commands: int
    sent: int = 0
    took_ns: list[int] = field(factory=list[int])
    failure: str = ""

    def ask(self) -> None:
        """Send one more, if there is one."""
        if self.sent < self.commands and not self.failure:
            source = self.sent * 7 % ACCOUNTS
            self.sent += 1
            began_ns = time.perf_counter_ns()

            def answered(result: Any, error: Any) -> None:
                if error or not result:
                    self.failure = f"PySyncObj refused a transfer: {error}."
                self.took_ns.append(time.perf_counter_ns() - began_ns)
                self.ask()

            self.node.transfer(source, (source + 1) % ACCOUNTS, 1, callback=answered)


def _node(place: dict[str, Any]) -> Any:
    pysyncobj: Any = importlib.import_module("pysyncobj")

    class SyncLedger(pysyncobj.SyncObj):
        def __init__(self, own: str, others: list[str], conf: Any) -> None:
            super().__init__(own, others, conf)  # pyright: ignore[reportUnknownMemberType]
            self.balances = [OPENING_CENTS] * ACCOUNTS

        @pysyncobj.replicated
        def transfer(self, source: int, target: int, cents: int) -> tuple[int, int] | None:
            balances = self.balances
            if balances[source] < cents:
                return None
            balances[source] -= cents
            balances[target] += cents
            return balances[source], balances[target]

    conf = pysyncobj.SyncObjConf(
        autoTick=False, appendEntriesUseBatch=place["batched"], journalFile=place["journal"]
    )
    own, *others = place["addresses"]
    return SyncLedger(own, others, conf)


def main() -> None:
    """One node, until it is killed."""
    place: dict[str, Any] = json.loads(sys.argv[1])
    die_with_parent(place["parent"])
    node = _node(place)

    def leads() -> bool:
        linked = all(node.isNodeConnected(other) for other in node.otherNodes)
        return bool(node.isReady() and linked and node._isLeader())

    while not leads():
        node.doTick(TICK_S)
    asking = Asking(node, place["commands"])
    began_ns = time.perf_counter_ns()
    for _ in range(place["window"]):
        asking.ask()
    while len(asking.took_ns) < place["commands"] and not asking.failure:
        node.doTick(TICK_S)
    elapsed_ns = time.perf_counter_ns() - began_ns
    if asking.failure:
        raise OperatorError(asking.failure)
    sys.stdout.write(json.dumps([*asking.took_ns, elapsed_ns]) + "\n")
    sys.stdout.flush()
    while True:
        node.doTick(TICK_S)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
