"""Where two states of an actor part: paths to the fields, and what stands there on each side."""

from collections.abc import Iterator
from typing import Any

from attrs import frozen

from .decoding import Line

ABSENT = "absent"
"""What stands where one side has nothing."""


@frozen
class Difference:
    """One field of one actor."""

    actor: str
    key: Any
    field: str
    a: Any
    b: Any

    def line(self) -> Line:
        """As plain values."""
        return {
            "actor": self.actor,
            "key": self.key,
            "field": self.field,
            "a": self.a,
            "b": self.b,
        }


def of_actor(a: Line | None, b: Line | None) -> Iterator[Difference]:
    """How one actor differs; None: that side has not got it."""
    known = a or b
    assert known is not None
    name, key = known["actor"], known["key"]
    if a is None or b is None:
        here = (None if one is None else one["state"] for one in (a, b))
        yield Difference(name, key, "", *(ABSENT if one is None else one for one in here))
        return
    if a["quarantine"] != b["quarantine"]:
        yield Difference(name, key, "(quarantine)", a["quarantine"], b["quarantine"])
    for path, one, other in parts("", a["state"], b["state"]):
        yield Difference(name, key, path, one, other)


def parts(path: str, a: Any, b: Any) -> Iterator[tuple[str, Any, Any]]:
    """(path, a, b) of each place, as deep as it goes, where two plain values differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        yield from _of_dicts(path, a, b)  # pyright: ignore[reportUnknownArgumentType]
    elif isinstance(a, list) and isinstance(b, list):
        yield from _of_lists(path, a, b)  # pyright: ignore[reportUnknownArgumentType]
    elif type(a) is not type(b) or a != b:  # pyright: ignore[reportUnknownArgumentType]
        yield path, a, b


def _of_dicts(path: str, a: dict[str, Any], b: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in a | b:
        step = f"{path}.{name}" if name.isidentifier() else f"{path}[{name!r}]"
        yield from parts(step.removeprefix("."), a.get(name, ABSENT), b.get(name, ABSENT))
    if a.keys() == b.keys():  # The order of a dict is state: a handler can see it.
        for one, other in zip(a, b, strict=True):
            if one != other:
                yield f"{path} (order)".strip(), one, other
                break


def _of_lists(path: str, a: list[Any], b: list[Any]) -> Iterator[tuple[str, Any, Any]]:
    for at in range(max(len(a), len(b))):
        one = a[at] if at < len(a) else ABSENT
        other = b[at] if at < len(b) else ABSENT
        yield from parts(f"{path}[{at}]", one, other)
