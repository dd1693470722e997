"""A follower of consensus twice in one, for tests, and everybody else: a leader or two, the journal, logic and clients.

One side is Python's alone, one is turned in C while it can be. The world does to both the same, plain or not, and looks at what it is
given as the real ones would.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from consensus_rings import Rings, everything

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
