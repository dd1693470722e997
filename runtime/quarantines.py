"""What a person is told of quarantined actors: which, by what handler, at which place, and why.

Logic tells the supervisor, at most once a second and the newest few by name, since a broken handler may take thousands of
actors a second (I10); how many there are is always exact, and among logic's figures. While it replays it says nothing; at
the end it tells of all that there are, so each start says it again. `replica.json` keeps what was told last.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from attrs import define, field

from ..actors.machine import Machine
from ..shm import Counter, monotonic_ns

NAMED_MAX = 8
TELL_NS = 1_000_000_000


@define(eq=False)
class Quarantines:
    """Logic's side."""

    counter: Counter
    report: Callable[[dict[str, Any]], None]
    clock_ns: Callable[[], int] = monotonic_ns
    told: int = field(default=0, init=False)
    next_ns: int = field(default=0, init=False)

    def look(self, machine: Machine) -> None:
        """Tell of those that have come since the last time."""
        quarantined = machine.state.quarantined
        count = len(quarantined)
        if count == self.told:
            return
        now_ns = self.clock_ns()
        if now_ns < self.next_ns:
            return
        self.next_ns = now_ns + TELL_NS
        self.counter.set(count)
        newest = [
            {
                "actor": machine.app.actor_types[actor].name,
                "key": machine.app.decode_key(actor, key),
                "handler": why.handler,
                "index": why.index,
                "ordinal": why.ordinal,
                "code": why.code,
                "error": why.error,
            }
            for (actor, key), why in islice(reversed(quarantined.items()), NAMED_MAX)
        ]
        for facts in newest:
            if isinstance(facts["key"], bytes):
                facts["key"] = facts["key"].hex()
        new = max(0, count - self.told)
        self.told = count
        self.report({"quarantined": {"count": count, "new": new, "newest": newest}})


def sentences(told: dict[str, Any] | None, *, new: bool = False) -> Iterator[str]:
    """What was told, for a person: one line for each that is named, newest first; `new`: of the new ones only."""
    if told is None:
        return
    count = told["new"] if new else told["count"]
    named = told["newest"][:count]
    for facts in named:
        where = f"{facts['index']}.{facts['ordinal']}"
        yield (
            f"{facts['actor']} {facts['key']!r} is quarantined: {facts['handler']} failed at {where}: "
            f"{facts['error']} ({facts['code']})"
        )
    if count > len(named):
        yield f"{count - len(named)} more actors are quarantined."
