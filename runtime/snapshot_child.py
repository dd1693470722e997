"""The child that writes a snapshot: a fork of logic (offshoot.py), which goes on while the child encodes the state as it was.

It inherits one end of a socket to the journal. It says nothing before logic has told the journal of it, or its first packets
would come from nobody.
"""

import errno
import os
import socket
from collections.abc import Callable

from attrs import define, field

from ..actors.errors import StateNotEncodable
from ..actors.machine import Machine
from . import slots
from .offshoot import EXIT_BROKEN, EXIT_DONE, Offshoot
from .snapshotfile import Encoder, Owner, SnapshotHeader

EXIT_NOT_ENCODABLE, EXIT_NO_JOURNAL = EXIT_BROKEN + 1, EXIT_BROKEN + 2
PIECE_BYTES_MAX = slots.PACKET_BYTES_MAX - slots.PACKET.size


@define(eq=False)
class SnapshotChild:
    """At most one child at a time, as logic sees it."""

    socket: socket.socket
    owner: Owner
    build: str
    offshoot: Offshoot
    index: int = field(default=0, init=False)

    @property
    def pid(self) -> int:
        """0: there is none."""
        return self.offshoot.pid

    def begin(
        self, machine: Machine, asked: slots.TakeSnapshot, tell: Callable[[bytes], None]
    ) -> str | None:
        """Fork a child for the state as it is now, and tell the journal; or say why there is none."""
        assert machine.state.index == asked.index, "a snapshot follows the entry that it names"
        if self.pid:
            return f"the snapshot of entry {self.index} is being written"
        waiting, going = os.pipe()

        def write() -> int:
            os.read(waiting, 1)  # It ends when the journal knows.
            os.close(waiting)
            return _write(self, machine, asked)

        try:
            try:
                self.offshoot.begin(write, {self.socket.fileno(), waiting})
            except OSError as error:
                return f"there is no second process: {error.strerror}"
            self.index = asked.index
            tell(slots.pack_snapshot_begun(asked.index, self.pid))
        finally:
            os.close(waiting)
            os.close(going)
        return None

    def ended(self) -> int | None:
        """How the child ended, once; None while it works, or when there is none."""
        code = self.offshoot.ended()
        return slots.ENDED_BY_SIGNAL if code is not None and code < 0 else code


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
    return EXIT_DONE


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
