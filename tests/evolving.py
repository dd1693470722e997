"""Random types of fields, changes of them, and the values that tell such types apart.

A type is a spec: (kind, what it is made of, limits). `annotation` makes the Python type of it,
`edges` the values at its borders, `changed` another spec that differs in one place.
"""

import datetime
import decimal
import enum
import uuid
from collections.abc import Iterable
from itertools import islice
from random import Random
from typing import Annotated, Any, Literal, Union

import attrs
from msgspec import Meta

Spec = tuple[Any, ...]

PLAIN: dict[str, tuple[Any, list[Any]]] = {
    "None": (None, [None]),
    "bool": (bool, [True, False]),
    "int": (int, [0, 1, -1, 3, -6, 6, 7, 12, 2**53 + 1, -(2**63), 2**64 - 1]),
    "float": (float, [0.5, -1.5, 2.0, 1e300, 0.1]),
    "str": (str, ["", "a", "abc", "2020-01-01", "1.5", "abcdefgh"]),
    "bytes": (bytes, [b"", b"abc", b"abcdefgh"]),
    "date": (datetime.date, [datetime.date(2020, 1, 2)]),
    "timedelta": (datetime.timedelta, [datetime.timedelta(seconds=5)]),
    "UUID": (uuid.UUID, [uuid.UUID(int=5)]),
    "Decimal": (decimal.Decimal, [decimal.Decimal("1.50")]),
}
MEMBERS = ("RED", "GREEN", "BLUE", "GREY")
LENGTHS = ({}, {}, {"min_length": 1}, {"max_length": 2}, {"min_length": 1, "max_length": 3})
NUMBERS = ({}, {}, {"ge": 0}, {"gt": 0}, {"lt": 7}, {"le": 6}, {"ge": 1, "le": 6})
WHOLE = (*NUMBERS, {"multiple_of": 3}, {"multiple_of": 6}, {"ge": -(2**53), "le": 2**53})
KEYS = ("int", "str", "bytes", "UUID", "float")


def spec(rng: Random, depth: int = 2) -> Spec:
    """A random type."""
    kinds = [*PLAIN, "int", "str", "enum", "literal", "optional"]
    if depth:
        kinds += ["list", "sequence", "tuple", "dict", "class", "class", "union"]
    kind = rng.choice(kinds)
    deeper = depth - 1
    match kind:
        case "int":
            return kind, None, rng.choice(WHOLE)
        case "float":
            return kind, None, rng.choice(NUMBERS)
        case "str" | "bytes":
            return kind, None, rng.choice(LENGTHS)
        case "enum":
            is_text = rng.random() < 0.5
            names = rng.sample(MEMBERS, rng.randrange(1, 5))
            return kind, {name: name.lower() if is_text else n for n, name in enumerate(names)}, {}
        case "literal":
            values = rng.sample(["a", "abc", "z", 1, 3, 6, None], rng.randrange(1, 5))
            return kind, tuple(values), {}
        case "optional":
            inner = spec(rng, 0)
            is_plain = inner[0] in PLAIN and inner[0] != "None"
            return ("union", (inner, ("None", None, {})), {}) if is_plain else inner
        case "list" | "sequence":
            return kind, spec(rng, deeper), rng.choice(LENGTHS)
        case "tuple":
            return kind, tuple(spec(rng, deeper) for _ in range(rng.randrange(1, 4))), {}
        case "dict":
            key = rng.choice(KEYS)
            return kind, ((key, None, {}), spec(rng, deeper)), rng.choice(LENGTHS)
        case "union":
            text = rng.choice(["str", "bytes", "UUID", "date"])
            held = rng.sample(["int", "float", "bool", "None", text, "class"], rng.randrange(2, 5))
            return kind, _held(rng, held), {}
        case "class":
            return kind, fields(rng, deeper), {}
        case _:
            return kind, None, {}


def _held(rng: Random, kinds: list[str]) -> tuple[Spec, ...]:
    return tuple(
        ("class", fields(rng, 0), {}) if kind == "class" else (kind, None, {}) for kind in kinds
    )


def fields(rng: Random, depth: int = 2) -> tuple[tuple[str, Spec, bool], ...]:
    """Random fields: name, type, whether there is a default; those without come first."""
    found = [
        (f"f{number}", spec(rng, depth), rng.random() < 0.4)
        for number in range(rng.randrange(1, 4))
    ]
    return tuple(sorted(found, key=lambda field: field[2]))


