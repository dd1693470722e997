"""`leftfold dev`: a save shows which answers change; a broken save changes nothing."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from replica import DEADLINE_S, leavings, wait_until

from leftfold.runtime.blocking_client import BlockingClient
from leftfold.tools.cli import call
from leftfold.tools.dev import compare, forget_compiled, keep_sources
from leftfold.tools.status import is_leftfold

pytestmark = pytest.mark.xdist_group("serial")

BANK = """
from leftfold.actors import App, Command, Context, actor, handler, message

FEE = 0

@message(id=1)
class Balance:
    cents: int

@message(id=2)
class Move(Command[Balance]):
    cents: int

@actor(id=1, key=str)
class Account:
    cents: int = 0

    @handler
    def move(self, command: Move, context: Context) -> Balance:
        self.cents += command.cents - FEE
        return Balance(self.cents)

app = App(actors=[Account])
"""


class Dev:
    """One `leftfold dev` in a directory with bank.py."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.output = root.with_suffix(".out")
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "leftfold.tools.cli", "dev", "bank:app"),
                    *("--port", "0"),
                ],
                cwd=root,
                stdout=output,
                stderr=output,
                env={**os.environ, "COLUMNS": "200", "TMPDIR": str(root.parent)},
            )

    def wait_for(self, wanted: str, times: int = 1) -> str:
        def shown() -> str | None:
            text = self.output.read_text()
            assert self.process.poll() is None, text
            return text if text.count(wanted) >= times else None

        found: str = wait_until(shown, f"{wanted!r}, {times} times")
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        """Whatever happened, nothing runs on: the replica ends with dev."""
        self.process.kill()
        self.process.wait(DEADLINE_S)

    @property
    def port(self) -> int:
        return int(re.findall(r"Ready on 127\.0\.0\.1:(\d+)", self.output.read_text())[-1])


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "app"
    directory.mkdir()
    (directory / "bank.py").write_text(BANK)
    yield directory
    assert leavings(directory / "leftfold-data") == []


def test_a_save_shows_what_changes_and_the_new_code_makes_the_state(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(root))
    import bank  # pyright: ignore[reportMissingImports]

    with Dev(root) as dev:
        dev.wait_for("Ready on")
        with BlockingClient("127.0.0.1", dev.port) as client:
            assert client.ask("alice", bank.Move(100)).cents == 100
            assert client.ask("alice", bank.Move(50)).cents == 150
        (root / "bank.py").write_text(BANK.replace("FEE = 0", "FEE = 1"))
        shown = dev.wait_for("Ready on", times=2)
        with BlockingClient("127.0.0.1", dev.port) as client:
            after = client.ask("alice", bank.Move(1)).cents

        assert "the new code answers 2 differently" in shown
        assert re.search(
            r"Move\(cents=50\) to alice\s+Balance\(cents=150\)\s+Balance\(cents=148\)", shown
        )
        assert after == 148

        (root / "bank.py").write_text("def broken(:\n")
        shown = dev.wait_for("cannot fold the log")
        with BlockingClient("127.0.0.1", dev.port) as client:
            assert client.ask("alice", bank.Move(1)).cents == 148
        assert "SyntaxError" in shown

        (root / "bank.py").write_text(BANK.replace("FEE = 0", "FEE = 1  # as before"))
        shown = dev.wait_for("Ready on", times=3)
        assert "are answered as before" in shown

        pids = json.loads((root / "leftfold-data" / "replica.json").read_text())["pids"].values()
        dev.process.send_signal(signal.SIGTERM)
        assert dev.process.wait(DEADLINE_S) == 0
        assert not any(is_leftfold(pid) for pid in pids)
        assert "Traceback" not in dev.output.read_text()


def test_the_replica_does_not_outlive_dev(root: Path) -> None:
    dev = Dev(root)
    dev.wait_for("Ready on")
    pids = json.loads((root / "leftfold-data" / "replica.json").read_text())["pids"].values()
    dev.process.kill()
    dev.process.wait(DEADLINE_S)

    wait_until(lambda: not any(is_leftfold(pid) for pid in pids), "the replica is gone")


def test_an_app_that_lies_elsewhere_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)

    code = call(["dev", "leftfold.actors.ledger:app"])

    assert code == 1
    assert f"`leftfold dev` watches {root}" in capsys.readouterr().err


def test_without_watchfiles_the_remedy_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setitem(sys.modules, "watchfiles", None)

    code = call(["dev", "bank:app"])

    assert code == 1
    assert "pip install 'leftfold[dev]'" in capsys.readouterr().err


def test_only_python_files_of_the_project_are_kept(tmp_path: Path) -> None:
    root, kept = tmp_path / "root", tmp_path / "kept"
    for name in ("app.py", "part/of.py", ".venv/lib/no.py", "node_modules/no.py", "notes.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    kept.mkdir()
    (kept / "old.py").write_text("gone")

    keep_sources(root, kept)

    found = sorted(str(path.relative_to(kept)) for path in kept.rglob("*.py"))
    assert found == ["app.py", "part/of.py"]


def test_a_save_within_the_same_second_is_not_taken_for_the_one_before(tmp_path: Path) -> None:
    """Python tells them apart by second and size alone, when it has compiled the first."""
    source = tmp_path / "same_second.py"
    command = [sys.executable, "-c", "import same_second; print(same_second.FEE)"]
    said: list[str] = []
    for fee in ("0", "1"):
        source.write_text(f"FEE = {fee}\n")
        os.utime(source, (1_700_000_000, 1_700_000_000))
        forget_compiled([source])
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        said.append(ended.stdout.strip())

    assert said == ["0", "1"]


def test_answers_are_compared_by_their_place() -> None:
    line = {"ordinal": 0, "message": "Move", "key": "alice", "fields": {"cents": 1}}
    ok = {"status": "OK", "reply": "Balance", "fields": {"cents": 1}}
    no = {"status": "REJECTED", "reason": "too poor"}
    old = [line | {"index": 1, "reply": ok}, line | {"index": 2, "reply": ok}]
    new = [line | {"index": 2, "reply": no}, line | {"index": 3, "reply": ok}]

    (difference,) = compare(old, new)

    assert difference.place == "2.0"
    assert difference.command == "Move(cents=1) to alice"
    assert (difference.old, difference.new) == ("Balance(cents=1)", "REJECTED: too poor")
