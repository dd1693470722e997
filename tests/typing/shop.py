"""A sample application as a user writes it; both type checkers must accept it as it stands.

Every line with an ignore comment must be an error: unused ignores are reported by both checkers.
"""

from typing import Protocol, TypeVar, assert_type

import attrs

from leftfold.actors import (
    App,
    Command,
    Context,
    Rejected,
    actor,
    handler,
    message,
    on_timer,
    query,
    state,
)
from leftfold.actors.testing import Folded

R = TypeVar("R")


@message(id=1)
class Reserve(Command["Reserved | Waiting"]):
    item: str
    count: int = 1


@message(id=2)
class Reserved:
    reservation: int


@message(id=3)
class Waiting:
    place: int


@message(id=4)
class Cancel(Command[None]):
    reservation: int


@message(id=5)
class StockOf(Command["Stock"]):
    pass


@message(id=6)
class Stock:
    free: int


@message(id=7)
class Expire:
    reservation: int


@state
class Line:
    item: str
    timer: int


@actor(id=1, key=str, emits=(Stock,))
class Shelf:
    free: int = 10
    lines: dict[int, Line] = attrs.field(factory=dict[int, Line])

    @handler
    def reserve(self, command: Reserve, context: Context) -> Reserved | Waiting:
        if command.count < 1:
            raise Rejected("count")
        if command.count > self.free:
            return Waiting(1)
        timer = context.set_timer(Expire(1), after_ns=5)
        assert_type(timer, int)
        assert_type(context.time_ns, int)
        self.free -= command.count
        self.lines[timer] = Line(command.item, timer)
        context.emit(Stock(self.free))
        return Reserved(timer)

    @handler(internal=True)
    def cancel(self, command: Cancel, context: Context) -> None:
        context.cancel_timer(self.lines.pop(command.reservation).timer)

    @on_timer
    def expire(self, timer: Expire, context: Context) -> None:
        self.free += 1

    @query
    def stock(self, query: StockOf) -> Stock:
        return Stock(self.free)


app = App(actors=[Shelf], name="shop")


class Client(Protocol):
    """The shape of a client."""

    async def ask(self, key: str | int | bytes, command: Command[R]) -> R: ...


async def use(client: Client) -> None:
    """A reply has the type that its command promises."""
    assert_type(await client.ask("a", Reserve("tea")), Reserved | Waiting)
    assert_type(await client.ask("a", Cancel(1)), None)
    assert_type(await client.ask("a", StockOf()), Stock)
    stock: Reserved = await client.ask("a", StockOf())  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
    await client.ask("a", Stock(1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await client.ask(1.5, StockOf())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    print(stock)


def misuse(reserve: Reserve, context: Context) -> None:
    """Messages are frozen and their arguments are checked."""
    reserve.count = 3  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    Reserve(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Reserve()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Reserve("tea", price=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Line("tea", "x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Shelf(free="x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    context.set_timer(Expire(1), after=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    message(id="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    actor(id=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def in_a_test() -> None:
    """The harness is typed as a client is, and actors are plain classes."""
    fold = Folded(app)
    assert_type(fold.ask("a", Reserve("tea")), Reserved | Waiting)
    assert_type(fold.ask("a", StockOf()), Stock)
    fold.check_replay()
    shelf = Shelf()
    assert_type(shelf.free, int)
    assert_type(shelf.stock(StockOf()), Stock)
    shelf.free = 5
    assert_type(Reserve("tea").item, str)
