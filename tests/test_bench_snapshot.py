"""The benchmark of snapshots runs on a small state and says what it measured, and what it could not."""

import json
import sys
from typing import Any

import pytest

from leftfold.tools import bench_snapshot, bgsave

SHAPES = bench_snapshot.SHAPES


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    monkeypatch.setattr(
        sys, "argv", ["bench_snapshot", "--accounts", "3000", "--runs", "1", *words]
    )
    bench_snapshot.main()
    return capsys.readouterr().out


def test_both_shapes_are_measured_and_forked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bgsave, "SERVER", "no-such-server")
    found: dict[str, Any] = json.loads(run(capsys, monkeypatch, "--json"))

    assert found["redis"].startswith("no-such-server is not installed")
    for shape in SHAPES:
        figures = found["shapes"][shape]["median"]
        assert figures["content_bytes"] > figures["zstd_1_bytes"] > 0
        assert "bgsave_s" not in figures and figures["pickle_bytes"] > 0


@pytest.mark.xdist_group("serial")
def test_a_forked_child_writes_the_file_and_tells_its_pages(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, Any] = json.loads(run(capsys, monkeypatch, "--json", "--fork"))

    for shape in SHAPES:
        frozen, plain = found["shapes"][shape]["forks"]
        assert (frozen["frozen"], plain["frozen"]) == (True, False)
        assert frozen["file_bytes"] == plain["file_bytes"]
        assert frozen["child_private"] > 0 and frozen["parent_pss"] > 0
        if "bgsave_bytes" in found["shapes"][shape]["median"]:
            assert found["shapes"][shape]["median"]["bgsave_bytes"] > 3_000


def test_the_table_says_on_what_it_was_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bgsave, "SERVER", "no-such-server")
    shown = run(capsys, monkeypatch)

    assert "3,000 accounts" in shown and "cores" in shown and "restore_s" in shown
