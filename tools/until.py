"""The first command after which a condition holds.

The machine is watched from inside an entry: it tells the place of each command before it runs it,
so at that moment every command before is finished and the expression sees its state. Commands that reach no handler (openings, requests sent again, refused
ones) are looked at too; so is every timer, as the command of its ordinal, without message or reply.
"""

from collections.abc import Iterator
from typing import Any

from attrs import define, field

from ..actors import App
from ..actors.layout import COMMAND, REPLY, EntryKind, SlotType, Status
from ..actors.machine import Machine, Outputs
from ..runtime.errors import OperatorError
from ..runtime.slots import EntryHeader, slots_of
from .condition import MESSAGE_NAMES, REPLY_NAMES, Condition, namespace
from .fold import apply, begin, entries_between
from .history import History
from .outputs import ANSWERED
from .progress import progress

Place = tuple[int, int]
NOTHING: dict[str, Any] = dict.fromkeys(MESSAGE_NAMES | REPLY_NAMES)


class Found(Exception):
    """Ends the folding inside an entry."""


def first_place(
    history: History, app: App, condition: Condition, first: Place, index: int, ordinal: int | None
) -> Place:
    """The first command from `first` up to index.ordinal after which it holds.

    Raises OperatorError where there is none.
    """
    watch = Watch(condition, app, first)
    machine = begin(history, app, max(history.earliest or 0, first[0] - 1), watch=watch.before)
    watch.watch(machine)
    outputs = Outputs()
    began = machine.state.index
    with progress("searching", index - began, "entries") as advance:
        for entry, body in entries_between(history, began + 1, index, ordinal):
            outputs.egress.clear()
            watch.begin_entry(entry, body)
            try:
                apply(machine, entry, body, outputs)
                watch.end_entry()
            except Found:
                break
            advance(entry.index - began)
    if watch.found is None:
        raise OperatorError(_nowhere(condition, max(first, (began + 1, 0)), index, ordinal))
    return watch.found


def _nowhere(condition: Condition, first: Place, index: int, ordinal: int | None) -> str:
    last = f"{index}" if ordinal is None else f"{index}.{ordinal}"
    where = f"from {first[0]}.{first[1]} to {last}"
    if condition.failed and condition.failed == condition.evaluated:
        return (
            f"--until {condition.text!r} could not be evaluated at any of the {condition.failed} "
            f"commands {where}; first {condition.first_failure}."
        )
    failed = ""
    if condition.failed:
        failed = (
            f" It could not be evaluated at {condition.failed} of them; "
            f"first {condition.first_failure}."
        )
    return (
        f"--until {condition.text!r} holds at none of the {condition.evaluated} commands {where}."
        + failed
    )


@define
class Watch:
    """Evaluates the condition after each command of the entry that is applied."""

    condition: Condition
    app: App
    first: Place
    found: Place | None = field(default=None, init=False)
    machine: Machine = field(init=False)
    names: dict[str, Any] = field(factory=dict[str, Any], init=False)
    entry: EntryHeader = field(init=False)
    slots: list[tuple[int, int, memoryview]] = field(
        factory=list[tuple[int, int, memoryview]], init=False
    )
    _next: int = field(default=0, init=False)
    """The ordinal that is looked at next."""
    _timer: int | None = field(default=None, init=False)
    _of_command: bool = field(default=False, init=False)
    """Whether the expression asks for more of a command than its place."""
    _answers: Iterator[bytes] = field(factory=lambda: iter(()), init=False)

    def __attrs_post_init__(self) -> None:
        self._of_command = bool(self.condition.uses & (MESSAGE_NAMES | REPLY_NAMES))

    def watch(self, machine: Machine) -> None:
        """This is the machine that has the words."""
        self.machine = machine
        self.names = namespace(self.app, machine.state)

    def begin_entry(self, entry: EntryHeader, body: memoryview) -> None:
        """What is applied next."""
        self.entry, self._next, self._timer = entry, 0, None
        self.slots = list(slots_of(body)) if entry.kind == EntryKind.COMMANDS else []
        self._answers = self._new_answers()

    def before(self, ordinal: int) -> None:
        """The command or timer with this ordinal is about to run: those before it are finished."""
        if self.slots:
            self._look_until(ordinal)
        else:
            self._look_at_timer()
            self._timer = ordinal

    def end_entry(self) -> None:
        """The entry is applied: the rest of it is finished too."""
        self._look_until(len(self.slots))
        self._look_at_timer()

    def _look_until(self, ordinal: int) -> None:
        while self._next < ordinal:
            self._next += 1
            self._look(self._next - 1, self._command_names(self._next - 1))

    def _look_at_timer(self) -> None:
        if self._timer is not None:
            self._look(self._timer, {})

    def _look(self, ordinal: int, of_command: dict[str, Any]) -> None:
        index = self.entry.index
        if (index, ordinal) < self.first:
            return
        names = self.names
        names["index"], names["ordinal"], names["time_ns"] = index, ordinal, self.entry.time_ns
        if self._of_command:
            names.update(NOTHING)
            names.update(of_command)
        if self.condition.holds(names, (index, ordinal)):
            self.found = (index, ordinal)
            raise Found

    def _command_names(self, ordinal: int) -> dict[str, Any]:
        """What the condition wants to know of one command."""
        kind, tag, slot = self.slots[ordinal]
        names: dict[str, Any] = {}
        if not self._of_command:
            return names
        if self.condition.uses & MESSAGE_NAMES and kind == SlotType.COMMAND:
            names |= self._message_names(tag, slot)
        if self.condition.uses & REPLY_NAMES and kind in ANSWERED:
            names |= self._reply_names(next(self._answers))
        return names

    def _message_names(self, tag: int, slot: memoryview) -> dict[str, Any]:
        route = self.app.commands.get(tag)
        if route is None:
            return {}
        *_, key_bytes, version = COMMAND.unpack_from(slot)
        body_at = COMMAND.size + key_bytes
        try:
            key = self.app.decode_key(route.actor.id, bytes(slot[COMMAND.size : body_at]))
            message = self.app.decode(tag, bytes(slot[body_at:]), version)
        except Exception:  # noqa: BLE001 - the machine answers BAD_REQUEST; there is no message.
            return {"actor": route.actor.name}
        return {"actor": route.actor.name, "key": key, "message": message}

    def _reply_names(self, slot: bytes) -> dict[str, Any]:
        length, _, tag, _, _, _, _, status, version = REPLY.unpack_from(slot)
        content = slot[REPLY.size : length]
        if status == Status.OK:
            return {"status": "OK", "reply": self.app.decode(tag, content, version)}
        return {"status": Status(status).name, "reason": content.decode(errors="replace")}

    def _new_answers(self) -> Iterator[bytes]:
        """The replies of the entry in order, as they come to be there: one for each command."""
        at = 0
        while True:
            slot = self.machine.unfinished[at]
            at += 1
            if slot[4] == SlotType.REPLY:
                yield slot
