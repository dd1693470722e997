"""What an idle replica costs, looked at for a second: the figures are there, and fit together."""

import json
import sys

import pytest

from leftfold.runtime.topology import PROCESSES
from leftfold.tools import bench_idle

pytestmark = pytest.mark.xdist_group("serial")


def test_every_process_is_in_the_sum(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench_idle", "--seconds", "1", "--settle", "0.1", "--json"]
    monkeypatch.setattr(sys, "argv", words)
    bench_idle.main()
    found = json.loads(capsys.readouterr().out)

    assert found["percent"].keys() == {*PROCESSES, "supervisor"} == found["pss_bytes"].keys()
    assert found["percent_of_a_core"] == pytest.approx(sum(found["percent"].values()))
    assert 0 < found["percent_of_a_core"]
    assert all(wakes >= 0 for wakes in found["wakes_per_s"].values())
    bench_idle.show(found)
    assert "of one core" in capsys.readouterr().out
