"""Events through a whole replica: a subscriber that comes late, far behind, gets every one in order."""

from pathlib import Path

import pytest
from replica import replica

from leftfold.actors.exchange import LevelChanged, Limit, OrderBook
from leftfold.runtime.blocking_client import BlockingClient

pytestmark = pytest.mark.xdist_group("serial")

ORDERS = 12_000


def test_a_late_subscriber_gets_every_retained_event_in_order_and_then_live_ones(
    tmp_path: Path,
) -> None:
    """More than one answer holds, so that the parts have to join; the connection is not closed as slow."""
    with (
        replica(tmp_path / "r", "leftfold.actors.exchange:app") as running,
        BlockingClient("127.0.0.1", running.port) as trader,
        BlockingClient("127.0.0.1", running.port) as late,
    ):
        orders = [
            ("S", Limit(order_id=n + 1, side="buy", price=1 + n, quantity=1)) for n in range(ORDERS)
        ]
        for reply in trader.ask_many(orders):
            assert not isinstance(reply, Exception), reply
        stream = late.events(actor=OrderBook, after=(0, 0, 0))
        prices = [next(stream).message for _ in range(ORDERS)]
        trader.ask("S", Limit(order_id=ORDERS + 1, side="buy", price=ORDERS + 1, quantity=1))
        live = next(stream).message

    assert all(isinstance(event, LevelChanged) for event in prices)
    assert [event.price for event in prices] == list(range(1, ORDERS + 1))
    assert isinstance(live, LevelChanged) and live.price == ORDERS + 1
