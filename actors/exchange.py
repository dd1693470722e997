"""An exchange: one limit order book per symbol, `leftfold run leftfold.actors.exchange:app`.

Orders trade by price, then by arrival, at the price of the order that rested. Prices and quantities
are integers; what a unit of each is worth is the client's business. An order id is the client's to
choose and must not be in the book already; it may be used again once its order has left.

Events, in the order in which things happened: a `Traded` for each fill, then a `LevelChanged` for
each level that this changed. A subscriber that starts from a `Depth` and follows them has the book.

Whose orders these are, whether he can pay, and when the market is open are left to others.
"""

import attrs

from .actor import actor, handler, query
from .app import App
from .book import PRICE_MAX, Book, Fill, Level, Side
from .context import Context
from .errors import Rejected
from .message import Command, message

QUANTITY_MAX = 10**12
# With QUANTITY_MAX this keeps the sum of a level within 64 bits.
ORDERS_MAX = 1_000_000
# An order that could trade with more is stopped there and its rest cancelled: a command has at most
# 10,000 outputs, and each fill may need two.
FILLS_MAX = 4_000
DEPTH_MAX = 500


@message(id=110)
class Placed:
    """What became of an order: these three sum up to its quantity."""

    traded: int
    resting: int = 0
    cancelled: int = 0


@message(id=111)
class Cancelled:
    """The order has left the book; `quantity` was still open."""

    quantity: int


@message(id=112)
class Reduced:
    """The order has kept its place; `quantity` is now open. 0: it has left the book."""

    quantity: int


@message(id=113)
class Depth:
    """The best levels of both sides, best first, each (price, quantity, orders)."""

    buys: list[tuple[int, int, int]]
    sells: list[tuple[int, int, int]]


@message(id=114)
class Open:
    """A resting order."""

    side: Side
    price: int
    quantity: int


@message(id=100)
class Limit(Command[Placed]):
    """Trade at this price or better, and let the rest wait in the book."""

    order_id: int
    side: Side
    price: int
    quantity: int


@message(id=101)
class ImmediateOrCancel(Command[Placed]):
    """Trade at this price or better, and cancel the rest."""

    order_id: int
    side: Side
    price: int
    quantity: int


@message(id=102)
class Market(Command[Placed]):
    """Trade at any price, and cancel the rest."""

    order_id: int
    side: Side
    quantity: int


@message(id=103)
class Cancel(Command[Cancelled]):
    """Take a resting order out of the book."""

    order_id: int


@message(id=104)
class Reduce(Command[Reduced]):
    """Take this quantity off a resting order, which keeps its place."""

    order_id: int
    quantity: int


@message(id=105)
class Replace(Command[Placed]):
    """Give a resting order another price and open quantity.

    At the same price and not more quantity it keeps its place. Otherwise it is cancelled and comes
    anew, with the same id: it may trade, and rests behind those who were there.
    """

    order_id: int
    price: int
    quantity: int


@message(id=106)
class DepthOf(Command[Depth]):
    """The best levels, at most 500 a side."""

    levels: int = 10


@message(id=107)
class OrderOf(Command[Open]):
    """One resting order; rejected if there is none."""

    order_id: int


@message(id=120)
class Traded:
    """`taker` came and traded with `maker`, which had rested. `side` is the taker's."""

    maker: int
    taker: int
    side: Side
    price: int
    quantity: int


@message(id=121)
class LevelChanged:
    """What one level now holds; quantity 0: it is gone."""

    side: Side
    price: int
    quantity: int
    orders: int


