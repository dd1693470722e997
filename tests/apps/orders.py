"""An app that maps commands of its own onto its actors, beside the cache: tests/test_door.py."""

from typing import Literal

import attrs

from leftfold.actors import App, Command, Context, Rejected, actor, handler, message, query
from leftfold.actors.cache import Cache


@message(id=950)
class Accepted:
    """How many orders there are."""

    orders: int


@message(id=951)
class NewOrder(Command[Accepted]):
    """Note an order."""

    side: Literal["buy", "sell"]
    price: float
    quantity: int
    urgent: bool = False
    note: bytes | None = None


@message(id=952)
class Shown:
    """What was noted last."""

    side: str
    price: float
    quantity: int
    urgent: bool
    note: bytes | None


@message(id=953)
class Last(Command[Shown | None]):
    """What was noted last?"""


@message(id=954)
class Count(Command[Accepted]):
    """How many orders are there?"""


@actor(id=95, key=str)
class Orders:
    """The orders for one symbol."""

    noted: list[NewOrder] = attrs.field(factory=list[NewOrder])

    @handler
    def new(self, command: NewOrder, context: Context) -> Accepted:
        """Note it."""
        if command.quantity <= 0:
            raise Rejected("the quantity must be positive")
        self.noted.append(command)
        return Accepted(len(self.noted))

    @query
    def last(self, query: Last) -> Shown | None:
        """The last one."""
        if not self.noted:
            return None
        last = self.noted[-1]
        return Shown(last.side, last.price, last.quantity, last.urgent, last.note)

    @query
    def count(self, query: Count) -> Accepted:
        """How many."""
        return Accepted(len(self.noted))


app = App(
    actors=[Orders, Cache],
    name="orders",
    resp={"ORDER.NEW": NewOrder, "order.last": Last, "ORDER.COUNT": Count},
)
