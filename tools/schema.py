"""`leftfold schema`: the classes of an app as a file that is kept beside them, and what a change breaks.

    leftfold schema freeze bank:app     writes schema.json; commit it
    leftfold schema check bank:app      in CI: fails if the app would refuse or misread what is stored
    leftfold schema show bank:app       the messages, the actors and their fields, to look at

The file remembers ids that were given up, so that no other class takes them. What a change does is
compared in actors/compatibility.py; here are files, texts and exit codes.
"""

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from cyclopts import App as Commands
from cyclopts import Parameter

from ..actors import App
from ..actors.compatibility import Incompatibility, compare, decode_schema, kept
from ..actors.schema import text_of
from ..runtime.discovery import load_app
from ..runtime.errors import OperatorError

Schema = dict[str, Any]
DEFAULT_FILE = Path("schema.json")
SCHEMA_BYTES_MAX = 64 << 20


def freeze(
    app: str, /, *, file: Path = DEFAULT_FILE, accept: bool = False, json: bool = False
) -> int:
    """Write the app's schema to a file, to be kept with its sources.

    Exit code 1, and the file as it was, if the app would refuse or misread what the schema in the
    file describes.

    Parameters
    ----------
    app
        The app as module:attribute.
    file
        The file.
    accept
        Write it all the same: nothing that is stored, and no client, holds what would break.
    json
        Print one JSON object.
    """
    loaded = load_app(app)
    old = _read(file) if file.exists() else None
    found = [] if old is None else compare(old, loaded.schema())
    breaks = any(one.breaks for one in found)
    if breaks and not accept:
        _say(found, json, compatible=False, frozen=False)
        if not json:
            print(f"{file} was not changed. Mend the app; or --accept, if nothing holds these.")
        return 1
    new = kept(old, loaded.schema())
    if new != old:
        _write(file, new)
    _say(found, json, compatible=not breaks, frozen=True)
    if not json:
        what = f"{len(new['messages'])} messages and {len(new['actors'])} actor types"
        print(f"{file} {'was' if new == old else 'is'} up to date: {what} of App {loaded.name!r}.")
    return 0


def check(app: str, /, *, file: Path = DEFAULT_FILE, json: bool = False) -> int:
    """Compare the app with the schema that was frozen; exit code 1 if stored things would break.

    Parameters
    ----------
    app
        The app as module:attribute.
    file
        The file that `leftfold schema freeze` wrote.
    json
        Print one JSON object.
    """
    loaded = load_app(app)
    if not file.exists():
        raise OperatorError(
            f"There is no {file}: write it with `leftfold schema freeze {app} --file {file}`, and "
            "commit it."
        )
    old = _read(file)
    found = compare(old, loaded.schema())
    breaks = any(one.breaks for one in found)
    is_frozen = kept(old, loaded.schema()) == old
    _say(found, json, compatible=not breaks, frozen=is_frozen)
    if not json and not breaks:
        rest = "" if is_frozen else f"; {file} is behind: `leftfold schema freeze {app}`"
        print(f"App {loaded.name!r} reads all that is stored{rest}.")
    return 1 if breaks else 0


def show(app: str, /, *, json: bool = False) -> None:
    """Print the messages, the actors and their fields.

    Parameters
    ----------
    app
        The app as module:attribute.
    json
        Print the schema as JSON, as `freeze` writes it.
    """
    loaded = load_app(app)
    print(_text(loaded.schema()) if json else "\n".join(_lines(loaded)), end="" if json else "\n")


def _say(found: list[Incompatibility], json: bool, *, compatible: bool, frozen: bool) -> None:
    if json:
        findings = [
            {"kind": one.kind, "id": one.id, "breaks": one.breaks, "sentence": one.sentence}
            for one in found
        ]
        facts = {"compatible": compatible, "frozen": frozen, "findings": findings}
        print(msgspec.json.encode(facts).decode())
        return
    for one in sorted(found, key=lambda one: not one.breaks):
        print(f"{'error' if one.breaks else 'warning'}: {one.sentence}")


# The file


def _read(file: Path) -> Schema:
    try:
        if file.stat().st_size > SCHEMA_BYTES_MAX:
            raise ValueError(f"it has more than {SCHEMA_BYTES_MAX} bytes")
        return decode_schema(file.read_bytes())
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise OperatorError(
            f"{file} cannot be read as a schema: {why}. Name the file that `leftfold schema freeze` "
            "wrote."
        ) from None


def _write(file: Path, schema: Schema) -> None:
    """All of it or nothing."""
    try:
        number, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with open(number, "w", encoding="utf-8") as opened:
                opened.write(_text(schema))
                os.fchmod(opened.fileno(), file.stat().st_mode if file.exists() else _mode())
            os.replace(name, file)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise
    except OSError as error:
        raise OperatorError(f"{file} cannot be written: {error.strerror}.") from None


def _mode() -> int:
    """What a new file may be, as for any other."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _text(schema: Schema) -> str:
    """One field to a line, so that a change shows as one."""
    encoded = msgspec.json.encode(schema, order="sorted")
    return msgspec.json.format(encoded, indent=2).decode() + "\n"


# The text to look at


def _lines(app: App) -> list[str]:
    schema = app.schema()
    messages, actors = schema["messages"], schema["actors"]
    lines = [f"App {app.name!r}"]
    for id, actor in sorted(actors.items(), key=lambda item: int(item[0])):
        emits = ", ".join(messages[str(event)]["name"] for event in actor["emits"])
        emitting = f", emits {emits}" if emits else ""
        lines += ["", f"actor {id} {actor['name']}{_version(actor)}, key {actor['key']}{emitting}"]
        lines += _fields(actor)
    for id, message in sorted(messages.items(), key=lambda item: int(item[0])):
        lines += ["", f"message {id} {message['name']}{_version(message)}{_use(message, messages)}"]
        lines += _fields(message)
    for name, part in sorted(schema["classes"].items()):
        lines += ["", f"class {name}", *_fields(part)]
    for name, members in sorted(schema["enums"].items()):
        lines += ["", f"enum {name}", *(f"    {m} = {value!r}" for m, value in members.items())]
    return lines


def _version(one: Schema) -> str:
    if not one["version"]:
        return ""
    return f" version {one['version']}, read from {one['oldest']} on"


def _use(message: Schema, messages: Schema) -> str:
    taken = message.get("taken")
    if taken is None:
        return ""
    names = [messages[str(reply)]["name"] if reply else "None" for reply in message["replies"]]
    answered = f" -> {' | '.join(names)}" if taken["kind"] != "on_timer" else ""
    inside = " from actors only" if taken["internal"] else ""
    return f"{answered}, {taken['kind']} {taken['method']}{inside}"


def _fields(one: Schema) -> list[str]:
    return [
        f"    {field['name']}: {text_of(field['type'])}{' = ...' if field['default'] else ''}"
        for field in one["fields"]
    ]


schemas = Commands(name="schema", default_parameter=Parameter(negative=()))
for _command in (freeze, check, show):
    schemas.command(_command)
