"""The benchmark of the placements, on so little that its figures mean nothing: they are there, and fit together."""

import json
import os
import sys

import pytest

from leftfold.runtime.topology import PROCESSES
from leftfold.tools import bench_placement

pytestmark = pytest.mark.xdist_group("serial")


def test_each_profile_that_fits_this_machine_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench_placement", "--commands", "2000", "--singles", "50", "--runs", "1", "--json"]
    monkeypatch.setattr(sys, "argv", words)
    bench_placement.main()
    found = json.loads(capsys.readouterr().out)

    few = len(os.sched_getaffinity(0)) < len(PROCESSES)
    assert list(found["medians"]) == ["shared", "spread", *([] if few else ["dedicated"])]
    for figures in found["medians"].values():
        each = [figures[f"{name}_cpu_us_per_single"] for name in PROCESSES]
        assert all(spent > 0 for spent in each)
        assert figures["cpu_us_per_single"] == pytest.approx(sum(each))
        assert 0 < figures["latency_p50_us"] <= figures["latency_p99_us"]
        assert figures["transfers_per_s"] > 0
    bench_placement.show(found)
    assert "processor time" in capsys.readouterr().out
