"""The snapshots of a replica: `snapshots/snapshot-<index>.lfs`, and which of them counts.

A snapshot is written under a temporary name. `admit` reads it back from disk, checks all of it,
renames it and syncs the directory; only then does it count, and only then do those go that are
older than the two newest. A crash at any step leaves the one before.

At a start the newest that checks is used. A damaged newer one is renamed to `….damaged` and said to
be so, and the one before serves: the log is kept from the older of the two newest on (`keep_from`),
so nothing is lost. A snapshot of somebody else, or of a later format, is not passed over but
refused, because the directory is not what it should be.

`admit` may run in a thread of its own, one at a time; `kept` is replaced whole, never changed.
Left to others: the format (snapshotfile.py), how the bytes come (spool.py), and the log.
"""

import contextlib
import os
import re
from collections.abc import Generator
from pathlib import Path

from attrs import define, field, frozen

from .errors import CorruptSnapshot, OperatorError, SnapshotFailed
from .files import create_directory
from .segments import Disk
from .snapshotfile import Owner, SnapshotHeader, check, read_header, read_trailer, resealed

KEPT = 2
"""The newest may be damaged tomorrow: then the one before serves."""

_NAME = re.compile(r"snapshot-(\d{20})\.lfs")
_TEMPORARY, _DAMAGED = ".tmp", ".damaged"
_INCOMING, _ADOPTED = ".incoming.tmp", ".adopted.tmp"


def snapshot_name(index: int) -> str:
    """The file name of the snapshot of an index."""
    return f"snapshot-{index:020d}.lfs"


def list_snapshots(directory: Path) -> list[tuple[int, Path]]:
    """(index, path) of the snapshots in `snapshots/`, oldest first, by name alone."""
    named = ((_NAME.fullmatch(path.name), path) for path in directory.iterdir())
    return sorted((int(name[1]), path) for name, path in named if name is not None)


@frozen
class Kept:
    """A snapshot that counts."""

    header: SnapshotHeader
    path: Path
    file_bytes: int
    content_bytes: int

    @property
    def index(self) -> int:
        """The last entry that is in it."""
        return self.header.index


