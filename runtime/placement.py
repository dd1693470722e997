"""Where the four processes run, and how long each looks for work before it sleeps: three named profiles.

    shared      fewer cores than processes. Nobody spins: that would take the core from whom it waits for. While batches are
                small, consensus, journal and logic share one core and the gateway has the others; under load all are free.
    spread      the kernel places them; each spins a little before it sleeps
    dedicated   each has a core of its own, and spins long: the least latency, for machines that have the cores to give

A command that is alone goes from process to process, so a second core does not make it faster, and waking a sleeping one
costs more than anything that is done to the command (BENCHMARKS.md). Under load the processes work at the same time, and need
the cores. What tells the two apart is how much comes together: `Together` looks at the figures that are kept anyway.

This is no promise, only speed: a process that cannot be moved stays where it is.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from attrs import define, field

from ..shm import Counters
from .errors import OperatorError
from .topology import CONSENSUS, GATEWAY, JOURNAL, LOGIC, PROCESSES

SHARED, SPREAD, DEDICATED = PROFILES = ("shared", "spread", "dedicated")
SPIN_NS = {SHARED: 0, SPREAD: 20_000, DEDICATED: 1_000_000}
TURN_BYTES_MAX = 512
"""Of clients' bytes in one turn of the gateway, up to which they count as few."""
BATCH_BYTES_MAX = 1024
"""Of one write of the journal, likewise."""
QUIET_LOOKS = 2
"""So many looks in a row must have found little, before the processes are brought together."""


def profile_for(name: str, cores: int) -> str:
    """The profile that was asked for, or the one that suits so many cores. Raises OperatorError."""
    if not name:
        return SHARED if cores < len(PROCESSES) else SPREAD
    if name not in PROFILES:
        raise OperatorError(f"{name!r} is no placement: choose one of {', '.join(PROFILES)}.")
    if name == DEDICATED and cores < len(PROCESSES):
        raise OperatorError(
            f"The placement {DEDICATED} gives each of {len(PROCESSES)} processes a core, and this replica may use {cores}: "
            f"choose {SHARED}, or give it more cores."
        )
    return name


def spin_ns(profile: str, process: str) -> int:
    """How long a process looks for work before it sleeps. One that is dedicated to sockets polls them instead."""
    return 0 if process == GATEWAY and profile != DEDICATED else SPIN_NS[profile]


@define
class Placement:
    """The four processes of one replica, as its supervisor places them."""

    profile: str
    cores: tuple[int, ...]
    """Those that the replica may use."""
    replica_id: int
    pids: dict[str, int] = field(factory=dict[str, int], init=False)
    figures: dict[str, Counters] = field(factory=dict[str, Counters], init=False)
    together: bool = field(default=False, init=False)
    _seen: dict[str, int] = field(factory=dict[str, int], init=False)
    _quiet: int = field(default=0, init=False)

    @classmethod
    def of(cls, name: str, replica_id: int) -> "Placement":
        """By the profile's name, or by the cores that there are. Raises OperatorError."""
        cores = tuple(sorted(os.sched_getaffinity(0)))
        return cls(profile_for(name, len(cores)), cores, replica_id)

    def begin(self, pids: Mapping[str, int], figures: Path) -> None:
        """The replica serves."""
        self.pids = dict(pids)
        self.together = False
        self._quiet = 0
        self._seen = {}
        if self.profile == DEDICATED:
            for process, core in zip(PROCESSES, self.cores, strict=False):
                self._move(process, {core})
        elif self.profile == SHARED and len(self.cores) > 1:
            self.figures = {role: Counters.attach(figures, role) for role in (GATEWAY, JOURNAL)}

    def look(self) -> None:
        """Now and then: bring them together, or set them free."""
        if not self.figures:
            return
        few = self._few()
        if few is None:
            return
        self._quiet = self._quiet + 1 if few else 0
        wanted = self._quiet >= QUIET_LOOKS or (few and self.together)
        if wanted != self.together:
            self.together = wanted
            self._bring_together() if wanted else self._set_free()

    def end(self) -> None:
        """The processes are gone."""
        for counters in self.figures.values():
            counters.close()
        self.figures = {}
        self.pids = {}

    def _few(self) -> bool | None:
        """Whether little came together since the last look; None: nothing came at all."""
        gateway, journal = self.figures[GATEWAY].counters, self.figures[JOURNAL].counters
        now = {
            "bytes_in": gateway["bytes_in"].value,
            "turns": gateway["turns"].value,
            "bytes": journal["bytes"].value,
            "batches": journal["batches"].value,
        }
        since = {name: value - self._seen.get(name, 0) for name, value in now.items()}
        self._seen = now
        if not since["bytes_in"] and not since["batches"]:
            return None
        return (
            since["bytes_in"] <= TURN_BYTES_MAX * since["turns"]
            and since["bytes"] <= BATCH_BYTES_MAX * since["batches"]
        )

    def _bring_together(self) -> None:
        core = self.cores[self.replica_id % len(self.cores)]
        for process in (CONSENSUS, JOURNAL, LOGIC):
            self._move(process, {core})
        self._move(GATEWAY, set(self.cores) - {core})

    def _set_free(self) -> None:
        for process in PROCESSES:
            self._move(process, set(self.cores))

    def _move(self, process: str, cores: set[int]) -> None:
        with contextlib.suppress(OSError, KeyError):
            os.sched_setaffinity(self.pids[process], cores)
