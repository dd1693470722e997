"""`leftfold run` and `leftfold status` with real processes: ready, Ctrl-C, kill -9."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asking import FAIL, Line
from replica import APPS, DEADLINE_S, leavings, wait_until

from leftfold.tools.cli import call
from leftfold.tools.run import Display
from leftfold.tools.status import is_leftfold

pytestmark = pytest.mark.xdist_group("serial")

APP = "leftfold.actors.ledger:app"


class Run:
    """One `leftfold run`, with what it prints in files."""

    def __init__(self, directory: Path, *arguments: str, app: str = APP) -> None:
        self.directory = directory
        number = len(list(directory.parent.glob("*.out")))
        self.out = directory.with_suffix(f".{number}.out")
        self.err = directory.with_suffix(f".{number}.err")
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "leftfold.tools.cli", "run", app),
                    *("--dir", str(directory), "--port", "0", *arguments),
                ],
                stdout=out,
                stderr=err,
                cwd=APPS,
            )

    def wait_for(self, wanted: str) -> str:
        """Wait until stdout holds this; all of stdout."""

        def shown() -> str | None:
            text = self.out.read_text()
            assert self.process.poll() is None or wanted in text, self.err.read_text()
            return text if wanted in text else None

        found: str = wait_until(shown, f"{wanted} on stdout")
        return found


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "data"
    assert leavings(tmp_path / "data") == []


def status_of(directory: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert call(["status", str(directory), "--json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def test_a_replica_says_that_it_is_ready_and_ctrl_c_stops_it_without_a_traceback(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running = Run(directory)
    ready = running.wait_for("Ready on")
    report = status_of(directory, capsys)
    running.process.send_signal(signal.SIGINT)
    code = running.process.wait(DEADLINE_S)

    assert ready.startswith(f"Ready on 127.0.0.1:{report['port']}, data in {directory}")
    for name, process in report["processes"].items():
        assert f"{name} {process['pid']}" in ready
        assert process["alive"]
    assert report["state"] == "ready"
    assert report["indices"]["applied"] == 1
    assert report["hops"]["journal"]["fsync_ns"]["count"] >= 1
    assert code == 0
    assert "Traceback" not in running.err.read_text()
    assert running.err.read_text().endswith("Stopped.\n")
    assert status_of(directory, capsys)["state"] == "stopped"


def test_status_works_for_a_replica_that_was_killed(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running = Run(directory)
    running.wait_for("Ready on")
    pids = [process["pid"] for process in status_of(directory, capsys)["processes"].values()]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # The kernel ends them with the first.
            os.kill(pid, signal.SIGKILL)
    running.process.wait(DEADLINE_S)
    wait_until(lambda: not any(is_leftfold(pid) for pid in pids), "all five are gone")

    report = status_of(directory, capsys)
    call(["status", str(directory)])

    shown = capsys.readouterr().out
    assert not report["alive"]
    assert report["indices"]["durable"] == 1
    assert "dead (it was ready)" in shown
    assert "(gone)" in shown


def test_with_json_every_event_is_an_object(directory: Path) -> None:
    running = Run(directory, "--json")
    running.wait_for('"ready"')
    running.process.terminate()
    code = running.process.wait(DEADLINE_S)

    events = [json.loads(line) for line in running.out.read_text().splitlines()]
    names = [event["event"] for event in events]
    ready = events[names.index("ready")]
    assert code == 0
    assert names[0] == "starting"
    assert names[-1] == "stopped"
    assert ready["address"][0] == "127.0.0.1"
    assert ready["index"] == 1


def test_a_process_that_is_killed_is_named_and_all_four_start_again(directory: Path) -> None:
    running = Run(directory)
    running.wait_for("Ready on")
    pids = json.loads((directory / "replica.json").read_text())["pids"]
    os.kill(pids["journal"], signal.SIGKILL)

    shown = wait_until(
        lambda: (running.out.read_text().count("Ready on") == 2) and running.err.read_text(),
        "ready again",
    )

    running.process.terminate()
    assert running.process.wait(DEADLINE_S) == 0
    assert "The journal process was ended by signal 9" in shown


def test_a_second_replica_in_the_same_directory_is_refused(directory: Path) -> None:
    first = Run(directory)
    first.wait_for("Ready on")

    second = Run(directory)
    code = second.process.wait(DEADLINE_S)

    first.process.terminate()
    first.process.wait(DEADLINE_S)
    assert code == 1
    assert "is in use by pid" in second.err.read_text()
    assert len(second.err.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "TAKEN"], "Port TAKEN on 127.0.0.1 is in use by another program"),
        (["--port", "0", "--resp", "TAKEN"], "choose another port with --resp."),
        (["--port", "0", "--peer-address", "127.0.0.1:TAKEN"], "with --peer-address."),
        (["--port", "0", "--host", "192.0.2.1"], "192.0.2.1 is not an address of this machine"),
        (["--port", "0", "--host", "no host"], "'no host' is no address of this machine"),
        (["--port", "0", "--host", "a..b"], "'a..b' is no address of this machine"),
        (["--port", "0", "--host", ""], "An empty host is no address"),
        (["--port", "0", "--token", ""], "each of 1 to 64 bytes"),
        (["--port", "0", "--token", "x" * 65], "each of 1 to 64 bytes"),
        (["--port", "0", *(f"--token={at}" for at in range(9))], "At most 8 tokens"),
        (["--port", "0", "--host", "0.0.0.0"], "0.0.0.0 can be reached from other machines"),
        (
            [
                *("--port", "0", "--tls-certificate", "no.pem"),
                *("--tls-key", "no.pem", "--tls-authority", "no.pem"),
            ],
            "no.pem is no authority's certificate",
        ),
        (
            [
                *("--port", "TAKEN", "--cluster", "ab" * 16),
                *("--peer-address", "127.0.0.1:1", "--member", "1=127.0.0.1:1"),
            ],
            "Port TAKEN on 127.0.0.1 is in use by another program",
        ),
    ],
)
def test_an_address_that_cannot_be_is_one_sentence_and_nothing_is_made(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        code = call(["run", APP, *(argument.replace("TAKEN", port) for argument in arguments)])

    shown = capsys.readouterr()
    assert code == 1
    assert shown.out == ""
    assert said.replace("TAKEN", port) in shown.err
    assert shown.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_later_start_on_a_port_in_use_says_so_before_it_starts_anything(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = Run(directory)
    first.wait_for("Ready on")
    first.process.terminate()
    assert first.process.wait(DEADLINE_S) == 0
    before = (directory / "replica.json").read_bytes()

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        code = call(["run", APP, "--dir", str(directory), "--port", port])

    shown = capsys.readouterr()
    assert code == 1
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert "is in use by another program" in shown.err
    assert (directory / "replica.json").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere:app", "There is no module nowhere"),
        ("leftfold.actors.ledger:ap", "write leftfold.actors.ledger:app"),
        ("leftfold.actors.ledger:Deposit", "is not an App"),
        ("bank.py", "write bank:app"),
        ("bank", "write module:attribute"),
    ],
)
def test_an_app_that_is_not_there_is_one_sentence(
    name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = call(["run", name, "--dir", str(tmp_path / "data")])

    shown = capsys.readouterr()
    assert code == 1
    assert said in shown.err
    assert len(shown.err.splitlines()) == 1
    assert not (tmp_path / "data").exists()


def test_members_without_a_cluster_are_not_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dir", str(tmp_path / "data"), "--member", "1=127.0.0.1:7800"]

    assert call(["run", APP, *arguments]) == 1
    assert "give --cluster too" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_replay_without_a_terminal_is_told_in_plain_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    display = Display(tmp_path)
    display.observe(
        "restoring",
        {"index": 9, "bytes": 3 << 20, "of": 9 << 20, "rate": 2.0 * 2**20, "left_s": 3.0},
    )
    display.observe("restoring", {"index": 9, "bytes": 9 << 20, "of": 9 << 20, "rate": 0.0})
    display.observe("replaying", {"applied": 100, "last": 1000, "rate": 300.0, "left_s": 3.0})
    overrun = {"index": 7, "ordinal": 1, "message": 3, "budget_ms": 10, "stack": "X"}
    display.observe("overrun", overrun | {"replaying": False})
    display.observe("parked", {"error": "Parked: [the] command."})
    display.observe("snapshot", {"index": 7, "bytes": 2 << 20, "seconds": 1.5})

    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "Restoring the snapshot: 3 of 9 MiB, 2 MiB/s, 3 s left.",
        "Replaying: 100 of 1000 entries, 300 entries/s, 3 s left.",
        "The handler at 7.1 (message 3) runs for more than 10 ms; it is here:",
        "X",
        "Parked: [the] command.",
        "Snapshot of entry 7: 2.0 MiB in 1.5 s.",
    ]


def test_an_overrun_of_the_replay_is_told_with_the_ways_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrun = {"index": 7, "ordinal": 1, "message": 3, "budget_ms": 10, "stack": "X"}
    Display(tmp_path).observe("overrun", overrun | {"replaying": True})

    assert "start with --skip 7.1" in capsys.readouterr().err.splitlines()[-1]


def test_a_quarantine_is_told_when_it_happens_and_to_who_asks_for_the_status(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Actor, key, handler, place and reason: by `run`, by `status` and by `stat`, and again after a start."""
    running = Run(directory, app="counting:app")
    running.wait_for("Ready on")
    with contextlib.closing(Line(status_of(directory, capsys)["port"])) as client:
        failed = client.ask(1, FAIL, "alice")
    said = (
        f"Counter 'alice' is quarantined: Counter.fail failed at {failed.index}.{failed.ordinal}: "
    )
    said += "RuntimeError: as asked (A101)"
    wait_until(lambda: said in running.err.read_text(), "the quarantine is told")
    report = status_of(directory, capsys)
    running.process.terminate()
    assert running.process.wait(DEADLINE_S) == 0

    assert report["quarantined"]["count"] == 1
    assert report["quarantined"]["newest"][0]["key"] == "alice"
    for command in ("status", "stat"):
        assert call([command, str(directory)]) == 0
        assert said in " ".join(capsys.readouterr().out.split())

    again = Run(directory, app="counting:app")
    again.wait_for("Ready on")
    wait_until(lambda: said in again.err.read_text(), "it is told again")
    again.process.terminate()
    assert again.process.wait(DEADLINE_S) == 0


def test_status_of_a_directory_without_a_replica_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["status", str(tmp_path)]) == 1
    assert "holds no replica" in capsys.readouterr().err


def test_watching_goes_on_until_ctrl_c(directory: Path) -> None:
    running = Run(directory)
    running.wait_for("Ready on")
    watching = subprocess.Popen(
        [
            *(sys.executable, "-P", "-m", "leftfold.tools.cli", "status", str(directory)),
            *("--watch", "--json"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    reports = [json.loads(watching.stdout.readline()) for _ in range(2)]
    watching.send_signal(signal.SIGINT)
    _, errors = watching.communicate(timeout=DEADLINE_S)
    running.process.terminate()

    assert running.process.wait(DEADLINE_S) == 0
    assert [report["state"] for report in reports] == ["ready", "ready"]
    assert reports[1]["rates_per_s"].keys() >= {"commands", "entries"}
    assert watching.returncode == 130
    assert errors == ""
