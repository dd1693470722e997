"""`leftfold log stat`: what fills a log, by message type, by actor type and by session.

Every byte of the journal's batches has one place: the *body* of a command is what the application
encoded; everything else is *overhead*: the command's head, its key, the padding to 8 bytes, the head
of its entry, the head of its batch, and what is no command at all. Segments' headers and the zeros
that wait to be written are not counted.
"""

import sys
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import msgspec
from attrs import define, field
from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..actors import App
from ..actors.layout import COMMAND, EntryKind, SlotType
from ..runtime.records import RECORD_HEADER_BYTES
from ..runtime.slots import ENTRY_HEADER_BYTES, padded, slots_of
from .decoding import NAMES, SESSION_KINDS, app_of
from .history import History, open_history
from .paper import paper
from .place import parse_place
from .progress import progress

ROWS_SHOWN = 20


def stat(
    directory: Path,
    /,
    *,
    from_: Annotated[str | None, Parameter(name="--from")] = None,
    to: str | None = None,
    app: str | None = None,
    json: bool = False,
) -> None:
    """Show what fills a replica's log: by message type, by actor type and by session.

    A running replica's directory may be read; nothing is written to it.

    Parameters
    ----------
    directory
        The replica's directory.
    from_
        The first entry to count, by its INDEX. Default: the first that is kept.
    to
        The last entry to count, by its INDEX. Default: the last.
    app
        Name things by this app, as module:attribute. Default: the one that the directory names.
    json
        Print one JSON object, with every session.
    """
    history = open_history(directory)
    first = parse_place(from_)[0] if from_ else history.first
    last = parse_place(to)[0] if to else history.last
    usage = count(history, max(first, history.first), min(last, history.last))
    report = usage.report(app_of(history, app))
    if json:
        sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
        sys.stdout.buffer.flush()
    else:
        _print(report)


@define
class Share:
    """What one kind of thing takes."""

    count: int = 0
    body_bytes: int = 0
    slot_bytes: int = 0

    def add(self, body_bytes: int, slot_bytes: int) -> None:
        """One more of them."""
        self.count += 1
        self.body_bytes += body_bytes
        self.slot_bytes += slot_bytes

    def merge(self, other: "Share") -> None:
        """Those of another share too."""
        self.count += other.count
        self.body_bytes += other.body_bytes
        self.slot_bytes += other.slot_bytes

    def line(self, log_bytes: int) -> dict[str, Any]:
        """As plain values; `share` is that of all the log's bytes."""
        return {
            "commands": self.count,
            "body_bytes": self.body_bytes,
            "overhead_bytes": self.slot_bytes - self.body_bytes,
            "share": round(self.slot_bytes / log_bytes, 6) if log_bytes else 0.0,
        }


def _shares() -> "defaultdict[Any, Share]":
    return defaultdict(Share)


@define
class Usage:
    """The sums over a stretch of a log."""

    first: int
    last: int
    entries: dict[str, int] = field(factory=dict[str, int], init=False)
    messages: "defaultdict[int, Share]" = field(factory=_shares, init=False)
    """Commands, by message id."""
    sessions: "defaultdict[bytes, Share]" = field(factory=_shares, init=False)
    """The same commands, by session id."""
    openings: "defaultdict[str, Share]" = field(factory=_shares, init=False)
    """Openings and closings of sessions, which are no commands."""
    key_bytes: int = field(default=0, init=False)
    padding_bytes: int = field(default=0, init=False)
    other_bytes: int = field(default=0, init=False)
    """The bodies of entries that hold no commands."""
    batches: int = field(default=0, init=False)
    state_bytes: int = field(default=0, init=False)
    """Term, vote and commit between the entries, and entries that were overwritten; known of a
    whole log only."""

    @property
    def commands(self) -> Share:
        """All commands together."""
        found = Share()
        for share in self.messages.values():
            found.merge(share)
        return found

    def breakdown(self) -> dict[str, int]:
        """Every byte once, by its purpose."""
        commands = self.commands
        return {
            "body": commands.body_bytes,
            "command_heads": commands.count * COMMAND.size,
            "keys": self.key_bytes,
            "padding": self.padding_bytes,
            "session_openings": sum(share.slot_bytes for share in self.openings.values()),
            "entry_heads": sum(self.entries.values()) * ENTRY_HEADER_BYTES,
            "other_entries": self.other_bytes,
            "batch_heads": self.batches * RECORD_HEADER_BYTES,
            "term_vote_commit": self.state_bytes,
        }

    def report(self, app: App | None) -> dict[str, Any]:
        """As plain values, the largest first."""
        parts = self.breakdown()
        log_bytes, commands = sum(parts.values()), self.commands
        actors: defaultdict[str, Share] = defaultdict(Share)
        messages: list[dict[str, Any]] = []
        for message_id, share in _largest(self.messages):
            route = None if app is None else app.commands.get(message_id)
            message = f"message {message_id}" if route is None else route.message.__name__
            actor = "unknown" if route is None else route.actor.name
            actors[actor].merge(share)
            messages.append({"message": message, "actor": actor} | share.line(log_bytes))
        per_command = {
            name: round(size / max(1, commands.count), 3) for name, size in parts.items()
        }
        return {
            "first": self.first,
            "last": self.last,
            "entries": self.entries,
            "batches": self.batches,
            "commands": commands.count,
            "bytes": log_bytes,
            "bytes_by_purpose": parts,
            "bytes_per_command": per_command,
            "bytes_per_command_over_the_body": round(
                (log_bytes - commands.body_bytes) / max(1, commands.count), 3
            ),
            "messages": messages,
            "actors": [{"actor": name} | share.line(log_bytes) for name, share in _largest(actors)],
            "sessions": [
                {"session": session.hex()} | share.line(log_bytes)
                for session, share in _largest(self.sessions)
            ],
        }


