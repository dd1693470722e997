"""The order book by itself: priorities, levels, and what its dicts cost."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from leftfold.actors.book import DEAD_MIN, PRICE_MAX, Book


def book_of(*orders: tuple[int, int, int]) -> Book:
    """A book with resting orders, each (id, rank, quantity)."""
    book = Book()
    for order_id, rank, quantity in orders:
        book.rest(order_id, rank, quantity)
    return book


def test_the_best_price_trades_first_and_within_it_the_first_to_come() -> None:
    book = book_of((1, -102, 5), (2, -101, 5), (3, -101, 5))

    assert book.take(102, 12, 10) == [(2, 101, 5), (3, 101, 5), (1, 102, 2)]
    assert book.sells.depth(5) == [(102, 3, 1)]


def test_a_buy_takes_no_sell_above_its_price() -> None:
    book = book_of((1, -102, 5))

    assert not book.crosses(101)
    assert book.take(101, 5, 10) == []
    assert book.crosses(102)


def test_a_sell_takes_the_highest_buy_first() -> None:
    book = book_of((1, 99, 5), (2, 100, 5))

    assert book.take(-1, 6, 10) == [(2, 100, 5), (1, 99, 1)]
    assert book.quantity(1) == 4


def test_a_reduced_order_keeps_its_place() -> None:
    book = book_of((1, 100, 5), (2, 100, 5))

    book.reduce(1, 3)

    assert book.take(-100, 3, 10) == [(1, 100, 2), (2, 100, 1)]


def test_an_order_that_is_reduced_to_nothing_is_gone_and_so_is_its_level() -> None:
    book = book_of((1, 100, 5))

    level = book.reduce(1, 5)

    assert (level.quantity, level.orders) == (0, {})
    assert book == Book()


def test_an_id_that_comes_again_rests_behind_the_others() -> None:
    book = book_of((1, 100, 5), (2, 100, 5))

    book.remove(1)
    book.rest(1, 100, 5)

    assert [fill[0] for fill in book.take(-100, 10, 10)] == [2, 1]


def test_fills_end_at_their_limit_within_a_level_and_between_levels() -> None:
    orders = ((1, -100, 1), (2, -100, 1), (3, -101, 1))

    assert book_of(*orders).take(PRICE_MAX, 3, 1) == [(1, 100, 1)]
    assert book_of(*orders).take(PRICE_MAX, 3, 2) == [(1, 100, 1), (2, 100, 1)]


def test_dead_entries_of_a_level_never_outnumber_the_living_by_much() -> None:
    """The front of a dict is found by walking over what was deleted there."""
    book = book_of(*((order_id, 100, 1) for order_id in range(1_000)))
    level = book.buys.levels[100]
    for order_id in range(990):
        book.remove(order_id)

        assert level.dead <= max(DEAD_MIN, len(level.orders))
    assert list(level.orders) == list(range(990, 1_000))


def test_the_ranks_in_the_middle_can_leave() -> None:
    book = book_of((1, 99, 5), (2, 100, 5), (3, 101, 5))

    book.remove(2)

    assert book.buys.depth(2) == [(101, 5, 1), (99, 5, 1)]
    assert book.buys.depth(1) == [(101, 5, 1)]
    assert book.buys.best() == 101
    assert book.sells.best() is None


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("arx"), st.integers(1, 8), st.integers(1, 9))))
def test_a_book_comes_back_from_its_bytes_with_the_same_order(
    actions: list[tuple[str, int, int]],
) -> None:
    """And what it says about itself adds up at every moment."""
    book = Book()
    for action, order_id, number in actions:
        if order_id not in book.ranks:
            book.rest(order_id, 100 + number if order_id % 2 else -200 - number, number)
        elif action == "r":
            book.reduce(order_id, min(number, book.quantity(order_id)))
        elif action == "x":
            book.remove(order_id)
        else:
            book.take(PRICE_MAX if number % 2 else -1, number, number)
        for half in (book.buys, book.sells):
            assert sorted(half.levels) == half.ranks
            for rank, level in half.levels.items():
                assert level.orders
                assert level.quantity == sum(level.orders.values())
                assert all(book.ranks[order_id] == rank for order_id in level.orders)
    encoded = msgspec.msgpack.encode(book)
    decoded = msgspec.msgpack.decode(encoded, type=Book)

    assert decoded == book
    assert msgspec.msgpack.encode(decoded) == encoded
    assert len(book.ranks) == sum(
        len(level.orders) for half in (book.buys, book.sells) for level in half.levels.values()
    )
