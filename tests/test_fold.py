"""The fold in C against the road in Python: the same bytes out, the same state, whatever comes in.

A watched machine runs every command in Python (`Units.run_command`), so two machines that differ
in nothing else are folded over one log, entry by entry. The rest is about what only C can get
wrong: what it holds on to, what it gives back, and what it does when the ground moves under it.
"""

import gc
import random
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

import attrs
import domain_logs
import pytest
import sample_bank
from sample_bank import (
    Account,
    Balance,
    Deposit,
    Misbehave,
    Moved,
    Transfer,
    app,
    command_slot,
    control_slot,
    random_log,
)

from leftfold.actors import App, Command, Context, _fold, actor, handler, message, upcast
from leftfold.actors.app import encode_body
from leftfold.actors.layout import COMMAND, EVENT, REPLY, EntryKind, SlotType, Status, padded
from leftfold.actors.limits import Limits
from leftfold.actors.machine import Machine, Outputs
from leftfold.actors.testing import slots_of

A, B = b"a" * 16, b"b" * 16
# Time, kind and body of an entry.
Log = Iterable[tuple[int, int, bytes]]


def alive() -> int:
    """How many objects there are, and blocks of memory for objects, of which bytes and ints are."""
    gc.collect()
    return len(gc.get_objects()) + sys.getallocatedblocks()


def ignore(ordinal: int) -> None:
    """Watch, and do nothing."""


@message(id=300)
class Grown:
    size: int
    text: str = ""


@message(id=301, version=2)
class Grow(Command[Grown]):
    size: int

    @upcast(from_version=0)
    @staticmethod
    def from_nothing(fields: dict[str, Any]) -> dict[str, Any]:
        return {"size": fields["length"]}

    @upcast(from_version=1)
    @staticmethod
    def from_text(fields: dict[str, Any]) -> dict[str, Any]:
        return {"size": int(fields["size"])}


@message(id=302, version=3, oldest=3)
class Grew:
    size: int


def small(instance: object, attribute: Any, value: int) -> None:
    if value == 99:
        raise OSError("ninety-nine")


@message(id=303)
class Checked(Command[Grown | None]):
    size: int = attrs.field(default=0, validator=small)


@actor(id=30, key=int, emits=(Grew,))
class Plant:
    size: int = 0

    @handler
    def grow(self, command: Grow, context: Context) -> Grown:
        self.size += command.size
        for _ in range(command.size % 4):
            context.emit(Grew(self.size))
        return Grown(self.size, "x" * min(command.size, 100))

    @handler
    def check(self, command: Checked, context: Context) -> Grown | None:
        gc.collect(0)
        return None if command.size % 2 else Grown(self.size, str(context.key))


garden = App(actors=[Plant], name="garden")
GARDEN_LIMITS = Limits(
    reply_bytes_max=60, reason_bytes_max=60, session_replies_bytes_max=500, session_window=6
)


def garden_log(rng: random.Random, entries: int) -> Iterator[tuple[int, int, bytes]]:
    """Messages of several versions, replies that are too large, keys and bodies that are none."""
    ids = [bytes([number]) * 16 for number in range(1, 4)]
    last = dict.fromkeys(ids, 0)
    yield 0, EntryKind.COMMANDS, b"".join(control_slot(SlotType.OPEN, id) for id in ids)
    for number in range(entries):
        slots: list[bytes] = []
        for _ in range(rng.randrange(1, 20)):
            session = rng.choice(ids)
            request = last[session] + rng.choice([1] * 12 + [0, 0, -1, 2])
            if request < 0:
                continue
            version = rng.choice([2, 2, 2, 0, 1, 3, 9])
            size = rng.choice([rng.randrange(30), rng.randrange(30), 99, -1, 1 << 62])
            id, body = rng.choice(
                [
                    (
                        301,
                        {0: {"length": size}, 1: {"size": str(size)}}.get(version, {"size": size}),
                    ),
                    (303, {"size": size % 100, "more": None}),
                    (303, {}),
                    (304, {}),
                ]
            )
            version = version if id == 301 else rng.choice([0, 0, 0, 1])
            key = rng.randrange(4).to_bytes(rng.choice([8, 8, 8, 8, 8, 7]), "little")
            data = encode_body(body)
            if rng.random() < 0.05:
                data = data[: rng.randrange(len(data))] + rng.randbytes(rng.randrange(3))
            length = COMMAND.size + len(key) + len(data)
            key_length = len(key) if rng.random() < 0.98 else rng.randrange(1 << 16)
            head = (length, 3, id, session, request, rng.randrange(1, 8), key_length, version)
            slots.append(padded(COMMAND.pack(*head) + key + data))
            if request == last[session] + 1:
                last[session] = request
        yield number, EntryKind.COMMANDS, b"".join(slots)


