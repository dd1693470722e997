"""Deaths and power cuts at each step that a snapshot takes on its way to disk, and the log into a new segment, in a real replica.

The journal's thread that writes snapshots, or the one that writes the log, is held, by strace, where it enters a chosen system
call; so the moment is exact, and everything else goes on. Then somebody is killed, or everything stands still and the disk below is copied. Whatever it
was: the replica comes back by itself, knows every text that it acknowledged, once, and its state is, byte for byte, what
the whole log makes; for which every segment is linked to another place before it goes.
"""

import contextlib
import os
import platform
import shutil
import signal
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import attrs
import msgspec
import pytest
from asking import Line, line
from disks import cut_power, loop_disk, mounted
from replica import RunningReplica, leavings, replica, wait_until
from test_replica_snapshots import COUNT, KEEP, control, keep, newest, processes_of, take_snapshot

from leftfold.actors.layout import Status
from leftfold.actors.limits import Limits
from leftfold.actors.machine import Machine, Outputs
from leftfold.runtime import frames, slots
from leftfold.runtime.config import KIB, MIB, TransportLimits
from leftfold.runtime.discovery import load_app
from leftfold.runtime.snapshotfile import contents
from leftfold.runtime.snapshots import list_snapshots
from leftfold.runtime.topology import PROCESSES
from leftfold.tools.history import open_history

