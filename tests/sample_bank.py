"""A small bank for the tests of the actors: it uses every part of the API, and fails on request.

`Scripted` writes slots as a client would, and `random_log` makes a log out of a seed. Run as a
program it folds such a log and prints its digests, for comparing processes.
"""

import random
import sys

import attrs

from leftfold.actors import (
    App,
    Command,
    Context,
    Rejected,
    actor,
    handler,
    message,
    on_timer,
    query,
    state,
)
from leftfold.actors.layout import COMMAND, EntryKind, SlotType, padded
from leftfold.actors.limits import SECOND_NS, Limits
from leftfold.actors.machine import Machine, Outputs


@message(id=1)
class Deposit(Command["Balance"]):
    cents: int


@message(id=2)
class Balance:
    cents: int


@message(id=3)
class BalanceOf(Command[Balance]):
    pass


@message(id=4)
class Transfer(Command[Balance]):
    to: str
    cents: int


@message(id=5)
class Credit(Command[None]):
    cents: int


@message(id=6)
class Moved:
    to: str
    cents: int


@message(id=7)
class Release:
    cents: int


@message(id=8)
class Hold(Command["Held"]):
    cents: int
    seconds: int


@message(id=9)
class Held:
    timer: int
    token: str


@message(id=10)
class Unhold(Command[Balance | None]):
    timer: int


@message(id=11)
class Misbehave(Command[Balance]):
    how: str
    to: str = ""


@message(id=12)
class MisbehaveQuery(Command[Balance]):
    how: str


@message(id=13)
class Alarm:
    how: str


@state
class Line:
    cents: int
    time_ns: int


@actor(id=1, key=str, emits=(Moved,))
class Account:
    cents: int = 0
    held: dict[int, int] = attrs.field(factory=dict[int, int])
    lines: list[Line] = attrs.field(factory=list[Line])

    @handler
    def deposit(self, command: Deposit, context: Context) -> Balance:
        if command.cents <= 0:
            raise Rejected("deposit something")
        self.cents += command.cents
        self.lines.append(Line(command.cents, context.time_ns))
        del self.lines[:-5]
        return Balance(self.cents)

    @handler
    def transfer(self, command: Transfer, context: Context) -> Balance:
        if command.cents > self.cents:
            raise Rejected(f"only {self.cents} there")
        context.send(command.to, Credit(command.cents))
        context.emit(Moved(command.to, command.cents))
        self.cents -= command.cents
        return Balance(self.cents)

    @handler(internal=True)
    def credit(self, command: Credit, context: Context) -> None:
        if command.cents == 13:
            raise Rejected("thirteen")
        if command.cents == 14:
            raise ZeroDivisionError("fourteen")
        if command.cents == 15:
            context.send(str(context.key), Credit(15))
        self.cents += command.cents

    @handler
    def hold(self, command: Hold, context: Context) -> Held:
        if command.cents > self.cents:
            raise Rejected("not enough")
        timer = context.set_timer(Release(command.cents), after_ns=command.seconds * SECOND_NS)
        self.held[timer] = command.cents
        self.cents -= command.cents
        return Held(timer, f"{context.uuid()} {context.rng.random()}")

    @handler
    def unhold(self, command: Unhold, context: Context) -> Balance | None:
        if command.timer not in self.held:
            return None
        context.cancel_timer(command.timer)
        self.cents += self.held.pop(command.timer)
        return Balance(self.cents)

    @on_timer
    def release(self, timer: Release, context: Context) -> None:
        self.cents += timer.cents
        self.held.pop(next(iter(self.held)))
        context.emit(Moved(str(context.key), timer.cents))

    @on_timer
    def alarm(self, timer: Alarm, context: Context) -> None:
        misbehave(self, timer.how, "", context)

    @handler
    def misbehave(self, command: Misbehave, context: Context) -> Balance:
        return misbehave(self, command.how, command.to, context)

    @query
    def balance(self, query: BalanceOf) -> Balance:
        return Balance(self.cents)

    @query
    def misbehave_query(self, query: MisbehaveQuery, context: Context) -> Balance:
        return misbehave(self, query.how, "", context)


def misbehave(account: Account, how: str, to: str, context: Context) -> Balance:
    """One bad habit per word."""
    if how in ("mutate and reject", "mutate"):
        account.cents += 1
        if how == "mutate and reject":
            raise Rejected("no")
    elif how == "reject":
        raise Rejected("no")
    elif how == "raise":
        context.emit(Moved("", 1))
        raise RuntimeError(f"at {object()}")
    elif how == "recurse":
        return misbehave(account, how, to, context)
    elif how == "exit":
        sys.exit(3)
    elif how == "reject late":
        context.emit(Moved("", 1))
        raise Rejected("too late")
    elif how == "wrong reply":
        return Held(1, "")  # type: ignore[return-value]
    elif how == "big reply":
        return Balance(1 << 70)
    elif how == "big state":
        account.cents = 1 << 70
    elif how == "true state":
        account.cents = True
    elif how == "big event":
        context.emit(Moved("", 1 << 70))
    elif how == "foreign event":
        context.emit(Balance(1))
    elif how == "true sent":
        context.send(to, Credit("x"))  # type: ignore[arg-type]
    elif how == "many sends":
        for _ in range(100_000):
            context.send(to, Credit(1))
    elif how == "two events":
        context.emit(Moved("", 1))
        context.emit(Moved("", 2))
    elif how == "memory":
        raise MemoryError
    elif how == "alarm":
        context.set_timer(Alarm("raise"), after_ns=SECOND_NS)
    elif how == "alarm to reject":
        context.set_timer(Alarm("reject"), after_ns=SECOND_NS)
    elif how == "shared":
        line = Line(1, 1)
        account.lines += [line, line]
    return Balance(1)


