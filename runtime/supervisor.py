"""The supervisor: creates the shared memory, starts the four processes, watches them, starts again.

One for all: when one of the four ends unasked, the others are ended too, the supervisor waits until the kernel
says that they are gone, and starts all four again from disk, with new names and a new generation. Shared memory
is scratch (I11). It has no name any more once all four are attached, so nothing can be left behind.

A process that reports a sentence (a failed fsync, a full disk, a port in use) ends the replica, without a new start.
A command that ends the logic process three times parks the replica. Everything the supervisor knows is in
`replica.json`, replaced atomically.

To stop is to drain: what was accepted is answered, then logic's state is written as a snapshot, so that the next start
replays nothing, then the journal marks its end. A second signal, or too long a time, leaves out the rest: the log has it.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from attrs import define, field

from ..actors.limits import Limits
from ..shm import Counters
from . import crashes, metrics, recording
from .config import ReplicaConfig
from .errors import OperatorError
from .identity import IDENTITY_NAME, Identity, lock_directory, new_identity, open_identity
from .listening import require_addresses
from .memory import Memory, remove_leftovers
from .pace import Pace
from .placement import Placement
from .position import Position
from .topology import GATEWAY, JOURNAL, LOGIC, PROCESSES

Observer = Callable[[str, dict[str, Any]], None]
"""Told of every step: (event, facts). Events: starting, restoring, replaying, ready, role, snapshot, warning, notice, quarantined,
died, overrun, draining, snapshotting, parked, stopped."""

WATCH_S = 0.1
KILL_WAIT_S = 10.0
RESTARTS_IN_ROW_MAX = 8
INHERITED = ("PATH", "PYTHONPATH", "HOME", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
"""What the processes get of the caller's environment, beside what says whether they record."""
EXIT_STOPPED, EXIT_PARKED = 0, 3


@define
class Child:
    """One of the four processes, as the supervisor sees it."""

    name: str
    process: subprocess.Popen[bytes]
    pidfd: int
    reports: int
    buffer: bytes = b""
    attached: bool = False

    def close(self) -> None:
        """Close the descriptors; the process must be gone."""
        os.close(self.pidfd)
        os.close(self.reports)


