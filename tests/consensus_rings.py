"""Consensus between real rings in plain memory, for tests: they hold the other ends, and the clock."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
from raft_samples import state_of

from leftfold.runtime import recovered as recovered_module
from leftfold.runtime import slots
from leftfold.runtime.config import ReplicaConfig, TransportLimits
from leftfold.runtime.consensus import Consensus
from leftfold.runtime.identity import member_identity
from leftfold.runtime.metrics import schema
from leftfold.runtime.topology import CONSENSUS, rings_of
from leftfold.shm import (
    DOORBELL_BYTES,
    Consumer,
    Counters,
    Doorbell,
    Producer,
    format_ring,
    ring_bytes,
)

EMPTY = slots.Recovered(0, 0, 0, 1, 0, 0, 0, (), ())
BUILD = "build"


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.now_ns


class Rings:
    """The process without a loop around it, and everybody else's ends of its rings."""

    def __init__(
        self,
        directory: Path,
        *,
        replica: int = 1,
        members: int = 3,
        limits: TransportLimits | None = None,
        recovered: slots.Recovered = EMPTY,
        clock: Any = None,
        seed: int = 1,
        **config: Any,
    ) -> None:
        directory.mkdir(parents=True)
        Counters.create(directory / "counters", schema())
        self.counters = Counters.attach(directory / "counters", CONSENSUS)
        self.clock = clock or Clock()
        self.reports: list[dict[str, Any]] = []
        self.eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        cell = bytearray(DOORBELL_BYTES)
        self.bell, self.waker = (Doorbell(cell, event_fd=self.eventfd) for _ in range(2))
        founders = {id: f"127.0.0.1:{7000 + id}" for id in range(1, members + 1)}
        own_address = founders[replica] if members > 1 else ""
        asked = ReplicaConfig(
            directory=directory,
            app="an:app",
            limits=limits or TransportLimits(),
            peer_address=own_address,
            **config,
        )
        identity = member_identity(
            "an:app",
            replica,
            bytes(16),
            founders if members > 1 else {},
            limits={},
        )
        self.memory: dict[str, bytearray] = {}
        consumed, produced = rings_of(CONSENSUS)
        for row in (*consumed, *produced):
            capacity = row.capacity_bytes(asked.limits)
            self.memory[row.name] = memory = bytearray(ring_bytes(capacity))
            format_ring(memory, capacity)
        self.given = {
            row.name: Producer(self.memory[row.name], None, self.waker) for row in consumed
        }
        self.taken = {
            row.name: Consumer(self.memory[row.name], None, self.waker) for row in produced
        }
        self.shell = Consensus(
            asked,
            self.clock,
            identity,
            {row.name: Consumer(self.memory[row.name], self.bell) for row in consumed},
            {row.name: Producer(self.memory[row.name], self.bell) for row in produced},
            self.counters,
            self.reports.append,
        )
        self._start(recovered, seed)

    def _start(self, recovered: slots.Recovered, seed: int) -> None:
        """As the others do: what the disk held, and the app's build."""
        assert self.give("read", slots.pack_recovered(recovered))
        kept: Any = recovered_module.os
        drawn = SimpleNamespace(urandom=lambda count: seed.to_bytes(count, "little"))  # pyright: ignore[reportUnknownLambdaType]
        recovered_module.os = drawn  # pyright: ignore[reportAttributeAccessIssue]
        try:
            self.shell.work()
        finally:
            recovered_module.os = kept
        assert self.give("applied", slots.pack_build(BUILD))
        self.shell.work()

    def give(self, ring: str, run: bytes) -> bool:
        """Write to one of its inputs."""
        return self.given[ring].write(run)

    def take(self, ring: str) -> list[tuple[int, int, bytes]]:
        """All slots that it has written to a ring: (type, tag, bytes)."""
        found: list[tuple[int, int, bytes]] = []
        while run := self.taken[ring].peek_bytes():
            found += [
                (kind, tag, bytes(slot)) for kind, tag, slot in slots.slots_of(memoryview(run))
            ]
            self.taken[ring].release(len(run))
        return found

    def end(self) -> None:
        """Let go of everything."""
        os.close(self.eventfd)


def everything(rings: Rings) -> dict[str, Any]:
    """All that consensus is, but for what a turn leaves to the next look at the rings."""
    shell = rings.shell
    found: dict[str, Any] = {f"raft.{name}": value for name, value in state_of(shell.raft).items()}
    for name in (
        *("applied_index", "digest", "deadline_ns", "timer_due_ns", "time_entry", "leader"),
        *("serve_from", "skips_told", "serving", "draining", "drained", "settled"),
        *("next_tick_ns", "next_report_ns", "log_time", "hand_over_until_ns"),
    ):
        found[name] = getattr(shell, name)
    for part in (
        *("persisting", "feed", "points", "divergence", "states", "peering", "proposals"),
        *("queries", "controls", "upkeep", "agreement"),
    ):
        for field in attrs.fields(type(getattr(shell, part))):
            value = getattr(getattr(shell, part), field.name)
            if field.name.startswith("_packed"):
                continue  # A saving, and no state.
            if plain(value):
                found[f"{part}.{field.name}"] = (
                    [bytes(each) for each in value]
                    if field.name == "waiting" and part == "persisting"
                    else value
                )
    for name, counter in rings.counters.counters.items():
        found[f"counters.{name}"] = counter.value
    for name, ring in (*rings.given.items(), *rings.taken.items()):
        found[f"ring.{name}"] = ring.position, ring.used()
    found["reports"] = list(rings.reports)
    return found


def plain(value: Any) -> bool:
    """Whether it compares by what it holds, and not by who it is."""
    return (
        not callable(value)
        and type(value).__module__ != "leftfold.shm.ring"
        and (type(value).__eq__ is not object.__eq__ or value is None)
    )
