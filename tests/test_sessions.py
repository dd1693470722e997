"""A (session, request) pair changes the state at most once (I9), whatever a client sends when."""

import random
from typing import Any

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sample_bank import LIMITS, Account, Deposit, app, command_slot, control_slot

from leftfold.actors.layout import LAST_REQUEST, REPLY, EntryKind, SlotType, Status
from leftfold.actors.limits import SECOND_NS, Limits
from leftfold.actors.machine import Machine, Outputs
from leftfold.actors.sessions import Session, Sessions
from leftfold.actors.testing import slots_of

A, B = b"a" * 16, b"b" * 16


class Client:
    """A machine with a clock; every call is one entry."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.machine = Machine(app, limits, 7)
        self.time_ns = 0

    def apply(self, body: bytes, kind: EntryKind = EntryKind.COMMANDS) -> list[bytes]:
        outputs = Outputs()
        index = self.machine.state.index + 1
        self.machine.apply(index, self.time_ns, kind, body, outputs=outputs)
        return slots_of(bytes(outputs.egress))

    def open(self, session: bytes) -> tuple[Status, int]:
        (slot,) = self.apply(control_slot(SlotType.OPEN, session))
        status, body = status_of(slot), slot[REPLY.size :]
        return status, LAST_REQUEST.unpack_from(body)[0] if status == Status.OK else 0

    def ask(self, session: bytes, request: int, unanswered: int = 1, cents: int = 1) -> bytes:
        (slot,) = self.apply(command_slot(session, request, unanswered, "k", Deposit(cents)))
        return slot

    def cents(self) -> int:
        return self.machine.instance(Account, "k").cents


def found(client: Client, id: bytes) -> Session:
    session = client.machine.state.sessions.find(id)
    assert session is not None
    return session


def status_of(slot: bytes) -> Status:
    return Status(REPLY.unpack_from(slot)[7])


def test_the_same_request_twice_is_applied_once_and_answered_with_identical_bytes() -> None:
    client = Client()
    client.open(A)
    first = client.ask(A, 1)

    assert client.ask(A, 1) == first
    assert status_of(first) == Status.OK and client.cents() == 1


def test_both_copies_in_one_entry_are_applied_once() -> None:
    client = Client()
    client.open(A)
    slot = command_slot(A, 1, 1, "k", Deposit(1))
    first, second = client.apply(slot + slot)

    assert first == second and client.cents() == 1


def test_a_gap_changes_nothing() -> None:
    client = Client()
    client.open(A)
    before = client.machine.state_digest()
    slot = client.ask(A, 2, 2)

    assert status_of(slot) == Status.OUT_OF_ORDER
    assert found(client, A).last == 0
    assert client.ask(A, 1) and client.cents() == 1
    assert before != client.machine.state_digest()


def test_opening_again_is_harmless_and_says_the_last_request_applied() -> None:
    client = Client()
    assert client.open(A) == (Status.OK, 0)
    client.ask(A, 1)
    client.ask(A, 2)

    assert client.open(A) == (Status.OK, 2)


def test_an_unknown_session_is_expired_and_never_opened_silently() -> None:
    client = Client()

    assert status_of(client.ask(A, 1)) == Status.SESSION_EXPIRED
    assert not len(client.machine.state.sessions)


def test_a_closed_session_is_expired_and_closing_twice_is_harmless() -> None:
    client = Client()
    client.open(A)
    for _ in range(2):
        (slot,) = client.apply(control_slot(SlotType.CLOSE, A))
        assert status_of(slot) == Status.OK

    assert status_of(client.ask(A, 1)) == Status.SESSION_EXPIRED


def test_what_the_client_confirmed_is_forgotten() -> None:
    client = Client()
    client.open(A)
    for request in (1, 2, 3):
        client.ask(A, request, request)
    assert len(found(client, A).replies) == 3
    client.ask(A, 4, 1)
    kept = found(client, A)

    assert len(kept.replies) == 1 and kept.replies_bytes == len(kept.replies[0])
    assert status_of(client.ask(A, 3)) == Status.ANSWER_FORGOTTEN
    assert client.cents() == 4


def test_an_old_copy_that_confirms_less_brings_nothing_back() -> None:
    client = Client()
    client.open(A)
    for request in (1, 2, 3):
        client.ask(A, request, 1)

    assert status_of(client.ask(A, 2, 2)) == Status.ANSWER_FORGOTTEN


def test_no_more_may_be_in_flight_than_replies_are_kept() -> None:
    client = Client()
    client.open(A)
    for request in range(1, LIMITS.session_window + 1):
        assert status_of(client.ask(A, request, request)) == Status.OK
    beyond = LIMITS.session_window + 1

    assert status_of(client.ask(A, beyond, beyond)) == Status.WINDOW_EXCEEDED
    assert client.cents() == LIMITS.session_window
    assert status_of(client.ask(A, beyond, beyond - 1)) == Status.OK


def test_kept_replies_are_limited_by_bytes_as_well() -> None:
    client = Client(Limits(session_replies_bytes_max=150, reply_bytes_max=100, reason_bytes_max=50))
    client.open(A)
    statuses = [status_of(client.ask(A, request, request)) for request in range(1, 5)]

    assert statuses == [Status.OK, Status.OK, Status.OK, Status.WINDOW_EXCEEDED]
    assert status_of(client.ask(A, 4, 1)) == Status.OK


def test_too_many_sessions_are_refused() -> None:
    client = Client()
    for number in range(1, LIMITS.sessions_max + 1):
        assert client.open(bytes([number]) * 16)[0] == Status.OK

    assert client.open(A)[0] == Status.TOO_MANY_SESSIONS
    assert client.open(bytes([1]) * 16)[0] == Status.OK


def test_the_zero_session_cannot_be_opened() -> None:
    assert Client().open(bytes(16))[0] == Status.BAD_REQUEST


@pytest.mark.parametrize(("request_number", "unanswered"), [(0, 1), (1, 0)])
def test_numbers_below_one_are_bad_requests(request_number: int, unanswered: int) -> None:
    client = Client()
    client.open(A)

    assert status_of(client.ask(A, request_number, unanswered)) == Status.BAD_REQUEST


def test_a_silent_session_expires_at_a_time_entry_and_an_active_one_does_not() -> None:
    client = Client()
    client.open(A)
    client.open(B)
    client.time_ns += 60 * SECOND_NS
    client.ask(B, 1)
    client.time_ns += 60 * SECOND_NS
    client.apply(b"", EntryKind.TIME)

    assert [session.id for session in client.machine.state.sessions] == [B]


def test_expiry_makes_room_at_open() -> None:
    client = Client()
    for number in range(1, LIMITS.sessions_max + 1):
        client.open(bytes([number]) * 16)
    client.time_ns += LIMITS.session_timeout_ns

    assert client.open(A)[0] == Status.OK


def test_the_jump_of_a_new_term_ages_no_session() -> None:
    client = Client()
    client.open(A)
    client.time_ns += 10 * LIMITS.session_timeout_ns
    client.apply(b"", EntryKind.TERM_START)
    client.apply(b"", EntryKind.TIME)
    assert client.ask(A, 1) and client.cents() == 1
    deadline = client.machine.next_deadline_ns
    assert deadline is not None and deadline > client.time_ns
    client.time_ns += 2 * LIMITS.session_timeout_ns
    client.apply(b"", EntryKind.TIME)

    assert not len(client.machine.state.sessions)


def test_time_entries_for_expiry_are_few_and_end() -> None:
    client = Client()
    client.open(A)
    entries = 0
    while (deadline := client.machine.next_deadline_ns) is not None:
        assert deadline >= client.time_ns
        client.time_ns = deadline
        client.apply(b"", EntryKind.TIME)
        entries += 1

    assert entries <= 2 and not len(client.machine.state.sessions)


def test_sessions_expire_in_the_order_of_their_last_word_after_a_restore_too() -> None:
    """Against a plain dict, with ids that come and go; the seed is fixed."""
    rng = random.Random(11)
    sessions, model = Sessions(1_000, 50), dict[bytes, int]()
    clock_ns = 0
    for _ in range(5_000):
        clock_ns += rng.randrange(3)
        id = rng.randrange(60).to_bytes(16, "little")
        chosen = rng.randrange(10)
        if chosen == 0:
            sessions.close(id)
            model.pop(id, None)
        elif chosen == 1:
            again = Sessions(1_000, 50)
            for session in sessions:
                again.restore(*attrs.astuple(session))
            sessions = again
        elif chosen < 6:
            sessions.expire(clock_ns)
            model = {each: ns for each, ns in model.items() if ns + 50 > clock_ns}
        else:
            model = {each: ns for each, ns in model.items() if ns + 50 > clock_ns}
            sessions.open(id, clock_ns)
            model[id] = clock_ns

        assert [(session.id, session.active_ns) for session in sessions] == list(model.items())
        assert sessions.next_check_ns == (min(model.values()) + 50 if model else None)


def test_a_table_holds_many_sessions_and_finds_each() -> None:
    sessions = Sessions(200_000, 10)
    ids = [number.to_bytes(16, "little") for number in range(100_000)]
    for id in ids:
        assert sessions.open(id, 1) == 0
    for id in ids[::2]:
        sessions.close(id)

    assert len(sessions) == 50_000 and [session.id for session in sessions] == ids[1::2]
    assert all(sessions.find(id) is None for id in ids[::2])


@pytest.mark.parametrize(
    "wrong",
    [
        (A, 1, 2, 0, []),
        (A, 2, 0, 0, [bytes(48)]),
        (A, 1, 0, 0, [b"short"]),
        (b"no id", 0, 0, 0, []),
        (B, 0, 0, 0, []),
    ],
)
def test_a_session_that_does_not_hold_what_it_says_is_refused(wrong: tuple[Any, ...]) -> None:
    sessions = Sessions(10, 10)
    sessions.open(B, 0)

    with pytest.raises(ValueError):
        sessions.restore(*wrong)


class DumbSession:
    """The model: it remembers every reply for ever and counts with plain loops."""

    def __init__(self) -> None:
        self.replies: list[bytes] = []
        self.confirmed = 0


class SessionsAgainstModel(RuleBasedStateMachine):
    """Duplicates, gaps, restarts from snapshots, windows, expiry: replies and sum are the model's."""

    ids = (A, B)

    @initialize()
    def start(self) -> None:
        self.client = Client()
        self.model: dict[bytes, DumbSession] = {}
        self.active: dict[bytes, int] = {}
        self.applied = 0

    @rule(id=st.sampled_from(ids))
    def open(self, id: bytes) -> None:
        self.expire()
        session = self.model.setdefault(id, DumbSession())
        self.active[id] = self.client.time_ns
        assert self.client.open(id) == (Status.OK, len(session.replies))

    @rule(id=st.sampled_from(ids))
    def close(self, id: bytes) -> None:
        self.model.pop(id, None)
        self.client.apply(control_slot(SlotType.CLOSE, id))

    @rule(id=st.sampled_from(ids), offset=st.integers(-3, 2), unanswered=st.integers(0, 12))
    def send(self, id: bytes, offset: int, unanswered: int) -> None:
        last = len(self.model[id].replies) if id in self.model else 0
        request = max(0, last + offset)
        slot = self.client.ask(id, request, unanswered)
        assert slot == self.expected(id, request, unanswered, slot)

    @rule(id=st.sampled_from(ids), count=st.integers(1, 10))
    def burst(self, id: bytes, count: int) -> None:
        for _ in range(count):
            session = self.model.get(id)
            self.send(id, 1, 1 if session is None else len(session.replies) + 1 - session.confirmed)

    @rule(seconds=st.integers(0, 120))
    def wait(self, seconds: int) -> None:
        self.client.time_ns += seconds * SECOND_NS
        self.client.apply(b"", EntryKind.TIME)
        self.expire()

    @rule()
    def restart(self) -> None:
        chunks = list(self.client.machine.snapshot())
        self.client.machine = Machine.restore(app, LIMITS, 7, chunks)

    @invariant()
    def each_request_counted_once(self) -> None:
        if self.applied:
            assert self.client.cents() == self.applied

    def expire(self) -> None:
        for id in list(self.model):
            if self.active[id] + LIMITS.session_timeout_ns <= self.client.time_ns:
                del self.model[id]

    def expected(self, id: bytes, request: int, unanswered: int, slot: bytes) -> bytes:
        """The reply that is due; for one that is new or refused, a look at its status."""
        session = self.model.get(id)
        if session is None:
            return self.with_status(slot, Status.SESSION_EXPIRED)
        last = len(session.replies)
        if request > last + 1:
            return self.with_status(slot, Status.OUT_OF_ORDER)
        if request < 1 or unanswered < 1:
            return self.with_status(slot, Status.BAD_REQUEST)
        session.confirmed = max(session.confirmed, request - unanswered)
        if request <= session.confirmed:
            return self.with_status(slot, Status.ANSWER_FORGOTTEN)
        if request <= last:
            self.active[id] = self.client.time_ns
            return session.replies[request - 1]
        if last - session.confirmed >= LIMITS.session_window:
            return self.with_status(slot, Status.WINDOW_EXCEEDED)
        self.active[id] = self.client.time_ns
        session.replies.append(slot)
        self.applied += 1
        return self.with_status(slot, Status.OK)

    @staticmethod
    def with_status(slot: bytes, status: Status) -> bytes:
        assert status_of(slot) == status
        return slot


SessionsAgainstModel.TestCase.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None, print_blob=True
)
TestSessionsAgainstModel = SessionsAgainstModel.TestCase
