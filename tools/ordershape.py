"""The shape of an order flow: what `fit` measures and the generator draws from.

A shape is a set of distributions taken one by one: when orders arrive, in which symbols, how large,
how far behind the best price of their side, how long they stay. What binds them together is lost:
bursts are as long as gaps drawn independently make them, one order is like another of its symbol,
and the two sides of a quote do not move together, so that made spreads are mostly one tick.
REAL, in realflow.py, was fitted to one exchange session.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise

import attrs

from ..actors.book import PRICE_MAX, Book, Half
from .orderfile import Action

# Prices are in 1/10,000; the real orders lie on cents.
TICK = 100
# Where a distribution is cut, closer in the tail, which holds most of the mean.
PROBABILITIES = (
    *(number / 20 for number in range(20)),
    *(0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 1.0),
)
# Sizes that are rarer than the most frequent ones count as the nearest of those.
SIZES_KEPT = 24

# The values at PROBABILITIES, between which it is linear.
Quantiles = tuple[int, ...]


@attrs.frozen
class Shape:
    """The distributions of one flow."""

    # From the first to the last action.
    span_ns: int
    # Between one new order and the next.
    gap_ns: Quantiles
    # New orders by symbol, most frequent first.
    symbols: tuple[int, ...]
    # Size and how many new orders had it.
    sizes: tuple[tuple[int, int], ...]
    buy_share: float
    # The first price in each symbol.
    price: Quantiles
    # How far a new order is behind the best of its side; negative: in front of it.
    distance_ticks: Quantiles
    # Between the two best prices when an order arrives.
    spread_ticks: Quantiles
    # From arrival to the cancel, of orders that were cancelled.
    lifetime_ns: Quantiles
    # Per new order: cancels of what is left, reductions, and orders that trade at once.
    cancel_share: float
    reduce_share: float
    market_share: float


def quantiles(values: Iterable[int]) -> Quantiles:
    """The values at PROBABILITIES."""
    ordered = sorted(values) or [0]
    last = len(ordered) - 1
    return tuple(ordered[round(probability * last)] for probability in PROBABILITIES)


def quantile(found: Quantiles, probability: float) -> int:
    """The value at a probability from 0 up to but not including 1."""
    place = bisect_right(PROBABILITIES, probability) - 1
    low, high = PROBABILITIES[place], PROBABILITIES[place + 1]
    start, end = found[place], found[place + 1]
    return start + int((end - start) * (probability - low) / (high - low))


def own_rank(action: Action) -> int:
    """The rank in the book at which the order of an action rests or takes."""
    if action.action == "market":
        return PRICE_MAX if action.side == "buy" else -1
    return action.price if action.side == "buy" else -action.price


def carry_out(book: Book, action: Action) -> None:
    """Have a book follow a flow; actions on orders that are not there are ignored."""
    order_id, quantity = action.order_id, action.quantity
    if action.action == "cancel":
        if order_id in book.ranks:
            book.remove(order_id)
    elif action.action == "reduce":
        if order_id in book.ranks:
            book.reduce(order_id, min(quantity, book.quantity(order_id)))
    else:
        rank = own_rank(action)
        filled = sum(fill[2] for fill in book.take(rank, quantity, quantity))
        if action.action == "add" and filled < quantity:
            book.rest(order_id, rank, quantity - filled)


@attrs.define
class Measured:
    """What `fit` has seen so far."""

    books: dict[str, Book] = attrs.field(factory=lambda: defaultdict[str, Book](Book))
    added_ns: dict[tuple[str, int], int] = attrs.field(factory=dict[tuple[str, int], int])
    add_times_ns: list[int] = attrs.field(factory=list[int])
    symbols: Counter[str] = attrs.field(factory=Counter[str])
    sizes: Counter[int] = attrs.field(factory=Counter[int])
    kinds: Counter[str] = attrs.field(factory=Counter[str])
    buys: int = 0
    prices: dict[str, int] = attrs.field(factory=dict[str, int])
    distances: list[int] = attrs.field(factory=list[int])
    spreads: list[int] = attrs.field(factory=list[int])
    lifetimes_ns: list[int] = attrs.field(factory=list[int])

    def add(self, action: Action) -> None:
        """Note a new order, before it is in the book."""
        book = self.books[action.symbol]
        half: Half = book.half(own_rank(action))
        if half.ranks:
            self.distances.append((half.ranks[-1] - own_rank(action)) // TICK)
        if book.buys.ranks and book.sells.ranks:
            self.spreads.append(-(book.buys.ranks[-1] + book.sells.ranks[-1]) // TICK)
        self.add_times_ns.append(action.time_ns)
        self.added_ns[action.symbol, action.order_id] = action.time_ns
        self.symbols[action.symbol] += 1
        self.sizes[action.quantity] += 1
        self.buys += action.side == "buy"
        self.prices.setdefault(action.symbol, action.price)


def fit(actions: Iterable[Action]) -> Shape:
    """The shape of a flow. It needs at least one new order."""
    measured = Measured()
    first_ns: int | None = None
    last_ns = 0
    for action in actions:
        first_ns = action.time_ns if first_ns is None else first_ns
        last_ns = action.time_ns
        measured.kinds[action.action] += 1
        if action.action == "add":
            measured.add(action)
        elif action.action == "cancel":
            added_ns = measured.added_ns.pop((action.symbol, action.order_id), None)
            if added_ns is not None:
                measured.lifetimes_ns.append(action.time_ns - added_ns)
        carry_out(measured.books[action.symbol], action)
    adds = measured.kinds["add"]
    if first_ns is None or not adds:
        raise ValueError("a flow without a new order has no shape")
    times = measured.add_times_ns
    return Shape(
        span_ns=last_ns - first_ns,
        gap_ns=quantiles(late - early for early, late in pairwise(times)),
        symbols=tuple(sorted(measured.symbols.values(), reverse=True)),
        sizes=frequent(measured.sizes),
        buy_share=round(measured.buys / adds, 4),
        price=quantiles(measured.prices.values()),
        distance_ticks=quantiles(measured.distances),
        spread_ticks=quantiles(measured.spreads),
        lifetime_ns=quantiles(measured.lifetimes_ns),
        cancel_share=round(measured.kinds["cancel"] / adds, 4),
        reduce_share=round(measured.kinds["reduce"] / adds, 4),
        market_share=round(measured.kinds["market"] / adds, 4),
    )


def frequent(sizes: Counter[int]) -> tuple[tuple[int, int], ...]:
    """The most frequent sizes, ascending, each with its own count and that of its neighbours."""
    kept = sorted(size for size, _ in sizes.most_common(SIZES_KEPT))
    counts = dict.fromkeys(kept, 0)
    for size, count in sizes.items():
        counts[min(kept, key=lambda other: (abs(other - size), other))] += count
    return tuple(counts.items())
