"""What a snapshot costs the thread that serves: batches of commands without one, beside a forked child, and in slices.

The two candidates, on the same state and the same commands. A fork is what logic does: one call, and then pages that are
copied when one of the two writes to them. Slices are a sketch, made here alone, and better than the real thing could be:
before each batch some more items are encoded, and an actor that a batch is about to change is encoded before that, out of
its turn; of an actor with a large dict the dict is copied then, since its items change one by one and nobody is told
which. What it leaves out, the child does: every record decoded, encoded again and compared, compressed and written.

A batch's time begins with the work for the snapshot that comes before it. Each kind runs in a process of its own that makes the
state first, with garbage collection at rest and all objects frozen, as in logic.
"""

import gc
import json
import os
import time
from collections.abc import Callable, Iterator
from itertools import islice
from random import Random
from typing import Any

from attrs import asdict, define, field, frozen

from ..actors import App, parts
from ..actors.app import encode_body
from ..actors.layout import COMMAND, EntryKind, SlotType, padded
from ..actors.machine import Machine, Outputs
from ..actors.stored import StoredType
from .apart import apart
from .copied import memory, write_all

NONE, FORK, SLICES = KINDS = ("none", "fork", "slices")
BATCH_COMMANDS = 50
SLICE_ITEMS = 1_000
SNAPSHOT_AT = 200
"""The batch before which the snapshot begins."""
NICENESS = 10
SESSION = b"stalls of 1 kind"
SEED = 1

Kept = bytes | list[parts.Container]
Keyed = tuple[bytes, object]
"""A command and the key of its actor."""


@frozen(kw_only=True)
class Stalls:
    """One run, in seconds and bytes."""

    kind: str
    batches: int
    p50_s: float
    p99_s: float
    p999_s: float
    max_s: float
    """The longest batch, with what came before it."""
    cpu_p50_s: float
    cpu_p999_s: float
    cpu_max_s: float
    """The same by the thread's own time, page faults included: what no other process can disturb."""
    cpu_begin_s: float
    """Beginning the snapshot: the fork, or what slices need before the first."""
    cpu_snapshot_s: float
    """The thread's own work for the snapshot, all of it."""
    cpu_slice_max_s: float
    took_s: float
    """From its begin to its end."""
    commands_per_s: float
    more_bytes: int
    """Memory at the end of it that was not there before it, in both processes together; without one, what the run itself took."""


def measure_stalls(
    build: Callable[[], Machine], commands: Callable[[Random], Keyed], batches: int
) -> list[Stalls]:
    """Each kind once, one after the other."""
    return [_in_a_process(build, commands, batches, kind) for kind in KINDS]


def _in_a_process(
    build: Callable[[], Machine], commands: Callable[[Random], Keyed], batches: int, kind: str
) -> Stalls:
    def measure() -> dict[str, Any]:
        machine = build()
        work = list(batches_of(machine.app, commands, batches))
        machine.apply(1, 0, EntryKind.COMMANDS, opening(), outputs=Outputs())
        gc.collect()
        gc.freeze()
        gc.disable()
        return asdict(_run(machine, work, kind))

    return Stalls(**apart(measure))


# The commands


@frozen
class Batch:
    """An entry, and the actors that it changes."""

    body: bytes
    actors: tuple[tuple[int, bytes], ...]


def opening() -> bytes:
    """The body of the first entry."""
    return COMMAND.pack(COMMAND.size, SlotType.OPEN, 0, SESSION, 0, 0, 0, 0)


def batches_of(app: App, commands: Callable[[Random], Keyed], count: int) -> Iterator[Batch]:
    """The entries behind it."""
    chance, request = Random(SEED), 0
    for _ in range(count):
        slots: list[bytes] = []
        actors: list[tuple[int, bytes]] = []
        for _ in range(BATCH_COMMANDS):
            request += 1
            key, message = commands(chance)
            id, body = app.encode(message)
            length = COMMAND.size + len(key) + len(body)
            head = COMMAND.pack(
                length, SlotType.COMMAND, id, SESSION, request, min(request, 64), len(key), 0
            )
            slots.append(padded(head + key + body))
            actors.append((app.route_for(type(message)).actor.id, key))
        yield Batch(b"".join(slots), tuple(actors))


# A run


def _run(machine: Machine, work: list[Batch], kind: str) -> Stalls:
    before = memory()["Pss"]
    kinds: dict[str, Callable[[Machine], Nothing | Forked | Sliced]]
    kinds = {NONE: Nothing, FORK: Forked, SLICES: Sliced}
    snapshot = kinds[kind](machine)
    outputs = Outputs()
    batch_s: list[float] = []
    cpu_s: list[float] = []
    own_s: list[float] = []
    clock, cpu = time.perf_counter, time.thread_time
    began_s = took_s = 0.0
    more = 0
    for number, batch in enumerate(work):
        started_s, cpu_started_s = clock(), cpu()
        if number == SNAPSHOT_AT:
            snapshot.begin()
            began_s = started_s
            own_s.append(cpu() - cpu_started_s)
        elif number > SNAPSHOT_AT and not took_s:
            snapshot.advance(batch)
            own_s.append(cpu() - cpu_started_s)
        machine.apply(number + 2, 0, EntryKind.COMMANDS, batch.body, outputs=outputs)
        cpu_s.append(cpu() - cpu_started_s)
        batch_s.append(clock() - started_s)
        outputs.egress.clear()
        if number >= SNAPSHOT_AT and not took_s and snapshot.is_over():
            took_s, more = clock() - began_s, snapshot.more(before)
    if not took_s:
        snapshot.finish()
        took_s, more = clock() - began_s, snapshot.more(before)
    under, cpu_under = sorted(batch_s[SNAPSHOT_AT:]), sorted(cpu_s[SNAPSHOT_AT:])
    return Stalls(
        kind=kind,
        batches=len(under),
        p50_s=_percentile(under, 0.5),
        p99_s=_percentile(under, 0.99),
        p999_s=_percentile(under, 0.999),
        max_s=under[-1],
        cpu_p50_s=_percentile(cpu_under, 0.5),
        cpu_p999_s=_percentile(cpu_under, 0.999),
        cpu_max_s=cpu_under[-1],
        cpu_begin_s=own_s[0],
        cpu_snapshot_s=sum(own_s),
        cpu_slice_max_s=max(own_s[1:], default=0.0),
        took_s=took_s,
        commands_per_s=len(under) * BATCH_COMMANDS / sum(under),
        more_bytes=more,
    )


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


