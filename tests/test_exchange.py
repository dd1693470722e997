"""The exchange against a book that is written here in the plainest way, and case by case."""

from random import Random
from typing import Any, Literal

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leftfold.actors import exchange
from leftfold.actors.errors import Rejected
from leftfold.actors.exchange import (
    Cancel,
    Cancelled,
    Depth,
    DepthOf,
    ImmediateOrCancel,
    LevelChanged,
    Limit,
    Market,
    Open,
    OrderOf,
    Placed,
    Reduce,
    Reduced,
    Replace,
    Traded,
    app,
)
from leftfold.actors.message import Command
from leftfold.actors.testing import Folded

Side = Literal["buy", "sell"]
NO = "rejected"


@attrs.define
class Resting:
    """An order in the plain book."""

    id: int
    side: Side
    price: int
    quantity: int


class PlainBook:
    """One list of orders in arrival order; everything is found by looking at all of them."""

    def __init__(self) -> None:
        self.orders: list[Resting] = []
        self.trades: list[tuple[int, int, str, int, int]] = []

    def find(self, id: int) -> Resting | None:
        return next((order for order in self.orders if order.id == id), None)

    def arrive(self, id: int, side: Side, price: int | None, quantity: int, rests: bool) -> object:
        if self.find(id) or quantity < 1 or (price is not None and price < 1):
            return NO
        traded = 0
        while traded < quantity and (best := self.best_against(side, price)):
            amount = min(quantity - traded, best.quantity)
            self.trades.append((best.id, id, side, best.price, amount))
            traded += amount
            best.quantity -= amount
            self.orders = [order for order in self.orders if order.quantity]
        left = quantity - traded
        if rests and price is not None and left:
            self.orders.append(Resting(id, side, price, left))
            return Placed(traded, left, 0)
        return Placed(traded, 0, left)

    def best_against(self, side: Side, price: int | None) -> Resting | None:
        best: Resting | None = None
        for order in self.orders:
            if order.side == side:
                continue
            if price is not None and (
                order.price > price if side == "buy" else order.price < price
            ):
                continue
            if best is None or (
                order.price < best.price if side == "buy" else order.price > best.price
            ):
                best = order
        return best

    def cancel(self, id: int) -> object:
        order = self.find(id)
        if order is None:
            return NO
        self.orders.remove(order)
        return Cancelled(order.quantity)

    def reduce(self, id: int, quantity: int) -> object:
        order = self.find(id)
        if order is None or not 1 <= quantity <= order.quantity:
            return NO
        order.quantity -= quantity
        self.orders = [order for order in self.orders if order.quantity]
        return Reduced(order.quantity)

    def replace(self, id: int, price: int, quantity: int) -> object:
        order = self.find(id)
        if order is None or price < 1 or quantity < 1:
            return NO
        if price == order.price and quantity <= order.quantity:
            order.quantity = quantity
            return Placed(0, quantity, 0)
        self.orders.remove(order)
        return self.arrive(id, order.side, price, quantity, rests=True)

    def depth(self) -> Depth:
        sides: dict[str, list[tuple[int, int, int]]] = {}
        for side in ("buy", "sell"):
            found: dict[int, tuple[int, int, int]] = {}
            for order in self.orders:
                if order.side == side:
                    _, quantity, orders = found.get(order.price, (0, 0, 0))
                    found[order.price] = (order.price, quantity + order.quantity, orders + 1)
            sides[side] = sorted(found.values(), reverse=side == "buy")
        return Depth(sides["buy"], sides["sell"])

    def answer(self, command: Any) -> object:
        match command:
            case Limit(id, side, price, quantity):
                return self.arrive(id, side, price, quantity, rests=True)
            case ImmediateOrCancel(id, side, price, quantity):
                return self.arrive(id, side, price, quantity, rests=False)
            case Market(id, side, quantity):
                return self.arrive(id, side, None, quantity, rests=False)
            case Cancel(id):
                return self.cancel(id)
            case Reduce(id, quantity):
                return self.reduce(id, quantity)
            case Replace(id, price, quantity):
                return self.replace(id, price, quantity)
            case _:
                raise AssertionError(command)


