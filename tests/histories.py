"""Histories for testing a checker: good ones by simulation, and bad ones made from them, which cannot be good by any order."""

import random
from collections.abc import Callable
from heapq import heappop, heappush

from attrs import evolve
from linearizability import NEVER, Counter, Model, Operation, Register, Sequence

Make = Callable[[random.Random, int], tuple[str, object]]


def register_operation(rng: random.Random, number: int) -> tuple[str, object]:
    """Values are unique, so that each read says which write it saw."""
    kind = rng.random()
    if kind < 0.5:
        return "read", None
    if kind < 0.8:
        return "write", number
    return "cas", (rng.randrange(max(1, number)), number)


def counter_operation(rng: random.Random, number: int) -> tuple[str, object]:
    return ("add", 1 + rng.randrange(1000)) if rng.random() < 0.7 else ("read", None)


def sequence_operation(rng: random.Random, number: int) -> tuple[str, object]:
    return ("append", number) if rng.random() < 0.7 else ("read", None)


MODELS: dict[str, tuple[Model, Make]] = {
    "register": (Register(), register_operation),
    "counter": (Counter(), counter_operation),
    "sequence": (Sequence(), sequence_operation),
}


def result_of(model: Model, state: object, operation: Operation) -> object:
    """What this object answers in this state."""
    after, _ = model.step(state, operation)
    length = len(after) if isinstance(after, tuple) else 0
    for result in (state, after, True, False, length):
        if model.step(state, evolve(operation, result=result))[1]:
            return result
    raise AssertionError(operation)


def simulate(
    rng: random.Random,
    kind: str,
    operations: int,
    processes: int,
    *,
    unknown: float = 0.0,
    keys: int = 1,
) -> list[Operation]:
    """Processes that ask one thing after the other; each takes effect at a moment between call and return. An outcome that
    is not known took effect or not; its process asks no more, and another one takes its place."""
    model, make = MODELS[kind]
    states: dict[object, object] = {key: model.initial for key in range(keys)}
    moments: list[tuple[float, int, str, int]] = []
    history: list[Operation] = []
    names = processes
    for process in range(processes):
        heappush(moments, (rng.random(), len(moments), "call", process))
    serial = processes
    effects: dict[int, tuple[int, bool]] = {}
    while moments:
        at, _, what, process = heappop(moments)
        now_ns = int(at * 1e6)
        serial += 1
        if what == "call" and len(history) < operations:
            f, value = make(rng, len(history) + 1)
            key = rng.randrange(keys)
            history.append(Operation(f, value, None, now_ns, NEVER, key, process))
            is_unknown = rng.random() < unknown
            effects[process] = (len(history) - 1, is_unknown)
            if is_unknown and rng.random() < 0.5:
                heappush(moments, (at + rng.random(), serial, "call", names))
                names += 1
            else:
                late = 20.0 if is_unknown and rng.random() < 0.5 else 1.0
                heappush(moments, (at + late * rng.random(), serial, "effect", process))
        elif what == "effect":
            number, is_unknown = effects[process]
            operation = history[number]
            result = result_of(model, states[operation.key], operation)
            states[operation.key], _ = model.step(states[operation.key], operation)
            if is_unknown:
                heappush(moments, (at + rng.random(), serial, "call", names))
                names += 1
            else:
                history[number] = evolve(operation, result=result)
                heappush(moments, (at + rng.random(), serial, "return", process))
        elif what == "return":
            number, _ = effects[process]
            history[number] = evolve(history[number], returned_ns=now_ns)
            heappush(moments, (at + rng.random(), serial, "call", process))
    return history


def with_last_read(history: list[Operation], kind: str) -> list[Operation]:
    """All known, and a read when everything is over."""
    assert all(operation.is_known for operation in history)
    model, _ = MODELS[kind]
    end_ns = max(operation.returned_ns for operation in history)
    state = model.initial
    if kind == "counter":
        state = sum(one.value for one in history if one.f == "add")
    return [*history, Operation("read", None, state, end_ns + 1, end_ns + 2, 0, 1 << 20)]


def stale_read(rng: random.Random, history: list[Operation]) -> list[Operation] | None:
    """A register's read returns a value that was overwritten for certain before it was called."""
    writes = [one for one in history if one.f == "write" and one.is_known]
    reads = [at for at, one in enumerate(history) if one.f == "read" and one.is_known]
    for at in rng.sample(reads, len(reads)):
        read = history[at]
        over = [one for one in writes if one.returned_ns < read.called_ns]
        newest_ns = max((one.called_ns for one in over), default=0)
        stale = [one for one in over if one.returned_ns < newest_ns]
        if stale:
            changed = evolve(read, result=rng.choice(stale).value)
            return [*history[:at], changed, *history[at + 1 :]]
    return None


def shifted(rng: random.Random, history: list[Operation], factor: int) -> list[Operation]:
    """One add of a counter has no effect (-1) or a second one (1): every later result misses, or has, its amount."""
    adds = [one for one in history if one.f == "add"]
    chosen = rng.choice(adds)
    return [
        evolve(one, result=one.result + factor * chosen.value)
        if one.called_ns > chosen.returned_ns
        else one
        for one in history
    ]


def reordered(rng: random.Random, history: list[Operation]) -> list[Operation] | None:
    """A sequence's read shows two elements the wrong way round, of which one was appended before the other was asked for."""
    appends = {one.value: one for one in history if one.f == "append"}
    reads = [at for at, one in enumerate(history) if one.f == "read" and len(one.result) > 1]
    for at in rng.sample(reads, len(reads)):
        found = list(history[at].result)
        for place in rng.sample(range(len(found) - 1), len(found) - 1):
            first, second = found[place], found[place + 1]
            if appends[first].returned_ns < appends[second].called_ns:
                found[place : place + 2] = [second, first]
                changed = evolve(history[at], result=tuple(found))
                return [*history[:at], changed, *history[at + 1 :]]
    return None
