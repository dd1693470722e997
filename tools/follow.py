"""`leftfold trace`: one command on its way through the processes, found by its session and request number.

What the log says of it is there for as long as the log is kept: its place, its log time, what it shared an entry and a batch on disk
with, and, by folding, its reply. How long it took to be durable and applied is known of the last entries that this replica led.
"""

import json as json_module
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
from rich.table import Table

from ..actors.layout import COMMAND, EntryKind, SlotType
from ..runtime.errors import OperatorError
from ..runtime.slots import EntryHeader, slots_of
from ..runtime.trail import FOLLOWED, took_ns, trail_name_of
from ..shm import Counters, ShmError
from .decoding import Line, app_of, lines_of
from .history import History, open_history
from .outputs import said, said_command
from .paper import paper
from .ranges import REQUEST_MAX, between
from .tables import shown_ns
from .trace import commands

SESSION = re.compile(r"[0-9a-fA-F]{32}")


def trace(
    directory: Path,
    session: str,
    request: Annotated[int, between(1, REQUEST_MAX)],
    /,
    *,
    app: str | None = None,
    json: bool = False,
) -> None:
    """Follow one command through a replica by its session and request number.

    Parameters
    ----------
    directory
        The replica's directory; it may run.
    session
        The session, 32 digits of hex, as `leftfold log` shows it.
    request
        The request's number in the session.
    app
        The app, module:attribute; else that of the directory.
    json
        Print one JSON object.
    """
    if not SESSION.fullmatch(session):
        raise OperatorError(
            f"{session!r} is not a session: give its 32 digits of hex, as `leftfold log` shows them."
        )
    history = open_history(directory)
    found = follow(history, bytes.fromhex(session), request, app)
    if json:
        print(json_module.dumps(found, indent=2))
    else:
        paper().print(_table(found))


def follow(history: History, session: bytes, request: int, name: str | None) -> dict[str, Any]:
    """All that is known of it. Raises OperatorError where the log does not hold it."""
    places = list(find(history, session, request))
    if not places:
        raise OperatorError(
            f"Request {request} of session {session.hex()} is not in the log, which goes from entry "
            f"{history.first} to {history.last}: it never came, was refused, or is older than what is kept."
        )
    entry, body, ordinal = places[0]
    app = app_of(history, name)
    lines = list(lines_of(entry, body, app))
    batch = _batch_of(history, entry.index)
    reply: Line | None = None
    if app is not None and history.earliest is not None and entry.index > history.earliest:
        applied = [msgspec.json.decode(line) for line in commands(history, app, entry.index)]
        reply = next(line for line in applied if line.get("ordinal") == ordinal)["outputs"][-1]
        reply = {name: value for name, value in (reply or {}).items() if name != "raw"}
    return {
        "session": session.hex(),
        "request": request,
        "command": lines[ordinal],
        "entry": {"index": entry.index, "commands": len(lines), "body_bytes": len(body)},
        "batch": batch,
        "sent_again": [f"{again.index}.{at}" for again, _, at in places[1:]],
        "reply": reply,
        "took_ns": timings(history.directory, entry.index),
    }


def find(
    history: History, session: bytes, request: int
) -> Iterator[tuple[EntryHeader, memoryview, int]]:
    """(entry, body, ordinal) of each time that the log holds it: the first was applied."""
    for entry, body in history.entries(history.first, history.last):
        # Most entries hold nothing of this session: they are not taken apart.
        if entry.kind != EntryKind.COMMANDS or session not in bytes(body):
            continue
        for ordinal, (kind, _, slot) in enumerate(slots_of(body)):
            fields = COMMAND.unpack_from(slot) if kind == SlotType.COMMAND else None
            if fields is not None and fields[3] == session and fields[4] == request:
                yield entry, body, ordinal


def timings(directory: Path, index: int) -> dict[str, int]:
    """How long the entry took from its sequencing on, as far as the replica's figures still say so."""
    try:
        words = Counters.read(directory / "counters")["consensus"].words
    except (OSError, ShmError, KeyError):
        return {}
    found = {
        name.removesuffix("_ns"): took_ns(words[trail_name_of(name)], index)
        for name in FOLLOWED
        if trail_name_of(name) in words
    }
    return {name: took for name, took in found.items() if took is not None}


def _batch_of(history: History, index: int) -> dict[str, int] | None:
    """What was written and synced together; of several, the last: the others were overwritten."""
    found = None
    for first, last, body_bytes in history.records():
        if first and first <= index <= last:
            found = {"first": first, "last": last, "bytes": body_bytes}
    return found


def _table(found: dict[str, Any]) -> Table:
    command, entry, batch = found["command"], found["entry"], found["batch"]
    seconds, rest_ns = divmod(command["time_ns"], 1_000_000_000)
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("command", said_command(command))
    table.add_row("from", f"session {found['session']}, request {found['request']}")
    table.add_row("sequenced", f"{entry['index']}.{command['ordinal']}, term {command['term']}")
    table.add_row("log time", f"{at}.{rest_ns:09} UTC")
    table.add_row("in an entry of", f"{entry['commands']} commands, {entry['body_bytes']} bytes")
    if batch:
        table.add_row(
            "written in a batch of",
            f"entries {batch['first']} to {batch['last']}, {batch['bytes']} bytes",
        )
    for name, took in found["took_ns"].items():
        table.add_row(name.replace("_", " "), shown_ns(took))
    if not found["took_ns"]:
        table.add_row("times", "none: it is not one of the last entries that this replica led")
    table.add_row("reply", said(found["reply"]) if found["reply"] else "not known without the app")
    if found["sent_again"]:
        table.add_row("sent again as", ", ".join(found["sent_again"]))
    return table
