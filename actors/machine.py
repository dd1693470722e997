"""The machine: state = reduce(apply, log, initial).

It takes committed entries in index order, each once (I5), and answers with REPLY and EVENT slots.
The same snapshot and entries give the same outputs and the same state everywhere (I7), whatever
bytes the clients sent. Sessions make a request change the state at most once (I9). How a command
ends is told in unit.py; an output's order is: the events of a unit, then its reply.

Reading the log, waiting for time and sending the outputs anywhere are left to the process.
"""

from collections.abc import Iterable, Iterator
from typing import Any
from zlib import crc32

from attrs import Factory, define

from . import _fold, inspection, restoring
from . import snapshot as snapshots
from .app import App, Key, encode_key
from .fold import State
from .layout import (
    COMMAND,
    LAST_REQUEST,
    EntryKind,
    SlotType,
    Status,
    reply_slot,
)
from .limits import Limits
from .unit import Units, Watch

NO_SESSION = bytes(16)

REFUSALS = {
    Status.OUT_OF_ORDER: b"an earlier request of this session has not been applied",
    Status.SESSION_EXPIRED: b"there is no such session",
    Status.BAD_REQUEST: b"the request does not decode",
    Status.WINDOW_EXCEEDED: b"too many unanswered requests; confirm answers first",
    Status.TOO_MANY_SESSIONS: b"too many sessions",
    Status.ANSWER_FORGOTTEN: b"the client said that it has this answer",
    Status.SKIPPED: b"an operator had this command skipped",
}


@define
class Outputs:
    """What applied entries put out: a run of padded REPLY and EVENT slots, in order."""

    egress: bytearray = Factory(bytearray)


