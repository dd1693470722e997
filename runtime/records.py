"""The journal's format, without I/O: segment headers, batch records, and what may be believed of
them.

A segment file is one 4,096-byte block with the header below, then records, then zeros.

    segment header   0 8s magic "LFJOURNL"    8 u32 crc32 of bytes 12..144    12 u32 version
                    16 16s cluster id        32 u64 replica id               40 u64 segment id
                    48 u64 first index: the last index before this segment, plus one
                    56 u64 term of that last index     64 i64 its log time
                    72 u64 sealed: where the segment before this one ends; all of it was synced
                    80 16s salt, random        96 u64 anew: 1 where the log begins anew, behind
                    a snapshot that was received, and no segment before this one counts
                   104..144 zero

A record is one batch: a run of slots (ENTRY, HARD_STATE, TRUNCATE) byte for byte as it lay in the
`persist` ring, behind 56 bytes:

    record header    0 8s magic "LFrecord"    8 u32 crc32 of offset and bytes 12..56, with the seed
                    12 u32 crc32 of the body  16 u32 body bytes (a multiple of 8)  20 u32 zero
                    24 u64 first index: of the first ENTRY in the body, 0 without one
                    32 u64 last index and 40 u64 its term: of the log after this batch
                    48 u64 synced: all of the segment below this offset is known to be durable

The seed is a crc over the segment's header, salt included, and the record's own offset enters its
crc. So neither the old content of a recycled segment, nor a record at the wrong place, nor bytes
that a client sends can speak as a record.

Assumed of the disk: a sector that is written when the power fails holds its old or its new bytes,
and no other sector changes. (A batch begins where the last one ended, so the two may share a
sector.)

What a record that does not check means (verdicts of `Scan`):

    1  Below the end that the next segment's header gives (`sealed`): corrupt.
    2  A later record of this segment is valid: corrupt, because batches are synced one by one, so
       the bad one was durable before the later one was written (whose `synced` says the same).
    3  Otherwise: torn. It is the last batch, no mark covers it, and it was never acknowledged, or
       else it rotted since. The two cannot be told apart; a cluster finds out from its peers, a
       single replica does not. To keep the window small, an idle journal and a closing one write
       a *mark*: a record with an empty body whose `synced` is its own offset. The next batch
       overwrites the mark.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence

from attrs import define, field, frozen

VERSION = 1
SEGMENT_MAGIC = b"LFJOURNL"
RECORD_MAGIC = b"LFrecord"
BLOCK_BYTES = 4096
"""The header has a block of its own, so that no later write touches the sectors it lies in."""

_SEGMENT = struct.Struct("<8sII16sQQQQqQ16sQ40x")
_SEGMENT_CRC = slice(12, _SEGMENT.size)
_RECORD = struct.Struct("<8sIIIIQQQQ")
_RECORD_HEAD = struct.Struct("<8sI")
_RECORD_TAIL = struct.Struct("<IIIQQQQ")
_OFFSET = struct.Struct("<Q")
_U32 = struct.Struct("<I")
RECORD_HEADER_BYTES = _RECORD.size
SALT_BYTES = 16

WHOLE, TORN, CORRUPT = "whole", "torn", "corrupt"

Buffer = bytes | bytearray | memoryview


class BadHeader(Exception):
    """A segment header that does not check: the reason is the text."""


class LaterVersion(Exception):
    """A segment header that checks, and says a later version of the format."""


@frozen
class SegmentHeader:
    """What a segment says of itself; see the head of this file."""

    cluster_id: bytes
    replica_id: int
    segment_id: int
    first: int
    last_term: int
    last_time_ns: int
    sealed: int
    salt: bytes
    anew: int = 0

    def encode(self) -> bytes:
        """The segment's first block."""
        assert len(self.cluster_id) == 16 and len(self.salt) == SALT_BYTES
        block = bytearray(BLOCK_BYTES)
        _SEGMENT.pack_into(
            block,
            0,
            SEGMENT_MAGIC,
            0,
            VERSION,
            self.cluster_id,
            self.replica_id,
            self.segment_id,
            self.first,
            self.last_term,
            self.last_time_ns,
            self.sealed,
            self.salt,
            self.anew,
        )
        _U32.pack_into(block, 8, zlib.crc32(block[_SEGMENT_CRC]))
        return bytes(block)

    @classmethod
    def decode(cls, block: Buffer) -> "SegmentHeader":
        """Read the first block of a segment. Raises BadHeader or LaterVersion."""
        if len(block) < BLOCK_BYTES:
            raise BadHeader(f"the segment header is cut off after {len(block)} bytes")
        magic, crc, version, *fields = _SEGMENT.unpack_from(block)
        if magic != SEGMENT_MAGIC:
            raise BadHeader("this is not a segment of a leftfold journal")
        if crc != zlib.crc32(block[_SEGMENT_CRC]):
            raise BadHeader("the checksum of the segment header does not match")
        if version > VERSION:
            raise LaterVersion(str(version))
        return cls(*fields)

    @property
    def seed(self) -> int:
        """What every crc of the segment's records starts from."""
        return zlib.crc32(self.encode()[: _SEGMENT.size])


