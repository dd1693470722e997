"""Strict mode, for tests: state that would not survive a snapshot is found at once.

After every unit each touched actor is encoded, decoded and compared, value by value and type by
type: True in an int field, a tuple in a list field, an integer beyond 64 bits, a value of a
subclass, one mutable object held twice. Replies and events are decoded as a client would.
It costs time in proportion to the actor's size, so production runs without it.
"""

from collections.abc import Iterable, Iterator
from math import isnan
from typing import Any, cast

import attrs

from .app import ActorType, App, encode_body
from .errors import StrictViolation
from .fold import State

Touched = tuple[ActorType, bytes]


def encoded(actor: ActorType, key: bytes, instance: Any) -> bytes:
    """The actor's bytes, or the violation that it has none."""
    if instance is None:
        return b""
    try:
        return encode_body(instance)
    except Exception as error:
        raise StrictViolation(f"{actor.name} {key!r} cannot be encoded: {error}") from error


def check_unit(
    app: App, state: State, direct: Touched, sent_to: Iterable[Touched], reply: Any
) -> None:
    """Check every actor that a unit touched, and its reply."""
    for actor, key in (direct, *sent_to):
        check_instance(actor, key, state.actors[actor.id][key])
    if reply is not None:
        id, body = app.encode(reply)
        check_decodes(app, id, body, reply)


def check_instance(actor: ActorType, key: bytes, instance: Any) -> None:
    """Check that an actor comes back from its bytes the same."""
    where = f"{actor.name} {key!r}"
    body = encoded(actor, key, instance)
    try:
        decoded = actor.decode(body)
    except Exception as error:
        raise StrictViolation(f"{where} cannot be decoded again: {error}") from error
    _compare(instance, decoded, where)
    _check_shared(instance, where, {})


def check_decodes(app: App, id: int, body: bytes, original: Any = None) -> None:
    """Check that a client can decode a reply or an event."""
    name = app.message_for(id).__qualname__
    try:
        decoded = app.decode(id, body)
    except Exception as error:
        raise StrictViolation(f"{name} cannot be decoded by its receiver: {error}") from error
    if original is not None:
        _compare(original, decoded, name)


def _compare(live: Any, decoded: Any, where: str) -> None:
    cls = cast(type[Any], type(live))
    if cls is not type(decoded):
        raise StrictViolation(
            f"{where} is {cls.__name__} {live!r} and comes back as "
            f"{type(decoded).__name__} {decoded!r}"
        )
    if attrs.has(cls) or issubclass(cls, dict | list | tuple):
        parts, others = dict(_parts(live)), dict(_parts(decoded))
        if list(parts) != list(others):
            raise StrictViolation(f"{where} has {list(parts)} and comes back with {list(others)}")
        for part, value in parts.items():
            _compare(value, others[part], where + part)
    elif live != decoded and not (isinstance(live, float) and isnan(live)):
        raise StrictViolation(f"{where} is {live!r} and comes back as {decoded!r}")


def _check_shared(value: Any, where: str, seen: dict[int, str]) -> None:
    """Refuse one mutable object in two places: a snapshot makes two of it."""
    cls = cast(type[Any], type(value))
    if issubclass(cls, list | dict) or (attrs.has(cls) and not _is_immutable(cls)):
        first = seen.setdefault(id(value), where)
        if first != where:
            raise StrictViolation(
                f"{where} and {first} are one object; it would become two: copy it"
            )
    for part, item in _parts(value):
        _check_shared(item, where + part, seen)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What a value is made of, each with its place in it."""
    cls = cast(type[Any], type(value))
    if attrs.has(cls):
        for field in attrs.fields(cls):
            yield f".{field.name}", getattr(value, field.name)
    elif isinstance(value, dict):
        mapping = cast(dict[Any, Any], value)
        for number, (key, item) in enumerate(mapping.items()):
            yield f": key {number}", key
            yield f"[{key!r}]", item
    elif isinstance(value, list | tuple):
        for number, item in enumerate(cast(list[Any], value)):
            yield f"[{number}]", item


def _is_immutable(cls: type[Any]) -> bool:
    """Messages do not change once made, nor frozen classes: two places may hold one of them."""
    return "__message_id__" in vars(cls) or attrs.inspect(cls).is_frozen
