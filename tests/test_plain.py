"""Plain messages are read and written as msgspec does, to the byte and to the type, or left to it."""

import gc
import random
import sys
from itertools import pairwise
from typing import Annotated, Any, Literal

import attrs
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from leftfold.actors import Command, _fold, message
from leftfold.actors.app import encode_body
from leftfold.actors.plain import plain


@message(id=1)
class Everything:
    number: int
    text: str
    yes: bool
    real: float
    data: bytes
    maybe: int | None = None
    some: bytes | int | None = 0


@message(id=2)
class Short(Command[None]):
    a: str
    b: int


@message(id=3)
class Nothing:
    pass


@message(id=4)
class Ranged:
    a: Annotated[int, msgspec.Meta(ge=0)]


@message(id=5)
class Chosen:
    a: Literal["x", "y"]


@message(id=6)
class Listed:
    a: list[int]


@message(id=7)
class Either:
    a: int | float


@message(id=8)
class Validated:
    a: int = attrs.field(validator=attrs.validators.ge(0))


@message(id=9)
class Hooked:
    a: int

    def __attrs_post_init__(self) -> None:
        pass


@message(id=10)
class LongNamed:
    a_name_that_is_longer_than_thirty_one_bytes: int


def reader(cls: type) -> _fold.Plain:
    found = plain(cls)
    assert found is not None
    return found


def by_msgspec(cls: type, body: bytes) -> Any:
    try:
        return msgspec.msgpack.Decoder(cls).decode(body)
    except Exception:  # noqa: BLE001 (whatever it says)
        return None


def same(left: Any, right: Any) -> bool:
    """Equal, and of the same types; NaN is itself."""
    for name in (field.name for field in attrs.fields(type(left))):
        a, b = getattr(left, name), getattr(right, name)
        if type(a) is not type(b) or repr(a) != repr(b):
            return False
    return type(left) is type(right)


INTS = st.integers(-(1 << 65), 1 << 65) | st.sampled_from(
    [sign * (1 << bits) + step for sign in (1, -1) for bits in range(65) for step in (-1, 0, 1)]
)
TEXTS = st.text(max_size=40) | st.sampled_from(
    ["x" * 31, "x" * 32, "é" * 128, "x" * 255, "x" * 256]
)
BYTES = st.binary(max_size=40) | st.sampled_from([bytes(255), bytes(256), bytes(600)])
VALUES = st.one_of(
    INTS, TEXTS, BYTES, st.booleans(), st.floats(), st.none(), st.lists(st.integers(), max_size=2)
)


@settings(max_examples=500, deadline=None)
@given(
    number=INTS,
    text=TEXTS,
    yes=st.booleans(),
    real=st.floats(),
    data=BYTES,
    maybe=st.none() | INTS,
    some=st.none() | INTS | BYTES,
)
def test_every_value_is_written_and_read_as_by_msgspec(**values: Any) -> None:
    made = Everything(**values)
    try:
        expected = encode_body(made)
    except OverflowError:
        assert reader(Everything).encode(made) is None
        return
    written = reader(Everything).encode(made)
    assert (
        written == expected
        or (written is None and len(expected) > 100)
        or (written is None and any(type(v) is int and v >= 1 << 63 for v in values.values()))
    )
    found = reader(Everything).decode(expected)
    assert found is not None and same(found, by_msgspec(Everything, expected))


@settings(max_examples=500, deadline=None)
@given(values=st.lists(VALUES, min_size=7, max_size=7))
@example(values=["\ud800", True, 1, 1, "", 2.0, 1])
def test_values_of_wrong_types_are_written_as_by_msgspec_or_left_to_it(values: list[Any]) -> None:
    made = Everything(*values)
    try:
        expected = encode_body(made)
    except Exception:  # noqa: BLE001 (surrogates, or numbers beyond 64 bits)
        assert reader(Everything).encode(made) is None
        return
    assert reader(Everything).encode(made) in (expected, None)


def test_every_length_of_a_number_begins_where_msgspec_begins_it() -> None:
    for bits in range(64):
        for number in (s * (1 << bits) + d for s in (1, -1) for d in (-1, 0, 1)):
            made = Short("x", number)
            expected = encode_body(made) if -(1 << 63) <= number < 1 << 63 else None
            assert reader(Short).encode(made) == expected
            assert expected is None or reader(Short).decode(expected).b == number


NAMES = ["number", "text", "yes", "real", "data", "maybe", "some"]


