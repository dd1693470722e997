"""The profile of the exchange in a short form: the same command with fewer orders."""

import json
import subprocess
import sys

import pytest

from leftfold.tools.bench_exchange import Spent, cost_of_clock_ns, timed

pytestmark = pytest.mark.xdist_group("serial")

ORDERS = 300


def test_every_order_is_counted_once_in_a_handler() -> None:
    command = [sys.executable, "-m", "leftfold.tools.bench_exchange", "--json"]
    done = subprocess.run(
        [*command, "--runs", "2", "--orders", str(ORDERS)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found = json.loads(done.stdout)
    assert sum(handler["calls"] for handler in found["handlers"].values()) == ORDERS
    assert set(found["median"]) >= {"gateway_us", "consensus_us", "journal_us", "logic_us"}
    assert all(len(values) == 2 for values in found["runs"].values())


def test_the_clock_counts_calls_and_lets_errors_through() -> None:
    spent = Spent()

    def fail(instance: object, message: object, context: object) -> None:
        del instance, message, context
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        timed(fail, spent)(None, None, None)
    assert spent.calls == 1 and spent.ns > 0
    assert min(cost_of_clock_ns(1000)) >= 0
