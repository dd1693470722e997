"""What three replicas on one box do: how fast they agree, beside etcd and PySyncObj, and what clients see when the leader is killed.

    python -m leftfold.tools.bench_cluster [--part latency|throughput|kills|calm|away]... [--runs N] [--kills N] [--calm SECONDS] [--json]

latency      one client, one command in flight, at the leader; puts of etcd and transfers of PySyncObj without batching in the same run
throughput   pipelined transfers; etcd with as many clients (and with many more), PySyncObj batched with its journal
kills        kill -9 of the leader's process group under load: the longest time without an answer that clients saw; it is started again
calm         full load, and nothing fails: the terms before and after
away         a follower that missed commands is started while traffic goes on at half of the maximum: the rate that the traffic keeps

Load, replicas and what is measured beside them share the cores of the machine, and stand on the same disk; the load average is printed.
Systems that are not installed are named. Nothing here is a threshold.
"""

import asyncio
import multiprocessing
import os
import platform
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import define, field, frozen
from rich.console import Console
from rich.table import Table

from ..actors.ledger import Transfer
from ..runtime.client import Client
from ..runtime.errors import OperatorError
from ..runtime.memory import remove_leftovers
from . import etcd, load, syncobj
from .cluster import Layout, Members, figures, leader_of
from .cluster import kill as kill_replica
from .figures import command_line, give
from .paced import Paced

APP = "leftfold.actors.ledger:app"
PARTS = ("latency", "throughput", "kills", "calm", "away")
SESSIONS = 8
MANY_CLIENTS = 64
SYNCOBJ_WINDOW = SESSIONS * load.WINDOW
TASKS = 128
"""Commands in flight while leaders are killed."""
WARM_UP = 200
LEADER_S = 60.0
CAUGHT_UP_S = 600.0
POLL_S = 0.02
BEHIND_S = 0.1
"""A follower that has what the leader had so long ago has caught up."""
SETTLE_S = 1.0
PACED_S = 10
RATE_COMMANDS = 200_000
CALM_COMMANDS = 100_000
SPAWN = multiprocessing.get_context("spawn")


@frozen
class Sizes:
    """How much of each to do."""

    commands: int
    """Pipelined."""
    singles: int
    """One at a time."""
    kills: int
    calm_s: float
    away: int


@define(eq=False)
class Cluster:
    """Three replicas of the ledger, their figures, and who leads."""

    members: Members

    @property
    def layout(self) -> Layout:
        """Where they are."""
        return self.members.layout

    def leader(self) -> int:
        """Who leads; waits for one."""
        deadline = time.monotonic() + LEADER_S
        while not (found := leader_of(self.layout)):
            if time.monotonic() > deadline:
                raise OperatorError(f"No replica leads within {LEADER_S:.0f} s.")
            time.sleep(POLL_S)
        return found

    def address(self) -> tuple[str, int]:
        """Where the leader takes clients."""
        place = self.layout.places[self.leader()]
        return place.host, place.port

    def term(self) -> int:
        """The highest that any replica knows."""
        return max(figures(place).get("term", 0) for place in self.layout.places.values())

    def figure(self, id: int, name: str) -> int:
        """One of a replica."""
        return figures(self.layout.places[id]).get(name, 0)

    def kill(self, id: int) -> None:
        """kill -9 of its process group, at once; returns when all of it is gone."""
        process = self.members.members[id].process
        assert process is not None
        os.killpg(process.pid, signal.SIGKILL)
        self.members.members[id].close()
        kill_replica(self.layout.places[id])

    def catch_up(self, id: int) -> float:
        """Wait until a replica that was started is at most BEHIND_S behind; the seconds it took."""
        began_s = time.monotonic()
        while True:
            goal = self.figure(self.leader(), "commit_index")
            time.sleep(BEHIND_S)
            list(self.members.wait(0))
            if self.members.members[id].ready and self.figure(id, "applied_index") >= goal:
                return time.monotonic() - began_s
            if not self.members.members[id].alive:
                raise OperatorError(f"Replica {id} ended while it caught up.")
            if time.monotonic() - began_s > CAUGHT_UP_S:
                raise OperatorError(f"Replica {id} did not catch up in {CAUGHT_UP_S:.0f} s.")


