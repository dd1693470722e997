"""`leftfold log`: the journal as JSON lines, one for each command; `leftfold log stat` is beside it.

It pipes: into jq, into `head`, into a file. With `--app`, or with the app that the directory names
where it can be imported, commands are decoded; otherwise they are numbers and hex.
"""

import difflib
import sys
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import App as Commands
from cyclopts import Parameter

from ..actors import App
from ..runtime.errors import OperatorError
from .decoding import KINDS, Line, app_of, lines_of
from .history import open_history
from .logstat import stat
from .place import parse_place


def log(
    directory: Path,
    /,
    *,
    from_: Annotated[str | None, Parameter(name="--from")] = None,
    to: str | None = None,
    type: str | None = None,
    app: str | None = None,
) -> None:
    """Print a replica's log as JSON lines, one for each command.

    A running replica's directory may be read; nothing is written to it.

    Parameters
    ----------
    directory
        The replica's directory.
    from_
        The first place to print: INDEX or INDEX.ORDINAL.
    to
        The last place to print: INDEX or INDEX.ORDINAL.
    type
        Print only messages of this class (or with this number), or only entries of this kind:
        open, close, time, term_start, skip.
    app
        Decode with this app, as module:attribute. Default: the one that the directory names.
    """
    history = open_history(directory)
    decoder = app_of(history, app)
    wanted = _type_filter(type, decoder)
    first, first_ordinal = parse_place(from_) if from_ else (history.first, None)
    last, last_ordinal = parse_place(to) if to else (history.last, None)
    if (
        from_
        and to
        and (first, first_ordinal or 0) > (last, inf if last_ordinal is None else last_ordinal)
    ):
        raise OperatorError(f"--from {from_} lies behind --to {to}: nothing is between them.")
    encode = msgspec.json.Encoder().encode
    output = sys.stdout.buffer
    for entry, body in history.entries(first, last):
        for line in lines_of(entry, body, decoder):
            ordinal = line.get("ordinal", 0)
            if entry.index == first and first_ordinal is not None and ordinal < first_ordinal:
                continue
            if entry.index == last and last_ordinal is not None and ordinal > last_ordinal:
                continue
            if wanted(line):
                output.write(encode(line) + b"\n")
    output.flush()


def _type_filter(name: str | None, app: App | None) -> Callable[[Line], bool]:
    if name is None:
        return lambda line: True
    if name in KINDS:
        return lambda line: line["kind"] == name
    if name.isdecimal():
        numbers = {int(name)}
    elif app is None:
        raise OperatorError(
            f"Without an app there are no names: give {name} by its number, or --app."
        )
    else:
        numbers = _numbers_of(name, app)
    names = (
        {app.messages[number].__name__ for number in numbers if number in app.messages}
        if app
        else set[str]()
    )
    return lambda line: line.get("message_id") in numbers or line.get("message") in names


def _numbers_of(name: str, app: App) -> set[int]:
    numbers = {number for number, message in app.messages.items() if message.__name__ == name}
    if numbers:
        return numbers
    known = sorted({route.message.__name__ for route in app.commands.values()} | set(KINDS))
    close = difflib.get_close_matches(name, known, 1)
    remedy = f"did you mean {close[0]}?" if close else f"it has {', '.join(known)}."
    raise OperatorError(f"The log has no type {name}: {remedy}")


logs = Commands(name="log")
logs.default(log)
logs.command(stat)
