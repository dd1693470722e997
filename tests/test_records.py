"""The journal's format: never a wrong record, whatever became of the bytes."""

import random

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from journal_samples import OWNER, entries

from leftfold.runtime.records import (
    BLOCK_BYTES,
    CORRUPT,
    RECORD_HEADER_BYTES,
    TORN,
    WHOLE,
    BadHeader,
    LaterVersion,
    Scan,
    SegmentHeader,
    encode_record_header,
)

HEADER = SegmentHeader(OWNER.cluster_id, OWNER.replica_id, 7, 1, 0, 0, 0, b"a salt of 16 b..")
BATCHES = [(1, 1), (2, 4), (5, 5), (6, 12), (13, 14)]
ZEROS = bytes(2048)


def segment(batches=BATCHES, marked=False, header=HEADER):
    """(content, offsets of the records): a segment with one record for each batch, synced one by
    one."""
    content = bytearray(header.encode())
    offsets = []
    for first, last in batches:
        body = entries(first, last)
        offset = len(content)
        offsets.append(offset)
        content += encode_record_header(header.seed, offset, [body], first, last, 1, offset) + body
    if marked:
        end, last = len(content), batches[-1][1] if batches else 0
        content += encode_record_header(header.seed, end, [], 0, last, 1, end)
    return content + ZEROS, offsets


def scan(content, sealed=None, header=HEADER):
    """(the bodies that a scan gives, the scan when it is done)."""
    done = Scan(memoryview(content), header.seed, sealed)
    return [bytes(record.body) for record in done if record.body], done


def bodies(batches=BATCHES):
    return [entries(first, last) for first, last in batches]


def test_what_was_written_is_read_back():
    content, offsets = segment()

    found, done = scan(content)

    assert found == bodies()
    assert (done.verdict, done.length) == (WHOLE, len(content) - len(ZEROS))
    assert done.synced == offsets[-1]


def test_a_mark_vouches_for_the_last_batch_and_is_not_counted():
    content, _ = segment(marked=True)

    found, done = scan(content)

    assert found == bodies()
    assert done.synced == done.length == len(content) - len(ZEROS) - RECORD_HEADER_BYTES


@pytest.mark.parametrize("filled", [True, False], ids=["zeros behind", "file ends"])
def test_every_cut_leaves_exactly_the_records_before_it(filled):
    """A crash loses the end of the file at any byte: all records before it, and nothing else."""
    content, offsets = segment()
    ends = [*offsets[1:], len(content) - len(ZEROS)]
    for cut in range(BLOCK_BYTES, ends[-1] + 1):
        rest = bytes(len(content) - cut) if filled else b""
        cut_content = bytes(content[:cut]) + rest
        whole = sum(cut_content[:end] == content[:end] for end in ends)

        found, done = scan(cut_content)

        assert found == bodies()[:whole], cut
        assert done.verdict in (WHOLE, TORN), cut
        assert done.length == (ends[whole - 1] if whole else BLOCK_BYTES), cut


def flips(offsets, end):
    """Bits to flip: all of every record header, and of a sample of each body."""
    chance = random.Random(20261123)
    for number, offset in enumerate(offsets):
        body_start = offset + RECORD_HEADER_BYTES
        body_end = [*offsets, end][number + 1]
        sample = chance.sample(range(body_start, body_end), 24)
        for at in [*range(offset, body_start), *sample]:
            for bit in range(8):
                yield number, at, bit


@pytest.mark.parametrize("marked", [False, True])
def test_a_flipped_bit_is_corruption_unless_it_is_in_the_last_unmarked_batch(marked):
    """The right offset, and the records before it; of the last batch nobody can know, and it is
    cut."""
    content, offsets = segment(marked=marked)
    end = len(content) - len(ZEROS) - RECORD_HEADER_BYTES * marked
    for number, at, bit in flips(offsets, end):
        content[at] ^= 1 << bit
        found, done = scan(content)
        content[at] ^= 1 << bit

        assert found == bodies()[:number], (at, bit)
        if number == len(offsets) - 1 and not marked:
            assert done.verdict == TORN, (at, bit)
            assert done.length == done.synced + len(bodies()[-2]) + RECORD_HEADER_BYTES
        else:
            assert (done.verdict, done.bad_offset) == (CORRUPT, offsets[number]), (at, bit)


def test_a_flipped_mark_costs_nothing_but_its_word():
    content, offsets = segment(marked=True)
    mark = len(content) - len(ZEROS) - RECORD_HEADER_BYTES
    for at in range(mark, mark + RECORD_HEADER_BYTES):
        for bit in range(8):
            content[at] ^= 1 << bit
            found, done = scan(content)
            content[at] ^= 1 << bit

            assert found == bodies()
            assert (done.verdict, done.length, done.synced) == (TORN, mark, offsets[-1])


