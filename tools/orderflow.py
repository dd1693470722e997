"""Order flow: real or made, as commands for the exchange.

    for action in generate(seed=1, count=10_000): symbol, command = to_command(action)

`read_pitch` and `read_csv` read files; `generate` makes a flow of the same shape as a real one, the
same for the same seed on every machine. It keeps books of its own, so that it cancels what is there
and its new orders never cross: what trades are its market orders alone.

    python -m leftfold.tools.orderflow fit FILE              # print the shape of a PITCH file
    python -m leftfold.tools.orderflow generate SEED COUNT   # print a flow as CSV
"""

import argparse
import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

import attrs

from ..actors.book import Book
from ..actors.exchange import Cancel, Limit, Market, Reduce
from ..actors.message import Command
from .orderfile import Action, Counts, FlowError, Side, read_csv, read_pitch, write_csv
from .ordershape import TICK, Shape, carry_out, fit, quantile
from .realflow import REAL

__all__ = [
    "REAL",
    "Action",
    "Counts",
    "FlowError",
    "Shape",
    "fit",
    "generate",
    "read_csv",
    "read_pitch",
    "to_command",
    "write_csv",
]

# Ten times the real share, so that a short flow has trades.
MARKET_SHARE = 0.02
# 08:00, as in the real session.
START_NS = 8 * 3_600 * 1_000_000_000


def to_command(action: Action) -> tuple[str, Command[Any]]:
    """The actor's key and the command for an action."""
    if action.action == "add":
        command: Command[Any] = Limit(action.order_id, action.side, action.price, action.quantity)
    elif action.action == "cancel":
        command = Cancel(action.order_id)
    elif action.action == "reduce":
        command = Reduce(action.order_id, action.quantity)
    else:
        command = Market(action.order_id, action.side, action.quantity)
    return action.symbol, command


def generate(
    seed: int, count: int, *, shape: Shape = REAL, market_share: float = MARKET_SHARE
) -> Iterator[Action]:
    """The first `count` actions of the flow with this seed."""
    flow = Flow(shape, market_share, Random(seed))
    for _ in range(count):
        yield flow.next()


@attrs.define
class Listing:
    """One symbol that is traded."""

    symbol: str
    # Where its first order goes, and the next when a side is empty.
    price: int
    book: Book = attrs.field(factory=Book)


@attrs.define
class Planned:
    """A later action on an order, if it is still there."""

    listing: Listing
    reduces: bool


