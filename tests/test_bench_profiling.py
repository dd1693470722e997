"""The benchmark of what recording costs: one short pair, and the interval."""

import json
import random
import sys

import pytest

from leftfold.tools import bench_profiling
from leftfold.tools.bench_profiling import LOADS, interval, middle, verdict

pytestmark = pytest.mark.xdist_group("serial")


def test_a_pair_compares_a_replica_that_records_with_one_that_does_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench_profiling", "--pairs", "2", "--commands", "2000", "--json"]
    monkeypatch.setattr(sys, "argv", words)
    bench_profiling.main()
    found = json.loads(capsys.readouterr().out)

    assert found["pairs"] == 2
    for name in LOADS:
        one = found[name]
        assert one["on_us"] > 0
        assert one["off_us"] > 0
        assert one["low"] <= one["overhead"] <= one["high"]
        assert len(one["each"]) == 2
        assert one["verdict"] == verdict(one["low"], one["high"])
    parts = found["from_its_parts"]
    assert parts["figures"] > 10, "every hop records"
    assert parts["low"] <= parts["overhead"] <= parts["high"]


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    held = 0
    for _ in range(60):
        low, high = interval([chance.gauss(0.03, 0.05) for _ in range(20)])
        held += low <= 0.03 <= high

    assert held >= 44, "of 60 intervals of 95 %"


def test_a_pair_that_was_struck_does_not_decide() -> None:
    assert middle([0.02] * 9 + [7.0]) == pytest.approx(0.02)
    assert middle([0.5]) == 0.5


def test_the_verdict_is_the_whole_intervals() -> None:
    assert verdict(-0.01, 0.05) == "at most 5%"
    assert verdict(0.01, 0.06) == "not decided"
    assert verdict(0.051, 0.06) == "more than 5%"
