"""Snapshots, retention and recovery of a real replica: what is promised to its clients holds across all of them.

The clients of asking.py check every answer, so a command that a restored state had lost or doubled shows at once.
A state that was restored is compared, byte for byte, with what a fold of the whole log makes.
"""

import contextlib
import json
import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest
from asking import ADD, EXIT, Line, askers, check_totals, line, make_progress, port_of, total_of
from replica import APPS, DEADLINE_S, RunningReplica, figure, leavings, refusal, replica, wait_until

from leftfold.actors.layout import Status
from leftfold.actors.limits import Limits
from leftfold.actors.machine import Machine, Outputs
from leftfold.runtime import frames, slots
from leftfold.runtime.config import KIB, TransportLimits
from leftfold.runtime.discovery import load_app
from leftfold.runtime.errors import OperatorError
from leftfold.runtime.snapshotfile import contents
from leftfold.runtime.snapshots import list_snapshots
from leftfold.tools.decoding import lines_of
from leftfold.tools.history import open_history

pytestmark = pytest.mark.xdist_group("serial")

KEEP, SPOIL, MEND, COUNT = 921, 922, 923, 924
SMALL = attrs.evolve(TransportLimits.smallest(), segment_bytes=256 * KIB)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Where the replica of a test lives; afterwards nothing of it may be left in memory."""
    place = tmp_path / "replica"
    yield place
    assert leavings(place) == []
    wait_until(lambda: processes_of(place) == [], "its processes end with it")


def processes_of(directory: Path, role: str = "") -> list[int]:
    """The processes of a replica that still run, children that write snapshots among them."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            title = (entry / "cmdline").read_bytes() if entry.name.isdecimal() else b""
            if title.startswith(f"leftfold: {role}".encode()) and os.fsencode(directory) in title:
                found.append(int(entry.name))
    return found


def control(client: Line, operation: int, request: int = 1) -> frames.Answer:
    """Ask consensus for something, on a connection that asks for nothing else."""
    asked = slots.pack_control(slots.Control(operation, client.session, request, b"{}      "))
    client.send(asked)
    answer = client.receive()
    assert isinstance(answer, frames.Answer) and answer.request == request, answer
    return answer


def status_of(running: RunningReplica) -> dict[str, Any]:
    with line(running) as client:
        found: dict[str, Any] = json.loads(control(client, slots.CONTROL_STATUS).body)
        return found


def snapshots_end(running: RunningReplica, outcomes: int) -> list[dict[str, Any]]:
    """Wait until that many snapshots counted or failed, since the start of the supervisor's output."""

    def ended() -> list[dict[str, Any]]:
        failed = [
            warning for warning in running.events("warning") if "no snapshot" in warning["sentence"]
        ]
        found = running.events("snapshot") + failed
        return found if len(found) >= outcomes else []

    found: list[dict[str, Any]] = wait_until(ended, f"{outcomes} snapshots: {running.output()}")
    return found


def take_snapshot(running: RunningReplica) -> int:
    """By command; the index when it counts."""
    before = len(running.events("snapshot"))
    with line(running) as client:
        answer = control(client, slots.CONTROL_SNAPSHOT)
    assert answer.status == Status.OK, answer
    index: int = json.loads(answer.body)["index"]
    wait_until(lambda: len(running.events("snapshot")) > before, f"it counts: {running.output()}")
    assert running.events("snapshot")[-1]["index"] == index
    return index


def restored(running: RunningReplica) -> set[int]:
    """Of which entries the snapshots were that this supervisor has told of restoring."""
    return {event["index"] for event in running.events("restoring")}


def newest(directory: Path) -> Path:
    return list_snapshots(directory / "snapshots")[-1][1]


def fold_of_the_log(directory: Path, index: int) -> bytes:
    """What the log makes from its beginning, as the content of a snapshot of `index`."""
    history = open_history(directory)
    assert history.first == 1, "the whole log is there"
    identity = history.identity
    counting = load_app("counting:app", APPS)
    machine = Machine(counting, Limits(**identity.limits), identity.hash_seed)
    for entry, body in history.entries(1, index):
        machine.apply(entry.index, entry.time_ns, entry.kind, body, outputs=Outputs())
    return b"".join(machine.snapshot())


