"""`leftfold restore`: a new replica out of a backup, as it was at its end or at any index in it.

The new directory has a new cluster id, since what the old cluster does from now on is another
history; hash seed, limits and app are the same, so that the fold is. The log is written anew through
the journal, the snapshot gets a new header over the same content. Who belonged to the old cluster is
left out of it: the new one begins with this replica alone. Everything is made beside the directory
and gets its name when it is whole and was read back.
"""

import io
import os
import re
import shutil
import sys
import tarfile
import time
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import attrs
import msgspec
from cyclopts import Parameter

from ..actors.layout import EntryKind
from ..runtime import slots
from ..runtime.errors import JournalFailed, OperatorError
from ..runtime.files import create_directory, sync_directory, write_new
from ..runtime.identity import IDENTITY_NAME, Identity
from ..runtime.journal import Journal
from ..runtime.snapshotfile import (
    CONTENT_BYTES_MAX,
    Encoder,
    SnapshotHeader,
    check,
    read_header,
    read_trailer,
)
from ..runtime.snapshots import snapshot_name
from .history import History, hold_segments, open_history, read_history
from .manifest import MEMBER, damaged, verify
from .nearest import DIRECTORY, content_of
from .place import parse_place
from .progress import progress
from .scratch import beside

PIECE_BYTES = 1 << 20
REPLICA_ID = 1
STDIN = "-"


def restore(
    backup: Annotated[str, Parameter(allow_leading_hyphen=True)],
    directory: Path,
    /,
    *,
    to: str | None = None,
    json: bool = False,
) -> None:
    """Make a new replica out of a backup, with a cluster id of its own.

    Parameters
    ----------
    backup
        What `leftfold backup` wrote: a directory, a file that ends in .tar, or - for a tar on
        stdin.
    directory
        The new replica's directory, which must not exist or be empty.
    to
        Restore to this INDEX: the last entry that is taken. Default: the last there is.
    json
        Print what was made as one JSON object.
    """
    index = _index(to) if to else None
    _refuse_content(directory)
    with _unpacked(backup, directory) as (source, called):
        history = _open_backup(source, called)
        index = _last(history, index)
        with _named_when_whole(directory) as made:
            identity = restore_history(history, index, made)
    facts = {
        "directory": str(directory),
        "cluster_id": identity.cluster_id.hex(),
        "app": identity.app,
        "index": index,
    }
    if json:
        print(msgspec.json.encode(facts).decode())
        return
    print(
        f"Restored to {index}, as cluster {identity.cluster_id.hex()}: "
        f"leftfold run {identity.app} --dir {directory}"
    )


def _index(text: str) -> int:
    index, ordinal = parse_place(text)
    if ordinal is not None:
        raise OperatorError(f"{text!r} names a command: restore to a whole entry, as in {index}.")
    return index


def _refuse_content(directory: Path) -> None:
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise OperatorError(
                f"{directory} is not empty: name a directory that does not exist yet."
            )
    except OSError as error:
        raise OperatorError(f"Cannot use {directory}: {error.strerror}.") from None


def _open_backup(source: Path, called: str) -> History:
    verify(source, called)
    return open_history(source)


def _last(history: History, index: int | None) -> int:
    first = max(1, history.earliest or 0)
    if history.earliest is None or history.last < first:
        raise OperatorError(f"{history.directory} holds nothing to restore.")
    if index is None:
        return history.last
    if not first <= index <= history.last:
        raise OperatorError(
            f"The backup cannot be restored to {index}: it goes from {first} to {history.last}."
        )
    return index


# Making the directory


@contextmanager
def _named_when_whole(directory: Path) -> Generator[Path]:
    """A directory that takes its name when the block ends well, and goes when it does not."""
    try:
        create_directory(directory.parent)
        with beside(directory, "restoring") as made:
            yield made
            if directory.exists():
                directory.rmdir()
            made.rename(directory)
            sync_directory(directory.parent)
    except JournalFailed as failure:
        raise OperatorError(_not_restored(directory, failure.sentence.partition(". ")[0])) from None
    except OSError as error:
        raise OperatorError(_not_restored(directory, error.strerror or str(error))) from None


def _not_restored(directory: Path, why: str) -> str:
    return (
        f"Cannot restore to {directory}: {why}. Nothing is left of it; free space there, or name "
        "another directory."
    )


def restore_history(history: History, index: int, directory: Path) -> Identity:
    """Write identity, snapshot and log up to `index` to an empty directory, and read them back."""
    identity = attrs.evolve(
        history.identity,
        cluster_id=os.urandom(16),
        replica_id=REPLICA_ID,
        created_ns=time.time_ns(),
    )
    header = _restore_snapshot(history, index, identity, directory)
    _restore_journal(history, index, identity, header, directory / "journal")
    _compare(history, index, directory, identity)
    # Last: a directory without an identity is never served.
    assert write_new(directory / IDENTITY_NAME, identity.to_json())
    return identity


