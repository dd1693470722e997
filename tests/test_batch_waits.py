"""The journal's wait, which takes usual batches meanwhile: nothing is different from turns of Python but who does it."""

import os
import random
import signal
import threading
from contextlib import contextmanager

import attrs
import pytest
from journal_rings import Rings
from journal_samples import OWNER, entries, entry, heads
from replica import wait_until

from leftfold.runtime import agent, contents, metrics, slots
from leftfold.runtime.batches import BYTES_MAX
from leftfold.runtime.errors import DISK_FULL, FSYNC_FAILED, JournalFailed
from leftfold.runtime.journal import Journal
from leftfold.runtime.segments import Disk
from leftfold.shm import Counters, monotonic_ns

SEGMENT_BYTES = 256 * 1024
FOR_LONG_NS = 60_000_000_000


class Steps:
    """A process that a thread runs, step by step: a step is over when the process sleeps and has taken all."""

    def __init__(self, directory, *, disk=None, counted=True, **capacities):
        self.event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.journal = Journal.open(
            directory / "journal", OWNER, segment_bytes=SEGMENT_BYTES, disk=disk
        )
        Counters.create(directory / "counters", metrics.schema())
        self.counters = Counters.attach(directory / "counters", "journal") if counted else None
        self.rings = Rings(
            self.journal, event_fd=self.event_fd, counters=self.counters, **capacities
        )
        self.process = self.rings.process
        self.stop = False
        self.failure = None
        self.taken, self.read = [], []
        self.waits = 0

    @contextmanager
    def running(self, run):
        """While `run` runs in a thread."""
        self.stop = False

        def act():
            try:
                run()
            except BaseException as failure:  # noqa: BLE001 - it is shown by `step`
                self.failure = failure

        thread = threading.Thread(target=act)
        thread.start()
        try:
            yield self
        finally:
            self.stop = True
            self.rings.waker.ring()
            thread.join()

    def turning(self):
        """As the process turns."""
        return self.running(
            lambda: agent.run(
                self.process,
                self.rings.bell,
                0,
                lambda: self.stop,
                lambda: self.process.turn_elsewhere(0),
            )
        )

    def waiting(self):
        """Its waits alone, one behind the other, without a turn."""

        def act():
            while not self.stop:
                assert self.process.turn_elsewhere(0)
                self.waits += 1

        return self.running(act)

    def rests(self):
        return self.failure or (self.rings.persist.used() == 0 and self.rings.bell.armed())

    def step(self, run=b"", *, take=True):
        """Put a run in, and take what came of it."""
        if run:
            assert self.rings.persist.write(run)
        while True:
            while not self.rests():
                os.sched_yield()
            assert self.failure is None, self.failure
            if not take:
                return
            read, persisted = map(self.rings.take, (self.rings.read, self.rings.persisted))
            self.read += read
            self.taken += persisted
            if not (read or persisted):
                return

    def settle(self):
        """Until everything is prepared."""
        wait_until(lambda: self.rests() and self.journal.is_prepared, "all is prepared")
        self.step()

    def end(self):
        self.rings.end()
        self.journal.abandon()
        os.close(self.event_fd)


@pytest.fixture
def steps(tmp_path):
    made = []

    def make(name="one", **options):
        (tmp_path / name).mkdir()
        made.append(Steps(tmp_path / name, **options))
        return made[-1]

    yield make
    for one in made:
        one.end()


@pytest.fixture
def begun(steps):
    """One with an entry in its log."""
    one = steps()
    one.rings.recovered()
    one.rings.persist.write(entries(1, 1))
    one.rings.work()
    one.rings.take(one.rings.persisted)
    return one


def state_of(one):
    """All that the two ways must agree about."""
    journal = one.journal
    found = {
        name: getattr(journal.contents, name)
        for name in (field.name for field in attrs.fields(contents.Contents))
        if name != "_fold"
    }
    segment = attrs.asdict(
        journal.current, filter=lambda field, _: field.name not in ("path", "file", "disk")
    )
    files = {path.name: path.read_bytes() for path in journal.directory.iterdir()}
    figures = {
        name: one.counters.counters[name].value
        for name in ("batches", "bytes", "syncs", "durable_index", "segments")
    }
    process = (one.process._persist_bytes, one.process._durable, len(one.process._requests))
    histograms = one.counters.histograms
    sizes = histograms["batch_bytes"].snapshot()
    synced = histograms["fsync_ns"].snapshot().count
    return found, segment, journal.closed.keys(), files, figures, sizes, synced, process


