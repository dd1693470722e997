"""Order flow: the real file read whole, bad lines named, and made flows that look like it."""

from collections import Counter
from pathlib import Path

import attrs
import pytest
from domain_logs import PITCH, PITCH_ABSENT, entries, flow_steps, fold

from leftfold.actors.exchange import Cancel, Limit, Market, OrderBook, Reduce, Traded, app
from leftfold.actors.layout import EVENT, HEADER, SlotType
from leftfold.actors.testing import slots_of
from leftfold.tools.orderfile import parse_csv, parse_pitch
from leftfold.tools.orderflow import (
    REAL,
    Action,
    Counts,
    FlowError,
    fit,
    generate,
    main,
    read_csv,
    read_pitch,
    to_command,
    write_csv,
)
from leftfold.tools.ordershape import PROBABILITIES, carry_out, quantile, quantiles

real = pytest.mark.skipif(not PITCH.exists(), reason=PITCH_ABSENT)

ADD = "S28800011AAK27GA0000DTS000100SH    0000619200Y"
CANCEL = "S28800012XAK27GA0000DT000040"
REST = "S28800013XAK27GA0000DT000060"
EXECUTE = "S28800013EAK27GA0000DT00003000001AQ00001"
HIDDEN = "S28800014P4K27GA00003PB000100DXD   0000499600000N4AQ00003"
ORDER_ID = int("AK27GA0000DT", 36)


@real
def test_the_real_file_holds_what_its_description_says() -> None:
    counts = Counts()
    actions = list(read_pitch(PITCH, counts))
    kinds = Counter(action.action for action in actions)

    assert (counts.adds, counts.cancels, counts.executions, counts.hidden) == (
        10_361,
        9_592,
        20,
        27,
    )
    assert counts.cancels_full == 9_564
    assert kinds == {"add": 10_361, "cancel": 9_564, "reduce": 28, "market": 20}
    assert len({action.symbol for action in actions}) == 286
    assert actions == sorted(actions, key=lambda action: action.time_ns)


@real
def test_every_real_execution_finds_the_order_that_the_feed_names() -> None:
    """So the exchange's priorities are ours, and nothing else in the file trades."""
    actions = list(read_pitch(PITCH))
    machine, egress = fold(app, entries(app, flow_steps(actions), 100))
    traded: list[Traded] = []
    for slot in slots_of(egress):
        length, type_, tag = HEADER.unpack_from(slot)
        if type_ == SlotType.EVENT and tag == 120:
            key_length = EVENT.unpack_from(slot)[7]
            traded.append(app.decode(tag, slot[EVENT.size + key_length : length]))
    executions = [
        (int(line[10:22], 36), int(line[22:28]), int(line[28:40], 36))
        for line in PITCH.read_text().splitlines()
        if line[9] == "E"
    ]

    assert [(trade.maker, trade.quantity, trade.taker) for trade in traded] == executions
    # What is left in the books is what the file added and never took out.
    books = [book for book in machine.state.actors[1].values() if isinstance(book, OrderBook)]
    shares = {"add": 1, "cancel": -1, "reduce": -1, "market": -1}
    assert len(books) == 286
    assert sum(
        level.quantity
        for found in books
        for half in (found.book.buys, found.book.sells)
        for level in half.levels.values()
    ) == sum(shares[action.action] * action.quantity for action in actions)


@real
def test_the_shipped_shape_is_the_one_that_was_fitted() -> None:
    assert fit(read_pitch(PITCH)) == REAL


def test_each_pitch_message_becomes_an_action() -> None:
    counts = Counts()
    lines = [ADD + "\r\n", CANCEL, EXECUTE, HIDDEN, "", REST.replace("060", "030")]
    actions = list(parse_pitch(lines, counts=counts))
    start_ns = 28_800_011_000_000

    assert actions == [
        Action(start_ns, "SH", ORDER_ID, "add", "sell", 619_200, 100),
        Action(start_ns + 10**6, "SH", ORDER_ID, "reduce", "sell", 0, 40),
        Action(start_ns + 2 * 10**6, "SH", int("1AQ00001", 36), "market", "buy", 0, 30),
        Action(start_ns + 3 * 10**6, "SH", ORDER_ID, "cancel", "sell", 0, 30),
    ]
    assert counts == Counts(adds=1, cancels=2, cancels_full=1, executions=1, hidden=1, late=1)


