"""How units end: answered, rejected, quarantined; and that no bytes of a client end the machine."""

import random
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_bank import (
    LIMITS,
    Account,
    Balance,
    BalanceOf,
    Credit,
    Deposit,
    Misbehave,
    MisbehaveQuery,
    Transfer,
    app,
    command_slot,
    control_slot,
    fold,
    query_slot,
    random_log,
)

from leftfold.actors import Rejected
from leftfold.actors.app import encode_body
from leftfold.actors.errors import StrictViolation
from leftfold.actors.layout import COMMAND, REPLY, EntryKind, SlotType, Status, padded
from leftfold.actors.limits import Limits
from leftfold.actors.machine import Machine, Outputs
from leftfold.actors.testing import CommandFailed, Folded, slots_of

SESSION = b"s" * 16


def opened(limits: Limits = LIMITS) -> Machine:
    machine = Machine(app, limits, 7)
    machine.apply(1, 0, EntryKind.TERM_START, b"", outputs=Outputs())
    machine.apply(2, 0, 0, control_slot(SlotType.OPEN, SESSION), outputs=Outputs())
    return machine


def applied(machine: Machine, body: bytes) -> list[bytes]:
    outputs = Outputs()
    index = machine.state.index + 1
    machine.apply(index, machine.state.time_ns, EntryKind.COMMANDS, body, outputs=outputs)
    return slots_of(bytes(outputs.egress))


def test_an_actor_comes_into_being_at_its_first_command() -> None:
    bank = Folded(app)

    assert bank.ask("a", Deposit(5)) == Balance(5)
    assert bank.ask("a", BalanceOf()) == Balance(5)
    with pytest.raises(CommandFailed, match="NO_SUCH_ACTOR"):
        bank.ask("b", BalanceOf())


def test_rejected_is_a_normal_reply_and_leaves_no_actor_behind() -> None:
    bank = Folded(app)
    with pytest.raises(Rejected, match="deposit something"):
        bank.ask("a", Deposit(0))

    assert bank.machine.state.actors[1] == {} and bank.machine.state.actors_count == 0
    assert bank.ask("a", Deposit(1)) == Balance(1)
    bank.check_replay()


def test_a_send_is_delivered_within_the_entry() -> None:
    bank = Folded(app)
    bank.ask("a", Deposit(10))
    assert bank.ask("a", Transfer("b", 4)) == Balance(6)

    assert bank.ask("b", BalanceOf()) == Balance(4)
    bank.check_replay()


def test_an_internal_message_is_unknown_to_clients() -> None:
    bank = Folded(app)
    with pytest.raises(CommandFailed, match="UNKNOWN_MESSAGE"):
        bank.ask("a", Credit(1_000_000))

    assert bank.machine.state.actors_count == 0


FAILURES = {
    "raise": "A101 Account.misbehave at index 4, ordinal 0: RuntimeError: at <object object at 0x>",
    "recurse": "A101 Account.misbehave at index 4, ordinal 0: RecursionError",
    "exit": "A101 Account.misbehave at index 4, ordinal 0: SystemExit: 3",
    "reject late": "A102 Account.misbehave at index 4, ordinal 0: Rejected: too late",
    "wrong reply": "A104 Account.misbehave at index 4, ordinal 0: WrongReply: returned Held",
    "big reply": "A101 Account.misbehave at index 4, ordinal 0: OverflowError",
    "big event": "A101 Account.misbehave at index 4, ordinal 0: OverflowError",
    "foreign event": "A101 Account.misbehave at index 4, ordinal 0: ContextMisuse: Account emits",
    "true sent": "A105 Account.credit at index 4, ordinal 0: Undecodable",
    "many sends": "A101 Account.misbehave at index 4, ordinal 0: LimitExceeded",
}


