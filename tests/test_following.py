"""A follower's plain turns in C: to the byte what Python does with the same input, and Python's state when it takes over."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
from consensus_rings import Rings, everything, raft_state

from leftfold.actors.layout import COMMAND as COMMAND_STRUCT
from leftfold.raft import (
    CONFIGURATION,
    TERM_START,
    AppendEntries,
    AppendEntriesReply,
    Entry,
    Heartbeat,
    InstallSnapshot,
    Membership,
    Message,
    RequestVote,
    RequestVoteReply,
    TimeoutNow,
)
from leftfold.runtime import raft_messages, slots
from leftfold.runtime._wire import lib
from leftfold.runtime.config import TransportLimits
from leftfold.runtime.digests import AskOrdinals, Digests
from leftfold.runtime.following import Following

MS = 1_000_000
OTHERS = (2, 3)


class Side:
    """One consensus and the two ways to turn it."""

    def __init__(self, place: Path, *, in_c: bool, **options: Any) -> None:
        self.rings = Rings(place, **options)
        self.shell = self.rings.shell
        self.following = Following(self.shell, self.rings.bell) if in_c else None
        self.inside = False
        self.turns_in_c = 0
        self.stays = 0

    def turn(self) -> None:
        """As agent.run and steady.py turn it, without a wait."""
        if self.inside and self._turn_in_c():
            return
        self.leave()
        if (not self.shell.work() or not self.shell.more) and self.following is not None:
            self.inside = self.following.enter()
            self.stays += self.inside

    def _turn_in_c(self) -> bool:
        shell, following = self.shell, self.following
        assert following is not None
        plain = lib.FOLLOWING_PERSISTED | lib.FOLLOWING_APPLIED | lib.FOLLOWING_RECEIVE
        if shell.clock.monotonic_ns() >= shell.next_tick_ns or shell.inputs.ready() & ~plain:
            return False
        reason = following.turn()
        assert reason != lib.FOLLOWING_BROKEN
        self.turns_in_c += reason == lib.FOLLOWING_DONE
        return reason <= lib.FOLLOWING_DONE

    def leave(self) -> None:
        if self.inside and self.following is not None:
            self.following.leave()
        self.inside = False


@contextmanager
def sides(place: Path, **options: Any) -> Iterator[tuple[Side, Side]]:
    """One that is Python's alone, and one that C turns while it can."""
    both = Side(place / "python", in_c=False, **options), Side(place / "c", in_c=True, **options)
    try:
        yield both
    finally:
        for side in both:
            side.rings.end()


