"""Parts: large dicts and lists inside an actor, written and read piece by piece.

An actor may hold a million accounts in one dict. Encoded whole it would need its own size in memory
again, twice while it is verified. So a dict or list with more than `CUT_ITEMS` items is left empty
in its actor's record, and its items follow in records of their own. It must be reachable from the
actor through attrs fields alone (`accounts`, `book.bids.levels`), and no class on the way may have
a validator or an `__attrs_post_init__`, which would see the actor with the field still empty.
"""

from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import Any, cast, get_args, get_origin, get_type_hints

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
    # Of a run of keys, and of a run of values; a list has no keys.
    decode_keys: Callable[[bytes | memoryview], list[Any]]
    decode: Callable[[bytes | memoryview], list[Any]]

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
    values: list[Any]
    encoded_keys: bytes
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
            *key, value = get_args(hint)
            yield Cut(path, kind, attrgetter(path), decoder(*key), decoder(value))
        elif isinstance(hint, type) and attrs.has(hint):
            yield from _cuts(hint, f"{path}.", (*above, cls))


def decoder(item: Any = None) -> Callable[[bytes | memoryview], list[Any]]:
    """Decodes a run of such items."""
    return msgspec.msgpack.Decoder(list[item]).decode


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


def columns(container: Container) -> tuple[Iterable[Any], ...]:
    """The items of a container as `encode_part` takes them."""
    if isinstance(container, dict):
        return container.keys(), container.values()
    return (container,)


def encode_part(*run: list[Any]) -> Part:
    """A run of a dict's keys and values, or of a list's items."""
    *keys, values = run
    found = keys[0] if keys else []
    return Part(found, values, encode(found), encode(values))


def append(container: Container, keys: list[Any], values: list[Any]) -> None:
    """Put a piece back behind what is there; ValueError if a key is there already."""
    before = len(container)
    if isinstance(container, dict):
        container.update(zip(keys, values, strict=True))
    else:
        container.extend(values)
    if len(container) != before + len(values):
        raise ValueError("a key comes twice")


def decode_untyped_keys(payload: bytes | memoryview) -> list[Any]:
    """A run of keys of an older version; what was a tuple is one again."""
    return [_hashable(key) for key in msgspec.msgpack.decode(payload, type=list[Any])]


def _hashable(key: Any) -> Any:
    if isinstance(key, list):
        return tuple(_hashable(item) for item in cast(list[Any], key))
    return key


def find_untyped(state: dict[str, Any], path: str) -> Container:
    """The container in an actor of an older version, which is still a dict of its fields."""
    found: Any = state
    for name in path.split("."):
        found = found[name]
    return found
