"""Replicas that put out different things: who stops, what it says, and that the others go on."""

import asyncio
import os
import re
import signal
import struct
from array import array
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from apps.straying import Seen, Step
from cluster import Cluster, cluster
from replica import DEADLINE_S, wait_until
from test_cluster import ask

from leftfold.actors.layout import COMMAND
from leftfold.raft import (
    AppendEntriesReply,
    Config,
    HardState,
    HeartbeatReply,
    Log,
    Persist,
    Raft,
    RequestVoteReply,
    Role,
)
from leftfold.runtime.agreement import Agreement
from leftfold.runtime.client import Client
from leftfold.runtime.digests import (
    DIGESTS_MAX,
    Digests,
    StateDigest,
    pack_digests,
    unpack_digests,
)
from leftfold.runtime.divergence import (
    SILENT_TIMEOUTS,
    TELL_AGAIN_TICKS,
    WINDOW,
    Divergence,
    letter,
    sentence,
)
from leftfold.runtime.parting import Parting
from leftfold.runtime.peering import Peering
from leftfold.runtime.slots import (
    BY_SCHEDULE,
    CONTROL_SNAPSHOT,
    CONTROL_TRANSFER,
    NOT_TAKEN,
    SnapshotState,
    TakeSnapshot,
    slots_of,
)
from leftfold.runtime.snapshot_points import SnapshotPoints
from leftfold.runtime.state_checks import CHECK, KEPT, StateChecks
from leftfold.shm import Producer
from leftfold.tools.history import open_history


def leading(*heard: int) -> Raft:
    """A leader of three, replica 1, that has just been elected and has heard these."""
    raft = Raft(Config(id=1, voters={1, 2, 3}, election_spread_ticks=1), HardState(), Log())
    for _ in range(10):
        raft.tick()
    _drain(raft)
    for kind in ("pre", "vote"):
        raft.step(RequestVoteReply(2, 1, 1, True, kind == "pre"))
        _drain(raft)
    assert raft.role is Role.LEADER
    for peer in heard:
        raft.step(HeartbeatReply(peer, 1, 1))
        raft.step(AppendEntriesReply(peer, 1, 1, True, 0))
    return raft


def _drain(raft: Raft) -> None:
    while ready := raft.ready():
        persist: Persist | None = ready.persist
        if persist is not None:
            raft.persisted(persist.sequence)
        if ready.term_to_start:
            return