def test_an_order_id_may_come_again_once_its_order_is_gone() -> None:
    lines = [ADD, CANCEL, REST, ADD]

    assert [a.action for a in parse_pitch(lines)] == ["add", "reduce", "cancel", "add"]


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["X"], "flow, line 1, column 1: a line begins with S"),
        ([ADD, "S2880x"], "flow, line 2, column 2: a time in milliseconds has 8 digits"),
        ([ADD.replace("A", "Q", 1)], "flow, line 1, column 10: unknown message type 'Q'"),
        (["S28800011"], "flow, line 1, column 10: unknown message type ''"),
        ([ADD, ADD], "flow, line 2, column 11: order id AK27GA0000DT is already in the book"),
        ([CANCEL], "flow, line 1, column 11: unknown order id AK27GA0000DT"),
        ([ADD.replace("DTS", "DTT")], "flow, line 1, column 23: the side is B or S, not 'T'"),
        ([ADD.replace("000100", "0001x0")], "flow, line 1, column 24: '0001x0' is not a number"),
        ([ADD.replace("000100", "000000")], "flow, line 1, column 24: shares and price are"),
        ([ADD.replace("SH", "  ")], "flow, line 1, column 30: a symbol is missing"),
        ([ADD[:40]], "flow, line 1, column 36: a price has 10 digits, not '00006'"),
        ([ADD, CANCEL.replace("040", "101")], "flow, line 2, column 23: 101 shares of an order"),
        ([ADD, CANCEL.replace("040", "000")], "flow, line 2, column 23: 0 shares of an order"),
        ([ADD, EXECUTE[:30]], "flow, line 2, column 29: an execution id has 12 digits, not '00'"),
    ],
)
def test_a_bad_pitch_line_is_named(lines: list[str], text: str) -> None:
    with pytest.raises(FlowError) as caught:
        list(parse_pitch(lines, "flow"))

    assert str(caught.value).startswith(text)


def test_a_file_with_bytes_that_are_no_text_is_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "flow"
    path.write_bytes(ADD.encode().replace(b"SH", b"S\xff"))
    with pytest.raises(FlowError, match="line 1, column 30"):
        list(read_pitch(path))
    path.write_bytes(f"{HEADER_LINE}\n1,X,1,add,buy,1,1".encode().replace(b"X", b"\xff"))
    with pytest.raises(FlowError, match="line 2, column symbol"):
        list(read_csv(path))


HEADER_LINE = "time_ns,symbol,order_id,action,side,price,quantity"


def test_a_flow_goes_through_csv_unchanged(tmp_path: Path) -> None:
    actions = list(generate(3, 300))
    path = tmp_path / "flow.csv"
    path.write_text("".join(write_csv(actions)))

    assert list(read_csv(path)) == actions


def test_the_columns_of_a_csv_file_may_come_in_another_order() -> None:
    lines = ["side,action,symbol,quantity,order_id,time_ns,price,note", "buy,add,X,3,1,7,100,hello"]

    assert list(parse_csv(lines)) == [Action(7, "X", 1, "add", "buy", 100, 3)]


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ([], "flow, line 1, column time_ns: the column is missing"),
        (["time_ns,symbol"], "flow, line 1, column order_id: the column is missing"),
        ([HEADER_LINE, "1,X,1,ad,buy,1,1"], "flow, line 2, column action: add, cancel, reduce or"),
        ([HEADER_LINE, "1,X,1,add,b,1,1"], "flow, line 2, column side: buy or sell, not 'b'"),
        (
            [HEADER_LINE, "1,,1,add,buy,1,1"],
            "flow, line 2, column symbol: printable characters, not ''",
        ),
        ([HEADER_LINE, "1,X,1,add,buy,0,1"], "flow, line 2, column price: at least 1, not 0"),
        ([HEADER_LINE, "1,X,1,add,buy,1,0"], "flow, line 2, column quantity: at least 1, not 0"),
        ([HEADER_LINE, "1,X,1,add,buy,1.5,1"], "flow, line 2, column price: a whole number, not"),
        ([HEADER_LINE, "-1,X,1,add,buy,1,1"], "flow, line 2, column time_ns: a whole number, not"),
        (
            [HEADER_LINE, "1,X,1,add,buy,1,1", "1,X,1,add,buy,1"],
            "flow, line 3, column quantity: a whole number, not None",
        ),
        ([HEADER_LINE, '1,X,1,add,buy,1,"1'], "flow, line 2: unexpected end of data"),
    ],
)
def test_a_bad_csv_line_is_named(lines: list[str], text: str) -> None:
    with pytest.raises(FlowError) as caught:
        list(parse_csv(lines, "flow"))

    assert str(caught.value).startswith(text)


def test_actions_become_commands() -> None:
    action = Action(7, "X", 1, "add", "buy", 100, 3)
    kinds = [
        to_command(attrs.evolve(action, action=kind)) for kind in ("cancel", "reduce", "market")
    ]

    assert to_command(action) == ("X", Limit(1, "buy", 100, 3))
    assert kinds == [("X", Cancel(1)), ("X", Reduce(1, 3)), ("X", Market(1, "buy", 3))]


