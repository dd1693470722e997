"""Reading: whether the fields of a class read what the fields of an older one wrote.

Both are given as the schema has them. A value is read if msgspec decodes its bytes to an equal one:
more members of an enum or a union, wider limits, a fixed tuple as tuple[T, ...], a literal as its
type, int as Decimal, int within 53 bits as float. A field that is added needs a default; one that is
gone is skipped, which is data loss and no fault that breaks; unless one of its type is new, as when
it was renamed: then it is one. The rest are faults.

Out of reach: what a validator or a hook refuses, what values mean, defaults of fields that old bytes
lack. A pattern that changed counts as narrower.
"""

from collections.abc import Iterable, Iterator
from math import inf
from typing import Any

from attrs import Factory, define, frozen

from .schema import Type, taken_apart, text_of

Schema = dict[str, Any]
Limits = dict[str, Any]

# Every integer up to here is a float of its own.
FLOAT_EXACT_MAX = 1 << 53

GROUPS = {
    "int": "number",
    "list": "array",
    "sequence": "array",
    "tuple": "array",
    "dict": "map",
    "class": "map",
    "str": "text",
    "bytes": "text",
    "date": "text",
    "timedelta": "text",
    "UUID": "text",
    "Decimal": "text",
}
"""Of the types in one group a union holds at most one, and its bytes are taken for that one's."""


@frozen
class Fault:
    """One field, or part of one, that does not read what it wrote."""

    what: str
    breaks: bool = True
    # What to do, where raising the version is not all there is to say.
    remedy: str = ""


@define(eq=False)
class Reading:
    """One message or actor type on both sides, in the schemas that tell of its parts."""

    old: Schema
    new: Schema
    # Pairs of classes that were compared, or are being compared: a class may hold itself.
    seen: set[tuple[str, str]] = Factory(set[tuple[str, str]])

    # Fields

    def fields(self, was: Schema, now: Schema, name: str, path: str = "") -> Iterator[Fault]:
        """What differs between the fields of a class, or of a class inside it."""
        before = {field["name"]: field for field in was["fields"]}
        after = {field["name"]: field for field in now["fields"]}
        added = [field for field in now["fields"] if field["name"] not in before]
        for field, held in before.items():
            where = f"{path}{name}.{field}"
            if field not in after:
                heir = next((one["name"] for one in added if self._may_be(held, one)), None)
                if heir is None:
                    yield Fault(
                        f"{where} is gone, and what was written in it is dropped",
                        False,
                        "if it was renamed or is still wanted,",
                    )
                else:
                    yield Fault(
                        f"{where} is gone and {heir} is new and of its type, as if it was renamed: what was written "
                        "in it would be dropped",
                        remedy="to keep it, or to drop it,",
                    )
                continue
            yield from self._field(held, after[field], where)
        for field in added:
            if not field["default"]:
                yield Fault(
                    f"{path}{name}.{field['name']} is new and has no default, and old bytes lack it",
                    remedy="give it one, or",
                )
        for hook in now.get("hooks", ()):
            if hook not in was.get("hooks", ()):
                yield Fault(f"{path}{name} has {hook} now, which may refuse old values", False)

    def _may_be(self, gone: Schema, new: Schema) -> bool:
        """Whether a new field would take up what was written in one that is gone, by its type."""
        reading = Reading(self.old, self.new, set(self.seen))
        return not any(fault.breaks for fault in reading.types(gone["type"], new["type"], ""))

    def _field(self, before: Schema, after: Schema, where: str) -> Iterator[Fault]:
        yield from self.types(before["type"], after["type"], where)
        if before["default"] and not after["default"]:
            yield Fault(
                f"{where} has lost its default, and what was written before there was such a field "
                "lacks it",
                remedy="give it one, or",
            )
        if after.get("validator") and not before.get("validator"):
            yield Fault(f"{where} has a validator now, which may refuse old values", False)

    # Types

    def types(self, old: Type, new: Type, where: str) -> Iterator[Fault]:
        """What of the old type the new one does not read, or reads as something else."""
        olds, news = alternatives(self.old, old), alternatives(self.new, new)
        if len(olds) == len(news) == 1:
            yield from self._one(olds[0], news[0], where)
            return
        for one in olds:
            other = self._taker(one, news)
            if other is None:
                yield _changed(where, old, new)
                return
            yield from self._one(one, other, where)

    def _taker(self, one: Type, news: list[Type]) -> Type | None:
        """Which alternative takes the bytes of this one."""
        groups = {group_of(self.new, other): other for other in news}
        group = group_of(self.old, one)
        found = groups.get(group)
        if found is None and group == "number":
            found = groups.get("float", groups.get("text"))
            if found is not None and taken_apart(found)[0] not in ("float", "Decimal"):
                return None
        return found

    def _one(self, old: Type, new: Type, where: str) -> Iterator[Fault]:
        kind, inner, limits = taken_apart(old)
        other, others, wider = taken_apart(new)
        changed = _changed(where, old, new)
        match kind, other:
            case "class", "class":
                if (inner, others) not in self.seen:
                    self.seen.add((inner, others))
                    was, now = self.old["classes"][inner], self.new["classes"][others]
                    yield from self.fields(was, now, inner, f"{where}: ")
            case "enum", "enum":
                yield from self._enum(inner, others, where)
            case "literal", "literal":
                if not all(_among(value, others) for value in inner):
                    yield changed
            case "literal", "int" | "str":
                if not all(_fits(value, other, wider) for value in inner):
                    yield changed
            case ("list", "list") | ("sequence", "sequence"):
                if not within(limits, wider, other):
                    yield changed
                yield from self.types(inner, others, where)
            case "tuple", "tuple" if len(inner) == len(others):
                for one, another in zip(inner, others, strict=True):
                    yield from self.types(one, another, where)
            case "tuple", "sequence":
                length = {"min_length": len(inner), "max_length": len(inner)}
                if not within(length, wider, other):
                    yield changed
                for one in inner:
                    yield from self.types(one, others, where)
            case "dict", "dict":
                if not within(limits, wider, other):
                    yield changed
                (key, value), (other_key, other_value) = inner, others
                yield from self.types(key, other_key, where)
                yield from self.types(value, other_value, where)
            case "int", "float":
                exact = {"ge": -FLOAT_EXACT_MAX, "le": FLOAT_EXACT_MAX}
                if not within(limits, exact, kind) or not within(limits, wider, kind, other):
                    yield changed
            case "int", "Decimal":
                pass
            case _ if kind != other or kind == "tuple" or not within(limits, wider, kind):
                yield changed
            case _:
                pass

    def _enum(self, old: str, new: str, where: str) -> Iterator[Fault]:
        before, after = self.old["enums"][old], self.new["enums"][new]
        for member, value in before.items():
            if not _among(value, after.values()):
                yield Fault(f"{where}: {old}.{member} ({value!r}) is gone", remedy="keep it, or")
            elif member in after and after[member] != value:
                yield Fault(
                    f"{where}: {old}.{member} was {value!r} and is {after[member]!r}, and {value!r} "
                    "is another one",
                    remedy="keep it, or",
                )


