"""What applied commands put out, as plain values: replies and events, by the command's ordinal."""

import msgspec

from ..actors import App
from ..actors.layout import EVENT, REPLY, EntryKind, SlotType, Status
from ..runtime.slots import EntryHeader, slots_of
from .decoding import Line

ANSWERED = (SlotType.OPEN, SlotType.COMMAND, SlotType.CLOSE)


def by_ordinal(entry: EntryHeader, body: memoryview, egress: bytes) -> dict[int, list[memoryview]]:
    """The output slots of one entry by ordinal: the events of a command, then its reply.

    A reply that is given again has the place of the first time in it, so replies are counted: every
    command has one.
    """
    if entry.kind != EntryKind.COMMANDS:
        found: dict[int, list[memoryview]] = {}
        for _, _, slot in slots_of(memoryview(egress)):
            found.setdefault(EVENT.unpack_from(slot)[4], []).append(slot)
        return found
    answered = [at for at, (kind, _, _) in enumerate(slots_of(body)) if kind in ANSWERED]
    ordinals = iter(answered)
    found = {ordinal: [] for ordinal in answered}
    waiting: list[memoryview] = []
    for kind, _, slot in slots_of(memoryview(egress)):
        waiting.append(slot)
        if kind == SlotType.REPLY:
            found[next(ordinals)] = waiting
            waiting = []
    assert not waiting, "an event without a reply behind it"
    return found


def describe(slot: memoryview, app: App) -> Line:
    """A reply or an event."""
    if slot[4] == SlotType.EVENT:
        return _event(slot, app)
    _, _, tag, _, _, _, _, status, version = REPLY.unpack_from(slot)
    return answer(app, tag, Status(status), bytes(slot[REPLY.size :]), version)


def answer(app: App, tag: int, status: Status, content: bytes, version: int | None = None) -> Line:
    """A reply: OK with its message, or another status with the reason."""
    if status != Status.OK:
        return {"status": status.name, "reason": content.decode(errors="replace")}
    if tag == 0:
        return {"status": "OK"}
    name = app.messages[tag].__name__
    return {"status": "OK", "reply": name} | _fields(app, tag, content, version)


def _event(slot: memoryview, app: App) -> Line:
    _, _, tag, _, _, number, actor_type, key_bytes, version, _ = EVENT.unpack_from(slot)
    body_at = EVENT.size + key_bytes
    key = app.decode_key(actor_type, bytes(slot[EVENT.size : body_at]))
    return {
        "event": app.messages[tag].__name__,
        "number": number,
        "actor": app.actor_types[actor_type].name,
        "key": key.hex() if isinstance(key, bytes) else key,
    } | _fields(app, tag, bytes(slot[body_at:]), version)


def _fields(app: App, tag: int, content: bytes, version: int | None) -> Line:
    return {"fields": msgspec.to_builtins(app.decode(tag, content, version))}


def said(output: Line | None) -> str:
    """One output in a few words."""
    if output is None:
        return "nothing"
    if "status" in output and output["status"] != "OK":
        return f"{output['status']}: {output['reason']}"
    if "reply" in output:
        return f"{output['reply']}({arguments(output['fields'])})"
    if "event" in output:
        return f"event {output['event']}({arguments(output['fields'])})"
    return "OK"


def said_command(line: Line) -> str:
    """A command in a few words."""
    if line.get("kind", "command") != "command":
        return str(line["kind"])
    if "fields" not in line:
        return str(line.get("message", f"message {line.get('message_id')}"))
    return f"{line['message']}({arguments(line['fields'])}) to {line['key']}"


def arguments(fields: Line) -> str:
    """Fields as they are written in a call."""
    return ", ".join(f"{name}={value!r}" for name, value in fields.items())