@contextmanager
def running(directory: Path) -> Generator[Cluster]:
    """A new cluster in this directory, until the block is left."""
    layout = Layout.found(directory / "cluster", APP, 3, 0)
    with (directory / "output.txt").open("ab") as errors:
        members = Members(layout, errors=errors)
        try:
            for id in layout.places:
                members.start(id)
            members.wait_ready()
            yield Cluster(members)
        except OperatorError as error:
            errors.flush()
            said = (directory / "output.txt").read_text(errors="replace")[-2000:]
            raise OperatorError(f"{error} The replicas said:\n{said}") from error
        finally:
            members.kill()
            for place in layout.places.values():
                remove_leftovers(place.directory)


def latency(directory: Path, sizes: Sizes) -> dict[str, Any]:
    """One command in flight."""
    found: dict[str, Any] = {}
    with running(directory) as cluster:
        alone = load.latency(*cluster.address(), commands=sizes.singles, warm_up=WARM_UP)
    found["leftfold"] = {"p50_us": alone["p50_us"], "p99_us": alone["p99_us"]}
    if etcd.program():
        with nodes_of_etcd(directory / "etcd") as nodes:
            found["etcd"] = _percentiles(nodes.latencies_ns(sizes.singles, WARM_UP))
    if syncobj.is_installed():
        *took_ns, _ = syncobj.measure(
            directory / "syncobj",
            commands=sizes.singles + WARM_UP,
            window=1,
            batched=False,
            journal=False,
        )
        found["pysyncobj"] = _percentiles(took_ns[WARM_UP:])
    return found


