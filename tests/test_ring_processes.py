"""The ring between processes that are killed, stopped and started again at every labelled instant.

One side is Python with the module that ships, the other the same C in the harness, where it can be
ended between two instructions. Every wait of the harness is without end, so that a lost wake-up
hangs.
"""

import contextlib
import os
import random
import signal
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from ring_harness import Meeting, compile_harness, message, sequences

from leftfold.shm import Consumer, Doorbell, Producer, Reason

pytestmark = pytest.mark.xdist_group("serial")

CAPACITY = 256
LIMIT_NS = 50_000_000  # of each wait here, as in the processes of a replica
PRODUCER_LABELS = [
    "space checked",
    "mid-copy",
    "before tail",
    "after tail",
    "flag seen",
    "flag taken",
    "parking",
    "woken",
]
CONSUMER_LABELS = [
    "copied",
    "before head",
    "after head",
    "flag seen",
    "flag taken",
    "parking",
    "woken",
]


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the harness once."""
    return compile_harness(tmp_path_factory.mktemp("harness"))


@pytest.fixture
def meeting() -> Iterator[Meeting]:
    """Give a tiny ring that begins just before 2^32, and remove it."""
    meeting = Meeting.create(CAPACITY, 2**32 - 128)
    yield meeting
    meeting.end()


def bell_of(end: Producer | Consumer) -> Doorbell:
    assert end.own_bell is not None
    return end.own_bell


def receive(consumer: Consumer, expected: int, until: int) -> int:
    """Take and check messages up to `until`; return the next sequence."""
    ends = (consumer,)
    while expected < until:
        bell_of(consumer).wait(ends, 0, LIMIT_NS)
        expected = receive_what_is_there(consumer, expected)
    return expected


def receive_what_is_there(consumer: Consumer, expected: int) -> int:
    while run := consumer.peek_bytes():
        for sequence in sequences(run):
            assert sequence == expected
            expected += 1
        consumer.release(len(run))
    return expected


def send(producer: Producer, first: int, until: int) -> None:
    ends = (producer,)
    for sequence in range(first, until):
        while not producer.write(message(sequence)):
            bell_of(producer).wait(ends, 0, LIMIT_NS)


def finish(process: subprocess.Popen[str]) -> dict[str, int]:
    """Wait for a harness that ends by itself and return what it says."""
    output, _ = process.communicate()
    assert process.returncode == 0
    words = output.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def finish_killed(process: subprocess.Popen[str]) -> None:
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_two_processes_in_a_tiny_ring_lose_double_and_reorder_nothing(
    harness: Path, meeting: Meeting
) -> None:
    count = 300_000
    consumer = meeting.start(harness, "consume", 0, count)
    producer = meeting.start(harness, "produce", 0, count)

    assert finish(producer) == {"next": count, "rescues": 0}
    assert finish(consumer) == {"next": count, "rescues": 0}


def test_python_sends_to_another_process_without_a_rescue(harness: Path, meeting: Meeting) -> None:
    process = meeting.start(harness, "consume", 0, 20_000)
    producer = meeting.producer()
    send(producer, 0, 20_000)

    assert finish(process) == {"next": 20_000, "rescues": 0}
    assert bell_of(producer).counts().timeout_rescues == 0


def test_python_receives_from_another_process_without_a_rescue(
    harness: Path, meeting: Meeting
) -> None:
    consumer = meeting.consumer()
    process = meeting.start(harness, "produce", 0, 20_000)

    assert receive(consumer, 0, 20_000) == 20_000
    assert finish(process) == {"next": 20_000, "rescues": 0}
    assert bell_of(consumer).counts().timeout_rescues == 0


def receive_until_killed(
    consumer: Consumer, process: subprocess.Popen[str], expected: int, *, park: bool
) -> int:
    """Receive until the producer is dead. Parked or not, it decides which instants come to pass."""
    ends = (consumer,)
    while process.poll() is None:
        if park:
            bell_of(consumer).wait(ends, 0, LIMIT_NS)
        expected = receive_what_is_there(consumer, expected)
    return receive_what_is_there(consumer, expected)


@pytest.mark.parametrize("nth", [1, 2, 7, 40])
@pytest.mark.parametrize("label", PRODUCER_LABELS)
def test_a_producer_killed_at_any_instant_leaves_a_strict_prefix(
    harness: Path, meeting: Meeting, label: str, nth: int
) -> None:
    """And a new one, which goes on with the next sequence, finds nothing to repair."""
    consumer = meeting.consumer()
    if label in ("parking", "woken"):  # Only who finds the ring full parks: let it fill first.
        process = meeting.start(harness, "produce", 0, 2**40, (label, nth, signal.SIGKILL))
        bell = meeting.bell("producer")
        expected = 0
        while process.poll() is None:
            while not bell.armed() and process.poll() is None:
                os.sched_yield()
            expected = receive_what_is_there(consumer, expected)
    else:
        process = meeting.start(harness, "produce", 0, 2**40, (label, nth, signal.SIGKILL))
        expected = receive_until_killed(consumer, process, 0, park=True)
    finish_killed(process)
    expected = receive_what_is_there(consumer, expected)
    assert consumer.used() == 0, "nothing half written is visible"

    process = meeting.start(harness, "produce", expected, 1_000)
    assert receive(consumer, expected, expected + 1_000) == expected + 1_000
    assert finish(process)["next"] == expected + 1_000


def send_until_killed(producer: Producer, process: subprocess.Popen[str]) -> int:
    """Send until the consumer is dead; return the next sequence to send."""
    ends, sequence = (producer,), 0
    while process.poll() is None:
        if producer.write(message(sequence)):
            sequence += 1
        else:
            bell_of(producer).wait(ends, 0, LIMIT_NS)
    return sequence


@pytest.mark.parametrize("nth", [1, 2, 7, 40])
@pytest.mark.parametrize("label", CONSUMER_LABELS)
def test_a_consumer_killed_at_any_instant_is_replaced_and_loses_nothing(
    harness: Path, meeting: Meeting, label: str, nth: int
) -> None:
    """What it had not released comes again: at least once, in order, from the ring's head."""
    producer = meeting.producer()
    process = meeting.start(harness, "consume", 0, 2**40, (label, nth, signal.SIGKILL))
    if label in ("parking", "woken"):  # Only who finds the ring empty parks: feed it one by one.
        bell, sent = meeting.bell("consumer"), 0
        while process.poll() is None:
            if bell.armed() and producer.write(message(sent)):
                sent += 1
    else:
        sent = send_until_killed(producer, process)
    finish_killed(process)

    consumer = meeting.consumer()
    first = next(sequences(consumer.peek_bytes()), sent)
    assert first <= sent
    process = meeting.start(harness, "consume", first, sent - first + 1_000)
    send(producer, sent, sent + 1_000)
    assert finish(process)["next"] == sent + 1_000