class World:
    """Everybody else: a leader or two, the journal, logic, clients. It does to both sides the same."""

    def __init__(self, rng: random.Random, python: Side, c: Side) -> None:
        self.rng, self.python, self.c = rng, python, c
        self.stopped = dict.fromkeys(("send", "persist", "apply"), 0)
        """For how many turns yet nobody reads these."""
        self.raft = python.shell.raft
        self.leader, self.term = 2, 1
        self.log: list[Entry] = []
        self.sent = 0
        self.round = 0
        self.persist_bytes = 0
        self.places: list[tuple[int, int, int]] = []
        """(term, index, bytes) of the ends of slots in `persist` that are not acknowledged."""
        self.durable: dict[int, bytes] = {}
        self.unapplied: list[int] = []
        self.digested = 0
        self.said: list[tuple[int, int, bytes]] = []
        self.lead_anew()

    # The world's own

    def both(self, ring: str, run: bytes) -> bool:
        written = self.python.rings.give(ring, run)
        assert self.c.rings.give(ring, run) == written
        return written

    def take(self, ring: str) -> list[tuple[int, int, bytes]]:
        if self.stopped.get(ring):
            return []
        found = self.python.rings.take(ring)
        assert self.c.rings.take(ring) == found, ring
        return found

    def turn(self) -> None:
        self.stopped = {ring: max(0, turns - 1) for ring, turns in self.stopped.items()}
        self.python.turn()
        self.c.turn()
        for name, taken in self.python.rings.taken.items():
            there = self.c.rings.taken[name]
            assert (taken.position, taken.used()) == (there.position, there.used()), name

    def compare(self) -> None:
        """What Python has when it takes over."""
        self.c.leave()
        assert everything(self.python.rings) == everything(self.c.rings)

    # Leaders

    def entry(self, kind: int = 0, body: bytes | None = None) -> Entry:
        rng = self.rng
        index = len(self.log) + 1
        if body is None:
            size = rng.choice((0, 8, 50, 50, 200, rng.randrange(1800)))
            kind, body = rng.choice((0, 0, 0, 2, 5)), rng.randbytes(size)
        return Entry(index, self.term, index * 10, kind, body)

    def lead_anew(self) -> None:
        """Another leader, whose log has what is committed here, and some of the rest."""
        log = self.raft.log
        self.term = max(self.raft.term, self.term) + (1 if self.log else 0)
        self.leader = self.rng.choice(OTHERS)
        keep = self.rng.randint(self.raft.commit, log.last)
        known = log.entries(1, keep) if keep else ()
        assert known is not None
        self.log = list(known)
        self.log.append(self.entry(TERM_START, b"build"))
        self.sent = self.rng.randint(min(self.raft.commit, keep), keep)

    def tell(self, message: Any) -> None:
        self.both("receive", raft_messages.encode(message))

    def append(self) -> None:
        """What a leader sends next, mostly; with new entries of its own."""
        rng = self.rng
        for _ in range(rng.choice((0, 1, 1, 1, 2, 4))):
            self.log.append(self.entry())
        if rng.random() < 0.03:  # More of them at once than go into one write of a small ring.
            for _ in range(rng.randrange(8)):
                self.log.append(self.entry(0, rng.randbytes(1800)))
                self.append()
        if rng.random() < 0.01:
            members = Membership(voters=(1, 2, 3), learners=(4,) if rng.random() < 0.5 else ())
            self.log.append(self.entry(CONFIGURATION, members.encode()))
        if rng.random() < 0.03:  # Lost, repeated, or it comes from elsewhere in the log.
            self.sent = rng.randint(0, len(self.log))
        end = min(len(self.log), self.sent + rng.choice((0, 1, 1, 2, 5, 40)))
        room = self.python.rings.given["receive"].slot_bytes_max - 128
        while sum(len(each.body) + 48 for each in self.log[self.sent : end]) > room:
            end -= 1
        self.tell(self.appending(self.sent, end))
        self.sent = end

    def appending(self, previous: int, end: int) -> AppendEntries:
        term = self.log[previous - 1].term if previous else 0
        commit = self.rng.randint(0, len(self.log)) if self.rng.random() < 0.5 else max(0, end - 1)
        entries = tuple(self.log[previous:end])
        return AppendEntries(self.leader, 1, self.term, previous, term, entries, commit)

    def go_on(self) -> None:
        """It has seen a refusal."""
        self.sent = min(self.raft.log.last, len(self.log))

    def beat(self) -> None:
        self.round += self.rng.randrange(2)
        commit = self.rng.randint(0, min(len(self.log), self.raft.log.last))
        self.tell(Heartbeat(self.leader, 1, self.term, commit, self.round))

    def hostile(self) -> None:
        """What is seldom, late, or from nobody who leads."""
        rng, raft = self.rng, self.raft
        source = rng.choice(OTHERS)
        term = max(1, self.term + rng.choice((-1, -1, 0, 0, 0, 1)))
        last, prev_term = raft.log.last, raft.log.last_term
        entries = (Entry(last + 1, max(1, prev_term), 10 * last + 10, 0, b"?"),)
        message: Message | Digests | AskOrdinals = rng.choice(
            (
                AppendEntries(source, 1, term, last, prev_term, (), 0),
                AppendEntries(
                    self.leader,
                    1,
                    self.term,
                    last,
                    prev_term,
                    (Entry(last + 1, term + 1, 0, 0, b""),),
                    0,
                ),
                AppendEntries(source, 1, term - 1, last, prev_term, entries, last),
                AppendEntries(self.leader, 1, self.term, last + 3, self.term, (), last),
                AppendEntries(self.leader, 1, self.term, last, prev_term + 1, (), last),
                Heartbeat(source, 1, term - 1, 0),
                RequestVote(source, 1, term, last, prev_term),
                RequestVote(source, 1, term + 1, last, prev_term, pre_vote=True),
                RequestVoteReply(
                    source, 1, raft.term + rng.randrange(2), rng.random() < 0.7, rng.random() < 0.5
                ),
                AppendEntriesReply(source, 1, raft.term, True, min(last, raft.durable)),
                InstallSnapshot(self.leader, 1, self.term, 1, 1, 100, 0, 0, b"", False),
                TimeoutNow(source, 1, term),
                Digests(source, 1, term, 1, bytes(8)),
                AskOrdinals(source, 1, term, 1),
            )
        )
        self.tell(message)

    def link(self) -> None:
        up = self.rng.random() < 0.5
        self.both("receive", slots.pack_link(self.rng.choice(OTHERS), "127.0.0.1:1", up=up))

    # The journal and logic

    def clog(self) -> None:
        """A ring is nearly full, with what means nothing to whoever reads it, and nobody does for a while."""
        self.c.leave()
        name, left = self.rng.choice((*self.stopped,)), self.rng.randrange(1500)
        self.stopped[name] = self.rng.randrange(40)
        for side in (self.python, self.c):
            ring = side.shell.producers[name]
            write = side.shell.persisting.write if name == "persist" else ring.write
            for size in (ring.slot_bytes_max, 64, 16):
                nothing = slots.HEADER.pack(size, slots.DISCARD, 0) + bytes(size - 8)
                for _ in range(max(0, ring.free() - left) // size):
                    write(nothing)

    def work_of_journal(self) -> None:
        for kind, tag, slot in self.take("persist"):
            self.persist_bytes += slots.padded(len(slot))
            if kind == slots.ENTRY:
                head = slots.unpack_entry(memoryview(slot))
                self.durable[head.index] = slot
                self.places.append((head.term, head.index, self.persist_bytes))
            elif kind == slots.HARD_STATE and self.places:
                self.places.append((*self.places[-1][:2], self.persist_bytes))
            elif kind == slots.HARD_STATE:
                self.places.append((self.raft.term, 0, self.persist_bytes))
            elif kind == slots.READ:
                first, last, _ = slots.unpack_read(memoryview(slot))
                for index in range(first, last + 1):
                    body = self.durable[index]
                    head = slots.HEADER.pack(len(body), slots.ENTRY, tag)
                    assert self.both("read", head + body[8:] + bytes(-len(body) % 8))

    def persisted(self) -> None:
        self.work_of_journal()
        if self.places:
            upto = self.rng.randrange(len(self.places))
            place = self.places[upto]
            if self.both("persisted", slots.pack_persisted(*place)):
                del self.places[: upto + 1]

    def room(self) -> None:
        tag = self.rng.choice((slots.ROOM_AGAIN, slots.ROOM_LOW))
        self.both("persisted", slots.pack_room(tag, "low" if tag else ""))

    def work_of_logic(self) -> None:
        for kind, _, slot in self.take("apply"):
            if kind == slots.ENTRY:
                self.unapplied.append(slots.unpack_entry(memoryview(slot)).index)

    def applied(self) -> None:
        self.work_of_logic()
        if not self.unapplied:
            return
        rng = self.rng
        count = rng.randint(1, len(self.unapplied))
        index = self.unapplied[count - 1]
        deadline = rng.choice((None, None, rng.randrange(1 << 40)))
        run = slots.pack_applied(index, rng.randrange(1 << 32), deadline)
        first = self.unapplied[0]
        if rng.random() < 0.03:
            first += 1
        if rng.random() < 0.7 and first <= index:
            digests = rng.randbytes(4 * (index - first + 1))
            length = 16 + len(digests)
            head = slots.HEADER.pack(length, slots.DIGESTS, 0) + first.to_bytes(8, "little")
            padded = head + digests + bytes(-length % 8)
            run = padded + run if rng.random() < 0.5 else run + padded
        if self.both("applied", run):
            del self.unapplied[:count]

    # Clients, and time

    def ingress(self) -> None:
        kind = self.rng.choice((slots.COMMAND, slots.QUERY, slots.SUBSCRIBE))
        length = 56 if kind == slots.SUBSCRIBE else COMMAND_STRUCT.size
        body = slots.HEADER.pack(length, kind, 1) + bytes([1]) * 16 + bytes(length - 24)
        self.both("ingress", body)

    def control(self) -> None:
        asked = slots.Control(slots.CONTROL_STATUS, bytes([1]) * 16, 1, b"{}")
        self.both("ingress", slots.pack_control(asked))

    def pass_time(self) -> None:
        ns = self.rng.choice((1, MS, 3 * MS, 12 * MS))
        for side in (self.python, self.c):
            side.rings.clock.now_ns += ns

    def take_sent(self) -> None:
        self.said += self.take("send")
        self.take("bulk_send")

    def vouch(self) -> None:
        """I4: whatever is acknowledged is durable: it lies in the journal, and the journal has said so."""
        for kind, tag, slot in self.said:
            if kind == slots.RAFT_MESSAGE and tag == 4:
                message = raft_messages.decode(slot)
                assert isinstance(message, AppendEntriesReply)
                if message.success and message.term == self.raft.term:
                    assert message.index <= max(self.raft.durable, self.raft.commit)
        self.said.clear()


def run(world: World, steps: int, *, hostile: float, clogged: float) -> None:
    rng = world.rng
    often = (world.append, world.append, world.persisted, world.persisted, world.applied)
    seldom = (world.hostile, world.lead_anew, world.go_on, world.go_on, world.link, world.ingress)
    rare = (world.control, world.room)
    for _ in range(steps):
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            what = rng.random()
            if what < hostile:
                rng.choice(seldom if rng.random() < 0.9 else rare)()
            elif what < 0.15 + hostile:
                rng.choice((world.pass_time, world.beat, world.beat))()
            else:
                rng.choice(often)()
        world.turn()
        if rng.random() < 0.5:
            world.go_on()
        if rng.random() < 0.5:
            world.take_sent()
            world.vouch()
            world.work_of_journal()
            world.work_of_logic()
        if rng.random() < clogged:
            world.clog()
        if rng.random() < 0.05:
            world.compare()
    world.compare()


def start(world: World) -> None:
    """Until it is a plain follower."""
    for _ in range(400):
        world.go_on()
        world.tell(world.appending(world.sent, len(world.log)))
        world.beat()
        world.turn()
        for _ in range(3):
            world.persisted()
            world.turn()
            world.applied()
            world.turn()
        world.take_sent()
        if world.c.inside:
            return
        world.pass_time()
    raise AssertionError(f"it never serves: {world.python.rings.reports}")


LIMITS = {"ample": TransportLimits(), "tiny": TransportLimits.smallest()}


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize(
    ("hostile", "clogged"), [(0.0, 0.0), (0.02, 0.0), (0.15, 0.01), (0.01, 0.05)]
)
def test_the_rings_and_all_state_are_those_of_python(
    tmp_path: Path, limits: str, hostile: float, clogged: float
) -> None:
    first = random.randrange(1 << 32)
    print("seed", first)
    turns = 0
    for seed in range(first, first + 5):
        options = {"limits": LIMITS[limits], "seed": seed % 1000}
        with sides(tmp_path / str(seed), **options) as (python, c):
            world = World(random.Random(seed), python, c)
            start(world)
            run(world, 400, hostile=hostile, clogged=clogged)
            turns += c.turns_in_c
    assert turns > 100, "C does hardly anything"


# One turn, and one stay


@pytest.fixture
def c(tmp_path: Path) -> Iterator[Side]:
    """One that C turns, with all done: its log ends with an entry of the term that is durable and applied."""
    with sides(tmp_path) as (python, found):
        world = World(random.Random(1), python, found)
        start(world)
        found.leave()
        for _ in range(5):
            world.persisted()
            world.applied()
            world.turn()
            world.take_sent()
        found.leave()
        assert found.shell.raft.follows_steadily
        yield found


def following_of(side: Side) -> Following:
    """It enters."""
    assert side.following is not None and side.following.enter()
    return side.following


def appended(side: Side, *entries: Entry, **changed: Any) -> bytes:
    """An AppendEntries that goes on with these."""
    raft = side.shell.raft
    plainly = AppendEntries(
        raft.leader_id, raft.id, raft.term, raft.log.last, raft.log.last_term, entries, 0
    )
    return raft_messages.encode(attrs.evolve(plainly, **changed))


def next_entry(side: Side, **changed: Any) -> Entry:
    log = side.shell.raft.log
    return attrs.evolve(Entry(log.last + 1, log.last_term, log.last_time_ns, 0, b"body"), **changed)


NOT_PLAIN: dict[str, Callable[[Side], tuple[str, bytes]]] = {
    "gap": lambda side: ("receive", appended(side, prev_index=side.shell.raft.log.last + 1)),
    "overlap": lambda side: ("receive", appended(side, prev_index=side.shell.raft.log.last - 1)),
    "previous term": lambda side: ("receive", appended(side, prev_term=99)),
    "later term": lambda side: ("receive", appended(side, term=99)),
    "earlier term": lambda side: ("receive", appended(side, term=0)),
    "another leader": lambda side: (
        "receive",
        appended(side, source=5 - side.shell.raft.leader_id),
    ),
    "another target": lambda side: ("receive", appended(side, target=2)),
    "bulk": lambda side: ("receive", appended(side, bulk=True)),
    "entry's term": lambda side: ("receive", appended(side, next_entry(side, term=99))),
    "entry's earlier term": lambda side: ("receive", appended(side, next_entry(side, term=0))),
    "members": lambda side: ("receive", appended(side, next_entry(side, kind=CONFIGURATION))),
    "opening": lambda side: ("receive", appended(side, next_entry(side, kind=TERM_START))),
    "skip": lambda side: ("receive", appended(side, next_entry(side, kind=3))),
    "long": lambda side: ("receive", appended(side, next_entry(side, body=bytes(40_000)))),
    "link": lambda side: ("receive", slots.pack_link(2, "", up=False)),
    "room": lambda side: ("persisted", slots.pack_room(slots.ROOM_LOW, "low")),
    "applied what it was not given": lambda side: ("applied", slots.pack_applied(99, 1, None)),
    "applied less than before": lambda side: ("applied", slots.pack_applied(0, 1, None)),
    "build": lambda side: ("applied", slots.pack_build("build")),
    "half a digest": lambda side: (
        "applied",
        slots.HEADER.pack(18, slots.DIGESTS, 0) + bytes(16),
    ),
}


@pytest.mark.parametrize("what", NOT_PLAIN)
def test_what_is_not_plain_lies_as_it_came(c: Side, what: str) -> None:
    ring, run = NOT_PLAIN[what](c)
    following = following_of(c)
    assert c.rings.give("persisted", slots.pack_persisted(1, 1, 0))
    assert c.rings.give(ring, run)
    before = everything(c.rings)

    assert following.turn() == lib.FOLLOWING_OTHER
    assert following.turn() == lib.FOLLOWING_OTHER

    following.leave()
    assert everything(c.rings) == before
    assert following.turn() == lib.FOLLOWING_OTHER, "it lies there still"


def test_an_acknowledgement_waits_for_its_own_write(c: Side) -> None:
    following = following_of(c)
    first = next_entry(c)
    second = attrs.evolve(first, index=first.index + 1)
    assert c.rings.give("receive", appended(c, first))
    assert following.turn() == lib.FOLLOWING_DONE
    assert c.rings.give("receive", appended(c, second, prev_index=first.index))
    assert following.turn() == lib.FOLLOWING_DONE
    ends = [c.shell.persisting.handed_bytes]
    for _, _, slot in c.rings.take("persist"):
        ends.append(ends[-1] + slots.padded(len(slot)))
    assert c.rings.take("send") == []

    for end, acknowledged in zip(ends, ([], [], [first.index], [], [second.index]), strict=True):
        assert c.rings.give("persisted", slots.pack_persisted(first.term, second.index, end))
        assert following.turn() == lib.FOLLOWING_DONE
        said = [raft_messages.decode(slot) for _, _, slot in c.rings.take("send")]
        assert [message.index for message in said if isinstance(message, AppendEntriesReply)] == (
            acknowledged
        )
    assert c.rings.take("apply") == [], "the leader has not said that they are committed"
    following.leave()
    assert c.shell.raft.durable == second.index


def test_a_stay_ends_when_its_own_places_are_full_and_python_goes_on(c: Side) -> None:
    following = following_of(c)
    first, turns = c.shell.raft.log.last, 0
    while True:
        entry = Entry(first + turns + 1, c.shell.raft.term, 10**6, 0, b"")
        assert c.rings.give("receive", appended(c, entry, prev_index=first + turns))
        if following.turn() == lib.FOLLOWING_FULL:
            break
        turns += 1
    assert turns == min(lib.FOLLOWING_WRITES, lib.FOLLOWING_REPLIES)
    following.leave()
    c.shell.work()
    assert c.shell.raft.log.last == first + turns + 1


def test_it_returns_when_the_time_has_come_and_when_another_ring_has_something(c: Side) -> None:
    c.rings.bell.watch(c.shell.watched_serving)
    following = following_of(c)
    assert c.rings.give("receive", appended(c))
    due_ns = time.monotonic_ns() + 2 * MS
    assert following.run(due_ns, 0) == lib.FOLLOWING_DUE
    assert time.monotonic_ns() >= due_ns
    assert [kind for kind, _, _ in c.rings.take("send")] == [slots.RAFT_MESSAGE]

    assert c.rings.give("ingress", slots.pack_drain())
    assert following.run(1 << 62, 0) == lib.FOLLOWING_OTHER


def test_the_election_timer_sees_that_the_leader_was_heard_and_nothing_else(c: Side) -> None:
    raft = c.shell.raft
    for heard in (False, True):
        following = following_of(c)
        raft.tick()  # A follower that is not due: nothing follows from it.
        raft.ready()
        run = appended(c) if heard else slots.pack_persisted(raft.term, raft.log.last, 0)
        assert c.rings.give("receive" if heard else "persisted", run)
        assert following.turn() == lib.FOLLOWING_DONE
        following.leave()
        assert (raft_state(raft)["_election_elapsed"] == 0) is heard
        c.rings.take("send")


@pytest.mark.parametrize(
    "but",
    ["draining", "not serving", "low", "a snapshot is wanted", "controls wait", "to be told"],
)
def test_it_does_not_enter_while_anything_else_is_under_way(c: Side, but: str) -> None:
    shell = c.shell
    match but:
        case "draining":
            shell.draining = True
        case "not serving":
            shell.serving = False
        case "low":
            shell.peering.low = True
        case "a snapshot is wanted":
            shell.points.want(slots.BY_COMMAND)
        case "controls wait":
            shell.controls.waiting.append(b"")
        case _:
            shell.peering.telling = b"peers"
    assert c.following is not None
    assert not c.following.enter()
