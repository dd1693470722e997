"""A whole replica with real processes: what it promises to its clients and to the person who runs it.

Every replica here is a supervisor with its four processes, in a directory of its own. Clients check every answer (see
asking.py); processes are ended with kill -9, and nothing is waited for but conditions. The long campaigns are in
test_replica_campaign.py.
"""

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from asking import (
    ADD,
    ADD_LATER,
    DAWDLE,
    EXIT,
    FAIL,
    Asker,
    askers,
    line,
    make_progress,
    port_of,
    total_of,
)
from replica import DEADLINE_S, RunningReplica, figure, leavings, refusal, replica, wait_until

from leftfold.actors.layout import Status
from leftfold.runtime import frames
from leftfold.runtime.config import TransportLimits
from leftfold.runtime.topology import PROCESSES
from leftfold.tools.history import open_history

pytestmark = pytest.mark.xdist_group("serial")

YEAR_S = 365 * 86_400.0


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Where the replica of a test lives; afterwards nothing of it may be left in memory."""
    place = tmp_path / "replica"
    yield place
    assert leavings(place) == []
    assert processes_of(place) == []


def processes_of(directory: Path) -> list[int]:
    """The processes of a replica that still run; each has the directory in its title."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            title = (entry / "cmdline").read_bytes() if entry.name.isdecimal() else b""
            if title.startswith(b"leftfold: ") and os.fsencode(directory) in title:
                found.append(int(entry.name))
    return found


def finished(working: list[Asker]) -> None:
    """Every client has every answer, and each was right."""
    for asker in working:
        asker.finish()


# Answers


def test_a_command_is_answered_once_and_alike_also_after_restarts(directory: Path) -> None:
    """Durable, and its answer too: for as long as the client does not say that it has it."""
    with replica(directory) as running, line(running) as client:
        first = client.ask(1, ADD, amount=5)
        assert total_of(first) == {"value": 5, "commands": 1}
        assert client.ask(1, ADD, amount=5) == first
        assert client.read() == {"value": 5, "commands": 1}
        with line(running, client.session) as other:
            # A client that lost a connection without knowing it gets its answers on the next.
            assert isinstance(other.opened, frames.Reply) and other.opened.last_request == 1
            assert other.ask(1, ADD, amount=5) == first
        running.kill("logic")
        running.wait_for("ready", generation=2)
        with line(running, client.session) as second:
            assert second.ask(1, ADD, amount=5) == first
        client.close()
        assert running.stop() == 0

    with replica(directory) as running, line(running, client.session) as third:
        assert isinstance(third.opened, frames.Reply) and third.opened.last_request == 1
        assert third.ask(1, ADD, amount=5) == first
        assert third.read() == {"value": 5, "commands": 1}
        assert total_of(third.ask(2, ADD, amount=1)) == {"value": 6, "commands": 2}
        assert third.ask(1, ADD, amount=5).status == Status.ANSWER_FORGOTTEN
        assert third.read() == {"value": 6, "commands": 2}


# Deaths


@pytest.mark.parametrize("process", PROCESSES)
def test_a_killed_process_costs_no_answer(directory: Path, process: str) -> None:
    """All four start again by themselves; every answer is right, once, and nothing is lost."""
    with replica(directory) as running, askers(lambda: port_of(directory)) as working:
        make_progress(working)
        old = {name: running.pid(name) for name in PROCESSES}
        running.kill(process)
        status = running.wait_for("ready", generation=2)
        assert not set(old.values()) & {status["pids"][name] for name in PROCESSES}
        make_progress(working)
        finished(working)
        for asker in working:
            with line(running) as client:
                assert client.read(asker.key) == {"value": asker.total, "commands": asker.asked}
        assert [death["process"] for death in running.events("died")] == [process]
        client.close()
        assert running.stop() == 0


def test_a_killed_supervisor_takes_all_with_it_and_the_next_start_recovers(directory: Path) -> None:
    with askers(lambda: port_of(directory)) as working:
        with replica(directory) as running:
            make_progress(working)
            running.kill("supervisor")
            wait_until(lambda: not processes_of(directory), "the four end with their supervisor")
            assert running.process.wait(DEADLINE_S) == -signal.SIGKILL
            assert leavings(directory) == []
        with replica(directory) as running:
            make_progress(working)
            finished(working)
            assert running.stop() == 0
    applied = {asker.key: asker.total for asker in working}
    with replica(directory) as running, line(running) as client:
        assert {key: client.read(key)["value"] for key in applied} == applied