# The kinds


@define
class Nothing:
    """No snapshot."""

    machine: Machine

    def begin(self) -> None:
        """Nothing to begin."""

    def advance(self, batch: Batch) -> None:
        """Nothing to do."""

    def is_over(self) -> bool:
        """It never was."""
        return False

    def finish(self) -> None:
        """Nothing to finish."""

    def more(self, before: int) -> int:
        """What the run itself took."""
        return max(0, memory()["Pss"] - before)


@define
class Forked:
    """A child that writes all of it, and gives way as the real one does."""

    machine: Machine
    _pid: int = field(default=0, init=False)
    _done: Any = field(default=None, init=False)
    _child_bytes: int = field(default=0, init=False)

    def begin(self) -> None:
        """Fork."""
        reading, writing = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            status = 1
            try:
                os.nice(NICENESS)
                os.write(writing, json.dumps(write_all(self.machine)).encode())
                status = 0
            finally:
                os._exit(status)
        os.close(writing)
        os.set_blocking(reading, False)
        self._done = reading

    def advance(self, batch: Batch) -> None:
        """The child does it."""

    def is_over(self) -> bool:
        """Whether it has said what it took."""
        try:
            said = os.read(self._done, 65_536)
        except BlockingIOError:
            return False
        self._child_bytes = json.loads(said)["child_private"]
        return True

    def finish(self) -> None:
        """Wait for it."""
        os.set_blocking(self._done, True)
        assert self.is_over()

    def more(self, before: int) -> int:
        """What the child has for itself: its own copies, and those pages that the parent has copied to write to them."""
        os.waitpid(self._pid, 0)
        return self._child_bytes + max(0, memory()["Pss"] - before)


@define
class Sliced:
    """Some items before each batch, and before an actor changes, that actor."""

    machine: Machine
    _slices: Iterator[int] = field(factory=lambda: iter(()), init=False)
    _done: dict[int, set[bytes]] = field(factory=dict[int, set[bytes]], init=False)
    """By type, the actors that are written, or were not there when it began."""
    _early: dict[int, dict[bytes, Kept]] = field(factory=dict[int, dict[bytes, Kept]], init=False)
    """Of actors that are out of their turn: their bytes, or their large containers as they were."""
    _stored: dict[int, StoredType] = field(factory=dict[int, StoredType], init=False)
    _over: bool = field(default=False, init=False)

    def begin(self) -> None:
        """The keys as they are now: what comes into being later is not part of it."""
        state, app = self.machine.state, self.machine.app
        self._stored = {id: StoredType(actor) for id, actor in app.actor_types.items()}
        self._done = {id: set() for id in self._stored}
        self._early = {id: {} for id in self._stored}
        keys = {id: list(instances) for id, instances in state.actors.items() if instances}
        self._slices = self._write(keys)

    def advance(self, batch: Batch) -> None:
        """What the batch changes, and then some more."""
        actors = self.machine.state.actors
        for id, key in batch.actors:
            if key not in self._done[id]:
                self._done[id].add(key)
                instance = actors[id].get(key)
                if instance is not None:
                    self._early[id][key] = self._kept(id, instance)
        self._over = next(self._slices, 0) == 0

    def _kept(self, id: int, instance: Any) -> Kept:
        return self._copies(id, instance) or encode_body([instance])

    def _copies(self, id: int, instance: Any) -> list[parts.Container]:
        """The large containers of an actor as they are now."""
        stored = self._stored[id]
        return [place.kind(held) for place, held in stored.large(instance)] if stored.cuts else []

    def _write(self, keys: dict[int, list[bytes]]) -> Iterator[int]:
        """Encode slice by slice; each says how many items it had."""
        for id, listed in keys.items():
            instances, done = self.machine.state.actors[id], self._done[id]
            for at in range(0, len(listed), SLICE_ITEMS):
                run = listed[at : at + SLICE_ITEMS]
                early = self._early[id]
                kept = [early.pop(key) for key in early.keys() & run]
                whole = [instances[key] for key in run if key not in done]
                done.update(run)
                if self._stored[id].cuts:
                    copies = [self._copies(id, instance) for instance in whole]
                    whole = [one for one, held in zip(whole, copies, strict=True) if not held]
                    kept += copies
                encode_body(whole)
                yield len(run)
                for containers in kept:
                    for container in containers if isinstance(containers, list) else ():
                        yield from self._write_container(container)

    def _write_container(self, container: parts.Container) -> Iterator[int]:
        items: Iterator[Any] = iter(container.items() if isinstance(container, dict) else container)
        while run := list(islice(items, SLICE_ITEMS)):
            encode_body(run)
            yield len(run)

    def is_over(self) -> bool:
        """Whether the last slice is written."""
        return self._over

    def finish(self) -> None:
        """The rest at once: the run was too short for it."""
        for _ in self._slices:
            pass

    def more(self, before: int) -> int:
        """What this process has more than before."""
        return max(0, memory()["Pss"] - before)
