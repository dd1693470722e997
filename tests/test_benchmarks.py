"""Each benchmark has a short form that a test runs: its command is what stands beside its figures."""

import json
import sys
from pathlib import Path

import pytest

from leftfold.tools import bench_replica

ROOT = Path(__file__).parent.parent
BENCHMARKS = sorted(path.stem for path in (ROOT / "tools").glob("bench_*.py"))
ELSEWHERE = {
    "bench_recovery": "test_replica_campaign.py",
    "bench_replica": "test_benchmarks.py",
}
"""Where it is run, if not in the test of its own name."""


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_benchmark_is_run_by_a_test(name: str) -> None:
    text = (ROOT / "tests" / ELSEWHERE.get(name, f"test_{name}.py")).read_text()

    assert any(f"{name}{call}" in text for call in (".main(", ".run(", '", "--json')), text


@pytest.mark.xdist_group("serial")
def test_a_replica_in_short(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_replica, "SINGLES", 50)
    words = ["bench_replica", "--commands", "5000", "--runs", "1", "--json"]
    monkeypatch.setattr(sys, "argv", words)
    bench_replica.main()
    found = json.loads(capsys.readouterr().out)

    assert found["commands"] == 5000
    restarted = found["median"].pop("restarted_per_s")
    more_s = found["median"]["restart_s"] - found["median"]["empty_start_s"]
    assert restarted == pytest.approx(5500 / more_s), "of so short a log the start may be quicker"
    assert all(value > 0 for value in found["median"].values())
    assert {"transfers_per_s", "latency_p99_us", "replayed_per_s"} <= found["median"].keys()
