"""Is a history linearizable? Wing and Gong's search with Lowe's memory of configurations, key by key.

A history is a list of operations with the moments of call and return. It is linearizable if every operation can be given one
moment between its two, so that the results are those of a single object that handles the operations at these moments, one after the
other. An operation whose outcome is not known may have any moment after its call, or none.

The search gives the operations their places one by one: the next is any that was called before the first return among those
without a place. Two orders of the same operations that leave the object in the same state are one configuration, looked at
once. Objects under different keys do not concern each other, so each key is checked alone. Three things keep the search short and
change no verdict: who returns first is tried first; operations of unknown outcome come last, are passed over when they change nothing,
and of two that are alike the earlier is taken; a configuration that has used up more of them than one that was looked
at, and is like it otherwise, can do no more than that one, and is passed over.

It says no only when every possibility was looked at; beyond `configurations_max` it raises Undecided.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, Protocol

from attrs import define, field, frozen

NEVER = 1 << 62
"""The return of an operation whose outcome is not known."""

CONFIGURATIONS_MAX = 5_000_000


@frozen
class Operation:
    """One operation on the object of one key."""

    f: str
    value: Any
    result: Any = None
    called_ns: int = 0
    returned_ns: int = NEVER
    key: Hashable = ""
    process: int = 0

    @property
    def is_known(self) -> bool:
        """Whether its outcome is known."""
        return self.returned_ns != NEVER


class Model(Protocol):
    """What the object does, as a function of its state, which is hashable."""

    initial: Hashable

    def step(self, state: Any, operation: Operation) -> tuple[Hashable, bool]:
        """The state after the operation, and whether its result may be what it was. The latter is not looked at if the outcome
        is not known."""
        ...


class Register:
    """read, write, and cas with value (old, new) and result whether it was old."""

    def __init__(self, initial: Hashable = None) -> None:
        self.initial = initial

    def step(self, state: Any, operation: Operation) -> tuple[Hashable, bool]:
        if operation.f == "read":
            return state, operation.result == state
        if operation.f == "write":
            return operation.value, True
        assert operation.f == "cas", operation
        old, new = operation.value
        matches = state == old
        return new if matches else state, operation.result == matches


class Counter:
    """add, with the new total as its result; read."""

    initial = 0

    def step(self, state: Any, operation: Operation) -> tuple[Hashable, bool]:
        assert operation.f in ("add", "read"), operation
        total = state + operation.value if operation.f == "add" else state
        return total, operation.result == total


class Sequence:
    """append, with the new length as its result; read, with all elements in order."""

    initial = ()

    def step(self, state: Any, operation: Operation) -> tuple[Hashable, bool]:
        if operation.f == "append":
            after = (*state, operation.value)
            return after, operation.result == len(after)
        assert operation.f == "read", operation
        return state, operation.result is not None and tuple(operation.result) == state


@frozen
class Verdict:
    """Whether it is linearizable; if not, where the search got stuck."""

    ok: bool
    key: Hashable = ""
    state: Any = None
    placed: int = 0
    stuck: tuple[Operation, ...] = ()
    configurations: int = 0

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        if self.ok:
            return f"linearizable ({self.configurations} configurations)"
        return (
            f"key {self.key!r} is not linearizable: with {self.placed} operations in place the state is "
            f"{self.state!r}, and none of these can be next: {', '.join(map(str, self.stuck))}"
        )


class Undecided(Exception):
    """Too many possibilities."""


def check(
    history: Iterable[Operation], model: Model, configurations_max: int = CONFIGURATIONS_MAX
) -> Verdict:
    """Whether the history is linearizable; the first key that is not, if any."""
    by_key: dict[Hashable, list[Operation]] = defaultdict(list)
    for operation in history:
        by_key[operation.key].append(operation)
    configurations = 0
    for key, operations in by_key.items():
        search = _Search(key, operations, model, configurations_max)
        verdict = search.run()
        configurations += verdict.configurations
        if not verdict:
            return verdict
    return Verdict(True, configurations=configurations)


# low: all known operations below have their place; mask: which above do; extra: which of the unknown ones; state.
Configuration = tuple[int, int, int, Hashable]


@define
class _Search:
    key: Hashable
    operations: list[Operation]
    model: Model
    configurations_max: int
    _known: list[Operation] = field(init=False)
    _unknown: list[Operation] = field(init=False)

    def __attrs_post_init__(self) -> None:
        in_order = sorted(self.operations, key=lambda one: one.called_ns)
        self._known = [one for one in in_order if one.is_known]
        self._unknown = [one for one in in_order if not one.is_known]

    def run(self) -> Verdict:
        """Depth first, with a stack of our own: histories are longer than Python's."""
        start: Configuration = (0, 0, 0, self.model.initial)
        configurations = 1
        seen: dict[tuple[int, int, Hashable], list[int]] = {}
        stack = [self._next(start)]
        deepest = start
        total = len(self._known)
        while stack:
            for configuration in stack[-1]:
                low, mask, extra, state = configuration
                looked_at = seen.setdefault((low, mask, state), [])
                if any(less & ~extra == 0 for less in looked_at):
                    continue
                looked_at.append(extra)
                configurations += 1
                if low == total:
                    return Verdict(True, self.key, configurations=configurations)
                if configurations > self.configurations_max:
                    raise Undecided(f"key {self.key!r}: {configurations} configurations")
                if _placed(configuration) > _placed(deepest):
                    deepest = configuration
                stack.append(self._next(configuration))
                break
            else:
                stack.pop()
        if not total:
            return Verdict(True, self.key, configurations=configurations)
        return Verdict(
            False,
            self.key,
            deepest[3],
            _placed(deepest),
            tuple(self._known[at] for at in self._candidates(deepest)[0]),
            configurations,
        )

    def _next(self, configuration: Configuration) -> Iterator[Configuration]:
        low, mask, extra, state = configuration
        candidates, first_return_ns = self._candidates(configuration)
        for at in candidates:
            after, fits = self.model.step(state, self._known[at])
            if fits:
                yield (*_place(low, mask, at), extra, after)
        tried: set[tuple[str, Any]] = set()
        for at, operation in enumerate(self._unknown):
            if operation.called_ns > first_return_ns:
                break
            alike = (operation.f, operation.value)
            if extra >> at & 1 or alike in tried:
                continue
            tried.add(alike)
            after, _ = self.model.step(state, operation)
            if after != state:
                yield (low, mask, extra | 1 << at, after)

    def _candidates(self, configuration: Configuration) -> tuple[list[int], int]:
        """Who may be next, the earliest to return first; and when that is."""
        low, mask, _, _ = configuration
        known = self._known
        first_return_ns = NEVER
        found: list[int] = []
        for at in range(low, len(known)):
            operation = known[at]
            if operation.called_ns > first_return_ns:
                break
            if not mask >> (at - low) & 1:
                found.append(at)
                first_return_ns = min(first_return_ns, operation.returned_ns)
        found.sort(key=lambda at: known[at].returned_ns)
        return found, first_return_ns


