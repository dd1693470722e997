"""What `--accept-build` accepts: the tail that another build wrote, and what of it this code answers differently.

The log holds what was asked and not what was answered; so what was answered is known only by folding the tail with the code
that did. Where its sources are at hand, both fold, and every command is compared; that they are those sources is checked by
their build. Where they are not, the commands that this code refuses or fails are all that can be told, and it is said so.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from attrs import asdict, frozen

from ..actors import App
from ..raft import TERM_START
from ..runtime.build import build_of
from ..runtime.errors import OperatorError
from ..runtime.snapshotfile import read_header
from ..runtime.tail import COMMANDS, TIME
from .decoding import Line
from .history import History, open_history
from .outputs import said, said_command
from .progress import progress
from .sides import Side

SHOWN_MAX = 40


@frozen
class Stretch:
    """Entries behind the newest snapshot that one other build wrote."""

    first: int
    last: int
    build: str
    more: int
    """How many entries of other builds follow on it, which no comparison of two sources reaches."""


def say_what_differs(
    directory: Path, name: str, app: App, old_sources: Path | None, *, json: bool
) -> None:
    """Before a replica starts: list what its tail would be answered otherwise. Nothing, if there is no such tail."""
    if not (directory / "identity.json").exists():
        return
    history = open_history(directory)
    stretch = other_build(history, build_of(app, name.partition(":")[0]))
    if stretch is None:
        return
    new = Side("this code", history, name, Path.cwd())
    if old_sources is None:
        _say(stretch, _unanswered(new, stretch), json, compared=False)
        return
    if not old_sources.is_dir():
        raise OperatorError(f"{old_sources} is not a directory with the sources of an app.")
    old = Side("the old code", history, name, old_sources.resolve())
    _check_build(old, stretch)
    _say(stretch, _differences(old, new, stretch), json, compared=True)


def other_build(history: History, own: str) -> Stretch | None:
    """The first stretch behind the newest snapshot that was written under another build and ran its code."""
    newest = max(history.snapshots, default=0)
    build = read_header(history.snapshots[newest].now).build if newest else ""
    first = last = more = 0
    found = ""
    for entry, body in history.entries(newest + 1, history.last):
        if entry.kind == TERM_START:
            build = bytes(body).decode(errors="replace")
        elif entry.kind in (COMMANDS, TIME) and build not in ("", own):
            if build == (found or build) and not more:
                first, last, found = first or entry.index, entry.index, build
            else:
                more += 1
    return Stretch(first, last, found, more) if found else None


def _check_build(old: Side, stretch: Stretch) -> None:
    with old.trace("build") as trace:
        build = b"".join(trace.lines()).decode()
    if build.partition(" ")[0] != stretch.build.partition(" ")[0]:
        raise OperatorError(
            f"{old.sources} holds build {build} of the app, and entries {stretch.first} to {stretch.last} were written "
            f"under build {stretch.build}: check out the sources that ran then."
        )
    if build != stretch.build:
        note = f"The old code runs as {build} here, and ran as {stretch.build}: what it answers may differ by that."
        print(note, file=sys.stderr)


# What is answered differently


@frozen
class Answer:
    """A command and what it put out, both as JSON."""

    place: tuple[int, int]
    command: bytes
    outputs: bytes


@frozen
class Difference:
    """One command, and its answers by the old code and by this one; the old ones None where nobody knows."""

    index: int
    ordinal: int
    command: Line
    old: list[Line] | None
    new: list[Line]

    def sentence(self) -> str:
        """As a person reads it."""
        was = "" if self.old is None else f"was {_said(self.old)}, "
        command = said_command(self.command)
        return f"  {self.index}.{self.ordinal}  {command}: {was}would be {_said(self.new)}"


def _said(outputs: list[Line]) -> str:
    return "; ".join(map(said, outputs)) or "nothing"


def _answers(side: Side, stretch: Stretch) -> Iterator[Answer]:
    with side.trace("answers", stretch.first, stretch.last) as trace:
        for line in trace.lines():
            place, command, outputs = line.rstrip(b"\n").split(b"\t")
            index, ordinal = place.split()
            yield Answer((int(index), int(ordinal)), command, outputs)


def _differences(old: Side, new: Side, stretch: Stretch) -> Iterator[Difference]:
    answers = _answers(old, stretch), _answers(new, stretch)
    heads = [next(each, None) for each in answers]
    while present := [head for head in heads if head is not None]:
        # A timer may put out something on one side alone.
        place = min(head.place for head in present)
        here = [head for head in present if head.place == place]
        was, now = (
            head.outputs if head is not None and head.place == place else b"[]" for head in heads
        )
        if was != now:
            yield Difference(*place, *map(_decoded, (here[0].command, was, now)))
        heads = [
            next(each, None) if head in here else head
            for each, head in zip(answers, heads, strict=True)
        ]


def _unanswered(new: Side, stretch: Stretch) -> Iterator[Difference]:
    """What gets no answer from this code but an error or a refusal: that much is known of one side alone."""
    for answer in _answers(new, stretch):
        given = _decoded(answer.outputs)
        if any(output.get("status", "OK") != "OK" for output in given):
            yield Difference(*answer.place, _decoded(answer.command), None, given)


def _decoded(text: bytes) -> Any:
    return msgspec.json.decode(text)


def _say(stretch: Stretch, found: Iterator[Difference], json: bool, *, compared: bool) -> None:
    """The first of them, and how many there are."""
    shown: list[Difference] = []
    count = 0
    first, last = stretch.first, stretch.last
    with progress("comparing answers", last - first + 1, "entries") as advance:
        for difference in found:
            count += 1
            if count <= SHOWN_MAX:
                shown.append(difference)
            advance(difference.index - first + 1)
    if json:
        facts = asdict(stretch) | {"compared": compared, "commands": count}
        facts |= {"event": "accepted", "shown": [asdict(one) for one in shown]}
        print(msgspec.json.encode(facts).decode(), flush=True)
        return
    commands = f"{count or 'no'} command{'' if count == 1 else 's'}"
    what = f"answers {commands} differently" if compared else f"refuses or fails {commands}"
    of = f"Of entries {first} to {last}, written under build {stretch.build}, this code {what}"
    lines = [
        of + (":" if count else "."),
        *(one.sentence() for one in shown),
    ]
    if count > len(shown):
        lines.append(f"  and {count - len(shown)} more.")
    if stretch.more:
        lines.append(f"{stretch.more} entries behind them, of other builds too, are not compared.")
    if not compared:
        lines.append(
            "What was answered then is recorded nowhere, the log holds commands: give the sources of the old code, "
            "--old-sources DIRECTORY, and every answer is compared."
        )
    print("\n".join(lines), file=sys.stderr, flush=True)