def _largest(shares: "defaultdict[Any, Share]") -> list[tuple[Any, Share]]:
    return sorted(shares.items(), key=lambda item: (-item[1].slot_bytes, item[0]))


def count(history: History, first: int, last: int) -> Usage:
    """Go through the entries from `first` to `last` once."""
    usage = Usage(first, last)
    entry_bytes = 0
    with progress("counting", max(0, last - first + 1), "entries") as advance:
        for entry, body in history.entries(first, last):
            kind = NAMES.get(EntryKind(entry.kind), "commands")
            usage.entries[kind] = usage.entries.get(kind, 0) + 1
            entry_bytes += ENTRY_HEADER_BYTES + padded(len(body))
            if entry.kind == EntryKind.COMMANDS:
                _count_commands(usage, body)
            else:
                usage.other_bytes += padded(len(body))
            advance(entry.index - first)
    batches_bytes = 0
    for first_of_batch, last_of_batch, size in history.records():
        batches_bytes += size
        if (first_of_batch or last_of_batch) <= last and last_of_batch >= first:
            usage.batches += 1
    if (first, last) == (history.first, history.last):
        usage.batches = sum(1 for _ in history.records())
        usage.state_bytes = batches_bytes - entry_bytes
    return usage


def _count_commands(usage: Usage, body: memoryview) -> None:
    for kind, tag, slot in slots_of(body):
        _, _, _, session, _, _, key_bytes, _ = COMMAND.unpack_from(slot)
        size = len(slot)
        if kind != SlotType.COMMAND:
            usage.openings[SESSION_KINDS[SlotType(kind)]].add(0, padded(size))
            continue
        body_bytes = size - COMMAND.size - key_bytes
        usage.messages[tag].add(body_bytes, padded(size))
        usage.sessions[session].add(body_bytes, padded(size))
        usage.key_bytes += key_bytes
        usage.padding_bytes += padded(size) - size


def _print(report: dict[str, Any]) -> None:
    console = paper(soft_wrap=True)
    entries: dict[str, int] = report["entries"]
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in entries.items()) or "none"
    console.print(f"entries   {report['first']} to {report['last']}: {kinds}")
    console.print(f"bytes     {report['bytes']:,} in {report['batches']:,} batches")
    console.print(
        f"commands  {report['commands']:,}, each "
        f"{report['bytes_per_command']['body']:.1f} bytes of body and "
        f"{report['bytes_per_command_over_the_body']:.1f} bytes over it"
    )
    over = {name: size for name, size in report["bytes_per_command"].items() if name != "body"}
    shown = [f"{name.replace('_', ' ')} {size:.1f}" for name, size in over.items() if size]
    console.print(f"          over it: {', '.join(shown) or 'nothing'}")
    for name in ("messages", "actors", "sessions"):
        _print_table(console, name, report[name])


def _print_table(console: Console, name: str, lines: list[dict[str, Any]]) -> None:
    if not lines:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    labels = [label for label in lines[0] if isinstance(lines[0][label], str)]
    for label in labels:
        table.add_column(label, overflow="fold")
    for heading in ("commands", "body bytes", "overhead", "share"):
        table.add_column(heading, justify="right")
    for line in lines[:ROWS_SHOWN]:
        figures = (line["commands"], line["body_bytes"], line["overhead_bytes"])
        table.add_row(
            *(escape(line[label]) for label in labels),
            *(f"{figure:,}" for figure in figures),
            f"{100 * line['share']:.1f} %",
        )
    console.print()
    console.print(table)
    if len(lines) > ROWS_SHOWN:
        console.print(f"and {len(lines) - ROWS_SHOWN:,} {name} more; --json has them all.")
