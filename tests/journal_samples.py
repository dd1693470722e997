"""Entries, owners and disks for the tests of the journal."""

from attrs import define, field, frozen

from leftfold.runtime import slots
from leftfold.runtime.journal import Journal
from leftfold.runtime.segments import Disk
from leftfold.runtime.snapshotfile import SnapshotHeader


@frozen
class SampleOwner:
    """Whose journal it is."""

    cluster_id: bytes = b"sample cluster 1"
    replica_id: int = 1


OWNER = SampleOwner()
SMALL = 16 * 1024
"""Bytes of a segment."""


def write(journal: Journal, *runs: bytes) -> None:
    """Write and sync each run."""
    for run in runs:
        journal.write(run)
        journal.sync()


def everything(journal: Journal) -> bytes:
    """All entries that it had when it was opened."""
    found = journal.recovered
    return bytes(journal.read(found.first, found.last, 1 << 30))


def entry(index: int, term: int = 1, body: bytes = b"", kind: int = 0) -> bytes:
    """A padded ENTRY slot; its log time follows from its index and term."""
    head = slots.pack_entry_header(index, term, time_of(index, term), kind, len(body))
    return head + body + bytes(-len(body) % 8)


def time_of(index: int, term: int) -> int:
    """The log time that `entry` gives."""
    return index * 1000 + term


def entries(first: int, last: int, term: int = 1, body_bytes: int = 24) -> bytes:
    """A run of entries whose bodies say their index and term."""
    return b"".join(
        entry(index, term, (b"%d/%d " % (index, term) * body_bytes)[:body_bytes])
        for index in range(first, last + 1)
    )


def heads(run: bytes | bytearray) -> list[tuple[int, int]]:
    """(index, term) of each entry of a run."""
    found = [slots.unpack_entry(slot) for _, _, slot in slots.slots_of(memoryview(run))]
    return [(one.index, one.term) for one in found]


def snapshot_of(index: int, term: int = 1, origin: int = 0) -> SnapshotHeader:
    """What a snapshot of the entry that `entry` gives says of itself."""
    cluster_id, replica_id = OWNER.cluster_id, OWNER.replica_id
    time_ns = time_of(index, term)
    return SnapshotHeader(cluster_id, replica_id, index, term, time_ns, "a build", b"", origin)


@define
class FailingDisk:
    """Counts calls and fails the n-th of a kind with an errno."""

    fail: str
    errno: int
    countdown: int
    calls: list[str] = field(factory=list)

    def disk(self) -> Disk:
        """A Disk whose calls go through here."""
        plain = Disk()

        def through(name: str):
            call = getattr(plain, name)

            def counted(*arguments):
                self.calls.append(name)
                if name == self.fail:
                    self.countdown -= 1
                    if self.countdown == 0:
                        raise OSError(self.errno, "injected")
                return call(*arguments)

            return counted

        names = ("write", "sync", "sync_all", "allocate", "unlink", "rename_file")
        return Disk(**{name: through(name) for name in names})
