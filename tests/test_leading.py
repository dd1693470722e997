"""A leader's plain turns in C are those of Python: the same bytes on every ring, and the same state behind each stay."""

import random

import pytest
from consensus_twins import Time, Twin, limits_of

from leftfold.raft import AppendEntriesReply, HeartbeatReply
from leftfold.runtime import frames, slots
from leftfold.runtime.steady import PASSED_MAX
from leftfold.shm import padded

SESSION = bytes(range(16))
TICK_NS = 50_000_000
CLUSTER_TICK_NS = 10_000_000


@pytest.fixture
def twins(tmp_path, monkeypatch):
    """(one that is Python's alone, one that turns in C) when both lead, and are made as `make` says."""
    made = []
    monkeypatch.setattr("leftfold.runtime.recovered.os.urandom", lambda size: bytes(size))

    def make(*, smallest=False, peer_address="", size=1):
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
                founders={id: f"127.0.0.1:{id}" for id in range(1, size + 1)} if size > 1 else None,
            )
            made.append(twin)
            both.append(twin)
            twin.start(term=3)
            begin(twin)
        return both

    yield make
    for twin in made:
        twin.close()


def begin(twin):
    """Until it serves."""
    for _ in range(60):
        twin.time.now_ns += TICK_NS if not twin.mail else CLUSTER_TICK_NS
        twin.settle()
        twin.journal(100)
        twin.settle()
        for peer in twin.mail:
            twin.peer(peer, 100)
            twin.settle()
        twin.logic(100)
        twin.settle()
    assert twin.shell.serving and twin.shell.leader
    twin.stays = twin.turns = 0


def agree(plain, steady):
    """They are equal in all."""
    expected, found = plain.state(), steady.state()
    for name in expected:
        if isinstance(expected[name], dict):
            for part in expected[name]:
                assert (name, part, found[name][part]) == (name, part, expected[name][part])
        assert found[name] == expected[name], name
    for twin in (plain, steady):
        for run in twin.written.values():
            run.clear()


def command(rng, number, size):
    return padded(frames.command(7, SESSION, number, 1, b"key", rng.randbytes(size)))


def query(rng, number):
    return padded(frames.query(8, SESSION, number, b"key", rng.randbytes(rng.randrange(40))))