class Machine:
    """The fold of one App; see the file's text."""

    def __init__(
        self,
        app: App,
        limits: Limits | None = None,
        seed: int = 0,
        *,
        strict: bool = False,
        position: memoryview | None = None,
        state: State | None = None,
        watch: Watch | None = None,
        figures: memoryview | None = None,
    ) -> None:
        """`position`: three words that name the unit that runs (index, ordinal, message id).

        `figures`: rows of four words, in which the calls of handlers are counted (handlers.c).

        `watch` is called with the ordinal of each unit that is about to run.
        """
        self.app = app
        self.limits = limits or Limits()
        self.seed = seed
        self.state = state or snapshots.empty(self.limits)
        self._skips: set[tuple[int, int]] = set()
        self._slots = _fold.Slots()
        words = memoryview(bytearray(24)).cast("Q") if position is None else position
        self._units = Units(
            app, self.state, self.limits, seed, strict, words, self._slots, watch, figures
        )
        self._units.begin_entry(self.state.index, self.state.time_ns)
        self._commands = _fold.Commands(
            self._units,
            self.state.sessions.table,
            self.state.events.kept,
            self._slots,
            self._units.lanes(),
            app.versions,
            words,
            REFUSALS,
            self._control,
            self.limits.session_window,
            self.limits.session_replies_bytes_max,
            self.limits.reply_bytes_max,
            strict or watch is not None,
        )

    def apply(
        self, index: int, time_ns: int, kind: int, body: bytes | memoryview, *, outputs: Outputs
    ) -> None:
        """Apply one committed entry. `body` is its run of slots, as in the ring."""
        outputs.egress += self.apply_entry(index, time_ns, kind, body)

    def apply_entry(self, index: int, time_ns: int, kind: int, body: Any) -> bytes:
        """As `apply`; what it put out is given back. `body` may be any buffer."""
        state = self.state
        assert index == state.index + 1, f"I5: entry {index} came after {state.index}"
        assert time_ns >= state.time_ns, f"log time goes back at entry {index}"
        if kind == EntryKind.TERM_START:
            state.jumps_ns += time_ns - state.time_ns
        state.index = index
        state.time_ns = time_ns
        self._slots.clear()
        self._units.begin_entry(index, time_ns)
        if kind == EntryKind.COMMANDS:
            clock_ns = time_ns - state.jumps_ns
            self._commands.apply(body, index, time_ns, clock_ns, self._skips or None)
        elif kind == EntryKind.TIME:
            state.sessions.expire(state.clock_ns)
            self._fire_timers()
        run = self._slots.run()
        if run:
            # The CRC-32 of a run is the chain over its slots: every unit's link in one call.
            state.digest = crc32(run, state.digest)
        return run

    def query(self, slot: bytes | memoryview, index: int) -> bytes:
        """The ANSWER to a QUERY slot, from the state as it is; `index` goes into the answer.

        With tag 0 it is an inspection: the body names an actor type, and the answer is JSON.
        """
        slot = bytes(slot)
        length, _, tag, session, request, _, key_length, version = COMMAND.unpack_from(slot)
        body_at = COMMAND.size + key_length
        if not body_at <= length <= len(slot):
            status, id, body = Status.BAD_REQUEST, 0, REFUSALS[Status.BAD_REQUEST]
        elif tag == 0:
            name = slot[body_at:length].decode("utf-8", "replace")
            bytes_max = self.limits.reply_bytes_max
            key = slot[COMMAND.size : body_at]
            status, id, body = inspection.inspect(self.app, self.state, name, key, bytes_max)
        else:
            key = slot[COMMAND.size : body_at]
            status, id, body = self._units.run_query(tag, version, key, slot[body_at:length])
        answer, version = SlotType.ANSWER, self.app.versions.get(id, 0)
        return reply_slot(answer, id, session, request, (index, 0), Status(status), body, version)

    def subscribe(self, slot: bytes | memoryview) -> bytes:
        """The run that answers SUBSCRIBE: EVENTS_LOST if some are gone, SUBSCRIBED, the events."""
        return self.state.events.answer(bytes(slot), self.state.index)

    def skip(self, index: int, ordinal: int) -> None:
        """Do not run this unit when it comes: an operator's decision, told before replay."""
        self._skips.add((index, ordinal))

    @property
    def digest(self) -> int:
        """CRC-32 chained over every output so far."""
        return self.state.digest

    @property
    def unfinished(self) -> list[bytes]:
        """What the entry that is being applied, or was last, has put out so far; to look at."""
        return self._slots.list()

    @property
    def next_deadline_ns(self) -> int | None:
        """The log time at which a TIME entry is wanted; None if never."""
        state = self.state
        timer = state.timers.next_deadline_ns
        check = state.sessions.next_check_ns
        if check is None:
            return timer
        # Old sessions can wait: at most eight TIME entries per timeout for all of them.
        step = max(1, state.sessions.timeout_ns // 8)
        session = -(-check // step) * step + state.jumps_ns
        return session if timer is None else min(timer, session)

    def state_digest(self) -> bytes:
        """BLAKE2b over the canonical snapshot."""
        return snapshots.digest(self.app, self.state, self.seed)

    def snapshot(self, *, verify: bool = True) -> Iterator[bytes]:
        """The whole state in chunks; with `verify`, each record is decoded and compared as well."""
        chunk_bytes = self.limits.snapshot_chunk_bytes
        return snapshots.write(
            self.app, self.state, self.seed, chunk_bytes=chunk_bytes, verify=verify
        )

    @classmethod
    def restore(
        cls,
        app: App,
        limits: Limits | None,
        seed: int,
        chunks: Iterable[bytes],
        *,
        strict: bool = False,
        position: memoryview | None = None,
        watch: Watch | None = None,
        figures: memoryview | None = None,
        warn: restoring.Warn | None = None,
    ) -> "Machine":
        """The machine that wrote these chunks."""
        limits = limits or Limits()
        state = restoring.read(app, limits, seed, chunks, warn)
        return cls(
            app,
            limits,
            seed,
            strict=strict,
            position=position,
            state=state,
            watch=watch,
            figures=figures,
        )

    def instance(self, cls: type, key: Key) -> Any:
        """The live actor, for tests and tools, which must not change it; KeyError if none."""
        actor = self.app.actor_type(cls)
        return self.state.actors[actor.id][encode_key(actor.key, key)]

    def describe(self, cls: type, key: Key) -> dict[str, Any]:
        """An actor as plain values, ready for JSON; KeyError if there is none."""
        actor = self.app.actor_type(cls)
        return inspection.describe(actor, encode_key(actor.key, key), self.state)

    def _control(self, type_: int, id: bytes, ordinal: int) -> None:
        """Open or close a session. Other types have no business in an entry and are passed over."""
        state = self.state
        body = b""
        status = Status.OK
        if type_ == SlotType.OPEN and id != NO_SESSION:
            last = state.sessions.open(id, state.clock_ns)
            if last is None:
                return self._refuse(id, 0, ordinal, Status.TOO_MANY_SESSIONS)
            body = LAST_REQUEST.pack(last)
        elif type_ == SlotType.CLOSE:
            state.sessions.close(id)
        elif type_ == SlotType.OPEN:
            return self._refuse(id, 0, ordinal, Status.BAD_REQUEST)
        else:
            return None
        position = (state.index, ordinal)
        self._slots.append(reply_slot(SlotType.REPLY, 0, id, 0, position, status, body))
        return None

    def _refuse(self, id: bytes, request: int, ordinal: int, status: Status) -> None:
        """Answer a request that changes nothing, and keep no reply."""
        position = (self.state.index, ordinal)
        text = REFUSALS[status]
        self._slots.append(reply_slot(SlotType.REPLY, 0, id, request, position, status, text))

    def _fire_timers(self) -> None:
        state = self.state
        due = state.timers.due(state.time_ns, self.limits.timers_per_entry)
        for ordinal, id in enumerate(due):
            timer = state.timers.take(id)
            if timer is not None and (state.index, ordinal) not in self._skips:
                self._units.run_timer(ordinal, timer)