class Script:
    """A random run after the other, of every sort that consensus writes."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.last, self.term, self.commit, self.untaken = 0, 1, 0, 0

    def some(self, most, **kind):
        """Entries behind the last."""
        rng, run = self.rng, b""
        for _ in range(rng.randint(1, most)):
            self.last += 1
            body = rng.randbytes(rng.choice((0, 5, 24, 700, 2500)))
            run += entry(self.last, self.term, body, **kind)
        return run

    def hard_state(self):
        self.commit = self.rng.randint(self.commit, self.last)
        return slots.pack_hard_state(self.term, self.rng.randint(0, 3), self.commit)

    def takes(self):
        """Whether what came of the run is taken; now and then it is not for long, so that `persisted` gets full."""
        if not self.untaken and self.rng.random() < 0.02:
            self.untaken = self.rng.choice((5, 60))
        self.untaken = max(0, self.untaken - 1)
        return not self.untaken

    def next(self):
        rng = self.rng
        choice = rng.randrange(20)
        if choice < 10:
            run = self.some(2)
            return run + self.hard_state() if choice < 5 else run
        if choice < 12:
            return self.hard_state()
        if choice == 12:
            return self.some(9)
        if choice == 13:
            self.term += 1
            return self.hard_state() + self.some(2)
        if choice == 14 and self.last > self.commit:
            self.last = rng.randint(self.commit, self.last - 1)
            run = slots.pack_truncate(self.last + 1)
            return run
        if choice == 15 and self.last > self.commit:
            self.term += 1
            self.last = rng.randint(self.commit, self.last - 1)
            return self.some(3)
        if choice == 16 and self.last:
            first = rng.randint(1, self.last)
            return slots.pack_read(first, self.last, rng.choice((100, 5000)), rng.randrange(4))
        if choice == 17 and self.last:
            run = self.some(1)
            return run + slots.pack_read(self.last, self.last, 1000, 1) + self.some(1)
        if choice == 18:
            self.last += 1
            return entry(self.last, self.term, slots.pack_skip_body(1, 1), kind=3)
        self.last += 1
        return entry(self.last, self.term, b"members", kind=4)


def unknown_disk():
    """The operating system's calls, but not known as such."""
    plain = Disk()
    return Disk(
        write=lambda *arguments: plain.write(*arguments), sync=lambda file: plain.sync(file)
    )


def compare(steps, monkeypatch, name, seed, rounds):
    monkeypatch.setattr(os, "urandom", bytes)
    monkeypatch.setattr(contents, "PLACE_EVERY_BYTES", 20_000)
    print("seed", seed)
    pair = [
        steps(f"{name} {number}", disk=disk, persisted=1 << 10, read=1 << 16)
        for number, disk in enumerate((None, unknown_disk()))
    ]
    by_c, by_python = pair
    for one in pair:
        script = Script(seed)
        with one.turning():
            one.step()
            for _ in range(rounds):
                one.step(script.next(), take=script.takes())
            one.step()
            one.settle()
        assert one.failure is None
        assert one.journal.recovered.last == script.last
    assert by_c.taken == by_python.taken
    assert by_c.read == by_python.read
    assert state_of(by_c) == state_of(by_python)
    assert by_python.process._batches.synced_at_ns == 0 < by_c.process._batches.synced_at_ns


@pytest.mark.parametrize("number", range(3))
def test_whatever_comes_it_ends_as_it_does_in_turns_of_python(steps, monkeypatch, number):
    compare(steps, monkeypatch, f"some {number}", random.randrange(1 << 32), 250)


@pytest.mark.campaign
def test_whatever_comes_many_times(steps, monkeypatch):
    for number in range(40):
        compare(steps, monkeypatch, f"many {number}", random.randrange(1 << 32), 300)


def test_usual_batches_need_no_turn(begun):
    with begun.waiting():
        for index in range(2, 302):
            begun.step(entries(index, index) + slots.pack_hard_state(1, 1, index - 1))
        waits = begun.waits
    print(f"{waits} waits")
    told = [slots.unpack_persisted(memoryview(slot))[1] for _, _, slot in begun.taken]
    assert told == list(range(2, 302))
    held = begun.journal.contents
    assert (held.commit, held.last, held.voted_for) == (300, 301, 1)
    assert heads(begun.journal.read(1, 301, 1 << 20)) == [(index, 1) for index in range(1, 302)]


