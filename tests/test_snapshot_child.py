"""The child that writes a snapshot: what it sends is the file, and how it ends costs logic nothing."""

import os
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from replica import wait_until

from leftfold.actors import App, Command, Context, actor, handler, message
from leftfold.actors.layout import COMMAND, SlotType, padded
from leftfold.actors.machine import Machine, Outputs
from leftfold.runtime import slots
from leftfold.runtime.offshoot import EXIT_DONE, Offshoot
from leftfold.runtime.snapshot_child import EXIT_NOT_ENCODABLE, SnapshotChild
from leftfold.runtime.snapshotfile import check, contents

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

SESSION = bytes(range(16))


@message(id=30)
class Put(Command[None]):
    """Keep some text."""

    text: str


@message(id=31)
class Spoil(Command[None]):
    """Keep what no snapshot can carry."""


@actor(id=3, key=str)
class Box:
    """One text, or worse."""

    text: str = ""

    @handler
    def put(self, command: Put, context: Context) -> None:
        self.text = command.text

    @handler
    def spoil(self, command: Spoil, context: Context) -> None:
        self.text = object()  # type: ignore[assignment]


app = App(actors=[Box], name="boxes")


class Owner:
    cluster_id = bytes(16)
    replica_id = 1


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def machine_with(*commands: tuple[int, str, Command[None]]) -> Machine:
    """A machine that has applied one entry with these commands of one session."""
    machine = Machine(app)
    run = COMMAND.pack(40, SlotType.OPEN, 0, SESSION, 0, 0, 0, 0)
    for request, (id, key, command) in enumerate(commands, 1):
        body = key.encode() + msgspec.msgpack.encode(command)
        run += padded(
            COMMAND.pack(
                40 + len(body), SlotType.COMMAND, id, SESSION, request, request, len(key), 0
            )
            + body
        )
    machine.apply(1, 1000, 0, run, outputs=Outputs())
    return machine


def begin(child: SnapshotChild, machine: Machine, told: list[bytes]) -> str | None:
    return child.begin(machine, slots.TakeSnapshot(machine.state.index, 3, 0, b"us"), told.append)


def packets(journal: socket.socket) -> list[tuple[int, int, bytes]]:
    """Everything until a packet that ends a file: (index, kind, data)."""
    found: list[tuple[int, int, bytes]] = []
    while not found or found[-1][1] == slots.PACKET_DATA:
        packet = journal.recv(slots.PACKET_BYTES_MAX + 1)
        assert len(packet) <= slots.PACKET_BYTES_MAX
        index, kind, zero = slots.PACKET.unpack_from(packet)
        assert zero == 0
        found.append((index, kind, packet[slots.PACKET.size :]))
    return found


def ended(child: SnapshotChild) -> int:
    status = wait_until(lambda: [found for found in (child.ended(),) if found is not None], "end")
    return status[0]


def test_it_sends_the_file_while_the_machine_goes_on(
    sockets: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    """More than the socket holds, so that the child still writes while the state changes."""
    ours, journal = sockets
    texts = [(30, f"key {number}", Put(text=os.urandom(20_000).hex())) for number in range(100)]
    machine = machine_with(*texts)
    digest = machine.state_digest()
    child, told = SnapshotChild(ours, Owner(), "a build", Offshoot("leftfold: snapshot test")), []

    assert begin(child, machine, told) is None
    machine.apply(2, 2000, 2, b"", outputs=Outputs())
    assert child.ended() is None, "it waits for the journal"
    sent = packets(journal)

    assert ended(child) == EXIT_DONE
    assert child.ended() is None, "said once"
    (slot,) = (slot for _, _, slot in slots.slots_of(memoryview(told[0])))
    assert slots.unpack_snapshot_begun(slot)[0] == 1
    assert {index for index, _, _ in sent} == {1}
    assert [kind for _, kind, _ in sent[:-1]] == [slots.PACKET_DATA] * (len(sent) - 1)
    path = tmp_path / "sent"
    path.write_bytes(b"".join(data for _, _, data in sent))
    header = check(path)
    assert (header.index, header.term, header.time_ns) == (1, 3, 1000)
    assert (header.build, header.membership) == ("a build", b"us")
    restored = Machine.restore(app, None, 0, contents(path))
    assert restored.state_digest() == digest
    assert restored.state.index == 1


def test_state_that_does_not_encode_is_named_and_nothing_counts(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    ours, journal = sockets
    machine = machine_with((30, "good", Put(text="x")), (31, "bad", Spoil()))
    child = SnapshotChild(ours, Owner(), "a build", Offshoot("leftfold: snapshot test"))

    assert begin(child, machine, []) is None

    kind, sentence = packets(journal)[-1][1:]
    assert kind == slots.PACKET_FAILED
    assert b"Box" in sentence and b"bad" in sentence
    assert ended(child) == EXIT_NOT_ENCODABLE


def test_only_one_child_at_a_time_and_a_killed_one_is_told_as_such(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    ours, journal = sockets
    machine = machine_with(
        *[(30, f"{number}", Put(text=os.urandom(9000).hex())) for number in range(100)]
    )
    child = SnapshotChild(ours, Owner(), "a build", Offshoot("leftfold: snapshot test"))
    assert begin(child, machine, []) is None

    assert begin(child, machine, []) == "the snapshot of entry 1 is being written"
    os.kill(child.pid, signal.SIGKILL)

    assert ended(child) == slots.ENDED_BY_SIGNAL
    assert begin(child, machine, []) is None
    os.kill(child.pid, signal.SIGKILL)
    assert ended(child) == slots.ENDED_BY_SIGNAL
    journal.close()


def test_it_keeps_no_descriptor_but_the_socket(
    sockets: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    """Neither the lock of the directory nor the supervisor's pipe may outlive logic in it."""
    ours, journal = sockets
    machine = machine_with(
        *[(30, f"{number}", Put(text=os.urandom(9000).hex())) for number in range(100)]
    )
    child = SnapshotChild(ours, Owner(), "a build", Offshoot("leftfold: snapshot test"))
    with (tmp_path / "lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        assert begin(child, machine, []) is None
        journal.recv(struct.calcsize("<QII"))  # It has begun, so it has let go.
        kept = {os.readlink(entry) for entry in Path(f"/proc/{child.pid}/fd").iterdir()}
    os.kill(child.pid, signal.SIGKILL)
    ended(child)

    assert str(tmp_path / "lock") not in kept
    assert len([name for name in kept if name.startswith("socket:")]) <= 1 + len(
        [name for name in map(_link, (0, 1, 2)) if name.startswith("socket:")]
    )


def _link(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")


def test_a_journal_that_is_gone_ends_it(sockets: tuple[socket.socket, socket.socket]) -> None:
    ours, journal = sockets
    journal.close()
    child = SnapshotChild(ours, Owner(), "a build", Offshoot("leftfold: snapshot test"))

    assert begin(child, machine_with((30, "a", Put(text="x"))), []) is None

    assert ended(child) not in (EXIT_DONE, slots.ENDED_BY_SIGNAL)