class Script:
    """Random steps; each is a function that is called with one twin, and then with the other."""

    def __init__(self, seed, *, smallest, digests, size=1, calm=0):
        self.rng = random.Random(seed)
        self.size, self.calm = size, calm
        """If calm: how many messages a peer answers at a time."""
        self.smallest, self.digests = smallest, digests
        self.number = 0
        self.lazy = 0
        self.cut, self.cut_steps = 0, 0
        """A peer that is not heard, and for how long yet."""

    def steps(self):
        """The next ones; now and then everybody does what is his, so that a lost office is won again."""
        rng = self.rng
        if self.calm:
            return [self.calm_step() for _ in range(2000)]
        if rng.random() > 0.04:
            return [self.step() for _ in range(rng.choice((1, 1, 3, 10)))]
        self.lazy = 0
        again = slots.pack_room(slots.ROOM_AGAIN)
        steps = [lambda twin: twin.put("persisted", again)]
        for _ in range(rng.choice((3, 60)) if self.size > 1 else 3):
            steps += [self.tick, lambda twin: twin.journal(1000), self.peers(), self.logic()]
        return steps

    def calm_step(self):
        """Nothing that Python must look at, for a long time."""
        rng = self.rng
        peer = rng.randrange(2, self.size + 1) if self.size > 1 else 0
        run = b"".join(
            command(rng, self.number + at, rng.randrange(600)) for at in range(rng.choice((1, 2)))
        )
        self.number += 2
        number, heartbeat = rng.randrange(1000), rng.random() < 0.3

        def step(twin):
            twin.time.now_ns += 100
            twin.put("ingress", run)
            if peer and number % 8:
                twin.peer(peer, self.calm)
            if peer and heartbeat:
                twin.say(HeartbeatReply(peer, 1, twin.shell.raft.term, 0))
            if number % 3:
                twin.journal(3, 2)
                twin.logic(4, None, self.digests, number % 5 > 0)

        return step

    @staticmethod
    def tick(twin):
        twin.time.now_ns += twin.shell.tick_ns

    def step(self):
        rng = self.rng
        self.lazy = max(0, self.lazy - 1)
        self.cut_steps -= 1
        if self.cut_steps < 0:
            self.cut = 0
            if self.size > 1 and rng.random() < 0.02:
                self.cut, self.cut_steps = rng.randrange(2, self.size + 1), rng.randrange(150)
        if rng.random() < 0.01:
            self.lazy = rng.randrange(40)
        choices = [self.commands, self.commands, self.time, self.both]
        if not self.lazy:
            choices += [self.journal, self.journal, self.logic, self.logic]
        if self.size > 1:
            choices += [self.peer] * 4 + [self.peers, self.time]
            choices += [self.trouble] if rng.random() < 0.2 else []
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

    def peer(self):
        """One of them answers; it may be cut off for a while."""
        rng = self.rng
        peer = rng.choice([id for id in range(2, self.size + 1) if id != self.cut] or [2])
        count = rng.choice((1, 2, 100, 100))
        odd = rng.random() < 0.05
        lose = rng.choice((2, 3, 1)) if odd else 0
        repeat, backwards = odd and rng.random() < 0.5, odd and rng.random() < 0.5
        return lambda twin: twin.peer(peer, count, lose=lose, repeat=repeat, backwards=backwards)

    def peers(self):
        """All that matters for a commit."""
        everybody = [peer for peer in range(2, self.size + 1) if peer != self.cut]
        count = self.rng.choice((1, 10))

        def step(twin):
            for peer in everybody:
                twin.peer(peer, 100)
            if self.digests and count == 1:
                twin.tell_digests(2, 3)

        return step

    def trouble(self):
        """What a leader seldom hears."""
        rng = self.rng
        peer = rng.randrange(2, self.size + 1)
        index, term_more = (
            rng.choice((rng.randrange(100), 1 << 40)),
            rng.choice((-1, -1, 0, 0, 0, 1)),
        )
        what = rng.randrange(7)

        def step(twin):
            term = max(1, twin.shell.raft.term + (term_more if what < 3 else 0))
            match what:
                case 0:
                    now = term == twin.shell.raft.term
                    most = twin.held[peer] if now else twin.shell.raft.log.last
                    twin.say(AppendEntriesReply(peer, 1, term, True, min(index, most)))
                case 1:
                    twin.say(HeartbeatReply(peer, 1, term, index % 100))
                case 2:
                    twin.say(AppendEntriesReply(peer, 1, term, False, index, index // 2, 1))
                case 3:
                    twin.put("receive", slots.pack_link(peer, "", up=bool(index % 2)))
                case 4:
                    twin.mail[peer].clear()
                case 5:
                    held = min(index, twin.held[peer])
                    twin.say(AppendEntriesReply(peer, 1, term, True, held, repairing=True))
                case _:
                    twin.say(AppendEntriesReply(9, 1, term, True, index))

        return step

    def time(self):
        times_ns = (0, 1000, 100_000, 20_000_000, TICK_NS)
        if self.size > 1:
            times_ns = (0, 1000, 100_000, 3_000_000, CLUSTER_TICK_NS)
        passed_ns = self.rng.choice(times_ns)

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
        low = slots.pack_room(slots.ROOM_LOW, "low")
        if rng.random() < 0.03:
            return lambda twin: twin.put("persisted", low)
        return lambda twin: twin.put("ingress", run)


def run_script(twins, seed, steps, *, smallest, digests, size=1, calm=0):
    print("seed", seed)
    address = "127.0.0.1:1" if digests or size > 1 else ""
    plain, steady = twins(smallest=smallest, peer_address=address, size=size)
    script = Script(seed, smallest=smallest, digests=digests, size=size, calm=calm)
    agree(plain, steady)
    done = 0
    while done < steps:
        batch = script.steps()
        done += len(batch)
        for twin in (plain, steady):
            twin.steps.extend(batch)
            twin.settle()
        agree(plain, steady)
        if script.rng.random() < 0.1:
            for twin in (plain, steady):
                twin.deliver()
    return steady


@pytest.mark.parametrize("digests", [False, True])
@pytest.mark.parametrize("smallest", [False, True])
def test_any_script_leaves_the_same_bytes_and_the_same_state(twins, smallest, digests):
    seed = random.randrange(1 << 32)
    steady = run_script(twins, seed, 700, smallest=smallest, digests=digests)
    assert steady.turns > 0, "C had no part in it"


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("smallest", [False, True])
def test_so_does_a_leader_with_peers_whatever_becomes_of_messages(twins, smallest, size):
    seed = random.randrange(1 << 32)
    steady = run_script(twins, seed, 700, smallest=smallest, digests=True, size=size)
    assert steady.turns > 0, "C had no part in it"


@pytest.mark.parametrize("size", [1, 3])
def test_so_does_a_stay_that_ends_when_its_memory_is_full(twins, size):
    seed = random.randrange(1 << 32)
    steady = run_script(twins, seed, 2000, smallest=False, digests=size > 1, size=size, calm=10)
    assert steady.turns > 1500
    assert 1 < steady.stays < 100, "of one that has no end but that"


@pytest.mark.parametrize("smallest", [False, True])
def test_so_does_a_leader_whose_peers_fall_behind_and_catch_up(twins, smallest):
    seed = random.randrange(1 << 32)
    steady = run_script(twins, seed, 1, smallest=smallest, digests=True, size=3, calm=2)
    assert steady.turns > 200


def test_what_apply_had_no_room_for_goes_there_as_soon_as_there_is_room(twins):
    rng = random.Random(1)
    for twin in twins(smallest=True):
        twin.put("ingress", command(rng, 1, 10))
        twin.settle()
        while twin.shell.apply.write(query(rng, 2)):  # As if logic had been asked all that.
            pass
        twin.journal(10)
        twin.settle()
        feed, last = twin.shell.feed, twin.shell.raft.log.last
        assert feed.fed < last == feed.feedable
        twin.steps.append(lambda twin: twin.take("apply", 1000))
        twin.settle()
        assert feed.fed == last, "logic says nothing of queries, so nothing else tells of the room"


def test_python_goes_on_alone_where_c_is_left_again_and_again_and_c_comes_back(twins):
    rng = random.Random(1)
    _, steady = twins()
    steady.steady.passed_max = PASSED_MAX

    def ask(run, count):
        def step(twin):
            twin.put("ingress", run)

        for _ in range(count):
            steady.steps.extend(
                [step, lambda twin: twin.journal(10), lambda twin: twin.logic(10, None, False)]
            )
        steady.stays = steady.turns = 0
        steady.settle()

    ask(command(rng, 1, 10) + query(rng, 2), 200)
    assert 0 < steady.stays < 50, "each costs more than it saves: the next run is mixed again"
    ask(command(rng, 3, 10), 200)
    assert steady.turns > 3 * 200 - 4 * PASSED_MAX


@pytest.mark.campaign
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_many_scripts_agree(twins, size):
    first = random.randrange(1 << 32)
    for seed in range(first, first + 20):
        run_script(twins, seed, 1500, smallest=seed % 2 == 0, digests=size > 1, size=size)
