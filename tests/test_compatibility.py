"""Every rule of compare(), against what msgspec does with real bytes; and each sentence once."""

import enum
import sys
from collections.abc import Iterator
from random import Random
from types import ModuleType
from typing import Any

import attrs
import msgspec
import pytest
from evolving import attributes, changed_fields, edges, fields

from leftfold.actors import App, Command, Context, actor, handler, message
from leftfold.actors.app import encode_body
from leftfold.actors.compatibility import compare, decode_schema, kept

PAIRS = 150
SEEDS = 8


@message(id=9)
class Done:
    pass


def app_of(given: tuple[Any, ...]) -> tuple[App, type]:
    """An App whose message 1 has these fields."""
    cls = message(id=1)(attributes(given, "Deposit", Command))

    class Account:
        def deposit(self, command: Any, context: Context) -> None: ...

    Account.deposit.__annotations__["command"] = cls
    Account.deposit = handler(Account.deposit)  # type: ignore[method-assign]
    return App(actors=[actor(id=1, key=str)(Account)]), cls


def written(cls: Any, given: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
    """Values of the class, by field; also as they were before a field with a default was there."""
    columns = {name: edges(cls.__annotations__[name], type_) for name, type_, _ in given}
    for n in range(max(map(len, columns.values()))):
        value = {name: column[min(n, len(column) - 1)] for name, column in columns.items()}
        yield value
        if n == 0:
            yield {name: value[name] for name, _, has_default in given if not has_default}


def same(old: Any, new: Any, strictly: bool) -> bool:
    """Whether a value reads as what it was; strictly: of the same type, too."""
    if attrs.has(type(old)):
        old = attrs.asdict(old, recurse=False)
    if isinstance(old, dict) and attrs.has(type(new)):
        names = {field.name for field in attrs.fields(type(new))}
        lost = strictly and not names.issuperset(old)
        return not lost and all(
            same(one, getattr(new, name), strictly) for name, one in old.items() if name in names
        )
    if isinstance(old, enum.Enum) and isinstance(new, enum.Enum):
        is_other = old.name != new.name and old.name in type(new).__members__
        return old.value == new.value and not is_other
    if isinstance(old, list | tuple) and type(old) is type(new):
        return len(old) == len(new) and all(
            same(one, other, strictly) for one, other in zip(old, new, strict=True)
        )
    if isinstance(old, dict) and isinstance(new, dict):
        return same(list(old), list(new), strictly) and same(
            list(old.values()), list(new.values()), strictly
        )
    if isinstance(old, bool) is not isinstance(new, bool):
        return False
    return bool(old == new) and (type(old) is type(new) or not strictly)


def reads(cls: type, value: dict[str, Any], strictly: bool) -> bool:
    """Whether the class reads these fields as they are."""
    try:
        found = msgspec.msgpack.decode(encode_body(value), type=cls)
    except msgspec.ValidationError:
        return False
    names = {field.name for field in attrs.fields(cls)}
    return all(same(one, getattr(found, n), strictly) for n, one in value.items() if n in names)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_compare_says_of_random_changes_is_what_decoding_does(seed: int) -> None:
    rng = Random(seed)
    counts = {True: 0, False: 0}
    for number in range(PAIRS):
        old = fields(rng)
        new = changed_fields(rng, old)
        try:
            (before, cls), (after, other) = app_of(old), app_of(new)
        except TypeError:
            continue  # A union that msgspec cannot tell apart.
        found = [one for one in compare(before.schema(), after.schema()) if one.breaks]
        values = list(written(cls, old))
        told = f"seed {seed}, pair {number}: {old} -> {new}: {found}"
        assert all(reads(cls, value, False) for value in values), f"not of the type: {told}"
        counts[bool(found)] += 1
        if found:
            assert any(not reads(other, value, True) for value in values), told
        else:
            for value in values:
                assert reads(other, value, False), f"{value} {told}"
    assert min(counts.values()) > PAIRS // 10


# Each rule once, with its sentence

OLD = """
import enum
from typing import Annotated, Literal
import attrs
from msgspec import Meta
from leftfold.actors import *

class Side(enum.Enum):
    BUY = "buy"
    SELL = "sell"

@attrs.define
class Hold:
    cents: int
    note: str = ""

@message(id=1)
class Deposit(Command["Balance"]):
    cents: int
    side: Side = Side.BUY

@message(id=2)
class Balance:
    cents: int

@message(id=3)
class BalanceOf(Command[Balance]):
    pass

@message(id=4)
class Expire:
    hold: int

@message(id=5)
class Moved:
    cents: int

@message(id=6)
class Close(Command["Balance | None"]):
    pass

@actor(id=1, key=str, emits=(Moved,))
class Account:
    cents: int = 0
    holds: dict[int, Hold] = attrs.field(factory=dict)

    @handler
    def deposit(self, command: Deposit, context: Context) -> Balance: ...
    @handler
    def close(self, command: Close, context: Context) -> "Balance | None": ...
    @query
    def balance(self, query: BalanceOf) -> Balance: ...
    @on_timer
    def expire(self, timer: Expire, context: Context) -> None: ...

@message(id=7)
class Ping(Command[None]):
    pass

@actor(id=2, key=int)
class Gate:
    open: bool = False

    @handler
    def ping(self, command: Ping, context: Context) -> None: ...

app = App(actors=[Account, Gate], name="bank")
"""

LIFT = """
    @upcast(from_version=0)
    @staticmethod
    def lift(fields: Fields) -> Fields:
        return fields
"""

DEPOSIT = '@message(id=1)\nclass Deposit(Command["Balance"]):\n    cents: int'
RAISE = "raise the version to 1 and lift version 0 with @upcast(from_version=0)."
GATE = OLD[OLD.index("@message(id=7)") : OLD.index("app = App")]
EXPIRE = OLD[OLD.index("    @on_timer") : OLD.index("@message(id=7)")]
CLOSE = "    @handler\n    def close(self, command: Close, context: Context)"

# What is replaced by what; whether that breaks; what is said, in parts.
CHANGES = {
    "nothing": ([], None, ""),
    "new message and actor": (
        [
            ("[Account, Gate]", "[Account, Gate, New]"),
            (
                "app = App",
                GATE.replace("id=7", "id=8")
                .replace("Ping", "New_")
                .replace("id=2", "id=3")
                .replace("Gate", "New")
                + "app = App",
            ),
        ],
        None,
        "",
    ),
    "field with default": (
        [("class Balance:", "class Balance:\n    at: int = attrs.field(default=0, kw_only=True)")],
        None,
        "",
    ),
    "field without default": (
        [(DEPOSIT, DEPOSIT + "\n    account: str")],
        True,
        "Deposit (message 1): Deposit.account is new and has no default, and old bytes lack it; "
        "give it one, or " + RAISE,
    ),
    "field gone": (
        [("    side: Side = Side.BUY\n", "")],
        False,
        "Deposit (message 1): Deposit.side is gone, and what was written in it is dropped; if it "
        "was renamed or is still wanted, " + RAISE,
    ),
    "field renamed": (
        [("side: Side = Side.BUY", "direction: Side = Side.BUY")],
        True,
        "Deposit (message 1): Deposit.side is gone and direction is new and of its type, as if it was "
        "renamed: what was written in it would be dropped; to keep it, or to drop it, " + RAISE,
    ),
    "field gone, and another of another type new": (
        [("side: Side = Side.BUY", "note: str | None = None")],
        False,
        "Deposit (message 1): Deposit.side is gone, and what was written in it is dropped",
    ),
    "field of a part renamed": (
        [('note: str = ""', 'text: str = ""')],
        True,
        "Account (actor 1): Account.holds: Hold.note is gone and text is new",
    ),
    "field type": (
        [(DEPOSIT, DEPOSIT.replace("int", "str"))],
        True,
        "Deposit (message 1): Deposit.cents was int and is str; " + RAISE,
    ),
    "part of the state": (
        [("    cents: int\n    note", "    cents: float\n    note")],
        True,
        "Account (actor 1): Account.holds: Hold.cents was int and is float; " + RAISE,
    ),
    "state": (
        [("    cents: int = 0\n", "    cents: str = ''\n")],
        True,
        "Account (actor 1): Account.cents was int and is str; " + RAISE,
    ),
    "lost default": (
        [('note: str = ""', "note: str")],
        True,
        "Account (actor 1): Account.holds: Hold.note has lost its default",
    ),
    "validator": (
        [
            (
                'note: str = ""',
                "note: str = attrs.field(default='', validator=attrs.validators.max_len(3))",
            )
        ],
        False,
        (
            "Account (actor 1): Account.holds: Hold.note has a validator now, which may refuse old "
            "values."
        ),
    ),
    "hook": (
        [('note: str = ""', "note: str = ''\n    def __attrs_post_init__(self): ...")],
        False,
        "Account (actor 1): Account.holds: Hold has __attrs_post_init__ now, which may refuse",
    ),
    "enum value gone": (
        [('    SELL = "sell"\n', "")],
        True,
        "Deposit (message 1): Deposit.side: Side.SELL ('sell') is gone; keep it, or " + RAISE,
    ),
    "enum values swapped": (
        [('BUY = "buy"', 'BUY = "x"'), ('SELL = "sell"', 'SELL = "buy"'), ('"x"', '"sell"')],
        True,
        "Deposit (message 1): Deposit.side: Side.BUY was 'buy' and is 'sell', and 'buy' is another",
    ),
    "enum value added": (
        [('    SELL = "sell"\n', '    SELL = "sell"\n    BOTH = "both"\n')],
        None,
        "",
    ),
    "command gone": (
        [(CLOSE + ' -> "Balance | None": ...\n', "")],
        True,
        (
            "Close (message 6): it is gone, and logs may hold it and clients send it; keep the class "
            "and its handler, which may raise Rejected."
        ),
    ),
    "query gone": (
        [("    @query\n    def balance(self, query: BalanceOf) -> Balance: ...\n", "")],
        False,
        "BalanceOf (message 3): it is gone, and old clients that ask it are refused.",
    ),
    "timer gone": (
        [(EXPIRE, "\n")],
        True,
        "Expire (message 4): it is gone, and timers in snapshots may hold it; keep the class",
    ),
    "event gone": (
        [(", emits=(Moved,)", "")],
        False,
        "Moved (message 5): it is gone, and kept replies and events may hold it.",
    ),
    "actor gone": (
        [("[Account, Gate]", "[Account]")],
        True,
        "Gate (actor 2): it is gone, and snapshots may hold actors of it; keep the class",
    ),
    "key type": (
        [("id=2, key=int", "id=2, key=str")],
        True,
        (
            "Gate (actor 2): its keys were int and are str; give the type with the new keys an id of "
            "its own."
        ),
    ),
    "id of another class": (
        [
            ("class Balance:\n    cents: int", "class Total:\n    sum: int"),
            ("Balance", "Total"),
            ("TotalOf", "BalanceOf"),
        ],
        True,
        (
            "Balance (message 2): its id is Total's now; give Total an id that was never used, and "
            "keep Balance."
        ),
    ),
    "renamed": (
        [("Balance", "Total"), ("TotalOf", "BalanceOf")],
        False,
        "Balance (message 2): its class is called Total now, which is only a name.",
    ),
    "moved to another actor": (
        [
            (CLOSE + ' -> "Balance | None": ...\n', ""),
            (
                "    open: bool = False\n",
                "    open: bool = False\n" + CLOSE + ' -> "Balance | None": ...\n',
            ),
        ],
        True,
        "Close (message 6): it went to Account.close (actor 1) and goes to Gate.close (actor 2)",
    ),
    "query to handler": (
        [
            (
                "    @query\n    def balance(self, query: BalanceOf)",
                "    @handler\n    def balance(self, query: BalanceOf, context: Context)",
            )
        ],
        True,
        "BalanceOf (message 3): a query took it and a handler takes it; give the new one a message",
    ),
    "internal": (
        [(CLOSE, CLOSE.replace("@handler", "@handler(internal=True)"))],
        True,
        "Close (message 6): clients may not send it any more, and logs hold it from clients;",
    ),
    "reply gone": (
        [('Command["Balance | None"]', "Command[None]")],
        False,
        "Close (message 6): it promises no Balance any more, and kept replies may hold one.",
    ),
    "reply added": (
        [('class Deposit(Command["Balance"])', 'class Deposit(Command["Balance | None"])')],
        False,
        "Deposit (message 1): it may be answered with None, which old clients do not expect.",
    ),
    "raised": (
        [
            (DEPOSIT, DEPOSIT.replace("id=1", "id=1, version=1").replace("int", "str")),
            ("    side: Side = Side.BUY\n", "    side: Side = Side.BUY\n" + LIFT),
        ],
        None,
        "",
    ),
    "raised without a way": (
        [("@message(id=1)", "@message(id=1, version=1, oldest=1)")],
        True,
        (
            "Deposit (message 1): it was written in version 0 and is read from version 1 on; keep the "
            "upcasters from version 0 on."
        ),
    ),
}


def schema_from(source: str) -> dict[str, Any]:
    """The schema of the App that a module of this text holds."""
    module = ModuleType("sample")
    sys.modules["sample"] = module
    try:
        exec(source, vars(module))  # noqa: S102
        app: App = module.app
        assert decode_schema(app.schema_json()) == app.schema()
        return app.schema()
    finally:
        del sys.modules["sample"]


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_has_its_sentence(change: str) -> None:
    replacements, breaks, sentence = CHANGES[change]
    source = OLD
    for old, new in replacements:
        assert old in source
        source = source.replace(old, new)
    before, after = schema_from(OLD), schema_from(source)
    found = compare(before, after)

    if breaks is None:
        assert found == []
        return
    assert any(one.sentence.startswith(sentence) for one in found), [one.sentence for one in found]
    assert any(one.breaks for one in found) is breaks
    assert compare(after, after) == [] == compare(before, before)


def test_a_version_only_rises() -> None:
    raised = OLD.replace("@message(id=2)", "@message(id=2, version=3, oldest=3)")
    (found,) = compare(schema_from(raised), schema_from(OLD))

    assert found.breaks and found.sentence == (
        "Balance (message 2): its version was 3 and is 0; a version only rises: run the newer code."
    )


def test_an_id_that_was_given_up_stays_so() -> None:
    before = schema_from(OLD)
    without = schema_from(OLD.replace("emits=(Moved,)", "emits=()"))
    file = kept(before, without)
    assert file["retired"] == {"messages": {"5": "Moved"}, "actors": {}}
    again = schema_from(OLD.replace("Moved", "Shifted"))
    (found,) = compare(file, again)

    assert found.breaks and found.sentence.startswith(
        "Shifted (message 5): the id was Moved's, which is gone"
    )
    assert compare(file, before) == []
    assert kept(file, before) == before and kept(None, before) == before
    assert kept(file, without)["retired"] == file["retired"]


def test_the_schema_is_the_same_in_whatever_order_classes_are_listed() -> None:
    other = schema_from(OLD.replace("[Account, Gate]", "[Gate, Account]"))

    assert schema_from(OLD) == other


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"messages": 1}', b"\xff"])
def test_what_is_no_schema_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        decode_schema(text)


