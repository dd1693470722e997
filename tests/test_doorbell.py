"""The doorbell between threads of one process: when a wait ends, and that it never ends too
late."""

import os
import select
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import FrameType

import attrs
import pytest

from leftfold.shm import (
    DOORBELL_BYTES,
    Consumer,
    Doorbell,
    DoorbellFailed,
    Producer,
    Reason,
    RingBusy,
    ShmError,
    UsedAfterClose,
    UsedAfterFork,
    create_semaphore,
    format_ring,
    monotonic_ns,
    padded,
    ring_bytes,
    unlink_semaphore,
)
from leftfold.shm._shm import lib

CAPACITY = 256
FOR_EVER_NS = -1


def slot(number: int) -> bytes:
    return padded(struct.pack("<IHHQ", 16, 7, 0, number))


class Pair:
    """A ring with a bell at each end, each opened by its sleeper and by its waker."""

    def __init__(self, event_fd: int = -1) -> None:
        self.names = [f"/leftfold-test-{os.getpid()}-{os.urandom(4).hex()}" for _ in range(2)]
        for name in self.names:
            create_semaphore(name)
        try:
            self.open(event_fd)
        finally:
            for name in self.names:
                unlink_semaphore(name)

    def open(self, event_fd: int) -> None:
        memory = bytearray(ring_bytes(CAPACITY))
        format_ring(memory, CAPACITY)
        cells = [bytearray(DOORBELL_BYTES) for _ in range(2)]
        if event_fd < 0:
            self.bell, waker = (Doorbell(cells[0], self.names[0]) for _ in range(2))
        else:
            self.bell, waker = (Doorbell(cells[0], event_fd=event_fd) for _ in range(2))
        self.producer_bell, producer_waker = (Doorbell(cells[1], self.names[1]) for _ in range(2))
        self.producer = Producer(memory, self.producer_bell, waker)
        self.consumer = Consumer(memory, self.bell, producer_waker)
        self.ends = (self.consumer,)
        self.producer_ends = (self.producer,)


@pytest.fixture
def pair() -> Pair:
    """Give a ring whose consumer sleeps on a semaphore."""
    return Pair()


@pytest.fixture
def event_pair() -> Iterator[Pair]:
    """Give a ring whose consumer sleeps on an eventfd."""
    event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    yield Pair(event_fd)
    os.close(event_fd)


@pytest.fixture(params=["semaphore", "eventfd"])
def either(request: pytest.FixtureRequest) -> Pair:
    """Give both kinds, one after the other."""
    return request.getfixturevalue("pair" if request.param == "semaphore" else "event_pair")


def in_thread(act: object, *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=act, args=arguments)  # pyright: ignore
    thread.start()
    return thread


def wait_until_armed(bell: Doorbell) -> None:
    while not bell.armed():
        os.sched_yield()


def test_bytes_that_are_there_end_a_wait_at_once_without_parking(either: Pair) -> None:
    either.producer.write(slot(1))

    assert either.bell.wait(either.ends, 0, FOR_EVER_NS) is Reason.READY
    assert either.bell.counts().parks == 0


def test_c_of_another_module_waits_as_python_does(pair: Pair) -> None:
    table, handle = lib.shm_calls(), pair.bell.handle
    pair.bell.watch(pair.ends)
    assert table.wait(handle, 0, 1_000_000) == Reason.TIMED_OUT
    assert table.wait(handle, 1_000_000, 0) == Reason.TIMED_OUT

    thread = in_thread(lambda: (wait_until_armed(pair.bell), pair.producer.write(slot(1))))
    assert table.wait(handle, 0, FOR_EVER_NS) == Reason.READY
    thread.join()
    assert table.wait(handle, 0, FOR_EVER_NS) == Reason.READY

    counts = pair.bell.counts()
    assert (counts.waits, counts.timeouts) == (4, 2)
    pair.bell.close()
    assert table.wait(handle, 0, 0) == lib.DOORBELL_CLOSED


def test_a_signal_ends_a_wait_of_c_too(pair: Pair) -> None:
    pair.bell.watch(pair.ends)
    before = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    ended: list[int] = []

    def interrupt() -> None:
        wait_until_armed(pair.bell)
        while not ended:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            os.sched_yield()

    thread = in_thread(interrupt)
    try:
        answer = lib.shm_calls().wait(pair.bell.handle, 0, FOR_EVER_NS)
        ended.append(answer)
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert answer == Reason.INTERRUPTED


def test_a_wait_without_bytes_ends_by_time_out_and_not_before(either: Pair) -> None:
    start_ns = monotonic_ns()

    assert either.bell.wait(either.ends, 0, 5_000_000) is Reason.TIMED_OUT
    assert monotonic_ns() - start_ns >= 5_000_000
    assert either.bell.wait(either.ends, 2_000_000, 1_000_000) is Reason.TIMED_OUT
    assert either.bell.wait(either.ends, 0, 0) is Reason.TIMED_OUT
    assert not either.bell.armed()
    assert either.bell.counts().timeout_rescues == 0


