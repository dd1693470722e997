"""The App checks what needs all classes at once, and turns keys and messages into bytes."""

import sys

import pytest
from sample_bank import Account, Balance, BalanceOf, Deposit, Held, Moved, Release, Unhold, app

from leftfold.actors import App, DefinitionError
from leftfold.actors.app import decode_key, encode_key, reply_types

PRELUDE = """
from leftfold.actors import *

@message(id=1)
class Add(Command["Sum"]):
    n: int
@message(id=2)
class Sum:
    n: int
@message(id=1)
class Twin(Command[None]):
    n: int
@message(id=3)
class Lost(Command["Nowhere"]):
    n: int
@message(id=4)
class Odd(Command[int]):
    n: int
@message(id=5)
class Open:
    n: "Unknown"

@actor(id=1, key=str)
class A:
    @handler
    def add(self, command: Add, context: Context) -> Sum: ...
@actor(id=1, key=str)
class SameId:
    @handler
    def open(self, command: Sum, context: Context) -> None: ...
@actor(id=2, key=str)
class SameMessage:
    @handler
    def open(self, command: Add, context: Context) -> None: ...
@actor(id=2, key=str)
class SameMessageId:
    @handler
    def open(self, command: Twin, context: Context) -> None: ...
@actor(id=2, key=str)
class LostReply:
    @handler
    def open(self, command: Lost, context: Context) -> None: ...
@actor(id=2, key=str)
class OddReply:
    @handler
    def open(self, command: Odd, context: Context) -> None: ...
@actor(id=2, key=str)
class OpenField:
    @handler
    def open(self, command: Open, context: Context) -> None: ...
"""

REFUSED = {
    "A, SameId": "share id 1",
    "A, SameMessage": "taken by both A.add and SameMessage.open",
    "A, SameMessageId": "Add and Twin share id 1",
    "A, LostReply": "the reply Nowhere is not defined",
    "A, OddReply": "a reply is a @message class or None",
    "A, OpenField": "not defined at module level",
    "A, Sum": "is not an actor",
    "": "no actors",
}


@pytest.mark.parametrize("actors", REFUSED)
def test_classes_that_do_not_fit_together_are_refused(
    actors: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = type(sys)("refused_app")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(PRELUDE, vars(module))  # noqa: S102
    classes = [getattr(module, name) for name in actors.split(", ") if name]

    with pytest.raises(DefinitionError, match=REFUSED[actors]):
        App(actors=classes)


def test_messages_are_found_by_id_and_decoded() -> None:
    assert app.message_for(1) is Deposit
    assert app.decode(*app.encode(Deposit(5))) == Deposit(5)
    assert app.decode(0, b"") is None
    with pytest.raises(KeyError):
        app.message_for(999)
    with pytest.raises(TypeError, match="not a message of App"):
        app.encode(5)


def test_each_message_has_one_route_of_one_kind() -> None:
    assert app.is_query(BalanceOf) and not app.is_query(Deposit)
    assert app.route_for(Release).method.kind == "on_timer"
    assert app.actor_type(Account).emits == {Moved: 6}
    with pytest.raises(TypeError, match="no actor"):
        app.route_for(Moved)


def test_replies_are_what_the_command_promises() -> None:
    assert reply_types(Unhold) == (Balance, type(None))
    assert app.route_for(Unhold).replies == {Balance: 2, type(None): 0}
    assert Held in app.messages.values()


@pytest.mark.parametrize(
    ("kind", "key"), [(str, "å"), (str, ""), (int, -5), (int, (1 << 63) - 1), (bytes, b"\xff")]
)
def test_a_key_comes_back_from_its_canonical_bytes(kind: type, key: str | int | bytes) -> None:
    assert decode_key(kind, encode_key(kind, key)) == key


@pytest.mark.parametrize(
    ("kind", "key"), [(str, 5), (int, "5"), (int, True), (bytes, "x"), (str, b"x")]
)
def test_a_key_of_another_type_is_refused(kind: type, key: str | int | bytes) -> None:
    with pytest.raises(TypeError, match="the key must be"):
        encode_key(kind, key)


@pytest.mark.parametrize(("kind", "encoded"), [(str, b"\xff"), (str, b"\xc0\x80"), (int, b"123")])
def test_bytes_that_are_no_key_are_refused(kind: type, encoded: bytes) -> None:
    with pytest.raises(ValueError):
        decode_key(kind, encoded)


def test_no_file_of_the_package_hides_a_name_of_its_api() -> None:
    import leftfold.actors

    assert all(callable(getattr(leftfold.actors, name)) for name in leftfold.actors.__all__)
