"""Inspection: one actor as plain values, for people and JSON.

Fields and dict items keep their order. Bytes are shown in hexadecimal. A dict becomes an object if
its keys are text, numbers or bytes and no two of them read the same; any other becomes an array of
[key, value] pairs. A number that JSON lacks (NaN, an infinity) is shown as text, and so is what a
quarantined actor may hold that no snapshot could. Nothing is changed, and of the application's code
nothing is called.
"""

import math
from enum import Enum
from typing import Any, cast

import attrs
import msgspec

from .app import ActorType, App, decode_key
from .fold import State
from .layout import Status
from .stored import StoredType

DEPTH_MAX = 100

# As in unit.py: status, id of the reply's message, body.
Answer = tuple[int, int, bytes]


def describe(actor: ActorType, key: bytes, state: State) -> dict[str, Any]:
    """One actor as plain values; KeyError if there is none."""
    instance = state.actors[actor.id][key]
    quarantine = state.quarantined.get((actor.id, key))
    return {
        "actor": actor.name,
        "key": plain(decode_key(actor.key, key)),
        "quarantine": None if quarantine is None else str(quarantine),
        "state": plain(instance),
    }


def inspect(app: App, state: State, name: str, key: bytes, bytes_max: int) -> Answer:
    """What `describe` says, as JSON. An actor type is named by its class or by its id."""
    found = [a for a in app.actor_types.values() if name in (a.name, str(a.id))]
    if len(found) != 1:
        names = ", ".join(f"{a.name} ({a.id})" for a in app.actor_types.values())
        which = f"more than one actor type {name!r}" if found else f"no actor type {name!r}"
        return _no_such_actor(f"there is {which}; the App has {names}")
    actor = found[0]
    try:
        shown = decode_key(actor.key, key)
    except ValueError as error:
        return _no_such_actor(f"no {actor.name} can have this key: {error}")
    instance = state.actors.get(actor.id, {}).get(key)
    if instance is None:
        return _no_such_actor(f"no command has reached {actor.name} {shown!r}")
    for place, held in StoredType(actor).large(instance):
        # Told without a walk over a million items, for which every client would wait.
        return _too_large(f"{actor.name} {shown!r} holds {len(held)} items in {place.path}")
    body = msgspec.json.encode(describe(actor, key, state))
    if len(body) > bytes_max:
        return _too_large(f"{actor.name} {shown!r} has {len(body)} bytes as JSON")
    return Status.OK, 0, body


def plain(value: Any, depth: int = 0) -> Any:
    """A value as JSON has it; see the file's text."""
    cls = cast(type[Any], type(value))
    if cls in (int, str, bool, type(None)):
        return value
    if cls is float:
        return value if math.isfinite(value) else str(value)
    if cls is bytes:
        return value.hex()
    if depth == DEPTH_MAX:
        return "..."
    deeper = depth + 1
    if attrs.has(cls):
        return {f.name: plain(getattr(value, f.name, None), deeper) for f in attrs.fields(cls)}
    if issubclass(cls, dict):
        return _plain_dict(cast(dict[Any, Any], value), deeper)
    if issubclass(cls, list | tuple):
        return [plain(item, deeper) for item in value]
    if issubclass(cls, Enum):
        return plain(value.value, deeper)
    try:
        # A UUID, a date, a Decimal.
        return msgspec.to_builtins(value)
    except TypeError:
        return f"<{cls.__qualname__}>"


def _plain_dict(found: dict[Any, Any], depth: int) -> dict[str, Any] | list[Any]:
    pairs = [(plain(key, depth), plain(value, depth)) for key, value in found.items()]
    names = {str(key): value for key, value in pairs if isinstance(key, str | int | float)}
    return names if len(names) == len(pairs) else [list(pair) for pair in pairs]


def _no_such_actor(text: str) -> Answer:
    return Status.NO_SUCH_ACTOR, 0, text.encode("utf-8", "backslashreplace")


def _too_large(text: str) -> Answer:
    remedy = "too much for one answer; look at it in a copy of the directory"
    return Status.REPLY_TOO_LARGE, 0, f"{text}: {remedy}".encode("utf-8", "backslashreplace")
