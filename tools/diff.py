"""`leftfold diff`: where two folds part, by command, by actor and by field.

    leftfold diff DIR --from 100 --to 200            two places of one log: what changed between
    leftfold diff DIR OTHER                          two directories, each with its own log and app
    leftfold diff DIR --app-b other:app              one log, two apps
    leftfold diff DIR --path-a old/ --path-b new/    one log, two versions of the sources

Each side is folded in a process of its own. Two logs, or two apps, are first compared by all that
they put out, from the first command that both can fold: where that parts, the command and both
answers are shown, and the states just there. Where it does not part, the states at the end are.
"""

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import msgspec
from attrs import define, field
from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..runtime.errors import OperatorError
from .decoding import Line
from .fields import Difference, of_actor
from .fold import check_index
from .history import open_history
from .outputs import said, said_command
from .paper import paper
from .place import parse_place
from .progress import progress
from .sides import Side, decode, pairs

EXIT_SAME, EXIT_DIFFERENT = 0, 3
DIFFERENCES_MAX = 1_000
SHOWN_MAX = 40
SHOWN_CHARACTERS = 120

Place = tuple[int, int | None]


def diff(
    directory: Path,
    other: Path | None = None,
    /,
    *,
    from_: Annotated[str | None, Parameter(name="--from")] = None,
    to: str | None = None,
    app_a: str | None = None,
    app_b: str | None = None,
    path_a: Path | None = None,
    path_b: Path | None = None,
    json: bool = False,
) -> int:
    """Show where two folds part: of two places, of two directories, or of two versions of the app.

    Exit code 0: no difference. 3: they differ.

    Parameters
    ----------
    directory
        A replica's directory; nothing is written to it.
    other
        Another replica's directory, of the same cluster or not.
    from_
        One directory: the earlier place, INDEX or INDEX.ORDINAL. Otherwise: the first INDEX to
        compare.
    to
        One directory: the later place; default: the end of its log. Otherwise: the last INDEX to
        compare.
    app_a
        Fold the first side with this app, as module:attribute. Default: the directory's.
    app_b
        Fold the second side with this app.
    path_a
        Where the sources of the first side's app lie. Default: here.
    path_b
        Where the sources of the second side's app lie.
    json
        Print one JSON object.
    """
    a, b = _sides(directory, other, app_a, app_b, path_a, path_b)
    if other is None and (a.app, a.sources) == (b.app, b.sources):
        report = _between_places(a, from_, to)
    else:
        report = _between_folds(a, b, from_, to)
    if json:
        sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
        sys.stdout.buffer.flush()
    else:
        _print(report)
    same = not (report["log"] or report["outputs"] or report["state"]["different_actors"])
    return EXIT_SAME if same else EXIT_DIFFERENT


def _sides(
    directory: Path,
    other: Path | None,
    app_a: str | None,
    app_b: str | None,
    path_a: Path | None,
    path_b: Path | None,
) -> tuple[Side, Side]:
    left = open_history(directory)
    right = left if other is None else open_history(other)
    for path in (path_a, path_b):
        if path is not None and not path.is_dir():
            raise OperatorError(f"{path} is not a directory with the sources of an app.")
    here = Path.cwd()
    return (
        Side("the first side", left, app_a or left.identity.app, (path_a or here).resolve()),
        Side("the second side", right, app_b or right.identity.app, (path_b or here).resolve()),
    )


def _place(place: Place) -> str:
    return f"{place[0]}" if place[1] is None else f"{place[0]}.{place[1]}"


# Two places of one log


def _between_places(side: Side, from_: str | None, to: str | None) -> dict[str, Any]:
    if from_ is None:
        raise OperatorError(
            "There is nothing to compare with: give --from and --to, a second directory, --app-b "
            "or --path-b."
        )
    earlier = parse_place(from_)
    later = parse_place(to) if to else (side.history.last, None)
    for index, _ in (earlier, later):
        check_index(side.history, index)
    report = _sides_of(side, side) | {"compared": None, "log": None, "outputs": None}
    return report | {"state": _states(side, side, earlier, later)}


