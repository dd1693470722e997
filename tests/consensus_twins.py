"""Two consensus processes in one, for tests: both are told the same, and one turns in C where it can.

Each stands between rings in plain memory, of which the test holds the other ends: a journal and a logic that do what they
are told, as much and as late as a script says, and look at what they are given as the real ones would (I4, I5, I6). Time is the
script's. Whatever is written to a ring is kept, so that the twins can be compared byte by byte.
"""

import os
from collections import deque

import attrs

from leftfold.raft import (
    AppendEntries,
    AppendEntriesReply,
    Heartbeat,
    HeartbeatReply,
    Raft,
    RequestVote,
    RequestVoteReply,
)
from leftfold.runtime import metrics, raft_messages, slots, trail
from leftfold.runtime.config import ReplicaConfig, TransportLimits
from leftfold.runtime.consensus import Consensus
from leftfold.runtime.digests import Digests
from leftfold.runtime.identity import new_identity
from leftfold.runtime.steady import Steady
from leftfold.runtime.topology import CONSENSUS, rings_of
from leftfold.shm import (
    CALLS,
    DOORBELL_BYTES,
    Consumer,
    Counters,
    Doorbell,
    Producer,
    format_ring,
    ring_bytes,
)
from leftfold.shm._shm import ffi as shm_ffi

READY, INTERRUPTED = 1, 2
TURNS_MAX = 10_000


class Time:
    """What the twins read: it stands still while they turn."""

    def __init__(self):
        self.now_ns = 1_000_000_000

    def monotonic_ns(self):
        return self.now_ns

    def wall_ns(self):
        return 1_700_000_000_000_000_000 + self.now_ns


