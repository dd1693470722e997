"""The format of a snapshot file: what is whole reads back, and whatever is not is named."""

import os
import random
import struct
import zlib

import pytest
from attrs import evolve, frozen
from journal_samples import OWNER, snapshot_of
from snapshot_samples import encoded, pieces_of, sample

from leftfold.runtime import snapshotfile
from leftfold.runtime.errors import (
    CorruptSnapshot,
    ForeignSnapshot,
    LeftfoldError,
    NewerFormat,
    OperatorError,
)
from leftfold.runtime.snapshotfile import (
    CONTENT_BYTES_MAX,
    HEADER_BLOCK_BYTES,
    Encoder,
    check,
    contents,
    read_header,
    read_trailer,
    resealed,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.lfs"


def refusal(path, content):
    """How `check` refuses a file of this content; None if it does not."""
    path.write_bytes(content)
    return refusal_now(path)


def refusal_now(path):
    """How `check` refuses the file as it is."""
    size = path.stat().st_size
    try:
        check(path)
    except CorruptSnapshot as damage:
        assert damage.file == path
        assert 0 <= damage.offset <= size
        assert str(path) in str(damage)
        assert f"offset {damage.offset}" in str(damage)
        return damage
    except NewerFormat as newer:
        assert str(path) in str(newer)
        return newer
    return None


@pytest.mark.parametrize("count", [0, 1, 3])
def test_what_was_written_reads_back(path, count):
    header = evolve(snapshot_of(7, 3), build="b 1.2 ä", membership=bytes(range(99)), origin=2)
    pieces = pieces_of(7, count)
    path.write_bytes(encoded(header, pieces))

    assert check(path) == header == read_header(path)
    assert list(contents(path)) == pieces
    trailer = read_trailer(path)
    assert (trailer.content_bytes, trailer.chunks) == (sum(map(len, pieces)), count)


def test_the_largest_chunk_and_the_largest_header_fit(path):
    """Noise, so that zstd makes it longer and not shorter; texts that fill the block."""
    texts = HEADER_BLOCK_BYTES - 80
    header = evolve(snapshot_of(1), build="b" * 1000, membership=bytes(texts - 1000))
    noise = random.Random(1).randbytes(CONTENT_BYTES_MAX)
    path.write_bytes(encoded(header, [noise, b"\0" * CONTENT_BYTES_MAX]))

    assert check(path) == header
    assert list(contents(path)) == [noise, b"\0" * CONTENT_BYTES_MAX]
    with pytest.raises(AssertionError, match="fit the block"):
        evolve(header, build="b" * 1001).encode()
    for wrong in (b"", bytes(CONTENT_BYTES_MAX + 1)):
        with pytest.raises(AssertionError):
            Encoder(header).chunk(wrong)


def test_the_content_is_the_same_whatever_the_header_and_the_level(path, tmp_path):
    other = tmp_path / "b.lfs"
    first = Encoder(snapshot_of(7), 1)
    second = Encoder(evolve(snapshot_of(7), replica_id=3, build="another"), 9)
    for where, encoder in ((path, first), (other, second)):
        where.write_bytes(encoder.header() + encoder.chunk(b"content" * 999) + encoder.end())

    assert read_trailer(path) == read_trailer(other)
    assert list(contents(path)) == list(contents(other))


def test_every_flipped_byte_of_a_small_file_is_found(path):
    """Header, chunks and trailer, all of them: no byte is without a checksum."""
    whole = sample(7)
    assert refusal(path, whole) is None
    with path.open("r+b", buffering=0) as file:
        for at in range(len(whole)):
            os.pwrite(file.fileno(), bytes([whole[at] ^ 1 << (at % 8)]), at)
            assert refusal_now(path) is not None, f"byte {at} of {len(whole)}"
            os.pwrite(file.fileno(), whole[at : at + 1], at)
    assert refusal_now(path) is None


def test_every_truncation_and_every_addition_is_found(path):
    whole = sample(7)
    path.write_bytes(whole)
    for length in reversed(range(len(whole))):
        os.truncate(path, length)
        assert isinstance(refusal_now(path), CorruptSnapshot), length
    for addition in (b"\0", whole, whole[HEADER_BLOCK_BYTES:]):
        assert isinstance(refusal(path, whole + addition), CorruptSnapshot)


def test_sampled_flips_in_a_large_body_are_found(path):
    seed = random.SystemRandom().randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    whole = encoded(snapshot_of(7), [chance.randbytes(100_000) for _ in range(12)])
    for _ in range(150):
        broken = bytearray(whole)
        broken[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        assert refusal(path, broken) is not None


def chunks_of(whole):
    """(start, end) of each chunk."""
    found, at = [], HEADER_BLOCK_BYTES
    while size := int.from_bytes(whole[at : at + 4], "little"):
        found.append((at, at + 12 + size))
        at += 12 + size
    return found


def test_swapped_chunks_are_found_within_a_file_and_between_two(path):
    """Even where both say the same: a chunk belongs to one file and one place."""
    twice = encoded(snapshot_of(7), [b"same" * 99, b"same" * 99, b"else"])
    (first, _), (second, behind), _ = chunks_of(twice)
    swapped = twice[:first] + twice[second:behind] + twice[first:second] + twice[behind:]
    other = encoded(snapshot_of(8), [b"same" * 99, b"same" * 99, b"else"])
    grafted = other[:first] + twice[first:second] + other[second:]
    dropped = twice[:first] + twice[second:]

    for broken, offset in ((swapped, first), (grafted, first), (dropped, first)):
        damage = refusal(path, broken)
        assert isinstance(damage, CorruptSnapshot)
        assert damage.offset == offset
    assert isinstance(refusal(path, other[:behind] + twice[behind:]), CorruptSnapshot)


def sealed_again(block):
    """A header block with the checksum that fits what it says now."""
    block = bytearray(block)
    struct.pack_into("<I", block, 8, zlib.crc32(block[12:HEADER_BLOCK_BYTES]))
    return bytes(block)


def test_a_later_version_is_refused_and_not_called_damaged(path):
    whole = bytearray(sample(7))
    struct.pack_into("<I", whole, 12, snapshotfile.VERSION + 1)
    path.write_bytes(sealed_again(whole[:HEADER_BLOCK_BYTES]) + whole[HEADER_BLOCK_BYTES:])

    for read in (check, read_header, read_trailer):
        with pytest.raises(NewerFormat, match=r"a\.lfs has snapshot format 2 .*too old to read"):
            read(path)


def test_a_header_that_lies_under_a_valid_checksum_is_refused(path):
    """Lengths past the block, a build that is no text."""
    good = sample(7)
    for at, value in ((72, 4096), (72, 1 << 31), (72 + 4 + 7, 4090), (72 + 4 + 7, 4020)):
        block = bytearray(good[:HEADER_BLOCK_BYTES])
        struct.pack_into("<I", block, at, value)
        assert isinstance(refusal(path, sealed_again(block)), CorruptSnapshot), (at, value)
    block = bytearray(good[:HEADER_BLOCK_BYTES])
    block[76] = 0xFF
    assert isinstance(refusal(path, sealed_again(block)), CorruptSnapshot)


def test_a_chunk_that_lies_under_a_valid_checksum_is_refused(path):
    """What a checksum cannot see: no zstd, another length, a bomb, bytes behind the frame."""
    header = snapshot_of(7)
    zstd = Encoder(header)._compressor
    frame = zstd.compress(b"x" * 1000, zstd.FLUSH_FRAME)
    bomb = zstd.compress(bytes(50_000_000), zstd.FLUSH_FRAME)
    for packed, size in (
        (b"none", 4),
        (frame, 999),
        (frame, 1001),
        (bomb, 9),
        (frame + b"!", 1000),
    ):
        chunk = snapshotfile._chunk(header.seed, 0, packed, size)
        damage = refusal(path, header.encode() + chunk)
        assert isinstance(damage, CorruptSnapshot)
        assert damage.offset == HEADER_BLOCK_BYTES
        assert "zstd" in damage.why or "length" in damage.why
    for lengths in ((1 << 30, 5), (5, 1 << 30), (5, 0)):
        damage = refusal(path, header.encode() + struct.pack("<III", *lengths, 0) + bytes(99))
        assert isinstance(damage, CorruptSnapshot)
        assert damage.why == "no chunk has such a length"


def test_another_file_altogether_is_refused(path, tmp_path):
    for content in (b"", b"LFSNAPSH", b"\x7fELF" + bytes(9000), bytes(9000)):
        assert isinstance(refusal(path, content), CorruptSnapshot)
    with pytest.raises(OperatorError, match=r"Cannot read .*missing\.lfs at offset 0"):
        check(tmp_path / "missing.lfs")
    with pytest.raises(OperatorError, match="Cannot read"):
        check(tmp_path)


@frozen
class Somebody:
    cluster_id: bytes
    replica_id: int


@pytest.mark.parametrize("other", [Somebody(OWNER.cluster_id, 2), Somebody(bytes(16), 1)])
def test_a_foreign_file_is_refused_and_can_be_resealed(path, tmp_path, other):
    path.write_bytes(sample(7))
    header = read_header(path)
    header.refuse_foreign(path, OWNER)
    with pytest.raises(ForeignSnapshot, match=r"a\.lfs \(offset 16\) belongs to replica 1 of"):
        header.refuse_foreign(path, other)

    mine = tmp_path / "b.lfs"
    mine.write_bytes(b"".join(resealed(path, other, origin=1)))

    check(mine).refuse_foreign(mine, other)
    assert list(contents(mine)) == list(contents(path))
    assert read_header(mine).origin == 1


def test_a_damaged_file_is_not_resealed(path):
    whole = sample(7)
    for at in (9, HEADER_BLOCK_BYTES + 30, len(whole) - 1):
        broken = bytearray(whole)
        broken[at] ^= 1
        path.write_bytes(broken)
        with pytest.raises(CorruptSnapshot):
            list(resealed(path, OWNER))


def test_nothing_but_our_errors_comes_of_random_bytes(path):
    seed = random.SystemRandom().randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    whole = sample(7)
    for _ in range(300):
        broken = bytearray(whole)
        for _ in range(chance.randrange(1, 5)):
            at = chance.randrange(len(whole))
            broken[at : at + chance.randrange(40)] = chance.randbytes(chance.randrange(40))
        if chance.random() < 0.5:
            broken[:HEADER_BLOCK_BYTES] = sealed_again(broken[:HEADER_BLOCK_BYTES])
        path.write_bytes(broken)
        for read in (check, read_header, read_trailer, lambda path: list(resealed(path, OWNER))):
            try:
                read(path)
            except LeftfoldError:
                continue
    assert os.listdir(path.parent) == [path.name]