def test_the_same_seed_makes_the_same_flow_and_another_seed_another() -> None:
    flow = list(generate(5, 2_000))

    assert list(generate(5, 2_000)) == flow
    assert list(generate(5, 1_000)) == flow[:1_000]
    assert list(generate(6, 2_000)) != flow


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_made_flow_has_the_shape_it_was_made_from(seed: int) -> None:
    """Within 30 % for the rate and the middle of distributions, 6 points for the cancels.

    Fewer are cancelled than in the real flow, since more are traded away.
    """
    made = fit(generate(seed, 20_000))

    assert made.buy_share == pytest.approx(REAL.buy_share, abs=0.05)
    assert made.cancel_share == pytest.approx(REAL.cancel_share, abs=0.06)
    assert made.reduce_share == pytest.approx(REAL.reduce_share, abs=0.003)
    assert made.market_share == pytest.approx(0.02, abs=0.008)
    assert made.span_ns == pytest.approx(REAL.span_ns, rel=0.3)
    assert len(made.symbols) == pytest.approx(len(REAL.symbols), rel=0.1)
    for mine, theirs in zip(made.symbols[:5], REAL.symbols[:5], strict=True):
        assert mine / sum(made.symbols) == pytest.approx(theirs / sum(REAL.symbols), abs=0.02)
    adds = sum(count for _, count in made.sizes)
    sizes = dict(made.sizes)
    for size, count in REAL.sizes:
        assert sizes.get(size, 0) / adds == pytest.approx(count / sum(REAL.symbols), abs=0.03)
    for probability in (0.25, 0.5, 0.75, 0.9):
        place = PROBABILITIES.index(probability)
        for name in ("gap_ns", "lifetime_ns", "price"):
            assert getattr(made, name)[place] == pytest.approx(
                getattr(REAL, name)[place], rel=0.3, abs=1_000_000 if name == "gap_ns" else None
            ), (name, probability)
        assert abs(made.distance_ticks[place] - REAL.distance_ticks[place]) <= 3


def test_a_made_flow_asks_for_nothing_impossible() -> None:
    """Cancels and reductions find their orders, new orders never cross, times never go back."""
    flow = list(generate(4, 10_000))
    machine, _ = fold(app, entries(app, flow_steps(flow), 100))
    opened: dict[str, OrderBook] = {}
    market_trades = 0
    for action in flow:
        book = opened.setdefault(action.symbol, OrderBook()).book
        rank = action.price if action.side == "buy" else -action.price
        if action.action == "add":
            assert action.order_id not in book.ranks
            assert not book.crosses(rank)
        elif action.action == "market":
            market_trades += book.crosses(10**15 if action.side == "buy" else -1)
        else:
            assert action.order_id in book.ranks
            assert action.quantity <= book.quantity(action.order_id)
        carry_out(book, action)

    assert flow == sorted(flow, key=lambda action: action.time_ns)
    assert market_trades == sum(action.action == "market" for action in flow) > 50
    for symbol, found in opened.items():
        assert machine.instance(OrderBook, symbol) == found


def test_a_flow_without_market_orders_trades_nothing() -> None:
    assert fit(generate(1, 2_000, market_share=0)).market_share == 0


def test_a_flow_without_a_new_order_has_no_shape() -> None:
    with pytest.raises(ValueError, match="no shape"):
        fit([])


def test_a_distribution_is_drawn_between_its_smallest_and_largest_value() -> None:
    found = quantiles(range(1_001))

    assert quantile(found, 0.0) == 0
    assert quantile(found, 0.5) == 500
    assert 999 <= quantile(found, 1 - 2**-53) <= 1_000


def test_the_command_line_fits_and_makes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "pitch.txt"
    path.write_text(f"{ADD}\n{CANCEL}\n{EXECUTE}\n")

    assert main(["fit", str(path)]) == 0
    assert "cancel_share=0.0,\nreduce_share=1.0,\nmarket_share=1.0,\n" in capsys.readouterr().out
    assert main(["generate", "1", "2"]) == 0
    assert capsys.readouterr().out == "".join(write_csv(generate(1, 2)))


@pytest.mark.parametrize("text", [None, "?\n"])
def test_the_command_line_says_what_is_wrong_with_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None
) -> None:
    path = tmp_path / "pitch.txt"
    if text is not None:
        path.write_text(text)

    assert main(["fit", str(path)]) == 1
    assert str(path) in capsys.readouterr().err
