"""Order flow from files: the exchange's PITCH format and plain CSV, read into `Action`s.

PITCH, one fixed-width line per message: `S`, milliseconds since midnight (8), the type, its fields.

    A  order id (12), side `B`/`S`, shares (6), symbol (6), price (6 whole, 4 decimals), display
       -> add: a limit order
    X  order id (12), shares
       -> cancel, if the shares are all that is open; else reduce, by the shares
    E  order id (12), shares, execution id (12)
       -> market, on the other side, for the shares, with the execution id as its order id: the feed
          shows the order that rested, not the one that came; a book with price-time priority that
          was fed everything before finds the very same resting order
    P  a trade with a hidden order -> nothing, and counted: the book never saw the order

Ids are base 36 and become integers below 2**63; prices become integers of 1/10,000. Lines of
several matching units are interleaved and a few milliseconds out of order; the order of the file is
kept, and a time never goes back: it is raised to the latest one seen.

A line that cannot be read ends the reading with `FlowError`, naming file, line and column.
"""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import attrs

MILLISECOND_NS = 1_000_000
COLUMNS = ("time_ns", "symbol", "order_id", "action", "side", "price", "quantity")

Kind = Literal["add", "cancel", "reduce", "market"]
Side = Literal["buy", "sell"]


@attrs.frozen
class Action:
    """One thing that somebody asked of the exchange.

    `price` is 0 but for an add. A cancel's `quantity` is what it takes out of the book. The side of
    a cancel or a reduce is that of its order.
    """

    time_ns: int
    symbol: str
    order_id: int
    action: Kind
    side: Side
    price: int
    quantity: int


@attrs.define
class Counts:
    """What was in a PITCH file, by what it said."""

    adds: int = 0
    cancels: int = 0
    cancels_full: int = 0
    executions: int = 0
    hidden: int = 0
    # Lines whose time was before that of an earlier line.
    late: int = 0


@attrs.define
class Open:
    """A resting order as the reader of a PITCH file follows it."""

    symbol: str
    side: Side
    quantity: int


class FlowError(ValueError):
    """A file of orders cannot be read; the text names file, line and column."""


def read_pitch(path: Path, counts: Counts | None = None) -> Iterator[Action]:
    """The actions in a PITCH file; `counts`, if given, is filled along the way."""
    with path.open(encoding="ascii", errors="surrogateescape", newline="") as lines:
        yield from parse_pitch(lines, str(path), counts)


def parse_pitch(
    lines: Iterable[str], name: str = "input", counts: Counts | None = None
) -> Iterator[Action]:
    """The actions in PITCH lines."""
    counts = Counts() if counts is None else counts
    opened: dict[int, Open] = {}
    now_ns = 0
    for number, text in enumerate(lines, 1):
        line = PitchLine(name, number, text.rstrip("\r\n"))
        if not line.text:
            continue
        if line.text[0] != "S":
            raise line.error(1, "a line begins with S")
        time_ns = line.integer(1, 8, "a time in milliseconds") * MILLISECOND_NS
        if time_ns < now_ns:
            counts.late += 1
        now_ns = max(now_ns, time_ns)
        if (action := parse_line(line, now_ns, opened, counts)) is not None:
            yield action


def parse_line(
    line: "PitchLine", now_ns: int, opened: dict[int, Open], counts: Counts
) -> Action | None:
    """One line's action; None for a hidden trade."""
    kind = line.text[9:10]
    if kind == "A":
        counts.adds += 1
        return parse_add(line, now_ns, opened)
    if kind == "P":
        counts.hidden += 1
        return None
    if kind not in ("X", "E"):
        raise line.error(10, f"unknown message type {kind!r}; A, X, E and P are known")
    order_id = line.base36(10, 12, "an order id")
    order = opened.get(order_id)
    if order is None:
        raise line.error(11, f"unknown order id {line.text[10:22]}")
    shares = line.integer(22, 6, "a number of shares")
    if not 0 < shares <= order.quantity:
        raise line.error(23, f"{shares} shares of an order with {order.quantity} open")
    order.quantity -= shares
    if not order.quantity:
        del opened[order_id]
    if kind == "E":
        counts.executions += 1
        taker: Side = "sell" if order.side == "buy" else "buy"
        execution_id = line.base36(28, 12, "an execution id")
        return Action(now_ns, order.symbol, execution_id, "market", taker, 0, shares)
    counts.cancels += 1
    counts.cancels_full += not order.quantity
    name: Kind = "reduce" if order.quantity else "cancel"
    return Action(now_ns, order.symbol, order_id, name, order.side, 0, shares)


