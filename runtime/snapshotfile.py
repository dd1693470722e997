"""The format of a snapshot file: written in one pass, and nothing of it believed before its
checksum.

    header block     0 8s magic "LFSNAPSH"    8 u32 crc32 of bytes 12..4096   12 u32 version
                    16 16s cluster id        32 u64 replica id               40 u64 origin
                    48 u64 index             56 u64 term of that entry       64 i64 time_ns
                    72 u32 length and the app's build, UTF-8; u32 length and membership bytes;
                       zeros up to 4,096
    chunk            0 u32 compressed bytes (never 0)   4 u32 content bytes   8 u32 crc32
                    12 one zstd frame of at most 256 KiB of content
    trailer          0 u32 0                  4 u64 content bytes           12 u64 chunks
                    20 32s blake2b-256 of the content                       52 u32 crc32

The crc of a chunk starts from the header's, and covers the chunk's number and lengths; the
trailer's covers its count. So no chunk speaks for another, of the same file or of another. Behind
the trailer there is nothing. The content is what `Machine.snapshot()` wrote, the same on every
replica at the same index; header and compression may differ.

`replica id` says whose directory the file belongs in, `origin` who took the snapshot when that was
somebody else (0: the replica itself took it). The difference counts at a start: behind a snapshot
of its own a log cannot be shorter than the snapshot, behind one that was received it can.

`Encoder` makes the bytes, without I/O. `read_header`, `check`, `contents` and the others read a
file; whatever is wrong with it is CorruptSnapshot with file and offset, or NewerFormat. Left to
others: names, directories, durability, and which snapshot serves (snapshots.py).
"""

import errno
import os
import struct
import sys
import zlib
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from attrs import define, evolve, field, frozen

from .errors import CorruptSnapshot, ForeignSnapshot, NewerFormat, OperatorError

if sys.version_info >= (3, 14):
    from compression.zstd import (
        CompressionParameter,
        DecompressionParameter,
        ZstdCompressor,
        ZstdDecompressor,
        ZstdError,
    )
else:
    from backports.zstd import (
        CompressionParameter,
        DecompressionParameter,
        ZstdCompressor,
        ZstdDecompressor,
        ZstdError,
    )

VERSION = 1
MAGIC = b"LFSNAPSH"
HEADER_BLOCK_BYTES = 4096
CONTENT_BYTES_MAX = 256 * 1024
"""The most content of one chunk: what a reader must hold at a time."""
COMPRESSED_BYTES_MAX = CONTENT_BYTES_MAX + CONTENT_BYTES_MAX // 128
"""More than zstd ever makes of it; a length above is damage, and is not allocated."""
LEVEL = 1
"""Of zstd: what the figures in BENCHMARKS.md are measured with."""

_FIXED = struct.Struct("<8sII16sQQQQq")
_LENGTH = struct.Struct("<I")
_TEXTS_BYTES_MAX = HEADER_BLOCK_BYTES - _FIXED.size - 2 * _LENGTH.size
_CHUNK = struct.Struct("<III")
_CHUNK_CRC = struct.Struct("<QII")
_TRAILER = struct.Struct("<IQQ32sI")
_TRAILER_CRC = slice(0, _TRAILER.size - _LENGTH.size)
_DIGEST_BYTES = 32
_WINDOW_LOG_MAX = 20
"""A frame that asks for more memory than a chunk can need is refused by zstd itself."""


class Owner(Protocol):
    """In whose directory a snapshot lies; `identity.Identity` is one."""

    @property
    def cluster_id(self) -> bytes: ...
    @property
    def replica_id(self) -> int: ...


