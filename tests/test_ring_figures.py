"""What the ends of a ring record of the runs that pass: how long they waited, were served, and how many there were.

Times are compared with what the test itself read before and after, so that no threshold is needed.
"""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from leftfold.shm import (
    CONSUMER_FIGURES,
    DOORBELL_BYTES,
    DOORBELL_COUNTS,
    Consumer,
    Counters,
    Doorbell,
    Producer,
    Reason,
    Schema,
    create_semaphore,
    format_ring,
    monotonic_ns,
    padded,
    ring_bytes,
    unlink_semaphore,
)

CAPACITY = 4096
SLOT = padded((16).to_bytes(4, "little") + b"\x01\x00\x00\x00" + bytes(8))


@pytest.fixture
def counters(tmp_path: Path) -> Iterator[Counters]:
    """Make a file with the histograms of both ends."""
    figures = Schema(
        histograms=(*CONSUMER_FIGURES, "claim_ns", "parked_ns", "awake_ns"),
        words={"doorbell": DOORBELL_COUNTS},
    )
    Counters.create(tmp_path / "counters", {"test": figures})
    with Counters.attach(tmp_path / "counters", "test") as found:
        yield found


@pytest.fixture
def ends(counters: Counters) -> tuple[Producer, Consumer]:
    """Open both ends of a new ring; they record."""
    memory = bytearray(ring_bytes(CAPACITY))
    format_ring(memory, CAPACITY)
    producer, consumer = Producer(memory), Consumer(memory)
    producer.record(counters.histograms["claim_ns"])
    consumer.record({name: counters.histograms[name] for name in CONSUMER_FIGURES})
    return producer, consumer


def test_a_run_waits_from_its_publication_to_the_peek_that_takes_it(
    counters: Counters, ends: tuple[Producer, Consumer]
) -> None:
    producer, consumer = ends
    before_ns = monotonic_ns()
    assert producer.write(SLOT)
    published_ns = monotonic_ns()
    looks_ns = monotonic_ns()
    consumer.peek()
    looked_ns = monotonic_ns()
    consumer.release(consumer.length)

    found = counters.histograms["wait_ns"].snapshot()
    assert found.count == 1
    assert looks_ns - published_ns <= found.sum <= looked_ns - before_ns


def test_service_lasts_from_a_peek_to_the_release(
    counters: Counters, ends: tuple[Producer, Consumer]
) -> None:
    producer, consumer = ends
    assert producer.write(SLOT)
    before_ns = monotonic_ns()
    consumer.peek()
    peeked_ns = monotonic_ns()
    releases_ns = monotonic_ns()
    consumer.release(consumer.length)
    released_ns = monotonic_ns()

    found = counters.histograms["service_ns"].snapshot()
    assert found.count == 1
    assert releases_ns - peeked_ns <= found.sum <= released_ns - before_ns


def test_one_run_at_a_time_is_followed_and_it_is_the_oldest(
    counters: Counters, ends: tuple[Producer, Consumer]
) -> None:
    producer, consumer = ends
    before_ns = monotonic_ns()
    for _ in range(5):
        assert producer.write(SLOT)
    first_ns = monotonic_ns() - before_ns
    consumer.peek()
    consumer.release(len(SLOT))

    waits = counters.histograms["wait_ns"].snapshot
    assert waits().count == 1
    assert waits().sum <= first_ns + monotonic_ns() - before_ns
    consumer.peek()
    consumer.release(4 * len(SLOT))
    assert waits().count == 1, "the four behind the first were not stamped"
    assert producer.write(SLOT)
    consumer.peek()
    consumer.release(len(SLOT))
    assert waits().count == 2


def test_batches_and_fill_are_what_was_released_and_what_was_there(
    counters: Counters, ends: tuple[Producer, Consumer]
) -> None:
    producer, consumer = ends
    for _ in range(6):
        assert producer.write(SLOT)
    consumer.peek()
    consumer.release(2 * len(SLOT))
    consumer.release(4 * len(SLOT))

    batches = counters.histograms["batch_bytes"].snapshot()
    assert (batches.count, batches.sum, batches.max) == (2, 6 * len(SLOT), 4 * len(SLOT))
    fill = counters.histograms["fill_bytes"].snapshot()
    assert (fill.count, fill.max) == (2, 6 * len(SLOT))
    assert fill.sum == 10 * len(SLOT)


