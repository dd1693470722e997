"""Many clients in a short form: all are served, and all are there at the end."""

import json
import resource
import sys

import pytest

from leftfold.runtime.errors import OperatorError
from leftfold.tools import bench_connections
from leftfold.tools.bench_connections import Sizes

pytestmark = pytest.mark.xdist_group("serial")


def test_nothing_falls_over_and_memory_and_latency_are_stated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--connections", "300", "--sessions", "3001", "--active", "50", "--commands", "500"]
    monkeypatch.setattr(sys, "argv", ["bench_connections", *words, "--json"])
    bench_connections.main()
    found = json.loads(capsys.readouterr().out)

    assert found["connections"] >= 250 and found["sessions"] >= 2951
    assert found["pss_bytes"].keys() == found["pss_bytes_before"].keys()
    assert len(found["pss_bytes"]) == 5 and min(found["pss_bytes"].values()) > 0
    for name in ("alone", "among_all"):
        assert found[name]["count"] == 500
        assert 0 < found[name]["p50_us"] <= found[name]["p99_us"] <= found[name]["max_us"]
    bench_connections.show(found)
    assert "among all" in capsys.readouterr().out


def test_too_few_open_files_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(which: int, limits: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda which: (100, 200))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    with pytest.raises(OperatorError, match="ulimit"):
        bench_connections.run(Sizes())
