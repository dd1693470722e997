"""The consensus process: Raft between the rings. It is the sequencer: the leader's order is the order.

Everything it decides, `leftfold.raft` decided; here is the wiring, the log time, and the admission of commands. All that
`ingress` holds becomes one entry, whose body this process never looks into. It waits on no ring (I12): a command is
admitted only with room reserved in `persist` and `apply`, and what does not fit stays in `ingress`.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from attrs import define, field
from leftfold.raft import Entry, Raft, Ready

from ..shm import Consumer, Counters, Producer
from . import slots
from .clock import Clock, LogTime
from .config import NS_PER_S, ReplicaConfig
from .separation import Separator

COMMANDS, TERM_START, TIME, SKIP = 0, 1, 2, 3
"""The kinds of entries."""

READ_AHEAD_ENTRIES = 4096
REPORT_NS = 100_000_000
TICK_NS = 50_000_000
READ_RUN_BYTES = 1024 * 1024


@define
class Consensus:
    """Process 2. Commands in; entries to disk, to peers and, once committed, to logic."""

    config: ReplicaConfig
    clock: Clock
    new_raft: Callable[[slots.Recovered], Raft]
    ingress: Consumer
    receive: Consumer
    persisted: Consumer
    read: Consumer
    applied: Consumer
    send: Producer
    persist: Producer
    apply: Producer
    counters: Counters
    report: Callable[[dict[str, Any]], None]
    raft: Raft = field(init=False)
    recovered: slots.Recovered | None = field(default=None, init=False)
    log_time: LogTime | None = field(default=None, init=False)
    separator: Separator = field(init=False)
    fed: int = field(default=0, init=False)
    applied_index: int = field(default=0, init=False)
    digest: int = field(default=0, init=False)
    deadline_ns: int | None = field(default=None, init=False)
    time_entry: int = field(default=0, init=False)
    reserved_bytes: int = field(default=0, init=False)
    asked_through: int = field(default=0, init=False)
    queries: dict[int, bytes] = field(factory=dict[int, bytes], init=False)
    readable: deque[tuple[int, bytes]] = field(factory=deque[tuple[int, bytes]], init=False)
    query_bytes: int = field(default=0, init=False)
    next_query: int = field(default=1, init=False)
    ready_at: int | None = field(default=None, init=False)
    hold_feed_until: int | None = field(default=None, init=False)
    announced: bool = field(default=False, init=False)
    draining: bool = field(default=False, init=False)
    drained: bool = field(default=False, init=False)
    next_tick_ns: int = field(default=0, init=False)
    next_report_ns: int = field(default=0, init=False)
    picked_up: deque[tuple[int, int]] = field(factory=deque[tuple[int, int]], init=False)
    in_flight: deque[tuple[int, int]] = field(factory=deque[tuple[int, int]], init=False)
    persist_bytes: int = field(default=0, init=False)
    writes: deque[tuple[int, int]] = field(factory=deque[tuple[int, int]], init=False)

    def __attrs_post_init__(self) -> None:
        self.separator = Separator(self.config.limits)

    def work(self) -> int:
        """One turn over every ring that this process reads."""
        done = self._take_read()
        if self.recovered is None:
            return done
        done += self._take_persisted() + self._take_applied()
        now_ns = self.clock.monotonic_ns()
        if now_ns >= self.next_tick_ns:
            self.raft.tick()
            self.next_tick_ns = now_ns + TICK_NS
        done += self._take_ingress(now_ns) + self._propose_time(now_ns)
        done += self._advance()
        done += self._feed()
        self._announce(now_ns)
        return done

    def sleep_ns(self) -> int:
        """Until the next tick, or until an actor's timer is due."""
        if self.recovered is None:
            return TICK_NS
        now_ns = self.clock.monotonic_ns()
        until_ns = self.next_tick_ns - now_ns
        if self.deadline_ns is not None and self.log_time is not None:
            until_ns = min(until_ns, self.deadline_ns - self.log_time.at(now_ns))
        return max(until_ns, 0)

    # What comes in

    def _take_persisted(self) -> int:
        run = self.persisted.peek()
        if not run:
            return 0
        index = durable_bytes = 0
        for kind, _, slot in slots.slots_of(run):
            if kind == slots.PERSISTED:
                _, index, durable_bytes = slots.unpack_persisted(slot)
            else:
                assert kind == slots.FAILED, f"persisted carried a slot of type {kind}"
        done = len(run)
        run.release()
        self.persisted.release(done)
        sequence = 0
        while self.writes and self.writes[0][0] <= durable_bytes:
            _, sequence = self.writes.popleft()
        if sequence:
            self.raft.persisted(sequence)
        now_ns = self.clock.monotonic_ns()
        while self.picked_up and self.picked_up[0][0] <= index:
            _, at_ns = self.picked_up.popleft()
            self.counters.record("durable_ns", now_ns - at_ns)
        return done

    def _take_applied(self) -> int:
        run = self.applied.peek()
        if not run:
            return 0
        for _, _, slot in slots.slots_of(run):
            self.applied_index, self.digest, self.deadline_ns = slots.unpack_applied(slot)
        done = len(run)
        run.release()
        self.applied.release(done)
        self.raft.applied(self.applied_index)
        self.counters.set("applied_index", self.applied_index)
        now_ns = self.clock.monotonic_ns()
        while self.in_flight and self.in_flight[0][0] <= self.applied_index:
            _, at_ns = self.in_flight.popleft()
            self.counters.record("applied_ns", now_ns - at_ns)
        return done

    def _take_read(self) -> int:
        """The recovered state first; then entries that were asked for, passed on to logic as they are."""
        run = self.read.peek(READ_RUN_BYTES)
        if not run:
            return 0
        if self.recovered is None:
            kind, _, slot = next(slots.slots_of(run))
            assert kind == slots.RECOVERED
            self._start(slots.unpack_recovered(slot))
            done = slots.padded(len(slot))
            slot.release()
        else:
            done = self._pass_on(run)
        run.release()
        if done:
            self.read.release(done)
        return done

    def _pass_on(self, run: memoryview) -> int:
        room = self.apply.free() - slots.padded(self.config.limits.entry_bytes_max)
        done = 0
        for kind, _, slot in slots.slots_of(run):
            assert kind == slots.ENTRY
            length = slots.padded(len(slot))
            if done + length > min(room, self.apply.capacity // 4):
                break
            done += length
            index = slots.unpack_entry(slot).index
            assert index == self.fed + 1, f"entry {index} was read after {self.fed}"
            self.fed = index
        if done:
            written = self.apply.write(run[:done])
            assert written, "room was measured before"
        return done

    def _take_ingress(self, now_ns: int) -> int:
        if self.log_time is None or self.draining or not self.announced:
            return 0
        entry_room = min(
            self.config.limits.entry_bytes_max,
            self.persist.free() // 2 - 1024,
            self.apply.free() // 2 - self.reserved_bytes - 1024,
            self.persist.capacity // 8 - 64,
        )
        query_room = self.config.limits.queries_waiting_bytes_max - self.query_bytes
        if entry_room < self.config.limits.frame_bytes_max or query_room < 2 * self.config.limits.frame_bytes_max:
            return 0
        separated = self.separator.take(self.ingress, entry_room, query_room)
        if not separated.consumed:
            return 0
        if separated.count:
            self._propose(COMMANDS, separated.body, separated.count, now_ns)
        if separated.queries:
            self._read_index(separated.queries)
        self.draining = separated.drain
        self.counters.add("ingress_bytes", separated.consumed)
        return separated.consumed

    # What is proposed

    def _propose(self, kind: int, body: bytes, count: int, now_ns: int) -> int:
        assert self.log_time is not None
        index = self.raft.propose(kind, body, self.log_time.at(now_ns))
        assert index is not None, "only a leader with room takes from ingress"
        self.reserved_bytes += len(body) + 64
        if kind == COMMANDS:
            self.picked_up.append((index, now_ns))
            self.in_flight.append((index, now_ns))
            self.counters.add("commands", count)
        return index

    def _propose_time(self, now_ns: int) -> int:
        """Logic waits for a moment that has come: put the time into the log."""
        due = (
            self.deadline_ns is not None
            and self.log_time is not None
            and self.announced
            and not self.draining
            and self.time_entry <= self.applied_index
            and self.deadline_ns <= self.log_time.at(now_ns)
        )
        if not due:
            return 0
        self.time_entry = self._propose(TIME, b"", 0, now_ns)
        return 1

    def _read_index(self, run: bytes) -> None:
        context = self.next_query
        self.next_query += 1
        self.queries[context] = run
        self.query_bytes += len(run)
        accepted = self.raft.read_index(context)
        assert accepted, "only a leader takes from ingress"

    # What Raft decided

    def _start(self, recovered: slots.Recovered) -> None:
        self.recovered = recovered
        self.raft = self.new_raft(recovered)
        self.fed = self.asked_through = recovered.first - 1 if recovered.last else 0
        self.applied_index = self.fed

    def _advance(self) -> int:
        ready = self.raft.ready()
        if not ready:
            return 0
        self._persist(ready)
        if ready.term_to_start:
            self._start_term()
        for read in ready.reads:
            self.readable.append((read.index, self.queries.pop(read.context)))
        self.counters.set("commit_index", self.raft.commit)
        return 1

    def _start_term(self) -> None:
        """Log time jumps here and nowhere else; then the operator's decisions go into the log."""
        assert self.recovered is not None
        self.log_time = LogTime.start_term(
            self.clock,
            self.recovered.last_time_ns,
            int(self.config.clock_step_s_max * NS_PER_S),
            accept_step=self.config.accept_clock_step,
        )
        now_ns = self.clock.monotonic_ns()
        self.ready_at = self.raft.start_term(self.log_time.at(now_ns))
        for index, ordinal in self.config.skip:
            self.ready_at = self._propose(SKIP, slots.pack_skip_body(index, ordinal), 0, now_ns)
        self.hold_feed_until = self.ready_at

    def _persist(self, ready: Ready) -> None:
        if ready.persist is None:
            return
        parts: list[bytes] = []
        if ready.persist.truncate_from is not None:
            parts.append(slots.pack_truncate(ready.persist.truncate_from))
        for entry in ready.persist.entries:
            parts.append(_entry_slot(entry, 0))
        if ready.persist.hard_state is not None:
            state = ready.persist.hard_state
            parts.append(slots.pack_hard_state(state.term, state.voted_for, state.commit))
        self._write_persist(b"".join(parts))
        self.writes.append((self.persist_bytes, ready.persist.sequence))

    def _write_persist(self, run: bytes) -> None:
        written = self.persist.write(run)
        assert written, "room in persist was reserved before"
        self.persist_bytes += len(run)

    # What logic gets

    def _feed(self) -> int:
        """Committed entries in index order, each once (I5); then the queries that waited for them."""
        if self.hold_feed_until is None or self.raft.commit < self.hold_feed_until:
            return 0
        assert self.recovered is not None
        done = 0
        if self.hold_feed_until:
            places = [*self.recovered.skips, *self.config.skip]
            self.apply.write(b"".join(slots.pack_skip(*place) for place in places))
            self.hold_feed_until = 0
        if self.fed < self.raft.commit:
            done += self._feed_entries()
        while self.readable and self.readable[0][0] <= self.fed and self.apply.write(self.readable[0][1]):
            _, run = self.readable.popleft()
            self.query_bytes -= len(run)
            done += 1
        if self.draining and not self.drained and self._is_quiet():
            self.drained = self.apply.write(slots.pack_drain())
            done += 1
        return done

    def _feed_entries(self) -> int:
        entries = self.raft.log.entries(self.fed + 1, self.raft.commit)
        if entries is None:
            return self._ask_journal()
        done = 0
        assert self.recovered is not None
        for entry in entries:
            tag = slots.REPLAY if entry.index <= self.recovered.last else 0
            if not self.apply.write(_entry_slot(entry, tag)):
                break
            self.fed = entry.index
            self.reserved_bytes = max(0, self.reserved_bytes - len(entry.body) - 64)
            done += 1
        return done

    def _ask_journal(self) -> int:
        """Replay: read ahead, so that the journal and logic work at the same time."""
        assert self.recovered is not None
        last = min(self.recovered.last, self.fed + READ_AHEAD_ENTRIES)
        if self.asked_through > self.fed + READ_AHEAD_ENTRIES // 2 or self.asked_through >= last:
            return 0
        first = max(self.asked_through, self.fed) + 1
        self._write_persist(slots.pack_read(first, last, self.read.capacity // 4, slots.REPLAY))
        self.asked_through = last
        return 1

    def _is_quiet(self) -> bool:
        return self.fed == self.raft.log.last and not self.readable and not self.queries

    def _announce(self, now_ns: int) -> None:
        if self.announced or self.recovered is None:
            return
        if self.ready_at is not None and self.applied_index >= self.ready_at:
            self.announced = True
            self.report(
                {"ready": {"index": self.applied_index, "term": self.raft.term, "digest": self.digest}}
            )
        elif now_ns >= self.next_report_ns and self.recovered.last:
            self.next_report_ns = now_ns + REPORT_NS
            self.report({"replayed": self.applied_index, "of": self.recovered.last})


def _entry_slot(entry: Entry, tag: int) -> bytes:
    body = entry.body
    head = slots.pack_entry_header(
        entry.index, entry.term, entry.time_ns, entry.kind, len(body), tag
    )
    return head + body + bytes(-len(body) % 8)