def test_every_flipped_bit_of_a_segment_header_is_refused():
    block = bytearray(HEADER.encode())
    for at in range(144):
        for bit in range(8):
            block[at] ^= 1 << bit
            with pytest.raises(BadHeader):
                SegmentHeader.decode(block)
            block[at] ^= 1 << bit

    assert SegmentHeader.decode(block) == HEADER


def test_a_later_version_is_not_called_damage(monkeypatch):
    monkeypatch.setattr("leftfold.runtime.records.VERSION", 2)
    block = HEADER.encode()
    monkeypatch.undo()

    with pytest.raises(LaterVersion, match="2"):
        SegmentHeader.decode(block)


def test_a_recycled_segment_cannot_speak():
    """The records of an old segment, whole and valid then, lie behind a new header: there are
    none."""
    old, offsets = segment(marked=True)
    for new in (evolve(HEADER, segment_id=8), evolve(HEADER, salt=b"another salt....")):
        content = new.encode() + old[BLOCK_BYTES:]

        found, done = scan(content, header=new)

        assert found == []
        assert (done.verdict, done.length) == (TORN, BLOCK_BYTES)
    for records in range(1, len(BATCHES)):
        fresh, _ = segment(BATCHES[:records], header=new)
        fresh = fresh[: len(fresh) - len(ZEROS)]
        found, done = scan(fresh + old[len(fresh) :], header=new)

        assert found == bodies(BATCHES[:records])
        assert done.verdict != CORRUPT
    assert offsets


def test_a_record_at_the_wrong_place_cannot_speak():
    """A misdirected write: a valid record of this very segment, at another offset."""
    content, offsets = segment(marked=True)
    third = content[offsets[2] : offsets[3]]
    length = len(content)
    content[length - 1024 : length - 1024 + len(third)] = third
    misplaced = content[: offsets[3]] + third + ZEROS

    assert scan(content)[1].verdict == WHOLE
    assert scan(misplaced)[0] == bodies()[:3]
    assert scan(misplaced)[1].verdict == TORN


def test_the_bytes_of_a_client_cannot_make_a_torn_batch_look_corrupt():
    """A body that holds what looks like a record does not count as a valid one behind the
    damage."""
    content, offsets = segment()
    image = bytes(content[offsets[0] : offsets[1]])
    offset = len(content) - len(ZEROS)
    body = image * 3
    batch = encode_record_header(HEADER.seed, offset, [body], 15, 15, 1, offset) + body
    torn = content[:offset] + batch[:20] + b"?" + batch[21:] + ZEROS

    found, done = scan(torn)

    assert found == bodies()
    assert (done.verdict, done.bad_offset) == (TORN, offset)


def test_a_lost_record_with_a_later_one_behind_it_is_corruption():
    """A write that never reached the disk leaves zeros, which otherwise look like the end."""
    content, offsets = segment()
    content[offsets[1] : offsets[2]] = bytes(offsets[2] - offsets[1])

    found, done = scan(content)

    assert found == bodies()[:1]
    assert (done.verdict, done.bad_offset) == (CORRUPT, offsets[1])


def test_a_sealed_segment_ends_where_the_next_one_says():
    content, offsets = segment()

    found, done = scan(content, sealed=offsets[3])

    assert found == bodies()[:3]
    assert (done.verdict, done.length, done.synced) == (WHOLE, offsets[3], offsets[3])


def test_a_sealed_segment_may_not_be_torn_anywhere():
    content, offsets = segment()
    end = len(content) - len(ZEROS)
    content[end - 1] ^= 1

    assert scan(content, sealed=end)[1].verdict == CORRUPT
    assert scan(content, sealed=end)[1].bad_offset == offsets[-1]
    assert scan(content[: end - 9], sealed=end)[1].verdict == CORRUPT
    assert scan(content[: end - 9], sealed=end)[1].bad_offset == end - 9


@given(
    st.lists(
        st.tuples(st.integers(BLOCK_BYTES, 6400), st.binary(min_size=1, max_size=600)), max_size=4
    ),
    st.booleans(),
)
def test_no_damage_makes_a_wrong_record(damage, marked):
    """Whatever is overwritten: what the scan gives is a prefix of what was written."""
    content, _ = segment(marked=marked)
    for at, replacement in damage:
        at = min(at, len(content) - len(replacement))
        content[at : at + len(replacement)] = replacement

    found, _ = scan(content)

    assert found == bodies()[: len(found)]
