"""Fidelity: a value that would not come back from a snapshot as it is, is named by its place."""

import math
from collections import OrderedDict, defaultdict
from datetime import timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any
from uuid import UUID

import attrs
import msgspec
import pytest

from leftfold.actors import App, Command, Context, actor, handler, message, state
from leftfold.actors.errors import StateNotEncodable
from leftfold.actors.machine import Machine


class Color(Enum):
    RED = "red"


class Rank(IntEnum):
    LOW = 1


@state
class Line:
    cents: int = 0
    notes: list[str] = attrs.field(factory=list[str])


class Longer(Line):
    pass


@attrs.frozen
class Place:
    row: int
    seat: int


@message(id=1)
class Touch(Command[None]):
    pass


@actor(id=1, key=str)
class Thing:
    number: int = 0
    text: str = ""
    ratio: float = 0.0
    flag: bool | None = None
    color: Color = Color.RED
    price: Decimal = Decimal(0)
    token: UUID = UUID(int=0)
    pause: timedelta = timedelta(0)
    place: Place = attrs.field(factory=lambda: Place(1, 2))
    line: Line | None = None
    pair: tuple[int, list[int]] = attrs.field(factory=lambda: (0, list[int]()))
    lines: list[Line] = attrs.field(factory=list[Line])
    named: dict[str, Line] = attrs.field(factory=dict[str, Line])
    counts: dict[int, int] = attrs.field(factory=dict[int, int])
    seats: dict[tuple[int, str], Place] = attrs.field(factory=dict[tuple[int, str], Place])
    tables: dict[str, dict[str, list[int]]] = attrs.field(factory=dict[str, dict[str, list[int]]])

    @handler
    def touch(self, command: Touch, context: Context) -> None: ...


app = App(actors=[Thing], name="things")


def machine_with(**instances: Thing) -> Machine:
    machine = Machine(app, None, 1)
    machine.state.actors[1].update((key.encode(), thing) for key, thing in instances.items())
    machine.state.actors_count = len(instances)
    return machine


def refusal(**instances: Thing) -> str:
    with pytest.raises(StateNotEncodable) as found:
        list(machine_with(fine=Thing(), **instances).snapshot())
    return str(found.value)


def circle() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


BIG = 1 << 70
ONE_LINE = Line(5)
TWICE = [ONE_LINE, ONE_LINE]
SHARED_LIST = [1]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("number", BIG, "Thing 'bad'.number is 1180591620717411303424, an integer beyond 64 bits"),
        ("number", True, "Thing 'bad'.number is True, of type bool"),
        ("number", 1.0, "Thing 'bad'.number is 1.0"),
        ("number", Rank.LOW, "Thing 'bad'.number is <Rank.LOW: 1>, of type Rank"),
        ("ratio", 3, "Thing 'bad'.ratio is 3, of type int, and comes back as float"),
        ("text", "\ud800", "Thing 'bad'.text is '\\ud800', which cannot be encoded"),
        ("text", None, "Thing 'bad'.text is None, of type NoneType"),
        ("text", object, "Thing 'bad'.text is <class 'object'>, which cannot be encoded"),
        ("pair", (1, (2,)), "Thing 'bad'.pair[1] is (2,), of type tuple, and comes back as list"),
        ("lines", (), "Thing 'bad'.lines is (), of type tuple, and comes back as list"),
        ("lines", [Line(1), Line(True)], "Thing 'bad'.lines[1].cents is True"),
        ("lines", [Longer(1)], "Thing 'bad'.lines[0] is Longer(cents=1, notes=[])"),
        ("line", Longer(1), "Thing 'bad'.line is Longer(cents=1, notes=[])"),
        ("line", Line(BIG), "Thing 'bad'.line.cents is 1180591620717411303424"),
        ("named", {"a": Line(0, ["x", 1])}, "Thing 'bad'.named['a'].notes[1] is 1"),  # type: ignore[list-item]
        ("named", OrderedDict(a=Line()), "Thing 'bad'.named is OrderedDict("),
        ("counts", defaultdict(int, {1: 2}), "Thing 'bad'.counts is defaultdict("),
        ("counts", {1: 2, BIG: 3}, "Thing 'bad'.counts: the key 1180591620717411303424 is"),
        ("counts", {1: 2, True + 1: True}, "Thing 'bad'.counts[2] is True"),
        ("seats", {(1, "a"): Place(1, BIG)}, "Thing 'bad'.seats[(1, 'a')].seat is 11805916207"),
        ("tables", {"a": {"b": [1, False]}}, "Thing 'bad'.tables['a']['b'][1] is False"),
        ("lines", TWICE, "Thing 'bad'.lines[1] and Thing 'bad'.lines[0] are one object"),
        (
            "tables",
            {"a": {"b": SHARED_LIST, "c": SHARED_LIST}},
            "Thing 'bad'.tables['a']['c'] and Thing 'bad'.tables['a']['b'] are one object",
        ),
        ("lines", circle(), "Thing 'bad' holds itself"),
    ],
)
def test_what_would_not_come_back_is_named(field: str, value: Any, said: str) -> None:
    thing = Thing()
    setattr(thing, field, value)

    assert said in refusal(bad=thing)


