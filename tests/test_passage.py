"""A usual entry goes through logic with the fewest calls: nothing is different from the way of all others but that."""

import random
import socket

import pytest

from leftfold.actors import ledger
from leftfold.actors.layout import EntryKind
from leftfold.actors.limits import Limits
from leftfold.actors.machine import Machine
from leftfold.runtime import frames, metrics, slots
from leftfold.runtime.digests import pack_ask_ordinals
from leftfold.runtime.logic import Logic
from leftfold.runtime.offshoot import Offshoot
from leftfold.runtime.passage import Passage
from leftfold.runtime.position import Position
from leftfold.runtime.snapshot_child import SnapshotChild
from leftfold.runtime.state_child import StateChild
from leftfold.shm import Consumer, Counters, Producer, format_ring, padded, ring_bytes
from leftfold.tools import load

SESSIONS = [bytes([number]) * 16 for number in range(1, 4)]


class Rings:
    """A logic process, and everybody else's ends of its rings."""

    def __init__(self, directory, *, has_peers, egress, applied):
        directory.mkdir()
        Counters.create(directory / "counters", metrics.schema())
        self.counters = Counters.attach(directory / "counters", "logic")
        self.own, self.packets = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.apply, apply_out = self.ring(1 << 16)
        restore_in, restore = self.ring(1 << 12)
        egress_in, self.egress = self.ring(egress)
        applied_in, self.applied = self.ring(applied)
        snapshot_in, self.snapshot = self.ring(1 << 12)
        position = Position.create(directory / "position")
        self.taken = {"egress": b"", "applied": b""}
        self.reports = []
        self.restore = restore_in
        self.logic = Logic(
            Machine(ledger.app, Limits(), 7, position=position.words),
            "a build",
            lambda content: pytest.fail("nothing is restored"),
            SnapshotChild(self.own, None, "a build", Offshoot("snapshot")),
            StateChild(Offshoot("digest")),
            position,
            apply_out,
            restore,
            egress_in,
            applied_in,
            snapshot_in,
            self,
            self.counters,
            self.reports.append,
            has_peers=has_peers,
        )

    @staticmethod
    def ring(capacity):
        memory = bytearray(ring_bytes(capacity))
        format_ring(memory, capacity)
        return Producer(memory), Consumer(memory)

    def wait(self, ends, spin_ns, timeout_ns):
        """In the place of the bell: room is made in the ring that is waited for."""
        (end,) = ends
        self.take("egress" if end is self.logic.egress else "applied")

    def take(self, *names):
        for name in names or self.taken:
            ring = getattr(self, name)
            while run := ring.peek_bytes():
                self.taken[name] += run
                ring.release(len(run))

    def end(self):
        self.own.close()
        self.packets.close()

    def state(self):
        """What must not depend on the way."""
        logic = self.logic
        counters = {
            name: counter.value
            for name, counter in self.counters.counters.items()
            if name != "apply_used_bytes"
        }
        applied = self.counters.histograms["apply_ns"].snapshot().count
        recent = [(index, bytes(run)) for index, run in logic.recent.runs]
        position = bytes(logic.position.words)
        return (
            *(counters, applied, recent, logic.recent.first, logic.recent.held_bytes, position),
            *(logic.uncollected_bytes, logic.machine.digest, logic.machine.state_digest()),
            *(logic.replaying, len(logic.digests)),
        )


class Script:
    """Random runs for `apply`."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.index, self.time_ns = 0, 1_000_000
        self.requests = dict.fromkeys(SESSIONS, 0)

    def entry(self, body, kind=EntryKind.COMMANDS, tag=0):
        self.index += 1
        self.time_ns += self.rng.randrange(10_000)
        head = slots.pack_entry_header(self.index, 1, self.time_ns, kind, len(body), tag)
        return padded(head + body)

    def command(self):
        rng, session = self.rng, self.rng.choice(SESSIONS)
        if rng.random() < 0.05:
            return padded(bytes(frames.open_session(session)))
        if rng.random() < 0.9:  # Else it is asked again, and answered from what was kept.
            self.requests[session] += 1
        first, second = (load.account(rng.randrange(6)) for _ in range(2))
        deposit = rng.random() < 0.4
        message = (
            ledger.Deposit(first, rng.randrange(1, 99))
            if deposit
            else ledger.Transfer(first, second, rng.randrange(50))
        )
        call = load.call("L", message)
        number = self.requests[session]
        return padded(
            bytes(
                frames.command(
                    call.message_id, session, number, max(1, number - 3), call.key, call.body
                )
            )
        )

    def commands(self):
        return b"".join(self.command() for _ in range(self.rng.choice((1, 1, 1, 2, 9, 40))))

    def next(self):
        rng = self.rng
        choice = rng.randrange(20)
        if choice < 13:
            return self.entry(self.commands(), tag=slots.SILENT * (rng.random() < 0.2))
        if choice == 13:
            return self.entry(b"")
        if choice == 14:
            return self.entry(b"a build", EntryKind.TERM_START)
        if choice == 15:
            return self.entry(b"", EntryKind.TIME)
        if choice == 16:
            return self.entry(self.commands()) + self.entry(self.commands())
        if choice == 17:
            return padded(slots.pack_skip(self.index + 1, 0)) + self.entry(self.commands())
        if choice == 18:
            return rng.choice((slots.pack_drain(), pack_ask_ordinals(self.index)))
        return self.entry(slots.pack_skip_body(1, 0), EntryKind.SKIP)


def run(place, monkeypatch, seed, *, usual, **options):
    """All that comes of a script, and how many entries went the short way."""
    took = []
    plain = Passage.take

    def take(self):
        body = plain(self) if usual else None
        if body is not None:
            took.append(self.entry.index)
        return body

    monkeypatch.setattr(Passage, "take", take)
    rings = Rings(place, **options)
    script, rng = Script(seed), random.Random(seed)
    try:
        for number in range(6):
            opening = frames.open_session(SESSIONS[number % 3])
            rings.apply.write(script.entry(padded(bytes(opening)), tag=slots.REPLAY))
        for _ in range(300):
            assert rings.apply.write(script.next())
            while rings.logic.work():
                pass
            if rng.random() < 0.02:
                rings.take()
        rings.take()
        return rings.taken, rings.state(), took
    finally:
        monkeypatch.setattr(Passage, "take", plain)
        rings.end()


@pytest.mark.parametrize("has_peers", [False, True])
@pytest.mark.parametrize("room", [1 << 12, 1 << 16])
def test_whatever_comes_the_outputs_and_the_state_are_those_of_the_long_way(
    tmp_path, monkeypatch, has_peers, room
):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    options = {"has_peers": has_peers, "egress": 2 * room, "applied": room}
    short = run(tmp_path / "short", monkeypatch, seed, usual=True, **options)
    long = run(tmp_path / "long", monkeypatch, seed, usual=False, **options)
    assert short[0] == long[0]
    assert short[1] == long[1]
    assert len(short[2]) > 100
    assert long[2] == []
