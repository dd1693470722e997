"""The Prometheus endpoint: a real replica's figures, scraped over HTTP and parsed by prometheus-client."""

import subprocess
import sys
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from replica import DEADLINE_S, replica, wait_until
from test_top import LEDGER

from leftfold.runtime.topology import PROCESSES
from leftfold.shm import Counters, Schema
from leftfold.tools import load
from leftfold.tools.cli import call
from leftfold.tools.metrics import NS_BITS, buckets_of

pytestmark = pytest.mark.xdist_group("serial")

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@contextmanager
def endpoint(directory: Path) -> Generator[str]:
    """Serve the metrics of a directory; the address. It ends with code 0 at SIGTERM."""
    serving = subprocess.Popen(
        [sys.executable, "-m", "leftfold.tools.cli", "metrics", str(directory), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert serving.stdout is not None
    try:
        yield serving.stdout.readline().strip()
    finally:
        serving.terminate()
        code = serving.wait(DEADLINE_S)
        serving.stdout.close()
    assert code == 0


def scrape(address: str) -> Samples:
    """All samples, by name and labels."""
    with urllib.request.urlopen(address, timeout=DEADLINE_S) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_scrape_says_what_the_counters_say_alive_and_dead(tmp_path: Path) -> None:
    (tmp_path / "replica").mkdir()
    with endpoint(tmp_path / "replica") as address:
        assert scrape(address) == {("leftfold_up", ()): 0.0}
        with replica(tmp_path / "replica", LEDGER) as running:
            load.throughput("127.0.0.1", running.port, commands=2_000, sessions=2)
            # The load closes its sessions, those that prepared it included, and does not wait for that.
            came = 2_000 + load.ACCOUNTS + 2 * (8 + 2)
            figures = tmp_path / "replica" / "counters"
            wait_until(
                lambda: Counters.read(figures)["consensus"].counters["commands"] == came,
                "the last session is closed",
            )
            alive = scrape(address)
            running.kill("supervisor")
        roles = Counters.read(tmp_path / "replica" / "counters")
        dead = scrape(address)

    assert alive["leftfold_up", ()] == 1.0
    assert dead["leftfold_up", ()] == 0.0
    commands = roles["consensus"].counters["commands"]
    assert alive["leftfold_consensus_commands_total", ()] == commands == came
    assert dead["leftfold_consensus_commands_total", ()] == commands
    assert alive["leftfold_consensus_commit_index", ()] > 0
    fsync = roles["journal"].histograms["fsync_ns"]
    assert 0 < alive["leftfold_journal_fsync_seconds_count", ()] <= fsync.count
    assert dead["leftfold_journal_fsync_seconds_count", ()] == fsync.count
    assert dead["leftfold_journal_fsync_seconds_sum", ()] == pytest.approx(fsync.sum / 1e9)
    handler = (("actor", "Ledger"), ("handler", "Ledger.transfer"), ("message", "Transfer"))
    assert alive["leftfold_handler_calls_total", handler] == 2_000
    assert 0 < dead["leftfold_handler_seconds_total", handler] < 60
    for process in PROCESSES:
        assert alive["leftfold_cpu_seconds_total", (("process", process),)] > 0
        assert alive["leftfold_doorbell_total", (("process", process), ("what", "waits"))] >= 0
    assert not any(name == "leftfold_cpu_seconds_total" for name, _ in dead)


def test_buckets_are_cumulative_and_exact_at_powers_of_two(tmp_path: Path) -> None:
    Counters.create(tmp_path / "counters", {"role": Schema(histograms=("ns",))})
    values = [1, 1023, 1024, 2047, 2048, 5_000_000, 2**34 - 1, 2**34, 2**50]
    with Counters.attach(tmp_path / "counters", "role") as counters:
        for value in values:
            counters.histograms["ns"].record(value)
        found = buckets_of(counters.histograms["ns"].snapshot(), NS_BITS, 1)

    assert found[-1] == ("+Inf", len(values))
    for bit, (_, below) in zip(NS_BITS, found, strict=False):
        assert below == sum(value < 1 << bit for value in values)


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_a_directory_that_is_not_there_is_a_sentence(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()

    assert call(["metrics", str(tmp_path / name), "--port", "0"]) == 1

    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"There is no directory {tmp_path / name}" in shown.err
    assert shown.err.count("\n") == 1


def test_a_taken_port_and_a_missing_package_are_sentences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with endpoint(tmp_path) as address:
        port = address.split(":")[2].split("/")[0]
        assert call(["metrics", str(tmp_path), "--port", port]) == 1
    assert "--port" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert call(["metrics", str(tmp_path), "--port", "0"]) == 1

    assert "leftfold[prometheus]" in capsys.readouterr().err
