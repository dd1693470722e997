"""The app of the tests with recorded histories: registers that can be compared and set, and the counters of counting.py."""

from counting import Counter

from leftfold.actors import App, Command, Context, actor, handler, message, query


@message(id=950)
class Value:
    """What a cell holds."""

    value: int


@message(id=951)
class Write(Command[Value]):
    """Hold this."""

    value: int


@message(id=952)
class Swap(Command["Swapped"]):
    """Hold `new`, if it is `old` that is held."""

    old: int
    new: int


@message(id=953)
class Swapped:
    """Whether it was."""

    done: bool


@message(id=954)
class Increase(Command[Value]):
    """Hold that much more."""

    amount: int


@message(id=955)
class Look(Command[Value]):
    """Tell what is held."""


@message(id=956)
class Written:
    """What was written into a cell."""

    value: int


@actor(id=95, key=str, emits=(Written,))
class Cell:
    """One number."""

    value: int = 0

    @handler
    def write(self, command: Write, context: Context) -> Value:
        self.value = command.value
        context.emit(Written(command.value))
        return Value(self.value)

    @handler
    def swap(self, command: Swap, context: Context) -> Swapped:
        if self.value != command.old:
            return Swapped(False)
        self.value = command.new
        return Swapped(True)

    @handler
    def increase(self, command: Increase, context: Context) -> Value:
        self.value += command.amount
        return Value(self.value)

    @query
    def look(self, query: Look) -> Value:
        return Value(self.value)


app = App(actors=[Cell, Counter], name="cells")
