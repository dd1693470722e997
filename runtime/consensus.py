"""The consensus process: Raft between the rings. It is the sequencer: the leader's order is the order.

Everything it decides, `leftfold.raft` decided; here is the wiring, the log time, and the admission of commands. All that
`ingress` holds becomes one entry, whose body this process never looks into. It waits on no ring (I12): a command is
admitted only with room for it in `persist` and `apply`, and what does not fit stays in `ingress`. While the disk has no
room, commands are refused, each with the sentence, and queries are answered.

Recovery: the state of the newest snapshot goes from the journal to logic, then the entries behind it, as far as this
build of the app may replay them (tail.py). When snapshots are taken is snapshot_points.py's to say; when one counts, what
it makes dispensable is forgotten here and discarded by the journal.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field

from ..raft import TERM_START, Config, Entry, HardState, Log, Raft, Ready, Role
from ..shm import Consumer, Counters, Producer
from . import slots
from .agent import Ends
from .clock import Clock, LogTime
from .config import NS_PER_S, ReplicaConfig
from .controls import Controls, status
from .metrics import publish_fill, record_reached
from .separation import Refusal, Separator
from .snapshot_points import SnapshotPoints
from .tail import Tail

COMMANDS, TIME, SKIP = 0, 2, 3
"""The kinds of entries that are proposed here; Raft itself opens each term."""

TICK_NS = 50_000_000
REPORT_NS = 100_000_000
MAKE_ROOM_AGAIN_NS = 5_000_000_000
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
    controls: Controls = field(init=False)
    points: SnapshotPoints = field(init=False)
    tail: Tail = field(init=False)
    build: str | None = field(default=None, init=False)
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
    settled: bool = field(default=False, init=False)
    # Until logic has taken its state from the snapshot; who asked for the snapshot that is wanted.
    restoring: bool = field(default=False, init=False)
    asker: slots.Control | None = field(default=None, init=False)
    # The disk is nearly full: why commands are refused, and when making room is tried again.
    refusal: Refusal | None = field(default=None, init=False)
    make_room_ns: int = field(default=0, init=False)
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
    send: Producer = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.separator = Separator(self.config.limits)
        self.ingress = self.consumers["ingress"]
        self.persist, self.apply = self.producers["persist"], self.producers["apply"]
        self.send = self.producers["send"]
        self.controls = Controls(self.send)
        always = tuple(self.consumers[name] for name in ("persisted", "applied", "receive"))
        room = (self.apply, self.persist, self.send)
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
        if self.build is None:
            return (
                done  # No term is opened, and nothing replayed, before logic has said under what.
            )
        now_ns = self.clock.monotonic_ns()
        if now_ns >= self.next_tick_ns:
            self.raft.tick()
            self.next_tick_ns = now_ns + TICK_NS
            publish_fill(self.counters, self.consumers)
        done += self._take_ingress(now_ns) + self._propose_time(now_ns)
        done += self._carry_out() + self._feed()
        if self.serving:
            done += self._make_room(now_ns) + self._take_snapshot(now_ns)
            done += self._discard() + self.controls.flush()
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
        held = self.draining or self.refusal is not None  # Then timers wait too.
        if self.deadline_ns is not None and self.log_time is not None and self.serving and not held:
            until_ns = min(until_ns, self.deadline_ns - self.log_time.at(now_ns))
        return max(until_ns, 0)

    # What comes in

    def _take_persisted(self) -> int:
        ring = self.consumers["persisted"]
        run = ring.peek()
        if not run:
            return 0
        index = durable_bytes = 0
        for kind, tag, slot in slots.slots_of(run):
            if kind == slots.PERSISTED:
                _, index, durable_bytes = slots.unpack_persisted(slot)
            elif kind == slots.SNAPSHOT_STATE:
                self._take_snapshot_state(slots.unpack_snapshot_state(slot))
            elif kind == slots.ROOM:
                self._take_room(tag, slots.text_of(slot))
            else:
                assert kind == slots.FAILED, f"persisted carried a slot of type {kind}"
        ring.release(len(run))
        sequence = 0
        while self.writes and self.writes[0][0] <= durable_bytes:
            _, sequence = self.writes.popleft()
        if sequence:
            self.raft.persisted(sequence)
        histogram = self.counters.histograms["sequenced_to_durable_ns"]
        record_reached(self.undurable, index, self.clock.monotonic_ns(), histogram)
        return 1

    def _take_applied(self) -> int:
        ring = self.consumers["applied"]
        run = ring.peek()
        if not run:
            return 0
        for kind, _, slot in slots.slots_of(run):
            if kind == slots.APPLIED:
                self.applied_index, self.digest, self.deadline_ns = slots.unpack_applied(slot)
                self.restoring = False
            elif kind == slots.BUILD:
                self._take_build(slots.text_of(slot))
            else:
                assert kind == slots.SNAPSHOT_STATE, f"applied carried a slot of type {kind}"
                self._take_snapshot_state(slots.unpack_snapshot_state(slot))
        ring.release(len(run))
        self.raft.applied(self.applied_index)
        self.counters.counters["applied_index"].set(self.applied_index)
        histogram = self.counters.histograms["sequenced_to_applied_ns"]
        record_reached(self.unapplied, self.applied_index, self.clock.monotonic_ns(), histogram)
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
            entry = slots.unpack_entry(slot)
            assert entry.index == index, f"entry {entry.index} was read where {index} was due"
            if index > self.tail.read:
                self._read_tail(entry, slot)
        if not self.apply.write(run[:done]):
            self.no_room = True
            return 0
        self.fed = index
        self.points.gave(done)
        return done

    def _read_tail(self, entry: slots.EntryHeader, slot: memoryview) -> None:
        """Before logic gets it: may this build replay it?"""
        tail = self.tail
        if entry.kind == TERM_START:
            tail.open_term(bytes(slot[slots.ENTRY_HEADER_BYTES :]).decode(errors="replace"))
        elif not tail.fits and entry.kind in (COMMANDS, TIME):
            warning = tail.judge(entry.index)
            if warning:
                self.report({"warning": warning})
        tail.read = entry.index

    def _take_build(self, build: str) -> None:
        assert self.recovered is not None
        recovered = self.recovered
        self.build = build
        self.tail = Tail(build, recovered.snapshot_build, recovered.last, self.config.accept_build)

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
        refusable = None
        if self.refusal is not None:
            refusable = (self.send.free() // 2) // self.refusal.slot_bytes
            if not refusable:
                self.no_room = True
                if self.send.claim(2 * self.refusal.slot_bytes):
                    self.send.commit(0)
                return 0
        separated = self.separator.take(
            self.ingress, entry_room, query_room, refusable, controls=self.controls.room
        )
        if separated.count and self.refusal is not None:
            refused = self.send.write(self.refusal.of_each(separated.body, separated.count))
            assert refused, "room in send was there"
            self.counters.counters["refused"].add(separated.count)
        elif separated.count:
            index = self._propose(COMMANDS, separated.body, now_ns)
            self.undurable.append((index, now_ns))
            self.unapplied.append((index, now_ns))
            self.counters.counters["commands"].add(separated.count)
            self.counters.histograms["entry_bytes"].record(len(separated.body))
        if separated.queries:
            self._read_index(separated.queries)
        for _, _, slot in slots.slots_of(memoryview(separated.controls)):
            self._control(slots.unpack_control(slot))
        self.draining = separated.drain
        return separated.consumed

    # What an operator asks

    def _control(self, control: slots.Control) -> None:
        match control.operation:
            case slots.CONTROL_SNAPSHOT:
                self._snapshot_by_command(control)
            case slots.CONTROL_STATUS:
                refusing = "" if self.refusal is None else self.refusal.text.decode()
                facts = status(self.raft, self.points, refusing)
                facts |= {"build": self.build, "digest": self.digest}
                self.controls.answer(control, self.fed, facts)
            case _:
                why = f"This replica knows no control {control.operation}."
                self.controls.refuse(control, self.fed, why)

    def _snapshot_by_command(self, control: slots.Control) -> None:
        points = self.points
        if points.busy:
            self.controls.refuse(control, self.fed, "A snapshot is being written already.")
        elif self.fed == points.taken:
            self.controls.answer(control, self.fed, {"index": points.taken, "new": False})
        else:
            points.want(slots.BY_COMMAND)
            self.asker = control

    # Snapshots, and room for the log

    def _take_snapshot(self, now_ns: int) -> int:
        """Tell logic to write its state, when that is due, behind what it was given."""
        reason = self.points.due(leads_others=len(self.raft.config.voters) > 1)
        if reason is None or self.restoring:
            return 0
        term = self.raft.log.term_at(self.fed)
        assert term is not None
        asked = slots.TakeSnapshot(self.fed, term, reason)
        if not self.apply.write(slots.pack_take_snapshot(asked)):
            return 0
        self.points.begun(asked, now_ns)
        if self.asker is not None:
            self.controls.answer(self.asker, self.fed, {"index": self.fed, "new": True})
            self.asker = None
        self.report({"snapshotting": self.fed})
        return 1

    def _take_snapshot_state(self, state: slots.SnapshotState) -> None:
        asked = self.points.ended(state)
        if asked is None:
            return
        if state.tag != slots.VERIFIED:
            self.report(
                {
                    "warning": f"There is no snapshot of entry {state.index}: {state.why}. The log is kept and service "
                    "goes on; it will be tried again."
                }
            )
            return
        self.counters.counters["snapshot_index"].set(state.index)
        seconds = (self.clock.monotonic_ns() - self.points.began_ns) / NS_PER_S
        self.report({"snapshot": state.index, "bytes": state.file_bytes, "seconds": seconds})

    def _discard(self) -> int:
        """Forget what no snapshot needs any more: here, and on disk."""
        keep_from = min(self.points.keep_from, self.fed + 1)
        if keep_from <= self.raft.log.first or self.persist.free() < 4 * ENTRY_OVERHEAD_BYTES:
            return 0
        self._write_persist(slots.pack_discard(keep_from))
        self.raft.log.compact(keep_from)
        self.counters.counters["log_first_index"].set(keep_from)
        return 1

    def _take_room(self, tag: int, sentence: str) -> None:
        if tag == slots.ROOM_LOW:
            if self.refusal is None:
                self.report({"warning": sentence})
            self.refusal = Refusal.of(slots.REFUSED_DISK_FULL, sentence, self.send.slot_bytes_max)
        elif self.refusal is not None:
            self.refusal = None
            self.report({"warning": "There is room on disk again; commands are accepted."})

    def _make_room(self, now_ns: int) -> int:
        """The disk is low: two snapshots behind everything leave the least log.

        The log is kept from the older of two snapshots on. So when nothing was written since the newest, and it still
        keeps much of the log alive, an entry with nothing but the time gives the next one an index of its own.
        """
        points = self.points
        if self.refusal is None or self.draining or points.busy or now_ns < self.make_room_ns:
            return 0
        if not self._is_quiet() or self.applied_index < self.fed:
            return 0
        if self.fed > points.taken:
            self.make_room_ns = now_ns + MAKE_ROOM_AGAIN_NS
            points.want(slots.BY_SCHEDULE)
        elif self.raft.log.first < points.taken:
            self._propose(TIME, b"", now_ns)
            self.make_room_ns = 0
        else:
            return 0
        return 1

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
            or self.refusal is not None
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
        snapshot = recovered.snapshot_index
        applied = snapshot or recovered.first - 1
        self.raft = Raft(config, hard_state, log, applied)
        self.recovered = recovered
        self.fed = self.asked_through = self.applied_index = applied
        self.points = SnapshotPoints(self.config.snapshot_log_bytes, snapshot)
        self.counters.counters["snapshot_index"].set(snapshot)
        self.counters.counters["log_first_index"].set(recovered.first)
        if snapshot:
            # Before any entry, on both rings; both are empty.
            self.restoring = self.apply.write(
                slots.pack_restore(snapshot, recovered.snapshot_bytes)
            )
            assert self.restoring
            self._write_persist(slots.pack_restore(snapshot))

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
        assert self.build is not None
        body = self.build.encode()
        self.serve_from = self.raft.start_term(self.log_time.at(now_ns), body)
        self.unfed_bytes += len(body) + ENTRY_OVERHEAD_BYTES
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
            if self.drained and self.config.snapshot_at_stop and self.fed > self.points.taken:
                self.points.want(slots.AT_STOP)
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
            self.points.gave(len(entry.body) + ENTRY_OVERHEAD_BYTES)
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
        if self.drained and not self.settled and not self.points.busy:
            self.settled = True  # Nothing is on its way any more: the journal may close.
            self.report({"settled": self.fed})
        if self.serving or self.recovered is None or self.restoring:
            return
        if self.serve_from is not None and self.applied_index >= self.serve_from:
            self.serving = True
            facts = {"index": self.applied_index, "term": self.raft.term, "digest": self.digest}
            self.report({"ready": facts})
        elif now_ns >= self.next_report_ns and self.applied_index < self.recovered.last:
            self.next_report_ns = now_ns + REPORT_NS
            self.report({"replayed": self.applied_index, "of": self.recovered.last})


def _entry_slot(entry: Entry, tag: int) -> bytes:
    body = entry.body
    head = slots.pack_entry_header(
        entry.index, entry.term, entry.time_ns, entry.kind, len(body), tag
    )
    return head + body + bytes(-len(body) % 8)
