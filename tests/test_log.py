"""`leftfold log`: every command of a journal as one JSON line, read without touching it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from written_log import SESSION, WrittenLog

from leftfold.actors.layout import EntryKind
from leftfold.actors.ledger import Deposit, PayIn, Transfer, app
from leftfold.runtime.errors import CorruptJournal, OperatorError
from leftfold.tools.cli import call
from leftfold.tools.history import open_history

APP = "leftfold.actors.ledger:app"


@pytest.fixture
def written(tmp_path: Path) -> Iterator[WrittenLog]:
    """A log with a term's start, a session, two entries of commands, a time entry and a skip."""
    log = WrittenLog.begun(tmp_path / "data", app, APP)
    log.commands(
        log.command("main", Deposit("alice", 100)), log.command("main", Deposit("bob", 50))
    )
    log.append(EntryKind.TIME)
    log.commands(log.command("main", Transfer("alice", "bob", 30)), log.command("eve", PayIn(7)))
    log.skip(5, 1)
    yield log
    log.close()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_every_command_is_a_line_with_its_place_its_key_and_its_fields(
    written: WrittenLog, capsys: pytest.CaptureFixture[str]
) -> None:
    code = call(["log", str(written.directory)])

    found = lines(capsys)
    assert code == 0
    kinds = [line["kind"] for line in found]
    assert kinds == [
        "term_start",
        "open",
        "command",
        "command",
        "time",
        "command",
        "command",
        "skip",
    ]
    assert found[5] == {
        "index": 5,
        "ordinal": 0,
        "term": 1,
        "time_ns": 1_700_000_005_000_000_000,
        "kind": "command",
        "session": SESSION.hex(),
        "request": 3,
        "message": "Transfer",
        "actor": "Ledger",
        "key": "main",
        "fields": {"source": "alice", "target": "bob", "cents": 30},
    }
    assert found[7]["skipped"] == "5.1"


def test_from_to_and_type_choose_lines(
    written: WrittenLog, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = str(written.directory)

    call(["log", directory, "--from", "3.1", "--to", "5.0"])
    between = [(line["index"], line.get("ordinal")) for line in lines(capsys)]
    call(["log", directory, "--type", "Deposit"])
    deposits = [line["fields"]["account"] for line in lines(capsys)]
    call(["log", directory, "--type", "time"])
    times = [line["index"] for line in lines(capsys)]
    call(["log", directory, "--type", "231"])
    numbered = [line["message"] for line in lines(capsys)]

    assert between == [(3, 1), (4, None), (5, 0)]
    assert deposits == ["alice", "bob"]
    assert times == [4]
    assert numbered == ["PayIn"]


def test_a_range_that_holds_nothing_is_a_sentence(
    written: WrittenLog, capsys: pytest.CaptureFixture[str]
) -> None:
    for first, last in (("4", "3"), ("4", "3.1"), ("3.1", "3.0")):
        assert call(["log", str(written.directory), "--from", first, "--to", last]) == 1
        assert f"--from {first} lies behind --to {last}" in capsys.readouterr().err
    assert call(["log", str(written.directory), "--from", "3.1", "--to", "3"]) == 0
    assert [line["ordinal"] for line in lines(capsys)] == [1]


def test_a_misspelt_type_is_answered_with_the_right_one(
    written: WrittenLog, capsys: pytest.CaptureFixture[str]
) -> None:
    code = call(["log", str(written.directory), "--type", "Deposi"])

    assert code == 1
    assert "did you mean Deposit?" in capsys.readouterr().err


def test_without_the_app_there_are_numbers_and_hex(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = WrittenLog(tmp_path / "data", app, "nowhere_to_be_found:app")
    log.commands(log.command("main", Deposit("alice", 100)))

    code = call(["log", str(log.directory)])

    captured = capsys.readouterr()
    (line,) = [json.loads(text) for text in captured.out.splitlines()]
    log.close()
    assert code == 0
    assert "numbers and hex" in captured.err
    assert line["message_id"] == 200
    assert bytes.fromhex(line["key"]) == b"main"
    assert app.decode(200, bytes.fromhex(line["body"])) == Deposit("alice", 100)


def test_reading_changes_nothing(written: WrittenLog, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat() for path in written.directory.rglob("*")}

    call(["log", str(written.directory)])

    capsys.readouterr()
    after = {path: path.stat() for path in written.directory.rglob("*")}
    assert before.keys() == after.keys()
    for path, stat in before.items():
        assert (stat.st_mtime_ns, stat.st_size) == (after[path].st_mtime_ns, after[path].st_size)


def test_a_reader_sees_the_log_grow_while_it_is_written(written: WrittenLog) -> None:
    """The journal is open for writing all the time, as that of a running replica."""
    first = open_history(written.directory)
    written.commands(written.command("main", Deposit("carol", 1)))
    second = open_history(written.directory)

    assert (first.last, second.last) == (6, 7)
    assert [header.index for header, _ in first.entries(1, 99)] == [1, 2, 3, 4, 5, 6]
    assert [header.index for header, _ in second.entries(3, 99)] == [3, 4, 5, 6, 7]


def test_a_log_of_many_segments_is_read_in_order(tmp_path: Path) -> None:
    """The fixture's segments hold a megabyte."""
    log = WrittenLog(tmp_path / "data", app, APP)
    run = [log.command("main", Deposit("a" * 60, 1)) for _ in range(1_000)]
    for _ in range(30):
        log.commands(*run)
    history = open_history(log.directory)

    indexes = [header.index for header, _ in history.entries(1, history.last)]

    log.close()
    assert len(history.extents) > 2
    assert indexes == list(range(1, 31))


def test_a_torn_end_is_left_out_and_damage_before_it_is_named(written: WrittenLog) -> None:
    (segment,) = (written.directory / "journal").glob("0*.log")
    content = segment.read_bytes()
    last = content.rindex(b"LFrecord")
    segment.write_bytes(content[: last + 60] + b"\xff" + content[last + 61 :])
    torn = open_history(written.directory)
    first = content.index(b"LFrecord")
    segment.write_bytes(content[: first + 60] + b"\xff" + content[first + 61 :])

    assert torn.last == 5
    with pytest.raises(CorruptJournal, match="offset 4096"):
        open_history(written.directory)


def test_a_pipe_that_closes_early_is_the_end_and_no_error(written: WrittenLog) -> None:
    for _ in range(200):
        written.commands(*[written.command("main", Deposit("alice", 1)) for _ in range(20)])

    ended = subprocess.run(
        [
            "bash",
            "-o",
            "pipefail",
            "-c",
            f"'{sys.executable}' -m leftfold.tools.cli log '{written.directory}' | head -n 2",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    )

    assert ended.stderr == ""
    assert ended.returncode == 0
    assert len(ended.stdout.splitlines()) == 2


def test_what_is_not_a_replica_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="is not the directory of a replica"):
        open_history(tmp_path)


@pytest.mark.parametrize("place", ["x", "0", "1.", "1.x", "-1"])
def test_a_place_that_is_none_is_refused_with_an_example(
    place: str, written: WrittenLog, capsys: pytest.CaptureFixture[str]
) -> None:
    code = call(["log", str(written.directory), f"--from={place}"])

    assert code == 1
    assert "is not a place in the log" in capsys.readouterr().err