IDS = st.integers(1, 6)
SIDES = st.sampled_from(["buy", "sell"])
PRICES = st.sampled_from([0, 1, 2, 2, 3, 3, 4])
QUANTITIES = st.integers(0, 6)
COMMANDS: st.SearchStrategy[Command[Any]] = st.one_of(
    st.builds(Limit, IDS, SIDES, PRICES, QUANTITIES),
    st.builds(Limit, IDS, SIDES, PRICES, QUANTITIES),
    st.builds(ImmediateOrCancel, IDS, SIDES, PRICES, QUANTITIES),
    st.builds(Market, IDS, SIDES, QUANTITIES),
    st.builds(Cancel, IDS),
    st.builds(Reduce, IDS, QUANTITIES),
    st.builds(Replace, IDS, PRICES, QUANTITIES),
)


def answer(fold: Folded, command: Command[Any], symbol: str = "X") -> object:
    try:
        return fold.ask(symbol, command)
    except Rejected:
        return NO


def follow(fold: Folded, symbol: str = "X") -> Depth:
    """The book as a subscriber has it who follows the events of its levels."""
    levels: dict[tuple[str, int], tuple[int, int, int]] = {}
    for event in fold.events:
        change = event.message
        if event.key == symbol and isinstance(change, LevelChanged):
            levels[change.side, change.price] = (change.price, change.quantity, change.orders)
            if not change.quantity:
                del levels[change.side, change.price]
    buys = sorted((level for (side, _), level in levels.items() if side == "buy"), reverse=True)
    return Depth(buys, sorted(level for (side, _), level in levels.items() if side == "sell"))


def trades(fold: Folded) -> list[tuple[int, int, str, int, int]]:
    return [attrs.astuple(e.message) for e in fold.events if isinstance(e.message, Traded)]


@settings(deadline=None)
@given(st.lists(COMMANDS, max_size=40))
def test_the_exchange_does_what_a_plain_book_does(commands: list[Command[Any]]) -> None:
    """Replies, trades, depth, and the depth that a subscriber follows."""
    fold = Folded(app)
    compare(fold, commands)
    fold.check_replay(every=5)


@pytest.mark.parametrize("seed", range(4))
def test_the_exchange_does_what_a_plain_book_does_in_long_sequences(seed: int) -> None:
    """Books of some twenty orders in a few levels, where priorities matter all the time."""
    rng = Random(seed)

    def command() -> Command[Any]:
        order_id, quantity = rng.randrange(40), rng.randrange(1, 9)
        side: Side = rng.choice(("buy", "sell"))
        price = rng.randrange(8, 12) if side == "sell" else rng.randrange(6, 10)
        return rng.choice(
            [
                Limit(order_id, side, price, quantity),
                Limit(order_id, side, price, quantity),
                Limit(order_id, side, price, quantity),
                ImmediateOrCancel(order_id, side, price, quantity),
                Market(order_id, side, quantity),
                Cancel(order_id),
                Reduce(order_id, quantity),
                Replace(order_id, price, quantity),
            ]
        )

    compare(Folded(app, strict=False), [command() for _ in range(1_500)])


def compare(fold: Folded, commands: list[Command[Any]]) -> None:
    """Have both books carry out the commands, and compare all that can be seen of them."""
    plain = PlainBook()
    for command in commands:
        assert answer(fold, command) == plain.answer(command)
    assert trades(fold) == plain.trades
    depth = plain.depth()
    if plain.orders:
        assert fold.ask("X", DepthOf(levels=100)) == depth
    assert follow(fold) == depth


def test_an_order_waits_and_can_be_looked_at() -> None:
    fold = Folded(app)

    assert fold.ask("A", Limit(1, "sell", 100, 5)) == Placed(0, 5, 0)
    assert fold.ask("A", OrderOf(1)) == Open("sell", 100, 5)
    assert fold.ask("A", DepthOf()) == Depth([], [(100, 5, 1)])


def test_a_trade_is_at_the_price_of_the_order_that_rested() -> None:
    fold = Folded(app)
    fold.ask("A", Limit(1, "sell", 100, 5))

    assert fold.ask("A", Limit(2, "buy", 103, 8)) == Placed(5, 3, 0)
    assert [event.message for event in fold.events[1:]] == [
        Traded(1, 2, "buy", 100, 5),
        LevelChanged("sell", 100, 0, 0),
        LevelChanged("buy", 103, 3, 1),
    ]


