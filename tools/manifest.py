"""What a backup holds: `backup.json`, written last, so that a backup without it is not finished.

A backup is a directory, or the same files in a tar:

    identity.json                      as in the replica's directory
    snapshots/snapshot-<index>.lfs     the newest that checked, if there was one; older ones if wanted
    journal/<segment>.log              the log from there on, the last one cut where the log ended
    backup.json                        this

The manifest names every file with its size and a crc32 of each 256 KiB, and has a crc32 of itself.
So what was cut off, changed or exchanged is found by file and offset, whatever its own format says.
"""

import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import attrs
from attrs import define, field, frozen

from ..runtime.errors import NewerFormat, OperatorError

FORMAT = 1
NAME = "backup.json"
BLOCK_BYTES = 256 * 1024
MEMBER = re.compile(
    r"identity\.json|backup\.json|snapshots/snapshot-\d{20}\.lfs|journal/\d{8}\.log"
)


@frozen
class Member:
    """One file of a backup."""

    path: str
    size: int
    block_crcs: tuple[int, ...]


@frozen(kw_only=True)
class Manifest:
    """What a backup says of itself."""

    app: str
    cluster_id: str
    replica_id: int
    first: int
    """The first index that it can be restored to."""
    last: int
    snapshot: int
    """The index of the newest snapshot in it; 0: none, the log is whole."""
    created_ns: int
    members: tuple[Member, ...] = ()

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(member.size for member in self.members)

    def to_json(self) -> bytes:
        """The content of backup.json."""
        fields = attrs.asdict(self) | {"format": FORMAT}
        return _encode(fields | {"crc32": zlib.crc32(_encode(fields))})

    @classmethod
    def from_json(cls, text: bytes, where: str) -> "Manifest":
        """Decode and check. Raises OperatorError."""
        try:
            fields: dict[str, Any] = json.loads(text)
            crc = fields.pop("crc32")
            if _encode(fields | {"crc32": crc}) != text or crc != zlib.crc32(_encode(fields)):
                raise damaged(where, 0, "its checksum does not match")
            version = fields.pop("format")
            if version > FORMAT:
                raise NewerFormat(
                    f"{where} has backup format {version}, which this leftfold is too old to read. "
                    "Restore it with the version that wrote it, or a later one."
                )
            members = [
                Member(str(one["path"]), int(one["size"]), tuple(map(int, one["block_crcs"])))
                for one in fields.pop("members")
            ]
            return cls(**fields, members=tuple(members))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise damaged(where, 0, f"it does not decode ({error})") from None


def _encode(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


@define
class Blocks:
    """Bytes that pass through, counted and checksummed by blocks."""

    pieces: Iterable[bytes]
    size: int = field(default=0, init=False)
    crcs: list[int] = field(factory=list[int], init=False)

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            view = memoryview(piece)
            while view:
                room = BLOCK_BYTES - self.size % BLOCK_BYTES
                part, view = view[:room], view[room:]
                if room == BLOCK_BYTES:
                    self.crcs.append(0)
                self.crcs[-1] = zlib.crc32(part, self.crcs[-1])
                self.size += len(part)
            yield piece

    def member(self, path: str) -> Member:
        """What has passed, as a file of a backup."""
        return Member(path, self.size, tuple(self.crcs))


def verify(directory: Path, called: str | None = None) -> Manifest:
    """Read all of a backup and compare it with its manifest; `called` is its name in sentences.

    Raises OperatorError with file and offset.
    """
    name = called or str(directory)
    manifest = read_manifest(directory, name)
    for member in manifest.members:
        if MEMBER.fullmatch(member.path) is None:
            raise damaged(f"{name}/{NAME}", 0, f"no backup has a file {member.path}")
        verify_member(directory / member.path, f"{name}/{member.path}", member)
    return manifest


def read_manifest(directory: Path, name: str) -> Manifest:
    """The manifest of a backup. Raises OperatorError."""
    path = directory / NAME
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise OperatorError(
            f"{name} is no backup, or one that was not finished: it has no {NAME}. "
            "Name what `leftfold backup` has written."
        ) from None
    except OSError as error:
        raise OperatorError(f"Cannot read {name}: {error.strerror}.") from None
    return Manifest.from_json(text, f"{name}/{NAME}")


def verify_member(path: Path, name: str, member: Member) -> None:
    """Compare a file with what the manifest says of it. Raises OperatorError."""
    try:
        with path.open("rb") as file:
            verify_bytes(file, name, member)
    except FileNotFoundError:
        raise damaged(name, 0, "the file is missing") from None
    except OSError as error:
        raise OperatorError(f"Cannot read {name}: {error.strerror}.") from None


def verify_bytes(file: BinaryIO, name: str, member: Member) -> None:
    """The same for an open file."""
    for number, crc in enumerate(member.block_crcs):
        at = number * BLOCK_BYTES
        wanted = min(BLOCK_BYTES, member.size - at)
        block = file.read(wanted)
        if len(block) < wanted:
            raise damaged(name, at + len(block), f"it ends here, of {member.size} bytes")
        if zlib.crc32(block) != crc:
            why = f"the {len(block)} bytes from here on are not what was written"
            raise damaged(name, at, why)
    if file.read(1):
        raise damaged(name, member.size, "something follows its end")


def damaged(name: str, offset: int, why: str) -> OperatorError:
    """The sentence for a backup that must not be used."""
    return OperatorError(
        f"The backup is damaged: {name} at offset {offset}: {why}. Use another backup."
    )