def test_one_object_in_two_actors_is_named_in_both() -> None:
    line = Line(1)

    assert "Thing 'b'.lines[0] and Thing 'a'.line are one object" in refusal(
        a=Thing(line=line), b=Thing(lines=[line])
    )


def test_a_missing_field_is_refused_by_the_actors_name() -> None:
    thing = Thing()
    del thing.number

    assert "Thing 'bad'.number is missing" in refusal(bad=thing)


def test_what_comes_back_is_written_and_is_the_same_again() -> None:
    """Not a number, the negative zero, enums, frozen objects in two places, empty containers."""
    place = Place(3, 4)
    thing = Thing(
        number=-(1 << 63),
        text="naïve \U0001f600",
        ratio=math.nan,
        flag=True,
        price=Decimal("1.50"),
        token=UUID(int=5),
        pause=timedelta(days=1, microseconds=3),
        place=place,
        line=Line(1, ["a"]),
        pair=(1, [2, 3]),
        lines=[Line(1), Line(2, ["b"])],
        named={"x": Line(7)},
        counts={5: (1 << 64) - 1, -1: 0},
        seats={(1, "a"): place, (2, "b"): place},
        tables={"t": {}, "u": {"v": [], "w": [1]}},
    )
    machine = machine_with(one=thing, other=Thing(ratio=-0.0, place=place), plain=Thing())
    chunks = list(machine.snapshot())
    copy = Machine.restore(app, None, 1, chunks)

    assert list(copy.snapshot()) == chunks == list(machine.snapshot(verify=False))
    found = copy.instance(Thing, "one")
    assert math.isnan(found.ratio) and attrs.evolve(found, ratio=0.0) == attrs.evolve(
        thing, ratio=0.0
    )
    assert math.copysign(1, copy.instance(Thing, "other").ratio) == -1


def test_objects_that_something_else_refers_to_are_no_fault() -> None:
    things = {f"n{number}": Thing(lines=[Line(number)]) for number in range(50)}
    held = [thing.lines for thing in things.values()] + [list(things.values())]

    assert list(machine_with(**things).snapshot()) and held


def test_every_bad_value_above_would_otherwise_have_been_carried_or_lost() -> None:
    """Equal bytes are not enough: this is what the comparison of types is for."""
    decoded = msgspec.msgpack.decode(
        msgspec.msgpack.encode(Thing(lines=())),  # type: ignore[arg-type]
        type=Thing,
    )

    assert msgspec.msgpack.encode(decoded) == msgspec.msgpack.encode(Thing()) and decoded == Thing()
