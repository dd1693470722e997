"""Savings in cents: what savings_old.py wrote, into logs, snapshots and frames, is lifted."""

import attrs

from leftfold.actors import (
    App,
    Command,
    Context,
    Fields,
    actor,
    handler,
    message,
    on_timer,
    query,
    upcast,
)


def in_cents(fields: Fields) -> Fields:
    """The same amount under its new name."""
    return {"cents": 100 * fields.pop("euros"), **fields}


@message(id=1, version=2)
class Deposit(Command["Balance"]):
    payer: str
    cents: int
    note: str = ""

    @upcast(from_version=0)
    @staticmethod
    def from_euros(fields: Fields) -> Fields:
        return in_cents(fields)

    @upcast(from_version=1)
    @staticmethod
    def from_owner(fields: Fields) -> Fields:
        return {"payer": fields["owner"], "cents": fields["cents"]}


@message(id=2, version=1)
class Balance:
    cents: int

    @upcast(from_version=0)
    @staticmethod
    def from_euros(fields: Fields) -> Fields:
        return in_cents(fields)


@message(id=3, version=1)
class Lock(Command["Balance"]):
    """Set something aside for a while."""

    cents: int
    seconds: int

    @upcast(from_version=0)
    @staticmethod
    def from_euros(fields: Fields) -> Fields:
        return in_cents(fields)


@message(id=4, version=1)
class Unlock:
    """What the timer of Lock brings."""

    cents: int

    @upcast(from_version=0)
    @staticmethod
    def from_euros(fields: Fields) -> Fields:
        return in_cents(fields)


@message(id=5, version=1)
class BalanceOf(Command["Balance"]):
    @upcast(from_version=0)
    @staticmethod
    def without_unit(fields: Fields) -> Fields:
        return {}


@message(id=6, version=1)
class Moved:
    cents: int

    @upcast(from_version=0)
    @staticmethod
    def from_euros(fields: Fields) -> Fields:
        return in_cents(fields)


@attrs.define
class Line:
    payer: str
    cents: int


@actor(id=1, key=str, emits=(Moved,), version=1)
class Account:
    cents: int = 0
    locked: int = 0
    lines: list[Line] = attrs.field(factory=list[Line])

    @upcast(from_version=0)
    @staticmethod
    def from_euros(fields: Fields) -> Fields:
        lines = [
            {"payer": line["text"].removeprefix("from "), "cents": 100 * line["euros"]}
            for line in fields["lines"]
        ]
        cents, locked = 100 * fields["euros"], 100 * fields["locked"]
        return {"cents": cents, "locked": locked, "lines": lines}

    @handler
    def deposit(self, command: Deposit, context: Context) -> Balance:
        self.cents += command.cents
        self.lines.append(Line(command.payer, command.cents))
        context.emit(Moved(command.cents))
        return Balance(self.cents)

    @handler
    def lock(self, command: Lock, context: Context) -> Balance:
        self.cents -= command.cents
        self.locked += command.cents
        context.set_timer(Unlock(command.cents), after_ns=command.seconds * 1_000_000_000)
        return Balance(self.cents)

    @on_timer
    def unlock(self, timer: Unlock, context: Context) -> None:
        self.locked -= timer.cents
        self.cents += timer.cents

    @query
    def balance(self, query: BalanceOf) -> Balance:
        return Balance(self.cents)


app = App(actors=[Account], name="savings")
"""The app."""
