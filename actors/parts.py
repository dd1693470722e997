"""Parts: large dicts and lists inside an actor, written and read piece by piece.

An actor may hold a million accounts in one dict. Encoded whole it would need its own size in memory
again, twice while it is verified. So a dict or list with more than `CUT_ITEMS` items is left empty
in its actor's record, and its items follow in records of their own. It must be reachable from the
actor through attrs fields alone (`accounts`, `book.bids.levels`), and no class on the way may have
a validator or an `__attrs_post_init__`, which would see the actor with the field still empty.
"""

from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any, cast, get_origin, get_type_hints

import attrs
import msgspec
from attrs import define, frozen

CUT_ITEMS = 4_096

encode = msgspec.msgpack.Encoder().encode
Container = dict[Any, Any] | list[Any]


@frozen(eq=False)
class Cut:
    """A place in an actor class where a dict or list may be cut."""

    path: str
    kind: type
    find: Callable[[Any], Any]
    decode: Any

    def container(self, instance: Any) -> Container | None:
        """The container at this place if it is to be cut."""
        try:
            found = self.find(instance)
        except AttributeError:
            return None
        return found if type(found) is self.kind and len(found) > CUT_ITEMS else None


@define(eq=False)
class Part:
    """A piece of a container: its items, and their bytes."""

    keys: list[Any]
    # The same as the keys for a list.
    values: list[Any]
    payload: bytes


def cuts(cls: type) -> tuple[Cut, ...]:
    """The places of this class."""
    return tuple(_cuts(cls, "", ()))


def _cuts(cls: type, prefix: str, above: tuple[type, ...]) -> Iterator[Cut]:
    if cls in above or not _is_plain(cls):
        return
    hints = get_type_hints(cls)
    for field in attrs.fields(cls):
        hint, path = hints[field.name], prefix + field.name
        kind = get_origin(hint)
        if kind is dict or kind is list:
            yield Cut(path, kind, attrgetter(path), msgspec.msgpack.Decoder(hint).decode)
        elif isinstance(hint, type) and attrs.has(hint):
            yield from _cuts(hint, f"{path}.", (*above, cls))


def _is_plain(cls: type) -> bool:
    """Whether nothing looks at an instance when it is decoded."""
    hooks = ("__attrs_pre_init__", "__attrs_post_init__")
    return not any(hasattr(cls, hook) for hook in hooks) and not any(
        field.validator is not None for field in attrs.fields(cls)
    )


def stand_in(instance: Any, paths: list[str]) -> Any:
    """A shallow copy with these containers empty. The actor itself stays as it is."""
    cls = cast(type[Any], type(instance))
    copy: Any = object.__new__(cls)
    for field in attrs.fields(cls):
        value = getattr(instance, field.name)
        deeper = [path for path in paths if path.split(".")[0] == field.name]
        if deeper == [field.name]:
            value = type(value)()
        elif deeper:
            value = stand_in(value, [path.split(".", 1)[1] for path in deeper])
        object.__setattr__(copy, field.name, value)
    return copy


def encode_part(container: Container, items: list[Any]) -> Part:
    """A piece of the container: of a dict the items with these keys, of a list these items."""
    if isinstance(container, dict):
        values = list(map(container.__getitem__, items))
        return Part(items, values, encode(dict(zip(items, values, strict=True))))
    return Part(items, items, encode(items))


def append(container: Container, items: Container) -> None:
    """Put a piece back behind what is there; ValueError if a key is there already."""
    before = len(container)
    if isinstance(container, dict):
        assert isinstance(items, dict)
        container.update(items)
    else:
        container.extend(items)
    if len(container) != before + len(items):
        raise ValueError("a key comes twice")


def append_untyped(state: dict[str, Any], path: str, items: Container) -> None:
    """The same for an actor of an older version, which is still a dict of its fields."""
    *names, last = path.split(".")
    for name in names:
        state = state[name]
    append(state[last], items)