def test_a_supervisor_killed_while_it_starts_leaves_nothing_behind_the_next_start(
    directory: Path,
) -> None:
    """Then the shared memory still has its names: the next start removes them."""
    seen = False
    while not seen:  # Names that are there for a moment: again, should it have passed unseen.
        starting = RunningReplica(directory, "counting:app")
        wait_until(
            lambda running=starting: leavings(directory) or running.events("ready"),
            "the shared memory has names",
        )
        starting.process.kill()
        starting.end()
        seen = bool(leavings(directory))
    wait_until(lambda: not processes_of(directory), "the four end with their supervisor")
    with replica(directory) as running, line(running) as client:
        assert leavings(directory) == []
        assert total_of(client.ask(1, ADD, amount=1))["value"] == 1
        client.close()
        assert running.stop() == 0


# Stopping


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains(directory: Path, number: signal.Signals) -> None:
    """What was taken in is answered, what was not is not applied, and the exit code is 0."""
    answered = 0
    with replica(directory) as running, line(running) as client:
        client.send(
            b"".join(
                frames.command(ADD, client.session, request, request, b"a", b"\x81\xa6amount\x01")
                for request in range(1, 3001)
            )
        )
        running.process.send_signal(number)
        with contextlib.suppress(ConnectionError):
            while True:
                frame = client.receive()
                if isinstance(frame, frames.Reply):
                    answered += 1
                    assert frame.request == answered
                    assert total_of(frame)["value"] == answered
        assert running.process.wait(DEADLINE_S) == 0
        assert running.status()["state"] == "stopped"

    with replica(directory) as running, line(running, client.session) as again:
        assert isinstance(again.opened, frames.Reply)
        assert again.opened.last_request == answered


def test_a_second_signal_stops_at_once(directory: Path) -> None:
    """A handler that takes an hour keeps the drain waiting, but not the second signal."""
    with replica(directory, drain_s=3600.0) as running, line(running) as client:
        client.ask(1, ADD, amount=1)
        client.command(2, DAWDLE, "a", seconds=3600.0)
        wait_until(lambda: running.events("overrun"), "the handler runs")
        running.process.send_signal(signal.SIGTERM)
        running.wait_for("draining")
        assert running.process.poll() is None
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(DEADLINE_S) == 0


def test_a_signal_during_the_start_stops_without_a_drain(directory: Path) -> None:
    """Nobody was served yet, so there is nothing to finish, however long the drain may take."""
    with replica(directory, drain_s=3600.0) as running, line(running) as client:
        client.command(1, DAWDLE, "a", seconds=3600.0)
        wait_until(lambda: running.events("overrun"), "the handler runs")
        running.kill("logic")
        wait_until(lambda: running.status()["generation"] == 2, "the second generation starts")
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(DEADLINE_S) == 0


# Starts that are refused


def test_a_second_start_in_the_same_directory_is_refused(directory: Path) -> None:
    with replica(directory) as running, line(running) as client:
        client.ask(1, ADD, amount=1)
        sentence = refusal(directory)
        assert f"in use by pid {running.process.pid}" in sentence
        assert running.status()["state"] == "ready"
        assert total_of(client.ask(2, ADD, amount=1))["value"] == 2


def test_a_start_that_cannot_be_is_one_sentence_and_costs_nothing(
    directory: Path, tmp_path: Path
) -> None:
    """A port in use, an unknown module, the directory of another app."""
    with replica(directory) as running, line(running) as client:
        client.ask(1, ADD, amount=1)
        client.close()
        assert running.stop() == 0

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sentence = refusal(directory, port=port)
    assert f"Port {port}" in sentence and "--port" in sentence

    sentence = refusal(directory, app_directory=str(tmp_path))
    assert "no module counting" in sentence

    sentence = refusal(directory, app="leftfold.actors.ledger:app")
    assert "counting:app" in sentence and "leftfold.actors.ledger:app" in sentence

    with replica(directory) as running, line(running) as client:
        assert client.read()["value"] == 1


def test_an_unwritable_directory_is_named() -> None:
    """Also root is kept out when it becomes nobody first."""
    place = Path(tempfile.mkdtemp())
    try:
        directory = place / "replica"
        directory.mkdir(mode=0o555)
        place.chmod(0o755)
        as_nobody: list[str] = []
        if os.geteuid() == 0:
            setpriv = shutil.which("setpriv")
            if setpriv is None:
                pytest.skip("root may write everywhere, and there is no setpriv to become nobody")
            nobody = pwd.getpwnam("nobody")
            as_nobody = [
                setpriv,
                f"--reuid={nobody.pw_uid}",
                f"--regid={nobody.pw_gid}",
                "--clear-groups",
            ]
            probe = [*as_nobody, sys.executable, "-c", "import leftfold.runtime.supervisor"]
            if subprocess.run(probe, capture_output=True, check=False).returncode:
                pytest.skip("nobody may not read this installation")
        from replica import RUNNER

        config = RunningReplica.configured(directory, "counting:app")
        ended = subprocess.run(
            [*as_nobody, sys.executable, "-c", RUNNER, config.to_json()],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
            cwd="/",
        )
        assert ended.returncode == 1
        assert ended.stderr.count("\n") == 1 and str(directory) in ended.stderr
        assert "Permission denied" in ended.stderr
        assert list(directory.iterdir()) == []
    finally:
        shutil.rmtree(place)


