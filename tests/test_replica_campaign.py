"""The whole replica in long trouble: every process halted with every ring full, the power cut, fsync failing,
a hundred deaths, and a real order flow. Seeds are printed; LEFTFOLD_SEED replays a choice of moments.
"""

import os
import random
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest
from asking import ADD, Asker, askers, check_totals, line, port_of, total_of
from disks import cut_power, failing_calls, loop_disk, mounted
from domain_logs import PITCH, PITCH_ABSENT
from replica import RunningReplica, leavings, replica, wait_until

from leftfold.actors import exchange
from leftfold.actors.layout import Status
from leftfold.actors.machine import Outputs
from leftfold.runtime import frames, slots
from leftfold.runtime.config import TransportLimits
from leftfold.runtime.topology import PROCESSES
from leftfold.shm import Counters
from leftfold.tools import bench_recovery, fold
from leftfold.tools.history import open_history
from leftfold.tools.orderflow import read_pitch, to_command

pytestmark = [pytest.mark.campaign, pytest.mark.xdist_group("serial")]

FIVE = ("supervisor", *PROCESSES)
HALT_S = 10.0
DISK_BYTES = 96 * 1024 * 1024
SMALL = attrs.evolve(TransportLimits.smallest(), segment_bytes=2 * 1024 * 1024)


