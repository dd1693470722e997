"""Fidelity: whether values come back from their bytes exactly as they are.

Equal bytes are not enough: a tuple in a list field, a defaultdict or a value of a subclass encode
to the same bytes and come back as something else, and one mutable object held twice comes back as
two. So live and decoded values are compared type by type, in columns, which costs no Python call
per value; and a mutable object to which more than its holder refers is remembered, in case it comes
again. When that fails, `fault` looks for the innermost value that does not come back.
"""

from collections.abc import Iterator
from itertools import chain
from operator import attrgetter, methodcaller
from sys import getrefcount
from typing import Any, cast, get_args, get_origin, get_type_hints

import attrs
import msgspec
from attrs import Factory, define

SCALARS = frozenset((int, str, bytes, bool, float, type(None)))
SHOWN_MAX = 60
MISSING = object()

encode = msgspec.msgpack.Encoder().encode


def _references() -> int:
    """What `getrefcount` says, called from C, of an object in one container and in one column."""
    holder = {0: object()}
    column = list(holder.values())
    return next(map(getrefcount, column))


SOLE_REFERENCES = _references()


@define(eq=False)
class Seen:
    """The mutable objects so far that have more than one reference, kept so that ids stay theirs."""

    by_id: dict[int, object] = Factory(dict[int, object])

    def add(self, column: list[Any], holders: int) -> bool:
        """Note the objects of a column; False if one was there before.

        `holders`: how many columns the caller keeps them in.
        """
        references = list(map(getrefcount, column))
        sole = SOLE_REFERENCES + holders - 1
        if max(references) <= sole:
            return True
        for value, count in zip(column, references, strict=True):
            if count > sole:
                if id(value) in self.by_id:
                    return False
                self.by_id[id(value)] = value
        return True


def alike(live: list[Any], decoded: list[Any], seen: Seen | None) -> bool:
    """Whether two columns whose bytes are equal have equal types, and nothing that was `seen`."""
    if not live:
        return True
    types = list(map(type, live))
    if types != list(map(type, decoded)):
        return False
    kinds = set(types)
    for cls in kinds - SCALARS:
        ours, theirs, holders = live, decoded, 1
        if len(kinds) > 1:
            ours = [value for value in live if type(value) is cls]
            theirs = [value for value in decoded if type(value) is cls]
            holders = 2
        if seen is not None and is_mutable(cls) and not seen.add(ours, holders):
            return False
        if not _alike_of(cls, ours, theirs, seen):
            return False
    return True


def _alike_of(cls: type, live: list[Any], decoded: list[Any], seen: Seen | None) -> bool:
    """The same for the parts of values of one type."""
    if attrs.has(cls):
        for field in attrs.fields(cls):
            get = attrgetter(field.name)
            if not alike(list(map(get, live)), list(map(get, decoded)), seen):
                return False
        return True
    if not issubclass(cls, dict | list | tuple):
        return True
    flat = chain.from_iterable
    if not alike(list(flat(live)), list(flat(decoded)), seen):
        return False
    if not issubclass(cls, dict):
        return True
    values: Any = methodcaller("values")
    return alike(list(flat(map(values, live))), list(flat(map(values, decoded))), seen)


def is_mutable(cls: type[Any]) -> bool:
    """Messages do not change once made, nor frozen classes: two places may hold one of them."""
    if attrs.has(cls):
        return "__message_id__" not in vars(cls) and not attrs.inspect(cls).is_frozen
    return issubclass(cls, dict | list)


def fault(declared: Any, value: Any, where: str) -> str | None:
    """The innermost value that does not come back the same, and how; None if all do."""
    if value is MISSING:
        return f"{where} is missing"
    why = _why(declared, value)
    if why is None:
        return None
    for part, item, inner in _parts(declared, value):
        found = fault(inner, item, where + part)
        if found is not None:
            return found
    return f"{where} is {shown(value)}, {why}"


def shared(value: Any, where: str, seen: dict[int, str]) -> str | None:
    """Two places that hold one mutable object; `seen` has the places so far, by id."""
    if is_mutable(cast(type[Any], type(value))):
        first = seen.setdefault(id(value), where)
        if first != where:
            return f"{where} and {first} are one object, which would become two: copy it"
    for part, item, _ in _parts(Any, value):
        found = shared(item, where + part, seen)
        if found is not None:
            return found
    return None


def shown(value: Any) -> str:
    """A value in a sentence, shortened."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 (the application's, or endless)
        return f"a {type(value).__name__}"
    return text if len(text) <= SHOWN_MAX else text[:SHOWN_MAX] + "..."


def _why(declared: Any, value: Any) -> str | None:
    """Why a value does not come back as declared; None if it does."""
    try:
        body = encode(value)
    except OverflowError:
        return "an integer beyond 64 bits"
    except Exception as error:  # noqa: BLE001 (an encoder may call the application's code)
        return f"which cannot be encoded: {error}"
    if declared is Any:
        return None
    try:
        decoded = msgspec.msgpack.decode(body, type=declared)
    except Exception as error:  # noqa: BLE001 (a validator may raise anything)
        return f"of type {type(value).__name__}, which cannot be decoded again: {error}"
    if type(value) is not type(decoded):
        return f"of type {type(value).__name__}, and comes back as {type(decoded).__name__}"
    if encode(decoded) != body:
        return f"and comes back as {shown(decoded)}"
    if not alike([value], [decoded], None):
        return "and holds values that come back with another type"
    return None


def _parts(declared: Any, value: Any) -> Iterator[tuple[str, Any, Any]]:
    """What a value is made of: the place of each part, the part, and what it is declared as."""
    cls = cast(type[Any], type(value))
    if attrs.has(cls):
        try:
            hints = get_type_hints(cls)
        except NameError:
            hints = {}
        for field in attrs.fields(cls):
            yield f".{field.name}", getattr(value, field.name, MISSING), hints.get(field.name, Any)
        return
    options = [declared, *get_args(declared)]
    inner = next((get_args(o) for o in options if get_origin(o) is cls), ())
    if isinstance(value, dict):
        mapping = cast(dict[Any, Any], value)
        key_type, value_type = inner if len(inner) == 2 else (Any, Any)
        for key, item in mapping.items():
            yield f": the key {shown(key)}", key, key_type
            yield f"[{shown(key)}]", item, value_type
    elif isinstance(value, list | tuple):
        items = cast(list[Any], value)
        fixed = len(inner) == len(items) and Ellipsis not in inner
        for number, item in enumerate(items):
            yield f"[{number}]", item, inner[number] if fixed else inner[0] if inner else Any
