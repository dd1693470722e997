"""Folding a replica's log in this process, to any point, with nobody answered.

The same app, the same seeds and the same environment give the same state (I7); so this starts
Python again where the environment differs in what could change a fold: the hash seed, the time
zone, the locale.
"""

import os
import sys
from collections.abc import Iterator

from ..actors import App
from ..actors.layout import EntryKind
from ..actors.limits import Limits
from ..actors.machine import Machine, Outputs
from ..actors.unit import Watch
from ..runtime.errors import OperatorError
from ..runtime.identity import Identity
from ..runtime.slots import EntryHeader, padded, slots_of
from .history import History
from .nearest import restore_nearest
from .progress import progress

Entry = tuple[EntryHeader, memoryview]


def environment_of(identity: Identity) -> dict[str, str]:
    """This process's environment with what the replica's processes run under."""
    return os.environ | {
        "PYTHONHASHSEED": str(identity.hash_seed),
        "TZ": "UTC",
        "LC_ALL": "C.UTF-8",
    }


def restart_in_environment_of(identity: Identity) -> None:
    """Start this command again under the replica's hash seed, unless it runs under it already."""
    environment = environment_of(identity)
    if all(
        os.environ.get(name) == environment[name] for name in ("PYTHONHASHSEED", "TZ", "LC_ALL")
    ):
        return
    sys.stdout.flush()
    arguments = [sys.executable, "-P", "-m", "leftfold.tools", *sys.argv[1:]]
    os.execve(sys.executable, arguments, environment)


def check_index(history: History, index: int) -> None:
    """Raises OperatorError where the state at this index cannot be had."""
    earliest = history.earliest
    if earliest is None:
        raise OperatorError(_nothing_before(history))
    if not max(1, earliest) <= index <= history.last:
        raise OperatorError(
            f"There is no entry {index} to fold to: what is kept goes from {max(1, earliest)} to "
            f"{history.last}."
        )


def _nothing_before(history: History) -> str:
    return (
        f"The log begins at {history.first}, and there is no snapshot that it goes on from: what "
        "was before is not in this directory any more, so nothing can be folded from it."
    )


def begin(
    history: History,
    app: App,
    index: int,
    position: memoryview | None = None,
    watch: Watch | None = None,
) -> Machine:
    """A machine at `index` or before it, as near as can be had.

    That is the newest snapshot not behind `index`, or the log's beginning. Raises OperatorError
    where there is neither.
    """
    try:
        machine = restore_nearest(history.snapshots, history.identity, app, index, position, watch)
    except OperatorError as error:
        if history.first != 1:
            raise
        print(f"leftfold: {error} Folding from the log's beginning.", file=sys.stderr)
        machine = None
    if machine is None:
        return new_machine(history, app, position, watch)
    for place in history.skips:
        machine.skip(*place)
    return machine


def new_machine(
    history: History,
    app: App,
    position: memoryview | None = None,
    watch: Watch | None = None,
) -> Machine:
    """A machine at the log's beginning. Raises OperatorError where the log does not begin at 1."""
    if history.first != 1:
        raise OperatorError(_nothing_before(history))
    machine = Machine(
        app,
        Limits(**history.identity.limits),
        history.identity.hash_seed,
        position=position,
        watch=watch,
    )
    for place in history.skips:
        machine.skip(*place)
    return machine


def entries_to(history: History, index: int, ordinal: int | None) -> Iterator[Entry]:
    """The entries up to a place; the last one is cut behind the ordinal."""
    return entries_between(history, 1, index, ordinal)


def entries_between(
    history: History, first: int, index: int, ordinal: int | None = None
) -> Iterator[Entry]:
    """The entries from `first` up to a place; the last one is cut behind the ordinal."""
    for entry, body in history.entries(first, index):
        if entry.index == index and ordinal is not None and entry.kind == EntryKind.COMMANDS:
            yield entry, cut(body, ordinal)
        else:
            yield entry, body


def cut(body: memoryview, ordinal: int) -> memoryview:
    """The body's slots up to and with this ordinal."""
    end = 0
    for at, (_, _, slot) in enumerate(slots_of(body)):
        end += padded(len(slot))
        if at == ordinal:
            return body[:end]
    raise OperatorError(
        f"The entry holds no command {ordinal}: the last one is {body_count(body) - 1}."
    )


def body_count(body: memoryview) -> int:
    """How many slots a body holds."""
    return sum(1 for _ in slots_of(body))


def apply(machine: Machine, entry: EntryHeader, body: memoryview, outputs: Outputs) -> None:
    """Apply one entry."""
    machine.apply(entry.index, entry.time_ns, entry.kind, body, outputs=outputs)


def fold(history: History, app: App, index: int, ordinal: int | None = None) -> Machine:
    """The machine at a place of the log."""
    # A snapshot is the state after a whole entry: a place within one needs what is before it.
    machine = begin(history, app, index if ordinal is None else index - 1)
    advance_to(machine, history, index, ordinal)
    return machine


def advance_to(machine: Machine, history: History, index: int, ordinal: int | None = None) -> None:
    """Fold on to a place; nobody is answered."""
    outputs = Outputs()
    began = machine.state.index
    with progress("folding", index - began, "entries") as advance:
        for entry, body in entries_between(history, began + 1, index, ordinal):
            apply(machine, entry, body, outputs)
            outputs.egress.clear()
            advance(entry.index - began)
