"""`leftfold demo` end to end: real processes, orders, kill -9, and everything gone at the end."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from replica import DEADLINE_S, leavings, wait_until

from leftfold.shm import Counters
from leftfold.tools.cli import call
from leftfold.tools.orderflow import generate, write_csv
from leftfold.tools.status import is_leftfold
from leftfold.tools.traffic import Sent

pytestmark = pytest.mark.xdist_group("serial")


def demo(temporary: Path, *arguments: str) -> subprocess.Popen[str]:
    temporary.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "leftfold.tools.cli", "demo", "--replicas", "1", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
        start_new_session=True,
    )


def test_orders_survive_kill_9_and_everything_is_cleaned_up(tmp_path: Path) -> None:
    temporary = tmp_path / "t"
    process = demo(temporary, "--orders", "1500")
    shown, errors = process.communicate(timeout=2 * DEADLINE_S)

    directory = re.search(r"its log in (\S+)\.\n", shown)
    assert process.returncode == 0, shown + errors
    assert errors == ""
    assert "1500 orders for" in shown
    assert re.search(r"[1-9]\d* trades, 0 rejected", shown)
    assert re.search(r"p50 [\d.]+ ms, p99 [\d.]+ ms, p99.9 [\d.]+ ms", shown)
    assert shown.count("\nsame  ") == 3
    assert "DIFFERENT" not in shown
    assert directory is not None
    assert not Path(directory[1]).exists()
    assert list(temporary.iterdir()) == []
    assert leavings(Path(directory[1])) == []


def test_orders_come_from_a_csv_file_and_the_data_can_be_kept(tmp_path: Path) -> None:
    flow = tmp_path / "flow.csv"
    flow.write_text("".join(write_csv(generate(3, 400))))
    kept = tmp_path / "kept"

    process = demo(tmp_path / "t", "--file", str(flow), "--keep", str(kept))
    shown, errors = process.communicate(timeout=2 * DEADLINE_S)
    logged = subprocess.run(
        [
            *(sys.executable, "-m", "leftfold.tools.cli"),
            *("log", str(kept / "exchange"), "--type", "Limit"),
        ],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )

    assert process.returncode == 0, shown + errors
    assert "400 orders" in shown
    limits = sum(action.action == "add" for action in generate(3, 400))
    assert len(logged.stdout.splitlines()) == limits


def test_ctrl_c_ends_the_demo_and_its_replica(tmp_path: Path) -> None:
    """The signal comes while orders are on their way: nothing of it runs on or lies around."""
    temporary = tmp_path / "t"
    process = demo(temporary, "--orders", "200000", "--keep", str(tmp_path / "kept"))
    replica = tmp_path / "kept" / "exchange" / "replica.json"
    counters = replica.with_name("counters")
    wait_until(lambda: replica.exists() and '"ready"' in replica.read_text(), "the replica serves")
    wait_until(lambda: Counters.read(counters)["consensus"].counters["commands"] > 100, "orders")
    pids = [int(pid) for pid in re.findall(r": (\d+)[,}]", replica.read_text().split("pids")[1])]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == 130
    assert "Traceback" not in errors
    wait_until(lambda: not any(is_leftfold(pid) for pid in pids), "the replica is gone")
    assert leavings(tmp_path / "kept" / "exchange") == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--file", "nowhere.csv"], "Cannot read nowhere.csv"),
        (["--file", "orders.xls"], "neither a .txt"),
    ],
)
def test_what_cannot_be_sent_is_named_before_anything_starts(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    process = demo(tmp_path / "t", *arguments)
    shown, errors = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == 1
    assert shown == ""
    assert said in errors
    assert len(errors.splitlines()) == 1


def test_a_file_without_orders_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_text("".join(list(write_csv(generate(3, 1)))[:1]))

    assert call(["demo", "--file", str(empty)]) == 1
    assert f"There are no orders in {empty}" in capsys.readouterr().err


def test_a_line_that_does_not_parse_is_named_with_its_place(tmp_path: Path) -> None:
    flow = tmp_path / "flow.csv"
    lines = list(write_csv(generate(3, 5)))
    flow.write_text("".join([*lines[:3], lines[3].replace(",", ";"), *lines[4:]]))

    process = demo(tmp_path / "t", "--file", str(flow))
    _, errors = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == 1
    assert f"{flow}, line 4" in errors


def test_percentiles_are_those_of_the_sorted_latencies() -> None:
    sent = Sent(latencies_ns=list(range(1000, 0, -1)))

    assert sent.percentile_ns(50) == 501
    assert sent.percentile_ns(99.9) == 1000


def test_of_three_replicas_the_leader_is_killed_and_nothing_is_lost_or_doubled(
    tmp_path: Path,
) -> None:
    """`leftfold demo` as it is by default."""
    temporary = tmp_path / "t"
    temporary.mkdir()
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "leftfold.tools.cli", "demo", "--orders", "4000"],
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
        timeout=4 * DEADLINE_S,
        check=False,
    )
    shown = ended.stdout

    assert ended.returncode == 0, shown + ended.stderr
    assert re.search(r"kill -9 of replica \d, the leader of term \d+", shown)
    assert re.search(r"The longest time without an answer was \d+ ms", shown)
    assert shown.count("\nsame  ") == 3
    assert "DIFFERENT" not in shown
    assert list(temporary.iterdir()) == []
