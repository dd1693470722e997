"""Messages and state with upcasters as a user writes them; both type checkers must accept them.

Every line with an ignore comment must be an error: unused ignores are reported by both checkers.
"""

from typing import Any, assert_type

from leftfold.actors import (
    App,
    Command,
    Context,
    Fields,
    actor,
    handler,
    message,
    upcast,
)
from leftfold.actors.testing import Folded


@message(id=1, version=2)
class Deposit(Command["Balance"]):
    account: str
    cents: int

    @upcast(from_version=0)
    @staticmethod
    def named(fields: Fields) -> Fields:
        return {"account": fields["name"], "amount": fields["amount"]}

    @upcast(from_version=1)
    @staticmethod
    def in_cents(fields: dict[str, Any]) -> dict[str, Any]:
        return {"account": fields["account"], "cents": 100 * fields["amount"]}


@message(id=2, version=1, oldest=1)
class Balance:
    cents: int


@actor(id=1, key=str, version=1)
class Account:
    cents: int = 0

    @staticmethod
    @upcast(from_version=0)
    def in_cents(fields: Fields) -> Fields:
        fields["cents"] = 100 * fields.pop("amount")
        return fields

    @handler
    def deposit(self, command: Deposit, context: Context) -> Balance:
        self.cents += command.cents
        return Balance(self.cents)


app = App(actors=[Account], name="bank", build="2026-11-23.4")


class Wrong:
    """What an upcaster is not."""

    @upcast(from_version=0)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType, reportUntypedFunctionDecorator]
    @staticmethod
    def takes_text(fields: str) -> Fields:
        return {}

    @upcast(from_version=0)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType, reportUntypedFunctionDecorator]
    @staticmethod
    def returns_nothing(fields: Fields) -> None: ...


def misuse() -> None:
    """Versions are integers, and known by name."""
    message(id=1, version="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    actor(id=1, key=str, versions=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    upcast(0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    upcast(from_version="0")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    App(actors=[Account], build=4)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def in_a_test() -> None:
    """An upcaster can be called as the plain function that it is."""
    assert_type(Deposit.named({"name": "a", "amount": 1}), dict[str, Any])
    assert Deposit.in_cents({"account": "a", "amount": 1}) == {"account": "a", "cents": 100}
    assert_type(Folded(app).ask("a", Deposit("a", 5)), Balance)
    assert_type(app.schema(), dict[str, Any])