@define
class Supervisor:
    """Runs one replica in the foreground. `run()` returns the exit code."""

    config: ReplicaConfig
    observer: Observer = field(default=lambda event, facts: None)
    generation: int = field(default=0, init=False)
    children: dict[str, Child] = field(factory=dict[str, Child], init=False)
    selector: selectors.BaseSelector = field(factory=selectors.DefaultSelector, init=False)
    stopping: bool = field(default=False, init=False)
    hurry: bool = field(default=False, init=False)
    address: tuple[str, int] | None = field(default=None, init=False)
    state: str = field(default="starting", init=False)
    failure: str | None = field(default=None, init=False)
    listening: bool = field(default=False, init=False)
    """The gateway of this generation is."""
    recovered: dict[str, Any] | None = field(default=None, init=False)
    """What consensus says of being ready, until that is told."""
    served: bool = field(default=False, init=False)
    settled: bool = field(default=False, init=False)
    """Drained, and no snapshot is on its way: the journal may close."""
    resp_port: int | None = field(default=None, init=False)
    snapshotting: int = field(default=0, init=False)
    quarantined: dict[str, Any] | None = field(default=None, init=False)
    """What was told last of the actors that take no commands any more (quarantines.py)."""
    facts: dict[str, Any] = field(factory=dict[str, Any], init=False)
    """What was published with the state."""
    pace: Pace = field(factory=Pace, init=False)
    lock: int = field(default=-1, init=False)
    position: Position = field(init=False)
    memory: Memory | None = field(default=None, init=False)
    placement: Placement = field(init=False)
    wake: int = field(default=-1, init=False)

    def run(self) -> int:
        """Run until stopped by a signal or by a failure. Raises OperatorError for what a person must mend."""
        directory = self.config.directory
        if not (directory / IDENTITY_NAME).exists():
            require_addresses(self.config)  # Before anything is made.
        fresh = new_identity(self.config.app, limits=attrs.asdict(Limits()))
        identity = open_identity(directory, self.config.app, fresh)
        if identity.app != self.config.app:
            raise OperatorError(
                f"{directory} holds a replica of {identity.app}, not of {self.config.app}: "
                "name its own app, or another directory with --dir."
            )
        self.placement = Placement.of(self.config.placement, identity.replica_id)
        self.config = attrs.evolve(self.config, placement=self.placement.profile)
        self.lock = lock_directory(directory)
        try:
            require_addresses(self.config, identity.founders.values())
            if self.config.retry_parked or self.config.skip:
                crashes.forget(directory)
            crashes.refuse_if_parked(directory)
            self._prepare(directory)
            self.generation = self._last_generation()
            with self._signals():
                return self._run_generations(identity)
        finally:
            os.close(self.lock)

    def _prepare(self, directory: Path) -> None:
        """What the processes map besides shared memory. Raises OperatorError."""
        try:
            self.position = Position.create(directory / "position")
            remove_leftovers(directory)
            Counters.create(directory / "counters", metrics.schema())
        except OSError as error:
            raise OperatorError(
                f"Cannot begin in {directory}: {error.strerror}. Everything acknowledged is safe. "
                "There must be some room there, and this user must be able to write; then start the "
                "replica again."
            ) from error

    def _run_generations(self, identity: Identity) -> int:
        restarts = 0
        while True:
            self.generation += 1
            self.served = self.settled = self.listening = False
            self.recovered = None
            try:
                self._start(identity)
                died = self._watch()
            finally:
                self.placement.end()
                self._end_all()
            # First: a disk that fails while the drained journal closes is no good end.
            if self.failure is not None:
                self._publish("failed", error=self.failure)
                raise OperatorError(self.failure)
            if died is None or self.stopping:
                self._publish("stopped")
                self.observer("stopped", {})
                return EXIT_STOPPED
            parked = self._count_crash(died)
            if parked is not None:
                self._publish("parked", error=parked)
                self.observer("parked", {"error": parked})
                return EXIT_PARKED
            restarts = 0 if self.served else restarts + 1
            if restarts >= RESTARTS_IN_ROW_MAX:
                sentence = f"{died} ended {restarts} times before the replica was ready; see its output above."
                self._publish("failed", error=sentence)
                raise OperatorError(sentence)

    # Starting

    def _start(self, identity: Identity) -> None:
        self._publish("starting")
        self.observer("starting", {"generation": self.generation})
        self.position.clear()
        self.memory = Memory.create(self.config, self.generation)
        self.pace = Pace()
        logic, journal = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with logic, journal:
            ends = {LOGIC: logic.fileno(), JOURNAL: journal.fileno()}
            for name in PROCESSES:
                self.children[name] = self._spawn(name, identity, ends.get(name, -1))

    def _spawn(self, name: str, identity: Identity, snapshot_socket: int) -> Child:
        assert self.memory is not None
        reading, writing = os.pipe()
        os.set_inheritable(writing, True)
        handed = {
            "config": json.loads(self.config.to_json()),
            "generation": self.generation,
            "reports": writing,
            "eventfd": self.memory.eventfd,
            "port": self.address[1] if self.address else self.config.port,
            "resp_port": self.config.resp_port if self.resp_port is None else self.resp_port,
            "snapshot_socket": snapshot_socket,
            "supervisor": os.getpid(),
        }
        passed = (writing, self.lock, self.memory.eventfd)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "leftfold.runtime.process", name],
            env=_clean_environment(identity.hash_seed) | {"LEFTFOLD_PROCESS": json.dumps(handed)},
            stdin=subprocess.DEVNULL,
            pass_fds=passed if snapshot_socket < 0 else (*passed, snapshot_socket),
            start_new_session=True,
        )
        os.close(writing)
        os.set_blocking(reading, False)
        child = Child(name, process, os.pidfd_open(process.pid), reading)
        self.selector.register(child.pidfd, selectors.EVENT_READ, child)
        self.selector.register(child.reports, selectors.EVENT_READ, child)
        return child

    # Watching

    def _watch(self) -> str | None:
        """Serve until a process ends unasked (its name), or all has drained (None)."""
        draining = drained = False
        stuck: tuple[int, int] | None = None
        stuck_since = 0.0
        named: tuple[int, int] | None = None
        deadline = float("inf")
        look_at = 0.0
        while True:
            for key, _ in self.selector.select(WATCH_S):
                if key.data is None:
                    os.read(self.wake, 4096)
                    continue
                child: Child = key.data
                if key.fd == child.reports:
                    self._read_reports(child)
                else:
                    child.process.wait()
                    if child.name == GATEWAY and child.process.returncode == 0:
                        drained = True
                        deadline = time.monotonic() + self.config.snapshot_stop_s
                        self.selector.unregister(child.pidfd)
                        continue
                    self._read_reports(child)
                    if self.failure is None:  # Else it said why, and nothing is started again.
                        status = child.process.returncode
                        self.observer("died", {"process": child.name, "status": status})
                    return child.name
            if drained and self.settled:
                self._close_journal()
                return None
            now = time.monotonic()
            if self.stopping and not self.served:
                return None  # Nobody was promised anything yet.
            if self.stopping and not draining:
                draining = True
                deadline = now + self.config.drain_s + 1.0
                self._publish("draining")
                self.observer("draining", {})
                self.children[GATEWAY].process.send_signal(signal.SIGTERM)
            if draining and (self.hurry or now > deadline):
                return None
            if drained and self.snapshotting:
                self._tell_snapshotting()
            if now >= look_at:
                look_at = now + WATCH_S
                self.placement.look()
            where = self.position.running()
            if where != stuck:
                stuck, stuck_since = where, now
            elif (
                where is not None
                and where != named
                and (now - stuck_since) * 1e3 >= self.config.handler_budget_ms
            ):
                named = where
                self._name_overrun()

    def _tell_snapshotting(self) -> None:
        """Nobody is served any more: how far the last snapshot is, is all that a person waits for."""
        if self.state != "snapshotting":
            self._publish("snapshotting", index=self.snapshotting)
        found = Counters.read(self.config.directory / "counters")[JOURNAL].counters
        written = found["snapshot_written_bytes"]
        self.observer("snapshotting", {"index": self.snapshotting, "bytes": written})

    def _close_journal(self) -> None:
        """Drained: let the journal mark its end; then there is nothing left to lose."""
        journal = self.children[JOURNAL].process
        journal.send_signal(signal.SIGUSR2)
        with contextlib.suppress(subprocess.TimeoutExpired):
            journal.wait(self.config.drain_s)

    def _read_reports(self, child: Child) -> None:
        while True:
            try:
                data = os.read(child.reports, 65536)
            except BlockingIOError:
                return
            if not data:
                with contextlib.suppress(KeyError):
                    self.selector.unregister(child.reports)
                return
            *lines, child.buffer = (child.buffer + data).split(b"\n")
            for line in lines:
                self._heed(child, json.loads(line))

    def _heed(self, child: Child, report: dict[str, Any]) -> None:
        match report:
            case {"attached": True}:
                child.attached = True
                attached = [child for child in self.children.values() if child.attached]
                if self.memory is not None and len(attached) == len(PROCESSES):
                    self.memory.unlink()
            case {"listening": [str(host), int(port)], "resp": resp_port}:
                self.address, self.resp_port, self.listening = (host, port), resp_port, True
                self._serve()
            case {"replayed": applied, "of": last}:
                if self.state != "replaying":
                    self.state, self.pace = "replaying", Pace()
                pace = self.pace.facts(applied, last)
                self.observer("replaying", {"applied": applied, "last": last, **pace})
            case {"restored": done, "of": of, "index": index}:
                self.state = "restoring"
                pace = self.pace.facts(done, of)
                self.observer("restoring", {"index": index, "bytes": done, "of": of, **pace})
            case {"snapshotting": index}:
                self.snapshotting = index
            case {"snapshot": index, "bytes": size, "seconds": seconds}:
                self.snapshotting = 0
                facts = {"index": index, "bytes": size, "seconds": round(seconds, 3)}
                self.observer("snapshot", facts)
            case {"role": facts}:
                self.observer("role", facts)
            case {"quarantined": facts}:
                self.quarantined = facts
                self._write_record()
                self.observer("quarantined", facts)
            case {"settled": _}:
                self.settled = True
            case {"ready": facts}:
                self.recovered = facts
                self._serve()
            case {"warning": sentence}:
                self.observer("warning", {"sentence": sentence})
            case {"notice": sentence}:
                self.observer("notice", {"sentence": sentence})
            case {"fatal": sentence}:
                if self.failure is None:
                    self.failure = sentence
            case _:
                raise AssertionError(f"{child.name} reported {report}")

    def _serve(self) -> None:
        """It is ready when there is something to serve and somebody listens; which comes last is open."""
        if self.recovered is None or not self.listening:
            return
        facts, self.recovered = self.recovered, None
        self.served = True
        crashes.note_ready(self.config.directory)
        pids = {name: child.process.pid for name, child in self.children.items()}
        self.placement.begin(pids, self.config.directory / "counters")
        self._publish("ready", **facts)
        self.observer("ready", {**facts, "address": self.address})

    def _name_overrun(self) -> None:
        """A handler is over its budget: have faulthandler write the stack, without stopping it."""
        stack = self.config.directory / "overrun.txt"
        size = stack.stat().st_size if stack.exists() else 0
        self.children[LOGIC].process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            if stack.exists() and stack.stat().st_size > size:
                break
            self.selector.select(0.01)
        facts = self.position.facts() | {
            "budget_ms": self.config.handler_budget_ms,
            "replaying": not self.served,
            "stack": stack.read_text()[size:] if stack.exists() else "",
        }
        self.observer("overrun", facts)

    # Ending

    def _end_all(self) -> None:
        """End what still runs and wait until the kernel says that it is gone."""
        try:
            for child in self.children.values():
                if child.process.poll() is None:
                    child.process.kill()
            for child in self.children.values():
                child.process.wait(KILL_WAIT_S)
                self._read_reports(child)
                for descriptor in (child.reports, child.pidfd):
                    with contextlib.suppress(KeyError):
                        self.selector.unregister(descriptor)
                child.close()
            self.children.clear()
        finally:  # Whatever a report brings about: no name stays behind.
            if self.memory is not None:
                self.memory.close()
                self.memory = None

    def _count_crash(self, died: str) -> str | None:
        """After a death: the sentence that parks the replica, or None to start again."""
        if died != LOGIC or not self.position.applying():
            return None
        return crashes.count(self.config.directory, self.position.facts())

    # What others see

    def _publish(self, state: str, **facts: Any) -> None:
        self.state, self.facts = state, facts
        self._write_record()

    def _write_record(self) -> None:
        record = {
            "state": self.state,
            "generation": self.generation,
            "app": self.config.app,
            "address": self.address[0] if self.address else None,
            "port": self.address[1] if self.address else None,
            "resp_port": self.resp_port,
            "pids": {"supervisor": os.getpid()}
            | {name: child.process.pid for name, child in self.children.items()},
            "quarantined": self.quarantined,
            **self.facts,
        }
        path = self.config.directory / "replica.json"
        temporary = path.with_suffix(".new")
        try:
            temporary.write_text(json.dumps(record))
            temporary.replace(path)
        except (
            OSError
        ) as error:  # A full disk must not keep the supervisor from ending its children.
            self.observer("warning", {"sentence": f"Cannot write {path}: {error.strerror}."})

    def _last_generation(self) -> int:
        try:
            record = json.loads((self.config.directory / "replica.json").read_text())
            return int(record["generation"])
        except (OSError, ValueError, KeyError):
            return 0

    @contextlib.contextmanager
    def _signals(self):
        """SIGINT and SIGTERM drain; a second one stops at once."""

        def ask(number: int, frame: object) -> None:
            del number, frame
            self.hurry = self.stopping
            self.stopping = True

        reading, writing = os.pipe()
        for descriptor in (reading, writing):
            os.set_blocking(descriptor, False)
        self.wake = reading
        self.selector.register(reading, selectors.EVENT_READ, None)
        previous = [
            (number, signal.signal(number, ask)) for number in (signal.SIGINT, signal.SIGTERM)
        ]
        woken = signal.set_wakeup_fd(writing)
        try:
            yield
        finally:
            signal.set_wakeup_fd(woken)
            for number, disposition in previous:
                signal.signal(number, disposition)
            self.selector.unregister(reading)
            os.close(reading)
            os.close(writing)


def _clean_environment(hash_seed: int) -> dict[str, str]:
    """Nothing of the caller's environment that could make two replicas differ."""
    kept = {
        name: os.environ[name] for name in (*INHERITED, recording.VARIABLE) if name in os.environ
    }
    return kept | {
        "PYTHONHASHSEED": str(hash_seed),
        "TZ": "UTC",
        "LC_ALL": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
    }


def read_status(directory: Path) -> dict[str, Any]:
    """What the supervisor last published. Raises OperatorError where there is no replica."""
    try:
        record: dict[str, Any] = json.loads((directory / "replica.json").read_text())
    except FileNotFoundError:
        below = sorted(str(path.parent) for path in directory.glob("*/replica.json"))
        where = f"name one of {', '.join(below)}" if below else "nothing was started there"
        raise OperatorError(f"{directory} holds no replica: {where}.") from None
    except (OSError, ValueError) as error:
        raise OperatorError(f"Cannot read {directory}/replica.json: {error}.") from None
    return record
