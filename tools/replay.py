"""`leftfold replay`: the state at any point of a log, and the debugger in a handler of the past.

The machine is folded in this process, from the nearest snapshot or the beginning, by the code as it
is now. Nothing is written to the replica's directory, which may be that of a running replica.
"""

import pdb  # noqa: T100 - the debugger is what this command offers.
import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Annotated, Any

import msgspec
from attrs import define, field
from cyclopts import Parameter

from ..actors import App
from ..actors.machine import Machine, Outputs
from ..runtime.discovery import load_app
from ..runtime.errors import OperatorError
from .condition import Condition
from .decoding import Line
from .fold import apply, begin, check_index, entries_between, fold, restart_in_environment_of
from .history import History, open_history
from .place import parse_place
from .until import first_place


def replay(
    directory: Path,
    /,
    *,
    to: str | None = None,
    until: str | None = None,
    from_: Annotated[str | None, Parameter(name="--from")] = None,
    app: str | None = None,
    pdb: bool = False,
    json: bool = False,
) -> None:
    """Fold a replica's log to a point, and show the state there.

    Parameters
    ----------
    directory
        The replica's directory; nothing is written to it.
    to
        The last command that is applied: INDEX or INDEX.ORDINAL. Default: the end of the log.
    until
        Stop after the first command where this Python expression holds, for example
        'Account["alice"].cents < 0'. It may name the actors and the messages of the app, and of
        the command index, ordinal, time_ns, actor, key, message, status, reply and reason.
    from_
        With --until: the first command to look at. Default: the first that can be folded.
    app
        Fold with this app, as module:attribute. Default: the one that the directory names.
    pdb
        Stop in the debugger in the handler of that command.
    json
        Print the whole state as one JSON object.
    """
    history = open_history(directory)
    restart_in_environment_of(history.identity)
    loaded = load_app(app or history.identity.app)
    index, ordinal = parse_place(to) if to else (history.last, None)
    check_index(history, index)
    if until is not None:
        condition = Condition.compile(until, loaded)
        first, first_ordinal = parse_place(from_) if from_ else (1, None)
        place = (first, first_ordinal or 0)
        index, ordinal = first_place(history, loaded, condition, place, index, ordinal)
    elif from_ is not None:
        raise OperatorError("--from says where --until begins to look: give --until as well.")
    if pdb:
        machine = _debug(history, loaded, index, ordinal)
        if machine is None:
            return
    else:
        machine = fold(history, loaded, index, ordinal)
    if json:
        sys.stdout.buffer.write(msgspec.json.encode(state_of(machine, ordinal)) + b"\n")
    else:
        _print(machine, index, ordinal, history.last)


def state_of(machine: Machine, ordinal: int | None) -> Line:
    """The position, the digests and every actor as plain values."""
    app, state = machine.app, machine.state
    actors: dict[str, list[Line]] = {}
    for type_id, instances in state.actors.items():
        actor = app.actor_types[type_id]
        keys = [app.decode_key(type_id, encoded) for encoded in instances]
        actors[actor.name] = [machine.describe(actor.cls, key) for key in keys]
    return _position(machine, ordinal) | {"actors": actors}


def _position(machine: Machine, ordinal: int | None) -> Line:
    state = machine.state
    return {
        "index": state.index,
        "ordinal": ordinal,
        "time_ns": state.time_ns,
        "state_digest": machine.state_digest().hex(),
        "outputs_digest": f"{machine.digest:08x}",
    }


def _print(machine: Machine, index: int, ordinal: int | None, last: int) -> None:
    place = f"{index}" if ordinal is None else f"{index}.{ordinal}"
    facts = _position(machine, ordinal)
    state = machine.state
    print(f"position        {place} of {last}, log time {facts['time_ns']} ns")
    print(f"state digest    {facts['state_digest']}")
    print(f"outputs digest  {facts['outputs_digest']}")
    counts = [
        f"{len(instances)} {machine.app.actor_types[type_id].name}"
        for type_id, instances in state.actors.items()
    ]
    print(f"actors          {', '.join(counts) or 'none'}, {len(state.quarantined)} quarantined")


# The debugger


@define
class Stop:
    """Opens the debugger when a method of the app begins to run at the wanted place."""

    debugger: pdb.Pdb
    codes: frozenset[CodeType]
    position: memoryview
    index: int
    ordinal: int | None
    reached: bool = field(default=False, init=False)

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        """The trace function: every call is looked at until the place is reached."""
        del argument
        here = (
            event == "call"
            and not self.reached
            and frame.f_code in self.codes
            and self.position[0] == self.index
            and self.ordinal in (None, self.position[1])
        )
        if not here:
            return None
        self.reached = True
        self.debugger.set_trace(frame)
        return self.debugger.trace_dispatch


def _debug(history: History, app: App, index: int, ordinal: int | None) -> Machine | None:
    """Fold with the debugger waiting at the place; None when the person quit it."""
    position = memoryview(bytearray(24)).cast("Q")
    machine = begin(history, app, index - 1, position)
    stop = Stop(pdb.Pdb(nosigint=True), _codes_of(app), position, index, ordinal)
    outputs = Outputs()
    for entry, body in entries_between(history, machine.state.index + 1, index, ordinal):
        outputs.egress.clear()
        if entry.index != index:
            apply(machine, entry, body, outputs)
            continue
        sys.settrace(stop.trace)
        try:
            apply(machine, entry, body, outputs)
        finally:
            sys.settrace(None)
    if not stop.reached:
        place = f"{index}" if ordinal is None else f"{index}.{ordinal}"
        raise OperatorError(
            f"No handler runs at {place}: `leftfold log --from {index} --to {index}` shows it."
        )
    if stop.debugger.quitting:
        print("Left the debugger; the command was not finished, so there is no state to show.")
        return None
    return machine


def _codes_of(app: App) -> frozenset[CodeType]:
    routes = [*app.commands.values(), *app.timers.values()]
    functions: list[Any] = [route.method.function for route in routes]
    return frozenset(function.__code__ for function in functions)
