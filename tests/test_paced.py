"""Load at its own pace: what is due while nothing answers is late, however long nobody could send it."""

import threading

import pytest
from served import Fold, Served, until

from leftfold.actors.ledger import app
from leftfold.tools import load
from leftfold.tools.paced import Paced, Rhythm

RATE = 1000


@pytest.mark.parametrize("rate", [10, 999, 4000, 12_345, 700_000])
def test_a_rhythm_makes_the_rate_that_was_asked_for(rate: float) -> None:
    rhythm = Rhythm.of(rate, 10)

    assert rhythm.per_second == pytest.approx(rate, rel=1e-3)
    assert rhythm.count * rhythm.lanes == pytest.approx(rate * 10, rel=0.02, abs=1)


def test_a_stall_is_late_for_all_that_was_due_in_it() -> None:
    with Served(Fold(app)) as served:
        load.prepare(served.host, served.port, 50)
        paced = Paced.connect(served.host, served.port, load.ONE_LEDGER, 50, RATE, 1)

        def stall() -> None:
            until(lambda: paced.replies.tally.replies > RATE // 10, "replies come")
            served.frozen.set()
            threading.Timer(0.3, served.frozen.clear).start()

        stalling = threading.Thread(target=stall)
        stalling.start()
        try:
            found = paced.run()
        finally:
            stalling.join()
            paced.close()

    assert found.commands == RATE
    assert 0 < found.p50_ms <= found.p99_ms <= found.max_ms
    half_s = paced.stall_ns / 2e9
    late = sum(took_ns >= half_s * 1e9 for took_ns in paced.took_ns)
    assert half_s > 0.1
    assert late >= RATE * half_s - 2, "they count from when they were due"
