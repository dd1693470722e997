"""`leftfold trace`: a command of a real replica, found again by its session and request, alive and dead."""

import json
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from replica import replica, wait_until
from test_top import LEDGER

from leftfold.actors.ledger import Deposit, Transfer
from leftfold.runtime.blocking_client import BlockingClient
from leftfold.runtime.config import MIB
from leftfold.runtime.metrics import record_reached
from leftfold.runtime.trail import ROWS, WORDS, Trail, took_ns
from leftfold.shm import Counters, Schema
from leftfold.tools.cli import call
from leftfold.tools.decoding import lines_of
from leftfold.tools.history import open_history

pytestmark = pytest.mark.xdist_group("serial")


def commands_of(directory: Path) -> list[dict[str, Any]]:
    """Every command in the log, with numbers and bytes."""
    history = open_history(directory)
    lines = (
        line
        for entry, body in history.entries(history.first, history.last)
        for line in lines_of(entry, body, None)
    )
    return [line for line in lines if line["kind"] == "command"]


def traced(
    directory: Path, line: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> dict[str, Any]:
    """What `leftfold trace --json` says of a line of the log."""
    capsys.readouterr()
    words = ["trace", str(directory), line["session"], str(line["request"]), "--json"]
    assert call(words) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_command_is_followed_from_the_log_to_its_reply(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with replica(tmp_path / "replica", LEDGER) as running:
        with BlockingClient("127.0.0.1", running.port) as client:
            client.ask("book", Deposit("a", 100))
            client.ask("book", Deposit("b", 1))
            for _ in range(5):
                client.ask("book", Transfer("a", "b", 7))
        line = commands_of(running.directory)[-1]
        wait_until(
            lambda: "sequenced_to_applied" in traced(running.directory, line, capsys)["took_ns"],
            "consensus is told, a little later than the client",
        )
        found = traced(running.directory, line, capsys)
        assert call(["trace", str(running.directory), line["session"], str(line["request"])]) == 0
        shown = capsys.readouterr().out
        running.kill("supervisor")
    again = traced(running.directory, line, capsys)

    assert found["command"]["message"] == "Transfer"
    assert found["command"]["fields"] == {"source": "a", "target": "b", "cents": 7}
    assert (found["entry"]["index"], found["command"]["ordinal"]) == (
        line["index"],
        line["ordinal"],
    )
    assert found["command"]["time_ns"] == line["time_ns"]
    assert found["batch"]["first"] <= line["index"] <= found["batch"]["last"]
    assert found["batch"]["bytes"] < MIB
    assert found["reply"]["status"] == "OK"
    assert found["sent_again"] == []
    took = found["took_ns"]
    assert 0 < took["sequenced_to_durable"] <= took["sequenced_to_applied"]
    assert "to book" in shown
    assert "Transferred(source_cents=65, target_cents=36)" in shown
    assert "sequenced to durable" in shown
    assert again == found, "a dead replica says the same"


def test_what_is_not_there_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with replica(tmp_path / "replica", LEDGER) as running:
        with BlockingClient("127.0.0.1", running.port) as client:
            client.ask("book", Deposit("a", 100))
        line = commands_of(running.directory)[-1]
        assert call(["trace", str(running.directory), line["session"], "99"]) == 1
        assert "is not in the log" in capsys.readouterr().err
        assert call(["trace", str(running.directory), "abc", "1"]) == 1
        assert "32 digits" in capsys.readouterr().err


def test_a_trail_keeps_the_last_entries_and_no_others(tmp_path: Path) -> None:
    Counters.create(
        tmp_path / "counters", {"test": Schema(histograms=("ns",), words={"trail": WORDS})}
    )
    with Counters.attach(tmp_path / "counters", "test") as counters:
        plain = counters.histograms["ns"]
        trail = Trail(plain.words, plain.pinned, counters.words["trail"])
        waiting = deque((index, 1_000 * index) for index in range(1, ROWS + 101))
        record_reached(waiting, ROWS + 50, 10**9, trail)
        words = tuple(counters.words["trail"])
        count = trail.snapshot().count

    assert count == ROWS + 50
    assert len(waiting) == 50
    assert took_ns(words, 50) is None
    assert took_ns(words, ROWS + 51) is None
    for index in (51, 52, ROWS, ROWS + 50):
        assert took_ns(words, index) == 10**9 - 1_000 * index