def compare(app: App, limits: Limits | None, log: Log, skips: float, rng: random.Random) -> int:
    """Fold a log on both roads; the bytes that came out."""
    machines = [Machine(app, limits, 7), Machine(app, limits, 7, watch=ignore)]
    total = 0
    for index, (time_ns, kind, body) in enumerate(log, 1):
        if rng.random() < skips:
            ordinal = rng.randrange(3)
            for machine in machines:
                machine.skip(index, ordinal)
        egress: list[bytes] = []
        for machine in machines:
            outputs = Outputs()
            machine.apply(index, time_ns, kind, memoryview(body), outputs=outputs)
            egress.append(bytes(outputs.egress))
        assert slots_of(egress[0]) == slots_of(egress[1]), f"entry {index}"
        total += len(egress[0])
        if rng.random() < 0.02:
            machines[0] = Machine.restore(app, limits, 7, list(machines[0].snapshot()))
    assert machines[0].digest == machines[1].digest
    assert b"".join(machines[0].snapshot()) == b"".join(machines[1].snapshot())
    return total


def bank_log(rng: random.Random) -> Log:
    return random_log(rng.randrange(1 << 32), 120)


def both_roads_agree(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    assert compare(app, sample_bank.LIMITS, bank_log(rng), 0.1, rng)
    assert compare(garden, GARDEN_LIMITS, garden_log(rng, 60), 0.1, rng)


@pytest.mark.parametrize("_", range(4))
def test_both_roads_put_out_the_same_bytes(_: int) -> None:
    both_roads_agree(random.randrange(1 << 32))


@pytest.mark.campaign
def test_both_roads_put_out_the_same_bytes_for_long() -> None:
    first = random.randrange(1 << 32)
    for seed in range(first, first + 300):
        both_roads_agree(seed)


@pytest.mark.parametrize("name", ["ledger", "tickets", "exchange"])
def test_both_roads_agree_on_the_shipped_applications(name: str) -> None:
    app, entries = domain_logs.log_named(name)
    log = ((entry.time_ns, entry.kind, entry.body) for entry in entries)
    assert compare(app, None, log, 0.01, random.Random(1))


def test_the_logs_of_the_comparison_reach_every_status() -> None:
    rng = random.Random(5)
    seen: set[int] = set()
    logs: list[tuple[App, Limits, Log]] = [
        (app, sample_bank.LIMITS, bank_log(rng)),
        (garden, GARDEN_LIMITS, garden_log(rng, 60)),
    ]
    for application, limits, log in logs:
        machine = Machine(application, limits, 7)
        machine.skip(4, 0)
        for index, (time_ns, kind, body) in enumerate(log, 1):
            outputs = Outputs()
            machine.apply(index, time_ns, kind, body, outputs=outputs)
            seen |= {
                REPLY.unpack_from(slot)[7]
                for slot in slots_of(bytes(outputs.egress))
                if slot[4] == SlotType.REPLY
            }
    never = {Status.NO_SUCH_ACTOR, Status.TOO_MANY_ACTORS}
    assert seen >= set(Status) - never, {Status(n).name for n in set(Status) - never - seen}


# What raises


class Bank:
    """A machine with one session, asked one command at a time."""

    def __init__(self, app: App = app, limits: Limits = sample_bank.LIMITS) -> None:
        self.machine = Machine(app, limits, 7)
        self.apply(control_slot(SlotType.OPEN, A))
        self.request = 0

    def apply(self, body: bytes) -> list[bytes]:
        outputs = Outputs()
        index = self.machine.state.index + 1
        self.machine.apply(index, 0, EntryKind.COMMANDS, body, outputs=outputs)
        return slots_of(bytes(outputs.egress))

    def ask(self, command: object, key: str = "k") -> Status:
        self.request += 1
        slots = self.apply(command_slot(A, self.request, 1, key, command))
        return Status(REPLY.unpack_from(slots[-1])[7])


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, SystemExit])
def test_what_is_no_fault_of_the_body_is_not_answered(error: type[BaseException]) -> None:
    """An interrupt while a body is decoded must not become somebody's BAD_REQUEST."""

    def interrupted(instance: object, attribute: Any, value: int) -> None:
        if value:
            raise error

    @message(id=310)
    class Interrupted(Command[None]):
        size: int = attrs.field(validator=interrupted)

    @actor(id=31, key=str)
    class Station:
        size: int = 0

        @handler
        def take(self, command: Interrupted, context: Context) -> None:
            pass

    station = App(actors=[Station])
    for watch in (None, ignore):
        machine = Machine(station, None, 7, watch=watch)
        machine.apply(1, 0, 0, control_slot(SlotType.OPEN, A), outputs=Outputs())
        for request in (0, 1):
            body = encode_body({"size": request})
            head = COMMAND.pack(COMMAND.size + 1 + len(body), 3, 310, A, request + 1, 1, 1, 0)
            slot = padded(head + b"k" + body)
            if request:
                with pytest.raises(error):
                    machine.apply(3, 0, 0, slot, outputs=Outputs())
            else:
                machine.apply(2, 0, 0, slot, outputs=Outputs())


