"""One side of a comparison: what an app makes of a log, written to stdout for `diff.py` to read.

python -P -m leftfold.tools.trace outputs DIRECTORY APP SOURCES FIRST LAST
    a MARK for each entry: what it is, and the digest of all outputs up to it
python -P -m leftfold.tools.trace entry DIRECTORY APP SOURCES INDEX
    a JSON line for each command of one entry, with its outputs
python -P -m leftfold.tools.trace answers DIRECTORY APP SOURCES FIRST LAST
    for each command of these entries, and each entry of timers: INDEX ORDINAL, a JSON line that says what it is, and one
    with its outputs, with tabs between
python -P -m leftfold.tools.trace build DIRECTORY APP SOURCES
    the app's build
python -P -m leftfold.tools.trace state DIRECTORY APP SOURCES INDEX [ORDINAL]
    a JSON line about the state there, then one for each actor, by type and key
"""

import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from ..actors import App
from ..actors.layout import EntryKind
from ..actors.machine import Machine, Outputs
from ..runtime.build import build_of
from ..runtime.discovery import load_app
from ..runtime.errors import OperatorError
from .decoding import Line, lines_of
from .fold import advance_to, apply, begin, check_index, entries_between, fold
from .history import History, open_history
from .outputs import by_ordinal, describe

MARK = struct.Struct("<QII")
"""The index, a crc of the entry (kind, log time and body), and the machine's digest of outputs."""
ENTRY_HEAD = struct.Struct("<Hq")


def main() -> int:
    """Write what was asked for; a sentence on stderr and code 1 where it cannot be had."""
    verb, directory, name, sources, *rest = sys.argv[1:]
    try:
        app = load_app(name, Path(sources))
        history = open_history(Path(directory))
        numbers = [int(number) for number in rest]
        if verb == "build":
            sys.stdout.write(build_of(app, name.partition(":")[0]))
            return 0
        verbs: dict[str, Any] = {
            "outputs": marks,
            "entry": commands,
            "answers": answers,
            "state": actors,
        }
        for piece in verbs[verb](history, app, *numbers):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    except OperatorError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stdout = None
        return 0
    return 0


def marks(history: History, app: App, first: int, last: int) -> Iterator[bytes]:
    """A mark for the state before `first`, and one for each entry from there to `last`."""
    machine = begin(history, app, first - 1)
    advance_to(machine, history, first - 1)
    yield MARK.pack(first - 1, 0, machine.digest)
    outputs = Outputs()
    for entry, body in entries_between(history, first, last):
        apply(machine, entry, body, outputs)
        outputs.egress.clear()
        content = zlib.crc32(body, zlib.crc32(ENTRY_HEAD.pack(entry.kind, entry.time_ns)))
        yield MARK.pack(entry.index, content, machine.digest)


def commands(history: History, app: App, index: int) -> Iterator[bytes]:
    """The commands of one entry with what each put out."""
    machine = fold(history, app, index - 1) if index > 1 else begin(history, app, 0)
    for line, slots in _put_out(machine, history, index, index):
        shown = [describe(slot, app) | {"raw": bytes(slot).hex()} for slot in slots]
        yield _line(line | {"outputs": shown})


def answers(history: History, app: App, first: int, last: int) -> Iterator[bytes]:
    """What each command of a run of entries is, and what it put out."""
    machine = begin(history, app, first - 1)
    advance_to(machine, history, first - 1)
    for line, slots in _put_out(machine, history, first, last):
        if slots:
            shown = msgspec.json.encode([describe(slot, app) for slot in slots])
            said = msgspec.json.encode(line)
            yield b"%d %d\t%b\t%b\n" % (line["index"], line["ordinal"], said, shown)


def _put_out(
    machine: Machine, history: History, first: int, last: int
) -> Iterator[tuple[Line, list[memoryview]]]:
    """Fold on through these entries: each command, with its output slots."""
    outputs = Outputs()
    for entry, body in entries_between(history, first, last):
        apply(machine, entry, body, outputs)
        lines = {line.get("ordinal", 0): line for line in lines_of(entry, body, machine.app)}
        found = by_ordinal(entry, body, bytes(outputs.egress))
        outputs.egress.clear()
        if entry.kind != EntryKind.COMMANDS:
            whole = lines.pop(0)
            lines = {ordinal: whole | {"ordinal": ordinal} for ordinal in found or (0,)}
        for ordinal, line in lines.items():
            yield line, found.get(ordinal, [])


def actors(history: History, app: App, index: int, ordinal: int | None = None) -> Iterator[bytes]:
    """The state at a place: its figures, then every actor in the order of type and key."""
    check_index(history, index)
    machine = fold(history, app, index, ordinal)
    state = machine.state
    yield _line(
        {
            "index": index,
            "ordinal": ordinal,
            "time_ns": state.time_ns,
            "state_digest": machine.state_digest().hex(),
            "outputs_digest": f"{machine.digest:08x}",
            "sessions": len(state.sessions),
            "timers": len(state.timers.by_id),
            "events": len(state.events),
        }
    )
    for name, encoded, type_id in sorted(_keys(machine)):
        key = app.decode_key(type_id, encoded)
        described = _line(machine.describe(app.actor_types[type_id].cls, key))
        yield f"{name}\t{encoded.hex()}\t".encode() + described


def _keys(machine: Machine) -> Iterator[tuple[str, bytes, int]]:
    for type_id, instances in machine.state.actors.items():
        name = machine.app.actor_types[type_id].name
        for encoded in instances:
            yield name, encoded, type_id


def _line(line: Line) -> bytes:
    return msgspec.json.encode(line) + b"\n"


if __name__ == "__main__":
    sys.exit(main())
