"""`leftfold backup`: a consistent copy of a replica, also while it runs.

What makes it consistent: every file is opened before the first byte is copied, snapshots before
segments, so that retention cannot take one away; then the log is read to its end as it was at that
moment, every record checked. What is copied is the identity, the newest snapshot that checks (with
--from, older ones too), and the log from there on up to that end: a prefix of the log, whole. A directory, or a tar in a
file, is read back from the disk and compared. Nothing of the replica is locked, asked or changed.

The layout is in manifest.py. A backup that was not finished is removed, and has no manifest.
"""

import contextlib
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Protocol

import msgspec
from attrs import define, evolve, field
from cyclopts import Parameter

from ..runtime.errors import CorruptSnapshot, OperatorError
from ..runtime.files import create_directory, sync_directory
from ..runtime.identity import IDENTITY_NAME
from ..runtime.segments import segment_name
from .fold import check_index
from .held import Held
from .history import History, open_history
from .manifest import NAME, Blocks, Manifest, Member, verify, verify_bytes
from .nearest import content_of
from .place import parse_place
from .progress import Advance, progress
from .scratch import file_beside

PIECE_BYTES = 1 << 20
STDOUT = "-"


def backup(
    directory: Path,
    target: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    from_: Annotated[str | None, Parameter(name="--from")] = None,
    json: bool = False,
) -> None:
    """Copy a replica, running or not, to a directory or a tar; `leftfold restore` makes one of it.

    Parameters
    ----------
    directory
        The replica's directory; nothing is written to it.
    target
        A directory that does not exist or is empty, a file that ends in .tar, or - for a tar on
        stdout.
    from_
        The first INDEX that it must be possible to restore to: older snapshots and more of the log
        are taken along. Default: what the newest snapshot needs.
    json
        Print what was written as one JSON object (for - on stderr).
    """
    if target == STDOUT and sys.stdout.isatty():
        raise OperatorError("A tar is nothing for a terminal: redirect stdout, or name a target.")
    history = open_history(directory)
    with _target(target) as writing:
        manifest = write_backup(history, writing, parse_place(from_)[0] if from_ else None)
    output = sys.stderr if target == STDOUT else sys.stdout
    facts = {
        "target": target,
        "bytes": manifest.size,
        "first": manifest.first,
        "last": manifest.last,
        "snapshot": manifest.snapshot,
    }
    if json:
        print(msgspec.json.encode(facts).decode(), file=output)
        return
    print(
        f"{len(manifest.members)} files, {manifest.size:,} bytes; "
        f"restores to any entry from {manifest.first} to {manifest.last}.",
        file=output,
    )


class Target(Protocol):
    """Where a backup goes."""

    def add(self, path: str, size: int, pieces: Iterable[bytes]) -> None:
        """Write one file, durably once `finish` has returned."""
        ...

    def finish(self, manifest: Manifest) -> None:
        """Everything is there: make it durable, and check it where it can be read back."""
        ...

    def remove(self) -> None:
        """Leave nothing behind."""
        ...


def write_backup(history: History, target: Target, first: int | None = None) -> Manifest:
    """Copy what the history holds open, from what `first` needs on."""
    if history.earliest is None:
        raise OperatorError(
            f"{history.directory} cannot be backed up: its log begins at {history.first}, and there "
            "is no snapshot that it goes on from."
        )
    if first is not None:
        check_index(history, first)
    identity = history.identity
    base, snapshots = _checked_snapshots(history, first)
    segments = _segments_behind(history, base)
    sources = _sources(history, snapshots, segments)
    manifest = Manifest(
        app=identity.app,
        cluster_id=identity.cluster_id.hex(),
        replica_id=identity.replica_id,
        first=1 if history.headers[segments[0]].first == 1 else base,
        last=history.last,
        snapshot=max(snapshots, default=0),
        created_ns=time.time_ns(),
    )
    members: list[Member] = []
    total = sum(size for _, size, _ in sources)
    with progress("copying", total, "bytes") as advance:
        for path, size, held in sources:
            copied = sum(member.size for member in members)
            blocks = Blocks(_pieces(held, size, advance, copied))
            target.add(path, size, blocks)
            members.append(blocks.member(path))
    manifest = evolve(manifest, members=tuple(members))
    text = manifest.to_json()
    target.add(NAME, len(text), [text])
    target.finish(manifest)
    return manifest


