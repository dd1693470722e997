"""The consensus process: Raft between the rings. It is the sequencer: the leader's order is the order.

Everything it decides, `leftfold.raft` decided; here is the wiring, the log time, and the admission of commands. All that
`ingress` holds becomes one entry, whose body this process never looks into. It waits on no ring (I12): a command is
admitted only with room for it in `persist` and `apply`, and what does not fit stays in `ingress`.

A leader that has lost its office refuses what it had proposed and not seen committed, and the queries that wait: clients ask
again elsewhere, under their old numbers, and whatever was committed after all is applied once (I9).

Recovery: the state of the newest snapshot goes from the journal to logic, then the entries behind it, as far as this
build of the app may replay them (tail.py). Beside this file: feed.py (logic), persisting.py (journal), peering.py (peers),
upkeep.py (snapshots and room), queries.py (what is asked and refused), administration.py (operators). Plain turns of a leader
are done in C: steady.py.
"""

from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field

from ..raft import CONFIGURATION, NOTHING, Raft, Ready, Role
from ..shm import Consumer, Counters, Inputs, Producer
from . import slots
from .administration import Administration
from .agent import PARK_NS_MAX, Ends
from .agreement import HAND_OVER_NS, Agreement
from .clock import Clock, LogTime
from .config import NS_PER_S, ReplicaConfig
from .controls import Controls
from .digests import unpack_digests, unpack_state_digest
from .divergence import Divergence
from .errors import OperatorError
from .feed import ENTRY_OVERHEAD_BYTES, Feed
from .identity import Identity
from .metrics import publish_fill
from .parting import Parting
from .peering import Peering
from .persisting import Persisting
from .proposals import Proposals
from .queries import Queries
from .raft_trace import RaftTrace
from .recovered import IN_FLIGHT_ENTRIES_MAX, raft_of
from .separation import Separator
from .snapshot_points import SnapshotPoints
from .state_checks import CHECK, StateChecks
from .tail import Tail
from .transfer_slots import unpack_received
from .upkeep import Upkeep

COMMANDS, TIME, SKIP = 0, 2, 3
"""The kinds of entries that are proposed here; Raft itself opens each term and changes the members."""

assert CONFIGURATION not in (COMMANDS, TIME, SKIP, CHECK)

TICK_ALONE_NS = 50_000_000
TICK_NS = 10_000_000
REPORT_NS = 100_000_000
READ_RUN_BYTES = 1024 * 1024
INPUTS = ("read", "persisted", "applied", "receive", "bulk_receive", "ingress")
READ, PERSISTED, APPLIED, RECEIVE, BULK_RECEIVE, INGRESS = (1 << at for at in range(len(INPUTS)))
"""The rings that consensus reads, and the bit of each in one look at all of them."""
PLAIN = PERSISTED | APPLIED | INGRESS
"""One turn carries out all that follows from these."""
NEVER_NS = 1 << 63
ROLES = (Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE, Role.LEADER)
"""A role's place here is what the counter `role` shows."""


