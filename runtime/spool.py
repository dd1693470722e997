"""The spool: a thread of the journal's process that does what may take long, so that no batch waits.

It takes the packets of a snapshot from the child that encodes it and writes them to a temporary
file, reads the file back, and makes it count (snapshots.py); and it removes segments that may go.
The thread and the main loop share nothing but two queues: what is asked, and what came of it. Its
memory is one packet, its queue is what the socket holds: a child that is faster waits there.

    begin(index)           from now on packets of this index are written; those of any other are
                           the rest of a child that was killed, and are dropped
    ended(index, status)   the child is gone: what it sent is in the socket, and if the end of the
                           file is not among it, there is no snapshot
    adopt(index, path)     another replica's snapshot is whole in this file: check it and make it count
    remove(paths)          segments, oldest first, each durably gone before the next

What becomes of a snapshot is told once, as an `Outcome`. A disk that refuses costs the snapshot and
nothing else: the temporary file goes, and the log lives on.

The disk is the log's too. A large amount of unsynced data would be written out in front of the
log's next batch. So the file is synced a MiB at a time, by this thread, and after each sync the
disk is left alone for twice as long as it took: of the ways that were measured the one that the
log's syncs notice least, and a child that encodes is seldom faster.
"""

import os
import queue
import select
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

from attrs import define, field, frozen

from . import slots
from .clock import Clock
from .config import NS_PER_S
from .errors import SnapshotFailed
from .segments import Disk
from .snapshotfile import HEADER_BLOCK_BYTES, MAGIC
from .snapshots import Kept, SnapshotStore, refusing

SYNC_EVERY_BYTES = 1024 * 1024
REST_SHARE = 2
REST_NS_MAX = 50_000_000


@frozen
class Outcome:
    """What became of the snapshot of `index`: `kept` if it counts, else `why` it does not."""

    index: int
    kept: Kept | None = None
    why: str = ""
    adopted: bool = False
    """It is another replica's, which this one was sent."""