@frozen
class SnapshotHeader:
    """What a snapshot says of itself; see the head of this file."""

    cluster_id: bytes
    replica_id: int
    index: int
    term: int
    time_ns: int
    build: str = ""
    membership: bytes = b""
    origin: int = 0

    def encode(self) -> bytes:
        """The first block of the file."""
        build = self.build.encode()
        assert len(self.cluster_id) == 16 and self.index > 0
        assert len(build) + len(self.membership) <= _TEXTS_BYTES_MAX, "the texts fit the block"
        head = _FIXED.pack(
            MAGIC,
            0,
            VERSION,
            self.cluster_id,
            self.replica_id,
            self.origin,
            self.index,
            self.term,
            self.time_ns,
        )
        texts = (_LENGTH.pack(len(text)) + text for text in (build, self.membership))
        block = bytearray(b"".join((head, *texts)).ljust(HEADER_BLOCK_BYTES, b"\0"))
        _LENGTH.pack_into(block, len(MAGIC), zlib.crc32(block[12:]))
        return bytes(block)

    @classmethod
    def decode(cls, block: bytes, path: Path) -> "SnapshotHeader":
        """Read the first block of `path`. Raises CorruptSnapshot or NewerFormat."""
        if len(block) < HEADER_BLOCK_BYTES:
            raise CorruptSnapshot(path, len(block), "the file ends within the header")
        fields = _FIXED.unpack_from(block)
        magic, crc, version, cluster_id, replica_id, origin, index, term, time_ns = fields
        if magic != MAGIC:
            raise CorruptSnapshot(path, 0, "this is not a snapshot of leftfold")
        if crc != zlib.crc32(block[12:]):
            raise CorruptSnapshot(path, 0, "the checksum of the header does not match")
        if version > VERSION:
            raise NewerFormat(
                f"{path} has snapshot format {version} (offset 12), which this leftfold is too old "
                "to read. Start it with the version that wrote it, or a later one."
            )
        if not index:
            raise CorruptSnapshot(path, 48, "no snapshot has the index 0")
        texts: list[bytes] = []
        at = _FIXED.size
        for _ in range(2):
            (length,) = _LENGTH.unpack_from(block, at)
            at += _LENGTH.size
            if at + length > HEADER_BLOCK_BYTES - (0 if texts else _LENGTH.size):
                raise CorruptSnapshot(path, at, "a text of the header is longer than the header")
            texts.append(block[at : at + length])
            at += length
        try:
            build = texts[0].decode()
        except UnicodeDecodeError:
            raise CorruptSnapshot(path, _FIXED.size, "the build is not a text") from None
        return cls(cluster_id, replica_id, index, term, time_ns, build, texts[1], origin)

    @property
    def seed(self) -> int:
        """What every crc of the file starts from."""
        return zlib.crc32(self.encode())

    def refuse_foreign(self, path: Path, owner: Owner) -> None:
        """Raises ForeignSnapshot unless the file belongs in the directory of `owner`."""
        if self.cluster_id != owner.cluster_id or self.replica_id != owner.replica_id:
            raise ForeignSnapshot(
                f"{path} (offset 16) belongs to replica {self.replica_id} of cluster "
                f"{self.cluster_id.hex()}, not to replica {owner.replica_id} of cluster "
                f"{owner.cluster_id.hex()}. Put it back where it came from."
            )


@frozen
class Trailer:
    """What the end of a file says of all of it."""

    content_bytes: int
    chunks: int
    digest: bytes


def _chunk_crc(seed: int, number: int, packed: bytes, content_bytes: int) -> int:
    return zlib.crc32(packed, zlib.crc32(_CHUNK_CRC.pack(number, len(packed), content_bytes), seed))


def _chunk(seed: int, number: int, packed: bytes, content_bytes: int) -> bytes:
    crc = _chunk_crc(seed, number, packed, content_bytes)
    return _CHUNK.pack(len(packed), content_bytes, crc) + packed


def _trailer(seed: int, trailer: Trailer) -> bytes:
    fields = _TRAILER.pack(0, trailer.content_bytes, trailer.chunks, trailer.digest, 0)
    return fields[_TRAILER_CRC] + _LENGTH.pack(zlib.crc32(fields[_TRAILER_CRC], seed))


