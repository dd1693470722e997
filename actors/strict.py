"""Strict mode, for tests: state that would not survive a snapshot is found at once.

After every unit each touched actor is encoded, decoded and compared, value by value and type by
type: True in an int field, a tuple in a list field, an integer beyond 64 bits, a value of a
subclass, one mutable object held twice. Replies and events are decoded as a client would.
It costs time in proportion to the actor's size, so production runs without it.
"""

from collections.abc import Iterable
from math import isnan
from typing import Any

import attrs

from .app import ActorType, App, encode_body
from .errors import StrictViolation
from .state import State

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
    if type(live) is not type(decoded):
        raise StrictViolation(
            f"{where} is {type(live).__name__} {live!r} and comes back as "
            f"{type(decoded).__name__} {decoded!r}"
        )
    if attrs.has(type(live)):
        for field in attrs.fields(type(live)):
            name = field.name
            _compare(getattr(live, name), getattr(decoded, name), f"{where}.{name}")
    elif isinstance(live, dict):
        if list(live) != list(decoded):
            raise StrictViolation(f"{where}: the keys change: {list(live)} to {list(decoded)}")
        for key, value in live.items():
            _compare(value, decoded[key], f"{where}[{key!r}]")
        for key, other in zip(live, decoded, strict=True):
            _compare(key, other, f"{where}: key {key!r}")
    elif isinstance(live, list | tuple):
        for number, (value, other) in enumerate(zip(live, decoded, strict=True)):
            _compare(value, other, f"{where}[{number}]")
    elif live != decoded and not (isinstance(live, float) and isnan(live)):
        raise StrictViolation(f"{where} is {live!r} and comes back as {decoded!r}")


def _check_shared(value: Any, where: str, seen: dict[int, str]) -> None:
    """Refuse one mutable object in two places: a snapshot makes two of it."""
    is_attrs = attrs.has(type(value))
    if not (is_attrs or isinstance(value, list | dict | tuple)):
        return
    if isinstance(value, list | dict) or (is_attrs and not _is_message(type(value))):
        first = seen.setdefault(id(value), where)
        if first != where:
            raise StrictViolation(
                f"{where} and {first} are one object; it would become two: copy it"
            )
    if is_attrs:
        for field in attrs.fields(type(value)):
            _check_shared(getattr(value, field.name), f"{where}.{field.name}", seen)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_shared(item, f"{where}[{key!r}]", seen)
    else:
        for number, item in enumerate(value):
            _check_shared(item, f"{where}[{number}]", seen)


def _is_message(cls: type) -> bool:
    """Messages and frozen classes do not change, so two places may share one."""
    return "__message_id__" in vars(cls) or cls.__setattr__ is not object.__setattr__