def test_a_producer_killed_in_its_sleep_costs_its_wakers_nothing(
    harness: Path, meeting: Meeting
) -> None:
    consumer = meeting.consumer()
    process = meeting.start(harness, "produce", 0, 10_000)
    bell = meeting.bell("producer")
    while not bell.armed():
        os.sched_yield()
    process.kill()
    finish_killed(process)

    expected = receive_what_is_there(consumer, 0)
    process = meeting.start(harness, "produce", expected, 500)
    assert receive(consumer, expected, expected + 500) == expected + 500
    finish(process)


def test_a_consumer_killed_in_its_sleep_costs_its_wakers_nothing(
    harness: Path, meeting: Meeting
) -> None:
    producer = meeting.producer()
    process = meeting.start(harness, "consume", 0, 10_000)
    bell = meeting.bell("consumer")
    while not bell.armed():
        os.sched_yield()
    process.kill()
    finish_killed(process)

    producer.write(message(0))
    assert not bell.armed(), "one post to nobody, and then no more"
    process = meeting.start(harness, "consume", 0, 500)
    send(producer, 1, 500)
    assert finish(process)["next"] == 500


@pytest.mark.parametrize("label", ["mid-copy", "before tail", "after tail", "flag taken"])
def test_a_producer_stopped_longer_than_every_time_out_corrupts_nothing(
    harness: Path, meeting: Meeting, label: str
) -> None:
    consumer = meeting.consumer()
    process = meeting.start(harness, "produce", 0, 2**40, (label, 9, signal.SIGSTOP))
    ends, expected = (consumer,), 0
    # os.waitid reports the stop itself: no guess, no sleep.
    while not os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT):
        bell_of(consumer).wait(ends, 0, 1_000_000)
        expected = receive_what_is_there(consumer, expected)
    expected = receive_what_is_there(consumer, expected)
    for _ in range(3):
        assert bell_of(consumer).wait(ends, 0, LIMIT_NS) is Reason.TIMED_OUT
        assert receive_what_is_there(consumer, expected) == expected
    process.send_signal(signal.SIGCONT)

    assert receive(consumer, expected, expected + 2_000) >= expected + 2_000
    process.kill()
    finish_killed(process)


