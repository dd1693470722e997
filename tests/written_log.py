"""A replica's directory written by a test: identity and journal as the processes write them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from attrs import define, field

from leftfold.actors import App, ledger
from leftfold.actors.layout import COMMAND, SKIP_BODY, EntryKind, SlotType, padded
from leftfold.actors.message import message_version
from leftfold.runtime import slots
from leftfold.runtime.identity import Identity, open_identity
from leftfold.runtime.journal import Journal
from leftfold.runtime.snapshotfile import CONTENT_BYTES_MAX, Encoder, SnapshotHeader
from leftfold.runtime.snapshots import snapshot_name
from leftfold.tools.fold import fold
from leftfold.tools.history import open_history

SESSION = bytes(range(16))
START_NS = 1_700_000_000_000_000_000
LEDGER = "leftfold.actors.ledger:app"
LAST = 42


@define
class WrittenLog:
    """A log that grows by whole entries, each synced; log time advances by a second with each."""

    directory: Path
    app: App
    app_name: str
    segment_bytes: int = 1024 * 1024
    requests: int = field(default=0, init=False)
    identity: Identity = field(init=False)
    journal: Journal = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.identity = open_identity(self.directory, self.app_name)
        self.journal = Journal.open(
            self.directory / "journal", self.identity, segment_bytes=self.segment_bytes
        )

    @classmethod
    def begun(
        cls, directory: Path, app: App, app_name: str, *, segment_bytes: int = 1024 * 1024
    ) -> Self:
        """A log with the start of a term, and its session opened."""
        log = cls(directory, app, app_name, segment_bytes)
        log.append(EntryKind.TERM_START)
        log.commands(log.open_session())
        return log

    def open_session(self) -> bytes:
        """The slot that opens the one session of this log."""
        return COMMAND.pack(COMMAND.size, SlotType.OPEN, 0, SESSION, 0, 0, 0, 0)

    def command(self, key: str, message: object) -> bytes:
        """The slot of the session's next command."""
        self.requests += 1
        message_id, body = self.app.encode(message)
        encoded = self.app.encode_key(type(message), key)
        length = COMMAND.size + len(encoded) + len(body)
        version = message_version(type(message))
        head = COMMAND.pack(
            length, SlotType.COMMAND, message_id, SESSION, self.requests, 1, len(encoded), version
        )
        return padded(head + encoded + body)

    def append(self, kind: EntryKind, run: Sequence[bytes] = (), term: int = 1) -> int:
        """Write and sync one entry; its index."""
        index = self.journal.contents.last + 1
        body = b"".join(run)
        head = slots.pack_entry_header(
            index, term, START_NS + index * 1_000_000_000, kind, len(body)
        )
        self.journal.write(padded(head + body))
        self.journal.sync()
        return index

    def commands(self, *run: bytes) -> int:
        """Write an entry of commands; its index."""
        return self.append(EntryKind.COMMANDS, run)

    def skip(self, index: int, ordinal: int) -> int:
        """Write an operator's decision to leave a command out."""
        return self.append(EntryKind.SKIP, [SKIP_BODY.pack(index, ordinal, 0)])

    def snapshot(self, index: int) -> Path:
        """Fold to an index and write the snapshot of it, as a replica's journal does; its path."""
        history = open_history(self.directory)
        machine = fold(history, self.app, index)
        ((entry, _),) = history.entries(index, index)
        header = SnapshotHeader(
            self.identity.cluster_id, self.identity.replica_id, index, entry.term, entry.time_ns
        )
        path = self.directory / "snapshots" / snapshot_name(index)
        path.parent.mkdir(exist_ok=True)
        encoder = Encoder(header)
        content = b"".join(machine.snapshot())
        pieces = [
            encoder.chunk(content[at : at + CONTENT_BYTES_MAX])
            for at in range(0, len(content), CONTENT_BYTES_MAX)
        ]
        path.write_bytes(b"".join([encoder.header(), *pieces, encoder.end()]))
        return path

    def close(self) -> None:
        """Close the journal as a replica that stops."""
        self.journal.close()


def written_deposits(directory: Path) -> WrittenLog:
    """Entries of two deposits each from 3 to LAST, in segments of eight kilobytes."""
    log = WrittenLog.begun(directory, ledger.app, LEDGER, segment_bytes=8192)
    while log.journal.contents.last < LAST:
        log.commands(*(log.command("main", ledger.Deposit(name, 1)) for name in ("alice", "bob")))
    return log
