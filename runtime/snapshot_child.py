"""The child that writes a snapshot: a fork of logic, which goes on while the child encodes the state as it was.

The one exception to I2. It inherits one end of a socket to the journal and keeps no other descriptor but the standard
ones; it uses no ring and opens no file; it gives way to the live processes; it dies with logic, and its own death costs
nothing but this snapshot. Logic never waits for it: how it ended is asked for in passing.

It says nothing before logic has told the journal of it, or its first packets would come from nobody.
"""

import errno
import os
import signal
import socket
import traceback
from collections.abc import Callable
from typing import NoReturn, Protocol

from attrs import define, field
from setproctitle import setproctitle

from ..actors.errors import StateNotEncodable
from ..actors.machine import Machine
from ..shm import die_with_parent
from . import slots
from .snapshotfile import Encoder, SnapshotHeader

NICENESS = 10
EXIT_WRITTEN, EXIT_NOT_ENCODABLE, EXIT_NO_JOURNAL, EXIT_BROKEN = range(4)
PIECE_BYTES_MAX = slots.PACKET_BYTES_MAX - slots.PACKET.size


class Owner(Protocol):
    """Whose snapshot it is; `identity.Identity` is one."""

    @property
    def cluster_id(self) -> bytes: ...
    @property
    def replica_id(self) -> int: ...


@define(eq=False)
class SnapshotChild:
    """At most one child at a time, as logic sees it."""

    socket: socket.socket
    owner: Owner
    build: str
    title: str
    """What the process list shows."""
    cores: frozenset[int] = field(factory=lambda: frozenset(os.sched_getaffinity(0)))
    """Where the child may run, wherever logic is by then."""
    pid: int = field(default=0, init=False)
    index: int = field(default=0, init=False)

    def begin(
        self, machine: Machine, asked: slots.TakeSnapshot, tell: Callable[[bytes], None]
    ) -> str | None:
        """Fork a child for the state as it is now, and tell the journal; or say why there is none."""
        assert machine.state.index == asked.index, "a snapshot follows the entry that it names"
        if self.pid:
            return f"the snapshot of entry {self.index} is being written"
        waiting, going = os.pipe()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(waiting)
            os.close(going)
            return f"there is no second process: {error.strerror}"
        if not pid:
            _be_the_child(self, machine, asked, waiting, os.getppid())
        os.close(waiting)
        self.pid, self.index = pid, asked.index
        tell(slots.pack_snapshot_begun(asked.index, pid))
        os.close(going)
        return None

    def ended(self) -> int | None:
        """How the child ended, once; None while it works, or when there is none."""
        if not self.pid:
            return None
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return None
        self.pid = 0
        code = os.waitstatus_to_exitcode(status)
        return slots.ENDED_BY_SIGNAL if code < 0 else code


def _be_the_child(
    child: SnapshotChild, machine: Machine, asked: slots.TakeSnapshot, waiting: int, parent: int
) -> NoReturn:
    status = EXIT_BROKEN
    try:
        die_with_parent(parent)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.nice(NICENESS)
        os.sched_setaffinity(0, child.cores)
        setproctitle(child.title)
        keep_only({child.socket.fileno(), waiting})
        os.read(waiting, 1)  # It ends when the journal knows.
        os.close(waiting)
        status = _write(child, machine, asked)
    except BaseException:  # noqa: BLE001 - whatever it is, it is shown, and ends nobody else
        traceback.print_exc()
    finally:
        os._exit(status)


def keep_only(descriptors: set[int]) -> None:
    """Let go of the lock, of the supervisor's pipe and of whatever else logic has open."""
    kept = sorted(descriptors)
    for low, high in zip([2, *kept], [*kept, os.sysconf("SC_OPEN_MAX")], strict=True):
        os.closerange(low + 1, high)


def _write(child: SnapshotChild, machine: Machine, asked: slots.TakeSnapshot) -> int:
    """Send the file's bytes, or the sentence why there are none."""
    header = SnapshotHeader(
        cluster_id=child.owner.cluster_id,
        replica_id=child.owner.replica_id,
        index=asked.index,
        term=asked.term,
        time_ns=machine.state.time_ns,
        build=child.build,
        membership=asked.membership,
    )
    packets = _Packets(child.socket, asked.index)
    try:
        encoder = Encoder(header)
        packets.data(encoder.header())
        for content in machine.snapshot(verify=True):
            packets.data(encoder.chunk(content))
        packets.data(encoder.end())
        packets.send(slots.PACKET_END)
    except StateNotEncodable as refused:
        packets.send(slots.PACKET_FAILED, f"{refused}".encode()[: PIECE_BYTES_MAX // 8])
        return EXIT_NOT_ENCODABLE
    except MemoryError:
        packets.send(slots.PACKET_FAILED, b"there is no memory for the child that writes it")
        return EXIT_BROKEN
    except OSError as error:
        if error.errno in (errno.EPIPE, errno.ECONNRESET):
            return EXIT_NO_JOURNAL
        raise
    return EXIT_WRITTEN


@define
class _Packets:
    socket: socket.socket
    index: int

    def data(self, data: bytes | bytearray | memoryview) -> None:
        """Bytes of the file, in as many packets as they need."""
        view = memoryview(data)
        for start in range(0, len(view), PIECE_BYTES_MAX):
            self.send(slots.PACKET_DATA, view[start : start + PIECE_BYTES_MAX])

    def send(self, kind: int, data: bytes | memoryview = b"") -> None:
        """One packet; it waits while the journal has enough to do."""
        self.socket.sendmsg([slots.PACKET.pack(self.index, kind, 0), data])
