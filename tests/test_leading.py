"""A leader's plain turns in C are those of Python: the same bytes on every ring, and the same state behind each stay."""

import random

import pytest
from consensus_twins import Time, Twin, limits_of

from leftfold.runtime import frames, slots
from leftfold.shm import padded

SESSION = bytes(range(16))
TICK_NS = 50_000_000


@pytest.fixture
def twins(tmp_path, monkeypatch):
    """(one that is Python's alone, one that turns in C) when both lead, and are made as `make` says."""
    made = []
    monkeypatch.setattr("leftfold.runtime.recovered.os.urandom", lambda size: bytes(size))

    def make(*, smallest=False, peer_address=""):
        both = []
        for in_c in (False, True):
            directory = tmp_path / f"twin_{len(made)}"
            directory.mkdir()
            twin = Twin(
                directory,
                in_c=in_c,
                limits=limits_of(smallest),
                time=Time(),
                peer_address=peer_address,
            )
            made.append(twin)
            both.append(twin)
            twin.start()
            for _ in range(10):
                twin.time.now_ns += TICK_NS
                twin.settle()
                twin.journal(100)
                twin.settle()
                twin.logic(100)
                twin.settle()
            assert twin.shell.serving
        return both

    yield make
    for twin in made:
        twin.close()


def agree(plain, steady):
    """They are equal in all."""
    expected, found = plain.state(), steady.state()
    for name in expected:
        if isinstance(expected[name], dict):
            for part in expected[name]:
                assert (name, part, found[name][part]) == (name, part, expected[name][part])
        assert found[name] == expected[name], name


def command(rng, number, size):
    return padded(frames.command(7, SESSION, number, 1, b"key", rng.randbytes(size)))


def query(rng, number):
    return padded(frames.query(8, SESSION, number, b"key", rng.randbytes(rng.randrange(40))))


class Script:
    """Random steps; each is a function that is called with one twin, and then with the other."""

    def __init__(self, seed, *, smallest, digests):
        self.rng = random.Random(seed)
        self.smallest, self.digests = smallest, digests
        self.number = 0
        self.lazy = 0

    def step(self):
        rng = self.rng
        self.lazy = max(0, self.lazy - 1)
        if rng.random() < 0.02:
            self.lazy = rng.randrange(40)
        choices = [self.commands, self.commands, self.time, self.both]
        if not self.lazy:
            choices += [self.journal, self.journal, self.logic, self.logic]
        choices += [self.rare] if rng.random() < 0.3 else []
        steps = [rng.choice(choices)() for _ in range(rng.choice((1, 1, 1, 2, 3)))]

        def all_of_them(twin):
            for step in steps:
                step(twin)

        return all_of_them

    def commands(self):
        rng = self.rng
        size = rng.choice((0, 10, 100, 800)) if self.smallest else rng.choice((0, 10, 100, 5000))
        run = b""
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            self.number += 1
            run += command(rng, self.number, rng.randrange(size + 1))
        return lambda twin: twin.put("ingress", run)

    def journal(self):
        count, told = self.rng.choice((1, 2, 3, 1000, 1000)), self.rng.choice((1, 1, 2, 3))
        return lambda twin: twin.journal(count, told)

    def logic(self):
        rng = self.rng
        count, together = rng.choice((1, 2, 1000, 1000)), rng.random() < 0.8
        due_in_ns = rng.choice((None, None, 0, 10_000, 10_000_000, 10_000_000_000))

        def step(twin):
            at = None
            if due_in_ns is not None:
                at = twin.time.wall_ns() + due_in_ns
            twin.logic(count, at, self.digests, together)

        return step

    def both(self):
        first, then = self.journal(), self.logic()
        return (lambda twin: None) if self.lazy else lambda twin: (first(twin), then(twin))

    def time(self):
        passed_ns = self.rng.choice((0, 1000, 100_000, 20_000_000, TICK_NS))

        def step(twin):
            twin.time.now_ns += passed_ns

        return step

    def rare(self):
        rng = self.rng
        self.number += 1
        run = rng.choice(
            (
                padded(frames.open_session(SESSION)),
                padded(frames.close_session(SESSION)),
                query(rng, self.number),
                query(rng, self.number) + query(rng, self.number + 1),
                command(rng, self.number, 10) + query(rng, self.number),
                query(rng, self.number) + command(rng, self.number, 10),
                padded(frames.subscribe(SESSION, self.number, (0, 0, 0))),
                slots.pack_control(slots.Control(slots.CONTROL_STATUS, SESSION, self.number, b"")),
            )
        )
        state = rng.choice(
            (slots.pack_room(slots.ROOM_LOW, "low"), slots.pack_room(slots.ROOM_AGAIN))
        )
        if rng.random() < 0.1:
            return lambda twin: twin.put("persisted", state)
        return lambda twin: twin.put("ingress", run)


def run_script(twins, seed, steps, *, smallest, digests):
    print("seed", seed)
    plain, steady = twins(smallest=smallest, peer_address="127.0.0.1:1" if digests else "")
    script = Script(seed, smallest=smallest, digests=digests)
    agree(plain, steady)
    done = 0
    while done < steps:
        batch = [script.step() for _ in range(script.rng.choice((1, 1, 3, 10)))]
        done += len(batch)
        for twin in (plain, steady):
            twin.steps.extend(batch)
            twin.settle()
        agree(plain, steady)
        if script.rng.random() < 0.1:
            for twin in (plain, steady):
                twin.take("send", 1000)
    return steady


@pytest.mark.parametrize("digests", [False, True])
@pytest.mark.parametrize("smallest", [False, True])
def test_any_script_leaves_the_same_bytes_and_the_same_state(twins, smallest, digests):
    seed = random.randrange(1 << 32)
    steady = run_script(twins, seed, 2000, smallest=smallest, digests=digests)
    assert steady.turns > 100, "C hardly had a part in it"