def _place(low: int, mask: int, at: int) -> tuple[int, int]:
    mask |= 1 << (at - low)
    while mask & 1:
        mask >>= 1
        low += 1
    return low, mask


def _placed(configuration: Configuration) -> int:
    low, mask, extra, _ = configuration
    return low + mask.bit_count() + extra.bit_count()


Read = Callable[[str, Any, Any], tuple[str, Any, Any]]


def read_history(
    lines: Iterable[str | bytes], read: Read = lambda f, value, result: (f, value, result)
) -> list[Operation]:
    """The operations of a recorded history (JSON lines of runtime/recorder.py, in any order of processes).

    `read` makes f, value and result out of what was recorded. What failed has not happened; what has no end, or `info` as its
    end, may have.
    """
    events = [json.loads(line) for line in lines]
    events.sort(key=lambda event: event["time"])
    open_: dict[int, dict[str, Any]] = {}
    found: list[Operation] = []

    def end(call: dict[str, Any], result: Any, returned_ns: int) -> None:
        f, value, outcome = read(call["f"], call["value"], result)
        key, process = call["key"], call["process"]
        found.append(Operation(f, value, outcome, call["time"], returned_ns, key, process))

    for event in events:
        process, kind = event["process"], event["type"]
        if kind == "invoke":
            assert process not in open_, f"process {process} asks while it waits"
            open_[process] = event
        elif kind == "ok":
            end(open_.pop(process), event["value"], event["time"])
        elif kind == "fail":
            del open_[process]
        else:
            assert kind == "info", event
    for call in open_.values():
        end(call, None, NEVER)
    return found
