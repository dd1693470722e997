"""kill -9, and a power cut, at each step that `leftfold backup` and `leftfold restore` take on the disk.

strace kills the command where it enters a chosen system call, for the nth time: every call that makes something
durable, or gives it its name, in turn. Whatever is left of it: a backup is whole or is refused in one sentence, and so is
a restored replica; the replica that is backed up, and the backup, are as they were; and the same command serves.
"""

import contextlib
import io
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from disks import cut_power, loop_disk, mounted
from test_backup import files
from written_log import LAST, WrittenLog, written_deposits

from leftfold.actors.ledger import app
from leftfold.tools.cli import call
from leftfold.tools.fold import fold
from leftfold.tools.history import open_history

pytestmark = pytest.mark.xdist_group("serial")

CALLS = (
    *("mkdir", "rmdir", "rename", "unlink", "unlinkat", "fsync", "fdatasync", "fallocate"),
    *("ftruncate", "pwritev2", "write"),
)
"""What a step is: whatever changes a file, its name, or what is durable of them."""


def traced(arguments: list[str], log: Path, *injections: str) -> int:
    """Run a command under strace; its exit code."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("this test needs strace")
    run = [sys.executable, "-P", "-B", "-m", "leftfold.tools.cli", *arguments]
    found = ["-e", f"trace={','.join(CALLS)}", *injections, "-f", "-o", str(log)]
    ended = subprocess.run([strace, *found, *run], capture_output=True, timeout=120, check=False)
    if b"strace: " in ended.stderr and b"Operation not permitted" in ended.stderr:
        pytest.skip(f"strace may not trace here: {ended.stderr.decode().strip()}")
    return ended.returncode


def steps(arguments: list[str], log: Path) -> list[tuple[str, int]]:
    """Each call that the command makes, and for the which time, as it runs to its end."""
    assert traced(arguments, log) == 0
    seen: Counter[str] = Counter()
    found: list[tuple[str, int]] = []
    for name in re.findall(r"^\d+ +(\w+)\(", log.read_text(), re.MULTILINE):
        seen[name] += 1
        found.append((name, seen[name]))
    return found


def killed_at(arguments: list[str], step: tuple[str, int], log: Path) -> None:
    """Run the command until it enters this call."""
    name, nth = step
    code = traced(arguments, log, "-e", f"inject={name}:signal=SIGKILL:when={nth}")
    assert code in (-9, 137), (step, code, log.read_text())


DISK_BYTES = 320 << 20


@pytest.fixture
def log(tmp_path: Path) -> Iterator[WrittenLog]:
    """Deposits up to entry LAST, with a snapshot of entry 30, in several segments."""
    log = written_deposits(tmp_path / "data")
    log.snapshot(30)
    yield log
    log.close()


def quietly(*arguments: object) -> tuple[int, str]:
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        return call([str(argument) for argument in arguments]), errors.getvalue()


def is_whole(log: WrittenLog, directory: Path) -> bool:
    made = open_history(directory)
    old = fold(open_history(log.directory), app, LAST)
    return made.last == LAST and fold(made, app, LAST).state_digest() == old.state_digest()


def at_each_step(
    arguments: Callable[[int], list[str]], log: Path, check: Callable[[int], bool]
) -> None:
    """Kill it at each step, each time under a new number, and check what is left; sometimes it must be whole."""
    every = steps(arguments(0), log)
    assert len(every) > 5, every
    wholes = 0
    for number, step in enumerate(every, 1):
        killed_at(arguments(number), step, log)
        wholes += check(number)
    assert wholes < len(every)


@pytest.mark.campaign
@pytest.mark.parametrize("ending", ["", ".tar"])
def test_kill_9_at_each_step_of_a_backup(log: WrittenLog, tmp_path: Path, ending: str) -> None:
    before = files(log.directory)
    place = tmp_path / "backups"
    place.mkdir()

    def target(number: int) -> Path:
        return place / f"copy-{number}{ending}"

    def check(number: int) -> bool:
        left, again = target(number), tmp_path / f"again-{number}"
        code, said = quietly("restore", left, again)
        if code:
            assert len(said.splitlines()) == 1 and str(left) in said, said
            assert not again.exists()
        else:
            assert is_whole(log, again)
            shutil.rmtree(again)
        assert files(log.directory) == before
        for path in place.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert quietly("backup", log.directory, left) == (0, "")
        return not code

    at_each_step(
        lambda number: ["backup", str(log.directory), str(target(number))],
        tmp_path / "strace.log",
        check,
    )


@pytest.mark.parametrize(
    "ending",
    [pytest.param("", marks=pytest.mark.campaign), pytest.param(".tar", marks=pytest.mark.long)],
)
def test_kill_9_at_each_step_of_a_restore(log: WrittenLog, tmp_path: Path, ending: str) -> None:
    backup = tmp_path / f"copy{ending}"
    assert quietly("backup", log.directory, backup) == (0, "")
    before = files(tmp_path)
    place = tmp_path / "replicas"

    def check(number: int) -> bool:
        made = place / f"made-{number}"
        has_name = made.exists()
        if not has_name:
            assert quietly("restore", backup, made) == (0, ""), "the same command serves"
            assert not list(place.glob(".*")), "nothing is left of the one that was killed"
        assert is_whole(log, made)
        shutil.rmtree(place)
        (tmp_path / "strace.log").unlink()
        assert files(tmp_path) == before
        return has_name

    at_each_step(
        lambda number: ["restore", str(backup), str(place / f"made-{number}")],
        tmp_path / "strace.log",
        check,
    )


@pytest.mark.long
@pytest.mark.parametrize("ending", ["", ".tar"])
@pytest.mark.parametrize("command", ["backup", "restore"])
def test_a_power_cut_at_each_step_of_both(
    log: WrittenLog, tmp_path: Path, command: str, ending: str
) -> None:
    """What no sync has reached is gone: what has its name is whole, and what came to its end is there."""
    backup = tmp_path / f"copy{ending}"
    assert quietly("backup", log.directory, backup) == (0, "")
    image, strace_log = tmp_path / "image", tmp_path / "strace.log"

    def target(place: Path, number: int) -> Path:
        return place / (f"copy-{number}{ending}" if command == "backup" else f"made-{number}")

    with loop_disk(image, tmp_path / "disk", DISK_BYTES) as disk:

        def arguments(number: int) -> list[str]:
            source = log.directory if command == "backup" else backup
            return [command, str(source), str(target(disk, number))]

        every = [*steps(arguments(0), strace_log), None]
        for number, step in enumerate(every, 1):
            if step is None:
                assert traced(arguments(number), strace_log) == 0
            else:
                killed_at(arguments(number), step, strace_log)
            cut_power(image, tmp_path / "image-cut")
            with mounted(
                tmp_path / f"cut-{number}", "-o", "loop", str(tmp_path / "image-cut")
            ) as cut:
                left = again = target(cut, number)
                there = left.exists()
                if command == "backup" and there:
                    again = tmp_path / "again"
                    code, said = quietly("restore", left, again)
                    there = not code
                    assert there or len(said.splitlines()) == 1, said
                assert not there or is_whole(log, again), step
                assert there or step is not None, "it came to its end"
                shutil.rmtree(tmp_path / "again", ignore_errors=True)
            for path in disk.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