def test_an_interrupt_in_a_handler_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = Bank()
    bank.ask(Deposit(1))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sample_bank, "misbehave", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bank.ask(Misbehave("mutate"))


def test_only_the_quarantined_actor_leaves_the_road_in_c() -> None:
    """One that failed must not slow down, or change, what the others do."""
    bank = Bank()
    for key in ("broken", "sound"):
        bank.ask(Deposit(1), key)
    assert bank.ask(Misbehave("raise"), "broken") == Status.FAILED
    called: list[Any] = []
    machine = bank.machine
    units: Any = vars(machine)["_units"]
    original = units.run_command
    sys.setprofile(
        lambda frame, event, _: (
            called.append(frame)
            if event == "call" and frame.f_code is original.__func__.__code__
            else None
        )
    )
    try:
        assert bank.ask(Deposit(1), "sound") == Status.OK
        assert not called
        assert bank.ask(Deposit(1), "broken") == Status.QUARANTINED
        assert len(called) == 1
    finally:
        sys.setprofile(None)


def test_a_broken_slot_is_our_own_bug_and_is_said() -> None:
    whole = command_slot(A, 1, 1, "k", Deposit(1))
    for broken in (whole[:39], whole[:40], whole + b"\0", b"\xff" * 48, bytes(8), bytes(48)):
        with pytest.raises(AssertionError, match="a broken slot in entry 2"):
            Bank().apply(broken)


