"""What an older version wrote is lifted, wherever it comes from; what cannot be is refused by name."""

import os
import subprocess
import sys
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import msgspec
import pytest
from apps import savings, savings_old

from leftfold.actors import (
    App,
    Command,
    Context,
    DefinitionError,
    Fields,
    actor,
    handler,
    message,
    on_timer,
    upcast,
)
from leftfold.actors.app import encode_body
from leftfold.actors.compatibility import compare
from leftfold.actors.errors import SnapshotRefused, UnreadableVersion, UpcastFailed
from leftfold.actors.layout import COMMAND, EVENT, REPLY, EntryKind, SlotType, Status, padded
from leftfold.actors.limits import SECOND_NS
from leftfold.actors.machine import Machine, Outputs
from leftfold.actors.message import message_version, message_versions
from leftfold.actors.testing import SESSION, START_NS, Folded, slots_of
from leftfold.runtime import calls, frames
from leftfold.runtime.failures import Unreadable

# Refusals when the class is made

GOOD = (
    "    @upcast(from_version=0)\n    @staticmethod\n    def lift(fields: Fields) -> Fields: ...\n"
)
REFUSED = {
    "missing link": (
        "@message(id=1, version=2)\nclass M:\n    a: int\n" + GOOD,
        (
            r"M has version 2 and nothing lifts version 1: add a static method with "
            r"@upcast\(from_version=1\), or `oldest=2` if no log, snapshot or client holds older ones"
        ),
    ),
    "none at all": ("@message(id=1, version=1)\nclass M:\n    a: int", "nothing lifts version 0"),
    "not below": (
        "@message(id=1)\nclass M:\n    a: int\n" + GOOD,
        r"M.lift lifts from version 0, and M has version 0: raise it to 1, or remove the upcaster",
    ),
    "below the oldest": (
        "@message(id=1, version=1, oldest=1)\nclass M:\n    a: int\n" + GOOD,
        "M is read from version 1 on: remove the upcaster, or lower `oldest`",
    ),
    "two": (
        "@message(id=1, version=1)\nclass M:\n    a: int\n" + GOOD + GOOD.replace("lift", "other"),
        "M.other and M.lift both lift from version 0; keep one",
    ),
    "not static": (
        "@message(id=1, version=1)\nclass M:\n    a: int\n"
        + GOOD.replace("    @staticmethod\n", ""),
        "put @staticmethod below @upcast",
    ),
    "two arguments": (
        "@message(id=1, version=1)\nclass M:\n    a: int\n" + GOOD.replace("(fields", "(x, fields"),
        "M.lift must take one argument, the fields as a dict",
    ),
    "keyword": (
        "@message(id=1, version=1)\nclass M:\n    a: int\n" + GOOD.replace("(fields", "(*, fields"),
        "must take one argument",
    ),
    "async": (
        "@message(id=1, version=1)\nclass M:\n    a: int\n" + GOOD.replace("def", "async def"),
        "must be a plain function",
    ),
    "version": ("@message(id=1, version=-1)\nclass M: ...", "integer from 0 to 255"),
    "version text": ("@message(id=1, version='1')\nclass M: ...", "integer from 0 to 255"),
    "version bool": ("@message(id=1, version=True)\nclass M: ...", "integer from 0 to 255"),
    "version large": ("@actor(id=1, key=str, version=256)\nclass A: ...", "integer from 0 to 255"),
    "oldest": ("@message(id=1, version=1, oldest=2)\nclass M: ...", "is from 0 to 1"),
    "upcast number": ("upcast(from_version=-1)", "integer from 0 to 254"),
    "state": (
        "@state\nclass S:\n    a: int = 0\n" + GOOD,
        "S.lift: a part has no version of its own; raise the version of the actor or the message",
    ),
    "actor": (
        (
            "@actor(id=1, key=str, version=1)\nclass A:\n    a: int = 0\n"
            "    @handler\n    def go(self, c: Go, context: Context) -> None: ..."
        ),
        "A has version 1 and nothing lifts version 0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_lift_is_refused_when_the_class_is_made(case: str) -> None:
    source, said = REFUSED[case]
    module = ModuleType("refused")
    sys.modules["refused"] = module
    prelude = "from leftfold.actors import *\n@message(id=9)\nclass Go(Command[None]): ...\n"
    try:
        with pytest.raises(DefinitionError, match=said):
            exec(prelude + source, vars(module))  # noqa: S102
    finally:
        del sys.modules["refused"]


def test_both_orders_of_the_decorators_do() -> None:
    @message(id=1, version=2)
    class Either:
        a: int

        @staticmethod
        @upcast(from_version=0)
        def first(fields: Fields) -> Fields:
            return {"a": fields["a"] + 1}

        @upcast(from_version=1)
        @staticmethod
        def second(fields: Fields) -> Fields:
            return {"a": fields["a"] * 10}

    assert message_version(Either) == 2
    assert message_versions(Either).lift(0, {"a": 1}) == {"a": 20}
    assert message_versions(Either).lift(1, {"a": 1}) == {"a": 10}


def test_old_versions_need_not_be_read_for_ever() -> None:
    @message(id=1, version=3, oldest=2)
    class Recent:
        a: int

        @upcast(from_version=2)
        @staticmethod
        def lift(fields: Fields) -> Fields:
            return fields

    with pytest.raises(UnreadableVersion, match="Recent is read from version 2 on and this is of "):
        message_versions(Recent).lift(1, {"a": 1})
    with pytest.raises(UnreadableVersion, match="has version 3 here and this is of version 4: run"):
        message_versions(Recent).lift(4, {"a": 1})


# Slots


def command(number: int, cls: Any, fields: Any, version: int, *, query: bool = False) -> bytes:
    """A slot for account "a", as a client writes it that has this version."""
    id, body = cls.__message_id__, encode_body(fields)
    type_ = SlotType.QUERY if query else SlotType.COMMAND
    head = COMMAND.pack(40 + 1 + len(body), type_, id, SESSION, number, 1, 1, version)
    return padded(head + b"a" + body)


def opened(app: App) -> Machine:
    """A machine with one session."""
    machine = Machine(app, None, 7, strict=True)
    opening = COMMAND.pack(40, SlotType.OPEN, 0, SESSION, 0, 0, 0, 0)
    machine.apply(1, START_NS, EntryKind.COMMANDS, opening, outputs=Outputs())
    return machine


def applied(
    machine: Machine, slot: bytes, kind: int = EntryKind.COMMANDS, s: int = 1
) -> list[bytes]:
    """What an entry puts out."""
    outputs, state = Outputs(), machine.state
    machine.apply(state.index + 1, state.time_ns + s * SECOND_NS, kind, slot, outputs=outputs)
    return slots_of(bytes(outputs.egress))


def answered(slot: bytes) -> tuple[Status, int, Any]:
    """How a command ended: status, version of the reply, its fields or the reason."""
    length, *_, status, version = REPLY.unpack_from(slot)
    body = slot[REPLY.size : length]
    return Status(status), version, msgspec.msgpack.decode(body) if not status else body.decode()


def test_each_version_of_a_command_reaches_the_handler_as_the_present_one() -> None:
    machine = opened(savings.app)
    given = [
        ({"owner": "x", "euros": 3}, 0),
        ({"owner": "y", "cents": 4}, 1),
        ({"payer": "z", "cents": 5, "note": "!"}, 2),
    ]
    for number, (fields, version) in enumerate(given, 1):
        event, reply = applied(machine, command(number, savings.Deposit, fields, version))
        assert answered(reply)[:2] == (Status.OK, 1)
        assert EVENT.unpack_from(event)[8] == 1

    account = machine.instance(savings.Account, "a")
    assert account.lines == [savings.Line("x", 300), savings.Line("y", 4), savings.Line("z", 5)]


def test_a_version_that_is_not_known_yet_is_a_bad_request_that_says_so() -> None:
    machine = opened(savings.app)
    for number, version in enumerate((3, 4, 255, 65_535), 1):
        (reply,) = applied(machine, command(number, savings.Deposit, {}, version))
        assert answered(reply) == (
            Status.BAD_REQUEST,
            0,
            f"Deposit has version 2 here and this is of version {version}: run the newer code",
        )
    (reply,) = applied(machine, command(5, savings_old.Moved, {}, 9))
    assert answered(reply)[0] == Status.UNKNOWN_MESSAGE
    assert machine.state.actors_count == 0


def test_what_an_upcaster_cannot_lift_is_a_bad_request_that_names_it() -> None:
    machine = opened(savings.app)
    for number, (fields, version, said) in enumerate(
        [
            ({"owner": "x"}, 0, "Deposit.from_euros, from version 0: KeyError: 'euros'"),
            ({"cents": 1}, 1, "Deposit.from_owner, from version 1: KeyError: 'owner'"),
            ({"owner": "x", "euros": "3"}, 0, "Expected `int`, got `str` - at `$.cents`"),
            ([1], 0, "Expected `object`, got `array`"),
        ],
        1,
    ):
        (reply,) = applied(machine, command(number, savings.Deposit, fields, version))
        status, _, text = answered(reply)
        assert status == Status.BAD_REQUEST and said in text


def test_an_upcaster_that_returns_no_fields_is_named() -> None:
    @message(id=1, version=1)
    class Broken(Command[None]):
        @upcast(from_version=0)
        @staticmethod
        def lift(fields: Fields) -> Fields:
            return None  # type: ignore[return-value]

    with pytest.raises(UpcastFailed, match=r"Broken\.lift, from version 0: returned NoneType, not"):
        message_versions(Broken).lift(0, {})


def test_memory_errors_in_an_upcaster_are_not_an_answer() -> None:
    @message(id=1, version=1)
    class Greedy(Command[None]):
        @upcast(from_version=0)
        @staticmethod
        def lift(fields: Fields) -> Fields:
            raise MemoryError

    @actor(id=1, key=str)
    class Eater:
        @handler
        def eat(self, command: Greedy, context: Context) -> None: ...

    machine = opened(App(actors=[Eater]))
    with pytest.raises(MemoryError):
        applied(machine, command(1, Greedy, {}, 0))


def test_queries_and_their_answers_have_versions() -> None:
    machine = opened(savings.app)
    applied(machine, command(1, savings.Deposit, {"owner": "x", "euros": 3}, 0))

    for fields, version in (({"in_euros": True}, 0), ({}, 1)):
        answer = machine.query(command(1, savings.BalanceOf, fields, version, query=True), 2)
        assert answered(answer) == (Status.OK, 1, {"cents": 300})
    answer = machine.query(command(1, savings.BalanceOf, {}, 2, query=True), 2)
    assert answered(answer) == (
        Status.BAD_REQUEST,
        0,
        "BalanceOf has version 1 here and this is of version 2: run the newer code",
    )


def test_the_tests_own_fold_and_the_clients_write_the_present_version() -> None:
    bank = Folded(savings.app)
    assert bank.ask("a", savings.Deposit("x", 5)) == savings.Balance(5)
    assert bank.events[0].message == savings.Moved(5)
    bank.check_replay()
    encoded = calls.call("a", savings.Deposit("x", 5))

    assert encoded.version == 2
    sent = frames.command(1, SESSION, 1, 1, encoded.key, encoded.body, encoded.version)
    assert (
        COMMAND.unpack_from(sent)[7]
        == 2
        == COMMAND.unpack_from(bank.slot("a", savings.Deposit("x", 5)))[7]
    )


def test_clients_lift_older_replies_and_events_and_refuse_newer_ones() -> None:
    asked = calls.call("a", savings.Deposit("x", 5))

    def reply(version: int, fields: Fields) -> frames.Reply:
        return frames.Reply(2, SESSION, 1, 1, 0, 0, encode_body(fields), version)

    assert asked.decode(reply(0, {"euros": 3})) == savings.Balance(300)
    assert asked.decode(reply(1, {"cents": 3})) == savings.Balance(3)
    with pytest.raises(Unreadable, match="Balance has version 1 here and this is of version 2"):
        asked.decode(reply(2, {}))
    wanted = calls.EventFilter.of(savings.Account, None)
    event = frames.EventFrame(6, (1, 0, 1), 1, 0, b"a", encode_body({"euros": 3}), 0)
    assert wanted.event(event).message == savings.Moved(300)
    event.version = 2
    with pytest.raises(Unreadable, match="Moved has version 1 here"):
        wanted.event(event)


# Snapshots


def old_log(seed: int, count: int) -> list[tuple[int, bytes]]:
    """Slots of clients of the old app, with the seconds before each."""
    rng = Random(seed)
    log: list[tuple[int, bytes]] = []
    for number in range(1, count + 1):
        seconds = rng.randrange(0, 4)
        if rng.random() < 0.6:
            fields = {"owner": rng.choice("xyz"), "euros": rng.randrange(100)}
            log.append((seconds, command(number, savings_old.Deposit, fields, 0)))
        else:
            fields = {"euros": rng.randrange(20), "seconds": rng.randrange(1, 60)}
            log.append((seconds, command(number, savings_old.Lock, fields, 0)))
    return log


def fold(machine: Machine, log: list[tuple[int, bytes]]) -> list[bytes]:
    """All outputs of a log, with the timers that are due after each entry."""
    found: list[bytes] = []
    for seconds, slot in log:
        found += applied(machine, slot, s=seconds)
        found += applied(machine, b"", EntryKind.TIME, s=0)
    return found


def upgraded(seed: int, restore_at: int | None = None) -> tuple[Machine, list[bytes]]:
    """The old app's log, its snapshot under the new app, and what comes then from both clients."""
    log = old_log(seed, 120)
    old = opened(savings_old.app)
    fold(old, log[:60])
    machine = Machine.restore(savings.app, None, 7, old.snapshot(), strict=True)
    outputs: list[bytes] = []
    for place, entry in enumerate(log[60:]):
        outputs += fold(machine, [entry])
        if place == restore_at:
            machine = Machine.restore(savings.app, None, 7, machine.snapshot(), strict=True)
    outputs += applied(machine, command(121, savings.Deposit, {"payer": "new", "cents": 1}, 2))
    outputs += applied(machine, b"", EntryKind.TIME, s=3_600)
    return machine, outputs


def test_a_snapshot_of_the_old_code_goes_on_under_the_new_one() -> None:
    old = opened(savings_old.app)
    log = old_log(1, 60)
    fold(old, log)
    before = old.instance(savings_old.Account, "a")
    waiting = list(old.state.timers.by_id)
    assert waiting and before.lines and before.locked
    machine = Machine.restore(savings.app, None, 7, old.snapshot(), strict=True)
    after = machine.instance(savings.Account, "a")

    assert (after.cents, after.locked) == (100 * before.euros, 100 * before.locked)
    assert [line.cents for line in after.lines] == [100 * line.euros for line in before.lines]
    assert list(machine.state.timers.by_id) == waiting
    applied(machine, b"", EntryKind.TIME, s=3_600)
    assert after.locked == 0 and not machine.state.timers.by_id and not machine.state.quarantined


@pytest.mark.parametrize("seed", range(3))
def test_lifted_state_is_the_state_that_lifted_commands_make(seed: int) -> None:
    """Two ways to the same accounts: the old snapshot lifted, and the old log lifted."""
    machine, _ = upgraded(seed)
    other = opened(savings.app)
    fold(other, old_log(seed, 120))
    applied(other, command(121, savings.Deposit, {"payer": "new", "cents": 1}, 2))
    applied(other, b"", EntryKind.TIME, s=3_600)

    assert machine.instance(savings.Account, "a") == other.instance(savings.Account, "a")
    assert machine.state.timers.next_id == other.state.timers.next_id


@pytest.mark.parametrize("restore_at", [0, 17, 59])
def test_the_new_code_goes_on_the_same_from_its_own_snapshot(restore_at: int) -> None:
    machine, outputs = upgraded(5)
    other, others = upgraded(5, restore_at)

    assert outputs == others
    assert machine.state_digest() == other.state_digest()


def test_kept_replies_and_events_keep_their_version() -> None:
    old = opened(savings_old.app)
    fold(old, [(1, command(1, savings_old.Deposit, {"owner": "x", "euros": 3}, 0))])
    machine = Machine.restore(savings.app, None, 7, old.snapshot())
    (event,) = machine.state.events.all()
    (again,) = applied(machine, command(1, savings.Deposit, {"payer": "x", "cents": 300}, 2))

    assert EVENT.unpack_from(event)[8] == 0
    assert answered(again) == (Status.OK, 0, {"euros": 3})
    body = again[REPLY.size : REPLY.unpack_from(again)[0]]
    assert savings.app.decode(2, body, 0) == savings.Balance(300)


def test_what_the_old_code_would_misread_is_refused() -> None:
    machine, _ = upgraded(1)
    with pytest.raises(
        SnapshotRefused, match=r"Account\): Account has version 0 here and this is of"
    ):
        Machine.restore(savings_old.app, None, 7, machine.snapshot())


def test_the_new_schema_reads_the_old_one() -> None:
    found = compare(savings_old.app.schema(), savings.app.schema())
    assert [one.sentence for one in found] == [
        f"{name}: its version rises to 1, and clients with the old code cannot read it; give them "
        "the newer code first."
        for name in ("Balance (message 2)", "Moved (message 6)")
    ]
    assert not any(one.breaks for one in found)
    back = compare(savings.app.schema(), savings_old.app.schema())
    assert len([one for one in back if one.breaks]) == 7


@pytest.mark.parametrize("seed", range(2))
def test_the_upgrade_is_the_same_under_other_hash_seeds(seed: int) -> None:
    digests = {told_elsewhere(seed, hash_seed) for hash_seed in ("0", "1")}

    assert digests == {told(seed)}


def told(seed: int) -> str:
    """The digest of all outputs and of the state after an upgrade."""
    machine, outputs = upgraded(seed)
    return f"{machine.state_digest().hex()} {machine.digest} {len(outputs)}"


def told_elsewhere(seed: int, hash_seed: str) -> str:
    """The same, by a process with this hash seed."""
    ended = subprocess.run(
        [sys.executable, "-c", f"import test_versions; print(test_versions.told({seed}))"],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout.strip()


def clock_app(version: int) -> App:
    """An App whose timer's message has this version."""

    @message(id=1)
    class Start(Command[None]):
        pass

    @message(id=2, version=version, oldest=version)
    class Tick:
        n: int = 0

    class Clock:
        def start(self, command: Start, context: Context) -> None:
            context.set_timer(Tick(), after_ns=SECOND_NS)

        def tick(self, timer: Tick, context: Context) -> None: ...

    Clock.start.__annotations__["command"] = Start
    Clock.tick.__annotations__["timer"] = Tick
    Clock.start, Clock.tick = handler(Clock.start), on_timer(Clock.tick)  # type: ignore[method-assign]
    return App(actors=[actor(id=1, key=str)(Clock)])


@pytest.mark.parametrize(("written", "read"), [(1, 0), (0, 1)])
def test_a_waiting_timer_of_another_version_is_refused(written: int, read: int) -> None:
    old = clock_app(written)
    machine = opened(old)
    applied(machine, command(1, old.messages[1], {}, 0))

    with pytest.raises(
        SnapshotRefused, match=r"a timer with message 2 \(.*Tick\): .*Tick (has|is r)"
    ):
        Machine.restore(clock_app(read), None, 7, machine.snapshot())


def test_a_batch_of_states_is_lifted_or_refused_as_one() -> None:
    account = savings.app.actor_type(savings.Account)
    old = encode_body([savings_old.Account(euros=n) for n in range(3)])
    new = encode_body([savings.Account(cents=100 * n) for n in range(3)])

    assert account.version == 1
    assert account.decode_states(0, old) == account.decode_states(1, memoryview(new))
    with pytest.raises(
        UnreadableVersion, match="Account has version 1 here and this is of version 2"
    ):
        account.decode_states(2, new)