app = App(actors=[Account], name="bank")

LIMITS = Limits(
    session_window=8,
    session_replies_bytes_max=2_000,
    reply_bytes_max=1_000,
    sessions_max=5,
    session_timeout_ns=100 * SECOND_NS,
    events_kept_max=20,
    events_kept_bytes_max=70_000,
    timers_per_entry=3,
    outputs_per_command_max=50,
)


def command_slot(session: bytes, request: int, unanswered: int, key: str, command: object) -> bytes:
    """A padded COMMAND."""
    id, body = app.encode(command)
    encoded = key.encode()
    length = COMMAND.size + len(encoded) + len(body)
    head = COMMAND.pack(length, SlotType.COMMAND, id, session, request, unanswered, len(encoded), 0)
    return padded(head + encoded + body)


def control_slot(type_: SlotType, session: bytes) -> bytes:
    """An OPEN or CLOSE."""
    return COMMAND.pack(COMMAND.size, type_, 0, session, 0, 0, 0, 0)


def query_slot(key: str, message: object, request: int = 1) -> bytes:
    """A padded QUERY."""
    id, body = app.encode(message)
    encoded = key.encode()
    length = COMMAND.size + len(encoded) + len(body)
    session = b"q" * 16
    head = COMMAND.pack(length, SlotType.QUERY, id, session, request, 0, len(encoded), 0)
    return padded(head + encoded + body)


# (time_ns, kind, body)
Entry = tuple[int, EntryKind, bytes]

HABITS = (
    "mutate", "reject", "raise", "recurse", "exit", "reject late", "wrong reply", "big reply",
    "big event", "foreign event", "true sent", "many sends", "alarm", "alarm to reject",
)  # fmt: skip


def random_command(rng: random.Random) -> tuple[str, object]:
    """A key and a command; one in fifty misbehaves."""
    keys = [f"account {n}" for n in range(30)]
    key = rng.choice(keys)
    if rng.random() < 0.02:
        return key, Misbehave(rng.choice(HABITS), rng.choice(keys))
    commands = (
        Deposit(rng.randrange(-5, 100)),
        Transfer(rng.choice(keys), rng.randrange(1, 100)),
        Hold(rng.randrange(1, 50), rng.randrange(1, 30)),
        Unhold(rng.randrange(1, 60)),
    )
    return key, rng.choice(commands)


def random_log(seed: int, entries: int) -> list[Entry]:
    """A log of sessions that retry, skip numbers, fall silent and send rubbish.

    A machine follows the log while it is made, so that most requests are the next in line.
    """
    rng = random.Random(seed)
    sessions = [bytes([n]) * 16 for n in range(1, 8)]
    machine = Machine(app, LIMITS, 7)
    time_ns = 0
    log: list[Entry] = [(time_ns, EntryKind.TERM_START, b"")]
    for _ in range(entries):
        fold(machine, log)
        time_ns += rng.randrange(0, 4 * SECOND_NS)
        chance = rng.random()
        if chance < 0.02:
            time_ns += 500 * SECOND_NS
            log.append((time_ns, EntryKind.TERM_START, b""))
        elif chance < 0.2:
            log.append((time_ns, EntryKind.TIME, b""))
        else:
            slots = b"".join(random_slots(rng, sessions, machine))
            log.append((time_ns, EntryKind.COMMANDS, slots))
    return log


def random_slots(rng: random.Random, sessions: list[bytes], machine: Machine) -> list[bytes]:
    """The slots of one entry."""
    slots: list[bytes] = []
    asked: dict[bytes, int] = {}
    for _ in range(rng.randrange(1, 6)):
        id = rng.choice(sessions)
        session = machine.state.sessions.find(id)
        chance = rng.random()
        if chance < (0.05 if session else 0.7):
            slots.append(control_slot(SlotType.OPEN, id))
        elif chance < 0.07:
            slots.append(control_slot(SlotType.CLOSE, id))
        else:
            last = asked.get(id, session.last if session else 0)
            request = max(1, last + rng.choice((1, 1, 1, 1, 1, 1, 0, -1, 2)))
            asked[id] = last + 1 if request == last + 1 else last
            key, command = random_command(rng)
            slot = command_slot(id, request, rng.randrange(1, 5), key, command)
            slots.append(damaged(slot, rng) if rng.random() < 0.05 else slot)
    return slots


def damaged(slot: bytes, rng: random.Random) -> bytes:
    """The slot with some bytes behind its session number changed: id, version, key or body."""
    changed = bytearray(slot)
    for _ in range(rng.randrange(1, 4)):
        changed[rng.randrange(36, len(slot))] = rng.randrange(256)
    return bytes(changed)


def fold(machine: Machine, log: list[Entry]) -> list[bytes]:
    """Apply the entries that the machine has not seen; returns the outputs of each."""
    egress: list[bytes] = []
    first = machine.state.index + 1
    for index, (time_ns, kind, body) in enumerate(log[first - 1 :], first):
        outputs = Outputs()
        machine.apply(index, time_ns, kind, body, outputs=outputs)
        egress.append(bytes(outputs.egress))
    return egress


if __name__ == "__main__":
    folded = Machine(app, LIMITS, 7)
    fold(folded, random_log(int(sys.argv[1]), 400))
    content = b"".join(folded.snapshot())
    print(folded.digest, folded.state_digest().hex(), len(folded.state.quarantined), content.hex())
