"""Every error of the runtime, as one tree.

    LeftfoldError
    ├── OperatorError           a person must act; the text is one sentence that says what to do
    │   ├── DirectoryInUse      another replica holds the lock of the directory
    │   ├── NotAReplica         the directory is something else, or has lost its identity
    │   ├── ForeignJournal      a segment of another cluster or another replica
    │   ├── NewerFormat         written by a later leftfold
    │   ├── CorruptJournal      durable bytes changed or vanished: file, offset, why
    │   ├── LostJournal         there was a log; it is gone, and term and vote with it
    │   ├── ForeignSnapshot     a snapshot of another cluster or another replica
    │   └── CorruptSnapshot     a snapshot that does not check: file, offset, why
    ├── SnapshotFailed          a snapshot could not be written: the one before serves, and all goes on
    └── JournalFailed           the disk refused: nothing is tried again, the replica stops

Assertions are for our own bugs and are not in the tree. Full and empty are return values, not
errors.
"""

from pathlib import Path

FSYNC_FAILED, DISK_FULL, OTHER_FAILURE = 1, 2, 3
"""Why a journal failed: the tag of the FAILED slot."""

EXIT_JOURNAL_FAILED = 74
"""The exit code of a journal process whose disk refused (EX_IOERR): no automatic restart."""


class LeftfoldError(Exception):
    """Anything that leftfold itself raises."""


class OperatorError(LeftfoldError):
    """Only a person can put this right; the text is the sentence to show."""


class DirectoryInUse(OperatorError):
    """Another replica holds the directory's lock."""


class NotAReplica(OperatorError):
    """The directory does not hold a replica, or not all of one."""


class ForeignJournal(OperatorError):
    """A segment was written by another cluster or another replica."""


class NewerFormat(OperatorError):
    """A file was written by a later version of leftfold."""


class CorruptJournal(OperatorError):
    """What was durable has changed or is missing."""

    def __init__(self, file: Path, offset: int, why: str) -> None:
        super().__init__(
            f"The journal is damaged: {file} at offset {offset}: {why}. "
            "Nothing was changed; restore the replica from a copy or from its peers."
        )
        self.file = file
        self.offset = offset
        self.why = why


class LostJournal(OperatorError):
    """A snapshot proves that there was a journal."""


class ForeignSnapshot(OperatorError):
    """A snapshot belongs in the directory of another cluster or another replica."""


class CorruptSnapshot(OperatorError):
    """A snapshot does not check, and must not be used."""

    def __init__(self, file: Path, offset: int, why: str) -> None:
        super().__init__(
            f"The snapshot is damaged: {file} at offset {offset}: {why}. "
            "Use an older snapshot, or restore this one from a copy or from a peer."
        )
        self.file = file
        self.offset = offset
        self.why = why


class SnapshotFailed(LeftfoldError):
    """A snapshot was not written; the text says why, as a part of a sentence."""


class JournalFailed(LeftfoldError):
    """A write or a sync failed. What was acknowledged is safe; what was not is unknown until the
    next start."""

    def __init__(self, tag: int, sentence: str) -> None:
        super().__init__(sentence)
        self.tag = tag
        self.sentence = sentence
