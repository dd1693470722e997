"""Inspection: a live actor as JSON, by an actor type's name and a key."""

import json
import math
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import attrs
import pytest
from sample_bank import Deposit, Hold, Misbehave
from sample_bank import app as bank_app

from leftfold.actors import App, Command, Context, actor, handler, message, parts
from leftfold.actors.inspection import plain
from leftfold.actors.layout import COMMAND, REPLY, SlotType, Status, padded
from leftfold.actors.ledger import Ledger
from leftfold.actors.ledger import app as ledger_app
from leftfold.actors.limits import Limits
from leftfold.actors.machine import Machine
from leftfold.actors.testing import CommandFailed, Folded


class Color(Enum):
    RED = "red"


@attrs.define
class Line:
    cents: int
    note: bytes = b""


@message(id=1)
class Touch(Command[None]):
    number: int


@actor(id=5, key=bytes)
class Safe:
    last: int = 0

    @handler
    def touch(self, command: Touch, context: Context) -> None:
        self.last = command.number


def inspect(machine: Machine, name: str, key: bytes) -> tuple[Status, Any]:
    """The status, and what the JSON says or the text."""
    body = name.encode()
    length = COMMAND.size + len(key) + len(body)
    head = COMMAND.pack(length, SlotType.QUERY, 0, b"s" * 16, 9, 0, len(key), 0)
    answer = machine.query(padded(head + key + body), 77)
    length, type_, tag, session, request, index, ordinal, status, _ = REPLY.unpack_from(answer)
    assert (type_, tag, session, request) == (SlotType.ANSWER, 0, b"s" * 16, 9)
    assert (index, ordinal) == (77, 0) and len(answer) % 8 == 0
    text = answer[REPLY.size : length].decode()
    return Status(status), json.loads(text) if status == Status.OK else text


def test_an_actor_is_shown_with_its_fields_in_order() -> None:
    bank = Folded(bank_app)
    bank.ask("alice", Deposit(500))
    timer = bank.ask("alice", Hold(100, seconds=9)).timer
    status, found = inspect(bank.machine, "Account", b"alice")

    assert status == Status.OK
    assert found == {
        "actor": "Account",
        "key": "alice",
        "quarantine": None,
        "state": {
            "cents": 400,
            "held": {str(timer): 100},
            "lines": [{"cents": 500, "time_ns": bank.time_ns}],
        },
    }
    assert list(found["state"]) == ["cents", "held", "lines"]
    assert inspect(bank.machine, "1", b"alice") == (status, found)


def test_looking_changes_nothing() -> None:
    bank = Folded(bank_app)
    bank.ask("alice", Deposit(500))
    before = bank.machine.state_digest()
    inspect(bank.machine, "Account", b"alice")
    inspect(bank.machine, "Account", b"bob")

    assert bank.machine.state_digest() == before


def test_a_quarantined_actor_shows_why_and_what_no_snapshot_could_hold() -> None:
    bank = Folded(bank_app, strict=False)
    bank.ask("bad", Misbehave("big state"))
    with pytest.raises(CommandFailed):
        bank.ask("bad", Misbehave("raise"))
    status, found = inspect(bank.machine, "Account", b"bad")

    assert status == Status.OK and found["state"]["cents"] == 1 << 70
    assert found["quarantine"].startswith("A101 Account.misbehave at index")


def test_what_is_not_there_is_said() -> None:
    bank = Folded(bank_app)
    bank.ask("alice", Deposit(500))

    assert inspect(bank.machine, "Account", b"bob") == (
        Status.NO_SUCH_ACTOR,
        "no command has reached Account 'bob'",
    )
    assert inspect(bank.machine, "Konto", b"alice") == (
        Status.NO_SUCH_ACTOR,
        "there is no actor type 'Konto'; the App has Account (1)",
    )
    status, text = inspect(bank.machine, "Account", b"\xff")
    assert status == Status.NO_SUCH_ACTOR and text.startswith("no Account can have this key")
    assert inspect(bank.machine, "\ufffd", b"")[0] == Status.NO_SUCH_ACTOR


def test_keys_of_bytes_are_shown_in_hexadecimal() -> None:
    folded = Folded(App(actors=[Safe]))
    folded.ask(b"\x00\xff", Touch(3))

    assert inspect(folded.machine, "Safe", b"\x00\xff")[1]["key"] == "00ff"


def test_an_actor_too_large_for_an_answer_is_told_so_at_once() -> None:
    folded = Folded(ledger_app, strict=False)
    machine = folded.machine
    count = parts.CUT_ITEMS + 1
    machine.state.actors[2][b"all"] = Ledger({f"a{n}": n for n in range(count)})
    status, text = inspect(machine, "Ledger", b"all")

    assert status == Status.REPLY_TOO_LARGE
    assert text.startswith(f"Ledger 'all' holds {count} items in accounts: too much")
    small = Machine(ledger_app, Limits(reply_bytes_max=600), 1)
    small.state.actors[2][b"all"] = Ledger({f"a{n}": n for n in range(100)})
    status, text = inspect(small, "Ledger", b"all")
    assert status == Status.REPLY_TOO_LARGE and "bytes as JSON" in text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"\x01\xfe", "01fe"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (1 << 90, 1 << 90),
        (Color.RED, "red"),
        (Decimal("1.50"), "1.50"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ((1, [None, True]), [1, [None, True]]),
        (Line(1, b"\x02"), {"cents": 1, "note": "02"}),
        ({"a": 1, 2: 3, b"\xab": 4, Color.RED: 5}, {"a": 1, "2": 3, "ab": 4, "red": 5}),
        ({(1, "a"): 2, (0, "b"): 1}, [[[1, "a"], 2], [[0, "b"], 1]]),
        ({1: "int", "1": "text"}, [[1, "int"], ["1", "text"]]),
        ({"later": 1, "earlier": 2}, {"later": 1, "earlier": 2}),
        (object(), "<object>"),
    ],
)
def test_every_value_has_a_form_in_json(value: Any, expected: Any) -> None:
    found = plain(value)

    assert json.loads(json.dumps(found)) == expected
    if isinstance(expected, dict):
        assert list(found) == list(expected)


def test_a_value_that_holds_itself_ends_somewhere() -> None:
    value: list[Any] = []
    value.append(value)

    assert "..." in json.dumps(plain(value))