@pytest.mark.parametrize("how", FAILURES)
def test_any_other_exception_quarantines_the_actor_and_drops_its_outputs(how: str) -> None:
    bank = Folded(app, limits=LIMITS)
    bank.ask("a", Deposit(10))
    with pytest.raises(CommandFailed) as failed:
        bank.ask("a", Misbehave(how, "b"))

    assert failed.value.status == Status.FAILED and failed.value.text.startswith(FAILURES[how])
    assert (bank.quarantine(Account, "a") or "").startswith(FAILURES[how])
    assert bank.events == [] and not bank.machine.state.timers.by_id
    for question in (Deposit(1), BalanceOf()):
        with pytest.raises(CommandFailed, match=f"QUARANTINED: {FAILURES[how][:4]}"):
            bank.ask("a", question)
    assert bank.ask("c", Deposit(1)) == Balance(1)
    bank.check_replay()


@pytest.mark.parametrize(("cents", "code"), [(13, "A103"), (14, "A101"), (15, "A101")])
def test_a_failure_of_a_receiver_quarantines_everyone_the_command_touched(
    cents: int, code: str
) -> None:
    bank = Folded(app)
    bank.ask("a", Deposit(100))
    bank.ask("bystander", Deposit(1))
    with pytest.raises(CommandFailed, match=f"FAILED: {code} Account.credit"):
        bank.ask("a", Transfer("b", cents))

    assert bank.quarantine(Account, "a") == bank.quarantine(Account, "b") is not None
    assert bank.quarantine(Account, "bystander") is None
    assert bank.events == []
    bank.check_replay()


def test_a_failure_does_not_reach_into_the_units_that_follow() -> None:
    bank = Folded(app)
    for key in "abc":
        bank.ask(key, Deposit(100))
    with pytest.raises(CommandFailed):
        bank.ask("a", Transfer("b", 14))
    with pytest.raises(CommandFailed, match=r"A101 Account\.misbehave "):
        bank.ask("c", Misbehave("raise"))

    at = [(bank.quarantine(Account, key) or "").split(":")[0][-21:] for key in "abc"]
    assert at == ["at index 6, ordinal 0"] * 2 + ["at index 7, ordinal 0"]


def test_sends_that_send_end_at_the_limit_of_depth() -> None:
    bank = Folded(app, limits=Limits(send_depth_max=3))
    bank.ask("a", Deposit(100))
    with pytest.raises(CommandFailed, match="LimitExceeded: sends are nested deeper than 3"):
        bank.ask("a", Transfer("b", 15))

    assert bank.actor(Account, "b").cents == 30


def test_sending_to_a_quarantined_actor_is_refused_and_spreads_nothing() -> None:
    bank = Folded(app)
    bank.ask("a", Deposit(100))
    with pytest.raises(CommandFailed):
        bank.ask("b", Misbehave("raise"))
    with pytest.raises(Rejected, match="Account 'b' is quarantined"):
        bank.ask("a", Transfer("b", 1))

    assert bank.ask("a", BalanceOf()) == Balance(100)


def test_memory_error_stops_the_replica() -> None:
    bank = Folded(app)
    with pytest.raises(MemoryError):
        bank.ask("a", Misbehave("memory"))


@pytest.mark.parametrize("how", ["raise", "exit", "recurse", "big reply", "wrong reply"])
def test_a_query_that_fails_is_only_its_answer(how: str) -> None:
    bank = Folded(app)
    bank.ask("a", Deposit(1))
    before = bank.machine.state_digest()
    with pytest.raises(CommandFailed, match=r"FAILED: A101 Account\.misbehave_query"):
        bank.ask("a", MisbehaveQuery(how))

    assert bank.quarantine(Account, "a") is None
    assert bank.machine.state_digest() == before


def test_a_query_may_reject_and_may_not_leave_a_trace() -> None:
    bank = Folded(app)
    bank.ask("a", Deposit(1))
    with pytest.raises(Rejected, match="no"):
        bank.ask("a", MisbehaveQuery("reject"))
    with pytest.raises(CommandFailed, match="a query may not use set_timer"):
        bank.ask("a", MisbehaveQuery("alarm"))

    assert bank.ask("a", Deposit(1)) == Balance(2)