@define
class Encoder:
    """The bytes of one snapshot file, in order: `header()`, `chunk()` for each piece, `end()`."""

    head: SnapshotHeader
    level: int = LEVEL
    _seed: int = field(init=False)
    _compressor: ZstdCompressor = field(init=False)
    _chunks: int = field(default=0, init=False)
    _content_bytes: int = field(default=0, init=False)
    _digest: "blake2b" = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._seed = self.head.seed
        self._compressor = ZstdCompressor(
            options={CompressionParameter.compression_level: self.level}
        )
        self._digest = blake2b(digest_size=_DIGEST_BYTES)

    def header(self) -> bytes:
        """The first block."""
        return self.head.encode()

    def chunk(self, content: bytes | bytearray | memoryview) -> bytes:
        """The next piece of the content, compressed; at most CONTENT_BYTES_MAX, and not empty."""
        assert 0 < len(content) <= CONTENT_BYTES_MAX
        self._digest.update(content)
        packed = self._compressor.compress(content, ZstdCompressor.FLUSH_FRAME)
        encoded = _chunk(self._seed, self._chunks, packed, len(content))
        self._chunks += 1
        self._content_bytes += len(content)
        return encoded

    def end(self) -> bytes:
        """The trailer: the file is whole with it."""
        trailer = Trailer(self._content_bytes, self._chunks, self._digest.digest())
        return _trailer(self._seed, trailer)