def _restore_snapshot(
    history: History, index: int, identity: Identity, directory: Path
) -> SnapshotHeader | None:
    """The newest snapshot up to `index`, with the same content, under the new identity."""
    at = max((at for at in history.snapshots if at <= index), default=None)
    if at is None:
        return None
    held = history.snapshots[at]
    header = attrs.evolve(
        read_header(held.now),
        cluster_id=identity.cluster_id,
        replica_id=identity.replica_id,
        membership=b"",
        origin=0,
    )
    path = directory / DIRECTORY / snapshot_name(at)
    path.parent.mkdir()
    encoder = Encoder(header)
    with path.open("xb") as file, progress("snapshot", held.size, "bytes") as advance:
        file.write(encoder.header())
        for content in content_of(held, history.identity, at):
            assert len(content) <= CONTENT_BYTES_MAX
            file.write(encoder.chunk(content))
            advance(min(file.tell(), held.size))
        file.write(encoder.end())
        file.flush()
        os.fsync(file.fileno())
    sync_directory(path.parent)
    sync_directory(directory)
    check(path)
    assert read_trailer(path).digest == read_trailer(held.now).digest
    return header


def _restore_journal(
    history: History, index: int, identity: Identity, header: SnapshotHeader | None, directory: Path
) -> None:
    """The log behind the snapshot, up to `index`, all of it committed."""
    if header is None:
        journal = Journal.open(directory, identity)
    else:
        journal = Journal.create(directory, identity, header)
    first = journal.contents.last + 1
    try:
        with progress("log", index - first + 1, "entries") as advance:
            for run in history.runs(first, index):
                journal.write(_without_members(run))
                journal.sync()
                advance(journal.contents.last - first + 1)
        # No vote: nobody ever asked this replica for one.
        journal.write(slots.pack_hard_state(journal.contents.last_term, 0, journal.contents.last))
        journal.close()
    except BaseException:
        journal.abandon()
        raise


def _without_members(run: bytearray) -> bytearray:
    """The same entries; those that said who belongs to the cluster say nothing any more.

    They become decisions to leave out a command that does not exist, which change no state.
    """
    kept = bytearray()
    for _, _, slot in slots.slots_of(memoryview(run)):
        entry = slots.unpack_entry(slot)
        if entry.kind == EntryKind.CONFIGURATION:
            body = slots.pack_skip_body(0, 0)
            slot = memoryview(
                slots.pack_entry_header(
                    entry.index, entry.term, entry.time_ns, EntryKind.SKIP, len(body)
                )
                + body
            )
        kept += slot
        kept += bytes(-len(slot) % 8)
    return kept


def _compare(history: History, index: int, directory: Path, identity: Identity) -> None:
    """Read the new log back from the disk: it must hold the same entries."""
    made = read_history(directory, identity, hold_segments(directory / "journal"))
    crcs: list[int] = []
    for one in (history, made):
        crc = 0
        for run in one.runs(made.first, index):
            crc = zlib.crc32(_without_members(run), crc)
        crcs.append(crc)
    if made.last != index or crcs[0] != crcs[1]:
        raise OperatorError(
            f"What was written to {directory} is not what is read back: check the disk."
        )


# Archives


@contextmanager
def _unpacked(backup: str, directory: Path) -> Generator[tuple[Path, str]]:
    """(the backup as a directory, its name in sentences)."""
    if backup != STDIN and Path(backup).is_dir():
        yield Path(backup), backup
        return
    name = "stdin" if backup == STDIN else backup
    try:
        create_directory(directory.absolute().parent)
        with beside(directory, "unpacked") as place:
            with _opened(backup) as file:
                _unpack(file, name, place)
            yield place, name
    except OSError as error:
        where = directory.absolute().parent
        raise OperatorError(f"Cannot unpack {name} in {where}: {error.strerror}.") from None


@contextmanager
def _opened(backup: str) -> Generator[BinaryIO]:
    if backup == STDIN:
        yield sys.stdin.buffer
        return
    try:
        file = io.BufferedReader(io.FileIO(backup))
    except OSError as error:
        raise OperatorError(f"Cannot read {backup}: {error.strerror}.") from None
    with file:
        yield file


def _unpack(file: BinaryIO, name: str, place: Path) -> None:
    """Write the members of a tar to a directory, if it holds what a backup holds and nothing else."""
    offset = 0
    try:
        with tarfile.open(fileobj=file, mode="r|") as archive:
            for info in archive:
                offset = info.offset
                if not info.isfile() or MEMBER.fullmatch(info.name) is None:
                    raise damaged(name, offset, f"no backup has a member {info.name!r}")
                target = place / info.name
                target.parent.mkdir(exist_ok=True)
                if target.exists():
                    raise damaged(name, offset, f"{info.name} is there twice")
                source: Any = archive.extractfile(info)
                with target.open("xb") as out:
                    shutil.copyfileobj(source, out, PIECE_BYTES)
                offset += info.size
    except (tarfile.TarError, EOFError, ValueError) as error:
        why = re.sub(r"\s+", " ", str(error)) or type(error).__name__
        raise damaged(name, offset, f"it is no whole tar ({why})") from None