def test_an_entry_is_not_applied_within_another(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = Bank()
    bank.ask(Deposit(1))
    refused: list[AssertionError] = []

    def reenter(*_: object) -> Balance:
        with pytest.raises(AssertionError, match="while another") as caught:
            vars(bank.machine)["_commands"].apply(b"", 1, 0, 0, None)
        refused.append(caught.value)
        return Balance(0)

    monkeypatch.setattr(sample_bank, "misbehave", reenter)
    assert bank.ask(Misbehave("")) == Status.OK and refused


@pytest.mark.parametrize(
    "hostile",
    [
        lambda machine: machine.state.actors[1].clear(),
        lambda machine: machine.state.actors[1].update(
            {b"%d" % number: Account() for number in range(5_000)}
        ),
        lambda _: gc.collect(),
        lambda machine: machine.state_digest(),
    ],
    ids=["forgets its actor", "makes many actors", "collects", "looks at everything"],
)
def test_a_handler_may_do_what_it_likes_to_what_it_reaches(
    hostile: Callable[[Machine], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = Bank()
    bank.ask(Deposit(1))

    def handle(*_: object) -> Balance:
        hostile(bank.machine)
        return Balance(1)

    monkeypatch.setattr(sample_bank, "misbehave", handle)
    assert bank.ask(Misbehave("")) == Status.OK
    assert bank.ask(Deposit(2)) == Status.OK


# What is held


@pytest.mark.parametrize(
    "command",
    [
        Deposit(5),
        Deposit(-5),
        Transfer("other", 1),
        Misbehave("two events"),
        Misbehave("wrong reply"),
        Misbehave("big reply"),
        Misbehave("reject"),
        Misbehave("raise"),
    ],
    ids=str,
)
def test_nothing_of_a_command_is_held_once_it_is_answered(command: object) -> None:
    """Objects of each class, and references to what lives on, are counted before and after."""
    bank = Bank()
    bank.ask(Deposit(1_000))
    bank.ask(Deposit(1_000), "other")
    shared: list[object] = [None, (), b"", Account, Deposit, Balance, encode_body, Context]
    context = vars(bank.machine)["_units"].context
    shared += [context, bank.machine.instance(Account, "k")]

    def held() -> tuple[int, list[int]]:
        bank.machine.state.quarantined.clear()
        return alive(), [sys.getrefcount(item) for item in shared]

    for _ in range(40):  # caches, free lists and kept events fill
        bank.ask(command)
    rounds = [held()]
    for _ in range(4):
        for _ in range(200):
            bank.ask(command)
        rounds.append(held())

    # What is held grows by 200 in every round; other threads and garbage of other tests do not.
    assert min(now[0] - then[0] for then, now in pairwise(rounds)) < 150
    for counts in zip(*(counted for _, counted in rounds), strict=True):
        assert min(now - then for then, now in pairwise(counts)) < 50


def test_bodies_that_do_not_decode_leave_nothing_behind() -> None:
    bank = Bank()
    bank.ask(Deposit(1))

    def refuse(times: int) -> int:
        for _ in range(times):
            bank.request += 1
            head = COMMAND.pack(COMMAND.size + 2, 3, 1, A, bank.request, 1, 1, 0)
            (slot,) = bank.apply(padded(head + b"k\xc1"))
            assert REPLY.unpack_from(slot)[7] == Status.BAD_REQUEST
        return alive()

    refuse(20)
    rounds = [refuse(200) for _ in range(4)]
    assert min(now - then for then, now in pairwise(rounds)) < 150


def test_a_machine_that_nobody_holds_is_collected() -> None:
    """It is a ring: the machine holds the commands, which hold the machine's method."""
    machine = Machine(app, sample_bank.LIMITS, 7)
    watched = weakref.ref(vars(machine)["_units"])
    del machine
    gc.collect()

    assert watched() is None


def test_a_failed_beginning_leaves_nothing_behind() -> None:
    machine = Machine(app, sample_bank.LIMITS, 7)
    units = vars(machine)["_units"]
    table, kept, slots = machine.state.sessions.table, machine.state.events.kept, _fold.Slots()
    good: list[Any] = [
        units, table, kept, slots, units.lanes(), {}, memoryview(bytearray(24)), {}, print, 1, 1, 1,
        False,
    ]  # fmt: skip
    bad: list[tuple[int, Any]] = [
        (0, object()), (4, {1: (1, 2)}), (4, {1: None}), (4, {-1: ()}), (5, {1: 256}),
        (5, {1 << 16: 1}), (5, {None: 1}), (6, memoryview(bytearray(16))), (6, b"x" * 24),
        (6, None), (7, {99: b""}), (7, {1: ""}), (11, 1 << 40),
    ]  # fmt: skip
    counts = [sys.getrefcount(item) for item in (units, table, kept, slots, print)]
    for place, value in bad:
        for _ in range(10):
            with pytest.raises((TypeError, ValueError, AttributeError, OverflowError, BufferError)):
                _fold.Commands(*good[:place], value, *good[place + 1 :])
    gc.collect()
    after = [sys.getrefcount(item) for item in (units, table, kept, slots, print)]

    assert all(now <= then for then, now in zip(counts, after, strict=True)), (
        "a Commands that was not made holds on to what it was given"
    )


# What is taken in from outside


def test_bytes_that_are_not_slots_are_refused() -> None:
    slots, events = _fold.Slots(), _fold.Events(10, 1 << 20)
    event = EVENT.pack(EVENT.size + 8, 19, 6, 1, 0, 1, 1, 3, 0, 99) + b"key\0\0\0\0\0"
    for broken in (b"", b"1234567", bytes(8), event[:-1], event + bytes(8)):
        with pytest.raises(ValueError, match="not one padded slot"):
            slots.append(broken)
        with pytest.raises(ValueError, match="not one padded slot"):
            events.keep(broken)
    too_long_a_key = EVENT.pack(EVENT.size + 8, 19, 6, 1, 0, 1, 1, 9, 0, 99) + bytes(8)
    for broken in (too_long_a_key, event[:4] + b"\x11" + event[5:]):
        with pytest.raises(ValueError, match="not an event"):
            events.keep(broken)
    assert slots.run() == b"" and events.all() == []


def test_a_session_is_restored_whole_or_not_at_all() -> None:
    table = _fold.Sessions(10, 100)
    reply = REPLY.pack(REPLY.size, 17, 0, A, 1, 1, 0, 0, 0)
    for last, floor, replies in (
        (2, 0, [reply]),
        (0, 1, []),
        (2, 0, [reply, reply[:-8]]),
        (2, 0, [reply, "x"]),
    ):
        with pytest.raises((ValueError, TypeError)):
            table.restore(A, last, floor, 0, replies)  # type: ignore[arg-type]
        assert table.find(A) is None and len(table) == 0
    table.restore(A, 2, 0, (1 << 63) - 50, [reply, reply])
    assert table.next_check_ns == (1 << 63) - 1
    with pytest.raises(ValueError, match="there twice"):
        table.restore(A, 0, 0, 0, [])


# Memory


def test_what_a_burst_took_is_given_back() -> None:
    """I10: a session's memory follows what it keeps, not the most it ever kept."""
    limits = Limits(session_window=4_096)
    bank = Bank(limits=limits)
    table = bank.machine.state.sessions.table
    idle = table.memory_bytes
    slots = [command_slot(A, number, number, "k", Deposit(1)) for number in range(1, 4_097)]
    bank.apply(b"".join(slots))
    found = table.find(A)
    assert found is not None
    kept = sum(map(len, found[4]))
    assert kept <= table.memory_bytes <= idle + 2 * kept
    bank.request = 4_096
    bank.ask(Deposit(1))

    assert table.memory_bytes <= idle + 4_096


def test_kept_events_take_at_most_twice_their_limit() -> None:
    limit = 64 << 10
    events = _fold.Events(1_000_000, limit)
    most = 0
    for index in range(1, 5_000):
        events.keep(EVENT.pack(EVENT.size + 24, 19, 6, index, 0, 1, 1, 0, 0, 0) + bytes(24))
        most = max(most, events.memory_bytes)

    assert limit <= most <= 2 * (limit + 64)


@pytest.mark.parametrize("seed", range(3))
def test_sessions_are_a_table_in_two_orders(seed: int) -> None:
    """Against a dict; ids that differ in one bit, and sessions that come and go."""
    rng = random.Random(seed)
    table = _fold.Sessions(64, 1_000)
    model: dict[bytes, int] = {}
    clock = 0
    ids = [(1 << bit).to_bytes(16, "little") for bit in range(128)]
    for _ in range(5_000):
        clock += rng.randrange(20)
        id = rng.choice(ids)
        if rng.random() < 0.6:
            model = {key: at for key, at in model.items() if at + 1_000 > clock}
            opened = table.open(id, clock)
            if id in model or len(model) < 64:
                assert opened == 0
                model[id] = clock
            else:
                assert opened is None
        else:
            table.close(id)
            model.pop(id, None)
        assert table.ids() == list(model)
        oldest = min(model.values(), default=None)
        assert table.next_check_ns == (None if oldest is None else oldest + 1_000)


def test_emitted_events_carry_what_the_context_said() -> None:
    bank = Bank()
    bank.ask(Deposit(1))
    bank.request += 1
    slots = bank.apply(command_slot(A, bank.request, 1, "k", Misbehave("two events")))
    events = [EVENT.unpack_from(slot) for slot in slots if slot[4] == SlotType.EVENT]

    assert [event[5] for event in events] == [1, 2]
    assert [slot[4] for slot in slots] == [SlotType.EVENT, SlotType.EVENT, SlotType.REPLY]
    assert events[0][2] == 6 and app.message_for(6) is Moved