@contextlib.contextmanager
def on_one_core() -> Generator[None]:
    """This process and what it starts take turns: the ring is full, and empty, again and again."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def kill_a_producer_at_random(chance: random.Random, harness: Path, meeting: Meeting) -> None:
    label, nth = chance.choice(PRODUCER_LABELS[:6]), chance.randint(1, 300)
    consumer = meeting.consumer()
    process = meeting.start(harness, "produce", 0, 2**40, (label, nth, signal.SIGKILL))
    # Nobody sees the flag of a consumer that never parks.
    park = label.startswith("flag") or chance.random() < 0.8
    expected = receive_until_killed(consumer, process, 0, park=park)
    finish_killed(process)
    process = meeting.start(harness, "produce", expected, 200)
    assert receive(consumer, expected, expected + 200) == expected + 200
    finish(process)


def kill_a_consumer_at_random(chance: random.Random, harness: Path, meeting: Meeting) -> None:
    label, nth = chance.choice(CONSUMER_LABELS[:5]), chance.randint(1, 300)
    producer = meeting.producer()
    # A consumer sees the flag of a producer that parks, and on a core of its own it is too quick for that.
    with on_one_core() if label.startswith("flag") else contextlib.nullcontext():
        process = meeting.start(harness, "consume", 0, 2**40, (label, nth, signal.SIGKILL))
        sent = send_until_killed(producer, process)
    finish_killed(process)
    first = next(sequences(meeting.consumer().peek_bytes()), sent)
    process = meeting.start(harness, "consume", first, sent - first + 200)
    send(producer, sent, sent + 200)
    assert finish(process)["next"] == sent + 200


@pytest.mark.campaign
@pytest.mark.timeout(1800)
def test_a_thousand_producers_and_consumers_killed_at_random(harness: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(1_000):
        meeting = Meeting.create(CAPACITY, chance.randrange(0, 2**63, 8))
        try:
            kill = chance.choice([kill_a_producer_at_random, kill_a_consumer_at_random])
            kill(chance, harness, meeting)
        finally:
            meeting.end()


@pytest.mark.campaign
@pytest.mark.timeout(900)
@pytest.mark.parametrize("capacity", [256, 4096, 2**20])
def test_a_long_soak_loses_doubles_and_reorders_nothing(harness: Path, capacity: int) -> None:
    meeting = Meeting.create(capacity)
    try:
        consumer = meeting.start(harness, "consume", 0, 50_000_000)
        producer = meeting.start(harness, "produce", 0, 50_000_000)

        assert finish(producer) == {"next": 50_000_000, "rescues": 0}
        assert finish(consumer) == {"next": 50_000_000, "rescues": 0}
    finally:
        meeting.end()