def encode_record_header(
    seed: int,
    offset: int,
    body: Sequence[Buffer],
    first: int,
    last: int,
    last_term: int,
    synced: int,
) -> bytes:
    """The 56 bytes before a body that lies in `body`'s parts, for a record at `offset` of the
    segment."""
    body_bytes = body_crc = 0
    for part in body:
        body_bytes += len(part)
        body_crc = zlib.crc32(part, body_crc)
    assert body_bytes % 8 == 0 and offset % 8 == 0 and synced <= offset
    tail = _RECORD_TAIL.pack(body_crc, body_bytes, 0, first, last, last_term, synced)
    return _RECORD_HEAD.pack(RECORD_MAGIC, _header_crc(seed, offset, tail)) + tail


def _header_crc(seed: int, offset: int, tail: Buffer) -> int:
    return zlib.crc32(tail, zlib.crc32(_OFFSET.pack(offset), seed))


@frozen
class RecordHeader:
    """A record header that checks; whether the body does is a question of its own."""

    body_crc: int
    body_bytes: int
    first: int
    last: int
    last_term: int
    synced: int


def decode_record_header(content: Buffer, at: int, seed: int, offset: int) -> RecordHeader | None:
    """The header at `at` of `content`, which is at `offset` of its segment; None when it does not
    check."""
    if len(content) - at < RECORD_HEADER_BYTES:
        return None
    magic, crc, body_crc, body_bytes, _, first, last, last_term, synced = _RECORD.unpack_from(
        content, at
    )
    if magic != RECORD_MAGIC:
        return None
    if crc != _header_crc(seed, offset, content[at + 12 : at + RECORD_HEADER_BYTES]):
        return None
    return RecordHeader(body_crc, body_bytes, first, last, last_term, synced)


@frozen
class Record:
    """A valid record: where it lies, and the part of the scanned content that is its body."""

    offset: int
    body: memoryview
    first: int
    last: int
    last_term: int
    synced: int

    @property
    def end(self) -> int:
        """Where the next record begins."""
        return self.offset + RECORD_HEADER_BYTES + len(self.body)


@define
class Scan:
    """The valid records of one segment, in order, and then what the rest of it means.

    Iterate once; `length`, `synced`, `verdict` and `why` are final after that. `content` is the
    whole file; `sealed` is the end that the next segment gives, if there is one. A valid record
    found past `length` is never given out.
    """

    content: memoryview
    seed: int
    sealed: int | None = None
    length: int = field(default=BLOCK_BYTES, init=False)
    """Where the valid records end; marks at the end, which the next batch overwrites, not
    included."""
    synced: int = field(default=BLOCK_BYTES, init=False)
    """Below this offset everything is known to be durable."""
    verdict: str = field(default=WHOLE, init=False)
    bad_offset: int = field(default=0, init=False)
    why: str = field(default="", init=False)

    def __iter__(self) -> Iterator[Record]:
        end = len(self.content) if self.sealed is None else self.sealed
        if end > len(self.content):
            self._condemn(len(self.content), f"the file ends here, but it was durable up to {end}")
            return
        content = self.content[:end]
        offset = BLOCK_BYTES
        while offset < end:
            record = _record_at(content, self.seed, offset)
            if isinstance(record, str):
                self._judge(content, offset, record)
                return
            self.synced = record.synced
            offset = record.end
            if record.body:
                self.length = offset
            yield record
        if self.sealed is not None:
            self.synced = self.length = self.sealed

    def _judge(self, content: memoryview, offset: int, why: str) -> None:
        """Torn or corrupt: see the head of the file."""
        if self.sealed is not None:
            self._condemn(offset, f"{why}, and the records up to {self.sealed} were durable")
            return
        later = _later_record(content, self.seed, offset)
        if later is not None:
            self._condemn(offset, f"{why}, and the record behind it at {later} is valid")
        elif any(content[offset : offset + RECORD_HEADER_BYTES]):
            self.verdict, self.bad_offset, self.why = TORN, offset, why

    def _condemn(self, offset: int, why: str) -> None:
        self.verdict, self.bad_offset, self.why = CORRUPT, offset, why


def _record_at(content: memoryview, seed: int, offset: int) -> Record | str:
    """The record at `offset`, or why there is none."""
    header = decode_record_header(content, offset, seed, offset)
    if header is None:
        return "there is no valid record header"
    start = offset + RECORD_HEADER_BYTES
    body = content[start : start + header.body_bytes]
    if len(body) != header.body_bytes or zlib.crc32(body) != header.body_crc:
        return "the checksum of the record does not match"
    return Record(offset, body, header.first, header.last, header.last_term, header.synced)


def records_behind(content: memoryview, seed: int, offset: int) -> Iterator[Record]:
    """The valid records from `offset` on, whatever lies between them."""
    data, at = bytes(content), offset
    while (found := data.find(RECORD_MAGIC, at)) >= 0:
        record = _record_at(content, seed, found) if found % 8 == 0 else ""
        if isinstance(record, str):
            at = found + 1
        else:
            yield record
            at = record.end


def _later_record(content: memoryview, seed: int, offset: int) -> int | None:
    """The offset of a record header behind `offset` that checks, if there is one."""
    rest = bytes(content[offset:])
    at = rest.find(RECORD_MAGIC, 8)
    while at >= 0:
        if at % 8 == 0 and decode_record_header(rest, at, seed, offset + at) is not None:
            return offset + at
        at = rest.find(RECORD_MAGIC, at + 1)
    return None
