"""The figures of a large state, for a small one: all parts run, and what they say fits together."""

import json
import sys
from typing import Any

import pytest

from leftfold.tools import bench_large

pytestmark = [pytest.mark.campaign, pytest.mark.xdist_group("serial")]


def test_all_parts_at_a_hundredth_of_their_size(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = ["--commands", "20000", "--accounts", "10000", "--tail", "2000", "--seconds", "8"]
    monkeypatch.setattr(sys, "argv", ["bench_large", *sizes, "--json"])
    monkeypatch.setattr(bench_large, "FULL_LOAD", 20_000)
    bench_large.main()
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["log"]["commands"] == 20_000
    assert 0 < found["log"]["log_bytes_per_command_over_the_body"] < 200
    for shape in bench_large.SHAPES:
        recovery = found["snapshot"][shape.name]
        assert 0 < recovery["until_restoring_s"] <= recovery["recovery_s"]
        measured = found["service"][shape.name]
        for window in ("without", "with"):
            figures = measured[window]
            assert figures["commands"] > 0
            assert 0 < figures["p50_ms"] <= figures["p99_ms"] <= figures["p999_ms"]
            assert figures["p999_ms"] <= figures["max_ms"]
        assert measured["fork_ms"] > 0
        assert measured["with"]["snapshot_s"] > 0 == measured["without"]["snapshot_s"]
