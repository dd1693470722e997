"""A journal's process between real rings in plain memory, for tests: they hold consensus's ends, and logic's."""

import socket
from pathlib import Path

from replica import wait_until

from leftfold.runtime import slots
from leftfold.runtime.clock import Clock
from leftfold.runtime.journal import Journal
from leftfold.runtime.journal_process import JournalProcess
from leftfold.runtime.room import DiskLimits
from leftfold.runtime.segments import Disk
from leftfold.runtime.snapshots import SnapshotStore
from leftfold.shm import (
    DOORBELL_BYTES,
    Consumer,
    Doorbell,
    Producer,
    format_ring,
    ring_bytes,
)


def snapshots_of(journal: Journal, disk: Disk | None = None) -> SnapshotStore:
    """The store beside a journal."""
    return SnapshotStore.open(
        Path(journal.directory.parent, "snapshots"), journal.owner, disk=disk or journal.disk
    )


class Rings:
    """The process, and everybody else's ends of its rings and of its socket."""

    def __init__(
        self,
        journal,
        store=None,
        persist=1 << 16,
        persisted=1 << 12,
        read=1 << 13,
        restore=1 << 13,
        limits=None,
        event_fd=None,
        counters=None,
    ):
        """With an eventfd its ends have a bell, as a process waits on."""
        self.bell = self.waker = None
        if event_fd is not None:
            cell = bytearray(DOORBELL_BYTES)
            self.bell, self.waker = (Doorbell(cell, event_fd=event_fd) for _ in range(2))
        self.store = store or snapshots_of(journal)
        self.persist, persist_out = self.ring_in(persist)
        persisted_in, self.persisted = self.ring_out(persisted)
        read_in, self.read = self.ring_out(read)
        self.snapshot, snapshot_out = self.ring_in(1 << 12)
        restore_in, self.restore = self.ring_out(restore)
        self.child, packets = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.process = JournalProcess(
            journal,
            self.store,
            persist_out,
            persisted_in,
            read_in,
            snapshot_out,
            restore_in,
            packets,
            Clock(),
            limits or DiskLimits(),
            counters,
        )

    @staticmethod
    def memory(capacity):
        """Of a ring."""
        memory = bytearray(ring_bytes(capacity))
        format_ring(memory, capacity)
        return memory

    def ring_in(self, capacity):
        """Both ends of a ring that the process reads."""
        memory = self.memory(capacity)
        return Producer(memory, None, self.waker), Consumer(memory, self.bell)

    def ring_out(self, capacity):
        """Both ends of a ring that it writes."""
        memory = self.memory(capacity)
        return Producer(memory, self.bell), Consumer(memory, None, self.waker)

    def work(self):
        """Until there is nothing to do, or a ring is full."""
        while self.process.work():
            pass

    @staticmethod
    def take(consumer):
        """All slots that are there: (type, tag, bytes)."""
        found = []
        while run := consumer.peek_bytes():
            found += [
                (kind, tag, bytes(slot)) for kind, tag, slot in slots.slots_of(memoryview(run))
            ]
            consumer.release(len(run))
        return found

    def recovered(self):
        """The RECOVERED slot, which comes first."""
        self.work()
        ((kind, _, slot),) = self.take(self.read)
        assert kind == slots.RECOVERED
        return slots.unpack_recovered(memoryview(slot))

    def told(self, kind, what):
        """The next slots of this type in `persisted`, waited for; others are passed over."""

        def found():
            self.work()
            return [slot for of, _, slot in self.take(self.persisted) if of == kind]

        return wait_until(found, what)

    def packet(self, index, kind, data=b""):
        """Send one packet as logic's child does."""
        self.child.send(slots.PACKET.pack(index, kind, 0) + data)

    def end(self):
        """End the thread; the journal is the test's own."""
        self.process.spool.close()
        self.child.close()