pytestmark = [
    pytest.mark.long,
    pytest.mark.xdist_group("serial"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of system calls"),
]

APP = "hoarding:app"
LIMITS = attrs.evolve(
    TransportLimits(), entry_bytes_max=128 * KIB, persist_bytes=2 * MIB, segment_bytes=4 * MIB
)
TEXT_BYTES = 40_000
DISK_BYTES = 160 * MIB
NUMBERS = {
    "openat": 257,
    "fdatasync": 75,
    "fadvise64": 221,
    "rename": 82,
    "fsync": 74,
    "unlink": 87,
    "pwritev2": 328,
    "ftruncate": 77,
    "fallocate": 285,
}

STEPS = {
    "begun": ("openat", 1),
    "in the middle of the file": ("fdatasync", 2),
    "written and not read back": ("fadvise64", 1),
    "before it has its name": ("rename", 1),
    "before its name is durable": ("fsync", 1),
    "before the oldest goes": ("unlink", 1),
    "before a segment goes": ("unlink", 2),
    "before its going is durable": ("fsync", 2),
    "told to consensus": None,
}
"""Which call of the thread it is held at; None: it was told to the supervisor that the snapshot counts."""
WITH_CHILD = ("begun", "in the middle of the file")
DEATHS = [(step, victim) for step in STEPS for victim in ("logic", "journal", "supervisor")] + [
    (step, "child") for step in WITH_CHILD
]
ROLL = {
    "its head and first batch are written": ("pwritev2", 1),
    "they are synced": ("fdatasync", 1),
    "it has its name": ("rename", 1),
    "its name is durable": ("fsync", 1),
    "the one before is cut": ("ftruncate", 1),
    "the second batch is written": ("pwritev2", 2),
    "the second batch is synced": ("fdatasync", 2),
    "the next spare has its space": ("fallocate", 1),
}
"""A new segment, before …: the calls of the thread that writes the log, from a quiet moment with no room for a batch."""
FIVE = ("supervisor", *PROCESSES)

Held = tuple[RunningReplica, Line, int, Callable[[], None]]
"""A replica that stands at a step, a client, how many texts it has acknowledged, and what lets it go on."""


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Where the replica of a test lives; afterwards nothing of it may be left in memory."""
    place = tmp_path / "replica"
    yield place
    assert leavings(place) == []
    wait_until(lambda: processes_of(place) == [], "its processes end with it")


@pytest.mark.parametrize(("step", "victim"), DEATHS)
def test_kill_9_at_each_step(directory: Path, tmp_path: Path, step: str, victim: str) -> None:
    with _at(directory, step) as (running, client, kept, release):
        if victim == "child":
            (child,) = processes_of(directory, "snapshot")
            os.kill(child, signal.SIGKILL)
            release()
            wait_until(lambda: running.events("warning"), "the loss is told")
            assert running.events("died") == []
            take_snapshot(running)
            running.kill("supervisor")
        else:
            journal = running.pid("journal")
            running.kill(victim)
            # The thread must not go on; and what is traced is not gone before its tracer is.
            wait_until(lambda: _state_of(journal) in "ZX", "the journal was killed as well")
            release()
            if victim != "supervisor":
                running.wait_for("ready", generation=2)
                running.kill("supervisor")
        running.process.wait()
    _check(directory, client.session, kept, warnings=int(victim == "child"))


@pytest.mark.parametrize("step", STEPS)
def test_a_power_cut_at_each_step(tmp_path: Path, step: str) -> None:
    """What no sync has reached is gone with the power."""
    _cut_power(tmp_path, lambda directory: _at(directory, step), snapshots=2)


@pytest.mark.parametrize("victim", ["journal", "supervisor"])
@pytest.mark.parametrize("step", ROLL)
def test_kill_9_at_each_step_of_a_new_segment(directory: Path, step: str, victim: str) -> None:
    with _rolling(directory, step) as (running, client, kept, release):
        running.kill(victim)
        if victim == "supervisor":
            running.process.wait()  # Then the kernel has sent the others their SIGKILL.
        release()  # Who has one does no call any more.
        if victim == "journal":
            running.wait_for("ready", generation=2)
            running.kill("supervisor")
        running.process.wait()
    _check(directory, client.session, kept, snapshots=1)


@pytest.mark.parametrize("step", ROLL)
def test_a_power_cut_at_each_step_of_a_new_segment(tmp_path: Path, step: str) -> None:
    _cut_power(tmp_path, lambda directory: _rolling(directory, step), snapshots=1)


def _cut_power(
    tmp_path: Path,
    held: Callable[[Path], contextlib.AbstractContextManager[Held]],
    snapshots: int,
) -> None:
    """All stand still where one is held; what is on the disk then is all that a replica has elsewhere."""
    image, disk = tmp_path / "image", tmp_path / "disk"
    with (
        loop_disk(image, disk, DISK_BYTES),
        held(disk / "replica") as (running, client, kept, release),
    ):
        for process in FIVE:
            os.kill(running.pid(process), signal.SIGSTOP)
        cut_power(image, tmp_path / "copy")
        release()
        running.end()
    with mounted(tmp_path / "other", "-o", "loop", str(tmp_path / "copy")) as other:
        _check(other / "replica", client.session, kept, snapshots=snapshots)


@contextlib.contextmanager
def _rolling(directory: Path, step: str) -> Generator[Held]:
    """A replica whose log goes into its second segment, how many texts it has acknowledged; two more are on their way."""
    call, nth = ROLL[step]
    with replica(directory, APP, limits=LIMITS) as running, line(running) as client:
        kept = _fill_segment(directory, client)
        os.sync()
        journal = running.pid("journal")
        tracing = _hold(journal, call, nth, directory.with_suffix(".strace"))

        def release() -> None:
            tracing.kill()
            tracing.wait()

        try:
            for request in (kept + 1, kept + 2):
                client.command(request, KEEP, "a", 2, text="x" * TEXT_BYTES)
                if not _answered(client, journal, call):
                    break
                kept += 1
            wait_until(lambda: _stands_at(journal, call), f"the thread comes to {call}")
            yield running, client, kept, release
        finally:
            release()


def _fill_segment(directory: Path, client: Line) -> int:
    """Keep texts until the first segment has no room for one more; how many. Then nothing is left to do but to roll."""
    kept = 0
    first, spare = directory / "journal/00000001.log", directory / "journal/spare.tmp"
    while True:
        history = open_history(directory)
        if LIMITS.segment_bytes - history.extents[1].end < TEXT_BYTES:
            break
        kept = _keep_more(client, kept, 1)
    wait_until(lambda: _zeroed(first) and _zeroed(spare), "the spare is ready")
    assert open_history(directory).segments.keys() == {1}
    return kept


def _zeroed(path: Path) -> bool:
    """No hole in it: all that is prepared ahead is there."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        return os.lseek(file.fileno(), 0, os.SEEK_HOLE) >= LIMITS.segment_bytes
    return False


def _answered(client: Line, thread: int, call: str) -> bool:
    """Whether a command is answered, before the thread stands where it is held."""
    client.socket.setblocking(False)
    try:
        return (
            wait_until(
                lambda: "held" if _stands_at(thread, call) else _received(client),
                "an answer, or not",
            )
            != "held"
        )
    finally:
        client.socket.setblocking(True)


def _received(client: Line) -> str:
    try:
        reply = client.receive()
    except BlockingIOError:
        return ""
    assert isinstance(reply, frames.Reply) and reply.status == Status.OK, reply
    return "answered"


@contextlib.contextmanager
def _at(directory: Path, step: str) -> Generator[Held]:
    """A replica whose third snapshot is at this step, how many texts it has acknowledged, and what lets it go on."""
    held = STEPS[step]
    with replica(directory, APP, limits=LIMITS) as running, line(running) as client:
        kept = _keep_more(client, 0, 150)
        _link_segments(directory)
        take_snapshot(running)
        kept = _keep_more(client, kept, 150)
        _link_segments(directory)
        take_snapshot(running)
        kept = _keep_more(client, kept, 20)
        _link_segments(directory)
        os.sync()
        tid = _spool_of(running)
        tracing = _hold(tid, *held, directory.with_suffix(".strace")) if held else None

        def release() -> None:
            if tracing is not None:
                tracing.kill()
                tracing.wait()

        try:
            with line(running) as operator:
                assert control(operator, slots.CONTROL_SNAPSHOT).status == Status.OK
            if held:
                wait_until(lambda: _stands_at(tid, held[0]), f"the thread comes to {held}")
            else:
                wait_until(lambda: len(running.events("snapshot")) == 3, "the third counts")
            kept = _keep_more(client, kept, 1)
            yield running, client, kept, release
        finally:
            release()


def _keep_more(client: Line, kept: int, count: int) -> int:
    for request in range(kept + 1, kept + count + 1):
        reply = keep(client, request, TEXT_BYTES)
        assert isinstance(reply, frames.Reply) and reply.status == Status.OK, reply
    return kept + count


def _check(
    directory: Path, session: bytes, kept: int, warnings: int = 0, snapshots: int = 2
) -> None:
    """Nothing lost, nothing doubled; the next snapshot counts; and the state is that of the whole log.

    Where the replica was in the middle of its log, one command that was not answered may be in it or not.
    """
    with replica(directory, APP, limits=LIMITS) as running, line(running, session) as client:
        assert isinstance(client.opened, frames.Reply)
        assert kept <= client.opened.last_request <= kept + (snapshots == 1)
        kept = client.opened.last_request
        client.send(frames.query(COUNT, session, 1, b"a", msgspec.msgpack.encode({})))
        answer = client.receive()
        assert isinstance(answer, frames.Answer)
        assert msgspec.msgpack.decode(answer.body)["texts"] == kept
        assert len(running.events("warning")) == warnings, running.output()
        place = directory / "snapshots"
        assert list(place.glob("*.tmp")) == []
        _keep_more(client, kept, 1)
        take_snapshot(running)
        _link_segments(directory)
        client.close()
        assert running.stop() == 0
    _link_segments(directory)
    assert len(list_snapshots(place)) == snapshots
    index = list_snapshots(place)[-1][0]
    assert b"".join(contents(newest(directory))) == _fold_of_all(directory, index)


# The log as if nothing of it ever went


def _link_segments(directory: Path) -> None:
    """Keep every segment that there is, and what is written to it from now on."""
    shadow = directory.with_suffix(".whole") / "journal"
    shadow.mkdir(parents=True, exist_ok=True)
    for path in (directory / "journal").glob("*.log"):
        with contextlib.suppress(FileExistsError):
            (shadow / path.name).hardlink_to(path)


def _fold_of_all(directory: Path, index: int) -> bytes:
    """What the log makes from its first entry, as the content of a snapshot of `index`."""
    shadow = directory.with_suffix(".whole")
    for name in os.listdir(directory):
        if (directory / name).is_file():
            shutil.copy(directory / name, shadow / name)
    history = open_history(shadow)
    assert history.first == 1 and not history.snapshots
    identity = history.identity
    app = load_app(APP, Path(__file__).parent / "apps")
    machine = Machine(app, Limits(**identity.limits), identity.hash_seed)
    for entry, body in history.entries(1, index):
        machine.apply(entry.index, entry.time_ns, entry.kind, body, outputs=Outputs())
    return b"".join(machine.snapshot())


# The thread that is held


def _spool_of(running: RunningReplica) -> int:
    """The journal's other thread."""
    journal = running.pid("journal")
    (tid,) = {int(name) for name in os.listdir(f"/proc/{journal}/task")} - {journal}
    return tid


def _hold(tid: int, call: str, nth: int, log: Path) -> subprocess.Popen[bytes]:
    """The thread will stand still where it enters this call for the nth time, as long as this process lives."""
    if shutil.which("strace") is None:
        pytest.skip("this test needs strace")
    errors = log.with_suffix(".errors")
    inject = f"inject={call}:delay_enter=600000000:when={nth}"
    command = ["strace", "-p", str(tid), "-o", str(log), "-e", f"trace={call}", "-e", inject]
    with errors.open("wb") as file:
        tracing = subprocess.Popen(command, stderr=file)
    wait_until(
        lambda: "attached" in errors.read_text() or tracing.poll() is not None, "strace attaches"
    )
    if "attached" not in errors.read_text():
        pytest.skip(f"strace may not attach here: {errors.read_text().strip()}")
    return tracing


def _state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def _stands_at(tid: int, call: str) -> bool:
    """Stopped on its way into this call, and not only in passing."""
    for _ in range(10):
        number = Path(f"/proc/{tid}/syscall").read_text().split()[0]
        if _state_of(tid) != "t" or number != str(NUMBERS[call]):
            return False
        os.sched_yield()
    return True
