"""`leftfold stat` and `leftfold top` of a real replica under load, of a killed one, and where they can show nothing."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
from replica import DEADLINE_S, RunningReplica, replica, wait_until

from leftfold.runtime.recording import DOORBELL, VARIABLE
from leftfold.runtime.topology import PROCESSES
from leftfold.tools import load
from leftfold.tools.cli import call

pytestmark = pytest.mark.xdist_group("serial")

LEDGER = "leftfold.actors.ledger:app"
ROWS, COLUMNS = 70, 160
HOPS = ("sequenced", "journalled", "committed", "applied")
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@contextlib.contextmanager
def under_load(running: RunningReplica) -> Generator[None]:
    """Transfers without end, until the block is left."""
    enough = threading.Event()
    port = running.port
    load.prepare("127.0.0.1", port)

    def send() -> None:
        while not enough.is_set():
            load.throughput("127.0.0.1", port, commands=4_000, sessions=4, prepared=True)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        enough.set()
        sender.join(DEADLINE_S)
        assert not sender.is_alive()


def stat_of(directory: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    """Run `leftfold stat --json`."""
    capsys.readouterr()
    assert call(["stat", str(directory), "--json", *options]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


class Terminal:
    """A command in a pseudo-terminal, and the picture that it shows."""

    def __init__(self, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "leftfold.tools.cli", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "", "LINES": ""},
            start_new_session=True,
        )
        os.close(slave)
        self.received = ""

    def read(self) -> None:
        """Take what has come."""
        while select.select([self.master], [], [], 0.05)[0]:
            try:
                piece = os.read(self.master, 65536)
            except OSError:  # The other side is closed.
                return
            if not piece:
                return
            self.received += piece.decode(errors="replace")

    def picture(self) -> str:
        """The last whole picture, without colours: each begins at the top left corner."""
        self.read()
        pictures = self.received.split("\x1b[H")
        return ESCAPE.sub("", pictures[-2] if len(pictures) > 2 else "")

    def press(self, key: bytes) -> None:
        """Press a key."""
        os.write(self.master, key)

    def end(self) -> int:
        """Its exit code."""

        def ended() -> bool:
            self.read()
            return self.process.poll() is not None

        wait_until(ended, "top ends")
        os.close(self.master)
        return self.process.returncode


def has_slept_twice(process: dict[str, Any]) -> bool:
    """Whether its bell has something to say."""
    return process["doorbell"]["parks"] > 1 and process["awake_percent"] is not None


def row_of(picture: str, *start: str) -> list[str]:
    """The first line that begins with these words, split into words."""
    for line in picture.splitlines():
        words = line.split()
        if words[: len(start)] == list(start):
            return words[len(start) :]
    return []


def test_stat_has_every_figure_of_a_replica_under_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with replica(tmp_path / "replica", LEDGER) as running, under_load(running):

        def complete() -> dict[str, Any] | None:
            # At first the journal fills segments ahead, and does not sleep.
            found = stat_of(running.directory, capsys, "--seconds", "0.5")
            return found if all(map(has_slept_twice, found["processes"].values())) else None

        found = wait_until(complete, "every process sleeps now and then")

    assert found["alive"]
    assert found["state"] == "ready"
    assert found["processes"].keys() == set(PROCESSES)
    for process in found["processes"].values():
        assert process["cpu_percent"] is not None
        assert process["doorbell"].keys() == set(DOORBELL)
    # What belongs together can be compared once nobody writes it any more.
    for process in stat_of(tmp_path / "replica", capsys)["processes"].values():
        assert process["doorbell"]["waits"] >= process["doorbell"]["parks"]
        awake, parked = (process["histograms"][f"{name}_ns"] for name in ("awake", "parked"))
        assert abs(awake["count"] - parked["count"]) <= 1
        assert abs(parked["count"] - process["doorbell"]["parks"]) <= 1
    consensus = found["processes"]["consensus"]
    assert consensus["rates_per_s"]["commands"] > 0
    assert consensus["counters"]["commands"] > 1_000
    for hop in found["hops"]:
        for part in (hop["wait_ns"], hop["service_ns"]):
            if part is not None:
                assert 0 < part["p50"] <= part["p99"] <= part["p999"] <= part["max"]
                assert part["window"]["count"] <= part["count"]
    assert sum(hop["wait_ns"] is not None for hop in found["hops"]) == 5
    rings = {ring["name"]: ring for ring in found["rings"]}
    assert rings["apply"]["batch_bytes"]["max"] > 0
    assert 0 < rings["ingress"]["fill_bytes"]["max"] <= rings["ingress"]["capacity_bytes"]
    assert found["whole"]["sequenced to durable"]["p50"] > 0
    assert found["whole"]["in to out"]["count"] > 0


def test_a_command_in_flight_alone_spends_no_longer_in_its_hops_than_altogether(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with replica(tmp_path / "replica", LEDGER) as running:
        load.latency("127.0.0.1", running.port, commands=200)
        found = stat_of(running.directory, capsys, "--seconds", "0.1")

    hops = {hop["name"]: hop for hop in found["hops"]}
    journalled = hops["journalled"]
    parts = journalled["wait_ns"]["mean"] + journalled["service_ns"]["mean"]
    fsync = found["processes"]["journal"]["histograms"]["fsync_ns"]
    synced_ns = fsync["mean"] * fsync["count"]  # A batch of which nothing is written syncs nothing.
    assert synced_ns <= journalled["service_ns"]["mean"] * journalled["service_ns"]["count"]
    assert parts > 0
    assert hops["applied"]["wait_ns"]["count"] >= 200, "one in flight: each entry is followed"


def test_stat_and_top_read_a_killed_replica_and_say_that_it_is_dead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with replica(tmp_path / "replica", LEDGER) as running:
        load.throughput("127.0.0.1", running.port, commands=2_000, sessions=2)
        running.kill("supervisor")
    found = stat_of(running.directory, capsys)

    assert not found["alive"]
    assert found["state"] == "dead (it was ready)"
    assert found["window_s"] == 0
    assert found["processes"]["consensus"]["counters"]["commands"] >= 2_000
    assert found["processes"]["journal"]["histograms"]["fsync_ns"]["p99"] > 0
    assert all(not process["alive"] for process in found["processes"].values())
    calls = {one["message"]: one["calls"] for one in found["handlers"]}
    assert calls == {"Transfer": 2_000, "Deposit": 1_000}
    assert sum(one["share"] for one in found["handlers"]) == pytest.approx(1)
    assert call(["stat", str(running.directory)]) == 0
    shown = capsys.readouterr().out
    assert f"in {running.directory}: dead (it was ready); these are" in shown
    (hops,) = (line for line in shown.splitlines() if line.startswith("hop "))
    assert hops.split().count("p99.9") == 2, "without a terminal no line is broken"
    assert row_of(shown, "journalled", "journal")[-1] in ("ms", "µs", "s")
    terminal = Terminal("top", str(running.directory), "--interval", "0.1")
    picture = wait_until(terminal.picture, "a picture")
    assert "dead (it was ready)" in picture
    assert "(gone)" in picture
    assert int(row_of(picture, "fsync", "journal")[0].replace(",", "")) > 0
    terminal.press(b"q")
    assert terminal.end() == 0


def test_top_shows_a_replica_under_load_until_q(tmp_path: Path) -> None:
    with replica(tmp_path / "replica", LEDGER) as running, under_load(running):
        terminal = Terminal("top", str(running.directory), "--interval", "0.5")

        def lively() -> str | None:
            picture = terminal.picture()
            applied = row_of(picture, "applied", "logic")
            handler = row_of(picture, "Ledger.transfer", "Transfer")
            rates = re.search(r"[1-9][\d,]* commands/s", picture)
            hops = [row_of(picture, hop) for hop in HOPS]
            counted = all(hop and hop[1] != "0" for hop in hops)
            return picture if rates and applied and counted and handler else None

        picture = wait_until(lively, "top shows what the load does")
        assert terminal.process.poll() is None
        pids = running.status()["pids"]
        terminal.press(b"x")
        terminal.press(b"q")
        code = terminal.end()

    assert code == 0
    assert f"{LEDGER} in {running.directory}: ready" in picture
    for process in PROCESSES:
        assert row_of(picture, process)[0] == str(pids[process])
        assert "%" in row_of(picture, process)[1:3]
    for hop in HOPS:
        words = row_of(picture, hop)
        assert int(words[1].replace(",", "")) > 0
        assert {"µs", "ms"} & set(words)
    for ring in ("ingress", "persist", "apply", "egress"):
        assert row_of(picture, ring)[1] == "→"
    assert terminal.received.endswith("\x1b[?25h") or "\x1b[?1049l" in terminal.received


def test_top_without_a_terminal_or_a_replica_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["top", str(tmp_path)]) == 1
    assert "holds no replica" in capsys.readouterr().err
    with replica(tmp_path / "replica", LEDGER) as running:
        assert call(["top", str(running.directory)]) == 1
        assert "top needs a terminal" in capsys.readouterr().err


def test_the_histograms_of_a_replica_go_to_a_file_that_hdrhistogram_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "replica.hlog"
    with replica(tmp_path / "replica", LEDGER) as running:
        load.throughput("127.0.0.1", running.port, commands=2_000, sessions=2)
        running.kill("supervisor")
    found = stat_of(running.directory, capsys, "--hdr", str(log))
    reader = HistogramLogReader(str(log), HdrHistogram(1, 2**43, 2))
    decoded = {}
    while (histogram := reader.get_next_interval_histogram()) is not None:
        decoded[histogram.get_tag()] = histogram
    reader.close()

    for name in PROCESSES:
        for figure, expected in found["processes"][name]["histograms"].items():
            if not expected["count"]:
                assert f"{name}.{figure}" not in decoded
                continue
            read = decoded[f"{name}.{figure}"]
            assert read.get_total_count() == expected["count"]
            for part, percent in (("p50", 50), ("p90", 90), ("p99", 99)):
                value = min(expected["max"], read.get_value_at_percentile(percent))
                assert value == pytest.approx(expected[part], rel=1 / 32)
    assert "journal.fsync_ns" in decoded


def test_what_is_switched_off_stays_at_zero(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "off")
    with replica(tmp_path / "replica", LEDGER) as running:
        load.throughput("127.0.0.1", running.port, commands=1_000, sessions=2)
        found = stat_of(running.directory, capsys, "--seconds", "0.1")

    assert found["processes"]["consensus"]["counters"]["commands"] >= 1_000
    assert all(hop["service_ns"]["count"] == 0 for hop in found["hops"])
    assert all(process["doorbell"]["waits"] == 0 for process in found["processes"].values())
