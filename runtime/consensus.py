"""The consensus process: Raft between the rings. It is the sequencer: the leader's order is the order.

Everything it decides, `leftfold.raft` decided; here is the wiring, the log time, and the admission of commands. All that
`ingress` holds becomes one entry, whose body this process never looks into. It waits on no ring (I12): a command is
admitted only with room for it in `persist` and `apply`, and what does not fit stays in `ingress`.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field

from ..raft import Config, Entry, HardState, Log, Raft, Ready, Role
from ..shm import Consumer, Counters, Producer
from . import slots
from .agent import Ends
from .clock import Clock, LogTime
from .config import NS_PER_S, ReplicaConfig
from .metrics import publish_fill
from .separation import Separator

COMMANDS, TIME, SKIP = 0, 2, 3
"""The kinds of entries that are proposed here; Raft itself opens each term."""

TICK_NS = 50_000_000
REPORT_NS = 100_000_000
READ_RUN_BYTES = 1024 * 1024
READ_AHEAD_ENTRIES = 8192
IN_FLIGHT_ENTRIES_MAX = 32_768
ENTRY_OVERHEAD_BYTES = 64
"""What an entry takes in a ring besides its body, rounded up; the rest of a reserve goes to padding."""


@define(eq=False)
class Consensus:
    """Process 2. Commands in; entries to disk and, once committed, to logic."""

    config: ReplicaConfig
    clock: Clock
    replica_id: int
    consumers: Mapping[str, Consumer]
    producers: Mapping[str, Producer]
    counters: Counters
    report: Callable[[dict[str, Any]], None]
    raft: Raft = field(init=False)
    recovered: slots.Recovered | None = field(default=None, init=False)
    log_time: LogTime | None = field(default=None, init=False)
    separator: Separator = field(init=False)
    # How far logic was given entries, and how far it may be given them: committed and durable.
    fed: int = field(default=0, init=False)
    feedable: int = field(default=0, init=False)
    asked_through: int = field(default=0, init=False)
    unfed_bytes: int = field(default=0, init=False)
    applied_index: int = field(default=0, init=False)
    digest: int = field(default=0, init=False)
    deadline_ns: int | None = field(default=None, init=False)
    time_entry: int = field(default=0, init=False)
    # Queries: waiting for Raft's word (by context), then for logic to have the entries before them.
    queries: dict[int, bytes] = field(factory=dict[int, bytes], init=False)
    readable: deque[tuple[int, bytes]] = field(factory=deque[tuple[int, bytes]], init=False)
    query_bytes: int = field(default=0, init=False)
    next_query: int = field(default=1, init=False)
    # The last index that a start must have applied before it serves; skips are committed before replay.
    serve_from: int | None = field(default=None, init=False)
    skips_told: bool = field(default=False, init=False)
    serving: bool = field(default=False, init=False)
    draining: bool = field(default=False, init=False)
    drained: bool = field(default=False, init=False)
    no_room: bool = field(default=False, init=False)
    persist_bytes: int = field(default=0, init=False)
    writes: deque[tuple[int, int]] = field(factory=deque[tuple[int, int]], init=False)
    undurable: deque[tuple[int, int]] = field(factory=deque[tuple[int, int]], init=False)
    unapplied: deque[tuple[int, int]] = field(factory=deque[tuple[int, int]], init=False)
    next_tick_ns: int = field(default=0, init=False)
    next_report_ns: int = field(default=0, init=False)
    watched_full: Ends = field(init=False)
    watched_replay: Ends = field(init=False)
    watched_serving: Ends = field(init=False)
    ingress: Consumer = field(init=False)
    persist: Producer = field(init=False)
    apply: Producer = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.separator = Separator(self.config.limits)
        self.ingress = self.consumers["ingress"]
        self.persist, self.apply = self.producers["persist"], self.producers["apply"]
        always = tuple(self.consumers[name] for name in ("persisted", "applied", "receive"))
        room = (self.apply, self.persist)
        self.watched_full = (*always, *room)
        self.watched_replay = (*always, *room, self.consumers["read"])
        self.watched_serving = (*always, *room, self.ingress)

    def work(self) -> int:
        """One turn over every ring that this process reads."""
        self.no_room = False
        done = self._take_read()
        if self.recovered is None:
            return done
        done += self._take_persisted() + self._take_applied()
        now_ns = self.clock.monotonic_ns()
        if now_ns >= self.next_tick_ns:
            self.raft.tick()
            self.next_tick_ns = now_ns + TICK_NS
            publish_fill(self.counters, self.consumers)
        done += self._take_ingress(now_ns) + self._propose_time(now_ns)
        done += self._carry_out() + self._feed()
        self._announce(now_ns)
        return done

    def ends(self) -> Ends:
        """Everything that it reads, but no input that there is no room for."""
        if self.no_room:
            return self.watched_full
        return self.watched_serving if self.serving and not self.draining else self.watched_replay

    def sleep_ns(self) -> int:
        """Until the next tick, or until an actor's timer is due."""
        now_ns = self.clock.monotonic_ns()
        until_ns = self.next_tick_ns - now_ns
        if self.deadline_ns is not None and self.log_time is not None and self.serving:
            until_ns = min(until_ns, self.deadline_ns - self.log_time.at(now_ns))
        return max(until_ns, 0)

    # What comes in

    def _take_persisted(self) -> int:
        ring = self.consumers["persisted"]
        run = ring.peek()
        if not run:
            return 0
        index = durable_bytes = 0
        for kind, _, slot in slots.slots_of(run):
            if kind == slots.PERSISTED:
                _, index, durable_bytes = slots.unpack_persisted(slot)
            else:
                assert kind == slots.FAILED, f"persisted carried a slot of type {kind}"
        ring.release(len(run))
        sequence = 0
        while self.writes and self.writes[0][0] <= durable_bytes:
            _, sequence = self.writes.popleft()
        if sequence:
            self.raft.persisted(sequence)
        _record(
            self.undurable, index, self.clock, self.counters.histograms["sequenced_to_durable_ns"]
        )
        return 1

    def _take_applied(self) -> int:
        ring = self.consumers["applied"]
        run = ring.peek()
        if not run:
            return 0
        for _, _, slot in slots.slots_of(run):
            self.applied_index, self.digest, self.deadline_ns = slots.unpack_applied(slot)
        ring.release(len(run))
        self.raft.applied(self.applied_index)
        self.counters.counters["applied_index"].set(self.applied_index)
        _record(
            self.unapplied,
            self.applied_index,
            self.clock,
            self.counters.histograms["sequenced_to_applied_ns"],
        )
        return 1

    def _take_read(self) -> int:
        """The recovered state first; then entries that were asked for, passed on to logic as they are."""
        ring = self.consumers["read"]
        run = ring.peek(READ_RUN_BYTES)
        if not run:
            return 0
        if self.recovered is None:
            kind, _, slot = next(slots.slots_of(run))
            assert kind == slots.RECOVERED
            self._start(slots.unpack_recovered(slot))
            ring.release(slots.padded(len(slot)))
            return 1
        done = self._pass_on(run)
        if done:
            ring.release(done)
        return 1 if done else 0

    def _pass_on(self, run: memoryview) -> int:
        done = 0
        index = self.fed
        for kind, _, slot in slots.slots_of(run):
            assert kind == slots.ENTRY
            length = slots.padded(len(slot))
            if done and done + length > self.apply.capacity // 4:
                break
            done += length
            index += 1
            found = slots.unpack_entry(slot).index
            assert found == index, f"entry {found} was read where {index} was due"
        if not self.apply.write(run[:done]):
            self.no_room = True
            return 0
        self.fed = index
        return done

    def _take_ingress(self, now_ns: int) -> int:
        if not self.serving or self.draining:
            return 0
        limits = self.config.limits
        frame_bytes_max = limits.frame_bytes_max + ENTRY_OVERHEAD_BYTES
        # Half of what is free: the other half is what padding at the wrap may cost.
        room = min(self.persist.free() // 2, (self.apply.free() - self.unfed_bytes) // 2)
        entry_room = min(limits.entry_bytes_max, room - ENTRY_OVERHEAD_BYTES)
        query_room = limits.queries_waiting_bytes_max - self.query_bytes
        in_flight = self.raft.log.last - self.fed
        if (
            entry_room < frame_bytes_max
            or query_room < frame_bytes_max
            or in_flight >= IN_FLIGHT_ENTRIES_MAX
        ):
            self.no_room = True
            if self.apply.claim(2 * frame_bytes_max):  # A refusal asks the ring to wake us.
                self.apply.commit(0)
            return 0
        separated = self.separator.take(self.ingress, entry_room, query_room)
        if separated.count:
            index = self._propose(COMMANDS, separated.body, now_ns)
            self.undurable.append((index, now_ns))
            self.unapplied.append((index, now_ns))
            self.counters.counters["commands"].add(separated.count)
            self.counters.histograms["entry_bytes"].record(len(separated.body))
        if separated.queries:
            self._read_index(separated.queries)
        self.draining = separated.drain
        return separated.consumed

    # What is proposed

    def _propose(self, kind: int, body: bytes, now_ns: int) -> int:
        assert self.log_time is not None
        index = self.raft.propose(kind, body, self.log_time.at(now_ns))
        assert index is not None, "the leader of a cluster of one takes what fits"
        self.unfed_bytes += len(body) + ENTRY_OVERHEAD_BYTES
        self.counters.counters["entries"].add()
        return index

    def _propose_time(self, now_ns: int) -> int:
        """Logic waits for a moment that has come: put the time into the log."""
        if (
            self.deadline_ns is None
            or self.log_time is None
            or not self.serving
            or self.draining
            or self.time_entry > self.applied_index
            or self.deadline_ns > self.log_time.at(now_ns)
            or self.persist.free() < 4 * ENTRY_OVERHEAD_BYTES
        ):
            return 0
        self.time_entry = self._propose(TIME, b"", now_ns)
        return 1

    def _read_index(self, run: bytes) -> None:
        context = self.next_query
        self.next_query += 1
        self.queries[context] = run
        self.query_bytes += len(run)
        accepted = self.raft.read_index(context)
        assert accepted, "the leader of a cluster of one answers at once"

    # What Raft decided

    def _start(self, recovered: slots.Recovered) -> None:
        config = Config(
            id=self.replica_id,
            voters=frozenset({self.replica_id}),
            recent_bytes_max=2 * self.apply.capacity,
            unapplied_bytes_max=2 * self.apply.capacity,
            unapplied_entries_max=2 * IN_FLIGHT_ENTRIES_MAX + recovered.last,
        )
        log = Log(
            recovered.first,
            recovered.last,
            recovered.last_term,
            recovered.boundaries,
            recovered.last_time_ns,
        )
        hard_state = HardState(recovered.term, recovered.voted_for, recovered.commit)
        self.raft = Raft(config, hard_state, log)
        self.recovered = recovered
        self.fed = self.asked_through = self.applied_index = recovered.first - 1

    def _carry_out(self) -> int:
        done = 0
        while ready := self.raft.ready():
            done += 1
            self._persist(ready)
            if ready.apply is not None:
                self.feedable = ready.apply[1]
            for read in ready.reads:
                self.readable.append((read.index, self.queries.pop(read.context)))
            if ready.term_to_start:
                self._start_term()
        if done:
            self.counters.counters["commit_index"].set(self.raft.commit)
            self.counters.counters["term"].set(self.raft.term)
        return done

    def _start_term(self) -> None:
        """Log time jumps here and nowhere else; then the operator's decisions go into the log."""
        assert self.raft.role is Role.LEADER
        self.log_time = LogTime.start_term(
            self.clock,
            self.raft.log.last_time_ns,
            int(self.config.clock_step_s_max * NS_PER_S),
            accept_step=self.config.accept_clock_step,
        )
        now_ns = self.clock.monotonic_ns()
        self.serve_from = self.raft.start_term(self.log_time.at(now_ns))
        self.unfed_bytes += ENTRY_OVERHEAD_BYTES
        for place in self.config.skip:
            self.serve_from = self._propose(SKIP, slots.pack_skip_body(*place), now_ns)

    def _persist(self, ready: Ready) -> None:
        persist = ready.persist
        if persist is None:
            return
        parts: list[bytes] = []
        if persist.truncate_from is not None:
            parts.append(slots.pack_truncate(persist.truncate_from))
        parts.extend(_entry_slot(entry, 0) for entry in persist.entries)
        if persist.hard_state is not None:
            state = persist.hard_state
            parts.append(slots.pack_hard_state(state.term, state.voted_for, state.commit))
        self._write_persist(b"".join(parts))
        self.writes.append((self.persist_bytes, persist.sequence))

    def _write_persist(self, run: bytes) -> None:
        written = self.persist.write(run)
        assert written, "room in persist was kept free"
        self.persist_bytes += len(run)

    # What logic gets

    def _feed(self) -> int:
        """Committed entries in index order, each once (I5); then the queries that waited for them."""
        if self.serve_from is None or (not self.skips_told and self.feedable < self.serve_from):
            return 0
        done = 0
        if not self.skips_told:
            self._tell_skips()
        if self.fed < self.feedable:
            done += self._feed_entries()
        while self.readable and self.readable[0][0] <= self.fed:
            if not self.apply.write(self.readable[0][1]):
                break
            _, run = self.readable.popleft()
            self.query_bytes -= len(run)
            done += 1
        if self.draining and not self.drained and self._is_quiet():
            self.drained = self.apply.write(slots.pack_drain())
            done += 1
        return done

    def _tell_skips(self) -> None:
        assert self.recovered is not None
        self.skips_told = True
        places = dict.fromkeys([*self.recovered.skips, *self.config.skip])
        if places:
            written = self.apply.write(b"".join(slots.pack_skip(*place) for place in places))
            assert written, "logic has not been given anything yet"

    def _feed_entries(self) -> int:
        assert self.recovered is not None
        first = self.fed + 1
        entries = self.raft.log.entries(first, min(self.feedable, first + 1024))
        if entries is None:
            return self._ask_journal()
        done = 0
        for entry in entries:
            tag = slots.REPLAY if entry.index <= self.recovered.last else 0
            if not self.apply.write(_entry_slot(entry, tag)):
                break
            self.fed = entry.index
            self.unfed_bytes = max(0, self.unfed_bytes - len(entry.body) - ENTRY_OVERHEAD_BYTES)
            done += 1
        return done

    def _ask_journal(self) -> int:
        """Replay: ask ahead, so that the journal and logic work at the same time."""
        assert self.recovered is not None
        behind = max(self.asked_through, self.fed)
        last = min(self.recovered.last, behind + READ_AHEAD_ENTRIES)
        if behind - self.fed >= READ_AHEAD_ENTRIES or behind >= last:
            return 0
        if self.persist.free() < 4 * ENTRY_OVERHEAD_BYTES:
            return 0
        self._write_persist(
            slots.pack_read(behind + 1, last, self.persist.capacity // 4, slots.REPLAY)
        )
        self.asked_through = last
        return 1

    def _is_quiet(self) -> bool:
        return self.fed == self.raft.log.last and not self.readable and not self.queries

    def _announce(self, now_ns: int) -> None:
        if self.serving or self.recovered is None:
            return
        if self.serve_from is not None and self.applied_index >= self.serve_from:
            self.serving = True
            facts = {"index": self.applied_index, "term": self.raft.term, "digest": self.digest}
            self.report({"ready": facts})
        elif now_ns >= self.next_report_ns and self.recovered.last:
            self.next_report_ns = now_ns + REPORT_NS
            self.report({"replayed": self.applied_index, "of": self.recovered.last})


def _entry_slot(entry: Entry, tag: int) -> bytes:
    body = entry.body
    head = slots.pack_entry_header(
        entry.index, entry.term, entry.time_ns, entry.kind, len(body), tag
    )
    return head + body + bytes(-len(body) % 8)


def _record(waiting: deque[tuple[int, int]], through: int, clock: Clock, histogram: Any) -> None:
    now_ns = clock.monotonic_ns()
    while waiting and waiting[0][0] <= through:
        histogram.record(now_ns - waiting.popleft()[1])
