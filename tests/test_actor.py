"""Actor classes are checked when they are made, and every refusal names a remedy."""

import sys

import pytest
from sample_bank import Account, Moved

from leftfold.actors import DefinitionError, actor
from leftfold.actors.actor import declaration

PRELUDE = """
import typing, weakref
import attrs
from leftfold.actors import *

@message(id=1)
class Add(Command["Sum"]):
    n: int
@message(id=2)
class Sum:
    n: int
@attrs.define
class Part:
    seen: set[int]

@actor(id=1, key=str)
"""

GOOD = "\n    @handler\n    def add(self, command: Add, context: Context) -> Sum: ..."

REFUSED = {
    "no default": ("class A:\n    x: int" + GOOD, "needs a default"),
    "set": ("class A:\n    x: set[int] = attrs.field(factory=set)" + GOOD, "another order"),
    "nested set": ("class A:\n    x: Part | None = None" + GOOD, "Part.seen: Set is refused"),
    "private": ("class A:\n    _x: int = 0" + GOOD, "rename it"),
    "unannotated": ("class A:\n    x = 0" + GOOD, "x has no annotation"),
    "list": ("class A:\n    x = []" + GOOD, "x has no annotation"),
    "converter": ("class A:\n    x: int = attrs.field(default=1, converter=int)" + GOOD, "convert"),
    "del": ("class A:\n    def __del__(self): ..." + GOOD, "__del__"),
    "weakref": ("class A:\n    x: weakref.ref[Add] | None = None" + GOOD, "refused"),
    "nothing": ("class A:\n    x: int = 0", "mark a method with @handler"),
    "async": (
        "class A:\n    @handler\n    async def add(self, command: Add, context: Context): ...",
        "plain functions",
    ),
    "generator": (
        "class A:\n    @handler\n    def add(self, command: Add, context: Context): yield 1",
        "plain functions",
    ),
    "no annotation": (
        "class A:\n    @handler\n    def add(self, command, context): ...",
        "annotate `command`",
    ),
    "int": (
        "class A:\n    @handler\n    def add(self, command: int, context: Context): ...",
        "one @message class",
    ),
    "union": (
        "class A:\n    @handler\n    def add(self, command: Add | Sum, context: Context): ...",
        "one @message class",
    ),
    "too early": (
        "class A:\n    @handler\n    def add(self, command: 'Later', context: Context): ...",
        "define message classes at module level",
    ),
    "no context": (
        "class A:\n    @handler\n    def add(self, command: Add): ...",
        r"must take \(self, message, context\)",
    ),
    "keyword": (
        "class A:\n    @query\n    def add(self, query: Add, *, deep: bool = False): ...",
        r"must take \(self, query\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_replicated_is_refused_with_a_remedy(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, remedy = REFUSED[case]
    module = type(sys)("refused_actors")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    with pytest.raises(DefinitionError, match=remedy):
        exec(PRELUDE + text, vars(module))  # noqa: S102


def test_the_same_class_without_the_fault_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(sys)("accepted_actor")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    exec(PRELUDE + "class A:\n    x: int = 0" + GOOD, vars(module))  # noqa: S102

    assert declaration(module.A).methods[0].name == "A.add"


def test_the_key_is_str_int_or_bytes() -> None:
    with pytest.raises(DefinitionError, match="str, int or bytes"):
        actor(id=1, key=float)


def test_an_event_must_be_a_message() -> None:
    with pytest.raises(DefinitionError, match="not a @message"):
        actor(id=1, key=str, emits=(int,))(type("A", (), {"__annotations__": {}}))


def test_an_actor_is_a_slotted_class_that_tests_can_use_alone() -> None:
    assert Account() == Account(cents=0)
    assert not hasattr(Account(), "__dict__")
    assert declaration(Account).emits == (Moved,)