def parse_add(line: "PitchLine", now_ns: int, opened: dict[int, Open]) -> Action:
    """A new order. Its id may have been used before, by an order that has left the book."""
    order_id = line.base36(10, 12, "an order id")
    if order_id in opened:
        raise line.error(11, f"order id {line.text[10:22]} is already in the book")
    letter = line.text[22:23]
    if letter not in ("B", "S"):
        raise line.error(23, f"the side is B or S, not {letter!r}")
    side: Side = "buy" if letter == "B" else "sell"
    shares = line.integer(23, 6, "a number of shares")
    symbol = line.text[29:35].strip()
    # A byte that is not ASCII was read as a surrogate, which is not printable.
    if not (symbol and symbol.isprintable()):
        raise line.error(30, "a symbol is missing" if not symbol else f"{symbol!r} is no symbol")
    price = line.integer(35, 10, "a price")
    if not shares or not price:
        raise line.error(24 if not shares else 36, "shares and price are above zero")
    opened[order_id] = Open(symbol, side, shares)
    return Action(now_ns, symbol, order_id, "add", side, price, shares)


@attrs.frozen
class PitchLine:
    """One line with its place, to read fields and to say what is wrong where."""

    name: str
    number: int
    text: str

    def integer(self, start: int, width: int, what: str) -> int:
        """A decimal field."""
        return self.parse(start, width, 10, what)

    def base36(self, start: int, width: int, what: str) -> int:
        """An id."""
        return self.parse(start, width, 36, what)

    def parse(self, start: int, width: int, base: int, what: str) -> int:
        """A number in a field; `start` counts from 0."""
        field = self.text[start : start + width]
        if len(field) != width or not (field.isascii() and field.isalnum()):
            raise self.error(start + 1, f"{what} has {width} digits, not {field!r}")
        try:
            return int(field, base)
        except ValueError as error:
            raise self.error(start + 1, f"{field!r} is not {what}") from error

    def error(self, column: int, reason: str) -> FlowError:
        """The error for this line; `column` counts from 1."""
        return FlowError(f"{self.name}, line {self.number}, column {column}: {reason}")


def read_csv(path: Path) -> Iterator[Action]:
    """The actions in a CSV file whose first line names the columns, in any order."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as lines:
        yield from parse_csv(lines, str(path))


def parse_csv(lines: Iterable[str], name: str = "input") -> Iterator[Action]:
    """The actions in CSV lines; the first line names the columns."""
    reader = csv.DictReader(lines, strict=True)
    try:
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise FlowError(f"{name}, line 1, column {missing[0]}: the column is missing")
        for row in reader:
            yield parse_row(row, f"{name}, line {reader.line_num}")
    except csv.Error as error:
        raise FlowError(f"{name}, line {reader.reader.line_num}: {error}") from error


def parse_row(row: dict[str, str | None], where: str) -> Action:
    """One line of CSV."""
    action, side = row["action"], row["side"]
    if action not in ("add", "cancel", "reduce", "market"):
        expected = "add, cancel, reduce or market"
        raise FlowError(f"{where}, column action: {expected}, not {action!r}")
    if side not in ("buy", "sell"):
        raise FlowError(f"{where}, column side: buy or sell, not {side!r}")
    symbol = row["symbol"]
    if not (symbol and symbol.isprintable()):
        raise FlowError(f"{where}, column symbol: printable characters, not {symbol!r}")
    price_min = 1 if action == "add" else 0
    return Action(
        time_ns=csv_integer(row, "time_ns", where, 0),
        symbol=symbol,
        order_id=csv_integer(row, "order_id", where, 0),
        action=action,
        side=side,
        price=csv_integer(row, "price", where, price_min),
        quantity=csv_integer(row, "quantity", where, 0 if action == "cancel" else 1),
    )


def csv_integer(row: dict[str, str | None], column: str, where: str, minimum: int) -> int:
    """A whole number in a column."""
    text = row[column]
    if text is None or not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise FlowError(f"{where}, column {column}: a whole number, not {text!r}")
    if (number := int(text)) < minimum:
        raise FlowError(f"{where}, column {column}: at least {minimum}, not {number}")
    return number


def write_csv(actions: Iterable[Action]) -> Iterator[str]:
    """The lines of a CSV file with these actions."""
    yield ",".join(COLUMNS) + "\n"
    for action in actions:
        yield ",".join(str(value) for value in attrs.astuple(action)) + "\n"