def throughput(directory: Path, sizes: Sizes) -> dict[str, Any]:
    """As many commands a second as there can be."""
    found: dict[str, Any] = {}
    with running(directory) as cluster:
        rate = load.throughput(*cluster.address(), commands=sizes.commands, sessions=SESSIONS)
        if rate["failures"] or rate["refused"]:
            raise OperatorError(f"Not every transfer was applied: {rate}.")
        found["leftfold"] = rate["per_second"]
    fewer = max(SESSIONS, sizes.commands // 50)
    if etcd.program():
        with nodes_of_etcd(directory / "etcd") as nodes:
            found["etcd"] = nodes.throughput(fewer, SESSIONS)
            found[f"etcd, {MANY_CLIENTS} clients"] = nodes.throughput(fewer, MANY_CLIENTS)
    if syncobj.is_installed():
        *took_ns, all_ns = syncobj.measure(
            directory / "syncobj",
            commands=max(SESSIONS, sizes.commands // 5),
            window=SYNCOBJ_WINDOW,
            batched=True,
            journal=True,
        )
        found["pysyncobj"] = len(took_ns) * 1e9 / all_ns
    return found


@contextmanager
def nodes_of_etcd(directory: Path) -> Generator[etcd.Etcd]:
    """Three nodes that serve, until the block is left."""
    nodes = etcd.Etcd(directory)
    try:
        nodes.start()
        yield nodes
    finally:
        nodes.stop()


@define(eq=False)
class Asking:
    """Many tasks of one client that ask one command after the other, in a thread; when each was answered."""

    addresses: Sequence[tuple[str, int]]
    answers_ns: list[int] = field(factory=list[int], init=False)
    failures: list[str] = field(factory=list[str], init=False)
    thread: threading.Thread = field(init=False)
    stopping: bool = field(default=False, init=False)

    def start(self) -> None:
        """Begin."""
        self.thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self.thread.start()

    def wait_for(self, more: int) -> None:
        """Until so many more were answered."""
        goal = len(self.answers_ns) + more
        deadline = time.monotonic() + LEADER_S
        while len(self.answers_ns) < goal:
            if time.monotonic() > deadline or not self.thread.is_alive():
                raise OperatorError(f"Clients are not answered: {self.failures[-3:]}.")
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End it."""
        self.stopping = True
        self.thread.join()

    def gap_ms(self, since_ns: int) -> float:
        """The longest time without an answer from a moment on; the answer before it counts as well."""
        answers = [*self.answers_ns]
        first = max(0, next((at for at, ns in enumerate(answers) if ns >= since_ns), 0) - 1)
        gaps = (b - a for a, b in zip(answers[first:], answers[first + 1 :], strict=False))
        return max(gaps, default=0) / 1e6

    async def _run(self) -> None:
        (host, port), *others = self.addresses
        async with Client(host, port, tuple(others)) as client:
            await asyncio.gather(*(self._ask(client, number) for number in range(TASKS)))

    async def _ask(self, client: Client, number: int) -> None:
        while not self.stopping:
            source, target = load.account(number), load.account(number + 1)
            try:
                await client.ask(load.LEDGER, Transfer(source, target, 1))
            except Exception as error:  # noqa: BLE001 - every failure is counted and shown
                self.failures.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(POLL_S)
                continue
            self.answers_ns.append(time.monotonic_ns())


def kills(directory: Path, sizes: Sizes) -> dict[str, Any]:
    """The leader dies again and again."""
    gaps: list[float] = []
    with running(directory) as cluster:
        load.prepare(*cluster.address())
        asking = Asking(cluster.layout.addresses)
        asking.start()
        try:
            for _ in range(sizes.kills):
                asking.wait_for(TASKS * 4)
                leader = cluster.leader()
                killed_ns = time.monotonic_ns()
                cluster.kill(leader)
                asking.wait_for(TASKS * 4)
                gaps.append(asking.gap_ms(killed_ns))
                cluster.members.start(leader)
                cluster.catch_up(leader)
                time.sleep(SETTLE_S)
        finally:
            asking.stop()
        term = cluster.term()
    return {
        "gaps_ms": [round(gap, 1) for gap in gaps],
        "median_ms": statistics.median(gaps),
        "worst_ms": max(gaps),
        "answers": len(asking.answers_ns),
        "failures": asking.failures[:10],
        "term": term,
    }


def keep_loading(host: str, port: int, first: bool, until_s: float, counted: Any) -> None:
    """Transfers at full rate, run after run; the process of a load that has a partner while it encodes."""
    if not first:
        time.sleep(SETTLE_S)
    while time.monotonic() < until_s:
        rate = load.throughput(
            host, port, commands=CALM_COMMANDS, sessions=SESSIONS // 2, prepared=True
        )
        if rate["failures"] or rate["refused"]:
            raise OperatorError(f"Not every transfer was applied: {rate}.")
        with counted.get_lock():
            counted.value += CALM_COMMANDS


def calm(directory: Path, sizes: Sizes) -> dict[str, Any]:
    """Nobody stands for election while nothing fails."""
    with running(directory) as cluster:
        host, port = cluster.address()
        load.prepare(host, port)
        before, leader = cluster.term(), cluster.leader()
        counted = SPAWN.Value("q", 0)
        began_s = time.monotonic()
        loads = [
            SPAWN.Process(
                target=keep_loading,
                args=(host, port, first, began_s + sizes.calm_s, counted),
                daemon=True,
            )
            for first in (True, False)
        ]
        for one in loads:
            one.start()
        for one in loads:
            one.join()
        took_s = time.monotonic() - began_s
        after, heir = cluster.term(), leader_of(cluster.layout)
    return {
        "seconds": took_s,
        "transfers_per_s": counted.value / took_s,
        "loads_failed": sum(one.exitcode != 0 for one in loads),
        "term_before": before,
        "term_after": after,
        "elections": after - before,
        "same_leader": leader == heir,
    }


def away(directory: Path, sizes: Sizes) -> dict[str, Any]:
    """A follower misses commands, and comes back under load."""
    with running(directory) as cluster:
        host, port = cluster.address()
        full = load.throughput(host, port, commands=min(RATE_COMMANDS, sizes.away))
        leader = cluster.leader()
        follower = next(id for id in cluster.layout.places if id != leader)
        cluster.kill(follower)
        missed = load.throughput(host, port, commands=sizes.away, prepared=True)
        pace = full["per_second"] / 2
        alone = _paced(host, port, pace)
        before = _rate(alone, threading.Event())
        joining = _paced(host, port, pace)
        caught_up = threading.Event()
        took_s: list[float] = []

        def join() -> None:
            cluster.members.start(follower)
            took_s.append(cluster.catch_up(follower))
            caught_up.set()

        thread = threading.Thread(target=join, daemon=True)
        thread.start()
        during = _rate(joining, caught_up)
        stretches = [during]
        while thread.is_alive():
            stretches.append(_rate(_paced(host, port, pace), caught_up))
        thread.join()
        if not took_s:
            raise OperatorError(f"Replica {follower} did not catch up.")
        after = cluster.leader()
    return {
        "missed": sizes.away,
        "full_per_s": full["per_second"],
        "two_replicas_per_s": missed["per_second"],
        "pace_per_s": round(joining.rhythm.per_second),
        "rate_before_per_s": before,
        "rate_during_per_s": [round(rate) for rate in stretches],
        "kept_percent": 100 * min(stretches) / before,
        "caught_up_s": took_s[0],
        "same_leader": leader == after,
    }


def _paced(host: str, port: int, per_second: float) -> Paced:
    return Paced.connect(host, port, load.ONE_LEDGER, load.ACCOUNTS, per_second, PACED_S)


def _rate(paced: Paced, enough: threading.Event) -> float:
    """Send it; answers per second until it was enough, or until the last one."""
    at: list[tuple[float, int]] = []
    done = threading.Event()

    def look() -> None:
        while not enough.wait(POLL_S) and not done.is_set():
            at.append((time.monotonic(), paced.replies.tally.replies))

    began_s, before = time.monotonic(), paced.replies.tally.replies
    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        paced.run()
    finally:
        done.set()
        looking.join()
        paced.close()
    ended_s, answered = at[-1] if enough.is_set() and at else (time.monotonic(), len(paced.took_ns))
    return (answered - before) / (ended_s - began_s)


def _percentiles(took_ns: list[int]) -> dict[str, float]:
    ordered = sorted(took_ns)
    return {
        "p50_us": ordered[len(ordered) // 2] / 1e3,
        "p99_us": ordered[len(ordered) * 99 // 100] / 1e3,
    }


MEASURE: dict[str, Callable[[Path, Sizes], dict[str, Any]]] = {
    "latency": latency,
    "throughput": throughput,
    "kills": kills,
    "calm": calm,
    "away": away,
}


def run(parts: Sequence[str], runs: int, sizes: Sizes, place: Path | None = None) -> dict[str, Any]:
    """All that was asked for; latency and throughput several times, the others once."""
    absent = [
        name
        for name, present in (("etcd", etcd.program()), ("pysyncobj", syncobj.is_installed()))
        if not present
    ]
    found: dict[str, Any] = {
        "machine": {
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
        "load_before": os.getloadavg(),
        "absent": absent,
    }
    for part in parts:
        measured: list[dict[str, Any]] = []
        for _ in range(runs if part in ("latency", "throughput") else 1):
            with tempfile.TemporaryDirectory(dir=place, prefix="leftfold-bench-") as directory:
                measured.append(MEASURE[part](Path(directory), sizes))
        found[part] = measured
    return found | {"load_after": os.getloadavg()}


def show(found: dict[str, Any]) -> None:
    """For people."""
    loads = (
        " ".join(f"{load:.1f}" for load in found[when]) for when in ("load_before", "load_after")
    )
    table = Table(
        "part", "figure", "median", "runs", title=f"{found['machine']}, load {' → '.join(loads)}"
    )
    for part in PARTS:
        for name in found[part][0] if part in found else ():
            values = [one[name] for one in found[part]]
            for label, numbers in _columns(name, values):
                table.add_row(part, label, _middle(numbers), " · ".join(map(_say, numbers)))
    console = Console()
    console.print(table)
    for name in found["absent"]:
        console.print(f"Not installed, not measured: {name}.")


def _columns(name: str, values: list[Any]) -> list[tuple[str, list[Any]]]:
    if isinstance(values[0], dict):
        rows: list[dict[str, float]] = values
        return [(f"{name} {key}", [one[key] for one in rows]) for key in rows[0]]
    if isinstance(values[0], list):
        return [(name, [number for one in values for number in one])]
    return [(name, values)]


def _middle(numbers: list[Any]) -> str:
    plain = all(isinstance(one, int | float) for one in numbers)
    return _say(statistics.median(numbers)) if plain and numbers else ""


def _say(value: Any) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else str(value)


def main() -> None:
    """Measure and print."""
    parser = command_line(__doc__)
    parser.add_argument("--part", action="append", choices=PARTS, help="only this; may be repeated")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--commands", type=int, default=500_000, help="pipelined, each run")
    parser.add_argument("--singles", type=int, default=5_000, help="one at a time, each run")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--calm", type=float, default=600.0, metavar="SECONDS")
    parser.add_argument("--away", type=int, default=1_000_000, help="commands that are missed")
    parser.add_argument("--dir", type=Path, help="where to put all directories: on which disk")
    given = parser.parse_args()
    sizes = Sizes(given.commands, given.singles, given.kills, given.calm, given.away)
    give(run(given.part or PARTS, given.runs, sizes, given.dir), show, as_json=given.json)


if __name__ == "__main__":
    main()