def changed_fields(
    rng: Random, old: tuple[tuple[str, Spec, bool], ...]
) -> tuple[tuple[str, Spec, bool], ...]:
    """The same fields with one change; or none."""
    new = list(old)
    at = rng.randrange(len(new))
    name, type_, has_default = new[at]
    match rng.randrange(8):
        case 0:
            new.append(("added", spec(rng, 1), rng.random() < 0.7))
        case 1 if len(new) > 1:
            del new[at]
        case 2:
            new[at] = (name, type_, not has_default)
        case 3:
            pass
        case _:
            new[at] = (name, changed(rng, type_), has_default)
    return tuple(sorted(new, key=lambda field: field[2]))


def changed(rng: Random, old: Spec) -> Spec:
    """The same type with one change."""
    kind, inner, limits = old
    if rng.random() < 0.12:
        return spec(rng, 1)
    match kind:
        case "int":
            other = rng.choice(["int", "int", "int", "float", "Decimal", "str"])
            return other, None, rng.choice([limits, {}, *WHOLE]) if other == "int" else {}
        case "float":
            return rng.choice(["float", "float", "int", "Decimal"]), None, rng.choice([limits, {}])
        case "str" | "bytes":
            return rng.choice([kind, kind, kind, "str", "bytes"]), None, rng.choice(LENGTHS)
        case "enum":
            is_text = isinstance(next(iter(inner.values())), str)
            new = dict(inner)
            match rng.randrange(4):
                case 0:
                    new["NEW"] = "new" if is_text else 9
                case 1 if len(new) > 1:
                    del new[rng.choice(list(new))]
                case 2 if len(new) > 1:
                    (one, two) = rng.sample(list(new), 2)
                    new[one], new[two] = new[two], new[one]
                case _:
                    member = rng.choice(list(new))
                    new = {f"{name}_" if name == member else name: new[name] for name in new}
            return kind, new, {}
        case "literal":
            match rng.randrange(4):
                case 0:
                    return kind, tuple(dict.fromkeys([*inner, rng.choice(["q", 9])])), {}
                case 1 if len(inner) > 1:
                    return kind, tuple(rng.sample(inner, len(inner) - 1)), {}
                case 2:
                    return rng.choice(["int", "str"]), None, rng.choice([{}, {"ge": 2}])
                case _:
                    return old
        case "list" | "sequence":
            other = rng.choice([kind, kind, kind, "list", "sequence"])
            if rng.random() < 0.4:
                return other, inner, rng.choice(LENGTHS)
            return other, changed(rng, inner), limits
        case "tuple":
            match rng.randrange(4):
                case 0 if len(set(map(repr, inner))) == 1:
                    return "sequence", inner[0], rng.choice(LENGTHS)
                case 1:
                    return kind, (*inner, spec(rng, 0)), {}
                case _:
                    at = rng.randrange(len(inner))
                    items = (changed(rng, one) if at == n else one for n, one in enumerate(inner))
                    return kind, tuple(items), {}
        case "dict":
            key, value = inner
            match rng.randrange(3):
                case 0:
                    return kind, ((rng.choice(KEYS), None, {}), value), limits
                case 1:
                    return kind, inner, rng.choice(LENGTHS)
                case _:
                    return kind, (key, changed(rng, value)), limits
        case "class":
            return kind, changed_fields(rng, inner), {}
        case "union":
            kinds = [one[0] for one in inner]
            match rng.randrange(3):
                case 0 if len(inner) > 2:
                    return kind, tuple(rng.sample(inner, len(inner) - 1)), {}
                case 1 if "bool" not in kinds:
                    return kind, (*inner, ("bool", None, {})), {}
                case 2:
                    return rng.choice(inner)
                case _:
                    return kind, tuple(reversed(inner)), {}
        case _:
            other = rng.choice([one for one in ("None", "bool") if one != kind])
            return "union", (old, (other, None, {})), {}