def _checked_snapshots(history: History, first: int | None) -> tuple[int, list[int]]:
    """(the index that the copied log goes on from, the snapshots to copy, newest first).

    Every one of them was read to its end, and checks. 0: the log from its beginning.
    """
    found: list[int] = []
    why: OperatorError | None = None
    for index in sorted(history.snapshots, reverse=True):
        held = history.snapshots[index]
        try:
            with progress("checking the snapshot", 0, "bytes") as advance:
                done = 0
                for piece in content_of(held, history.identity, index):
                    done += len(piece)
                    advance(done)
        except CorruptSnapshot as damage:
            why = damage
            print(f"leftfold: {damage} It is left out.", file=sys.stderr)
            continue
        found.append(index)
        if first is None or index <= first:
            return index, found
    if history.first != 1:
        assert why is not None, "a log that begins later has a snapshot"
        raise why
    return 0, found


def _segments_behind(history: History, snapshot: int) -> list[int]:
    """The ids of the segments that hold what follows this index."""
    reaching = [at for at, header in history.headers.items() if header.first <= snapshot + 1]
    return [at for at in history.headers if at >= max(reaching)]


def _sources(
    history: History, snapshots: list[int], segments: list[int]
) -> list[tuple[str, int, Held]]:
    """(path in the backup, bytes, file) of what is copied."""
    try:
        identity = Held.open(history.directory / IDENTITY_NAME)
    except OSError as error:
        raise OperatorError(f"Cannot read {error.filename}: {error.strerror}.") from None
    sources = [(IDENTITY_NAME, identity.size, identity)]
    for index in reversed(snapshots):
        held = history.snapshots[index]
        sources.append((f"snapshots/{held.path.name}", held.size, held))
    for at in segments:
        end = history.extents[at].end
        sources.append((f"journal/{segment_name(at)}", end, history.segments[at]))
    return sources


def _pieces(held: Held, size: int, advance: Advance, before: int) -> Iterator[bytes]:
    at = 0
    while at < size:
        piece = held.read(min(PIECE_BYTES, size - at), at)
        if not piece:
            raise OperatorError(f"{held.path} became shorter while it was copied: try again.")
        yield piece
        at += len(piece)
        advance(before + at)


# Targets


@contextmanager
def _target(name: str) -> Generator[Target]:
    """The target of this name; on any failure nothing of it is left."""
    target: Target
    if name == STDOUT:
        target = Tar(sys.stdout.buffer)
    elif name.endswith(".tar"):
        target = TarFile.create(Path(name))
    else:
        target = Directory.create(Path(name))
    try:
        yield target
    except BaseException as error:
        target.remove()
        if isinstance(error, OSError):
            raise OperatorError(f"Cannot write the backup to {name}: {_why(error)}") from None
        raise


def _why(error: OSError) -> str:
    if isinstance(error, BrokenPipeError):
        return "the reader has hung up, and has not got all of it."
    return f"{error.strerror}. Nothing is left of it; free space there, or name another target."


