"""Savings as they were first written, in whole euros. Its successor is savings.py."""

import attrs

from leftfold.actors import App, Command, Context, actor, handler, message, on_timer, query


@message(id=1)
class Deposit(Command["Balance"]):
    owner: str
    euros: int


@message(id=2)
class Balance:
    euros: int


@message(id=3)
class Lock(Command["Balance"]):
    """Set something aside for a while."""

    euros: int
    seconds: int


@message(id=4)
class Unlock:
    """What the timer of Lock brings."""

    euros: int


@message(id=5)
class BalanceOf(Command["Balance"]):
    in_euros: bool = True


@message(id=6)
class Moved:
    euros: int


@attrs.define
class Line:
    text: str
    euros: int


@actor(id=1, key=str, emits=(Moved,))
class Account:
    euros: int = 0
    locked: int = 0
    lines: list[Line] = attrs.field(factory=list[Line])

    @handler
    def deposit(self, command: Deposit, context: Context) -> Balance:
        self.euros += command.euros
        self.lines.append(Line(f"from {command.owner}", command.euros))
        context.emit(Moved(command.euros))
        return Balance(self.euros)

    @handler
    def lock(self, command: Lock, context: Context) -> Balance:
        self.euros -= command.euros
        self.locked += command.euros
        context.set_timer(Unlock(command.euros), after_ns=command.seconds * 1_000_000_000)
        return Balance(self.euros)

    @on_timer
    def unlock(self, timer: Unlock, context: Context) -> None:
        self.locked -= timer.euros
        self.euros += timer.euros

    @query
    def balance(self, query: BalanceOf) -> Balance:
        return Balance(self.euros)


app = App(actors=[Account], name="savings")
"""The app."""