@define(eq=False)
class Consensus:
    """Process 2. Commands in; entries to disk, to peers and, once committed, to logic."""

    config: ReplicaConfig
    clock: Clock
    identity: Identity
    consumers: Mapping[str, Consumer]
    producers: Mapping[str, Producer]
    counters: Counters
    report: Callable[[dict[str, Any]], None]
    raft: Raft = field(init=False)
    recovered: slots.Recovered | None = field(default=None, init=False)
    log_time: LogTime | None = field(default=None, init=False)
    inputs: Inputs = field(init=False)
    separator: Separator = field(init=False)
    controls: Controls = field(init=False)
    persisting: Persisting = field(init=False)
    points: SnapshotPoints = field(init=False)
    feed: Feed = field(init=False)
    peering: Peering = field(init=False)
    divergence: Divergence = field(init=False)
    states: StateChecks = field(init=False)
    agreement: Agreement = field(init=False)
    upkeep: Upkeep = field(init=False)
    administration: Administration = field(init=False)
    build: str | None = field(default=None, init=False)
    applied_index: int = field(default=0, init=False)
    digest: int = field(default=0, init=False)
    deadline_ns: int | None = field(default=None, init=False)
    """The log time that logic waits for."""
    timer_due_ns: int = field(default=NEVER_NS, init=False)
    """When a leader's log time gets there, by the monotonic clock."""
    time_entry: int = field(default=0, init=False)
    queries: Queries = field(init=False)
    proposals: Proposals = field(init=False)
    leader: bool = field(default=False, init=False)
    """It leads, and its term is opened."""
    # The last index that a start must have applied before it serves; skips are committed before replay.
    serve_from: int | None = field(default=None, init=False)
    skips_told: bool = field(default=False, init=False)
    serving: bool = field(default=False, init=False)
    draining: bool = field(default=False, init=False)
    hand_over_until_ns: int = field(default=0, init=False)
    drained: bool = field(default=False, init=False)
    settled: bool = field(default=False, init=False)
    no_room: bool = field(default=False, init=False)
    more: bool = field(default=True, init=False)
    """Whether the last turn may have left something to do that no ring tells of."""
    tick_ns: int = field(init=False)
    next_tick_ns: int = field(default=0, init=False)
    next_report_ns: int = field(default=0, init=False)
    watched_full: Ends = field(init=False)
    watched_replay: Ends = field(init=False)
    watched_serving: Ends = field(init=False)
    ingress: Consumer = field(init=False)
    apply: Producer = field(init=False)
    send: Producer = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.separator = Separator(self.config.limits)
        self.ingress = self.consumers["ingress"]
        self.apply, self.send = self.producers["apply"], self.producers["send"]
        self.controls = Controls(self.send)
        self.proposals = Proposals(self.counters)
        self.persisting = Persisting(self.producers["persist"])
        self.tick_ns = TICK_NS if self.config.peer_address else TICK_ALONE_NS
        inputs = tuple(self.consumers[name] for name in INPUTS)
        self.inputs = Inputs(inputs)
        room = (self.apply, self.persisting.ring, self.send)
        self.watched_full = (*inputs[1:-1], *room)
        self.watched_replay = (*inputs[:-1], *room)
        self.watched_serving = (*inputs, *room)

    def work(self) -> int:
        """One turn over every ring that has something, and over what follows from it.

        A command alone pays for each call here three times, so what the clock or a change of state can wake is asked for
        by a comparison first.
        """
        self.no_room = False
        ready = self.inputs.ready()
        if self.build is None:
            return self._begin(ready)
        now_ns = self.clock.monotonic_ns()
        done = self._take_read() if ready & READ else 0
        if self.persisting.waiting:
            done += self.persisting.flush()
        if ready & PERSISTED:
            done += self._take_persisted(now_ns)
        if ready & APPLIED:
            done += self._take_applied(now_ns)
        if ready & (RECEIVE | BULK_RECEIVE):
            for bit, name in ((RECEIVE, "receive"), (BULK_RECEIVE, "bulk_receive")):
                if ready & bit:
                    done += self.peering.take(self.consumers[name], now_ns)
        due = now_ns >= self.next_tick_ns
        if due:
            self._tick(now_ns)
        if ready & INGRESS:
            done += self._take_ingress(now_ns)
        if now_ns >= self.timer_due_ns:
            done += self._propose_time(now_ns)
        done += self._carry_out()
        pending = self.feed.pending
        if pending or self.draining or not self.skips_told:
            done += self._feed(now_ns)
        rare = due or self.points.wanted is not None
        if rare and self.serving:
            done += self._make_room(now_ns) + self._take_snapshot(now_ns)
            done += self.upkeep.discard()
        if self.peering.telling:
            done += self.peering.flush()
        if self.controls.waiting:
            done += self.controls.flush()
        if self.draining or not self.serving:
            rare = True
            self._announce(now_ns)
        self.more = rare or bool(ready & ~PLAIN) or (pending and self.feed.pending)
        return done

    def _begin(self, ready: int) -> int:
        """No term is opened, and nothing replayed, before logic has said under what build."""
        done = self._take_read() if ready & READ else 0
        if self.recovered is None:
            return done
        now_ns = self.clock.monotonic_ns()
        if self.persisting.waiting:
            done += self.persisting.flush()
        if ready & PERSISTED:
            done += self._take_persisted(now_ns)
        if ready & APPLIED:
            done += self._take_applied(now_ns)
        return done

    def _tick(self, now_ns: int) -> None:
        self.raft.tick()
        self.next_tick_ns = now_ns + self.tick_ns
        if not self._is_alone:
            self.agreement.compare(now_ns)
        self._leave_if_removed()
        publish_fill(self.counters, self.consumers)

    def ends(self) -> Ends:
        """Everything that it reads, but no input that there is no room for."""
        if self.no_room:
            return self.watched_full
        return self.watched_serving if self._takes_clients else self.watched_replay

    def sleep_ns(self) -> int:
        """Until the next tick, or until an actor's timer is due.

        What else it waits for comes through a ring: the start of the other processes, a TIME entry on its way.
        """
        if self.build is None:
            return PARK_NS_MAX
        until_ns = self.next_tick_ns
        if (
            self.timer_due_ns < until_ns
            and self.time_entry <= self.applied_index
            and self._may_propose_time()
        ):
            until_ns = self.timer_due_ns
        return max(0, until_ns - self.clock.monotonic_ns())

    @property
    def _is_alone(self) -> bool:
        """No other replica belongs to the cluster: then clients wait for it, instead of being sent away."""
        return self.raft.membership.members == frozenset({self.identity.replica_id})

    @property
    def _takes_clients(self) -> bool:
        ready = self.serving or (self.recovered is not None and not self._is_alone)
        return ready and self.build is not None and not self.draining and not self.agreement.suspect

    # What comes in

    def _take_persisted(self, now_ns: int) -> int:
        ring = self.consumers["persisted"]
        run = ring.peek()
        if not run:
            return 0
        index = durable_bytes = 0
        for kind, tag, slot in slots.slots_of(run):
            if kind == slots.PERSISTED:
                _, index, durable_bytes = slots.unpack_persisted(slot)
            elif kind == slots.SNAPSHOT_STATE:
                self._take_applied(now_ns)  # What it holds was applied, and said to be, before.
                self.upkeep.snapshot_ended(slots.unpack_snapshot_state(slot))
            elif kind == slots.RECEIVED:
                self.upkeep.received(unpack_received(slot))
            elif kind == slots.ROOM:
                self.upkeep.take_room(tag, slots.text_of(slot), self.send.slot_bytes_max)
            else:
                assert kind == slots.FAILED, f"persisted carried a slot of type {kind}"
        ring.release(len(run))
        sequence = self.persisting.durable(durable_bytes)
        if sequence:
            self.raft.persisted(sequence)
        self.proposals.durable(index, now_ns)
        return 1

    def _take_applied(self, now_ns: int) -> int:
        ring = self.consumers["applied"]
        run = ring.peek()
        if not run:
            return 0
        for kind, _, slot in slots.slots_of(run):
            if kind == slots.APPLIED:
                self.applied(*slots.unpack_applied(slot))
            elif kind == slots.DIGESTS:
                self.divergence.applied(*unpack_digests(slot))
            elif kind == slots.STATE_DIGEST:
                self.states.digested(*unpack_state_digest(slot))
            elif kind == slots.ORDINALS:
                self.agreement.take_ordinals(slot)
            elif kind == slots.BUILD:
                self._take_build(slots.text_of(slot))
            else:
                assert kind == slots.SNAPSHOT_STATE, f"applied carried a slot of type {kind}"
                self.upkeep.snapshot_ended(slots.unpack_snapshot_state(slot))
        ring.release(len(run))
        self.raft.applied(self.applied_index)
        self.counters.counters["applied_index"].set(self.applied_index)
        self.proposals.applied(self.applied_index, now_ns)
        return 1

    def applied(self, index: int, digest: int, deadline_ns: int | None) -> None:
        """Logic says how far it is, and when it next wants the time."""
        self.applied_index, self.digest = index, digest
        self.feed.applied(index)
        if deadline_ns != self.deadline_ns:
            self.deadline_ns = deadline_ns
            self._set_timer()

    def _take_read(self) -> int:
        """The recovered state first; then what was asked for: entries for logic, passed on as they are, or for peers."""
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
        done = self.feed.pass_on(run)
        done += self.peering.take_read(run[done:])
        if not done:
            self.no_room = True
            return 0
        ring.release(done)
        return 1

    def _take_build(self, build: str) -> None:
        assert self.recovered is not None
        found = self.recovered
        self.build = build
        accept = self.config.accept_build
        self.feed.tail = Tail(build, found.snapshot_build, found.last, accept)
        if self.config.peer_address:
            self.peering.tell_gateway(build)

    # Clients

    def _take_ingress(self, now_ns: int) -> int:
        if not self._takes_clients:
            return 0
        limits, refusal = self.config.limits, self.queries.refusal()
        frame_bytes_max = limits.frame_bytes_max + ENTRY_OVERHEAD_BYTES
        # Half of what is free: the other half is what padding at the wrap may cost.
        room = min(self.persisting.room() // 2, (self.apply.free() - self.feed.unfed_bytes) // 2)
        entry_room = min(limits.entry_bytes_max, room - ENTRY_OVERHEAD_BYTES)
        query_room = limits.queries_waiting_bytes_max - self.queries.waiting_bytes
        if not self.leader:
            entry_room, query_room = limits.entry_bytes_max, max(query_room, 0)
        in_flight = self.raft.log.last - self.feed.fed
        full = (
            entry_room < frame_bytes_max
            or query_room < frame_bytes_max
            or (self.leader and in_flight >= IN_FLIGHT_ENTRIES_MAX)
        )
        if full or (refusal is None and self.raft.refusal(entry_room) is not None):
            self.no_room = True
            if self.apply.claim(2 * frame_bytes_max):  # A refusal asks the ring to wake us.
                self.apply.commit(0)
            return 0
        refusable = None
        if refusal is not None:
            refusable = (self.send.free() // 2) // refusal.slot_bytes
            if not refusable:
                self.no_room = True
                if self.send.claim(2 * refusal.slot_bytes):
                    self.send.commit(0)
                return 0
        separated = self.separator.take(
            self.ingress, entry_room, query_room, refusable, controls=self.controls.room
        )
        if separated.count and refusal is not None:
            self.queries.refuse(refusal, separated.body, separated.count)
        elif separated.count:
            index = self._propose(COMMANDS, separated.body, now_ns)
            self.proposals.add(index, now_ns, separated.body, separated.count)
            self.counters.counters["commands"].add(separated.count)
            self.counters.histograms["entry_bytes"].record(len(separated.body))
        if separated.queries:
            self.queries.take(separated.queries)
        if separated.controls:
            for _, _, slot in slots.slots_of(memoryview(separated.controls)):
                self.administration.carry_out(slots.unpack_control(slot), self.build, self.digest)
        self.draining = separated.drain
        return separated.consumed

    # What is proposed

    def _propose(self, kind: int, body: bytes, now_ns: int) -> int:
        assert self.log_time is not None
        # The turn's clock was read before a term that was opened in it.
        time_ns = max(self.log_time.at(now_ns), self.raft.log.last_time_ns)
        index = self.raft.propose(kind, body, time_ns)
        assert index is not None, "a leader that refuses was asked before"
        self.feed.proposed(len(body))
        self.counters.counters["entries"].add()
        return index

    def _may_propose_time(self) -> bool:
        held = self.draining or self.upkeep.refusal is not None  # Then timers wait too.
        return self.leader and self.serving and not held

    def _propose_time(self, now_ns: int) -> int:
        """Logic waits for a moment that has come: put the time into the log."""
        if (
            not self._may_propose_time()
            or self.time_entry > self.applied_index
            or not self._has_room_for_a_mark()
        ):
            return 0
        self.time_entry = self._propose(TIME, b"", now_ns)
        return 1

    def _set_timer(self) -> None:
        """Logic waits for another moment, or this replica's log time began or ended."""
        if self.deadline_ns is None or self.log_time is None:
            self.timer_due_ns = NEVER_NS
        else:
            self.timer_due_ns = self.log_time.reached_at(self.deadline_ns)

    def _has_room_for_a_mark(self) -> bool:
        """For an entry without a body."""
        roomy = self.persisting.room() >= 4 * ENTRY_OVERHEAD_BYTES
        return roomy and self.raft.refusal() is None

    # What Raft decided

    def _start(self, recovered: slots.Recovered) -> None:
        """Raft, and everything around it, from what the disk holds."""
        snapshot = recovered.snapshot_index
        applied = snapshot or recovered.first - 1
        if self.config.peer_address:
            promised = recovered.term, recovered.voted_for, recovered.commit
            self.persisting.repeated = slots.pack_hard_state(*promised)
        observer = None
        if self.config.raft_trace:
            observer = RaftTrace.open(self.config.directory / self.config.raft_trace, self.clock)
            observer.started(self.identity.replica_id, recovered)
        self.raft = raft_of(recovered, self.config, self.identity, self.tick_ns, observer)
        self.recovered = recovered
        self.applied_index = applied
        self.points = SnapshotPoints(self.config.snapshot_log_bytes, snapshot)
        self.feed = Feed(
            self.apply,
            self.persisting,
            self.raft,
            self.points,
            self.report,
            recovered.last,
            applied,
        )
        self._surround()
        self.counters.counters["snapshot_index"].set(snapshot)
        self.counters.counters["log_first_index"].set(recovered.first)
        if snapshot:  # Before any entry.
            self.feed.restart(snapshot, recovered.snapshot_bytes, recovered.snapshot_build)
            self.feed.give(leads=False)

    def _surround(self) -> None:
        self.divergence, self.states = Divergence(self.raft), StateChecks(self.raft)
        parting = Parting(self.raft)
        own = {self.identity.replica_id: self.config.peer_address}
        alone = own if self.config.peer_address and not self.identity.joining else {}
        self.peering = Peering(
            self.raft,
            self.send,
            self.producers["bulk_send"],
            self.persisting,
            self.identity.founders or alone,
            self.config.any_build,
            self.report,
            self.divergence,
            self.states,
            parting,
        )
        self.upkeep = Upkeep(
            self.raft,
            self.points,
            self.feed,
            self.peering,
            self.persisting,
            self.controls,
            self.clock,
            self.counters,
            self.report,
        )
        self.queries = Queries(
            self.raft, self.feed, self.peering, self.upkeep, self.send, self.counters
        )
        self.administration = Administration(
            self.identity,
            self.raft,
            self.points,
            self.feed,
            self.peering,
            self.upkeep,
            self.controls,
        )
        self.agreement = Agreement(
            self.raft,
            self.divergence,
            self.states,
            parting,
            self.peering,
            self.points,
            self.apply,
        )

    def _carry_out(self) -> int:
        done = 0
        while (ready := self.raft.ready()) is not NOTHING:
            done += 1
            if ready.role_changed:
                self._role_changed()
            if ready.membership is not None and self.config.peer_address:
                self.peering.tell_gateway()
            if ready.send_now:
                self.peering.carry(ready.send_now)
            if ready.persist is not None:
                if ready.persist.truncate_from is not None:
                    self.feed.replaced_from(ready.persist.truncate_from)
                self.persisting.persist(ready.persist)
            if ready.send_after_persist:
                self.peering.carry(ready.send_after_persist)
            if ready.fetch or ready.fetch_chunks:
                self.peering.ask_journal(ready.fetch, ready.fetch_chunks)
            self._give(ready)
            if ready.repaired:
                self.persisting.write(slots.pack_repaired())
                self.report(
                    {"notice": "What the journal had lost is there again: this replica counts."}
                )
            if ready.term_to_start:
                self._start_term()
        if done:
            self.counters.counters["commit_index"].set(self.raft.commit)
        return done

    def _give(self, ready: Ready) -> None:
        if ready.restore is not None:
            self.feed.restart(ready.restore, self.upkeep.sizes.pop(ready.restore, 0), "")
        if ready.apply is not None:
            self.feed.feedable = ready.apply[1]
        for read in ready.reads:
            self.queries.confirmed(read.context, read.index)

    def _role_changed(self) -> None:
        raft, counters = self.raft, self.counters.counters
        counters["term"].set(raft.term)
        counters["role"].set(ROLES.index(raft.role))
        counters["leader"].set(raft.leader_id)
        self.agreement.forget()
        if raft.role is not Role.LEADER and self.leader:
            self._lose_office()
        if self.config.peer_address and raft.role in (Role.LEADER, Role.FOLLOWER):
            facts = {"role": raft.role.value, "term": raft.term, "leader": raft.leader_id}
            self.report({"role": facts})

    def _lose_office(self) -> None:
        """What was proposed and what was asked is refused: whoever asked, asks the next leader."""
        self.agreement.lost_office()
        self.hand_over_until_ns = 0
        self.leader = self.queries.leads = False
        self.log_time = None
        self._set_timer()
        self.feed.unfed_bytes = 0
        refusal = self.queries.refusal()
        assert refusal is not None
        for body, count in self.proposals.take_back():
            self.queries.refuse(refusal, body, count)
        self.queries.refuse_waiting()

    def _start_term(self) -> None:
        """Log time jumps here and nowhere else; then the operator's decisions go into the log."""
        assert self.raft.role is Role.LEADER
        self.log_time = LogTime.start_term(
            self.clock,
            self.raft.log.last_time_ns,
            int(self.config.clock_step_s_max * NS_PER_S),
            accept_step=self.config.accept_clock_step,
        )
        self._set_timer()
        now_ns = self.clock.monotonic_ns()
        assert self.build is not None
        body = self.build.encode()
        self.serve_from = self.raft.start_term(self.log_time.at(now_ns), body)
        self.feed.proposed(len(body))
        for place in self.config.skip:
            self.serve_from = self._propose(SKIP, slots.pack_skip_body(*place), now_ns)
        self.leader = self.queries.leads = True
        self.time_entry = 0

    def _leave_if_removed(self) -> None:
        raft = self.raft
        known = bool(raft.membership.members) and raft.commit >= raft.membership_index > 0
        if known and not raft.is_member and raft.role is not Role.LEADER:
            raise OperatorError(
                f"Replica {raft.id} is no member of the cluster any more, and has stopped: remove its directory, or "
                "let it join again under a new id with an empty one."
            )

    # What logic gets

    def _feed(self, now_ns: int) -> int:
        """Committed entries, the queries that waited for them, and at the end the drain."""
        if not self.skips_told:
            if not self._may_feed():
                return 0
            self._tell_skips()
        done = 0 if self.drained else self.feed.give(leads=self.leader)
        if (
            self.draining
            and not self.drained
            and self._is_quiet()
            and self._has_handed_over(now_ns)
        ):
            self.drained = self.apply.write(slots.pack_drain())
            if self.drained and self.config.snapshot_at_stop and self.feed.fed > self.points.taken:
                self.points.want(slots.AT_STOP)
            done += 1
        return done

    def _may_feed(self) -> bool:
        """A replica that is alone has its skips committed before anything is replayed."""
        if not self._is_alone:
            return True
        return self.serve_from is not None and self.feed.feedable >= self.serve_from

    def _tell_skips(self) -> None:
        assert self.recovered is not None
        self.skips_told = True
        places = dict.fromkeys([*self.recovered.skips, *self.config.skip])
        if places:
            written = self.apply.write(b"".join(slots.pack_skip(*place) for place in places))
            assert written, "logic has not been given anything yet"

    def _is_quiet(self) -> bool:
        """Nothing that was accepted is on its way."""
        through = self.raft.log.last if self.leader else self.feed.feedable
        return self.feed.fed == through and not self.feed.readable and not self.queries.waiting

    def _has_handed_over(self, now_ns: int) -> bool:
        """A leader that stops leaves its office to somebody first, if there is anybody."""
        if not self.leader or self._is_alone:
            return True
        if not self.hand_over_until_ns:
            self.hand_over_until_ns = now_ns + HAND_OVER_NS
            heir = self.raft.heir()
            if not heir or not self.raft.transfer(heir):
                return True
        return now_ns >= self.hand_over_until_ns

    def _take_snapshot(self, now_ns: int) -> int:
        if not self._is_alone and self.upkeep.due() is not None:
            can = self._may_propose_time() and self._has_room_for_a_mark()
            check = (lambda: self._propose(CHECK, b"", now_ns)) if can else None
            last = self.raft.log.last
            if not self.agreement.checked(check, self.feed.fed):
                return self.raft.log.last - last  # What was proposed goes out with the next turn.
        return self.upkeep.take_snapshot(now_ns)

    def _make_room(self, now_ns: int) -> int:
        if self.draining or not self._is_quiet() or self.applied_index < self.feed.fed:
            return 0
        can = self.leader and self.raft.refusal() is None
        return self.upkeep.make_room(
            now_ns, (lambda: self._propose(TIME, b"", now_ns)) if can else None
        )

    # What the supervisor hears

    def _announce(self, now_ns: int) -> None:
        if self.drained and not self.settled and not self.points.busy:
            self.settled = True  # Nothing is on its way any more: the journal may close.
            self.report({"settled": self.feed.fed})
        if self.serving or self.recovered is None or self.feed.restoring:
            return
        if self._is_up_to_date():
            self.serving = True
            facts = {"index": self.applied_index, "term": self.raft.term, "digest": self.digest}
            if not self._is_alone:
                facts |= {"replica": self.raft.id, "leader": self.raft.leader_id}
            self.report({"ready": facts})
        elif now_ns >= self.next_report_ns and self.applied_index < self.recovered.last:
            self.next_report_ns = now_ns + REPORT_NS
            self.report({"replayed": self.applied_index, "of": self.recovered.last})

    def _is_up_to_date(self) -> bool:
        if self.leader:
            return self.serve_from is not None and self.applied_index >= self.serve_from
        following = self.raft.leader_id and self.raft.role is Role.FOLLOWER
        behind = self.raft.is_damaged or self.applied_index < self.raft.commit
        return bool(following) and not behind