@define
class Directory:
    """A backup as a directory; made by `create`."""

    path: Path
    made: bool

    @classmethod
    def create(cls, path: Path) -> "Directory":
        """Make the directory, or take an empty one. Raises OperatorError."""
        try:
            made = not path.exists()
            create_directory(path)
            if any(path.iterdir()):
                raise OperatorError(f"{path} is not empty: name a target that does not exist yet.")
        except OSError as error:
            raise OperatorError(f"Cannot use {path}: {error.strerror}.") from None
        return cls(path, made)

    def add(self, path: str, size: int, pieces: Iterable[bytes]) -> None:
        """Write and sync one file."""
        target = self.path / path
        target.parent.mkdir(exist_ok=True)
        with target.open("xb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        assert target.stat().st_size == size

    def finish(self, manifest: Manifest) -> None:
        """Sync the names, read everything back, and compare."""
        for directory in (*(one for one in self.path.iterdir() if one.is_dir()), self.path):
            sync_directory(directory)
        for path in self.path.rglob("*"):
            if path.is_file():
                _forget_cached(path)
        found = verify(self.path)
        assert found == manifest

    def remove(self) -> None:
        """Leave the directory as it was."""
        for one in list(self.path.iterdir()):
            shutil.rmtree(one) if one.is_dir() else one.unlink()
        if self.made:
            self.path.rmdir()


@define
class Counted:
    """What tarfile writes to: a stream that need not know where it is."""

    file: BinaryIO
    written: int = 0

    def write(self, data: bytes) -> int:
        """Write all of it."""
        self.file.write(data)
        self.written += len(data)
        return len(data)

    def tell(self) -> int:
        """How much was written."""
        return self.written


@define
class Tar:
    """A backup as a tar that goes to a stream, once and for all."""

    file: BinaryIO
    archive: tarfile.TarFile = field(init=False)

    def __attrs_post_init__(self) -> None:
        counted: Any = Counted(self.file)
        self.archive = tarfile.TarFile(fileobj=counted, mode="w")

    def add(self, path: str, size: int, pieces: Iterable[bytes]) -> None:
        """Write one member."""
        info = tarfile.TarInfo(path)
        info.size, info.mtime, info.mode = size, int(time.time()), 0o644
        source: Any = Pieces(iter(pieces))
        self.archive.addfile(info, source)

    def finish(self, manifest: Manifest) -> None:
        """End the archive."""
        del manifest
        self.archive.close()
        self.file.flush()

    def remove(self) -> None:
        """What is gone is gone; without its manifest it is no backup."""


@define
class Pieces:
    """What tarfile reads from."""

    pieces: Iterator[bytes]
    rest: bytes = b""

    def read(self, size: int) -> bytes:
        """Exactly so many bytes, as far as there are."""
        while len(self.rest) < size:
            piece = next(self.pieces, None)
            if piece is None:
                break
            self.rest += piece
        found, self.rest = self.rest[:size], self.rest[size:]
        return found


@define
class TarFile:
    """A backup as a tar in a file, under a temporary name until it is whole; made by `create`."""

    path: Path
    temporary: Path
    tar: Tar

    @classmethod
    def create(cls, path: Path) -> "TarFile":
        """Create the file. Raises OperatorError."""
        if path.exists():
            raise OperatorError(f"{path} exists: name a target that does not.")
        try:
            temporary, file = file_beside(path)
        except OSError as error:
            raise OperatorError(f"Cannot create {error.filename}: {error.strerror}.") from None
        return cls(path, temporary, Tar(file))

    def add(self, path: str, size: int, pieces: Iterable[bytes]) -> None:
        """Write one member."""
        self.tar.add(path, size, pieces)

    def finish(self, manifest: Manifest) -> None:
        """Sync, read back, compare, and give it its name."""
        self.tar.finish(manifest)
        os.fsync(self.tar.file.fileno())
        _forget_cached(self.temporary)
        members = {member.path: member for member in manifest.members}
        with tarfile.open(self.temporary, "r:") as archive:
            for info in archive:
                if info.name in members:
                    file: Any = archive.extractfile(info)
                    verify_bytes(file, f"{self.path}: {info.name}", members.pop(info.name))
        assert not members
        self.temporary.rename(self.path)
        self.tar.file.close()  # Until now nobody may take it for one that was left.
        sync_directory(self.path.parent)

    def remove(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            self.tar.file.close()
        self.temporary.unlink(missing_ok=True)


def _forget_cached(path: Path) -> None:
    """Have the next reading come from the disk, as far as the kernel agrees."""
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(opened)