def test_a_wall_clock_a_year_off_turns_no_time_back_and_makes_no_leap_unasked(
    directory: Path,
) -> None:
    """A year behind: served. A year ahead: refused until it is accepted. The session lives on through all."""
    with replica(directory) as running, line(running) as client:
        client.ask(1, ADD, amount=1)
        client.close()
        assert running.stop() == 0
    before = log_times(directory)
    sentence = refusal(directory, wall_offset_s=YEAR_S)
    assert "365 days ahead" in sentence and "--accept-clock-step" in sentence
    assert log_times(directory) == before

    ahead = {"wall_offset_s": YEAR_S, "accept_clock_step": True}
    for request, config in enumerate(({"wall_offset_s": -YEAR_S}, ahead, {}), 2):
        with (
            replica(directory, **config) as running,
            line(running, client.session) as client,
        ):
            assert total_of(client.ask(request, ADD, amount=1))["value"] == request
            client.close()
            assert running.stop() == 0
    times = log_times(directory)
    assert times == sorted(times)
    assert times[-1] - before[-1] > 0.99 * YEAR_S * 1e9


def log_times(directory: Path) -> list[int]:
    """The log time of every entry."""
    history = open_history(directory)
    return [header.time_ns for header, _ in history.entries(history.first, history.last)]


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of eight mebibytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk needs the right to mount")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_pushes_back_and_loses_nothing(small_disk: Path) -> None:
    """Somebody else fills the disk: commands are refused, queries answered; with room it serves again by itself."""
    limits = attrs.evolve(TransportLimits.smallest(), segment_bytes=2 * 1024 * 1024)
    with askers(lambda: port_of(small_disk)) as working:
        with replica(small_disk, limits=limits) as running, line(running) as client:
            make_progress(working)
            filler = small_disk / "somebody-elses"
            # At once: whoever is slower than the log grows meets its end before commands are refused.
            with contextlib.suppress(OSError), filler.open("wb") as file:
                room = os.statvfs(small_disk)
                with contextlib.suppress(OSError):
                    os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize)
                file.seek(0, os.SEEK_END)
                while True:
                    file.write(bytes(64 * 1024))
            wait_until(
                lambda: figure(small_disk, "consensus", "refused") > 0, "commands are refused"
            )
            assert client.read(working[0].key)["commands"] > 0
            assert running.status()["state"] == "ready"
            warning = wait_until(lambda: running.events("warning"), "it is said")[0]["sentence"]
            assert "nearly full" in warning and "Free some space" in warning
            filler.unlink()
            make_progress(working)
            finished(working)
            client.close()
            assert running.stop() == 0
        with replica(small_disk, limits=limits) as running, line(running) as client:
            for asker in working:
                assert client.read(asker.key) == {"value": asker.total, "commands": asker.asked}
    assert leavings(small_disk) == []


# Commands that misbehave


def test_a_command_that_ends_logic_parks_until_it_is_skipped(directory: Path) -> None:
    with replica(directory) as running, line(running) as client:
        client.ask(1, ADD, amount=1)
        client.command(2, EXIT, "a")
        assert running.process.wait(DEADLINE_S) == 3
        record = json.loads((directory / "replica.json").read_text())
        assert record["state"] == "parked"
        assert len(running.events("died")) == 3
    history = open_history(directory)
    place = (next(of for of in reversed(range(history.last + 1)) if holds(directory, of, EXIT)), 0)
    where = f"{place[0]}.{place[1]}"
    assert where in record["error"] and f"message {EXIT}" in record["error"]
    sentence = refusal(directory)
    assert sentence == record["error"]
    assert f"--skip {where}" in sentence and "--retry" in sentence

    with (
        replica(directory, skip=(place,)) as running,
        line(running, client.session) as client,
    ):
        skipped = client.ask(2, EXIT)
        assert skipped.status == Status.SKIPPED
        assert total_of(client.ask(3, ADD, unanswered=2, amount=1)) == {"value": 2, "commands": 2}
        running.kill("logic")
        running.wait_for("ready", generation=running.status()["generation"] + 1)
        client.close()
        assert running.stop() == 0
    with replica(directory) as running, line(running, client.session) as client:
        assert client.ask(2, EXIT) == skipped
        assert client.read() == {"value": 2, "commands": 2}
        client.close()
        assert running.stop() == 0