def test_a_parked_sleeper_is_woken_by_a_write(either: Pair) -> None:
    def write_when_parked() -> None:
        wait_until_armed(either.bell)
        either.producer.write(slot(1))

    thread = in_thread(write_when_parked)
    assert either.bell.wait(either.ends, 0, FOR_EVER_NS) is Reason.READY
    thread.join()
    assert either.consumer.peek_bytes() == slot(1)


def test_a_ring_without_bytes_does_not_end_a_wait(pair: Pair) -> None:
    def ring_for_nothing() -> None:
        for _ in range(3):
            wait_until_armed(pair.bell)
            pair.bell.ring()
        pair.producer.write(slot(1))

    thread = in_thread(ring_for_nothing)
    assert pair.bell.wait(pair.ends, 0, FOR_EVER_NS) is Reason.READY
    thread.join()
    assert pair.bell.counts().spurious >= 2


def test_a_spinning_sleeper_needs_no_ring(pair: Pair) -> None:
    def write() -> None:
        pair.producer.write(slot(1))

    thread = in_thread(write)
    assert pair.bell.wait(pair.ends, 10_000_000_000, FOR_EVER_NS) is Reason.READY
    thread.join()
    assert pair.bell.counts().parks == 0


def test_a_producer_that_was_refused_is_woken_when_its_run_fits(pair: Pair) -> None:
    sent = 0
    while pair.producer.write(slot(sent)):
        sent += 1
    run = slot(1) * 3
    assert not pair.producer.write(run)

    def free_one_by_one() -> None:
        for _ in range(3):
            wait_until_armed(pair.producer_bell)
            pair.consumer.peek(1)
            pair.consumer.release(16)

    thread = in_thread(free_one_by_one)
    assert pair.producer_bell.wait(pair.producer_ends, 0, FOR_EVER_NS) is Reason.READY
    thread.join()
    assert pair.producer.write(run)


def test_a_producer_that_was_refused_is_told_once(pair: Pair) -> None:
    while pair.producer.write(slot(0)):
        pass
    pair.consumer.peek()
    pair.consumer.release(pair.consumer.length)

    assert pair.producer_bell.wait(pair.producer_ends, 0, 0) is Reason.READY
    assert pair.producer_bell.wait(pair.producer_ends, 0, 0) is Reason.TIMED_OUT


def test_a_producer_that_was_not_refused_waits_for_nothing(pair: Pair) -> None:
    pair.producer.write(slot(0))

    assert pair.producer_bell.wait(pair.producer_ends, 0, 0) is Reason.TIMED_OUT


def test_an_event_loop_blocks_only_while_it_is_armed(event_pair: Pair) -> None:
    bell = event_pair.bell
    with select.epoll() as epoll:
        epoll.register(bell.fileno(), select.EPOLLIN)
        assert bell.arm(event_pair.ends)
        assert epoll.poll(0) == []
        event_pair.producer.write(slot(1))
        assert epoll.poll(-1) == [(bell.fileno(), select.EPOLLIN)]
        bell.disarm(rung=True)
        assert epoll.poll(0) == []
        assert not bell.arm(event_pair.ends), "there are bytes"
        event_pair.producer.write(slot(2))
        assert epoll.poll(0) == [], "who is awake is not rung"


def test_who_says_that_it_was_not_rung_leaves_the_token_to_the_next_block(event_pair: Pair) -> None:
    bell = event_pair.bell
    with select.epoll() as epoll:
        epoll.register(bell.fileno(), select.EPOLLIN)
        assert bell.arm(event_pair.ends)
        event_pair.producer.write(slot(1))  # After the event loop looked.
        bell.disarm(rung=False)
        assert event_pair.consumer.peek()
        event_pair.consumer.release(event_pair.consumer.length)
        assert bell.arm(event_pair.ends)
        assert epoll.poll(-1) == [(bell.fileno(), select.EPOLLIN)]
        bell.disarm(rung=True)
        assert epoll.poll(0) == []


def test_only_an_eventfd_can_be_armed(pair: Pair) -> None:
    with pytest.raises(ShmError, match="eventfd"):
        pair.bell.arm(pair.ends)


def test_a_signal_ends_a_wait_so_that_its_handler_runs(either: Pair) -> None:
    handled: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        handled.append(number)

    def interrupt() -> None:
        wait_until_armed(either.bell)
        while not handled:  # The first may come between the flag and the system call.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            os.sched_yield()

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        thread = in_thread(interrupt)
        assert either.bell.wait(either.ends, 0, FOR_EVER_NS) is Reason.INTERRUPTED
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert signal.SIGUSR1 in handled


