"""The logic process: the actors' machine between the `apply` ring and the `egress` and `applied` rings.

It sees committed entries only, in index order, each once (I5). It reads no clock and does no I/O but through its rings
(I3; its own figures are timed here, and no reading reaches an actor). It may wait on egress and applied, and on nothing else (I12). Entries marked REPLAY change the state and the
digest and write no egress: they were answered in an earlier life, and who was not asks again.
"""

import gc

from attrs import define, field

from ..actors.machine import Machine, Outputs
from ..shm import Consumer, Counters, Doorbell, Producer, monotonic_ns
from . import slots
from .agent import Ends
from .position import APPLYING, IDLE, QUERYING, RUNNING, Position

APPLY_RUN_BYTES = 512 * 1024
COLLECT_EVERY_BYTES = 16 * 1024 * 1024
PARK_NS = 100_000_000


@define(eq=False)
class Logic:
    """Process 4. Committed entries in, replies and events out."""

    machine: Machine
    position: Position
    apply: Consumer
    egress: Producer
    applied: Producer
    doorbell: Doorbell
    counters: Counters
    outputs: Outputs = field(factory=Outputs, init=False)
    uncollected_bytes: int = field(default=0, init=False)
    replaying: bool = field(default=True, init=False)
    watched: Ends = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.watched = (self.apply,)

    def work(self) -> int:
        """Apply one run of the ring, entry by entry."""
        run = self.apply.peek(APPLY_RUN_BYTES)
        if not run:
            return 0
        self.counters.counters["apply_used_bytes"].set(self.apply.used())
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
                self.machine.skip(*slots.unpack_skip(slot))
            elif kind == slots.DRAIN:
                self._write(self.egress, slots.pack_drain())
            else:
                raise AssertionError(f"apply carried a slot of type {kind}")
        done = len(run)
        self.apply.release(done)
        if last_index:
            self.counters.histograms["apply_ns"].record(monotonic_ns() - started_ns)
            self.counters.counters["applied_index"].set(last_index)
            machine = self.machine
            self._write(
                self.applied,
                slots.pack_applied(last_index, machine.digest, machine.next_deadline_ns),
            )
        return 1

    def ends(self) -> Ends:
        """The one ring that it reads."""
        return self.watched

    def sleep_ns(self) -> int:
        """Nothing here is due by itself: time comes in entries."""
        return PARK_NS

    def _apply_entry(self, slot: memoryview, tag: int) -> int:
        entry = slots.unpack_entry(slot)
        words = self.position.words
        words[RUNNING] = APPLYING
        self.machine.apply(
            entry.index,
            entry.time_ns,
            entry.kind,
            slot[slots.ENTRY_HEADER_BYTES :],
            outputs=self.outputs,
        )
        words[RUNNING] = IDLE
        replay = bool(tag & slots.REPLAY)
        if not replay and self.replaying:
            self._settle()
        egress = self.outputs.egress
        if egress and not replay:
            self._write(self.egress, egress)
        egress.clear()
        self._collect(len(slot))
        self.counters.counters["entries"].add()
        return entry.index

    def _answer(self, slot: memoryview) -> None:
        words = self.position.words
        words[RUNNING] = QUERYING
        answer = self.machine.query(slot, self.machine.state.index)
        words[RUNNING] = IDLE
        self._write(self.egress, answer)

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
        for piece in pieces(memoryview(run), producer.capacity // 4):
            while not producer.write(piece):
                self.counters.counters["waits_for_space"].add()
                self.doorbell.wait((producer,), 0, PARK_NS)


def pieces(run: memoryview, bytes_max: int) -> list[memoryview]:
    """Cut a run between slots into pieces of at most `bytes_max` bytes; a larger slot is a piece by itself."""
    if len(run) <= bytes_max:
        return [run]
    cut: list[memoryview] = []
    start = offset = 0
    while offset < len(run):
        length, _, _ = slots.HEADER.unpack_from(run, offset)
        following = offset + slots.padded(length)
        if following - start > bytes_max and offset > start:
            cut.append(run[start:offset])
            start = offset
        offset = following
    cut.append(run[start:])
    return cut