@define
class _Reading:
    """One file from its first byte to its last; every failure is a sentence."""

    path: Path
    file: BinaryIO
    offset: int = 0

    @classmethod
    def open(cls, path: Path) -> "_Reading":
        try:
            return cls(path, path.open("rb", buffering=0))
        except OSError as error:
            raise _unreadable(path, 0, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        raised: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.file.close()

    def take(self, size: int, what: str) -> bytes:
        """The next `size` bytes, which are `what`."""
        start, missing = self.offset, size
        pieces: list[bytes] = []
        while missing:
            try:
                piece = self.file.read(missing)
            except OSError as error:
                raise _unreadable(self.path, self.offset, error) from error
            if not piece:
                raise CorruptSnapshot(self.path, start, f"the file ends within {what}")
            pieces.append(piece)
            missing -= len(piece)
            self.offset += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def header(self) -> SnapshotHeader:
        try:
            block = self.file.read(HEADER_BLOCK_BYTES)
        except OSError as error:
            raise _unreadable(self.path, 0, error) from error
        self.offset = len(block)
        return SnapshotHeader.decode(block, self.path)

    def frames(self, seed: int) -> Iterator[tuple[int, int, bytes]]:
        """(offset, content bytes, zstd frame) of each chunk, its crc checked."""
        number = 0
        while True:
            start = self.offset
            packed_bytes = _LENGTH.unpack(self.take(_LENGTH.size, "a chunk"))[0]
            if not packed_bytes:
                return
            content_bytes, crc = struct.unpack("<II", self.take(8, "a chunk"))
            if packed_bytes > COMPRESSED_BYTES_MAX or not 0 < content_bytes <= CONTENT_BYTES_MAX:
                raise CorruptSnapshot(self.path, start, "no chunk has such a length")
            packed = self.take(packed_bytes, "a chunk")
            if crc != _chunk_crc(seed, number, packed, content_bytes):
                raise CorruptSnapshot(self.path, start, "the checksum of the chunk does not match")
            yield start, content_bytes, packed
            number += 1

    def trailer(self, seed: int) -> Trailer:
        """Behind the zero length that `frames` ended with."""
        start = self.offset - _LENGTH.size
        rest = self.take(_TRAILER.size - _LENGTH.size, "the trailer")
        if self.file.read(1):
            raise CorruptSnapshot(self.path, self.offset, "something follows the trailer")
        return _decode_trailer(self.path, start, bytes(_LENGTH.size) + rest, seed)


def _decode_trailer(path: Path, start: int, encoded: bytes, seed: int) -> Trailer:
    marker, content_bytes, chunks, digest, crc = _TRAILER.unpack(encoded)
    if marker or crc != zlib.crc32(encoded[_TRAILER_CRC], seed):
        raise CorruptSnapshot(path, start, "the checksum of the trailer does not match")
    return Trailer(content_bytes, chunks, digest)


def _unreadable(path: Path, offset: int, error: OSError) -> OperatorError:
    """A bad block is damage; anything else is for a person, and says nothing of the content."""
    if error.errno == errno.EIO:
        return CorruptSnapshot(path, offset, f"it cannot be read: {error.strerror}")
    return OperatorError(
        f"Cannot read {path} at offset {offset}: {error.strerror}. "
        "This user must be able to read it, and the disk must work."
    )


def _unpack(path: Path, offset: int, content_bytes: int, packed: bytes) -> bytes:
    decompressor = ZstdDecompressor(
        options={DecompressionParameter.window_log_max: _WINDOW_LOG_MAX}
    )
    try:
        content = decompressor.decompress(packed, content_bytes + 1)
    except ZstdError as error:
        raise CorruptSnapshot(path, offset, f"zstd cannot decode the chunk: {error}") from None
    if len(content) != content_bytes or not decompressor.eof or decompressor.unused_data:
        raise CorruptSnapshot(path, offset, "the chunk holds another length than it says")
    return content


def read_header(path: Path) -> SnapshotHeader:
    """What a snapshot says of itself; nothing behind the header is looked at.

    Raises CorruptSnapshot, NewerFormat, or OperatorError for a file that cannot be read.
    """
    with _Reading.open(path) as reading:
        return reading.header()


def read_trailer(path: Path) -> Trailer:
    """How long the content is, and its digest, from the end of the file. Raises as `read_header`."""
    with _Reading.open(path) as reading:
        header = reading.header()
        try:
            size = reading.file.seek(0, os.SEEK_END)
            start = size - _TRAILER.size
            if start < HEADER_BLOCK_BYTES:
                raise CorruptSnapshot(path, size, "the file ends before the trailer")
            reading.offset = reading.file.seek(start)
        except OSError as error:
            raise _unreadable(path, 0, error) from error
        encoded = reading.take(_TRAILER.size, "the trailer")
        return _decode_trailer(path, start, encoded, header.seed)


def contents(path: Path) -> Iterator[bytes]:
    """The content, a chunk at a time, each checked before it is given out.

    The digest over all of it is checked before the iterator ends: what was taken from it counts
    only when it does. Raises as `read_header`.
    """
    with _Reading.open(path) as reading:
        seed = reading.header().seed
        digest = blake2b(digest_size=_DIGEST_BYTES)
        content_bytes = chunks = 0
        for offset, size, packed in reading.frames(seed):
            content = _unpack(path, offset, size, packed)
            digest.update(content)
            content_bytes, chunks = content_bytes + size, chunks + 1
            yield content
        start = reading.offset - _LENGTH.size
        if reading.trailer(seed) != Trailer(content_bytes, chunks, digest.digest()):
            raise CorruptSnapshot(path, start, "the trailer does not fit the content")


def check(path: Path) -> SnapshotHeader:
    """Read all of a file back, and every checksum in it. Raises as `read_header`."""
    for _ in contents(path):
        pass
    return read_header(path)


def resealed(path: Path, owner: Owner, origin: int = 0) -> Iterator[bytes]:
    """The bytes of the same snapshot for another directory: chunks as they are, sealed anew.

    The pieces are the bytes of a whole file, and count only when the iterator ends. Raises as
    `read_header`; the content is taken as it is, so whoever must know that it is whole checks the
    file that comes of it.
    """
    with _Reading.open(path) as reading:
        found = reading.header()
        header = evolve(
            found, cluster_id=owner.cluster_id, replica_id=owner.replica_id, origin=origin
        )
        yield header.encode()
        seed = header.seed
        for number, (_, content_bytes, packed) in enumerate(reading.frames(found.seed)):
            yield _chunk(seed, number, packed, content_bytes)
        yield _trailer(seed, reading.trailer(found.seed))