@define(eq=False)
class Receiving:
    """A snapshot that is coming in: its temporary file, and how far that is written."""

    index: int
    path: Path
    disk: Disk
    file: int = -1
    written: int = 0
    synced: int = 0

    def open(self) -> None:
        """Create the file, or empty it."""
        with refusing("create", self.path):
            self.close()
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self.file = os.open(self.path, flags, 0o644)
        self.written = self.synced = 0

    def write(self, data: memoryview) -> None:
        """Append, unsynced."""
        while data:
            with refusing("write", self.path):
                count = self.disk.write(self.file, [data], self.written)
            self.written += count
            data = data[count:]

    def sync(self) -> None:
        """Make it durable as far as it is written."""
        with refusing("sync", self.path):
            self.disk.sync(self.file)
        self.synced = self.written

    def forget_cached(self) -> None:
        """What is read from here on comes from the disk and not from memory."""
        with refusing("reread", self.path):
            os.posix_fadvise(self.file, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Close the file; again is nothing."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


@frozen
class _Begin:
    index: int


@frozen
class _Ended:
    index: int
    status: int


@frozen
class _Adopt:
    index: int
    path: Path


@frozen
class _Remove:
    paths: Sequence[Path]


_Asked = _Begin | _Ended | _Adopt | _Remove | None


@define(eq=False)
class Spool:
    """Start with `start()`; everything else is asked from the main loop, and none of it waits."""

    store: SnapshotStore
    packets: socket.socket
    """This process's end of the socket to logic's children."""
    disk: Disk
    clock: Clock
    written_bytes: int = field(default=0, init=False)
    """What the snapshot that is being written, if there is one, takes on disk by now."""
    _asked: "queue.SimpleQueue[_Asked]" = field(init=False)
    _outcomes: "queue.SimpleQueue[Outcome]" = field(init=False)
    _wake: int = field(init=False)
    _thread: threading.Thread = field(init=False)
    _failure: BaseException | None = field(default=None, init=False)
    _receiving: Receiving | None = field(default=None, init=False)
    _child: int = field(default=0, init=False)
    """The index of the child there is: what it sends is taken even when it will not count."""
    _ahead: bool = field(default=False, init=False)
    """The next packet is from a later child than was heard of here; it waits in the socket."""
    _packet: bytearray = field(init=False)
    _silent: bool = field(default=False, init=False)
    """Nobody can send any more."""
    _rested_ns: int = field(default=0, init=False)
    """Until then the disk is the log's alone."""
    _stopped: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._asked, self._outcomes = queue.SimpleQueue(), queue.SimpleQueue()
        self._packet = bytearray(slots.PACKET_BYTES_MAX)
        self.packets.setblocking(False)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        self._thread.start()

    # The main loop's side

    def begin(self, index: int) -> None:
        """A child writes the snapshot of `index`."""
        self._ask(_Begin(index))

    def ended(self, index: int, status: int) -> None:
        """The child that wrote the snapshot of `index` was waited for."""
        self._ask(_Ended(index, status))

    def adopt(self, index: int, path: Path) -> None:
        """Check another replica's snapshot, which is whole in this file, and make it count."""
        self._ask(_Adopt(index, path))

    def remove(self, paths: Sequence[Path]) -> None:
        """Remove files of one directory that nobody needs, in this order."""
        self._ask(_Remove(paths))

    def outcome(self) -> Outcome | None:
        """What was done since, if anything. A bug in the thread comes out here."""
        if self._failure is not None:
            raise self._failure
        try:
            return self._outcomes.get_nowait()
        except queue.Empty:
            return None

    def close(self) -> None:
        """End the thread when it has done what was asked; a snapshot half received is dropped."""
        self._ask(None)
        self._thread.join()
        self.packets.close()
        os.close(self._wake)

    def _ask(self, asked: _Asked) -> None:
        self._asked.put(asked)
        os.eventfd_write(self._wake, 1)

    # The thread's side

    def _run(self) -> None:
        try:
            while not self._stopped:
                waiting, timeout_s = [self._wake], None
                rest_ns = self._rested_ns - self.clock.monotonic_ns()
                if self._child and not self._ahead and not self._silent:
                    if rest_ns <= 0:
                        waiting.append(self.packets.fileno())
                    else:
                        timeout_s = rest_ns / NS_PER_S
                ready, _, _ = select.select(waiting, [], [], timeout_s)
                if self._wake in ready:
                    os.eventfd_read(self._wake)
                    self._take_asked()
                    self._ahead = False
                elif not ready:
                    continue
                elif self._sent_by(self._child, already=self._receiving is None):
                    self._take_packet()
                else:
                    self._ahead = True
            self._drop("the replica stops")
        except BaseException as failure:  # noqa: BLE001 - the main loop raises it
            self._failure = failure

    def _take_asked(self) -> None:
        while True:
            try:
                asked = self._asked.get_nowait()
            except queue.Empty:
                return
            match asked:
                case _Begin(index):
                    self._drop("another was begun")
                    self._child = index
                    self._receiving = Receiving(index, self.store.temporary(index), self.disk)
                case _Ended(index, status):
                    self._end(index, status)
                case _Adopt(index, path):
                    self._adopt(index, path)
                case _Remove(paths):
                    self._remove(paths)
                case None:
                    self._stopped = True
                    return

    def _end(self, index: int, status: int) -> None:
        """The child is gone, and whatever it sent is in the socket; the next one's may follow."""
        receiving = self._receiving
        while self._sent_by(index, already=receiving is None or receiving.file >= 0):
            if not self._take_packet():
                break
            receiving = self._receiving
        self._child = 0
        if receiving is not None and receiving.index == index:
            ending = "by a signal" if status == slots.ENDED_BY_SIGNAL else f"with status {status}"
            self._drop(f"the process that writes it ended {ending} before it was whole")

    def _sent_by(self, index: int, *, already: bool) -> bool:
        """Whether the next packet, or the end of all, is from the child of `index` or one before.

        Points only go up; and of the same index it is a later child that begins the file when it
        has begun `already`.
        """
        try:
            seen = self.packets.recv(slots.PACKET.size + len(MAGIC), socket.MSG_PEEK)
        except OSError as error:
            return not isinstance(error, BlockingIOError)
        if not seen:
            return True
        sender = int.from_bytes(seen[:8], "little")
        return sender < index or (sender == index and not (already and seen.endswith(MAGIC)))

    def _take_packet(self) -> bool:
        """Take one packet; False if there is none."""
        try:
            size = self.packets.recv_into(self._packet)
        except BlockingIOError:
            return False
        except OSError:  # The other end broke off.
            size = 0
        if not size:
            self._silent = True
            return False
        receiving = self._receiving
        index, kind, _ = slots.PACKET.unpack_from(self._packet)
        if receiving is None or receiving.index != index:
            return True
        data = memoryview(self._packet)[slots.PACKET.size : size]
        try:
            if kind == slots.PACKET_DATA:
                self._write(receiving, data)
            elif kind == slots.PACKET_FAILED:
                self._drop(bytes(data).decode(errors="replace"))
            elif receiving.file >= 0:
                self._finish(receiving)
        except SnapshotFailed as failed:
            self._drop(str(failed))
        return True

    def _write(self, receiving: Receiving, data: memoryview) -> None:
        """The header's packet begins the file, also when a killed child's rest came before it."""
        if len(data) == HEADER_BLOCK_BYTES and bytes(data[: len(MAGIC)]) == MAGIC:
            receiving.open()
        if receiving.file >= 0:
            receiving.write(data)
            self.written_bytes = receiving.written
            if receiving.written - receiving.synced >= SYNC_EVERY_BYTES:
                started_ns = self.clock.monotonic_ns()
                receiving.sync()
                synced_ns = self.clock.monotonic_ns()
                rest_ns = REST_SHARE * (synced_ns - started_ns)
                self._rested_ns = synced_ns + min(rest_ns, REST_NS_MAX)

    def _finish(self, receiving: Receiving) -> None:
        receiving.sync()
        receiving.forget_cached()
        kept = self.store.admit(receiving.index)
        receiving.close()
        self._tell(Outcome(receiving.index, kept))

    def _adopt(self, index: int, path: Path) -> None:
        try:
            outcome = Outcome(index, self.store.adopt(path, index), adopted=True)
        except SnapshotFailed as failed:
            outcome = Outcome(index, None, str(failed), adopted=True)
        self._outcomes.put(outcome)

    def _drop(self, why: str) -> None:
        receiving = self._receiving
        if receiving is not None:
            receiving.close()
            self.store.discard(receiving.index)
            self._tell(Outcome(receiving.index, None, why))

    def _tell(self, outcome: Outcome) -> None:
        self._receiving = None
        self.written_bytes = 0
        self._outcomes.put(outcome)

    def _remove(self, paths: Sequence[Path]) -> None:
        """One by one: whatever the power does, no gap is left among the names."""
        for path in paths:
            try:
                self.disk.unlink(path)
                opened = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    self.disk.sync_all(opened)
                finally:
                    os.close(opened)
            except OSError:
                return  # They stay, and are found at the next start.
