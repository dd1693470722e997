"""A limit order book with price-time priority, in integers, pure.

Each side keeps its levels by *rank*: the price for a buy, minus the price for a sell. So the higher
rank is the better one on both sides, one code serves both, and an order of rank r trades with the
opposite level of rank s exactly if r + s >= 0. A level keeps its orders in a dict, which is the
queue: arrival order by insertion, and a cancel in the middle costs the same as one at the front.

Everything here is snapshot state: what a snapshot holds comes back in the same order, with the same
priorities. The book takes arguments that were checked; refusing an order is left to the caller.
"""

from bisect import bisect_left, insort
from typing import Literal

import attrs

from .actor import state

Side = Literal["buy", "sell"]

# A price is 1 to this, so a buy at the maximum and a sell at 1 trade with every level.
PRICE_MAX = 10**15
# A level is rewritten when it holds this many dead entries and more of them than orders: the front
# of a dict is found by walking over what was deleted there.
DEAD_MIN = 32

# The order that rested, its price, the quantity.
Fill = tuple[int, int, int]


@state
class Level:
    """The orders at one price."""

    # The sum of what is open.
    quantity: int = 0
    # Open quantity by order id, in order of arrival.
    orders: dict[int, int] = attrs.field(factory=dict[int, int])
    # Orders deleted since `orders` was last rewritten.
    dead: int = 0


@state
class Half:
    """One side of the book."""

    levels: dict[int, Level] = attrs.field(factory=dict[int, Level])
    # The ranks that have a level, ascending: the best is the last.
    ranks: list[int] = attrs.field(factory=list[int])

    def best(self) -> int | None:
        """The best price; None if the side is empty."""
        return abs(self.ranks[-1]) if self.ranks else None

    def depth(self, levels_max: int) -> list[tuple[int, int, int]]:
        """(price, quantity, orders) of the best levels, best first."""
        found: list[tuple[int, int, int]] = []
        for rank in self.ranks[: -levels_max - 1 : -1]:
            level = self.levels[rank]
            found.append((abs(rank), level.quantity, len(level.orders)))
        return found


@state
class Book:
    """Both sides, and where each order is."""

    buys: Half = attrs.field(factory=Half)
    sells: Half = attrs.field(factory=Half)
    # The rank at which each order rests; its sign is the side.
    ranks: dict[int, int] = attrs.field(factory=dict[int, int])

    def half(self, rank: int) -> Half:
        """The side that orders of this rank rest on."""
        return self.buys if rank > 0 else self.sells

    def quantity(self, order_id: int) -> int:
        """What is open of a resting order."""
        rank = self.ranks[order_id]
        return self.half(rank).levels[rank].orders[order_id]

    def rest(self, order_id: int, rank: int, quantity: int) -> Level:
        """Put an order at the back of its level. It must not cross: `take` first."""
        half = self.buys if rank > 0 else self.sells
        level = half.levels.get(rank)
        if level is None:
            level = half.levels[rank] = Level(quantity, {order_id: quantity})
            insort(half.ranks, rank)
        else:
            level.orders[order_id] = quantity
            level.quantity += quantity
        self.ranks[order_id] = rank
        return level

    def reduce(self, order_id: int, quantity: int) -> Level:
        """Take this much off a resting order, which keeps its place; all of it removes the order.

        An emptied level has left the book and is returned with quantity 0.
        """
        rank = self.ranks[order_id]
        half = self.buys if rank > 0 else self.sells
        level = half.levels[rank]
        left = level.orders[order_id] - quantity
        assert left >= 0
        level.quantity -= quantity
        if left:
            level.orders[order_id] = left
            return level
        del self.ranks[order_id], level.orders[order_id]
        if not level.orders:
            remove_level(half, rank)
        else:
            bury(level, 1)
        return level

    def remove(self, order_id: int) -> tuple[Level, int]:
        """Take a resting order out of the book. Returns its level and what was open."""
        rank = self.ranks.pop(order_id)
        half = self.buys if rank > 0 else self.sells
        level = half.levels[rank]
        orders = level.orders
        quantity = orders.pop(order_id)
        level.quantity -= quantity
        if not orders:
            remove_level(half, rank)
        else:
            bury(level, 1)
        return level, quantity

    def crosses(self, rank: int) -> bool:
        """Whether an order of this rank would trade."""
        opposite = self.sells.ranks if rank > 0 else self.buys.ranks
        return bool(opposite) and opposite[-1] + rank >= 0

    def take(self, rank: int, quantity: int, fills_max: int) -> list[Fill]:
        """Trade an arriving order with the opposite side: best price first, then first come.

        Stops at `fills_max` fills, although more could be taken.
        """
        half = self.sells if rank > 0 else self.buys
        fills: list[Fill] = []
        while quantity and half.ranks and len(fills) < fills_max:
            best = half.ranks[-1]
            if best + rank < 0:
                break
            quantity = self.take_level(half, best, quantity, fills, fills_max)
        return fills

    def take_level(
        self, half: Half, rank: int, quantity: int, fills: list[Fill], fills_max: int
    ) -> int:
        """Trade with one level; returns the quantity that is left of the arriving order."""
        level = half.levels[rank]
        orders = level.orders
        price = abs(rank)
        emptied: list[int] = []
        for order_id, quantity_open in orders.items():
            if quantity_open > quantity:
                fills.append((order_id, price, quantity))
                orders[order_id] = quantity_open - quantity
                level.quantity -= quantity
                quantity = 0
                break
            fills.append((order_id, price, quantity_open))
            emptied.append(order_id)
            level.quantity -= quantity_open
            quantity -= quantity_open
            if not quantity or len(fills) == fills_max:
                break
        for order_id in emptied:
            del orders[order_id], self.ranks[order_id]
        if not orders:
            remove_level(half, rank)
        else:
            bury(level, len(emptied))
        return quantity


def remove_level(half: Half, rank: int) -> None:
    """Forget a level that has become empty."""
    del half.levels[rank]
    ranks = half.ranks
    if ranks[-1] == rank:
        ranks.pop()
    else:
        del ranks[bisect_left(ranks, rank)]


def bury(level: Level, dead: int) -> None:
    """Note deleted orders, and rewrite the level's dict when they outnumber the living."""
    level.dead += dead
    if level.dead > DEAD_MIN and level.dead > len(level.orders):
        level.orders = dict(level.orders.items())
        level.dead = 0
