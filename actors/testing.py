"""For tests of an application: an App folded in memory, without processes, clock or network.

    fold = Folded(app)
    assert fold.ask("alice", Deposit("alice", 100)) == Balance(100)
    fold.advance(seconds=60)            # fires the timers that are due on the way
    assert fold.events == [...]
    fold.check_replay()                 # the log again, restored from a snapshot at each entry

Each call is one entry of a log that is kept. Strict mode is on: state that would not survive a
snapshot, or a query or a rejection that changed it, raises StrictViolation at once.
"""

from typing import Any, TypeVar

from attrs import define, frozen

from .app import App, Key, encode_key
from .errors import ActorsError, Rejected
from .layout import COMMAND, EVENT, HEADER, REPLY, EntryKind, SlotType, Status, padded
from .limits import SECOND_NS, Limits
from .machine import Machine, Outputs
from .message import Command, message_version

R = TypeVar("R")

SESSION = b"the tests' own \x01"
START_NS = 1_700_000_000 * SECOND_NS


class CommandFailed(ActorsError):
    """A command or query ended with a status other than OK and REJECTED."""

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(f"{status.name}: {text}")
        self.status = status
        self.text = text


@frozen
class Event:
    """An event as a subscriber sees it."""

    position: tuple[int, int, int]
    time_ns: int
    actor: type
    key: Key
    message: Any


@define
class LoggedEntry:
    """One entry of the kept log, with what it put out."""

    time_ns: int
    kind: EntryKind
    body: bytes
    egress: bytes


class Folded:
    """A machine that is driven by calls."""

    def __init__(
        self, app: App, *, limits: Limits | None = None, seed: int = 1, strict: bool = True
    ) -> None:
        self.app = app
        self.machine = Machine(app, limits, seed, strict=strict)
        self.log: list[LoggedEntry] = []
        self.events: list[Event] = []
        self.time_ns = START_NS
        self._request = 0
        self.apply(EntryKind.TERM_START, b"")
        self.apply(EntryKind.COMMANDS, COMMAND.pack(40, SlotType.OPEN, 0, SESSION, 0, 0, 0, 0))

    def ask(self, key: Key, command: Command[R]) -> R:
        """The reply to a command or a query.

        Rejected is raised as in the handler; any other bad end is CommandFailed.
        """
        slot = self.slot(key, command)
        if self.app.is_query(type(command)):
            return self._reply(self.machine.query(slot, self.machine.state.index))
        self._request += 1
        egress = self.apply(EntryKind.COMMANDS, slot)
        return self._reply(slots_of(egress)[-1])

    def slot(self, key: Key, command: object) -> bytes:
        """The padded slot in which a client would send this as its next request."""
        id, body = self.app.encode(command)
        encoded = encode_key(self.app.route_for(type(command)).actor.key, key)
        length = COMMAND.size + len(encoded) + len(body)
        type_, request, unanswered = SlotType.COMMAND, self._request + 1, 1
        if self.app.is_query(type(command)):
            type_, request, unanswered = SlotType.QUERY, 1, 0
        version = message_version(type(command))
        head = (length, type_, id, SESSION, request, unanswered, len(encoded), version)
        return padded(COMMAND.pack(*head) + encoded + body)

    def advance(self, *, seconds: float = 0, ns: int = 0) -> None:
        """Let log time pass, with a TIME entry at every deadline on the way and one at the end."""
        end_ns = self.time_ns + round(seconds * SECOND_NS) + ns
        while True:
            deadline = self.machine.next_deadline_ns
            if deadline is None or deadline > end_ns:
                break
            self.time_ns = max(self.time_ns, deadline)
            self.apply(EntryKind.TIME, b"")
        self.time_ns = end_ns
        self.apply(EntryKind.TIME, b"")

    def apply(self, kind: EntryKind, body: bytes) -> bytes:
        """Apply one entry at the present time; returns its outputs."""
        outputs = Outputs()
        index = self.machine.state.index + 1
        self.machine.apply(index, self.time_ns, kind, body, outputs=outputs)
        egress = bytes(outputs.egress)
        self.log.append(LoggedEntry(self.time_ns, kind, body, egress))
        for slot in slots_of(egress):
            if slot[4] == SlotType.EVENT:
                self.events.append(self._event(slot))
        return egress

    def actor(self, cls: type, key: Key) -> Any:
        """The live actor, to look at; KeyError if no command has reached it."""
        return self.machine.instance(cls, key)

    def quarantine(self, cls: type, key: Key) -> str | None:
        """Why this actor is quarantined; None if it is not."""
        actor = self.app.actor_type(cls)
        found = self.machine.state.quarantined.get((actor.id, encode_key(actor.key, key)))
        return None if found is None else str(found)

    def check_replay(self, every: int = 1) -> None:
        """Fold the log again, through a snapshot after every so many entries (I7).

        Outputs must be the same at each entry, and the state at the end.
        """
        machine = Machine(self.app, self.machine.limits, self.machine.seed)
        for index, entry in enumerate(self.log, 1):
            outputs = Outputs()
            machine.apply(index, entry.time_ns, entry.kind, entry.body, outputs=outputs)
            assert bytes(outputs.egress) == entry.egress, f"entry {index} has other outputs"
            if index % every == 0:
                chunks = list(machine.snapshot())
                machine = Machine.restore(self.app, machine.limits, machine.seed, chunks)
        assert machine.state_digest() == self.machine.state_digest(), "the state differs"

    def _reply(self, slot: bytes) -> Any:
        length, _, tag, _, _, _, _, status, version = REPLY.unpack_from(slot)
        body = slot[REPLY.size : length]
        if status == Status.OK:
            return self.app.decode(tag, body, version)
        if status == Status.REJECTED:
            raise Rejected(body.decode())
        raise CommandFailed(Status(status), body.decode())

    def _event(self, slot: bytes) -> Event:
        length, _, tag, index, ordinal, number, actor_type, key_length, version, time_ns = (
            EVENT.unpack_from(slot)
        )
        body_at = EVENT.size + key_length
        key = self.app.decode_key(actor_type, slot[EVENT.size : body_at])
        message = self.app.decode(tag, slot[body_at:length], version)
        cls = self.app.actor_types[actor_type].cls
        return Event((index, ordinal, number), time_ns, cls, key, message)


def slots_of(run: bytes) -> list[bytes]:
    """The slots of a run, each with its padding."""
    slots: list[bytes] = []
    offset = 0
    while offset < len(run):
        length, _, _ = HEADER.unpack_from(run, offset)
        end = offset + ((length + 7) & ~7)
        slots.append(run[offset:end])
        offset = end
    return slots
