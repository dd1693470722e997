"""The entries of a log as plain values, for programs and people to read.

With the app, a command has its message's name, its key and its fields. Without, it has the numbers
and the bytes in hex. A body that does not decode is shown in hex beside the reason, never left out.
"""

import sys
from collections.abc import Iterator
from typing import Any

import msgspec

from ..actors import ActorsError, App
from ..actors.layout import COMMAND, SKIP_BODY, EntryKind, SlotType
from ..runtime.discovery import load_app
from ..runtime.errors import OperatorError
from ..runtime.slots import EntryHeader, slots_of
from .history import History

Line = dict[str, Any]

NAMES = {
    EntryKind.TERM_START: "term_start",
    EntryKind.TIME: "time",
    EntryKind.SKIP: "skip",
    EntryKind.CONFIGURATION: "configuration",
    EntryKind.CHECK: "check",
}
SESSION_KINDS = {SlotType.OPEN: "open", SlotType.CLOSE: "close"}
KINDS = ("command", *SESSION_KINDS.values(), *NAMES.values())


def app_of(history: History, name: str | None) -> App | None:
    """The app of this name, or that of the directory, if it can be had here; a note where not."""
    if name is not None:
        return load_app(name)
    try:
        return load_app(history.identity.app)
    except OperatorError as error:
        print(f"leftfold: showing numbers and hex, because: {error}", file=sys.stderr)
        return None


def lines_of(entry: EntryHeader, body: memoryview, app: App | None) -> Iterator[Line]:
    """One line for each command of an entry; one for an entry of another kind."""
    if entry.kind != EntryKind.COMMANDS:
        yield _whole(entry, body)
        return
    for ordinal, (slot_type, tag, slot) in enumerate(slots_of(body)):
        line: Line = {
            "index": entry.index,
            "ordinal": ordinal,
            "term": entry.term,
            "time_ns": entry.time_ns,
            "kind": SESSION_KINDS.get(SlotType(slot_type), "command"),
        }
        _, _, _, session, request, _, key_bytes, version = COMMAND.unpack_from(slot)
        line["session"] = session.hex()
        if slot_type == SlotType.COMMAND:
            key = bytes(slot[COMMAND.size : COMMAND.size + key_bytes])
            content = bytes(slot[COMMAND.size + key_bytes :])
            line |= {"request": request} | describe(tag, key, content, app, version)
        yield line


def _whole(entry: EntryHeader, body: memoryview) -> Line:
    line: Line = {
        "index": entry.index,
        "term": entry.term,
        "time_ns": entry.time_ns,
        "kind": NAMES.get(EntryKind(entry.kind), str(entry.kind)),
    }
    if entry.kind == EntryKind.SKIP:
        index, ordinal, _ = SKIP_BODY.unpack_from(body)
        line["skipped"] = f"{index}.{ordinal}"
    return line


def describe(
    message_id: int, key: bytes, body: bytes, app: App | None, version: int | None = None
) -> Line:
    """What a command says, as far as the app can tell; of an older version, what it is lifted to."""
    raw: Line = {"message_id": message_id, "key": key.hex(), "body": body.hex()}
    if app is None:
        return raw
    route = app.commands.get(message_id)
    if route is None:
        return raw | {"undecoded": "no handler of the app takes this message"}
    try:
        decoded_key = app.decode_key(route.actor.id, key)
        fields = msgspec.to_builtins(app.decode(message_id, body, version))
    except (msgspec.DecodeError, ValueError, ActorsError) as error:
        return raw | {"message": route.message.__name__, "undecoded": str(error)}
    return {
        "message": route.message.__name__,
        "actor": route.actor.name,
        "key": decoded_key.hex() if isinstance(decoded_key, bytes) else decoded_key,
        "fields": fields,
    }
