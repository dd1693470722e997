"""`leftfold snapshot`: a running replica writes its state, and the command ends when that counts."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from asking import ADD, line
from replica import leavings, replica, wait_until

from leftfold.runtime.snapshotfile import check
from leftfold.runtime.snapshots import snapshot_name
from leftfold.tools import progress
from leftfold.tools.history import open_history


def snapshot(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "leftfold.tools.cli", "snapshot", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "replica"
    yield place
    assert leavings(place) == []


@pytest.mark.xdist_group("serial")
def test_it_is_written_while_the_replica_serves_and_checks_when_the_command_ends(
    directory: Path,
) -> None:
    with replica(directory) as running:
        with line(running) as client:
            client.ask(1, ADD, amount=5)
        first = snapshot("--dir", directory, "--json")
        assert first.returncode == 0, first.stderr
        written = json.loads(first.stdout)
        path = directory / "snapshots" / snapshot_name(written["index"])
        assert check(path).index == written["index"] >= open_history(directory).last
        assert (written["bytes"], written["new"]) == (path.stat().st_size, True)

        again = snapshot("--address", f"127.0.0.1:{running.port}", "--json")
        assert json.loads(again.stdout)["new"] is False
        assert json.loads(again.stdout)["index"] == written["index"]
        assert "nothing was applied since" in snapshot("--dir", directory).stdout

        with line(running) as client:
            assert client.ask(1, ADD, amount=6).status == 0
        shown = snapshot("--dir", directory)
        assert shown.returncode == 0, shown.stderr
        assert "Snapshot of entry" in shown.stdout and "bytes" in shown.stdout
        wait_until(lambda: len(list(directory.glob("snapshots/*.lfs"))) == 2, "two are kept")
        running.stop()

    stopped = snapshot("--dir", directory)
    assert stopped.returncode == 1
    assert f"No replica runs in {directory}" in stopped.stderr


@pytest.mark.xdist_group("serial")
def test_a_snapshot_that_fails_is_said_to_and_the_replica_goes_on(directory: Path) -> None:
    with replica(directory) as running:
        with line(running) as client:
            client.ask(1, ADD, amount=5)
        # A directory stands where the snapshot is to be written.
        index = open_history(directory).last
        for at in range(index, index + 50):
            (directory / "snapshots" / f"{snapshot_name(at)}.tmp").mkdir(parents=True)

        ended = snapshot("--dir", directory)

        assert ended.returncode == 1
        assert "failed" in ended.stderr and len(ended.stderr.splitlines()) == 1, ended.stderr
        for at in range(index, index + 50):
            (directory / "snapshots" / f"{snapshot_name(at)}.tmp").rmdir()
        with line(running) as client:
            client.ask(1, ADD, amount=5)
        assert snapshot("--dir", directory).returncode == 0
        running.stop()


def test_progress_says_rate_and_time_left_in_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    clock = iter([100.0, 100.1, 106.0, 107.0, 112.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))

    with progress.progress("copying", 4_000, "bytes") as advance:
        for done in (100, 1_200, 1_300, 2_400):
            advance(done)

    assert written.getvalue().splitlines() == [
        "copying: 1.2k of 4k bytes, 200 bytes/s, 14 s left",
        "copying: 2.4k of 4k bytes, 200 bytes/s, 8 s left",
    ]
