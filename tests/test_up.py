"""`leftfold up` and the commands for a running cluster, end to end."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from replica import DEADLINE_S, leavings, wait_until

from leftfold.tools.cli import call
from leftfold.tools.cluster import Layout, free_ports, pids_of
from leftfold.tools.up import state

LEDGER = "leftfold.actors.ledger:app"

pytestmark = pytest.mark.xdist_group("serial")


class Up:
    """`leftfold up --json`, and what it has said."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.said: list[dict[str, Any]] = []
        self.heard = 0
        """How much of it was looked at: what came in one piece may hold what two steps wait for."""
        self.buffer = b""
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "leftfold.tools.cli", "up"),
                *(LEDGER, "--dir", str(directory), "--port", "0"),
                *("--json", "--restart-s", "0.2", "--raft-trace"),
            ],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def until(self, condition: Callable[[dict[str, Any]], Any], what: str) -> dict[str, Any]:
        """Read on, from where the last step found what it waited for, until it has said such a thing."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            while self.heard < len(self.said):
                event = self.said[self.heard]
                self.heard += 1
                if condition(event):
                    return event
            if not select.select([descriptor], [], [], 1.0)[0]:
                continue
            piece = os.read(descriptor, 65536)
            assert piece, f"it ended before {what}: {self.said[-5:]}"
            *lines, self.buffer = (self.buffer + piece).split(b"\n")
            self.said += [json.loads(line) for line in lines]
        raise AssertionError(f"in vain: {what}: {self.said[-5:]}")

    def all_follow(self) -> dict[str, Any]:
        """The state in which one leads and two follow it, with the same log."""

        def settled(event: dict[str, Any]) -> bool:
            if event["event"] != "state":
                return False
            roles = sorted(one["role"] for one in event["replicas"])
            lags = {one["lag"] for one in event["replicas"]}
            return roles == ["follower", "follower", "leader"] and lags == {0}

        return self.until(settled, "one leads and two follow")


@contextmanager
def up(directory: Path) -> Generator[Up]:
    """Ended when the block is left, however it comes."""
    running = Up(directory)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.send_signal(signal.SIGINT)
        running.process.communicate()


def newest_term(state: dict[str, Any]) -> int:
    """The highest that a replica has seen."""
    return max(one["term"] for one in state["replicas"])


def leftfold(*arguments: str) -> str:
    """One command; what it printed."""
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "leftfold.tools.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_a_cluster_in_one_command_and_everything_one_can_do_to_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "cluster"
    with up(directory) as running:
        first = running.all_follow()
        where = ("--dir", str(directory))
        listed = json.loads(leftfold("members", *where, "--json"))
        assert [one["kind"] for one in listed["members"]] == ["voter"] * 3
        # On a machine that stood still for a moment another may lead by now.
        running.until(lambda event: event.get("leader") == listed["leader"], "they agree on it")

        assert call(["up", LEDGER, "--dir", str(directory)]) == 1
        assert "runs already, with replica 1, 2, 3" in capsys.readouterr().err
        assert call(["status", str(directory)]) == 1
        assert f"name one of {directory}/replica-1, " in capsys.readouterr().err

        heir = next(one["id"] for one in first["replicas"] if one["id"] != listed["leader"])
        assert f"Replica {heir} leads" in leftfold("transfer", str(heir), *where)
        led = running.until(
            lambda event: event["event"] == "state" and event["leader"] == heir, "the heir leads"
        )
        heirs_term = newest_term(led)

        leftfold("kill", str(heir), *where)
        running.until(
            lambda event: event.get("replica") == heir and "signal 9" in event["text"], "it died"
        )
        running.until(
            lambda event: event.get("replica") == heir and "is ready" in event["text"], "it is back"
        )
        after = running.all_follow()
        assert newest_term(after) > heirs_term

        assert "goes on" in leftfold("pause", str(after["leader"]), "--seconds", "1", *where)
        running.all_follow()

        layout = Layout.load(directory)
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(DEADLINE_S) == 0
        assert not any(pids_of(place) for place in layout.places.values())
        assert [leavings(place.directory) for place in layout.places.values()] == [[], [], []]
        assert not any(one["alive"] for one in state(layout)["replicas"])
        for place in layout.places.values():
            trace = (place.directory / "raft-trace.jsonl").read_text()
            assert json.loads(trace.partition("\n")[0])["what"] == "start"

    with up(directory) as again:
        assert again.all_follow()["commit"] >= after["commit"]
        again.process.terminate()
        assert again.process.wait(DEADLINE_S) == 0
        assert not any(pids_of(place) for place in layout.places.values())


def test_a_new_cluster_on_a_port_in_use_is_a_sentence_and_nothing_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (port,) = free_ports("127.0.0.3", 1)
    with socket.create_server(("127.0.0.3", port)):
        assert call(["up", LEDGER, "--dir", str(tmp_path / "new"), "--port", str(port)]) == 1

    assert f"Port {port} on 127.0.0.3 is in use" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_replica_joins_a_running_cluster_with_one_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And leaves it again by another one: then it stops with a sentence. Where it cannot serve, it costs the cluster no id."""
    directory = tmp_path / "cluster"
    with up(directory) as running:
        running.all_follow()
        layout = Layout.load(directory)
        place = layout.add(4, 0)
        host, port = layout.addresses[0]
        with socket.create_server((place.host, 0)) as taken:
            port_taken = str(taken.getsockname()[1])
            where = ("--dir", str(place.directory), "--peer-address", place.peer_address)
            assert call(["join", f"{host}:{port}", *where, "--port", port_taken]) == 1
        assert "is in use by another program" in capsys.readouterr().err
        assert not place.directory.exists()
        joining = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "leftfold.tools.cli", "join", f"{host}:{port}"),
                *("--dir", str(place.directory), "--peer-address", place.peer_address),
                *("--port", "0", f"--end-with={os.getpid()}"),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        where = ("--dir", str(directory))

        def kinds() -> dict[int, str]:
            found = json.loads(leftfold("members", *where, "--json"))
            return {one["id"]: one["kind"] for one in found["members"]}

        wait_until(lambda: kinds().get(4) == "voter", "the new one counts")
        leftfold("members", "remove", "4", *where)
        assert 4 not in kinds()
        _, errors = joining.communicate(timeout=DEADLINE_S)
        assert joining.returncode == 1
        assert "Replica 4 is no member of the cluster any more" in errors