class Twin:
    """One of the two, with all that is around it."""

    def __init__(self, directory, *, peer_address="", founders=None, in_c, limits, time):
        self.in_c, self.time = in_c, time
        self.config = ReplicaConfig(
            directory=directory,
            app="leftfold.actors.ledger:app",
            limits=limits,
            peer_address=peer_address,
            snapshot_log_bytes=1 << 40,
        )
        self.written = {}
        self.heads = {}
        self.reports = []
        self.steps = deque()
        self.counters_file = directory / "counters"
        Counters.create(self.counters_file, metrics.schema())
        self.counters = Counters.attach(self.counters_file, CONSENSUS)
        trail.follow(self.counters)
        self.bell = Doorbell(memoryview(bytearray(DOORBELL_BYTES)), event_fd=os.eventfd(0))
        consumed, produced = rings_of(CONSENSUS)
        consumers, producers = {}, {}
        for ring in (*consumed, *produced):
            capacity = ring.capacity_bytes(limits)
            memory = bytearray(ring_bytes(capacity))
            format_ring(memory, capacity)
            if ring in consumed:
                consumers[ring.name] = Consumer(memory, self.bell)
                self.heads[ring.name] = Producer(memory)
            else:
                producers[ring.name] = Producer(memory, self.bell)
                self.heads[ring.name] = Consumer(memory)
                self.written[ring.name] = bytearray()
        identity = attrs.evolve(
            new_identity("leftfold.actors.ledger:app", limits={}),
            cluster_id=bytes(16),
            founders=founders or {},
        )
        self.shell = Consensus(
            self.config, time, identity, consumers, producers, self.counters, self.reports.append
        )
        self.steady = Steady(self.shell, self.bell, 0, passed_max=0) if in_c else None
        if self.steady is not None:
            self._hold_the_clock(self.steady.leading)
        # The journal's and logic's part.
        self.persist_bytes = self.durable = self.last = self.applied = self.digest = 0
        self.term = 1
        self.unacked, self.acked_bytes = deque(), 0
        self.stays = self.turns = 0
        # The network's and the peers'.
        self.mail = {peer: deque() for peer in (founders or {}) if peer != 1}
        self.held = dict.fromkeys(self.mail, 0)
        self.digest_at = {}

    def _hold_the_clock(self, leading):
        """C reads the script's time, and where it would wait the script goes on."""
        table = shm_ffi.new("struct shm_calls *", shm_ffi.cast("struct shm_calls *", CALLS)[0])
        clock = shm_ffi.callback("int64_t(void)", self.time.monotonic_ns)
        wait = shm_ffi.callback("int(struct doorbell *, int64_t, int64_t)", self._wait)
        table.monotonic_ns, table.wait = clock, wait
        self._kept = table, clock, wait
        leading.replace_calls(int(shm_ffi.cast("uintptr_t", table)))

    def _wait(self, bell, spin_ns, wait_ns):
        if not self.steps:
            self.waited = True
            return INTERRUPTED
        self.steps.popleft()(self)
        return READY

    # What the script does

    def start(self, **recovered):
        """As with an empty disk, until it leads."""
        found = slots.Recovered(0, 0, 0, 1, 0, 0, 0, (), ())
        self.put("read", slots.pack_recovered(attrs.evolve(found, **recovered)))
        self.put("applied", slots.pack_build("build"))

    def put(self, ring, run):
        """Write a run; False if there is no room."""
        return self.heads[ring].write(run)

    def take(self, ring, count):
        """So many slots of a ring, kept for the comparison."""
        head, found = self.heads[ring], []
        while len(found) < count and (run := head.peek()):
            done = 0
            for kind, tag, slot in slots.slots_of(run):
                if len(found) == count:
                    break
                found.append((kind, tag, bytes(slot)))
                done += slots.padded(len(slot))
            self.written[ring] += run[:done]
            head.release(done)
        return found

    def journal(self, count, told=1):
        """It takes so many slots, syncs them, and says so in as many slots."""
        for kind, _, slot in self.take("persist", count):
            self.persist_bytes += slots.padded(len(slot))
            if kind == slots.ENTRY:
                head = slots.unpack_entry(memoryview(slot))
                assert head.index == self.last + 1
                self.last, self.term = head.index, head.term
            elif kind == slots.TRUNCATE:
                self.last = int.from_bytes(slot[8:16], "little") - 1
                self.durable = min(self.durable, self.last)
            elif kind == slots.HARD_STATE:
                commit = int.from_bytes(slot[24:32], "little")
                assert commit <= self.durable, "I6"
            self.unacked.append((self.term, self.last, self.persist_bytes))
        acks = list(self.unacked)
        self.unacked.clear()
        acks = acks[-told:]
        if acks and not self.put("persisted", b"".join(slots.pack_persisted(*ack) for ack in acks)):
            self.unacked.extend(acks)
            return
        if acks:
            self.durable, self.acked_bytes = acks[-1][1:]

    def logic(self, count, deadline_ns=None, digests=False, together=True):
        """It takes so many slots, and says what it has applied."""
        said = []
        for kind, _, slot in self.take("apply", min(count, 16)):
            if kind == slots.ENTRY:
                head = slots.unpack_entry(memoryview(slot))
                assert head.index == self.applied + 1, "I5"
                assert head.index <= self.durable, "I4"
                self.applied = head.index
                self.digest = hash((self.digest, slot)) & 0xFFFFFFFF
                self.digest_at[self.applied] = self.digest
                if digests:
                    length = 16 + 4
                    said.append(
                        slots.HEADER.pack(length, slots.DIGESTS, 0)
                        + self.applied.to_bytes(8, "little")
                        + self.digest.to_bytes(4, "little")
                        + bytes(4)
                    )
                if not together:
                    said.append(slots.pack_applied(self.applied, self.digest, deadline_ns))
        said.append(slots.pack_applied(self.applied, self.digest, deadline_ns))
        if self.applied:
            for run in said if len(said) > 2 else [b"".join(said)]:
                assert self.put("applied", run)

    def deliver(self):
        """The gateway takes what is for peers."""
        for ring in ("send", "bulk_send"):
            for kind, _, slot in self.take(ring, 10_000):
                if kind == slots.RAFT_MESSAGE:
                    message = raft_messages.decode(slot)
                    self.mail[message.target].append(message)

    def peer(self, peer, count, *, lose=0, repeat=False, backwards=False):
        """A peer answers so many messages, each `lose`-th not, all of them twice, or the last one first."""
        self.deliver()
        mail, said = self.mail[peer], []
        for at in range(min(count, len(mail))):
            message = mail.popleft()
            if not lose or at % lose:
                said += self._answer(peer, message)
        said = said[::-1] if backwards else said
        for message in (*said, *(said if repeat else ())):
            self.say(message)

    def say(self, message):
        """It reaches `receive`, if there is room."""
        return self.put("receive", raft_messages.encode(message))

    def tell_digests(self, peer, count):
        """The last of what a peer has put out; the same as here."""
        last = self.applied
        first = max(1, last - count + 1)
        run = b"".join(self.digest_at[at].to_bytes(4, "little") for at in range(first, last + 1))
        term = self.shell.raft.term
        return bool(run) and self.say(Digests(peer, 1, term, first, run))

    def _answer(self, peer, message):
        term = message.term
        match message:
            case RequestVote():
                return [RequestVoteReply(peer, 1, term, True, message.pre_vote)]
            case AppendEntries() if message.prev_index <= self.held[peer]:
                index = message.prev_index + len(message.entries)
                self.held[peer] = max(self.held[peer], index)
                return [AppendEntriesReply(peer, 1, term, True, index)]
            case AppendEntries():
                held = self.held[peer]
                return [AppendEntriesReply(peer, 1, term, False, message.prev_index, held, term)]
            case Heartbeat():
                return [HeartbeatReply(peer, 1, term, message.round)]
        return []

    # Turning

    def settle(self):
        """Turn until there is nothing to do, with all steps of the script done."""
        for _ in range(TURNS_MAX):
            if self.shell.work():
                continue
            self.waited = False
            if self.steady is not None and self.steady.run():
                self.stays += 1
                self.turns += self.steady.leading.turned
                if not self.waited:
                    continue
            if not self.steps:
                return
            self.steps.popleft()(self)
        raise AssertionError("it does not come to rest")

    def state(self):
        """All that its objects hold, as values."""
        shell = self.shell
        names = (
            *("applied_index", "digest", "deadline_ns", "timer_due_ns", "time_entry", "leader"),
            *("serve_from", "serving", "draining", "drained", "settled", "no_room"),
            *("next_tick_ns",),
        )
        found = {name: getattr(shell, name) for name in names}
        found["raft"] = raft_state(shell.raft)
        found["feed"] = fields_of(shell.feed, "raft ring persisting points report tail")
        found["points"] = fields_of(shell.points)
        found["persisting"] = fields_of(shell.persisting, "ring _packed_entry _packed")
        found["persisting"]["waiting"] = b"".join(shell.persisting.waiting)
        found["proposals"] = fields_of(shell.proposals, "counters")
        found["peering"] = {"dropped": shell.peering.dropped}
        found["divergence"] = fields_of(shell.divergence, "raft")
        found["queries"] = {"next": shell.queries._next, "waiting": shell.queries.waiting}
        found["figures"] = self.counters_file.read_bytes()
        found["consumed"] = {name: ring.position for name, ring in shell.consumers.items()}
        found["produced"] = {name: ring.position for name, ring in shell.producers.items()}
        found["written"] = {name: bytes(run) for name, run in self.written.items()}
        found["reports"] = self.reports
        return found

    def close(self):
        os.close(self.bell.event_fd)


def fields_of(thing, without=""):
    """Its attributes, but for some."""
    names = [field.name for field in attrs.fields(type(thing)) if field.name not in without.split()]
    return {name: getattr(thing, name) for name in names}


def raft_state(raft: Raft):
    """All of the core."""
    found = {name: value for name, value in vars(raft).items() if name not in ("_random", "config")}
    found["log"] = vars(found["log"])
    return found


def limits_of(smallest: bool) -> TransportLimits:
    return TransportLimits.smallest() if smallest else TransportLimits()