def test_symbols_do_not_trade_with_each_other() -> None:
    fold = Folded(app)
    fold.ask("A", Limit(1, "sell", 100, 5))

    assert fold.ask("B", Market(1, "buy", 5)) == Placed(0, 0, 5)


def test_a_replacement_at_another_price_trades_and_goes_to_the_back() -> None:
    fold = Folded(app)
    fold.ask("A", Limit(1, "buy", 99, 5))
    fold.ask("A", Limit(2, "buy", 100, 5))
    fold.ask("A", Limit(3, "sell", 102, 2))

    assert fold.ask("A", Replace(1, 102, 5)) == Placed(2, 3, 0)
    assert fold.ask("A", Replace(1, 100, 3)) == Placed(0, 3, 0)
    fold.ask("A", Market(4, "sell", 6))
    assert trades(fold)[-2:] == [(2, 4, "sell", 100, 5), (1, 4, "sell", 100, 1)]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (Limit(1, "buy", 100, 1), "an order with this id is in the book"),
        (Limit(2, "buy", 0, 1), f"the price must be 1 to {exchange.PRICE_MAX}"),
        (Limit(2, "buy", exchange.PRICE_MAX + 1, 1), f"the price must be 1 to {10**15}"),
        (Limit(2, "buy", 1, 0), f"the quantity must be 1 to {exchange.QUANTITY_MAX}"),
        (Market(2, "buy", -1), f"the quantity must be 1 to {10**12}"),
        (Cancel(2), "no such order"),
        (Reduce(2, 1), "no such order"),
        (Reduce(1, 6), "the quantity must be 1 to 5, which is what is open"),
        (Replace(2, 1, 1), "no such order"),
        (Replace(1, 1, 0), f"the quantity must be 1 to {10**12}"),
        (OrderOf(2), "no such order"),
        (DepthOf(0), "the levels must be 1 to 500"),
        (DepthOf(501), "the levels must be 1 to 500"),
    ],
)
def test_a_refusal_says_why_and_changes_nothing(command: Command[Any], reason: str) -> None:
    fold = Folded(app)
    fold.ask("A", Limit(1, "sell", 100, 5))
    events = len(fold.events)

    with pytest.raises(Rejected) as caught:
        fold.ask("A", command)

    assert caught.value.reason == reason
    assert len(fold.events) == events
    assert fold.ask("A", DepthOf()) == Depth([], [(100, 5, 1)])


def test_a_full_book_takes_no_more_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "ORDERS_MAX", 2)
    fold = Folded(app)
    fold.ask("A", Limit(1, "sell", 100, 5))
    fold.ask("A", Limit(2, "sell", 100, 5))

    assert answer(fold, Limit(3, "sell", 100, 5), "A") == NO
    fold.ask("A", Cancel(1))
    assert answer(fold, Limit(3, "sell", 100, 5), "A") == Placed(0, 5, 0)


@pytest.mark.parametrize(
    "order", [Limit(0, "buy", 10**6, 5_000), Market(0, "buy", 5_000)], ids=["limit", "market"]
)
def test_an_order_that_sweeps_too_many_others_is_stopped_and_never_crosses(
    order: Command[Placed],
) -> None:
    """At most 4,000 fills, each on a level of its own, stay within the outputs of a command."""
    fold = Folded(app, strict=False)
    for order_id in range(1, 5_001):
        fold.ask("A", Limit(order_id, "sell", order_id, 1))

    assert fold.ask("A", order) == Placed(4_000, 0, 1_000)
    assert fold.ask("A", DepthOf(1)) == Depth([], [(4_001, 1, 1)])


def test_the_deepest_depth_fits_into_a_reply() -> None:
    fold = Folded(app, strict=False)
    for number in range(600):
        fold.ask("A", Limit(2 * number, "sell", 10**15 - number, 10**12))
        fold.ask("A", Limit(2 * number + 1, "buy", 10**14 - number, 10**12))

    depth = fold.ask("A", DepthOf(500))

    assert (len(depth.buys), len(depth.sells)) == (500, 500)