@define(eq=False)
class SnapshotStore:
    """The directory of snapshots; see the head of this file."""

    directory: Path
    owner: Owner
    disk: Disk
    kept: tuple[Kept, ...] = ()
    """Those that count, oldest first."""
    warnings: list[str] = field(factory=list[str])
    """What was found at the start that an operator should know."""

    @classmethod
    def open(cls, directory: Path, owner: Owner, *, disk: Disk | None = None) -> "SnapshotStore":
        """Open or create the store; the two newest snapshots were read in full then.

        Raises OperatorError (ForeignSnapshot, NewerFormat, or for what cannot be read).
        """
        store = cls(directory, owner, disk or Disk())
        try:
            create_directory(directory)
            store._find(store._tidy())
        except OSError as error:
            raise OperatorError(
                f"Cannot use the snapshots in {directory}: {error.strerror} "
                f"({error.filename or 'reading'}). "
                "This user must be able to read and write them, and the disk must work."
            ) from error
        return store

    @property
    def newest(self) -> SnapshotHeader | None:
        """The snapshot that a start goes on from."""
        return self.kept[-1].header if self.kept else None

    @property
    def keep_from(self) -> int:
        """The first entry that the older of the two newest needs; 0 while there are not two."""
        return self.kept[-KEPT].index + 1 if len(self.kept) >= KEPT else 0

    @property
    def file_bytes(self) -> int:
        """What the snapshots take on disk."""
        return sum(one.file_bytes for one in self.kept)

    def path_of(self, index: int) -> Path:
        """The file of the snapshot of `index`, which must be one that counts."""
        (found,) = (one.path for one in self.kept if one.index == index)
        return found

    def temporary(self, index: int) -> Path:
        """Where the snapshot of `index` is written until it counts."""
        return self.directory / (snapshot_name(index) + _TEMPORARY)

    def incoming(self, index: int) -> Path:
        """Where the bytes of another replica's snapshot are written as they come."""
        return self.directory / (snapshot_name(index) + _INCOMING)

    def adopt(self, path: Path, index: int) -> Kept:
        """Make another replica's snapshot, whole in `path`, count as one of this replica; `path` goes.

        Raises SnapshotFailed, and then it does not.
        """
        temporary = self.directory / (snapshot_name(index) + _ADOPTED)
        try:
            header = read_header(path)
            if (header.cluster_id, header.index) != (self.owner.cluster_id, index):
                raise SnapshotFailed(f"{path} is another cluster's, or of another index")
            with refusing("write", temporary), temporary.open("wb") as file:
                for piece in resealed(path, self.owner, header.replica_id):
                    file.write(piece)
                file.flush()
                self.disk.sync(file.fileno())
            return self.admit(index, temporary)
        except CorruptSnapshot as damage:
            raise SnapshotFailed(
                f"what came is damaged at offset {damage.offset}: {damage.why}"
            ) from None
        except OperatorError as error:
            raise SnapshotFailed(f"what came cannot be read ({error})") from None
        finally:
            for name in (path, temporary):
                with contextlib.suppress(OSError):
                    self.disk.unlink(name)

    def admit(self, index: int, temporary: Path | None = None) -> Kept:
        """Make the snapshot of `index`, which is written and synced under its temporary name, count.

        Raises SnapshotFailed, and then it does not; the temporary file is left to `discard`.
        """
        temporary, path = temporary or self.temporary(index), self.directory / snapshot_name(index)
        try:
            kept = self._examine(temporary, index, path)
        except CorruptSnapshot as damage:
            raise SnapshotFailed(
                f"what was read back of {damage.file} is damaged at offset {damage.offset}: "
                f"{damage.why}"
            ) from None
        except OperatorError as error:
            raise SnapshotFailed(f"it cannot be read back ({error})") from None
        with refusing("name", path):
            self.disk.rename_file(temporary, path)
            self._sync_directory()
        others = [one for one in self.kept if one.index != index]
        self.kept = tuple(sorted([*others, kept], key=lambda one: one.index))
        self._remove_old()
        return kept

    def discard(self, index: int) -> None:
        """Remove what was written of a snapshot that will not count."""
        with contextlib.suppress(OSError):
            self.disk.unlink(self.temporary(index))

    # Inside

    def _tidy(self) -> list[tuple[int, Path]]:
        """Remove what a killed process left half written; what is there then, newest first."""
        for path in sorted(self.directory.glob(f"*{_TEMPORARY}")):
            self.disk.unlink(path)
        self._sync_directory()  # A name may be as fresh as the kill that left it.
        return list_snapshots(self.directory)[::-1]

    def _find(self, found: list[tuple[int, Path]]) -> None:
        """The two newest are read in full, for the log is let go on the word of both; of older ones
        the header."""
        kept: list[Kept] = []
        damaged: list[CorruptSnapshot] = []
        for index, path in found:
            try:
                kept.insert(0, self._examine(path, index, path, whole=len(kept) < KEPT))
            except CorruptSnapshot as damage:
                damaged.append(damage)
                self.disk.rename_file(path, path.with_name(path.name + _DAMAGED))
                self._sync_directory()
        self.kept = tuple(kept)
        serves = f"the snapshot of entry {kept[-1].index}" if kept else "the log from its beginning"
        for damage in damaged:
            instead = f"; {serves} is used" if damage.file.name > self._newest_name() else ""
            self.warnings.append(
                f"A snapshot is damaged: {damage.file} at offset {damage.offset}: {damage.why}. "
                f"It was renamed to {damage.file.name}{_DAMAGED}{instead}."
            )

    def _newest_name(self) -> str:
        return self.kept[-1].path.name if self.kept else ""

    def _examine(self, path: Path, index: int, name: Path, *, whole: bool = True) -> Kept:
        """What the file at `path` says, if all that must be checked of it checks."""
        header = read_header(path)
        header.refuse_foreign(path, self.owner)
        if header.index != index:
            raise CorruptSnapshot(path, 48, f"it is the snapshot of entry {header.index}")
        if whole:
            check(path)
        trailer = read_trailer(path)
        return Kept(header, name, path.stat().st_size, trailer.content_bytes)

    def _remove_old(self) -> None:
        """Whatever is older than the two newest; what cannot be removed now is the next one's."""
        old, self.kept = self.kept[:-KEPT], self.kept[-KEPT:]
        doomed = [one.path for one in old]
        if len(self.kept) == KEPT:
            oldest = self.kept[0].path.name
            doomed += [
                path
                for path in self.directory.glob(f"*{_DAMAGED}")
                if path.name.removesuffix(_DAMAGED) < oldest
            ]
        for path in doomed:
            with contextlib.suppress(OSError):
                self.disk.unlink(path)

    def _sync_directory(self) -> None:
        opened = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.disk.sync_all(opened)
        finally:
            os.close(opened)


@contextlib.contextmanager
def refusing(verb: str, path: Path) -> Generator[None]:
    """What the disk refuses costs this snapshot and nothing else."""
    try:
        yield
    except OSError as error:
        raise SnapshotFailed(f"cannot {verb} {path}: {error.strerror}") from error
