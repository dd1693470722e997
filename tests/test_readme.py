"""The README does what it says: its actor runs, its client prints what is shown."""

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from replica import DEADLINE_S, leavings, wait_until

from leftfold.tools.cli import COMMANDS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def source(name: str) -> str:
    """The block whose first line is this file's name."""
    (found,) = [text for _, text in BLOCKS if text.startswith(f"# {name}\n")]
    return found


def shown_after(name: str) -> str:
    """The text block behind the one of this name."""
    at = [text for _, text in BLOCKS].index(source(name))
    kind, text = BLOCKS[at + 1]
    assert kind == "text"
    return text


@pytest.mark.xdist_group("serial")
def test_the_readmes_actor_answers_its_client_and_survives_kill_9(tmp_path: Path) -> None:
    (tmp_path / "bank.py").write_text(source("bank.py"))
    status = tmp_path / "leftfold-data" / "replica.json"

    with _run(tmp_path) as replica:
        port = _port(status, replica)
        client = source("client.py").replace("7700", str(port))
        (tmp_path / "client.py").write_text(client)
        printed = _python(tmp_path, "client.py")
    status.unlink()
    with _run(tmp_path) as replica:
        again = client.replace(str(port), str(_port(status, replica)))
        (tmp_path / "again.py").write_text(again.replace("Move(100)", "Move(0)"))
        printed_again = _python(tmp_path, "again.py")
        logged = _leftfold(tmp_path, "log", "leftfold-data")
        debugged = _leftfold(tmp_path, "replay", "leftfold-data", "--to", "4.0", "--pdb")
        replica.terminate()
        code = replica.wait(DEADLINE_S)

    assert printed == shown_after("client.py")
    assert printed_again == "Balance(cents=70)\nBalance(cents=40)\n"
    assert code == 0
    assert leavings(tmp_path / "leftfold-data") == []
    assert _facts(logged)[:5] == _facts(_recording('{"index":1,'))
    prompt = [line for line in debugged.splitlines() if line.startswith(("> ", "-> "))]
    shown = [line for line in _recording("(Pdb)").splitlines() if line.startswith(("> ", "-> "))]
    assert prompt[1] == shown[1]
    assert prompt[0].split("/")[-1].split("(")[0] == shown[0].split("/")[-1].split("(")[0]


@contextlib.contextmanager
def _run(directory: Path) -> Generator[subprocess.Popen[bytes]]:
    """The README's app, on a free port; its processes end when the supervisor does."""
    arguments = ["-P", "-m", "leftfold.tools.cli", "run", "bank:app", "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=directory, stdout=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(DEADLINE_S)


def _port(status: Path, process: subprocess.Popen[bytes]) -> int:
    def ready() -> int | None:
        assert process.poll() is None
        record = json.loads(status.read_text()) if status.exists() else {}
        return record["port"] if record.get("state") == "ready" else None

    port: int = wait_until(ready, "the replica serves")
    return port


def _python(directory: Path, *arguments: str, typed: str = "") -> str:
    ended = subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        input=typed,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def _leftfold(directory: Path, *arguments: str) -> str:
    return _python(directory, "-P", "-m", "leftfold.tools.cli", *arguments, typed="c\n")


def _recording(part: str) -> str:
    (found,) = [text for kind, text in BLOCKS if kind == "text" and part in text]
    return found


def _facts(lines: str) -> list[dict[str, object]]:
    """Log lines without what differs from run to run."""
    found = [json.loads(line) for line in lines.splitlines()]
    return [
        {name: value for name, value in line.items() if name not in ("time_ns", "session")}
        for line in found
    ]


def test_the_actor_has_twenty_lines_or_fewer() -> None:
    lines = [line for line in source("bank.py").splitlines()[1:] if line.strip()]

    assert len(lines) <= 20


def test_every_command_is_in_the_table_and_no_other() -> None:
    named = set(re.findall(r"^\| `leftfold (\w+)", README, re.MULTILINE))

    assert named == {name for name, _ in COMMANDS}


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_every_file_and_target_that_is_named_exists(text: str) -> None:
    targets = set(re.findall(r"make (?:VENV=\S+ )?([a-z]+)", text))
    paths = set(re.findall(r"\]\(([^)#]+)\)", text))
    paths |= {path for path in re.findall(r"`((?:[\w.]+/)+[\w.]+)`", text) if "<" not in path}
    makefile = (ROOT / "Makefile").read_text()

    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for path in paths - {"dev/shm"}:
        assert path.startswith("/") or (ROOT / path).exists(), path