@attrs.define
class Flow:
    """A flow that is being made."""

    shape: Shape
    market_share: float
    rng: Random
    listings: list[Listing] = attrs.field(init=False)
    symbol_sums: list[int] = attrs.field(init=False)
    size_sums: list[int] = attrs.field(init=False)
    arrival_ns: int = START_NS
    order_id: int = 0
    # (time, order id) of what is planned; the order is removed or reduced then.
    agenda: list[tuple[int, int]] = attrs.field(factory=list[tuple[int, int]])
    planned: dict[tuple[int, int], Planned] = attrs.field(factory=dict[tuple[int, int], Planned])

    def __attrs_post_init__(self) -> None:
        self.listings = [
            Listing(f"S{rank:03}", max(100, self.draw(self.shape.price) // TICK) * TICK)
            for rank in range(len(self.shape.symbols))
        ]
        self.symbol_sums = list(accumulate(self.shape.symbols))
        self.size_sums = list(accumulate(count for _, count in self.shape.sizes))

    def next(self) -> Action:
        """The next action: what was planned up to the next arrival, else the arrival."""
        while self.agenda and self.agenda[0][0] <= self.arrival_ns:
            place = heappop(self.agenda)
            planned = self.planned.pop(place)
            if place[1] in planned.listing.book.ranks:
                action = self.end(place, planned)
                carry_out(planned.listing.book, action)
                return action
        listing = self.listings[self.weighted(self.symbol_sums)]
        action = self.take(listing) if self.rng.random() < self.market_share else None
        if action is None:
            action = self.add(listing)
            self.plan(listing, action)
        carry_out(listing.book, action)
        self.arrival_ns += self.draw(self.shape.gap_ns)
        return action

    def end(self, place: tuple[int, int], planned: Planned) -> Action:
        """A cancel or a reduction of a resting order."""
        time_ns, order_id = place
        book = planned.listing.book
        side: Side = "buy" if book.ranks[order_id] > 0 else "sell"
        quantity = book.quantity(order_id)
        symbol = planned.listing.symbol
        if planned.reduces and quantity > 1:
            return Action(time_ns, symbol, order_id, "reduce", side, 0, quantity // 2)
        return Action(time_ns, symbol, order_id, "cancel", side, 0, quantity)

    def take(self, listing: Listing) -> Action | None:
        """An order that trades at once; None if there is nobody to trade with."""
        buys = self.rng.random() < 0.5
        half = listing.book.sells if buys else listing.book.buys
        if not half.ranks:
            return None
        self.order_id += 1
        side: Side = "buy" if buys else "sell"
        return Action(
            self.arrival_ns, listing.symbol, self.order_id, "market", side, 0, self.size()
        )

    def add(self, listing: Listing) -> Action:
        """A new order, behind or in front of the best of its side, but never crossing."""
        buys = self.rng.random() < self.shape.buy_share
        own, opposite = listing.book.buys, listing.book.sells
        if not buys:
            own, opposite = opposite, own
        if own.ranks:
            rank = own.ranks[-1] - self.draw(self.shape.distance_ticks) * TICK
        elif opposite.ranks:
            rank = -opposite.ranks[-1] - self.draw(self.shape.spread_ticks) * TICK
        else:
            rank = listing.price if buys else -listing.price
        if opposite.ranks:
            rank = min(rank, -opposite.ranks[-1] - TICK)
        # Sells stay above one tick, so that there is room below them.
        rank = max(rank, TICK) if buys else min(rank, -2 * TICK)
        self.order_id += 1
        side: Side = "buy" if buys else "sell"
        return Action(
            self.arrival_ns, listing.symbol, self.order_id, "add", side, abs(rank), self.size()
        )

    def plan(self, listing: Listing, action: Action) -> None:
        """Decide when a new order is cancelled, and whether it is reduced before.

        Of an order that the fitted flow had not cancelled when it ended, only that is known: it is
        given one to ten times the length of that flow, so that the book does not grow for ever.
        """
        if self.rng.random() < self.shape.cancel_share:
            lifetime_ns = self.draw(self.shape.lifetime_ns)
        else:
            lifetime_ns = int(self.shape.span_ns * (1 + 9 * self.rng.random()))
        end = (action.time_ns + lifetime_ns, action.order_id)
        heappush(self.agenda, end)
        self.planned[end] = Planned(listing, reduces=False)
        if lifetime_ns > 1 and self.rng.random() < self.shape.reduce_share:
            middle = (action.time_ns + lifetime_ns // 2, action.order_id)
            heappush(self.agenda, middle)
            self.planned[middle] = Planned(listing, reduces=True)

    def size(self) -> int:
        """The size of an order."""
        return self.shape.sizes[self.weighted(self.size_sums)][0]

    def draw(self, found: tuple[int, ...]) -> int:
        """A value of a distribution."""
        return quantile(found, self.rng.random())

    def weighted(self, sums: Sequence[int]) -> int:
        """An index, as likely as its weight; only `random` is the same on every Python."""
        return bisect_right(sums, int(self.rng.random() * sums[-1]))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of this file."""
    parser = argparse.ArgumentParser(prog="python -m leftfold.tools.orderflow")
    verbs = parser.add_subparsers(dest="verb", required=True)
    fitting = verbs.add_parser("fit", help="print the shape of a PITCH file")
    fitting.add_argument("file", type=Path)
    making = verbs.add_parser("generate", help="print a flow as CSV")
    making.add_argument("seed", type=int)
    making.add_argument("count", type=int)
    chosen = parser.parse_args(arguments)
    if chosen.verb == "generate":
        sys.stdout.writelines(write_csv(generate(chosen.seed, chosen.count)))
        return 0
    try:
        shape = fit(read_pitch(chosen.file))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    for field, value in attrs.asdict(shape, recurse=False).items():
        print(f"{field}={value!r},")
    return 0


if __name__ == "__main__":
    sys.exit(main())