def holds(directory: Path, index: int, message: int) -> bool:
    """Whether an entry's first slot is a command of this message."""
    return any(
        header.kind == 0
        and int.from_bytes(body[4:6], "little") == 3
        and int.from_bytes(body[6:8], "little") == message
        for header, body in open_history(directory).entries(index, index)
    )


def test_a_handler_over_its_budget_is_named_with_its_stack(directory: Path) -> None:
    with replica(directory, handler_budget_ms=100) as running, line(running) as client:
        client.ask(1, ADD, amount=1)
        client.command(2, DAWDLE, "a", seconds=1.0)
        overruns = wait_until(lambda: running.events("overrun"), "the overrun is told")
        slow = client.receive()
        assert isinstance(slow, frames.Reply) and slow.status == Status.OK
        assert len(overruns) == 1
        assert (overruns[0]["index"], overruns[0]["ordinal"]) == (slow.index, slow.ordinal)
        assert overruns[0]["message"] == DAWDLE
        assert "in dawdle" in overruns[0]["stack"]
        assert running.events("died") == []


def test_an_endless_handler_is_named_when_the_replay_meets_it(directory: Path) -> None:
    """It was in the log before it ran, so every start meets it again before anybody is served."""
    with replica(directory, handler_budget_ms=100) as running, line(running) as client:
        client.command(1, DAWDLE, "a", seconds=3600.0)
        wait_until(lambda: running.events("overrun"), "the handler runs")

    again = RunningReplica(directory, "counting:app", handler_budget_ms=100)
    try:
        # The second one in the log: the first was told by the start before.
        told = wait_until(lambda: again.events("overrun")[1:], "the replay is told to be stuck")
        assert told[0]["replaying"]
        assert told[0]["message"] == DAWDLE
        assert "in dawdle" in told[0]["stack"]
        assert again.stop() == 0
    finally:
        again.end()

    skip = ((told[0]["index"], told[0]["ordinal"]),)
    with replica(directory, skip=skip) as running, line(running) as client:
        assert total_of(client.ask(1, ADD, "b", amount=1))["value"] == 1


def test_a_handler_that_raises_quarantines_its_actor_for_good(directory: Path) -> None:
    with replica(directory) as running, line(running) as client:
        client.ask(1, ADD, "a", amount=1)
        failed = client.ask(2, FAIL, "a")
        assert failed.status == Status.FAILED
        assert client.ask(3, ADD, "a", amount=1).status == Status.QUARANTINED
        assert total_of(client.ask(4, ADD, "b", amount=1))["value"] == 1
        assert running.events("died") == []
        running.kill("consensus")
        running.wait_for("ready", generation=2)
        with line(running, client.session) as again:
            assert again.ask(5, ADD, "a", amount=1).status == Status.QUARANTINED
            assert total_of(again.ask(6, ADD, "b", amount=1))["value"] == 2


# Time


def test_a_timer_fires_on_a_silent_replica(directory: Path) -> None:
    with replica(directory) as running, line(running) as client:
        set_at = client.ask(1, ADD_LATER, amount=5, delay_ns=300_000_000).index
        wait_until(
            lambda: figure(directory, "logic", "applied_index") > set_at, "the timer's entry comes"
        )
        assert client.read() == {"value": 5, "commands": 0}


def test_a_timer_is_due_after_a_restart_too(directory: Path) -> None:
    with replica(directory) as running, line(running) as client:
        client.ask(1, ADD_LATER, amount=5, delay_ns=2_000_000_000)
        running.kill("gateway")
        running.wait_for("ready", generation=2)
        with line(running) as again:
            wait_until(lambda: again.read()["value"] == 5, "the timer fires")


def test_an_idle_replica_writes_nothing(directory: Path) -> None:
    with replica(directory) as running, line(running) as client:
        before = client.ask(1, ADD, amount=1).index
        wait_until(
            lambda: figure(directory, "journal", "durable_index") >= before, "the journal is quiet"
        )
        turns = figure(directory, "gateway", "turns")
        batches = figure(directory, "journal", "batches")
        # Each idle turn of the gateway takes a tenth of a second, two ticks of Raft.
        wait_until(lambda: figure(directory, "gateway", "turns") > turns + 15, "some time goes by")
        assert figure(directory, "journal", "batches") - batches <= 1
        assert client.read()["value"] == 1
        assert client.ask(2, ADD, amount=1).index == before + 1
