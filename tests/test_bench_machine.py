"""The benchmark of the machine runs in short and says what it measured."""

import json
import sys

import pytest

from leftfold.tools import bench_machine


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    monkeypatch.setattr(
        sys,
        "argv",
        ["bench_machine", "--commands", "6000", "--runs", "2", "--accounts", "50", *words],
    )
    bench_machine.main()
    return capsys.readouterr().out


def test_the_whole_and_its_parts_are_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = json.loads(run(capsys, monkeypatch, "--json"))

    assert found["commands"] == 6_000 and len(found["runs"]["machine_ns"]) == 2
    for figures in (found["least"], found["median"]):
        parts = sum(figures[f"{part}_ns"] for part in ("decode", "handler", "encode", "rest"))
        assert figures["machine_ns"] == pytest.approx(parts) and parts > 0
    assert found["python_by_machine"] > 0


def test_the_table_is_for_people(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = run(capsys, monkeypatch)

    assert "6,000 transfers between 50 accounts" in shown and "times as long" in shown


def test_every_transfer_is_answered_and_kept_up_to_the_window() -> None:
    work = bench_machine.work_of(20_000, 50)
    machine = work.machine(False)
    bench_machine.fold(machine, work.entries)
    sessions = list(machine.state.sessions)

    assert sum(session.last for session in sessions) == 20_000
    assert {len(session.replies) for session in sessions} == {bench_machine.UNANSWERED_MAX}
    assert not machine.state.quarantined and len(work.entries) == 8
