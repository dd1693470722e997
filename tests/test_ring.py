"""The ring over plain memory, one end after the other: every wrap, every limit, every refusal."""

import os
import struct
import threading

import pytest
from cffi import FFI

from leftfold.shm import (
    Consumer,
    LayoutMismatch,
    Producer,
    RingBusy,
    RingCorrupt,
    UsedAfterClose,
    UsedAfterFork,
    format_ring,
    padded,
    ring_bytes,
)

HEADER = struct.Struct("<IHH")
OF_ENDS_POSITIONS = [0, 2**32 - 64, 2**63 - 64, 2**64 - 64]


def slot(size: int, fill: int = 1, kind: int = 7) -> bytes:
    """Return a padded slot of `size` bytes, header included."""
    return padded(HEADER.pack(size, kind, fill) + bytes([fill % 251]) * (size - 8))


def run_of(size: int, fill: int = 1) -> bytes:
    """Return a run of `size` bytes made of slots of 8."""
    return b"".join(slot(8, fill + i) for i in range(size // 8))


def ring(capacity: int, position: int = 0) -> tuple[Producer, Consumer, bytearray]:
    memory = bytearray(ring_bytes(capacity))
    format_ring(memory, capacity, position)
    return Producer(memory), Consumer(memory), memory


@pytest.mark.parametrize("capacity", [64, 128, 256])
def test_every_offset_and_every_size_wraps_as_the_layout_says(capacity: int) -> None:
    for offset in range(0, capacity, 8):
        for size in range(8, capacity // 2 + 1, 8):
            for used in range(0, capacity + 1, 8):
                check_one_write(capacity, offset, size, used)


def check_one_write(capacity: int, offset: int, size: int, used: int) -> None:
    producer, consumer, _ = ring(capacity, offset - used + capacity)
    for fill in range(used // 8):
        assert producer.write(slot(8, fill))
    tail = producer.position
    rest = capacity - offset
    padding = rest if rest < size else 0
    fits = used + padding + size <= capacity
    pads_now = not fits and padding and used + padding <= capacity

    assert producer.write(run_of(size, 90)) == fits
    assert producer.position == tail + (padding + size if fits else padding if pads_now else 0)
    assert producer.used() + producer.free() == capacity

    seen = drain(consumer)
    expected = b"".join(slot(8, fill) for fill in range(used // 8))
    assert seen == expected + (run_of(size, 90) if fits else b"")
    assert consumer.used() == 0
    assert consumer.position == producer.position
    assert producer.write(run_of(size, 90)), "an empty ring takes any run up to half of it"


def drain(consumer: Consumer) -> bytes:
    seen = b""
    while run := consumer.peek_bytes():
        seen += run
        consumer.release(len(run))
    return seen


def test_a_ring_with_enough_space_in_two_parts_pads_so_that_it_cannot_refuse_for_ever() -> None:
    producer, consumer, _ = ring(256)
    for fill in range(7):
        producer.write(slot(32, fill))
    consumer.peek(32)
    consumer.release(32)

    assert producer.free() == 64
    assert not producer.write(run_of(64)), "32 at the end and 32 at the front"
    assert producer.position == 256, "the end is padding now"
    consumer.peek(32)
    consumer.release(32)
    assert producer.write(run_of(64)), "one more slot freed at the front is enough"


def test_padding_alone_is_skipped_and_counts_as_empty() -> None:
    producer, consumer, _ = ring(256)
    for fill in range(7):
        producer.write(slot(32, fill))
    drain(consumer)
    assert producer.claim(128)
    producer.commit(0)
    assert consumer.peek_bytes() == b"", "the padding of an aborted claim is not published"

    for fill in range(7):
        assert producer.write(slot(32, fill)), "tail goes on where it was"
    assert not producer.write(run_of(128))
    assert len(drain(consumer)) == 7 * 32
    assert consumer.position == producer.position


def test_the_longest_slot_and_the_longest_run_fit_and_no_longer_ones() -> None:
    producer, consumer, _ = ring(1024)

    assert producer.slot_bytes_max == 128
    assert producer.write(slot(128))
    with pytest.raises(ValueError, match="run"):
        producer.write(slot(129))
    assert producer.run_bytes_max == 512
    assert producer.write(run_of(512))
    with pytest.raises(ValueError, match="run"):
        producer.write(run_of(520))
    assert len(drain(consumer)) == 128 + 512


@pytest.mark.parametrize(
    "run",
    [
        b"",
        HEADER.pack(8, 7, 0)[:7],
        HEADER.pack(7, 7, 0),
        HEADER.pack(0, 7, 0),
        HEADER.pack(16, 7, 0),
        HEADER.pack(8, 0, 0),
        HEADER.pack(9, 7, 0) + b"x",
        slot(8) + HEADER.pack(2**32 - 1, 7, 0),
    ],
    ids=["empty", "short", "7", "0", "longer-than-run", "padding-type", "not-padded", "huge"],
)
def test_what_is_no_run_is_refused_and_nothing_is_written(run: bytes) -> None:
    producer, consumer, _ = ring(256)

    with pytest.raises(ValueError, match="run"):
        producer.write(run)
    assert consumer.peek_bytes() == b""
    assert producer.write(slot(8)), "the end is usable after it"


@pytest.mark.parametrize("position", OF_ENDS_POSITIONS)
def test_positions_pass_32_63_and_64_bits(position: int) -> None:
    producer, consumer, _ = ring(64, position)
    for step in range(100):
        run = run_of(8 + step % 4 * 8, step)

        assert producer.write(run)
        assert drain(consumer) == run
        assert producer.used() == 0
    assert producer.position == consumer.position
    assert (producer.position - position) % 2**64 >= 100 * 8


def test_a_run_is_seen_in_parts_up_to_a_maximum_but_one_slot_at_least() -> None:
    producer, consumer, _ = ring(1024)
    producer.write(slot(24, 1) + slot(50, 2) + slot(8, 3))

    assert consumer.peek_bytes(1) == slot(24, 1)
    assert consumer.peek_bytes(24) == slot(24, 1)
    assert consumer.peek_bytes(24 + 55) == slot(24, 1)
    assert consumer.peek_bytes(24 + 56) == slot(24, 1) + slot(50, 2)
    consumer.release(24)
    assert consumer.peek_bytes(60) == slot(50, 2)
    assert consumer.peek_bytes() == slot(50, 2) + slot(8, 3)


def test_what_is_not_released_comes_again_and_a_part_may_be_released() -> None:
    producer, consumer, _ = ring(1024)
    producer.write(slot(24, 1) + slot(24, 2))

    assert consumer.peek_bytes() == consumer.peek_bytes()
    producer.write(slot(24, 3))
    assert consumer.peek_bytes() == slot(24, 1) + slot(24, 2) + slot(24, 3), "and what came since"
    consumer.release(24)
    consumer.release(24)
    assert consumer.peek_bytes() == slot(24, 3)
    with pytest.raises(ValueError, match="whole"):
        consumer.release(8)
    with pytest.raises(ValueError, match="whole"):
        consumer.release(32)
    consumer.release(0)
    assert consumer.peek_bytes() == slot(24, 3)


def test_nothing_can_be_released_that_was_not_peeked() -> None:
    producer, consumer, _ = ring(1024)
    producer.write(slot(24))

    with pytest.raises(ValueError, match="whole"):
        consumer.release(24)


def test_a_claim_is_written_in_place_and_its_first_part_published() -> None:
    producer, consumer, _ = ring(1024)

    address = producer.claim(64)
    FFI().buffer(FFI().cast("char *", address), 64)[:] = slot(24, 1) + slot(40, 2)
    assert consumer.peek_bytes() == b"", "not before commit"
    producer.commit(24)
    assert consumer.peek_bytes() == slot(24, 1)
    consumer.release(24)

    producer.claim(32)
    producer.claimed_view()[:] = slot(32, 3)
    producer.commit(32)
    assert consumer.peek_bytes() == slot(32, 3)
    assert FFI().buffer(FFI().cast("char *", consumer.address), consumer.length)[:] == slot(32, 3)


def test_a_claim_of_what_is_free_takes_the_most_between_two_sizes() -> None:
    producer, consumer, _ = ring(256)

    _, size = producer.claim_upto(8, 10_000)
    assert size == 128 == producer.claimed, "half of the ring"
    producer.commit(0)
    producer.write(run_of(128))
    producer.write(run_of(64))
    assert producer.claim_upto(8, 100)[1] == 64
    producer.commit(0)
    assert producer.claim_upto(72, 100) == (0, 0)
    assert producer.used() == 256, "the end was padded, for the run to come"
    consumer.peek()
    consumer.release(128)
    assert producer.claim_upto(72, 100)[1] == 96, "rounded down to whole words"


def test_a_bad_commit_publishes_nothing_and_ends_the_claim() -> None:
    producer, consumer, _ = ring(256)
    producer.claim(16)
    producer.claimed_view()[:] = bytes(16)

    with pytest.raises(ValueError, match="run"):
        producer.commit(16)
    assert consumer.peek_bytes() == b""
    with pytest.raises(ValueError, match="claim"):
        producer.commit(8)
    producer.claim(8)
    producer.claimed_view()[:] = slot(8)
    with pytest.raises(ValueError, match="run"):
        producer.commit(16)


@pytest.mark.parametrize("size", [0, 4, 12, 136, -8, 2**63])
def test_a_claim_of_a_size_that_can_never_be_is_an_error(size: int) -> None:
    producer, _, _ = ring(256)

    with pytest.raises((ValueError, OverflowError)):
        producer.claim(size)


def test_a_second_thread_in_one_end_is_refused() -> None:
    producer, consumer, _ = ring(256)
    producer.claim(8)
    caught: list[BaseException] = []

    def write() -> None:
        try:
            producer.write(slot(8))
        except RingBusy as error:
            caught.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert len(caught) == 1
    producer.claimed_view()[:] = slot(8, 5)
    producer.commit(8)
    assert consumer.peek_bytes() == slot(8, 5), "the first thread is not disturbed"


def test_two_threads_that_copy_at_once_are_told_and_never_mix_their_bytes() -> None:
    capacity = 2**22
    producer, consumer, _ = ring(capacity)
    run_bytes = 2**20
    refused = threading.Event()

    def write(fill: int) -> None:
        run = slot(capacity // 8, fill) * (run_bytes // (capacity // 8))
        while not refused.is_set():
            try:
                producer.write(run)
            except RingBusy:
                refused.set()

    threads = [threading.Thread(target=write, args=(fill,)) for fill in (1, 2)]
    for thread in threads:
        thread.start()
    while not refused.is_set():
        for byte in check_slots(consumer):
            assert byte in (1, 2)
    for thread in threads:
        thread.join()
    check_slots(consumer)


def check_slots(consumer: Consumer) -> set[int]:
    """Return the fillings seen; each slot is filled with one byte throughout."""
    run, seen = consumer.peek_bytes(), set[int]()
    offset = 0
    while offset < len(run):
        length, _, tag = HEADER.unpack_from(run, offset)
        assert run[offset + 8 : offset + length] == bytes([tag]) * (length - 8)
        seen.add(tag)
        offset += length
    consumer.release(len(run))
    return seen


def test_a_child_of_fork_is_refused_at_both_ends() -> None:
    producer, consumer, _ = ring(256)
    producer.write(slot(8))
    child = os.fork()
    if child == 0:
        refusals = 0
        for act in (
            lambda: producer.write(slot(8)),
            lambda: producer.claim(8),
            consumer.peek,
            lambda: consumer.release(8),
        ):
            try:
                act()
            except UsedAfterFork:
                refusals += 1
        os._exit(refusals)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 4
    assert producer.write(slot(8)), "the parent goes on"


def test_an_end_does_not_open_over_memory_of_another_layout() -> None:
    _, _, memory = ring(256)
    for offset, name in ((0, "magic"), (8, "layout"), (17, "capacity")):
        other = bytearray(memory)
        other[offset] ^= 1
        with pytest.raises(LayoutMismatch):
            Producer(other)
        with pytest.raises(LayoutMismatch):
            Consumer(other)
        assert name
    with pytest.raises(LayoutMismatch):
        Consumer(memory[:-8])
    with pytest.raises(LayoutMismatch):
        Consumer(bytearray(16))


@pytest.mark.parametrize("capacity", [0, 8, 32, 96, 2**31])
def test_a_capacity_that_is_no_power_of_two_or_out_of_bounds_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="no ring"):
        format_ring(bytearray(ring_bytes(256)), capacity)


def test_memory_that_cannot_be_written_is_refused() -> None:
    _, _, memory = ring(256)

    with pytest.raises(BufferError):
        Consumer(memoryview(bytes(memory)))


@pytest.mark.parametrize(
    "header", [HEADER.pack(0, 7, 0), HEADER.pack(500, 7, 0), HEADER.pack(8, 0, 0)]
)
def test_bytes_that_no_producer_writes_are_called_corrupt(header: bytes) -> None:
    producer, consumer, memory = ring(256)
    producer.write(slot(24))
    memory[512:520] = header

    with pytest.raises(RingCorrupt):
        consumer.peek()


def test_a_new_end_goes_on_where_the_old_one_stopped() -> None:
    producer, consumer, memory = ring(256)
    producer.write(slot(8, 1))
    consumer.peek()
    consumer.release(8)
    producer.write(slot(8, 2))
    consumer.peek()
    consumer.close()
    producer.claim(8)
    producer.close()

    producer, consumer = Producer(memory), Consumer(memory)
    producer.write(slot(8, 3))
    assert consumer.peek_bytes() == slot(8, 2) + slot(8, 3)


def test_a_closed_end_is_refused_and_may_be_closed_again() -> None:
    producer, consumer, memory = ring(256)
    producer.write(slot(8))
    for end in (producer, consumer):
        end.close()
        end.close()
    memory.extend(b"no longer pinned")

    for act in (lambda: producer.write(slot(8)), lambda: producer.claim(8), consumer.peek):
        with pytest.raises(UsedAfterClose):
            act()
    assert producer.used() == 0


def test_any_buffer_can_be_written() -> None:
    producer, consumer, _ = ring(256)

    assert producer.write(slot(8, 1))
    assert producer.write(bytearray(slot(8, 2)))
    assert producer.write(memoryview(b"x" * 8 + slot(8, 3))[8:])
    assert drain(consumer) == slot(8, 1) + slot(8, 2) + slot(8, 3)