def run(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def test_a_slot_of_digests_says_what_was_packed() -> None:
    slot = pack_digests(7, array("I", [1, 2, 3]))

    assert len(slot) % 8 == 0
    length = struct.unpack_from("<I", slot)[0]
    assert unpack_digests(memoryview(slot)[:length]) == (7, run(1, 2, 3))


def test_equal_digests_give_no_verdict_in_whatever_pieces_they_come() -> None:
    found = Divergence(leading(2, 3))
    found.told(Digests(2, 1, 1, 1, run(10, 20)))
    found.applied(1, run(10))
    assert found.look() is None, "the second is not applied here yet"
    found.applied(2, run(20, 30))
    found.told(Digests(3, 1, 1, 2, run(20, 30)))
    assert found.look() is None
    assert found.agreed == {2: 2, 3: 3}


def test_the_follower_that_differs_is_the_odd_one_when_the_other_agrees() -> None:
    found = Divergence(leading(2, 3))
    found.applied(1, run(10, 20, 30))
    found.told(Digests(2, 1, 1, 1, run(10, 21, 31)))
    assert found.look() is None, "the third has not said anything"
    found.told(Digests(3, 1, 1, 1, run(10, 20, 30)))
    verdict = found.look()

    assert verdict is not None
    assert (verdict.index, verdict.expected, verdict.odd) == (2, 20, frozenset({2}))
    told = letter(found.raft, verdict, 2)
    assert (told.target, told.index, told.found, told.expected) == (2, 2, 21, 20)
    assert "by the end of entry 2: its digest there is 00000015, theirs 00000014" in sentence(told)


def test_the_leader_is_the_odd_one_when_both_others_agree() -> None:
    found = Divergence(leading(2, 3))
    found.applied(1, run(10, 99))
    found.told(Digests(2, 1, 1, 1, run(10, 20)))
    found.told(Digests(3, 1, 1, 1, run(10, 20)))
    verdict = found.look()

    assert verdict is not None
    assert (verdict.index, verdict.expected, verdict.odd) == (2, 20, frozenset({1}))


def test_without_a_majority_all_are_odd() -> None:
    found = Divergence(leading(2, 3))
    found.applied(1, run(1))
    found.told(Digests(2, 1, 1, 1, run(2)))
    found.told(Digests(3, 1, 1, 1, run(3)))
    verdict = found.look()

    assert verdict is not None
    assert (verdict.expected, verdict.odd) == (None, frozenset({1, 2, 3}))


def test_right_after_an_election_who_was_not_heard_yet_may_still_say_who_is_right() -> None:
    """And who says nothing for long is not waited for."""
    found = Divergence(leading(2))
    found.applied(1, run(10, 20))
    found.told(Digests(2, 1, 1, 1, run(10, 21)))
    assert found.look() is None, "the third has not spoken yet, and is the majority"
    for _ in range(SILENT_TIMEOUTS * found.raft.config.election_ticks):
        assert found.look() is None
        found.raft.tick()
        found.raft.step(HeartbeatReply(2, 1, 1))
    silent = found.look()
    found.told(Digests(3, 1, 1, 1, run(10, 20)))
    told = found.look()

    assert silent is not None and (silent.expected, silent.odd) == (None, frozenset({1, 2}))
    assert told is not None and (told.expected, told.odd) == (20, frozenset({2}))


def test_one_that_was_told_and_has_stopped_stands_before_no_later_difference() -> None:
    """Of outputs and of states: the third differs after the second has gone, and there are but two."""
    raft = leading(2, 3)
    outputs, states = Divergence(raft), StateChecks(raft)
    for index in range(1, 4):
        assert raft.start_term(0) if index == 1 else raft.propose(0, b"", 0)
        states.digested(index, 10)
        states.heard(StateDigest(2, 1, 1, index, 11))
        states.heard(StateDigest(3, 1, 1, index, 10 if index < 3 else 12))
    outputs.applied(1, run(10, 20, 30))
    outputs.told(Digests(2, 1, 1, 1, run(11)))
    outputs.told(Digests(3, 1, 1, 1, run(10, 20, 31)))
    for found in (outputs, states):
        first = found.look()
        assert first is not None and (first.index, first.odd) == (1, {2})
    for _ in range(SILENT_TIMEOUTS * raft.config.election_ticks):
        raft.tick()
        raft.step(HeartbeatReply(3, 1, 1))

    for found in (outputs, states):
        second = found.look()
        assert second is not None and (second.index, second.expected) == (3, None)
        assert {1, 3} <= second.odd


def test_of_what_a_peer_did_not_tell_nothing_is_concluded() -> None:
    """The leader is wrong from entry 10 on; 3 had told that entry to the leader before, or the message was lost."""
    found = Divergence(leading(2, 3))
    found.applied(1, run(*range(1, 10), 999, 1000, 1001))
    found.told(Digests(2, 1, 1, 1, run(*range(1, 13))))
    found.told(Digests(3, 1, 1, 11, run(11, 12)))

    verdict = found.look()

    assert verdict is not None and (verdict.index, verdict.odd) == (11, {1})


def follower(id: int, leader: int) -> Raft:
    """As much of it as is looked at."""
    return cast("Raft", SimpleNamespace(id=id, leader_id=leader, term=1, role=Role.FOLLOWER))


def test_after_a_change_of_leader_the_one_that_is_wrong_stops_although_it_leads() -> None:
    """All had told the entry to the leader before, who was gone before it had looked."""
    values = {1: [*range(1, 10), 999], 2: [*range(1, 11)], 3: [*range(1, 11)]}
    found = {id: Divergence(follower(id, 4)) for id in values}
    for id, each in found.items():
        each.applied(1, run(*values[id]))
        assert each.to_tell() is not None
    found[1].raft = leading(2, 3)
    for id, each in found.items():
        each.forget()
        each.applied(11, run(1000 if id == 1 else 11))
    for id in (2, 3):
        found[id].raft = follower(id, 1)
        told = found[id].to_tell()
        assert told is not None
        found[1].told(told)

    verdict = found[1].look()

    assert verdict is not None and (verdict.index, verdict.odd) == (10, {1})


def test_the_newest_digest_is_told_again_where_nothing_comes() -> None:
    """Its only message is lost, and the leader, who is wrong, would answer queries for ever."""
    third = Divergence(follower(3, 1))
    third.applied(1, run(10, 20))
    assert third.to_tell() is not None, "this one is lost"
    found = Divergence(leading(2, 3))
    found.applied(1, run(10, 99))
    found.told(Digests(2, 1, 1, 1, run(10, 20)))
    assert found.look() is None
    again = [told for _ in range(TELL_AGAIN_TICKS) if (told := third.to_tell()) is not None]
    for told in again:
        found.told(told)

    verdict = found.look()

    assert len(again) == 1
    assert verdict is not None and (verdict.index, verdict.odd) == (2, {1})


def test_a_leader_goes_on_when_the_window_has_passed_a_difference() -> None:
    found = Divergence(leading(2, 3))
    found.applied(1, run(10))
    found.told(Digests(2, 1, 1, 1, run(11)))
    found.told(Digests(3, 1, 1, 1, run(10)))
    verdict = found.look()
    assert verdict is not None and verdict.odd == {2}
    for first in range(2, WINDOW + 1024, DIGESTS_MAX):
        found.applied(first, bytes(4 * DIGESTS_MAX))
        found.told(Digests(2, 1, 1, first, bytes(4 * DIGESTS_MAX)))
        last = found.look()
    assert found.base > 1 and last is None
    assert sum(len(kept) for _, kept in found.differs.values()) <= 4 * WINDOW


def test_what_no_leader_would_tell_is_not_kept() -> None:
    found = Divergence(leading(2, 3))
    for run_bytes in (b"", b"abc", bytes(4 * DIGESTS_MAX + 4)):
        found.told(Digests(2, 1, 1, 5, run_bytes))
    assert not any(found.waiting.values())


def test_a_leader_that_is_the_odd_one_takes_nothing_more_from_clients() -> None:
    """While it is being found out at which command."""
    raft = leading(2, 3)
    assert raft.start_term(0) == 1
    divergence, said = Divergence(raft), list[object]()
    peering = SimpleNamespace(told_odd=None, say=said.append, asked_ordinals=0)
    agreement = Agreement(
        raft,
        divergence,
        StateChecks(raft),
        Parting(raft),
        cast("Peering", peering),
        SnapshotPoints(1000),
        cast("Producer", SimpleNamespace(write=lambda slot: True)),
    )
    divergence.applied(1, run(10, 99))
    agreement.compare(0)
    assert not agreement.suspect
    for peer in (2, 3):
        divergence.told(Digests(peer, 1, 1, 1, run(10, 20)))

    agreement.compare(0)

    assert agreement.suspect and not agreement.hand_over_until_ns
    agreement.forget()
    assert not agreement.suspect


def test_after_a_snapshot_that_failed_the_states_are_compared_anew_before_the_next() -> None:
    """The CHECK of the failed one says nothing of what has come since."""
    raft = leading(2, 3)
    assert raft.start_term(0) == 1
    states, points = StateChecks(raft), SnapshotPoints(1000)
    agreement = Agreement(
        raft,
        Divergence(raft),
        states,
        Parting(raft),
        cast("Peering", None),
        points,
        cast("Producer", None),
    )

    def propose() -> int:
        index = raft.propose(CHECK, b"", 0)
        assert index is not None
        return index

    assert not agreement.checked(propose, fed=1) and states.proposed == 2
    assert agreement.checked(propose, fed=2) and states.proposed == 2
    points.begun(TakeSnapshot(2, 1, BY_SCHEDULE), now_ns=0)
    points.ended(SnapshotState(2, 0, 0, "the disk is full", NOT_TAKEN))

    assert not agreement.checked(propose, fed=2) and states.proposed == 3
    assert agreement.checked(propose, fed=3) and states.proposed == 3


def checks(index: int, own: int, **told: int) -> StateChecks:
    """A leader of three, replica 1, whose log reaches as far as it may be told of."""
    found = StateChecks(leading(2, 3))
    for at in range(index):
        assert found.raft.start_term(at) if not at else found.raft.propose(0, b"", at)
    found.digested(index, own)
    for peer, digest in told.items():
        found.heard(StateDigest(int(peer[1:]), 1, 1, index, digest))
    return found


def test_states_that_differ_are_judged_like_outputs() -> None:
    assert checks(3, 10, r2=10, r3=10).look() is None
    assert checks(3, 10, r2=11).look() is None, "the third has not said anything"
    for found, odd, expected in (
        (checks(3, 10, r2=11, r3=10), {2}, 10),
        (checks(3, 99, r2=10, r3=10), {1}, 10),
        (checks(3, 1, r2=2, r3=3), {1, 2, 3}, None),
    ):
        verdict = found.look()
        assert verdict is not None and verdict.of_state
        assert (verdict.index, verdict.odd, verdict.expected) == (3, odd, expected)
        told = letter(leading(), verdict, min(odd))
        assert "at entry 3" in sentence(told) and "state" in sentence(told)


def test_who_never_says_anything_of_one_entry_is_heard_of_the_next() -> None:
    """Its child could not be made, say, or it took that entry from a snapshot."""
    found = checks(4, 10, r2=11, r3=10)
    found.digested(3, 20)
    found.heard(StateDigest(2, 1, 1, 3, 21))

    verdict = found.look()

    assert verdict is not None and (verdict.index, verdict.odd) == (4, {2})


def test_what_is_told_of_states_is_bounded_and_of_entries_that_there_are() -> None:
    found = checks(1, 10)
    for index in range(1, 3 * KEPT):
        found.heard(StateDigest(2, 1, 1, index, 5))
        found.digested(index, 5)
    assert set(found.told) == {1} and len(found.own) == KEPT


def keys_in(directory: Path, index: int) -> list[bytes]:
    """Whom the commands of an entry are for, in their order, as the log has it."""
    history = open_history(directory)
    [(_, body)] = history.entries(index, index)
    return [
        bytes(slot[COMMAND.size :][: COMMAND.unpack_from(slot)[6]])
        for _, _, slot in slots_of(memoryview(body))
    ]


def stray(running: Cluster, id: int) -> None:
    """Make one replica put out something else in the middle of an entry, and find that it stops while the others go on."""

    async def step(client: Client) -> list[Seen]:
        """All at once: one write, one entry."""
        return await asyncio.gather(*(client.ask(key, Step()) for key in "abcdefg"))

    assert ask(running, step) == [Seen(value=1)] * 7
    written = running.path(id) / "stray.new"
    written.write_text("d")
    written.rename(running.path(id) / "stray")
    assert [seen.value for seen in ask(running, step)] in ([2] * 7, [2, 2, 2, 3, 2, 2, 2])
    process = running.replicas[id].process
    wait_until(lambda: process.poll() is not None, f"the odd one stops: {running.output()}")

    assert process.wait(DEADLINE_S) == 1
    said = running.replicas[id].output()
    found = re.search(
        rf"Replica {id} has put out something else than the majority at index (\d+), ordinal (\d+), message 951 for key "
        r"([0-9a-f]+): its digest there is ([0-9a-f]{8}), theirs ([0-9a-f]{8})\.",
        said,
    )
    assert found is not None, said
    index, ordinal, key, own, theirs = found.groups()
    others = set(running.replicas) - {id}
    assert running.leader(others) in others
    assert own != theirs and bytes.fromhex(key) == b"d"
    held = keys_in(running.path(min(others)), int(index))
    assert held[int(ordinal)] == b"d" and 0 < int(ordinal) < len(held) - 1, held
    assert ask(running, step) == [Seen(value=3)] * 7


@pytest.mark.xdist_group("serial")
@pytest.mark.parametrize("who", ["follower", "leader"])
def test_a_replica_that_strays_stops_and_the_others_go_on(tmp_path: Path, who: str) -> None:
    """The fault is planted in one replica's handler, once in a follower and once in the leader."""
    with cluster(tmp_path, "straying:app") as running:
        leader = running.leader()
        follower = next(id for id in running.replicas if id != leader)
        stray(running, leader if who == "leader" else follower)


@pytest.mark.xdist_group("serial")
@pytest.mark.campaign
@pytest.mark.parametrize("who", ["follower", "leader"])
def test_a_fault_that_reaches_no_output_is_found_in_the_state(tmp_path: Path, who: str) -> None:
    """With the leader's next snapshot; one replica has its own state from a snapshot, and that is no difference."""
    with cluster(tmp_path, "straying:app") as running:

        async def step(client: Client) -> Seen:
            return await client.ask("a", Step())

        before = ask(running, step)
        leader = running.leader()
        follower, restored = (id for id in running.replicas if id != leader)
        running.control(restored, CONTROL_SNAPSHOT)
        wait_until(lambda: running.counters(restored)["snapshot_index"], "a snapshot counts")
        running.kill(restored)
        running.start(restored)
        running.wait_ready(restored)
        running.control(leader, CONTROL_SNAPSHOT)
        wait_until(lambda: running.counters(leader)["snapshot_index"], "a snapshot of all alike")

        odd = leader if who == "leader" else follower
        (running.path(odd) / "drift").touch()
        ask(running, step)
        running.agree()  # All that they have put out is the same.
        running.control(leader, CONTROL_SNAPSHOT)
        process = running.replicas[odd].process
        wait_until(lambda: process.poll() is not None, f"the odd one stops: {running.output()}")

        assert process.wait(DEADLINE_S) == 1
        said = running.replicas[odd].output()
        assert f"Replica {odd} holds another state than the majority at entry" in said
        assert running.leader(set(running.replicas) - {odd}) != odd
        assert ask(running, step) == Seen(value=before.value + 2)


@pytest.mark.xdist_group("serial")
@pytest.mark.campaign
def test_who_strays_and_then_leads_stops_and_not_those_that_are_right(tmp_path: Path) -> None:
    """The leader, whose logic stands still, has not compared the entry when it hands over to the one that strayed there."""
    with cluster(tmp_path, "straying:app") as running:
        leader = running.leader()
        wrong, third = sorted(set(running.replicas) - {leader})

        async def step(client: Client) -> Seen:
            return await client.ask("d", Step())

        assert ask(running, step) == Seen(value=1)
        running.agree()
        (running.path(wrong) / "stray").write_text("d")
        logic = running.replicas[leader].pid("logic")

        async def send(client: Client) -> None:
            before = running.counters(leader)["applied_index"]
            os.kill(logic, signal.SIGSTOP)
            try:
                asked = asyncio.create_task(step(client))
                while running.counters(wrong)["applied_index"] <= before:
                    await asyncio.sleep(0)
                running.control(leader, CONTROL_TRANSFER, to=wrong)
                while running.leader({wrong, third}) != wrong:
                    await asyncio.sleep(0)
            finally:
                os.kill(logic, signal.SIGCONT)
            await asked

        ask(running, send)
        process = running.replicas[wrong].process
        wait_until(lambda: process.poll() is not None, f"the odd one stops: {running.output()}")

        assert f"Replica {wrong} has put out something else" in running.replicas[wrong].output()
        assert running.alive(leader) and running.alive(third)
        assert ask(running, step) == Seen(value=3)
