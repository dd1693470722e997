"""The app of the tests with real processes: counters that can be told to misbehave."""

import os
import time

from leftfold.actors import App, Command, Context, actor, handler, message, on_timer, query


@message(id=900)
class Total:
    """How much a counter has counted, and how often it was asked to."""

    value: int
    commands: int


@message(id=901)
class Add(Command[Total]):
    """Count."""

    amount: int


@message(id=902)
class Read(Command[Total]):
    """Ask for the total without a trace in the log."""


@message(id=903)
class Exit(Command[Total]):
    """End the logic process, as a bug in an extension module would."""


@message(id=904)
class Dawdle(Command[Total]):
    """Take longer than the budget allows."""

    seconds: float


@message(id=905)
class AddLater(Command[Total]):
    """Count when the time has come."""

    amount: int
    delay_ns: int


@message(id=906)
class Due:
    """What the timer of AddLater brings."""

    amount: int


@message(id=907)
class Fail(Command[Total]):
    """Raise what no handler should."""


@actor(id=90, key=str)
class Counter:
    """One total."""

    value: int = 0
    commands: int = 0

    def total(self) -> Total:
        return Total(value=self.value, commands=self.commands)

    @handler
    def add(self, command: Add, context: Context) -> Total:
        self.value += command.amount
        self.commands += 1
        return self.total()

    @handler
    def exit(self, command: Exit, context: Context) -> Total:
        os._exit(9)

    @handler
    def dawdle(self, command: Dawdle, context: Context) -> Total:
        time.sleep(command.seconds)
        return self.total()

    @handler
    def add_later(self, command: AddLater, context: Context) -> Total:
        context.set_timer(Due(amount=command.amount), after_ns=command.delay_ns)
        return self.total()

    @on_timer
    def due(self, due: Due, context: Context) -> None:
        self.value += due.amount

    @handler
    def fail(self, command: Fail, context: Context) -> Total:
        raise RuntimeError("as asked")

    @query
    def read(self, query: Read) -> Total:
        return self.total()


app = App(actors=[Counter], name="counting")
