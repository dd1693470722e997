"""Messages are checked when their class is made, and every refusal names a remedy."""

import subprocess
import sys
import textwrap

import attrs
import msgspec
import pytest

from leftfold.actors import Command, DefinitionError, message
from leftfold.actors.app import encode_body
from leftfold.actors.message import message_id


@message(id=1)
class Point(Command[None]):
    x: int
    y: int = 2


@attrs.frozen
class Inner:
    names: tuple[str, ...]


@message(id=2)
class Outer:
    inner: Inner | None
    table: dict[int, list[Inner]] = attrs.field(factory=dict[int, list[Inner]])


@attrs.frozen
class Private:
    _secret: int


@attrs.frozen
class Other:
    pass


def test_a_message_is_slotted_and_comes_back_from_its_bytes() -> None:
    outer = Outer(Inner(("a",)), {3: [Inner(())]})

    assert not hasattr(Point(1), "__dict__")
    assert message_id(Point) == 1
    assert msgspec.msgpack.decode(encode_body(outer), type=Outer) == outer


def test_messages_compare_and_hash_by_value() -> None:
    assert Point(1) == Point(1, 2) and hash(Point(1)) == hash(Point(1, 2))
    assert Point(1) != Point(2)


def test_a_field_added_later_takes_its_default() -> None:
    assert msgspec.msgpack.decode(encode_body({"x": 5}), type=Point) == Point(5, 2)


@pytest.mark.parametrize("id", [0, -1, 65_536, True, "1", None])
def test_an_id_is_an_integer_from_1_to_65535(id: object) -> None:
    with pytest.raises(DefinitionError, match="integer from 1 to 65535"):
        message(id=id)  # type: ignore[arg-type]


REFUSED = {
    "private": ("class M:\n    _x: int", "private fields are not encoded; rename"),
    "converter": ("class M:\n    x: int = attrs.field(converter=int)", "convert outside"),
    "unannotated": ("class M:\n    x = attrs.field()", "no annotation"),
    "constant": ("class M:\n    x = 3", "or ClassVar"),
    "set": ("class M:\n    x: set[int]", r"use dict\[T, None\] or a list"),
    "frozenset": ("class M:\n    x: dict[int, frozenset[str]]", r"use dict\[T, None\] or a tuple"),
    "any": ("class M:\n    x: typing.Any", "name the type"),
    "object": ("class M:\n    x: object", "refused"),
    "datetime": ("class M:\n    x: datetime.datetime", "integer nanoseconds"),
    "init": ("class M:\n    x: int = attrs.field(init=False, default=1)", "reset on decoding"),
    "union": ("class M:\n    x: One | Two", "one of which is None|of which one is None"),
    "nested private": ("class M:\n    x: Hidden", "Hidden._secret: private"),
    "nested cache_hash": ("class M:\n    x: list[Cached]", "cache_hash breaks"),
    "dataclass": ("class M:\n    x: Plain", "must be an attrs class"),
    "struct": ("class M:\n    x: Packed", "instead of a msgspec.Struct"),
    "attrs twice": ("@attrs.frozen\nclass M:\n    x: int", "remove attrs' decorator"),
    "inherits": ("class M(Base):\n    x: int", "messages do not inherit"),
    "del": ("class M:\n    def __del__(self): ...", "remove it"),
}

PRELUDE = """
import dataclasses, datetime, typing
import attrs, msgspec
from leftfold.actors import message

@attrs.frozen
class One: pass
@attrs.frozen
class Two: pass
@attrs.frozen
class Hidden:
    _secret: int
@attrs.frozen(cache_hash=True)
class Cached:
    x: int
@dataclasses.dataclass
class Plain:
    x: int
class Packed(msgspec.Struct):
    x: int
@message(id=9)
class Base:
    y: int

@message(id=1)
"""


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_survive_encoding_is_refused_with_a_remedy(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, remedy = REFUSED[case]
    module = type(sys)("refused_messages")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    with pytest.raises(DefinitionError, match=remedy):
        exec(PRELUDE + text, vars(module))  # noqa: S102


def test_a_class_constant_is_allowed() -> None:
    program = """
    from typing import ClassVar
    from leftfold.actors import message
    @message(id=1)
    class M:
        LIMIT: ClassVar[int] = 3
        x: int = 0
        def twice(self) -> int: return 2 * self.x
        @property
        def half(self) -> int: return self.x // 2
        @classmethod
        def one(cls): return cls(1)
        @staticmethod
        def two(): return 2
    assert M.one().twice() == 2 and M.LIMIT == 3
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)
