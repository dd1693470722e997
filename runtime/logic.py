"""The logic process: the actors' machine between the `apply` ring and the `egress` and `applied` rings.

It sees committed entries only, in index order, each once (I5). It reads no clock and does no I/O but through its rings
(I3; its own figures are timed here, and no reading reaches an actor). It may wait on egress and applied, and on nothing else
(I12). Entries marked REPLAY change the state and the digest and write no egress: they were answered in an earlier life, and
who was not asks again. So do those marked SILENT, which the leader answers, as long as nobody here wants events.

Its state may be written and replaced. TAKE_SNAPSHOT forks a child that writes it as it is at that entry, while logic goes
on (snapshot_child.py). RESTORE takes it from the `restore` ring, for as long as that takes, before anything that follows.
"""

import gc
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from attrs import define, field

from ..actors.errors import ActorsError
from ..actors.layout import EntryKind
from ..actors.machine import Machine, Outputs
from ..shm import Consumer, Counters, Doorbell, Producer, monotonic_ns
from . import slots
from ._wire import lib
from .agent import Ends
from .digests import PART, pack_digests, pack_ordinals, pack_state_digest, unpack_ask_ordinals
from .errors import OperatorError
from .legible import check_legible
from .passage import Passage
from .pieces import pieces
from .position import APPLYING, IDLE, QUERYING, RUNNING, Position
from .quarantines import Quarantines
from .recent_outputs import RecentOutputs
from .snapshot_child import SnapshotChild
from .state_checks import CHECK
from .state_child import StateChild

APPLY_RUN_BYTES = 512 * 1024
COLLECT_EVERY_BYTES = 1024 * 1024
"""What is new is walked once, whenever that is: often, it is a pause of at most a millisecond for 10,000 new objects."""
RESTORE_RUN_BYTES = 1024 * 1024
REPORT_NS = 100_000_000
PARK_NS = 100_000_000


