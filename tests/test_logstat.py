"""`leftfold log stat`: every byte of the journal's batches is counted once, under its right name."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from written_log import SESSION, WrittenLog

from leftfold.actors.layout import EntryKind
from leftfold.actors.ledger import Deposit, PayIn, app
from leftfold.runtime.records import BLOCK_BYTES
from leftfold.tools.cli import call
from leftfold.tools.history import open_history

APP = "leftfold.actors.ledger:app"


@pytest.fixture
def written(tmp_path: Path) -> Iterator[WrittenLog]:
    """Three commands for two actors, in two entries, among entries of other kinds."""
    log = WrittenLog.begun(tmp_path / "data", app, APP)
    log.commands(
        log.command("main", Deposit("alice", 100)), log.command("main", Deposit("bob", 50))
    )
    log.append(EntryKind.TIME)
    log.commands(log.command("eve", PayIn(7)))
    yield log
    log.close()


def report(capsys: pytest.CaptureFixture[str], directory: Path, *arguments: str) -> dict[str, Any]:
    assert call(["log", "stat", str(directory), "--json", *arguments]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_every_byte_of_the_batches_has_one_place(
    written: WrittenLog, capsys: pytest.CaptureFixture[str]
) -> None:
    found = report(capsys, written.directory)

    in_files = sum(
        extent.end - BLOCK_BYTES for extent in open_history(written.directory).extents.values()
    )
    assert sum(found["bytes_by_purpose"].values()) == found["bytes"] == in_files
    assert found["entries"] == {"term_start": 1, "commands": 3, "time": 1}
    assert found["commands"] == 3
    over = found["bytes"] - found["bytes_by_purpose"]["body"]
    assert found["bytes_per_command_over_the_body"] == round(over / 3, 3)


def test_messages_actors_and_sessions_share_the_commands(
    written: WrittenLog, capsys: pytest.CaptureFixture[str]
) -> None:
    bodies = [len(app.encode(one)[1]) for one in (Deposit("alice", 100), Deposit("bob", 50))]

    found = report(capsys, written.directory)

    deposit, pay_in = found["messages"]
    assert (deposit["message"], deposit["actor"]) == ("Deposit", "Ledger")
    assert (deposit["commands"], deposit["body_bytes"]) == (2, sum(bodies))
    assert (pay_in["message"], pay_in["actor"], pay_in["commands"]) == ("PayIn", "Account", 1)
    assert [line["actor"] for line in found["actors"]] == ["Ledger", "Account"]
    (session,) = found["sessions"]
    assert (session["session"], session["commands"]) == (SESSION.hex(), 3)
    assert session["body_bytes"] == found["bytes_by_purpose"]["body"]


def test_from_and_to_choose_entries(
    written: WrittenLog, capsys: pytest.CaptureFixture[str]
) -> None:
    found = report(capsys, written.directory, "--from", "3", "--to", "4")

    assert (found["first"], found["last"]) == (3, 4)
    assert found["entries"] == {"commands": 1, "time": 1}
    assert (found["commands"], found["batches"]) == (2, 2)


def test_a_person_reads_names_and_shares(
    written: WrittenLog, capsys: pytest.CaptureFixture[str]
) -> None:
    code = call(["log", "stat", str(written.directory)])

    shown = capsys.readouterr().out
    assert code == 0
    assert "commands  3, each" in shown
    assert "Deposit" in shown and "Account" in shown and SESSION.hex() in shown


def test_without_the_app_there_are_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = WrittenLog(tmp_path / "data", app, "nowhere_to_be_found:app")
    log.commands(log.command("main", Deposit("alice", 100)))
    log.close()

    (message,) = report(capsys, log.directory)["messages"]

    assert (message["message"], message["actor"]) == ("message 200", "unknown")


def test_an_empty_log_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = WrittenLog(tmp_path / "data", app, APP)
    log.close()

    found = report(capsys, log.directory)

    assert (found["commands"], found["entries"], found["messages"]) == (0, {}, [])


def test_help_names_what_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["log", "stat", "--help"]) == 0
    assert "what fills" in capsys.readouterr().out