def test_files_are_prepared_under_load_as_in_turns(begun):
    """Each piece of load finds its file zeroed twice as far as it is written; and the spare, in the second half."""
    with begun.waiting():
        for index in range(2, 70):
            begun.step(entries(index, index, body_bytes=3000))
    assert begun.journal.current.offset > SEGMENT_BYTES * 3 // 4
    assert begun.journal.current.offset < begun.journal.ahead_at
    assert begun.journal.spare.filled > 0


@pytest.mark.parametrize("limit", ["bytes", "time", "files"])
def test_it_is_left_behind_the_batch_that_reaches_a_limit(begun, limit):
    """For a look at the disk, for signals under load, and so that the file is zeroed before it is written."""
    batches, run = begun.process._batches, entries(2, 2)
    bytes_max = len(run) if limit == "bytes" else 1 << 20
    until_ns = 0 if limit == "time" else monotonic_ns() + FOR_LONG_NS
    if limit == "files":
        begun.journal.current.filled = begun.journal.current.offset
    begun.rings.persist.write(run)
    assert batches.wait(len(entries(1, 1)), bytes_max, until_ns, 0, FOR_LONG_NS) == len(run)
    assert begun.rings.bell.counts().waits == 1


def test_a_signal_ends_it_so_that_its_handler_runs(begun):
    handled = []

    def interrupt():
        while not begun.rings.bell.armed():
            os.sched_yield()
        while not handled:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            os.sched_yield()

    before = signal.signal(signal.SIGUSR1, lambda number, frame: handled.append(number))
    thread = threading.Thread(target=interrupt)
    try:
        thread.start()
        assert begun.process._batches.wait(0, 1 << 20, 0, 0, FOR_LONG_NS) == 0
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert handled


@pytest.mark.parametrize(
    ("device", "tag", "sentence"),
    [("/dev/full", DISK_FULL, "The disk is full"), ("/dev/null", FSYNC_FAILED, "Cannot sync")],
)
def test_a_disk_that_refuses_ends_it_and_nothing_more_is_told(begun, device, tag, sentence):
    with begun.waiting():
        begun.step(entries(2, 2))
    kept, begun.journal.current.file = begun.journal.current.file, os.open(device, os.O_RDWR)
    begun.rings.persist.write(entries(3, 3))
    try:
        with pytest.raises(JournalFailed):
            assert begun.process.turn_elsewhere(0)
    finally:
        os.close(begun.journal.current.file)
        begun.journal.current.file = kept

    ((kind, found, slot),) = begun.rings.take(begun.rings.persisted)
    assert (kind, found) == (slots.FAILED, tag)
    assert slot[8:].decode().startswith(sentence)
    assert begun.journal.contents.last == 2


@pytest.mark.parametrize(
    "run",
    [
        entry(2, term=2),
        entries(2, 2) + slots.pack_read(1, 1, 1 << 20),
        entries(2, 3, body_bytes=BYTES_MAX // 2),
    ],
    ids=["term", "request", "long"],
)
def test_what_is_out_of_the_ordinary_ends_it_and_lies_as_it_was(begun, run):
    begun.rings.persist.write(run)
    assert begun.process.turn_elsewhere(0)
    assert begun.rings.persist.used() == len(run)
    assert begun.journal.contents.last == 1
    begun.rings.work()
    assert begun.rings.persist.used() == 0
    assert begun.journal.contents.last >= 2


def test_what_persisted_has_no_room_for_ends_it(begun):
    while begun.process.persisted.write(slots.pack_room(slots.ROOM_AGAIN)):
        pass
    begun.rings.persist.write(entries(2, 2))
    assert begun.process.turn_elsewhere(0)
    assert begun.journal.contents.last == 2
    begun.rings.take(begun.rings.persisted)
    begun.rings.work()
    ((kind, _, slot),) = begun.rings.take(begun.rings.persisted)
    assert kind == slots.PERSISTED
    assert slots.unpack_persisted(memoryview(slot)) == (1, 2, len(entries(1, 2)))
