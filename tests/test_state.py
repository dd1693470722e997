"""`leftfold state`: one actor as JSON, of a running replica and of a directory at any place."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asking import ADD, FAIL, line
from replica import APPS, RunningReplica, leavings, replica
from written_log import WrittenLog

from leftfold.actors import App, Command, Context, actor, handler, message
from leftfold.actors.ledger import Deposit, app
from leftfold.runtime.errors import OperatorError
from leftfold.tools.history import open_history
from leftfold.tools.inquiry import Inquiry, parse_address
from leftfold.tools.state import actor_named, parse_key

LEDGER = "leftfold.actors.ledger:app"


@message(id=1)
class Touch(Command[None]):
    """Makes the actor."""


@message(id=2)
class Poke(Command[None]):
    """Makes the other actor."""


@actor(id=1, key=int)
class Numbered:
    touched: int = 0

    @handler
    def touch(self, command: Touch, context: Context) -> None:
        self.touched += 1


@actor(id=2, key=bytes)
class Raw:
    poked: int = 0

    @handler
    def poke(self, command: Poke, context: Context) -> None:
        self.poked += 1


keyed = App(actors=[Numbered, Raw])


def state(*arguments: object, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "leftfold.tools.cli", "state", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd or Path(__file__).parent,
    )


def shown(*arguments: object, cwd: Path | None = None) -> dict[str, Any]:
    ended = state(*arguments, cwd=cwd)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


# Directories


@pytest.fixture
def log(tmp_path: Path) -> Iterator[WrittenLog]:
    """Ten entries of deposits behind the opening, in small segments."""
    log = WrittenLog.begun(tmp_path / "data", app, LEDGER, segment_bytes=8192)
    for _ in range(10):
        log.commands(*(log.command("main", Deposit(name, 1)) for name in ("alice", "bob") * 10))
    yield log
    log.close()


def test_a_directory_shows_the_state_at_any_place(log: WrittenLog) -> None:
    at_end = shown("Ledger", "main", "--dir", log.directory)
    at_three = shown("Ledger", "main", "--dir", log.directory, "--at", "3.0")

    assert at_end["state"]["accounts"] == {"alice": 100, "bob": 100}
    assert (at_end["actor"], at_end["key"], at_end["quarantine"]) == ("Ledger", "main", None)
    assert (at_end["index"], at_end["ordinal"]) == (12, None)
    assert at_three["state"]["accounts"] == {"alice": 1}
    assert (at_three["index"], at_three["ordinal"]) == (3, 0)


def test_the_beginning_may_be_gone_where_a_snapshot_is(log: WrittenLog) -> None:
    log.snapshot(8)
    assert log.journal.discard_before(9) > 0
    assert open_history(log.directory).first > 1

    assert shown("Ledger", "main", "--dir", log.directory, "--at", "9")["index"] == 9
    ended = state("Ledger", "main", "--dir", log.directory, "--at", "2")
    assert ended.returncode == 1
    assert "what is kept goes from 8 to 12" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("Leger", "main"), "did you mean Ledger?"),
        (("Zzz", "main"), "it has Account, Ledger"),
        (("Ledger", "mains"), "did you mean 'main'?"),
        (("Account", "x"), "there are 0 others"),
        (("Ledger", "main", "--at", "99"), "what is kept goes from 1 to 12"),
        (("Ledger", "main", "--at", "zero"), "is not a place in the log"),
        (("Ledger", "main", "--at", "3.99"), "holds no command 99"),
        (("Ledger", "main", "--at", "3", "--address", "127.0.0.1:1"), "--at folds the log"),
        (("Ledger", "main", "--address", "nowhere"), "write HOST:PORT"),
    ],
)
def test_what_is_not_there_is_one_sentence(
    log: WrittenLog, arguments: tuple[str, ...], said: str
) -> None:
    ended = state(*arguments, "--dir", log.directory)

    assert ended.returncode == 1
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_key_is_read_in_the_type_that_the_actor_has(tmp_path: Path) -> None:
    log = WrittenLog(tmp_path / "data", keyed, "test_state:keyed")
    log.commands(log.open_session())
    log.commands(log.command(-7, Touch()), log.command(b"\xff\x00", Poke()))  # type: ignore[arg-type]
    log.close()

    assert shown("Numbered", "--dir", log.directory, "--", "-7")["key"] == -7
    raw = shown("Raw", "ff00", "--dir", log.directory)

    assert (raw["key"], raw["state"]) == ("ff00", {"poked": 1})
    with pytest.raises(OperatorError, match="write a whole number of 64 bits"):
        parse_key(actor_named(keyed, "Numbered"), str(1 << 63))
    with pytest.raises(OperatorError, match="write a whole number of 64 bits"):
        parse_key(actor_named(keyed, "Numbered"), "seven")
    with pytest.raises(OperatorError, match="write bytes in hexadecimal"):
        parse_key(actor_named(keyed, "Raw"), "f")


# Running replicas


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "replica"
    yield place
    assert leavings(place) == []


def last_index(running: RunningReplica) -> int:
    return open_history(running.directory).last


@pytest.mark.xdist_group("serial")
def test_a_running_replica_is_asked_and_its_log_does_not_grow(directory: Path) -> None:
    with replica(directory) as running:
        with line(running) as client:
            client.ask(1, ADD, amount=5)
            client.ask(2, FAIL, key="b")
        before = last_index(running)
        address = f"127.0.0.1:{running.port}"

        by_directory = shown("Counter", "a", "--dir", directory, cwd=APPS)
        by_address = shown("Counter", "a", "--address", address)
        quarantined = shown("Counter", "b", "--address", address)
        misspelt = state("Countre", "a", "--dir", directory, cwd=APPS)
        unknown = state("Nothing", "a", "--address", address)
        missing = state("Counter", "nobody", "--address", address)

        assert by_directory["state"] == {"value": 5, "commands": 1}
        assert by_directory == by_address
        assert by_address["index"] >= before
        assert "RuntimeError" in quarantined["quarantine"]
        assert "did you mean Counter?" in misspelt.stderr
        assert "the App has Counter" in unknown.stderr
        assert "no command has reached counter 'nobody'" in missing.stderr.lower()
        assert [ended.returncode for ended in (misspelt, unknown, missing)] == [1, 1, 1]
        assert last_index(running) == before
        running.stop()

    stopped = shown("Counter", "a", "--dir", directory, cwd=APPS)
    assert stopped["state"] == {"value": 5, "commands": 1}


def test_an_address_where_nobody_listens_is_named() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        ended = state("Counter", "a", "--address", f"127.0.0.1:{port}")

    assert ended.returncode == 1
    assert f"No replica answers at 127.0.0.1:{port}" in ended.stderr


@pytest.mark.parametrize(
    ("sent", "said"),
    [(b"", "it has hung up"), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "that is no replica")],
)
def test_whoever_is_no_replica_is_told_apart(sent: bytes, said: str) -> None:
    def serve() -> None:
        accepted, _ = listening.accept()
        with accepted:
            accepted.recv(1)
            accepted.sendall(sent)
            accepted.shutdown(socket.SHUT_WR)
            while accepted.recv(4096):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        with (
            pytest.raises(OperatorError, match=said),
            Inquiry(listening.getsockname()) as inquiry,
        ):
            inquiry.inspect("Counter", b"a")
        thread.join()


def test_a_silent_one_is_given_up() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        pytest.raises(OperatorError, match="no answer within"),
        Inquiry(listening.getsockname(), deadline_s=0.05) as inquiry,
    ):
        inquiry.inspect("Counter", b"a")


def test_addresses_are_read_as_they_are_written() -> None:
    assert parse_address("127.0.0.1:7700") == ("127.0.0.1", 7700)
    assert parse_address("[::1]:7700") == ("::1", 7700)
    for wrong in ("7700", ":7700", "host:", "host:0", "host:99999", "host:x"):
        with pytest.raises(OperatorError, match="write HOST:PORT"):
            parse_address(wrong)
