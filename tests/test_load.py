"""The load tools count what the cluster did: every transfer applied, none twice, and figures that fit together."""

from served import Fold, Served

from leftfold.actors.ledger import TotalOf, app
from leftfold.actors.limits import Limits
from leftfold.runtime.blocking_client import BlockingClient
from leftfold.tools import load


def test_every_transfer_of_a_load_is_applied_once() -> None:
    fold = Fold(app, Limits(session_window=64))
    with Served(fold, window=64) as served:
        figures = load.throughput(
            served.host, served.port, commands=4000, sessions=4, window=1000, accounts=50
        )
        entries = fold.machine.state.events
        with BlockingClient(served.host, served.port) as client:
            total = client.query(load.LEDGER, TotalOf())

    assert (figures["commands"], figures["failures"], figures["refused"]) == (4000, 0, 0)
    assert figures["per_second"] > 0
    assert len(entries) == 4000 + 50
    assert (total.cents, total.accounts) == (sum(map(load.opening_cents, range(50))), 50)


def test_latencies_are_ordered_percentiles_of_answered_transfers() -> None:
    with Served(Fold(app)) as served:
        figures = load.latency(served.host, served.port, commands=200, warm_up=10, accounts=20)

    assert 0 < figures["p50_us"] <= figures["p99_us"] <= figures["p999_us"] <= figures["max_us"]