@actor(id=1, key=str, emits=(Traded, LevelChanged))
class OrderBook:
    """The book of one symbol."""

    book: Book = attrs.field(factory=Book)

    @handler
    def limit(self, command: Limit, context: Context) -> Placed:
        """Trade what crosses; the rest waits."""
        quantity = command.quantity
        price = command.price
        order_id = command.order_id
        check_order(self.book, order_id, price, quantity)
        rank = price if command.side == "buy" else -price
        return place(self.book, order_id, rank, quantity, context)

    @handler
    def immediate_or_cancel(self, command: ImmediateOrCancel, context: Context) -> Placed:
        """Trade what crosses; the rest is cancelled."""
        check_order(self.book, command.order_id, command.price, command.quantity)
        rank = command.price if command.side == "buy" else -command.price
        traded = trade(self.book, command.order_id, rank, command.quantity, context)
        return Placed(traded, 0, command.quantity - traded)

    @handler
    def market(self, command: Market, context: Context) -> Placed:
        """Trade with whoever is there; the rest is cancelled."""
        rank = PRICE_MAX if command.side == "buy" else -1
        check_order(self.book, command.order_id, abs(rank), command.quantity)
        traded = trade(self.book, command.order_id, rank, command.quantity, context)
        return Placed(traded, 0, command.quantity - traded)

    @handler
    def cancel(self, command: Cancel, context: Context) -> Cancelled:
        """Take the order out."""
        order_id = command.order_id
        rank = self.book.ranks.get(order_id)
        if rank is None:
            raise Rejected("no such order")
        level, quantity = self.book.remove(order_id)
        context.emit(level_changed(rank, level))
        return Cancelled(quantity)

    @handler
    def reduce(self, command: Reduce, context: Context) -> Reduced:
        """Take some off the order, in its place."""
        rank = self.book.ranks.get(command.order_id)
        if rank is None:
            raise Rejected("no such order")
        quantity = self.book.quantity(command.order_id)
        if not 0 < command.quantity <= quantity:
            raise Rejected(f"the quantity must be 1 to {quantity}, which is what is open")
        level = self.book.reduce(command.order_id, command.quantity)
        context.emit(level_changed(rank, level))
        return Reduced(quantity - command.quantity)

    @handler
    def replace(self, command: Replace, context: Context) -> Placed:
        """Change the order in its place if that is fair to the others, else bring it anew."""
        book, order_id = self.book, command.order_id
        old = book.ranks.get(order_id)
        if old is None:
            raise Rejected("no such order")
        check_amounts(command.price, command.quantity)
        less = book.quantity(order_id) - command.quantity
        if command.price == abs(old) and less >= 0:
            if less:
                context.emit(level_changed(old, book.reduce(order_id, less)))
            return Placed(0, command.quantity)
        level, _ = book.remove(order_id)
        context.emit(level_changed(old, level))
        rank = command.price if old > 0 else -command.price
        return place(book, order_id, rank, command.quantity, context)

    @query
    def depth(self, query: DepthOf) -> Depth:
        """The best levels."""
        if not 0 < query.levels <= DEPTH_MAX:
            raise Rejected(f"the levels must be 1 to {DEPTH_MAX}")
        return Depth(self.book.buys.depth(query.levels), self.book.sells.depth(query.levels))

    @query
    def order(self, query: OrderOf) -> Open:
        """One order."""
        rank = self.book.ranks.get(query.order_id)
        if rank is None:
            raise Rejected("no such order")
        side: Side = "buy" if rank > 0 else "sell"
        return Open(side, abs(rank), self.book.quantity(query.order_id))


def check_amounts(price: int, quantity: int) -> None:
    """Refuse what the book cannot hold."""
    if not 0 < price <= PRICE_MAX:
        raise Rejected(f"the price must be 1 to {PRICE_MAX}")
    if not 0 < quantity <= QUANTITY_MAX:
        raise Rejected(f"the quantity must be 1 to {QUANTITY_MAX}")


def check_order(book: Book, order_id: int, price: int, quantity: int) -> None:
    """Refuse a new order that the book cannot take."""
    check_amounts(price, quantity)
    if order_id in book.ranks:
        raise Rejected("an order with this id is in the book")
    if len(book.ranks) >= ORDERS_MAX:
        raise Rejected(f"the book is full: it holds {ORDERS_MAX} orders")


def place(book: Book, order_id: int, rank: int, quantity: int, context: Context) -> Placed:
    """Trade what crosses and let the rest wait, unless it was stopped while it still crossed."""
    traded = 0
    if book.crosses(rank):
        traded = trade(book, order_id, rank, quantity, context)
        quantity -= traded
        if not quantity or book.crosses(rank):
            return Placed(traded, 0, quantity)
    level = book.rest(order_id, rank, quantity)
    context.emit(level_changed(rank, level))
    return Placed(traded, quantity)


def trade(book: Book, order_id: int, rank: int, quantity: int, context: Context) -> int:
    """Trade with the opposite side, and tell. Returns the quantity traded."""
    fills = book.take(rank, quantity, FILLS_MAX)
    side: Side = "buy" if rank > 0 else "sell"
    traded = 0
    for maker, price, filled in fills:
        traded += filled
        context.emit(Traded(maker, order_id, side, price, filled))
    emit_taken(book, rank, fills, context)
    return traded


def emit_taken(book: Book, rank: int, fills: list[Fill], context: Context) -> None:
    """Tell what the levels that were traded with now hold; fills of one level are adjacent."""
    told = 0
    for _, price, _ in fills:
        if price != told:
            told = price
            opposite = -price if rank > 0 else price
            level = book.half(opposite).levels.get(opposite)
            context.emit(level_changed(opposite, level or Level()))


def level_changed(rank: int, level: Level) -> LevelChanged:
    """What the level of this rank now holds."""
    if rank > 0:
        return LevelChanged("buy", rank, level.quantity, len(level.orders))
    return LevelChanged("sell", -rank, level.quantity, len(level.orders))


app = App(actors=[OrderBook], name="exchange")