@pytest.fixture
def rng() -> random.Random:
    """Seeded; the seed is printed with a failure."""
    seed = int(os.environ.get("LEFTFOLD_SEED") or random.randrange(2**32))
    print(f"LEFTFOLD_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Where the replica lives; nothing of it may be left in memory."""
    yield tmp_path / "replica"
    assert leavings(tmp_path / "replica") == []


def make_progress(working: Sequence[Asker], answers: int) -> None:
    """Wait until all clients together have this many answers more."""

    def answered() -> int:
        for asker in working:
            if asker.failure is not None:
                raise asker.failure
        return sum(asker.answered for asker in working)

    goal = answered() + answers
    wait_until(lambda: answered() >= goal, f"{answers} answers more")


def halt(running: RunningReplica) -> None:
    """SIGSTOP to all five, the supervisor first."""
    for process in FIVE:
        os.kill(running.pid(process), signal.SIGSTOP)


# Full rings


@pytest.mark.parametrize("process", FIVE)
def test_a_halted_process_with_full_rings_costs_no_answer(directory: Path, process: str) -> None:
    """I12: whoever stands still for ten seconds under load, afterwards all drains and every answer is right."""
    with (
        replica(directory, limits=TransportLimits.smallest()) as running,
        askers(lambda: port_of(directory), count=8, window=256) as working,
    ):
        make_progress(working, 1000)
        os.kill(running.pid(process), signal.SIGSTOP)
        threading.Event().wait(HALT_S)  # The halt itself is the condition here.
        os.kill(running.pid(process), signal.SIGCONT)
        make_progress(working, 1000)
        check_totals(running, working)
        assert running.events("died") == []
        figures = Counters.read(directory / "counters")
        pauses = figures["gateway"].counters["pauses"]
        waits = figures["logic"].counters["waits_for_space"]
        print(f"{process} halted: the gateway paused {pauses} times, logic waited {waits} times")
        if process in ("consensus", "journal", "logic"):
            assert pauses, "ingress was never full, so this showed nothing"
        assert running.stop() == 0


# Power cuts


def test_a_power_cut_costs_no_answer(tmp_path: Path, rng: random.Random) -> None:
    """Five times: everything halted, the image copied, and the replica goes on from the copy."""
    image, disk = tmp_path / "image", tmp_path / "disk"
    serving = disk / "replica"
    with askers(lambda: port_of(serving), count=4) as working:
        with loop_disk(image, disk, DISK_BYTES), replica(serving, limits=SMALL) as running:
            for cut in range(5):
                make_progress(working, rng.randrange(1, 2000))
                halt(running)
                acknowledged = {asker.key: asker.answered for asker in working}
                copy, place = tmp_path / f"image {cut}", tmp_path / f"disk {cut}"
                cut_power(image, copy)
                check_copy(copy, place, acknowledged)
                copy.unlink()
                for process in reversed(FIVE):
                    os.kill(running.pid(process), signal.SIGCONT)
            # The last time the clients go on with the copy, which knows all that they were told.
            make_progress(working, rng.randrange(1, 2000))
            halt(running)
            copy, place = tmp_path / "last image", tmp_path / "last disk"
            cut_power(image, copy)
            running.end()
        with mounted(place, "-o", "loop", str(copy)):
            serving = place / "replica"
            with replica(serving, limits=SMALL) as running:
                make_progress(working, 500)
                check_totals(running, working)
                assert running.stop() == 0


def check_copy(copy: Path, place: Path, acknowledged: dict[str, int]) -> None:
    """A replica on the copy has every acknowledged command."""
    with mounted(place, "-o", "loop", str(copy)), replica(place / "replica", limits=SMALL) as other:
        with line(other) as client:
            for key, answered in acknowledged.items():
                assert client.read(key)["commands"] >= answered
        assert other.stop() == 0


def test_what_was_only_in_the_page_cache_is_synced_before_it_is_answered(tmp_path: Path) -> None:
    """I4: the journal is killed between write and sync, the client asks again and is answered: then the power goes."""
    image, disk, log = tmp_path / "image", tmp_path / "disk", tmp_path / "strace"
    with loop_disk(image, disk, DISK_BYTES):
        with replica(disk / "replica", limits=SMALL) as running, line(running) as client:
            request = 1
            client.ask(request, ADD, amount=1)
            for _ in range(10):
                request += 1
                kill_before_sync(running, client.session, request, log)
                with line(running, client.session) as again:
                    reply = again.ask(request, ADD, amount=1)
                if died_in_a_batch(log):
                    break
            else:
                raise AssertionError("strace never struck between a batch and its sync")
            assert total_of(reply) == {"value": request, "commands": request}
            halt(running)
            cut_power(image, tmp_path / "copy")
        with (
            mounted(tmp_path / "other", "-o", "loop", str(tmp_path / "copy")),
            replica(tmp_path / "other" / "replica", limits=SMALL) as running,
            line(running, client.session) as client,
        ):
            assert client.ask(request, ADD, amount=1) == reply
            assert client.read() == {"value": request, "commands": request}
            assert running.stop() == 0


def kill_before_sync(running: RunningReplica, session: bytes, request: int, log: Path) -> None:
    """Send a command; the journal is killed on its way into the next sync."""
    journal, generation = running.pid("journal"), running.status()["generation"]
    # OPEN is in the log too, and durable before strace comes: the next batch is the command's.
    with (
        line(running, session) as client,
        failing_calls(journal, "fdatasync:signal=SIGKILL:when=1", log),
    ):
        client.command(request, ADD, "a", amount=1)
        running.wait_for("ready", generation + 1)


def died_in_a_batch(log: Path) -> bool:
    """Whether the last write before the deadly sync was a batch, and not a piece of zeros for later."""
    calls = [text.split(maxsplit=1)[1] for text in log.read_text().splitlines()]
    assert any("SIGKILL" in text for text in calls), calls
    # What another thread's call comes in between of is told as unfinished, and then as resumed.
    found = [re.match(r"(?:<\.\.\. )?pwrite.* = (\d+)$", text) for text in calls]
    writes = [int(one[1]) for one in found if one]
    return bool(writes) and writes[-1] < 4096


def test_a_failing_sync_stops_the_replica_for_good_and_loses_nothing(
    directory: Path, tmp_path: Path
) -> None:
    """One sentence, no restart by itself, no second sync; the next start serves."""
    log = tmp_path / "strace"
    with askers(lambda: port_of(directory), count=4) as working:
        with replica(directory) as running:
            make_progress(working, 500)
            with failing_calls(running.pid("journal"), "fdatasync:error=EIO:when=1", log):
                assert running.process.wait(60) == 1
            sentences = [text for text in running.output().splitlines() if not text.startswith("[")]
            assert len(sentences) == 1, running.output()
            assert "Cannot sync" in sentences[0] and "Input/output error" in sentences[0]
            assert len(running.events("starting")) == 1
            assert running.status()["state"] == "failed"
            calls = log.read_text().splitlines()
            failed = next(at for at, text in enumerate(calls) if "INJECTED" in text)
            assert not [text for text in calls[failed + 1 :] if "sync(" in text]
        with replica(directory) as running:
            make_progress(working, 500)
            check_totals(running, working)
            assert running.stop() == 0


# Deaths


def test_a_hundred_random_deaths_cost_no_answer(directory: Path, rng: random.Random) -> None:
    """Any of the five, at any moment, also while it starts or replays."""
    deaths = dict.fromkeys(FIVE, 0)
    with askers(lambda: port_of(directory), count=4) as working:
        running = RunningReplica(directory, "counting:app")
        try:
            while sum(deaths.values()) < 100:
                if rng.random() < 0.8:
                    make_progress(working, rng.randrange(1, 400))
                else:  # Wherever it is by then: attaching, replaying, just ready.
                    threading.Event().wait(rng.random())
                victim = rng.choice(FIVE)
                if not kill_if_there(running, victim):
                    continue
                deaths[victim] += 1
                if victim == "supervisor":
                    running.end()
                    running = RunningReplica(directory, "counting:app")
                assert running.process.poll() is None, running.output()
            make_progress(working, 100)
            check_totals(running, working)
            assert running.stop() == 0
        finally:
            running.end()
    print(f"deaths: {deaths}; {sum(asker.answered for asker in working)} answers, all right")


def kill_if_there(running: RunningReplica, victim: str) -> bool:
    """kill -9, unless the process is just between two lives."""
    pid = running.status().get("pids", {}).get(victim)
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def test_the_time_from_death_to_answer_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bench works, at a fiftieth of its size; what it says is for people to judge."""
    monkeypatch.setenv("LEFTFOLD_FIGURES", str(tmp_path))
    assert bench_recovery.main(["--commands", "20000"]) == 0
    shown = capsys.readouterr().out
    record: dict[str, Any] = msgspec.json.decode((tmp_path / "recovery.json").read_bytes())
    assert record["commands"] == 20_000
    assert set(record["seconds"]) == set(FIVE)
    for process in FIVE:
        assert process in shown and record["seconds"][process] > 0


# A real order flow


@pytest.mark.skipif(not PITCH.exists(), reason=PITCH_ABSENT)
def test_a_real_order_flow_has_the_same_answers_and_state_after_a_death(directory: Path) -> None:
    """Every answer equals what a fold of the log gives, and the replayed digest equals the fold's."""
    actions = [to_command(action) for action in read_pitch(PITCH)]
    app = exchange.app
    commands = [
        (app.encode_key(type(command), key), *app.encode(command)) for key, command in actions
    ]
    middle = len(commands) // 2
    replies: list[frames.Reply] = []
    with replica(directory, "leftfold.actors.exchange:app") as running:
        session = os.urandom(16)
        ask_all(running, session, commands[:middle], replies)
        running.kill("logic")
        ask_all(running, session, commands, replies)
        running.kill("consensus")
        digest = running.wait_for("ready", running.status()["generation"] + 1)["digest"]

        history = open_history(directory)
        machine = fold.new_machine(history, app)
        folded: dict[int, frames.Reply] = {}
        outputs, decoder = Outputs(), frames.Decoder()
        for entry, body in history.entries(1, history.last):
            fold.apply(machine, entry, body, outputs)
            for _, _, slot in slots.slots_of(memoryview(bytes(outputs.egress))):
                for frame in decoder.receive(bytes(slot)):
                    if isinstance(frame, frames.Reply) and frame.request:
                        folded.setdefault(frame.request, frame)
            outputs.egress.clear()
        assert len(replies) == len(commands)
        assert replies == [folded[number] for number in range(1, len(commands) + 1)]
        assert {reply.status for reply in replies} <= {Status.OK, Status.REJECTED}
        assert digest == machine.digest
        before = machine.state_digest()
        assert running.stop() == 0
    history = open_history(directory)
    assert fold.fold(history, app, machine.state.index).state_digest() == before
    print(f"{len(commands)} commands of {PITCH.name}, state {before.hex()[:16]}")


def ask_all(
    running: RunningReplica,
    session: bytes,
    commands: Sequence[tuple[bytes, int, bytes]],
    replies: list[frames.Reply],
) -> None:
    """Ask for what has no reply yet, 500 at a time, through deaths too; replies go into the list in order."""
    deadline = time.monotonic() + 60
    while len(replies) < len(commands):
        assert time.monotonic() < deadline
        try:
            with line(running, session) as client:
                while len(replies) < len(commands):
                    done = len(replies)
                    burst = range(done + 1, min(len(commands), done + 500) + 1)
                    client.send(
                        b"".join(
                            frames.command(id, session, number, number - done, key, body)
                            for number in burst
                            for key, id, body in [commands[number - 1]]
                        )
                    )
                    for number in burst:
                        reply = client.receive()
                        assert isinstance(reply, frames.Reply) and reply.request == number
                        replies.append(reply)
        except (OSError, KeyError):
            continue