def test_a_schema_of_a_later_format_is_refused() -> None:
    later = msgspec.json.encode(schema_from(OLD) | {"format": 2})
    with pytest.raises(ValueError, match="later leftfold"):
        decode_schema(later)


def test_a_class_that_holds_itself_is_compared_once() -> None:
    source = OLD.replace('note: str = ""', 'note: str = ""\n    next: "Hold | None" = None')
    changed = source.replace('note: str = ""', "note: int = 0")
    found = compare(schema_from(source), schema_from(changed))

    assert [one.sentence.partition(";")[0] for one in found] == [
        "Account (actor 1): Account.holds: Hold.note was str and is int"
    ]


@pytest.mark.parametrize(
    ("old", "new", "breaks"),
    [
        ("int", "float", True),
        ("Annotated[int, Meta(ge=0, le=2**53)]", "float", False),
        ("Annotated[int, Meta(ge=0, le=2**53 + 1)]", "float", True),
        ("Annotated[int, Meta(gt=0)]", "Annotated[int, Meta(ge=1)]", False),
        ("Annotated[float, Meta(ge=0)]", "Annotated[float, Meta(gt=0)]", True),
        ("Annotated[float, Meta(gt=0)]", "Annotated[float, Meta(ge=0)]", False),
        ("tuple[int, int]", "Annotated[tuple[int, ...], Meta(max_length=1)]", True),
        ("tuple[int, int]", "Annotated[tuple[int, ...], Meta(max_length=2)]", False),
        ("int", "int | None", False),
        ("int | None", "int", True),
        ("tuple[int, int]", "tuple[int, ...]", False),
        ("tuple[int, ...]", "tuple[int, int]", True),
        ("list[int]", "tuple[int, ...]", True),
        ("Literal['a', 'b']", "Literal['a', 'b', 'c']", False),
        ("Literal['a', 'b']", "str", False),
        ("str", "Literal['a', 'b']", True),
        ("str", "bytes", True),
        ("dict[int, str]", "dict[str, str]", True),
    ],
)
def test_what_a_type_may_become(old: str, new: str, breaks: bool) -> None:
    before = schema_from(OLD.replace("    hold: int", f"    hold: {old}"))
    after = schema_from(OLD.replace("    hold: int", f"    hold: {new}"))

    assert any(one.breaks for one in compare(before, after)) is breaks
