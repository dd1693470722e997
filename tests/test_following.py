"""A follower's plain turns in C: to the byte what Python does with the same input, and Python's state when it takes over."""

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from consensus_rings import everything
from following_world import MS, Side, World, run, sides, start
from raft_samples import state_of

from leftfold.raft import (
    CONFIGURATION,
    TERM_START,
    AppendEntries,
    AppendEntriesReply,
    Entry,
)
from leftfold.runtime import raft_messages, slots
from leftfold.runtime._wire import lib
from leftfold.runtime.clock import Clock
from leftfold.runtime.config import TransportLimits
from leftfold.runtime.following import Following
from leftfold.runtime.steady import Steady
from leftfold.runtime.writes import writes_in

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
    assert turns > 50, "C does hardly anything"


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


def test_a_turn_that_finds_no_room_leaves_the_writes_as_they_were(c: Side) -> None:
    following = following_of(c)
    follow: Any = following._follow
    term, first = c.shell.raft.term, c.shell.raft.log.last
    for at in range(lib.FOLLOWING_WRITES):
        entry = Entry(first + at + 1, term, 10**6, 0, b"")
        assert c.rings.give("receive", appended(c, entry, prev_index=first + at))
        assert following.turn() == lib.FOLLOWING_DONE
        if at == 100:  # As if some of the writes were to be told to nobody.
            follow.now.reply_first, follow.now.reply_count = 50, follow.now.reply_count - 50
    assert follow.now.write_count == lib.FOLLOWING_WRITES

    def in_flight() -> list[tuple[int, int, int, int]]:
        now = follow.now
        return writes_in(follow.writes, lib.FOLLOWING_WRITES, now.write_first, now.write_count)

    writes = in_flight()
    ring = c.shell.persisting.ring
    nothing = slots.HEADER.pack(64, slots.DISCARD, 0) + bytes(56)
    while ring.write(nothing):
        pass

    entry = Entry(first + len(writes) + 1, term, 10**6, 0, b"")
    assert c.rings.give("persisted", slots.pack_persisted(term, first + 3, writes[2][0]))
    assert c.rings.give("receive", appended(c, entry, prev_index=first + len(writes)))
    assert following.turn() == lib.FOLLOWING_FULL

    assert in_flight() == writes


def test_it_returns_when_the_time_has_come_and_when_another_ring_has_something(c: Side) -> None:
    c.rings.bell.watch(c.shell.watched_serving)
    following = following_of(c)
    assert c.rings.give("receive", appended(c))
    said: list[tuple[int, int, bytes]] = []
    while not said:  # At once, unless the machine stood still.
        due_ns = time.monotonic_ns() + 2 * MS
        assert following.run(due_ns, 0) == lib.FOLLOWING_DUE
        assert time.monotonic_ns() >= due_ns
        said = c.rings.take("send")
    assert [kind for kind, _, _ in said] == [slots.RAFT_MESSAGE]

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
        assert (state_of(raft)["_election_elapsed"] == 0) is heard
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


def test_the_loop_of_consensus_gives_a_follower_to_c(c: Side) -> None:
    """Until the next tick, by the real clock."""
    c.shell.clock = Clock()
    c.shell.raft.tick()
    c.shell.raft.ready()
    steady = Steady(c.shell, c.rings.bell, 0)
    assert c.rings.give("receive", appended(c))
    said: list[tuple[int, int, bytes]] = []
    while not said:  # In the first stay, unless the machine stood still.
        c.shell.next_tick_ns = c.shell.clock.monotonic_ns() + 2 * MS
        assert steady.run()
        assert c.shell.clock.monotonic_ns() >= c.shell.next_tick_ns
        said = c.rings.take("send")
    assert [(kind, tag) for kind, tag, _ in said] == [(slots.RAFT_MESSAGE, 4)]
    assert state_of(c.shell.raft)["_election_elapsed"] == 0
