"""The load tools count what the cluster did: every transfer applied, none twice, and figures that fit together."""

import msgspec
from served import Fold, Served

from leftfold.actors.ledger import Ledger, Transfer, app
from leftfold.actors.limits import Limits
from leftfold.tools import load


def test_every_transfer_of_a_load_is_applied_once() -> None:
    fold = Fold(app, Limits(session_window=64))
    with Served(fold, window=64) as served:
        figures = load.throughput(
            served.host, served.port, commands=4012, sessions=4, window=1000, accounts=50
        )
        held = fold.machine.instance(Ledger, load.LEDGER)

    assert (figures["commands"], figures["failures"], figures["refused"]) == (4012, 0, 0)
    assert figures["per_second"] > 0
    expected = {load.account(number): load.opening_cents(number) for number in range(50)}
    for lane in range(4):
        for made in load.transfers(load.ONE_LEDGER, lane, 1003, 50):
            transfer = msgspec.msgpack.decode(made.body, type=Transfer)
            expected[transfer.source] -= 1
            expected[transfer.target] += 1
    assert held.accounts == expected
    assert expected != {load.account(number): load.opening_cents(number) for number in range(50)}


def test_latencies_are_ordered_percentiles_of_answered_transfers() -> None:
    with Served(Fold(app)) as served:
        figures = load.latency(served.host, served.port, commands=200, warm_up=10, accounts=20)

    assert 0 < figures["p50_us"] <= figures["p99_us"] <= figures["p999_us"] <= figures["max_us"]