def test_strict_mode_reports_a_query_and_a_rejection_that_change_the_actor() -> None:
    for key in ("old", "new"):
        bank = Folded(app)
        bank.ask("old", Deposit(1))
        with pytest.raises(StrictViolation, match="misbehave changed its actor, then rejected"):
            bank.ask(key, Misbehave("mutate and reject"))
    bank = Folded(app)
    bank.ask("old", Deposit(1))
    with pytest.raises(StrictViolation, match="misbehave_query is a query and changed"):
        bank.ask("old", MisbehaveQuery("mutate"))


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("big state", "cannot be encoded"),
        ("true state", "cannot be decoded again"),
        ("shared", "are one object"),
    ],
)
def test_strict_mode_reports_state_that_would_not_survive_a_snapshot(how: str, what: str) -> None:
    with pytest.raises(StrictViolation, match=what):
        Folded(app).ask("a", Misbehave(how))


def test_a_command_for_a_wrong_message_or_key_or_body_is_answered() -> None:
    machine = opened()

    def ask(request: int, id: int, key: bytes, body: bytes, version: int = 0) -> Status:
        length = 40 + len(key) + len(body)
        head = COMMAND.pack(length, 3, id, SESSION, request, 1, len(key), version)
        (slot,) = applied(machine, padded(head + key + body))
        return Status(REPLY.unpack_from(slot)[7])

    body = encode_body(Deposit(1))
    assert ask(1, 999, b"k", body) == Status.UNKNOWN_MESSAGE
    assert ask(2, 3, b"k", body) == Status.UNKNOWN_MESSAGE  # a query
    assert ask(3, 7, b"k", body) == Status.UNKNOWN_MESSAGE  # a timer's
    assert ask(4, 1, b"k", b"\xc1") == Status.BAD_REQUEST
    assert ask(5, 1, b"k", encode_body({"cents": "x"})) == Status.BAD_REQUEST
    assert ask(6, 1, b"\xff", body) == Status.BAD_REQUEST
    assert ask(7, 1, b"k" * 2_000, body) == Status.BAD_REQUEST
    assert ask(8, 1, b"k", body, version=1) == Status.BAD_REQUEST
    assert ask(9, 1, b"k", body) == Status.OK
    assert machine.state.actors_count == 1


def test_a_key_that_is_longer_than_its_slot_is_a_bad_request() -> None:
    machine = opened()
    (slot,) = applied(machine, COMMAND.pack(40, 3, 1, SESSION, 1, 1, 500, 0))

    assert REPLY.unpack_from(slot)[7] == Status.BAD_REQUEST


def test_a_reply_that_is_too_large_says_so_and_the_command_stands() -> None:
    bank = Folded(app, limits=Limits(reply_bytes_max=7, reason_bytes_max=7))
    with pytest.raises(CommandFailed, match="REPLY_TOO_LARGE"):
        bank.ask("a", Deposit(5))

    assert bank.actor(Account, "a").cents == 5 and bank.quarantine(Account, "a") is None


def test_the_number_of_actors_is_limited() -> None:
    bank = Folded(app, limits=Limits(actors_max=1))
    bank.ask("a", Deposit(1))
    with pytest.raises(CommandFailed, match="TOO_MANY_ACTORS"):
        bank.ask("b", Deposit(1))

    assert bank.ask("a", Deposit(1)) == Balance(2)


def test_a_skipped_command_is_answered_and_not_run() -> None:
    machine = opened()
    machine.skip(3, 1)
    slots = [command_slot(SESSION, n, n, "k", Deposit(1)) for n in (1, 2, 3)]
    replies = applied(machine, b"".join(slots))

    assert [REPLY.unpack_from(slot)[7] for slot in replies] == [0, Status.SKIPPED, 0]
    assert machine.instance(Account, "k").cents == 2