@define(eq=False)
class Logic:
    """Process 4. Committed entries in, replies and events out."""

    machine: Machine
    build: str
    rebuild: Callable[[Iterable[bytes]], Machine]
    """Makes the machine that wrote a snapshot, from its content."""
    child: SnapshotChild
    state_child: StateChild
    position: Position
    apply: Consumer
    restore: Consumer
    egress: Producer
    applied: Producer
    snapshot: Producer
    doorbell: Doorbell
    counters: Counters
    report: Callable[[dict[str, Any]], None]
    has_peers: bool = True
    """Whether there may be other replicas: they compare digests."""
    outputs: Outputs = field(factory=Outputs, init=False)
    digests: "array[int]" = field(factory=lambda: array("I"), init=False)
    digests_first: int = field(default=0, init=False)
    recent: RecentOutputs = field(factory=RecentOutputs, init=False)
    uncollected_bytes: int = field(default=0, init=False)
    replaying: bool = field(default=True, init=False)
    written_under: str = field(default="", init=False)
    """The build under which what is replayed was written; empty if nobody knows."""
    skips: list[tuple[int, int]] = field(factory=list[tuple[int, int]], init=False)
    quarantines: Quarantines = field(init=False)
    watched: Ends = field(init=False)
    watched_restoring: Ends = field(init=False)

    _passage: Passage = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._passage = Passage(
            self.apply,
            self.egress,
            self.applied,
            self.counters,
            APPLY_RUN_BYTES,
            self.egress.capacity // 4,
        )
        self.quarantines = Quarantines(self.counters.counters["quarantined"], self.report)
        self.watched = (self.apply,)
        self.watched_restoring = (self.restore,)
        self._write(self.applied, slots.pack_build(self.build))

    def work(self) -> int:
        """Apply one run of the ring, entry by entry."""
        if self.child.pid or self.state_child.pid:
            self._ask_after_the_children()
        if not self.replaying:
            self.quarantines.look(self.machine)
            if self._pass_usual():
                return 1
        run = self.apply.peek(APPLY_RUN_BYTES)
        if not run:
            return 0
        started_ns = monotonic_ns()
        last_index = 0
        for kind, tag, slot in slots.slots_of(run):
            if kind == slots.ENTRY:
                last_index = self._apply_entry(slot, tag)
            elif kind == slots.QUERY:
                self._answer(slot)
            elif kind == slots.SUBSCRIBE:
                self._write(self.egress, self.machine.subscribe(slot))
            elif kind == slots.SKIP:
                self.skips.append(slots.unpack_skip(slot))
                self.machine.skip(*self.skips[-1])
            elif kind == slots.TAKE_SNAPSHOT:
                self._take_snapshot(slots.unpack_take_snapshot(slot))
            elif kind == slots.RESTORE:
                self._restore(*slots.unpack_restore(slot))
                last_index = self.machine.state.index
            elif kind == slots.DRAIN:
                self._write(self.egress, slots.pack_drain())
            elif kind == slots.ASK_ORDINALS:
                self._tell_ordinals(unpack_ask_ordinals(slot))
            else:
                raise AssertionError(f"apply carried a slot of type {kind}")
        done = len(run)
        self.apply.release(done)
        if self.digests:
            self._tell_digests()
        if last_index:
            self.counters.histograms["apply_ns"].record(monotonic_ns() - started_ns)
            self.counters.counters["applied_index"].set(last_index)
            self.counters.counters["apply_used_bytes"].set(self.apply.used())
            machine = self.machine
            self._write(
                self.applied,
                slots.pack_applied(last_index, machine.digest, machine.next_deadline_ns),
            )
        return 1

    def _pass_usual(self) -> bool:
        """Apply the next entry if it is one as nearly all are, with the fewest calls around it; the outcome is that of `work`."""
        body = self._passage.take()
        if body is None:
            return False
        entry, machine, words = self._passage.entry, self.machine, self.position.words
        index = entry.index
        words[RUNNING] = APPLYING
        run = machine.apply_entry(index, entry.time_ns, EntryKind.COMMANDS, body)
        words[RUNNING] = IDLE
        applied = slots.pack_applied(index, machine.digest, machine.next_deadline_ns)
        if self.has_peers:
            applied = pack_digests(index, array("I", (machine.digest,))) + applied
            if run:
                self.recent.keep(index, run)
        egress = b"" if entry.silent else run
        rest = self._passage.give(egress, applied)
        if rest == lib.PASSAGE_EGRESS:
            self._write(self.egress, egress)
            rest = self._passage.give(b"", applied)
        if rest == lib.PASSAGE_APPLIED:
            self._write(self.applied, applied)
        self._collect(entry.slot_bytes)
        return True

    @property
    def more(self) -> bool:
        """What is left of a run is in its ring; children end with a signal, perhaps before the wait; quarantines are told of."""
        children = self.child.pid != 0 or self.state_child.pid != 0
        return children or len(self.machine.state.quarantined) != self.quarantines.told

    def ends(self) -> Ends:
        """The one ring that it reads."""
        return self.watched

    def sleep_ns(self) -> int:
        """Nothing here is due by itself: time comes in entries."""
        return PARK_NS

    def _apply_entry(self, slot: memoryview, tag: int) -> int:
        entry = slots.unpack_entry(slot)
        if tag & slots.REPLAY:
            self._check_legible(entry, slot[slots.ENTRY_HEADER_BYTES :])
        words = self.position.words
        words[RUNNING] = APPLYING
        body = slot[slots.ENTRY_HEADER_BYTES :]
        self.machine.apply(entry.index, entry.time_ns, entry.kind, body, outputs=self.outputs)
        words[RUNNING] = IDLE
        if self.has_peers:
            if not self.digests:
                self.digests_first = entry.index
            self.digests.append(self.machine.digest)
        if not tag & slots.REPLAY:
            if self.replaying:
                self._settle()
            if entry.kind == CHECK:
                self.state_child.begin(self.machine)
        egress = self.outputs.egress
        if egress and not tag & (slots.REPLAY | slots.SILENT):
            self._write(self.egress, egress)
        if egress and self.has_peers:
            self.recent.keep(entry.index, egress)
            self.outputs.egress = bytearray()
        else:
            egress.clear()
        self._collect(len(slot))
        self.counters.counters["entries"].add()
        return entry.index

    def _check_legible(self, entry: slots.EntryHeader, body: memoryview) -> None:
        """What another build wrote is replayed only as far as this one can read it."""
        if entry.kind == EntryKind.TERM_START:
            self.written_under = bytes(body).decode(errors="replace")
        elif entry.kind == EntryKind.COMMANDS and self.written_under not in ("", self.build):
            app = self.machine.app
            check_legible(app, entry.index, body, self.written_under, self.skips)

    def _tell_digests(self) -> None:
        """After each entry: by these, replicas that differ are found."""
        for at in range(0, len(self.digests), PART):
            part = self.digests[at : at + PART]
            self._write(self.applied, pack_digests(self.digests_first + at, part))
        del self.digests[:]

    def _tell_ordinals(self, index: int) -> None:
        """Somebody differs at this entry: at which command of it?"""
        applied = index <= self.machine.state.index
        for part in pack_ordinals(index, self.recent.digests(index) if applied else None):
            self._write(self.applied, part)

    def _answer(self, slot: memoryview) -> None:
        words = self.position.words
        words[RUNNING] = QUERYING
        answer = self.machine.query(slot, self.machine.state.index)
        words[RUNNING] = IDLE
        self._write(self.egress, answer)

    # Snapshots

    def _take_snapshot(self, asked: slots.TakeSnapshot) -> None:
        """Fork the child, or say at once why there will be no snapshot."""
        gc.freeze()  # No collection of ours walks, and so copies, what the child shares with us.
        began_ns = monotonic_ns()
        why = self.child.begin(self.machine, asked, self._tell_journal)
        if why is None:
            self.counters.histograms["fork_ns"].record(monotonic_ns() - began_ns)
            self.counters.counters["snapshots"].add()
            return
        state = slots.SnapshotState(asked.index, 0, 0, why, slots.NOT_TAKEN)
        self._write(self.applied, slots.pack_snapshot_state(state))

    def _tell_journal(self, slot: bytes) -> None:
        self._write(self.snapshot, slot)

    def _ask_after_the_children(self) -> None:
        status = self.child.ended()
        if status is not None:
            self._tell_journal(slots.pack_snapshot_ended(self.child.index, status))
        digested = self.state_child.ended()
        if digested is not None:
            self._write(self.applied, pack_state_digest(*digested))

    def _restore(self, index: int, content_bytes: int, build: str) -> None:
        """Take the state of `index` from the journal. Raises OperatorError if this code cannot."""
        self.written_under = build
        try:
            machine = self.rebuild(self._content(index, content_bytes))
        except ActorsError as refused:
            raise OperatorError(
                f"This code cannot take up the snapshot of entry {index}: {refused}. Nothing was "
                "changed: start the code that wrote it, or mend this one."
            ) from refused
        assert machine.state.index == index, f"{machine.state.index} was restored for {index}"
        self.machine = machine
        self.recent.restart(index)
        for place in self.skips:
            machine.skip(*place)
        gc.freeze()  # All of it will live long.

    def _content(self, index: int, content_bytes: int) -> Iterator[bytes]:
        """The snapshot's content as it comes; what the journal has not sent yet is waited for."""
        done = 0
        report_ns = monotonic_ns()
        last = False
        while not last:
            run = self.restore.peek(RESTORE_RUN_BYTES)
            if not run:
                self.doorbell.wait(self.watched_restoring, 0, PARK_NS)
                continue
            contents: list[bytes] = []
            for kind, tag, slot in slots.slots_of(run):
                assert kind == slots.SNAPSHOT_CHUNK and not last
                contents.append(bytes(slots.chunk_content(slot)))
                last = bool(tag & slots.LAST_CHUNK)
            self.restore.release(len(run))
            for content in contents:
                yield content
                done += len(content)
            if last or monotonic_ns() >= report_ns:
                report_ns = monotonic_ns() + REPORT_NS
                self.report({"restored": done, "of": content_bytes, "index": index})

    # The collector

    def _settle(self) -> None:
        """What replay built will live long: keep the collector from walking it again and again."""
        self.replaying = False
        gc.collect()
        gc.freeze()

    def _collect(self, applied_bytes: int) -> None:
        self.uncollected_bytes += applied_bytes
        if self.uncollected_bytes >= COLLECT_EVERY_BYTES:
            self.uncollected_bytes = 0
            gc.collect(1)

    def _write(self, producer: Producer, run: bytes | bytearray) -> None:
        """Write a run in pieces that fit, waiting for room: the one place where logic waits."""
        bytes_max = producer.capacity // 4
        if len(run) <= bytes_max and producer.write(run):
            return
        for piece in pieces(memoryview(run), bytes_max):
            while not producer.write(piece):
                self.counters.counters["waits_for_space"].add()
                self.doorbell.wait((producer,), 0, PARK_NS)