def annotation(type_: Spec) -> Any:
    """The Python type of a spec."""
    kind, inner, limits = type_
    match kind:
        case "enum":
            return enum.Enum("Color", inner)
        case "literal":
            return Literal[inner]
        case "list":
            found: Any = list[annotation(inner)]  # type: ignore[misc]
        case "sequence":
            found = tuple[annotation(inner), ...]  # type: ignore[misc]
        case "tuple":
            found = tuple[tuple(map(annotation, inner))]  # type: ignore[misc]
        case "dict":
            key, value = map(annotation, inner)
            found = dict[key, value]  # type: ignore[valid-type]
        case "union":
            found = Union[tuple(map(annotation, inner))]  # noqa: UP007
        case "class":
            return attrs.define(attributes(inner, "Part"))
        case _:
            found = PLAIN[kind][0]
    return Annotated[found, Meta(**limits)] if limits else found


def attributes(of: tuple[tuple[str, Spec, bool], ...], name: str, *bases: type) -> type:
    """A class with these fields, for attrs to make."""
    body: dict[str, Any] = {name: None for name, _, has_default in of if has_default}
    body["__annotations__"] = {name: annotation(type_) for name, type_, _ in of}
    return type(name, bases, {**body, "__module__": __name__})


def edges(made: Any, type_: Spec, limit: int = 40) -> list[Any]:
    """Values of the type that an annotation of this spec made, at the borders of what it takes."""
    return list(islice(_edges(made, type_), limit))


def _edges(made: Any, type_: Spec) -> Iterable[Any]:
    kind, inner, limits = type_
    if limits:
        made = made.__origin__
    match kind:
        case "enum":
            yield from made
        case "literal":
            yield from inner
        case "list" | "sequence":
            item = made.__args__[0]
            values = edges(item, inner, 12)
            lengths = [n for n in range(5) if _length_fits(n, limits)]
            for length in lengths:
                for value in values if length else values[:1]:
                    yield type_of(kind)([value] * length)
        case "tuple":
            columns = [edges(m, t, 12) for m, t in zip(made.__args__, inner, strict=True)]
            for n in range(max(map(len, columns))):
                yield tuple(column[min(n, len(column) - 1)] for column in columns)
        case "dict":
            keys, values = (edges(m, t, 12) for m, t in zip(made.__args__, inner, strict=True))
            for length in [n for n in range(5) if _length_fits(n, limits)]:
                for at in range(max(len(keys), len(values)) if length else 1):
                    held = dict.fromkeys((keys[at % len(keys) :] + keys)[:length])
                    if len(held) == length:
                        yield {key: values[at % len(values)] for key in held}
        case "class":
            columns = [edges(made.__annotations__[n], t, 12) for n, t, _ in inner]
            for n in range(max(map(len, columns))):
                yield made(*(column[min(n, len(column) - 1)] for column in columns))
            # As its bytes were before the fields that have defaults were there.
            yield {
                name: column[0]
                for column, (name, _, has_default) in zip(columns, inner, strict=True)
                if not has_default
            }
        case "union":
            for one in inner:
                annotated = next(m for m in made.__args__ if _is_of(m, one))
                yield from edges(annotated, one, 12)
        case _:
            for value in _bordering(kind, limits):
                if _fits(kind, value, limits):
                    yield value


def _is_of(made: Any, one: Spec) -> bool:
    if one[0] == "class":
        return attrs.has(made)
    plain = PLAIN[one[0]][0]
    return made is (type(None) if plain is None else plain) or (
        hasattr(made, "__metadata__") and made.__origin__ is plain
    )


def type_of(kind: str) -> type:
    return list if kind == "list" else tuple


def _bordering(kind: str, limits: dict[str, Any]) -> list[Any]:
    found = list(PLAIN[kind][1])
    for name in ("ge", "gt", "le", "lt"):
        if name in limits:
            limit = limits[name]
            found += (
                [limit - 1, limit, limit + 1] if kind == "int" else [limit + 0.25, float(limit)]
            )
            found += [limit - 0.25] if kind == "float" else []
    return found


def _length_fits(length: int, limits: dict[str, Any]) -> bool:
    return limits.get("min_length", 0) <= length <= limits.get("max_length", 99)


def _fits(kind: str, value: Any, limits: dict[str, Any]) -> bool:
    if kind in ("str", "bytes"):
        return _length_fits(len(value), limits)
    return (
        (
            value >= limits.get("ge", value)
            and value > limits.get("gt", value - 1)
            and value <= limits.get("le", value)
            and value < limits.get("lt", value + 1 if abs(value) < 1e15 else float("inf"))
            and value % limits.get("multiple_of", 1)
            == (0 if "multiple_of" in limits else value % 1)
        )
        if limits
        else True
    )