def test_the_position_names_the_unit_that_runs() -> None:
    words = memoryview(bytearray(24)).cast("Q")
    machine = Machine(app, LIMITS, 7, position=words)
    machine.apply(1, 0, 0, control_slot(SlotType.OPEN, SESSION), outputs=Outputs())
    slots = [
        command_slot(SESSION, 1, 1, "k", Deposit(1)),
        command_slot(SESSION, 2, 1, "k", Misbehave("memory")),
    ]
    with pytest.raises(MemoryError):
        machine.apply(2, 0, 0, b"".join(slots), outputs=Outputs())

    assert list(words) == [2, 1, 11]


def test_the_digest_is_the_chain_of_crc32_over_every_output_slot() -> None:
    machine = Machine(app, LIMITS, 7)
    digest = 0
    for egress in fold(machine, random_log(11, 100)):
        for slot in slots_of(egress):
            digest = crc32(slot, digest)

    assert machine.digest == digest != 0


def test_entries_come_in_index_order_and_log_time_never_goes_back() -> None:
    """I5."""
    machine = opened()
    for index, time_ns in ((2, 0), (4, 0), (3, -1)):
        with pytest.raises(AssertionError):
            machine.apply(index, time_ns, 0, b"", outputs=Outputs())


def test_entries_of_other_kinds_change_nothing_but_the_position() -> None:
    machine = opened()
    for kind in (EntryKind.SKIP, EntryKind.CONFIGURATION, 99):
        outputs = Outputs()
        machine.apply(machine.state.index + 1, 5, kind, b"\0" * 16, outputs=outputs)
        assert not outputs.egress

    assert machine.state.index == 5 and machine.state.time_ns == 5


@settings(max_examples=300, deadline=None)
@given(id=st.integers(0, 20), key=st.binary(max_size=60), body=st.binary(max_size=100))
def test_hostile_bytes_in_a_command_or_query_never_end_the_machine(
    id: int, key: bytes, body: bytes
) -> None:
    machine = opened()
    length = 40 + len(key) + len(body)
    head = COMMAND.pack(length, 3, id, SESSION, 1, 1, len(key), 0)
    (reply,) = applied(machine, padded(head + key + body))
    answer = machine.query(padded(head + key + body), 3)

    assert reply[4] == SlotType.REPLY and answer[4] == SlotType.ANSWER
    assert Machine.restore(app, LIMITS, 7, machine.snapshot()).state_digest() == (
        machine.state_digest()
    )


@pytest.mark.parametrize("seed", range(5))
def test_damaged_commands_are_all_answered(seed: int) -> None:
    """The head behind the session, the key and the body are random; the seed is in the test's id."""
    rng = random.Random(seed)
    machine = opened()
    request = 1
    for _ in range(500):
        slot = bytearray(command_slot(SESSION, request, 1, "k", Deposit(1)))
        for _ in range(rng.randrange(1, 8)):
            slot[rng.choice((6, 7, *range(24, len(slot))))] = rng.randrange(256)
        replies = applied(machine, bytes(slot))
        assert len(replies) == 1
        request = machine.state.sessions.open(SESSION, 0) + 1
        machine.query(bytes(slot), 1)


def test_the_answer_to_a_query_carries_its_number_and_the_index() -> None:
    machine = opened()
    applied(machine, command_slot(SESSION, 1, 1, "k", Deposit(7)))
    answer = machine.query(query_slot("k", BalanceOf(), request=42), 3)
    _, type_, tag, session, request, index, ordinal, status, _ = REPLY.unpack_from(answer)

    assert (type_, tag, session, request) == (SlotType.ANSWER, 2, b"q" * 16, 42)
    assert (index, ordinal, status) == (3, 0, Status.OK)


def test_an_actor_is_described_in_plain_values() -> None:
    bank = Folded(app)
    bank.ask("a", Deposit(5))
    described = bank.machine.describe(Account, "a")

    assert described["state"]["cents"] == 5 and described["actor"] == "Account"
    assert described["state"]["lines"] == [{"cents": 5, "time_ns": bank.time_ns}]