# Two folds


def _between_folds(a: Side, b: Side, from_: str | None, to: str | None) -> dict[str, Any]:
    first = parse_place(from_)[0] if from_ else _first_of_both(a, b)
    last = min(a.history.last, b.history.last)
    last = min(last, parse_place(to)[0]) if to else last
    for side in (a, b):
        if side.history.earliest is None or side.history.earliest >= first:
            check_index(side.history, max(1, first - 1))
            raise OperatorError(f"{side.label} cannot be folded from entry {first} on.")
    if last < first:
        raise OperatorError(f"There is nothing to compare: no entry from {first} to {last}.")
    log_parts, outputs_part = _first_parting(a, b, first, last)
    report: dict[str, Any] = _sides_of(a, b) | {
        "compared": {"from": first, "to": last, "last_a": a.history.last, "last_b": b.history.last},
        "log": None,
        "outputs": None,
    }
    if log_parts is not None:
        report["log"] = {"index": log_parts} | _commands_of(a, b, log_parts)
    place: Place = (last, None)
    if outputs_part is not None:
        report["outputs"], place = _outputs(a, b, outputs_part)
    return report | {"state": _states(a, b, place, place)}


def _first_of_both(a: Side, b: Side) -> int:
    """The first entry that both can fold."""
    for side in (a, b):
        if side.history.earliest is None:
            check_index(side.history, side.history.first)
    return 1 + max(a.history.earliest or 0, b.history.earliest or 0)


def _first_parting(a: Side, b: Side, first: int, last: int) -> tuple[int | None, int | None]:
    """The first entry that is not the same, and the first that has other outputs."""
    log_parts: int | None = None
    with (
        a.trace("outputs", first, last) as left,
        b.trace("outputs", first, last) as right,
        progress("comparing", last - first + 1, "entries") as advance,
    ):
        for one, two in zip(left.marks(), right.marks(), strict=True):
            index = one[0]
            assert index == two[0]
            if log_parts is None and one[1] != two[1]:
                log_parts = index
            if one[2] != two[2]:
                if index < first:
                    raise OperatorError(
                        f"The outputs part before entry {first}, the first that both sides can "
                        "fold: compare with a directory, or a backup, that goes back further."
                    )
                return log_parts, index
            advance(index - first + 1)
    return log_parts, None


def _commands_of(a: Side, b: Side, index: int) -> dict[str, Any]:
    """The first commands of one entry that differ."""
    left, right = a.commands(index), b.commands(index)
    for ordinal in sorted(left.keys() | right.keys()):
        one, two = left.get(ordinal), right.get(ordinal)
        if _without_outputs(one) != _without_outputs(two):
            return {"ordinal": ordinal, "a": _without_outputs(one), "b": _without_outputs(two)}
    return {"ordinal": None, "a": None, "b": None}


def _without_outputs(line: Line | None) -> Line | None:
    if line is None:
        return None
    return {name: value for name, value in line.items() if name not in ("outputs", "term")}


def _outputs(a: Side, b: Side, index: int) -> tuple[dict[str, Any], Place]:
    """The first command of an entry that is answered differently, and its place."""
    left, right = a.commands(index), b.commands(index)
    for ordinal in sorted(left.keys() | right.keys()):
        one, two = left.get(ordinal), right.get(ordinal)
        outputs = [None if line is None else line["outputs"] for line in (one, two)]
        if outputs[0] != outputs[1]:
            break
    else:
        raise AssertionError(f"the outputs of entry {index} differ, and none of its commands does")
    command = _without_outputs(one or two)
    assert command is not None
    whole = command["kind"] not in ("command", "open", "close")
    report = {"index": index, "ordinal": ordinal, "command": command}
    report |= {"a": outputs[0], "b": outputs[1]}
    return report, (index, None if whole else ordinal)


# The states