def test_a_second_thread_that_sleeps_on_a_bell_is_refused(pair: Pair) -> None:
    thread = in_thread(pair.bell.wait, pair.ends, 0, FOR_EVER_NS)
    wait_until_armed(pair.bell)
    with pytest.raises(RingBusy, match="sleeps"):
        pair.bell.wait(pair.ends, 0, 0)
    pair.producer.write(slot(1))
    thread.join()


def test_a_child_of_fork_may_not_sleep_on_its_parents_bell(pair: Pair) -> None:
    child = os.fork()
    if child == 0:
        try:
            pair.bell.wait(pair.ends, 0, 0)
        except UsedAfterFork:
            os._exit(7)
        os._exit(1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_bell_without_its_semaphore_does_not_open() -> None:
    with pytest.raises(DoorbellFailed, match="No such file"):
        Doorbell(bytearray(DOORBELL_BYTES), f"/leftfold-test-{os.getpid()}-missing")


def test_tokens_of_late_wakers_do_not_pile_up(pair: Pair) -> None:
    """A waker took the flag while the sleeper found the bytes by itself, a thousand times."""
    for number in range(1000):
        pair.bell.memory[0] = 1  # as if armed
        pair.producer.write(slot(number))
        pair.consumer.peek()
        pair.consumer.release(16)
    assert pair.bell.wait(pair.ends, 0, 1_000_000) is Reason.TIMED_OUT
    assert pair.bell.counts().spurious == 0


def test_no_wake_up_is_lost_when_every_wait_is_without_end(pair: Pair) -> None:
    """Through a ring of sixteen slots; several wakers are the business of the harness in C."""
    rounds = 3000

    def send() -> None:
        for number in range(rounds):
            while not pair.producer.write(slot(number)):
                pair.producer_bell.wait(pair.producer_ends, 0, FOR_EVER_NS)

    thread = in_thread(send)
    expected = 0
    while expected < rounds:
        pair.bell.wait(pair.ends, 0, FOR_EVER_NS)
        run = pair.consumer.peek_bytes()
        for (number,) in struct.iter_unpack("<8xQ", run):
            assert number == expected
            expected += 1
        pair.consumer.release(len(run))
    thread.join()


def test_a_time_out_that_finds_bytes_for_which_nobody_rang_is_counted(either: Pair) -> None:
    """The probe itself: a producer without a bell is a waker that died before it rang."""
    silent = Producer(either.consumer.memory)

    def write_when_parked(number: int) -> None:
        wait_until_armed(either.bell)
        silent.write(slot(number))

    number = 0
    while either.bell.counts().timeout_rescues == 0:  # Once, unless the thread came late.
        thread = in_thread(write_when_parked, number)
        while either.bell.wait(either.ends, 0, 50_000_000) is not Reason.READY:
            pass
        thread.join()
        assert either.consumer.peek_bytes() == slot(number)
        either.consumer.release(16)
        number += 1


def test_a_closed_bell_rings_nobody_and_a_closed_end_is_never_ready(pair: Pair) -> None:
    pair.producer.write(slot(1))
    pair.consumer.close()
    assert pair.bell.wait(pair.ends, 0, 0) is Reason.TIMED_OUT

    pair.bell.close()
    pair.bell.close()
    pair.bell.ring()
    with pytest.raises(UsedAfterClose):
        pair.bell.wait(pair.ends, 0, 0)


FORGET = """
import gc, os
from leftfold.shm import *
name = f"/leftfold-test-{os.getpid()}"
create_semaphore(name)
segment = Segment.create(name, 1024 + ring_bytes(4096))
memory = segment.memory[1024:]
format_ring(memory, 4096)
for _ in range(100):
    bell = Doorbell(segment.memory[:DOORBELL_BYTES], name)
    ends = (Consumer(memory, bell, bell), Producer(memory, bell, bell))
    bell.wait(ends, 0, 0)
    del bell, ends
    gc.collect()
segment.unlink()
unlink_semaphore(name)
"""


def test_bells_and_ends_that_are_garbage_in_a_cycle_are_collected_without_a_word() -> None:
    found = subprocess.run(
        [sys.executable, "-c", FORGET], check=False, capture_output=True, text=True
    )

    assert (found.returncode, found.stderr) == (0, "")


def test_counts_are_values(pair: Pair) -> None:
    pair.bell.wait(pair.ends, 0, 0)

    assert attrs.asdict(pair.bell.counts()) == {
        "waits": 1,
        "parks": 0,
        "timeouts": 0,
        "timeout_rescues": 0,
        "spurious": 0,
        "rings": 0,
        "spun": 0,
    }