def test_every_run_is_followed_through_many_wraps_when_one_is_in_flight(
    counters: Counters, ends: tuple[Producer, Consumer]
) -> None:
    producer, consumer = ends
    for size in range(1, 400):
        run = SLOT * (1 + size % 30)
        assert producer.write(run)
        assert consumer.peek().nbytes == len(run)
        consumer.release(len(run))

    assert counters.histograms["wait_ns"].snapshot().count == 399
    assert producer.position > 10 * CAPACITY


def test_a_claim_is_timed_to_its_commit_unless_nothing_was_committed(
    counters: Counters, ends: tuple[Producer, Consumer]
) -> None:
    producer, _ = ends
    before_ns = monotonic_ns()
    assert producer.claim(len(SLOT))
    claimed_ns = monotonic_ns()
    producer.claimed_view()[:] = SLOT
    commits_ns = monotonic_ns()
    producer.commit(len(SLOT))
    ended_ns = monotonic_ns()
    assert producer.claim(len(SLOT))
    producer.commit(0)

    found = counters.histograms["claim_ns"].snapshot()
    assert found.count == 1
    assert commits_ns - claimed_ns <= found.sum <= ended_ns - before_ns


def test_ends_that_were_not_asked_record_nothing(
    counters: Counters, ends: tuple[Producer, Consumer]
) -> None:
    _, consumer = ends
    memory = bytearray(ring_bytes(CAPACITY))
    format_ring(memory, CAPACITY)
    silent = Producer(memory)
    consumer = Consumer(memory)
    consumer.record({name: counters.histograms[name] for name in CONSUMER_FIGURES})
    assert silent.write(SLOT)
    consumer.peek()
    consumer.release(len(SLOT))

    assert counters.histograms["wait_ns"].snapshot().count == 0, "nobody stamped it"
    assert counters.histograms["service_ns"].snapshot().count == 1


def test_a_bell_keeps_its_counts_where_others_read_them(counters: Counters) -> None:
    name = f"/leftfold-test-figures-{id(counters)}-{monotonic_ns()}"
    create_semaphore(name)
    bell = Doorbell(bytearray(DOORBELL_BYTES), name)
    histograms = counters.histograms
    bell.record(counters.words["doorbell"], histograms["parked_ns"], histograms["awake_ns"])
    began_ns = monotonic_ns()
    try:
        for _ in range(3):
            assert bell.wait((), 0, 20_000_000) is Reason.TIMED_OUT
        counts = bell.counts()

        assert list(counters.words["doorbell"]) == [
            counts.waits,
            counts.parks,
            counts.timeouts,
            counts.timeout_rescues,
            counts.spurious,
            counts.rings,
            counts.spun,
        ]
        assert (counts.waits, counts.parks, counts.timeouts) == (3, 3, 3)
        awake = histograms["awake_ns"].snapshot()
        parked = histograms["parked_ns"].snapshot()
        assert parked.count == 3
        assert parked.sum >= 3 * 900_000, "what is left of 20 ms each, if a core is late"
        assert awake.count == 2
        assert awake.sum + parked.sum <= monotonic_ns() - began_ns
    finally:
        bell.close()
        unlink_semaphore(name)


def test_ends_and_bells_record_on_when_the_counters_are_closed(
    counters: Counters, ends: tuple[Producer, Consumer], tmp_path: Path
) -> None:
    producer, consumer = ends
    bell = Doorbell(bytearray(DOORBELL_BYTES), event_fd=(fd := os.eventfd(0, os.EFD_NONBLOCK)))
    histograms = counters.histograms
    bell.record(counters.words["doorbell"], histograms["parked_ns"], histograms["awake_ns"])
    del histograms
    counters.close()
    gc.collect()

    assert producer.write(SLOT)
    consumer.peek()
    consumer.release(consumer.length)
    assert bell.wait((), 0, 1_000) is Reason.TIMED_OUT
    bell.close()
    os.close(fd)

    found = Counters.read(tmp_path / "counters")["test"]
    assert found.histograms["wait_ns"].count == 1
    assert found.histograms["parked_ns"].count == 1
    assert found.words["doorbell"][0] == 1