def _states(a: Side, b: Side, at_a: Place, at_b: Place) -> dict[str, Any]:
    """How the states at two places differ."""
    with a.trace("state", *at_a) as left, b.trace("state", *at_b) as right:
        left_lines, right_lines = left.lines(), right.lines()
        heads = {"a": decode(next(left_lines)), "b": decode(next(right_lines))}
        found = Found()
        for one, two in pairs(left_lines, right_lines):
            found.add(of_actor(one, two))
    return heads | {
        "different_actors": found.actors,
        "differences": [difference.line() for difference in found.differences],
        "left_out": found.left_out,
    }


@define
class Found:
    """The first differences, and how many there are."""

    actors: int = 0
    differences: list[Difference] = field(factory=list[Difference])
    left_out: int = 0

    def add(self, of_one_actor: Iterator[Difference]) -> None:
        """Those of one actor more."""
        room = DIFFERENCES_MAX - len(self.differences)
        self.differences += islice(of_one_actor, room)
        self.left_out += sum(1 for _ in of_one_actor)
        self.actors += 1


def _sides_of(a: Side, b: Side) -> dict[str, Any]:
    return {
        name: {
            "directory": str(side.history.directory),
            "app": side.app,
            "sources": str(side.sources),
        }
        for name, side in (("a", a), ("b", b))
    }


# What a person reads


def _print(report: dict[str, Any]) -> None:
    console = paper(soft_wrap=True, markup=False)
    compared = report["compared"]
    if compared:
        console.print(f"A  {_named(report['a'])}\nB  {_named(report['b'])}")
        _print_log(console, report)
        outputs = report["outputs"]
        if outputs:
            console.print(
                f"The outputs part at {outputs['index']}.{outputs['ordinal']}: "
                f"{said_command(outputs['command'])}"
            )
            for name in ("a", "b"):
                given: list[Line] = outputs[name] or []
                for output in given:
                    console.print(f"  {name.upper()}  {said(output)}")
        else:
            console.print(f"The outputs are the same from {compared['from']} to {compared['to']}.")
    _print_states(console, report["state"])


def _named(side: dict[str, str]) -> str:
    return f"{side['app']} from {side['sources']}, log of {side['directory']}"


def _print_log(console: Console, report: dict[str, Any]) -> None:
    log, compared = report["log"], report["compared"]
    if log and log["ordinal"] is not None:
        console.print(f"The logs part at {log['index']}.{log['ordinal']}:")
        for name in ("a", "b"):
            line = log[name]
            console.print(f"  {name.upper()}  {said_command(line) if line else 'nothing'}")
    elif log:
        console.print(f"The logs part at {log['index']}, in log time.")
    if compared["last_a"] != compared["last_b"]:
        console.print(
            f"A's log ends with {compared['last_a']}, B's with {compared['last_b']}; "
            f"{compared['to']} is the last that is compared."
        )


def _print_states(console: Console, state: dict[str, Any]) -> None:
    a, b = (_place((state[name]["index"], state[name]["ordinal"])) for name in ("a", "b"))
    where = f"at {a}" if a == b else f"from {a} to {b}"
    if not state["different_actors"]:
        console.print(f"No actor differs {where}.")
        return
    count = state["different_actors"]
    console.print(f"{count} actors differ {where}:" if count > 1 else f"One actor differs {where}:")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("actor", "key", "field", f"A, {a}", f"B, {b}"):
        table.add_column(heading, overflow="fold")
    for one in state["differences"][:SHOWN_MAX]:
        cells = (one["actor"], str(one["key"]), one["field"], _short(one["a"]), _short(one["b"]))
        table.add_row(*(escape(cell) for cell in cells))
    console.print(table)
    more = len(state["differences"]) - SHOWN_MAX + state["left_out"]
    if more > 0:
        console.print(f"and {more} fields more; --json has the first {DIFFERENCES_MAX}.")


def _short(value: Any) -> str:
    text = value if value == "absent" else repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