@settings(max_examples=500, deadline=None)
@given(
    fields=st.dictionaries(st.sampled_from([*NAMES, "other"]), VALUES, min_size=5)
    | st.lists(VALUES, max_size=3)
    | VALUES,
    behind=st.sampled_from([b"", b"", b"\0"]),
)
def test_bodies_that_may_not_fit_are_read_as_by_msgspec_or_left_to_it(
    fields: Any, behind: bytes
) -> None:
    try:
        body = msgspec.msgpack.encode(fields) + behind
    except Exception:  # noqa: BLE001 (as above)
        return
    found = reader(Everything).decode(body)
    expected = by_msgspec(Everything, body)
    assert found is None or (expected is not None and same(found, expected))


@pytest.mark.parametrize("cls", [Everything, Short])
def test_damaged_bodies_are_read_as_by_msgspec_or_left_to_it(cls: type) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    values: dict[type, list[Any]] = {
        Everything: [-5, "text", True, 0.5, b"data", 70_000, b"some"],
        Short: ["é" * 20, 1 << 40],
    }
    whole = encode_body(cls(*values[cls]))
    read = 0
    for _ in range(20_000):
        body = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        cut = bytes(body[: rng.randrange(len(body) + 1)] if rng.random() < 0.2 else body)
        found = reader(cls).decode(cut)
        expected = by_msgspec(cls, cut)
        read += found is not None
        assert found is None or (expected is not None and same(found, expected)), cut
    assert read > 100


@pytest.mark.parametrize(
    "body",
    [
        b"\x82\xa1a\xd9\x01x\xa1b\x05",
        b"\x82\xa1a\xda\x00\x01x\xa1b\xcc\x05",
        b"\x82\xa1a\xdb\x00\x00\x00\x01x\xa1b\xcf" + (5).to_bytes(8, "big"),
        b"\x82\xa1a\xa1x\xa1b\xd0\x85",
        b"\x82\xa1a\xa1x\xa1b\xd3" + (-5).to_bytes(8, "big", signed=True),
        b"\x82\xa1a\xa1x\xa1b\xff",
    ],
)
def test_numbers_and_lengths_may_be_written_longer_than_they_need(body: bytes) -> None:
    found = reader(Short).decode(body)
    assert found is not None and same(found, by_msgspec(Short, body))


@pytest.mark.parametrize(
    "body", [b"\x82\xa1b\x05\xa1a\xa1x", b"\x81\xa1a\xa1x", b"\x82\xa1a\xa1\xff\xa1b\x05"]
)
def test_other_orders_missing_fields_and_bad_text_are_left_to_msgspec(body: bytes) -> None:
    assert reader(Short).decode(body) is None


@pytest.mark.parametrize(
    "cls", [Nothing, Ranged, Chosen, Listed, Either, Validated, Hooked, LongNamed, type(None)]
)
def test_classes_that_need_more_than_their_fields_are_left_to_msgspec(cls: type) -> None:
    assert plain(cls) is None


def test_nothing_is_held_of_what_was_read_or_written() -> None:
    text, number = "a text of its own", 1 << 50
    whole = encode_body(Short("é" * 3, 1 << 40))
    made = Short(text, number)
    short = reader(Short)

    def use() -> list[int]:
        for _ in range(500):
            short.encode(made)
            short.decode(whole)
            short.decode(whole[:-1])
            short.decode(whole[:5] + b"\xff" + whole[6:])
            with pytest.raises(TypeError):
                short.encode(text)
            with pytest.raises(TypeError):
                short.decode(text)  # type: ignore[arg-type]
        gc.collect()
        return [*map(sys.getrefcount, (text, number, made, Short, short)), sys.getallocatedblocks()]

    use()
    rounds = [use() for _ in range(4)]
    # What is held grows by 500 in every round; other threads and garbage of other tests do not.
    for counts in zip(*rounds, strict=True):
        assert min(now - then for then, now in pairwise(counts)) < 100


def test_a_plain_that_cannot_be_made_holds_nothing() -> None:
    gc.collect()
    before = sys.getrefcount(Short)
    many = tuple((name, 4) for name in "abcdefghijklmnop")
    for fields in (many, (("c", 4),), (("a", 16), "b"), (("a" * 32, 4),), (("a", "x"),)):
        for _ in range(10):
            with pytest.raises((TypeError, ValueError)):
                _fold.Plain(Short, fields)  # type: ignore[arg-type]
    gc.collect()

    assert sys.getrefcount(Short) <= before
