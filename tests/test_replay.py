"""`leftfold replay`: the state at any place, and the debugger inside the handler that ran there."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from written_log import WrittenLog

from leftfold.actors.ledger import Deposit, PayIn, Transfer, Withdraw, app
from leftfold.tools.fold import fold
from leftfold.tools.history import open_history

APP = "leftfold.actors.ledger:app"


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Entry 2 opens the session, 3 has two deposits, 4 a transfer, a withdrawal and a payment."""
    log = WrittenLog.begun(tmp_path / "data", app, APP)
    log.commands(
        log.command("main", Deposit("alice", 100)), log.command("main", Deposit("bob", 50))
    )
    log.commands(
        log.command("main", Transfer("alice", "bob", 30)),
        log.command("main", Withdraw("bob", 5)),
        log.command("eve", PayIn(7)),
    )
    yield log.directory
    log.close()


def replay(directory: Path, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "leftfold.tools.cli", "replay", str(directory), *arguments],
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def accounts(directory: Path, *arguments: str) -> dict[str, int]:
    ended = replay(directory, "--json", *arguments)
    assert ended.returncode == 0, ended.stderr
    state: dict[str, Any] = json.loads(ended.stdout)
    (ledger,) = state["actors"]["Ledger"]
    found: dict[str, int] = ledger["state"]["accounts"]
    return found


def test_the_state_is_that_after_the_named_command(directory: Path) -> None:
    assert accounts(directory, "--to", "3.0") == {"alice": 100}
    assert accounts(directory, "--to", "3") == {"alice": 100, "bob": 50}
    assert accounts(directory, "--to", "4.0") == {"alice": 70, "bob": 80}
    assert accounts(directory) == {"alice": 70, "bob": 75}


def test_two_replays_give_the_same_digests_and_another_place_others(directory: Path) -> None:
    first = replay(directory, "--to", "4.1").stdout
    second = replay(directory, "--to", "4.1").stdout
    other = replay(directory, "--to", "4.0").stdout

    assert first == second
    assert "state digest" in first
    assert first != other


def test_the_digest_is_that_of_the_machine_folded_here(directory: Path) -> None:
    machine = fold(open_history(directory), app, 4)

    assert machine.state_digest().hex() in replay(directory).stdout
    assert f"{machine.digest:08x}" in replay(directory).stdout


def test_a_command_that_an_operator_left_out_is_left_out_here_too(tmp_path: Path) -> None:
    """The decision stands behind the command in the log, and must be known before it."""
    log = WrittenLog(tmp_path / "data", app, APP)
    log.commands(log.open_session())
    log.commands(
        log.command("main", Deposit("alice", 100)), log.command("main", Deposit("bob", 50))
    )
    log.skip(2, 0)
    log.close()

    assert accounts(log.directory) == {"bob": 50}


def test_the_debugger_stops_inside_the_handler_of_that_command(directory: Path) -> None:
    typed = "p self.accounts\np command\np context.key\nbt\ncontinue\n"

    ended = replay(directory, "--to", "4.1", "--pdb", typed=typed)

    assert ended.returncode == 0, ended.stderr
    assert "withdraw(" in ended.stdout
    assert "{'alice': 70, 'bob': 80}" in ended.stdout
    assert "Withdraw(account='bob', cents=5)" in ended.stdout
    assert "'main'" in ended.stdout
    assert "state digest" in ended.stdout


def test_the_debugger_steps_through_the_handler(directory: Path) -> None:
    typed = "next\n" * 6 + "p source_cents\ncontinue\n"
    ended = replay(directory, "--to", "4.0", "--pdb", typed=typed)

    assert ended.returncode == 0, ended.stderr
    assert "transfer()" in ended.stdout
    assert "\n(Pdb) 100\n" in ended.stdout


def test_leaving_the_debugger_is_no_error(directory: Path) -> None:
    ended = replay(directory, "--to", "4.1", "--pdb", typed="quit\n")

    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr
    assert "Left the debugger" in ended.stdout


def test_the_debugger_talks_on_a_terminal(directory: Path) -> None:
    """Through a pseudo-terminal, as a person does, typing once the prompt is there."""
    primary, secondary = pty.openpty()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "leftfold.tools.cli", "replay", str(directory)),
            *("--to", "3.1", "--pdb"),
        ],
        stdin=secondary,
        stdout=secondary,
        stderr=secondary,
        env={**os.environ, "TERM": "dumb"},
    )
    os.close(secondary)
    shown = _read_until(primary, b"(Pdb) ")
    os.write(primary, b"p command.account\n")
    shown += _read_until(primary, b"(Pdb) ")
    os.write(primary, b"c\n")
    shown += _read_until(primary, b"quarantined")

    assert process.wait(60) == 0
    os.close(primary)
    assert b"deposit()" in shown
    assert b"'bob'" in shown


def _read_until(descriptor: int, wanted: bytes) -> bytes:
    shown = b""
    while wanted not in shown:
        piece = os.read(descriptor, 4096)
        assert piece, shown
        shown += piece
    return shown


def test_where_no_handler_runs_the_debugger_says_so(directory: Path) -> None:
    ended = replay(directory, "--to", "2.0", "--pdb")

    assert ended.returncode == 1
    assert "No handler runs at 2.0" in ended.stderr


@pytest.mark.parametrize(
    ("place", "said"), [("9", "is kept goes from 1 to 4"), ("3.7", "no command 7")]
)
def test_a_place_beyond_the_log_is_named(directory: Path, place: str, said: str) -> None:
    ended = replay(directory, "--to", place)

    assert ended.returncode == 1
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