def keep(client: Line, request: int, text_bytes: int) -> frames.Frame:
    """Make the state of `hoarding` larger by what does not compress."""
    text = os.urandom(text_bytes // 2).hex()
    client.command(request, KEEP, "a", 1, text=text)
    return client.receive()


# Taken, and taken up


@pytest.mark.parametrize(
    "limits", [TransportLimits(), TransportLimits.smallest()], ids=["usual", "smallest"]
)
def test_snapshot_by_command_under_load_then_kill_9_of_everything(
    directory: Path, limits: TransportLimits
) -> None:
    """Recovery is from the snapshot and the tail; no answer is lost or doubled, and the state is that of the log."""
    with askers(lambda: port_of(directory)) as working:
        with replica(directory, limits=limits) as running:
            make_progress(working)
            taken = take_snapshot(running)
            make_progress(working)
            running.kill("supervisor")
        with replica(directory, limits=limits) as running:
            assert restored(running) == {taken}
            make_progress(working)
            check_totals(running, working)
            assert status_of(running)["snapshot"]["index"] == taken
            assert running.stop() == 0
        path = newest(directory)
        index = list_snapshots(directory / "snapshots")[-1][0]
        assert index > taken
        assert b"".join(contents(path)) == fold_of_the_log(directory, index)


def test_a_session_keeps_its_unconfirmed_answers_across_a_snapshot(directory: Path) -> None:
    with replica(directory) as running, line(running) as client:
        first = client.ask(1, ADD, amount=5)
        second = client.ask(2, ADD, unanswered=2, amount=2)
        take_snapshot(running)
        running.kill("supervisor")
        client.close()
    with replica(directory) as running, line(running, client.session) as again:
        assert running.events("replaying") == []
        assert isinstance(again.opened, frames.Reply) and again.opened.last_request == 2
        assert again.ask(2, ADD, unanswered=2, amount=2) == second
        assert again.ask(1, ADD, unanswered=1, amount=5) == first
        assert total_of(again.ask(3, ADD, unanswered=2, amount=1))["value"] == 8


def test_a_clean_stop_takes_one_and_the_next_start_replays_nothing(directory: Path) -> None:
    with replica(directory) as running, line(running) as client:
        last = client.ask(1, ADD, amount=5).index
        client.close()
        assert running.stop() == 0
        assert [event["index"] for event in running.events("snapshot")] == [last]
    with replica(directory) as running, line(running) as client:
        assert running.events("replaying") == []
        assert restored(running) == {last}
        assert client.read()["value"] == 5
        assert running.status()["index"] == last + 1, "a term was opened and nothing else"


def test_a_stop_without_a_snapshot_is_possible_and_leaves_it_to_the_log(directory: Path) -> None:
    with replica(directory, snapshot_at_stop=False) as running, line(running) as client:
        client.ask(1, ADD, amount=5)
        client.close()
        assert running.stop() == 0
    assert list_snapshots(directory / "snapshots") == []
    with replica(directory) as running, line(running) as client:
        assert client.read()["value"] == 5


def test_asked_for_twice_there_is_one_and_the_second_is_told(directory: Path) -> None:
    with replica(directory) as running, line(running) as client, line(running) as operator:
        client.ask(1, ADD, amount=1)
        logic = running.pid("logic")
        os.kill(logic, signal.SIGSTOP)
        try:
            first = control(operator, slots.CONTROL_SNAPSHOT, 1)
            second = control(operator, slots.CONTROL_SNAPSHOT, 2)
        finally:
            os.kill(logic, signal.SIGCONT)
        assert json.loads(first.body)["new"] is True
        assert second.status == Status.REJECTED and b"already" in second.body
        (taken,) = snapshots_end(running, 1)
        third = control(operator, slots.CONTROL_SNAPSHOT, 3)
        assert json.loads(third.body) == {"index": taken["index"], "new": False}
        unknown = control(operator, 99, 4)
        assert unknown.status == Status.REJECTED and b"99" in unknown.body


# The log


def test_the_log_is_kept_short_by_itself_under_load(directory: Path) -> None:
    """Snapshots by its length; two of them behind a segment, and it is gone. All of it survives kill -9."""
    config: dict[str, Any] = {"limits": SMALL, "snapshot_log_bytes": 300 * KIB}
    journal = directory / "journal"
    with askers(lambda: port_of(directory)) as working:
        with replica(directory, **config) as running:
            wait_until(
                lambda: not (journal / "00000002.log").exists() and list(journal.glob("*3.log")),
                "the first segments go",
            )
            wait_until(
                lambda: len(list_snapshots(directory / "snapshots")) == 2, "two are kept of three"
            )
            running.kill("supervisor")
        with replica(directory, **config) as running:
            wait_until(
                lambda: not (journal / "00000005.log").exists() and list(journal.glob("*6.log")),
                "more segments go",
            )
            assert open_history(directory).first > 1
            check_totals(running, working)
            wait_until(
                lambda: (
                    figure(directory, "consensus", "log_first_index")
                    == status_of(running)["log"]["first"]
                    > 1
                ),
                "the counter is what the status says",
            )
            assert running.stop() == 0
        with replica(directory, **config) as running:
            check_totals(running, working)


def test_a_damaged_newest_snapshot_falls_back_to_the_one_before_and_says_so(
    directory: Path,
) -> None:
    with replica(directory) as running, line(running) as client:
        client.ask(1, ADD, amount=1)
        before = take_snapshot(running)
        client.ask(2, ADD, amount=2)
        take_snapshot(running)
        client.ask(3, ADD, amount=4)
        client.close()
        running.kill("supervisor")
    path = newest(directory)
    damaged = bytearray(path.read_bytes())
    damaged[-70] ^= 4
    path.write_bytes(damaged)
    with replica(directory) as running, line(running, client.session) as again:
        (warning,) = running.events("warning")
        assert str(path) in warning["sentence"] and f"entry {before}" in warning["sentence"]
        assert restored(running) == {before}
        assert again.read()["value"] == 7
        assert total_of(again.ask(4, ADD, amount=8))["value"] == 15
        assert path.with_name(path.name + ".damaged").exists()


# Deaths in the middle


def blocked_child(running: RunningReplica) -> int:
    """A snapshot's child that cannot go on, since the journal is stopped; its pid."""
    with line(running) as operator:
        os.kill(running.pid("journal"), signal.SIGSTOP)
        assert control(operator, slots.CONTROL_SNAPSHOT).status == Status.OK
    (child,) = wait_until(lambda: processes_of(running.directory, "snapshot"), "logic has a child")

    def waits() -> bool:
        state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        wchan = Path(f"/proc/{child}/syscall").read_text().split()[0]
        return state == "S" and wchan in ("46", "211")  # sendmsg, on x86-64 and on arm64

    wait_until(waits, "the socket is full")
    return child


@pytest.mark.parametrize("doomed", ["child", "logic", "journal", "supervisor"])
def test_kill_9_in_the_middle_of_a_snapshot_costs_nothing_but_that(
    directory: Path, doomed: str
) -> None:
    with replica(directory, "hoarding:app") as running, line(running) as client:
        for request in range(1, 41):
            keep(client, request, 40_000)
        before = take_snapshot(running)
        keep(client, 41, 40_000)
        child = blocked_child(running)
        journal = running.pid("journal")
        if doomed == "child":
            os.kill(child, signal.SIGKILL)
            os.kill(journal, signal.SIGCONT)
            found = snapshots_end(running, 2)[-1]
            assert "by a signal" in found["sentence"]
            assert running.events("died") == []
            assert isinstance(keep(client, 42, 4_000), frames.Reply)
            assert take_snapshot(running) > before
            running.kill("supervisor")
        elif doomed == "supervisor":
            running.kill("supervisor")
        else:
            running.kill(doomed)
            running.wait_for("ready", generation=2)
            assert restored(running) == {before}
            wait_until(lambda: child not in processes_of(directory), "the child is gone")
            with line(running, client.session) as again:
                assert isinstance(keep(again, 42, 4_000), frames.Reply)
            assert take_snapshot(running) > before
            running.kill("supervisor")
        client.close()
    with replica(directory, "hoarding:app") as running, line(running, client.session) as again:
        again.send(frames.query(COUNT, again.session, 1, b"a", msgspec.msgpack.encode({})))
        answer = again.receive()
        assert isinstance(answer, frames.Answer)
        assert msgspec.msgpack.decode(answer.body)["texts"] == (
            41 if doomed == "supervisor" else 42
        )
        assert list((directory / "snapshots").glob("*.tmp")) == []
        again.close()
        assert running.stop() == 0


def test_kills_at_random_instants_of_snapshots_under_load(directory: Path) -> None:
    """Whoever dies, whenever: the next snapshot counts, and every answer was right."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    config: dict[str, Any] = {"limits": SMALL, "snapshot_log_bytes": 40 * KIB}
    with (
        askers(lambda: port_of(directory)) as working,
        replica(directory, **config) as running,
    ):
        for death in range(4):
            make_progress(working)
            wait_until(
                lambda: list((directory / "snapshots").glob("*")), "there is a snapshot, or part"
            )
            target = rng.choice(("logic", "journal", "consensus"))
            with contextlib.suppress(ProcessLookupError):
                running.kill(target)
            running.wait_for("ready", generation=death + 2)
        make_progress(working)
        taken = len(running.events("snapshot"))
        wait_until(lambda: len(running.events("snapshot")) > taken, "one more counts")
        check_totals(running, working)
        assert running.stop() == 0


def test_a_second_signal_leaves_out_the_last_snapshot_and_the_one_before_serves(
    directory: Path,
) -> None:
    with replica(directory, "hoarding:app") as running, line(running) as client:
        for request in range(1, 41):
            keep(client, request, 40_000)
        before = take_snapshot(running)
        keep(client, 41, 4_000)
        os.kill(running.pid("journal"), signal.SIGSTOP)
        client.close()
        running.process.send_signal(signal.SIGTERM)
        running.wait_for("snapshotting")
        wait_until(lambda: running.events("snapshotting"), "that it takes one is told")
        assert running.process.poll() is None
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(DEADLINE_S) == 0
    with replica(directory, "hoarding:app") as running:
        assert restored(running) == {before}


# States and codes that do not fit


def test_a_state_that_no_snapshot_can_carry_is_a_warning_and_service_goes_on(
    directory: Path,
) -> None:
    with replica(directory, "hoarding:app") as running, line(running) as client:
        keep(client, 1, 100)
        client.ask(2, SPOIL, "spoilt")
        with line(running) as operator:
            control(operator, slots.CONTROL_SNAPSHOT)
            (warning,) = snapshots_end(running, 1)
            assert "Hoard" in warning["sentence"] and "spoilt" in warning["sentence"]
            status = json.loads(control(operator, slots.CONTROL_STATUS, 2).body)
            assert status["snapshot"]["index"] == 0 and "Hoard" in status["snapshot"]["failure"]
        assert isinstance(keep(client, 3, 100), frames.Reply)
        client.close()
        assert running.stop() == 0
        assert len(snapshots_end(running, 2)) == 2
    assert list_snapshots(directory / "snapshots") == []
    with replica(directory, "hoarding:app") as running, line(running, client.session) as again:
        again.ask(4, MEND, "spoilt")
        assert take_snapshot(running) > 0


BOOK = """
from leftfold.actors import App, Command, Context, actor, handler, message

STEP = 1

@message(id=1)
class Shown:
    value: int

@message(id=2)
class Push(Command[Shown]):
    pass

@actor(id=1, key=str)
class Counter:
    value: int = 0

    @handler
    def push(self, command: Push, context: Context) -> Shown:
        self.value += STEP
        return Shown(self.value)

app = App(actors=[Counter], name="pushing")
"""
PUSH = 2


def test_a_tail_of_another_build_is_refused_until_a_snapshot_covers_it_or_it_is_accepted(
    directory: Path, tmp_path: Path
) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    config = {"app": "pushing:app", "app_directory": str(sources)}

    def write(step: int) -> None:
        shutil.rmtree(sources / "__pycache__", ignore_errors=True)
        (sources / "pushing.py").write_text(BOOK.replace("STEP = 1", f"STEP = {step}"))

    write(1)
    with replica(directory, **config) as running, line(running) as client:
        client.ask(1, PUSH)
        old = status_of(running)["build"]
        running.kill("supervisor")
        client.close()
    write(10)
    sentence = refusal(directory, **config)
    assert old in sentence and "--accept-build" in sentence and "leftfold diff" in sentence
    assert "Entries 2 to" in sentence
    assert old in refusal(directory, **config), "nothing of it was replayed"

    write(1)  # The old code, stopped cleanly: its snapshot covers what it answered.
    with replica(directory, **config) as running, line(running, client.session) as client:
        assert total_of(client.ask(2, PUSH))["value"] == 2
        client.close()
        assert running.stop() == 0
    write(10)
    with replica(directory, **config) as running, line(running, client.session) as client:
        assert total_of(client.ask(3, PUSH))["value"] == 12
        assert status_of(running)["build"] != old
        running.kill("supervisor")
        client.close()
    write(100)
    accepted = {**config, "accept_build": True}
    with replica(directory, **accepted) as running, line(running, client.session) as client:
        assert total_of(client.ask(4, PUSH))["value"] == 202
        (warning,) = running.events("warning")
        assert "as accepted" in warning["sentence"]


def test_what_another_build_wrote_and_this_code_cannot_read_is_named_and_refused(
    directory: Path, tmp_path: Path
) -> None:
    """Accepted or not: a message that is gone changed the state once, and would change it no more."""
    sources = tmp_path / "sources"
    sources.mkdir()
    config = {"app": "pushing:app", "app_directory": str(sources)}
    accepted = {**config, "accept_build": True}

    def write(text: str) -> None:
        shutil.rmtree(sources / "__pycache__", ignore_errors=True)
        (sources / "pushing.py").write_text(text)

    write(BOOK)
    with replica(directory, **config) as running, line(running) as client:
        client.ask(1, PUSH)
        take_snapshot(running)
        client.ask(2, PUSH)
        old = status_of(running)["build"]
        running.kill("supervisor")
        client.close()
    history = open_history(directory)
    index = next(  # Of the second: whoever asked for the status has opened a session behind it.
        line["index"]
        for entry, body in history.entries(history.first, history.last)
        for line in lines_of(entry, body, None)
        if line.get("request") == 2
    )
    for changed, named in (
        (BOOK.replace("@message(id=2)", "@message(id=3)"), "message 2, which no handler"),
        (BOOK.replace("    pass", "    by: int"), "message 2 (Push) of version 0, which this"),
    ):
        write(changed)
        sentence = refusal(directory, **accepted)
        assert f"Command {index}.0" in sentence and named in sentence and old in sentence
        assert f"--skip {index}.0" in sentence and "start the old code" in sentence

    with (  # By an operator's decision, in the log.
        replica(directory, **accepted, skip=((index, 0),)) as running,
        line(running, client.session) as client,
    ):
        assert total_of(client.ask(3, PUSH, by=1))["value"] == 2


def test_a_snapshot_that_the_code_cannot_take_up_is_one_sentence_and_nothing_is_lost(
    directory: Path, tmp_path: Path
) -> None:
    """Without its tail there is no other build to refuse; the state itself does not fit."""
    sources = tmp_path / "sources"
    sources.mkdir()
    config = {"app": "pushing:app", "app_directory": str(sources)}
    (sources / "pushing.py").write_text(BOOK)
    with replica(directory, **config) as running, line(running) as client:
        client.ask(1, PUSH)
        client.close()
        assert running.stop() == 0
    kept = newest(directory).read_bytes()

    (sources / "pushing.py").write_text(BOOK.replace("@actor(id=1,", "@actor(id=5,"))
    shutil.rmtree(sources / "__pycache__", ignore_errors=True)
    sentence = refusal(directory, **config)
    assert "snapshot" in sentence and "Counter" in sentence
    assert newest(directory).read_bytes() == kept

    (sources / "pushing.py").write_text(BOOK.replace("value: int = 0", "total: int = 0"))
    shutil.rmtree(sources / "__pycache__", ignore_errors=True)
    sentence = refusal(directory, **config)
    assert "Counter.value is gone and total is new" in sentence and "@upcast" in sentence
    assert newest(directory).read_bytes() == kept

    (sources / "pushing.py").write_text(BOOK)
    shutil.rmtree(sources / "__pycache__", ignore_errors=True)
    with replica(directory, **config) as running, line(running, client.session) as client:
        assert total_of(client.ask(2, PUSH))["value"] == 2
        assert running.events("warning") == []
        client.close()
        assert running.stop() == 0

    without = BOOK.replace("    value: int = 0\n", "").replace("self.value += STEP", "pass")
    (sources / "pushing.py").write_text(without.replace("Shown(self.value)", "Shown(0)"))
    shutil.rmtree(sources / "__pycache__", ignore_errors=True)
    with replica(directory, **config) as running:
        (warning,) = running.events("warning")
        assert "Counter.value is gone, and what was written in it is dropped" in warning["sentence"]


def test_what_an_operator_skipped_stays_skipped_across_a_restore(directory: Path) -> None:
    with replica(directory) as running, line(running) as client:
        client.ask(1, ADD, amount=1)
        taken = take_snapshot(running)
        client.command(2, EXIT, "a")
        assert running.process.wait(DEADLINE_S) == 3
    place = json.loads((directory / "crashes.json").read_text())
    skip = ((place["index"], place["ordinal"]),)
    with (
        replica(directory, skip=skip) as running,
        line(running, client.session) as client,
    ):
        skipped = client.ask(2, EXIT)
        assert skipped.status == Status.SKIPPED
        running.kill("supervisor")
    with replica(directory) as running, line(running, client.session) as client:
        assert restored(running) == {taken}
        assert client.ask(2, EXIT) == skipped
        assert client.read()["value"] == 1


# The limit on disk


def test_low_on_disk_commands_are_refused_snapshots_make_room_and_it_serves_again(
    directory: Path,
) -> None:
    """Again and again, and by itself; nobody is left without an answer."""
    limits = attrs.evolve(SMALL, segment_bytes=128 * KIB)
    config: dict[str, Any] = {"limits": limits, "disk_bytes_max": 1024 * KIB}
    with askers(lambda: port_of(directory)) as working, replica(directory, **config) as running:
        wait_until(
            lambda: figure(directory, "consensus", "refused") > 0, "the first limit is reached"
        )
        wait_until(
            lambda: any(
                "room on disk again" in text["sentence"] for text in running.events("warning")
            ),
            f"there is room again: {running.output()}",
        )
        make_progress(working, 500)
        check_totals(running, working)
        assert running.status()["state"] == "ready"
        assert running.stop() == 0
        kept = [path for name in ("journal", "snapshots") for path in (directory / name).iterdir()]
        assert sum(path.stat().st_size for path in kept) < 1400 * KIB


def test_with_no_room_to_make_commands_are_refused_with_the_sentence_and_queries_answered(
    directory: Path,
) -> None:
    """The state itself is too large for the limit; with a higher one it serves again."""
    limits = attrs.evolve(TransportLimits(), segment_bytes=16 * 1024 * KIB)
    config: dict[str, Any] = {"limits": limits, "disk_bytes_max": 64 * 1024 * KIB}
    with (
        replica(directory, "hoarding:app", **config) as running,
        line(running) as client,
    ):
        frame: frames.Frame = client.opened
        request = 0
        while not isinstance(frame, frames.Refused):
            request += 1
            assert request < 3000, "the limit is never reached"
            frame = keep(client, request, 60_000)
        assert frame.reason == slots.REFUSED_DISK_FULL and frame.request == request
        assert "snapshots" in frame.hint and str(directory) in frame.hint
        client.send(frames.query(COUNT, client.session, 1, b"a", msgspec.msgpack.encode({})))
        answer = client.receive()
        while isinstance(answer, frames.Reply):  # Room came and went.
            answer = client.receive()
        assert isinstance(answer, frames.Answer) and answer.status == Status.OK
        running.kill("supervisor")
        client.close()
    with (
        replica(directory, "hoarding:app", limits=limits) as running,
        line(running, client.session) as again,
    ):
        assert isinstance(keep(again, request, 100), frames.Reply)
        again.close()
        assert running.stop() == 0


def test_the_start_refuses_a_limit_that_no_log_could_live_in(directory: Path) -> None:
    assert "too small" in refusal(directory, disk_bytes_max=1024)
    with pytest.raises(OperatorError, match="more than 0"):
        RunningReplica.configured(directory, "counting:app", snapshot_log_bytes=0)