def _changed(where: str, old: Type, new: Type) -> Fault:
    return Fault(f"{where} was {text_of(old)} and is {text_of(new)}")


def alternatives(schema: Schema, type_: Type) -> list[Type]:
    """What a union consists of; a literal of values of several kinds is several."""
    kind, inner, _ = taken_apart(type_)
    if kind == "union":
        return [each for one in inner for each in alternatives(schema, one)]
    if kind != "literal":
        return [type_]
    found: list[Type] = ["None"] if None in inner else []
    for cls in (int, str):
        if values := [value for value in inner if isinstance(value, cls)]:
            found.append({"literal": values})
    return found


def group_of(schema: Schema, type_: Type) -> str:
    """Which bytes this type has, as far as a union tells them apart."""
    kind, inner, _ = taken_apart(type_)
    values = inner if kind == "literal" else ()
    if kind == "enum":
        values = list(schema["enums"][inner].values())
    if values:
        return "number" if isinstance(values[0], int) else "text"
    return GROUPS.get(kind, kind)


def _among(value: Any, values: Iterable[Any]) -> bool:
    return any(value == one and type(value) is type(one) for one in values)


def _fits(value: Any, kind: str, limits: Limits) -> bool:
    """Whether a value of a literal is one of this type."""
    if kind == "int":
        own = {"ge": value, "le": value, "multiple_of": value}
        return type(value) is int and within(own, limits, kind)
    return type(value) is str and within(
        {"min_length": len(value), "max_length": len(value)}, limits, kind
    )


def within(old: Limits, new: Limits, kind: str, other: str = "") -> bool:
    """Whether all of one kind that keeps to the old limits keeps to the new ones, of the other."""
    step, others = int(kind == "int"), int((other or kind) == "int")
    return (
        _lower(old, step) >= _lower(new, others)
        and _upper(old, step) <= _upper(new, others)
        and old.get("min_length", 0) >= new.get("min_length", 0)
        and old.get("max_length", inf) <= new.get("max_length", inf)
        and ("multiple_of" not in new or _multiple(old.get("multiple_of"), new["multiple_of"]))
        and new.get("pattern") in (None, old.get("pattern"))
    )


def _lower(limits: Limits, step: int) -> tuple[float, bool]:
    """The lower limit, and whether it is itself excluded."""
    if "gt" in limits:
        return (limits["gt"] + step, not step)
    return (limits.get("ge", -inf), False)


def _upper(limits: Limits, step: int) -> tuple[float, bool]:
    """The upper limit, and whether it is itself included."""
    if "lt" in limits:
        return (limits["lt"] - step, bool(step))
    return (limits.get("le", inf), True)


def _multiple(old: Any, new: Any) -> bool:
    return old is not None and old % new == 0
