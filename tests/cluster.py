"""A real cluster for tests: three supervisors on 127.0.0.2, .3 and .4, each with its four processes.

Every replica is started as `replica.py` starts one, on free ports that are found beforehand, since members must know each other's.
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import attrs
from replica import DEADLINE_S, RunningReplica, wait_until

from leftfold.actors.limits import Limits
from leftfold.runtime.identity import member_identity, open_identity
from leftfold.runtime.slots import CONTROL_MEMBERS, CONTROL_STATUS
from leftfold.shm import Counters, ShmError
from leftfold.tools.cluster import free_ports
from leftfold.tools.inquiry import Inquiry

LEADER = 3
"""What the counter `role` shows of a leader."""


class Cluster:
    """Replicas by id."""

    def __init__(self, directory: Path, app: str = "counting:app", count: int = 3, **config: Any):
        self.directory = directory
        self.app = app
        self.options = config
        self.cluster_id = os.urandom(16)
        self.replicas: dict[int, RunningReplica] = {}
        self.paused: set[int] = set()
        self.serves: dict[int, tuple[str, int]] = {}
        self.peers: dict[int, str] = {}
        for id in range(1, count + 1):
            self.place(id)
        self.founders = dict(self.peers)
        for id in self.founders:
            identity = member_identity(
                app, id, self.cluster_id, self.founders, limits=attrs.asdict(Limits())
            )
            open_identity(self.path(id), app, identity)

    def place(self, id: int) -> None:
        """Find addresses for a replica."""
        host = f"127.0.0.{id + 1}"
        serve, peer = free_ports(host, 2)
        self.serves[id], self.peers[id] = (host, serve), f"{host}:{peer}"

    def path(self, id: int) -> Path:
        return self.directory / f"replica-{id}"

    def start(self, id: int, **changed: Any) -> RunningReplica:
        """Start one replica; it need not be ready when this returns."""
        host, port = self.serves[id]
        options = {"host": host, "port": port, "peer_address": self.peers[id]}
        running = RunningReplica(self.path(id), self.app, **(options | self.options | changed))
        self.replicas[id] = running
        return running

    def start_all(self) -> None:
        for id in self.founders:
            self.start(id)
        self.wait_ready()

    def wait_ready(self, *ids: int) -> None:
        for id in ids or tuple(self.replicas):
            self.replicas[id].wait_for("ready")

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where clients go."""
        return list(self.serves.values())

    def counters(self, id: int) -> dict[str, int]:
        """What its consensus process shows; it is read from a file, and costs nobody anything."""
        try:
            return dict(Counters.read(self.path(id) / "counters")["consensus"].counters)
        except (OSError, ShmError):  # It has only just been started.
            return {"role": 0, "term": 0, "snapshot_index": 0, "log_first_index": 0}

    def leader(self, among: set[int] | None = None) -> int:
        """Who leads the highest term, of those that run; waits for one."""

        def find() -> int:
            running = (among or set(self.replicas)) - self.paused
            seen = {id: self.counters(id) for id in running if self.alive(id)}
            newest = max((found["term"] for found in seen.values()), default=0)
            for id, found in seen.items():
                if found["role"] == LEADER and found["term"] == newest:
                    return id
            return 0

        found: int = wait_until(find, f"a leader: {self.output()}")
        return found

    def alive(self, id: int) -> bool:
        return id in self.replicas and self.replicas[id].process.poll() is None

    def kill(self, id: int) -> None:
        """kill -9 the supervisor; the kernel ends its four with it."""
        self.replicas[id].end()

    def stop(self, id: int) -> int:
        return self.replicas[id].stop()

    def pause(self, id: int) -> None:
        """SIGSTOP all five."""
        self.paused.add(id)
        self._signal(id, signal.SIGSTOP)

    def resume(self, id: int) -> None:
        self._signal(id, signal.SIGCONT)
        self.paused.discard(id)

    def _signal(self, id: int, number: int) -> None:
        for pid in self.replicas[id].status()["pids"].values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def control(self, replica: int, kind: int, **asked: Any) -> dict[str, Any]:
        """Ask one replica's consensus."""
        with Inquiry(self.serves[replica]) as inquiry:
            answer = inquiry.control(kind, json.dumps(asked).encode())
        facts: dict[str, Any] = json.loads(answer.body)
        return facts

    def status(self, id: int) -> dict[str, Any]:
        return self.control(id, CONTROL_STATUS)

    def members(self, replica: int, **asked: Any) -> dict[str, Any]:
        return self.control(replica, CONTROL_MEMBERS, **asked)

    def join(self, leader: int) -> int:
        """Start a replica with an empty directory, under the next free id, and have the leader add it."""
        facts = self.members(leader)
        id = int(facts["next_id"])
        self.place(id)
        members = {one["id"]: one["address"] for one in facts["members"]}
        identity = member_identity(
            self.app, id, self.cluster_id, members, limits=facts["limits"], joining=True
        )
        open_identity(self.path(id), self.app, identity)
        self.start(id)
        assert self.members(leader, operation="add", address=self.peers[id])["id"] == id
        return id

    def agree(self) -> tuple[int, int]:
        """Wait until all have applied the same, and nothing more comes; (index, digest), which are equal."""

        def equal() -> tuple[int, int] | None:
            seen = {
                (found["applied"], found["digest"], found["log"]["last"])
                for found in map(self.status, self.replicas)
            }
            if len(seen) != 1:
                assert len({digest for _, digest, _ in seen}) >= 1
                return None
            applied, digest, last = seen.pop()
            return (applied, digest) if applied == last else None

        found: tuple[int, int] = wait_until(equal, f"the same everywhere: {self.output()}")
        return found

    def output(self) -> str:
        return "\n".join(
            f"--- {id}\n{running.output()[-2000:]}" for id, running in self.replicas.items()
        )

    def end(self) -> None:
        for id in [*self.paused]:
            self.resume(id)
        for running in self.replicas.values():
            running.end()


@contextlib.contextmanager
def cluster(directory: Path, app: str = "counting:app", **config: Any) -> Generator[Cluster]:
    """Three replicas that serve; ended when the block is left."""
    found = Cluster(directory, app, **config)
    try:
        found.start_all()
        yield found
    finally:
        found.end()


__all__ = ["DEADLINE_S", "LEADER", "Cluster", "cluster", "time"]
