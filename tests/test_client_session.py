"""The client's session without sockets: numbers, windows, what comes back, what is sent again (I9)."""

import random
import struct
from collections import deque
from typing import Any

import pytest
from gates import session_id

from leftfold.actors.layout import Status
from leftfold.runtime import frames
from leftfold.runtime.failures import (
    AnswerForgotten,
    DiskFull,
    EventsLost,
    NotApplied,
    OutOfOrder,
    Rejected,
    SessionExpired,
    WrongCluster,
)
from leftfold.runtime.resumption import PROBE, Resumption
from leftfold.runtime.session import DISK_FULL, NOT_LEADER, NOT_READY, Session
from leftfold.runtime.streams import EVENTS_QUEUED_MAX

WELCOME = frames.Welcome(1, bytes(16), 65536, 4, 1)


def opened(last: int = 0, window: int = 4, **given: Any) -> Session:
    session = Session(session_id(1), **given)
    session.connected(frames.Welcome(1, bytes(16), 65536, window, 1))
    assert session.outgoing() == frames.open_session(session.id)
    session.receive(reply(0, body=struct.pack("<Q", last)))
    return session


def reply(request: int, status: int = 0, body: bytes = b"", index: int = 9) -> frames.Reply:
    return frames.Reply(0, session_id(1), request, index, 0, status, body)


def refused(request: int, reason: int = NOT_READY, kind: int = 3, hint: str = "") -> frames.Refused:
    return frames.Refused(reason, kind, session_id(1), request, hint)


def sent(session: Session) -> list[tuple[int, int]]:
    """The (request, unanswered) of the commands that go out now."""
    found: list[tuple[int, int]] = []
    data = session.outgoing()
    while data:
        length, kind, _, _, request, unanswered = struct.unpack_from("<IHH16sQI", data)
        if kind == 3:
            found.append((request, unanswered))
        data = data[length:]
    return found


def ask(session: Session, count: int = 1) -> list[Any]:
    """Queue commands; what settles is appended to the list."""
    outcomes: list[Any] = []
    for _ in range(count):
        session.command(7, b"k", b"", lambda answer, error: outcomes.append(error or answer))
    return outcomes


def test_nothing_is_asked_before_the_session_is_open() -> None:
    session = Session(session_id(1))
    assert session.room == 0 and session.outgoing() == b""
    session.connected(WELCOME)
    assert session.outgoing() == frames.open_session(session.id)
    assert session.room == 0

    session.receive(reply(0))
    assert session.room == 4


def test_each_request_says_how_many_are_unanswered() -> None:
    session = opened()
    outcomes = ask(session, 3)
    assert sent(session) == [(1, 1), (2, 2), (3, 3)]
    session.receive(reply(2))
    ask(session)
    assert sent(session) == [(4, 4)]
    session.receive(reply(1))

    assert session.room == 2
    ask(session)
    assert sent(session) == [(5, 3)]
    assert [outcome.request for outcome in outcomes] == [2, 1]


def test_after_a_reconnect_all_unanswered_requests_go_out_again_in_order_without_an_open() -> None:
    session = opened()
    ask(session, 3)
    sent(session)
    session.receive(reply(1))
    session.disconnected()
    ask(session)
    assert session.outgoing() == b""

    session.connected(WELCOME)

    assert sent(session) == [(2, 1), (3, 2), (4, 3)]


def test_a_second_reply_to_a_request_that_was_sent_twice_is_ignored() -> None:
    session = opened()
    outcomes = ask(session, 2)
    sent(session)
    session.disconnected()
    session.connected(WELCOME)
    sent(session)
    for number in (1, 1, 2, 2):
        session.receive(reply(number))

    assert len(outcomes) == 2 and session.unanswered == 0


def test_what_comes_back_is_sent_again_in_order_when_nothing_is_in_flight() -> None:
    session = opened()
    outcomes = ask(session, 4)
    sent(session)
    session.receive(reply(1))
    session.receive(reply(2, Status.WINDOW_EXCEEDED))
    session.receive(reply(3, Status.OUT_OF_ORDER))
    ask(session)
    assert sent(session) == []
    session.receive(reply(4, Status.OUT_OF_ORDER))

    assert sent(session) == [(2, 1), (3, 2), (4, 3), (5, 4)]
    assert len(outcomes) == 1


def test_the_lowest_request_out_of_order_is_an_error_and_not_tried_for_ever() -> None:
    session = opened()
    outcomes = ask(session)
    sent(session)
    session.receive(reply(1, Status.OUT_OF_ORDER, index=10))

    assert isinstance(outcomes[0], OutOfOrder)


def test_a_refused_request_waits_for_the_back_off() -> None:
    session = opened()
    outcomes = ask(session, 2)
    sent(session)
    session.receive(refused(1, hint="not ready"))
    session.receive(reply(2, Status.OUT_OF_ORDER))
    assert session.held and session.outgoing() == b""

    session.retry()

    assert sent(session) == [(1, 1), (2, 2)]
    assert outcomes == []


def test_a_refused_open_and_a_refused_query_are_tried_again() -> None:
    session = Session(session_id(1))
    session.connected(WELCOME)
    session.outgoing()
    session.receive(frames.Refused(2, 2, session.id, 0, "not ready"))
    assert session.outgoing() == b""
    session.retry()
    assert session.outgoing() == frames.open_session(session.id)
    session.receive(reply(0))

    number = session.query(7, b"k", b"", lambda answer, error: None)
    first = session.outgoing()
    session.receive(frames.Refused(2, 5, session.id, number, "not ready"))
    session.retry()
    assert session.outgoing() == first == frames.query(7, session.id, number, b"k", b"")


def test_an_expired_session_ends_everything_and_is_not_replaced() -> None:
    session = opened()
    outcomes = ask(session, 2)
    sent(session)
    session.receive(reply(1, Status.SESSION_EXPIRED))

    assert [type(outcome) for outcome in outcomes] == [SessionExpired] * 2
    with pytest.raises(SessionExpired):
        ask(session)


def test_a_late_verdict_of_a_replica_that_is_behind_is_no_news() -> None:
    """It answers what was sent to it long ago; meanwhile the request was taken elsewhere."""
    session = opened()
    outcomes = ask(session, 2)
    sent(session)
    session.disconnected()
    session.connected(WELCOME)
    sent(session)
    session.receive(reply(1, index=20))
    session.receive(reply(2, Status.OUT_OF_ORDER, index=12))

    assert session.dead is None and sent(session) == [(2, 1)]
    session.receive(reply(2, index=21))
    assert [outcome.request for outcome in outcomes] == [1, 2]


def resuming(window: int = 4) -> Session:
    session = Session(session_id(1), resumption=Resumption())
    session.connected(frames.Welcome(1, bytes(16), 65536, window, 1))
    return session


def found(session: Session, last: int) -> None:
    """The probe and OPEN are answered."""
    assert sent(session) == [(PROBE, 1)]
    session.receive(reply(PROBE, Status.OUT_OF_ORDER))
    assert session.outgoing() == frames.open_session(session.id)
    session.receive(reply(0, body=struct.pack("<Q", last)))


def test_a_resumed_session_that_the_cluster_has_forgotten_is_not_opened_anew() -> None:
    session = resuming()
    assert sent(session) == [(PROBE, 1)]
    session.receive(reply(PROBE, Status.SESSION_EXPIRED))

    assert isinstance(session.dead, SessionExpired) and session.outgoing() == b""


def test_a_resumed_session_recalls_the_kept_replies_and_fences_off_what_is_on_its_way() -> None:
    session = resuming()
    found(session, 10)
    assert sent(session) == [(7, 1), (8, 2), (9, 3), (10, 4)] and not session.opened
    session.receive(reply(7, Status.ANSWER_FORGOTTEN))
    for number in (8, 9, 10):
        session.receive(reply(number, body=b"kept"))
    assert sent(session) == [(11, 1), (12, 2), (13, 3), (14, 4)] and not session.opened
    # The earlier process's 11 was still on its way and came in before the fence.
    session.receive(reply(11, body=b"late"))
    for number in (12, 13, 14):
        session.receive(reply(number, Status.UNKNOWN_MESSAGE))

    assert session.opened and session.room == 4
    earlier = session.resumption
    assert earlier is not None and earlier.applied == 11
    assert earlier.outcome(9).body == b"kept" and earlier.outcome(11).body == b"late"
    for number, error in ((3, AnswerForgotten), (7, AnswerForgotten), (12, NotApplied)):
        with pytest.raises(error):
            earlier.outcome(number)
    for unknown in (0, 15):
        with pytest.raises(ValueError):
            earlier.outcome(unknown)
    ask(session)
    assert sent(session) == [(15, 1)]


def test_a_resumption_goes_on_where_a_broken_connection_left_it() -> None:
    session = resuming()
    found(session, 1)
    sent(session)
    session.disconnected()
    session.connected(WELCOME)
    assert sent(session) == [(1, 1)]
    session.receive(reply(1))
    assert [number for number, _ in sent(session)] == [2, 3, 4, 5]
    session.receive(reply(2, Status.UNKNOWN_MESSAGE))
    session.disconnected()
    session.connected(WELCOME)
    assert [number for number, _ in sent(session)] == [3, 4, 5]
    for number in (3, 4, 5):
        session.receive(reply(number, Status.UNKNOWN_MESSAGE))

    assert session.opened and session.resumption is not None and session.resumption.applied == 1


def test_a_refused_probe_is_sent_again() -> None:
    session = resuming()
    sent(session)
    session.receive(refused(PROBE))
    assert session.held
    session.retry()
    assert sent(session) == [(PROBE, 1)]


def test_another_cluster_is_not_talked_to() -> None:
    session = Session(session_id(1))
    session.connected(frames.Welcome(1, session_id(7), 65536, 4, 1))
    session.disconnected()
    with pytest.raises(WrongCluster):
        session.connected(frames.Welcome(1, session_id(8), 65536, 4, 1))
    assert not session.connected_now and session.cluster_id == session_id(7)


def test_a_full_disk_fails_the_commands_and_their_numbers_are_used_again() -> None:
    session = opened()
    outcomes = ask(session, 3)
    sent(session)
    for number in (1, 2, 3):
        assert outcomes == []
        session.receive(refused(number, DISK_FULL, hint="no room on /disk"))

    assert [type(outcome) for outcome in outcomes] == [DiskFull] * 3
    assert str(outcomes[0]) == "no room on /disk"
    assert session.last_request == 0 and session.room == 4
    session.retry()
    ask(session)
    assert sent(session) == [(1, 1)]


def test_a_number_below_others_in_use_is_filled_with_a_command_that_no_actor_takes() -> None:
    session = opened()
    outcomes = ask(session, 3)
    sent(session)
    session.receive(refused(1, DISK_FULL))
    session.receive(reply(2, Status.OUT_OF_ORDER, index=10))
    session.receive(reply(3, Status.OUT_OF_ORDER, index=10))
    assert [type(outcome) for outcome in outcomes] == [DiskFull]
    session.retry()

    data = session.outgoing()
    assert data.startswith(frames.command(0, session.id, 1, 1, b"", b""))
    session.receive(reply(1, Status.UNKNOWN_MESSAGE))
    session.receive(reply(2))
    session.receive(reply(3))
    assert [getattr(outcome, "request", 0) for outcome in outcomes] == [0, 2, 3]
    assert session.answered == 3


def test_a_request_that_may_be_in_a_log_is_not_failed_by_a_full_disk() -> None:
    session = opened()
    outcomes = ask(session, 1)
    sent(session)
    session.disconnected()
    session.connected(WELCOME)
    sent(session)
    session.receive(refused(1, DISK_FULL))
    assert outcomes == [] and session.held
    session.retry()

    assert sent(session) == [(1, 1)]


def test_a_request_whose_number_was_told_keeps_it_on_a_full_disk() -> None:
    session = opened()
    outcomes: list[Any] = []

    def settle(answer: Any, error: Exception | None) -> None:
        outcomes.append(error or answer)

    number = session.command(7, b"k", b"", settle)
    sent(session)
    session.pin(number, settle)
    session.receive(refused(1, DISK_FULL))

    assert outcomes == [] and session.last_request == 1


def test_a_filled_number_that_may_be_in_a_log_is_not_given_out_again() -> None:
    session = opened()
    ask(session, 2)
    sent(session)
    session.receive(refused(1, DISK_FULL))
    session.receive(reply(2, Status.OUT_OF_ORDER, index=10))
    session.retry()
    assert sent(session) == [(1, 1), (2, 2)]
    session.disconnected()
    session.connected(WELCOME)
    assert sent(session) == [(1, 1), (2, 2)]
    for number in (1, 2):
        session.receive(refused(number, DISK_FULL))
    assert session.last_request == 2
    session.retry()

    assert sent(session) == [(1, 1), (2, 2)]


def test_a_query_refused_by_a_full_disk_fails() -> None:
    session = opened()
    outcomes: list[Any] = []
    number = session.query(7, b"k", b"", lambda answer, error: outcomes.append(error or answer))
    session.outgoing()
    session.receive(refused(number, DISK_FULL, kind=5))

    assert [type(outcome) for outcome in outcomes] == [DiskFull]


def test_a_refusal_by_who_is_not_the_leader_tells_why_and_where() -> None:
    session = opened()
    ask(session)
    sent(session)
    session.receive(refused(1, NOT_LEADER, hint="127.0.0.3:7700"))
    assert session.refusal is not None and session.refusal.hint == "127.0.0.3:7700"
    session.disconnected()
    assert session.refusal is None


def test_a_rejection_is_an_answer() -> None:
    session = opened()
    outcomes = ask(session)
    sent(session)
    session.receive(reply(1, Status.REJECTED, b"no money"))

    assert isinstance(outcomes[0], Rejected) and outcomes[0].reason == "no money"
    assert session.answered == 1


def event(index: int, actor: int = 1, key: bytes = b"k") -> frames.EventFrame:
    return frames.EventFrame(7, (index, 0, 1), actor, 0, key, b"")


def subscribed(session: Session, number: int, count: int = 0, *, partial: bool = False):
    return frames.Subscribed(session.id, number, 5, 0, count, partial)


def drain(session: Session, subscription: Any) -> list[int]:
    found: list[int] = []
    while (one := session.streams.next_event(subscription)) is not None:
        found.append(one.position[0])
    return found


def test_a_subscription_gets_its_retained_events_and_then_the_live_ones_each_once() -> None:
    session = opened()
    early = session.subscribe(1, b"", (0, 0, 0), lambda: None)
    session.receive(subscribed(session, early.number))
    session.receive(event(6))
    late = session.subscribe(1, b"k", (0, 0, 0), lambda: None)
    session.receive(event(7))
    session.receive(subscribed(session, late.number, 2))
    session.receive(event(6))
    session.receive(event(7))
    session.receive(event(8))
    session.receive(event(9, key=b"other"))

    assert drain(session, early) == [6, 7, 8, 9]
    assert drain(session, late) == [6, 7, 8]


def test_a_subscription_goes_on_behind_its_last_event_after_a_reconnect() -> None:
    session = opened()
    subscription = session.subscribe(1, b"", None, lambda: None)
    assert session.outgoing() == frames.subscribe(session.id, subscription.number, None, 1)
    session.receive(subscribed(session, subscription.number))
    session.receive(event(6))
    session.disconnected()
    session.connected(WELCOME)

    assert session.outgoing() == frames.subscribe(session.id, subscription.number, (6, 0, 1), 1)


def test_what_a_replica_that_is_behind_sends_once_more_is_passed_over() -> None:
    session = opened()
    subscription = session.subscribe(1, b"", (0, 0, 0), lambda: None)
    session.receive(subscribed(session, subscription.number))
    for index in (6, 7, 8):
        session.receive(event(index))
    session.disconnected()
    session.connected(WELCOME)
    session.receive(subscribed(session, subscription.number))
    for index in (7, 8, 9):
        session.receive(event(index))

    assert drain(session, subscription) == [6, 7, 8, 9]


def test_a_reader_that_has_enough_to_read_is_not_sent_more_by_a_reconnect() -> None:
    session = opened()
    subscription = session.subscribe(0, b"", (0, 0, 0), lambda: None)
    session.receive(subscribed(session, subscription.number, 1, partial=True))
    session.receive(event(3))
    session.disconnected()
    session.connected(WELCOME)
    assert session.outgoing() == b""

    assert drain(session, subscription) == [3]
    assert session.outgoing() == frames.subscribe(session.id, subscription.number, (3, 0, 1))


def test_a_partial_answer_is_asked_on_behind_its_last_event() -> None:
    session = opened()
    subscription = session.subscribe(0, b"", (0, 0, 0), lambda: None)
    session.outgoing()
    session.receive(subscribed(session, subscription.number, 1, partial=True))
    session.receive(event(3))

    assert drain(session, subscription) == [3]
    assert session.outgoing() == frames.subscribe(session.id, subscription.number, (3, 0, 1))


def test_a_stream_faster_than_its_reader_is_stopped_and_asked_for_again() -> None:
    session = opened()
    subscription = session.subscribe(0, b"", (0, 0, 0), lambda: None)
    session.receive(subscribed(session, subscription.number))
    session.outgoing()
    for index in range(1, EVENTS_QUEUED_MAX + 10):
        session.receive(event(index))
    assert session.outgoing() == frames.unsubscribe(session.id, subscription.number)

    assert drain(session, subscription) == list(range(1, EVENTS_QUEUED_MAX + 1))
    again = frames.subscribe(session.id, subscription.number, (EVENTS_QUEUED_MAX, 0, 1))
    assert session.outgoing() == again


def test_lost_events_are_told() -> None:
    session = opened()
    subscription = session.subscribe(0, b"", (1, 0, 0), lambda: None)
    session.receive(frames.Lost(session.id, subscription.number, (50, 0, 1)))
    with pytest.raises(EventsLost) as lost:
        session.streams.next_event(subscription)
    assert lost.value.floor == (50, 0, 1)


class Cluster:
    """The cluster's half of exactly-once: applies in order, keeps replies, refuses as it likes."""

    def __init__(self, rng: random.Random, window: int) -> None:
        self.rng, self.window = rng, window
        self.last = self.floor = self.index = 0
        self.applied: list[bytes] = []
        self.kept: dict[int, frames.Reply] = {}

    def take(self, frame: bytes) -> frames.Reply | frames.Refused:
        _, kind, tag, _, request, unanswered = struct.unpack_from("<IHH16sQI", frame)
        self.index += 1
        if kind == 2:
            return reply(0, body=struct.pack("<Q", self.last), index=self.index)
        if self.rng.random() < 0.05:
            return refused(request, DISK_FULL if self.rng.random() < 0.5 else NOT_READY)
        if request > self.last + 1:
            return reply(request, Status.OUT_OF_ORDER, index=self.index)
        self.floor = max(self.floor, request - unanswered)
        if request <= self.floor:
            return reply(request, Status.ANSWER_FORGOTTEN, index=self.index)
        if request <= self.last:
            return self.kept[request]
        if self.last - self.floor >= self.window or self.rng.random() < 0.03:
            return reply(request, Status.WINDOW_EXCEEDED, index=self.index)
        self.last = request
        if tag:
            self.applied.append(frame[41:])
        status = Status.OK if tag else Status.UNKNOWN_MESSAGE
        self.kept[request] = reply(request, status, frame[41:], index=self.index)
        return self.kept[request]


class Wires:
    """The connections of one session: the one in use, and the frames of earlier ones that are still on their way."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        self.cluster, self.rng = cluster, rng
        self.link: deque[bytes] = deque()
        self.late: deque[bytes] = deque()

    def step(self, session: Session) -> None:
        """Something arrives, something gets lost, the connection breaks."""
        rng = self.rng
        if not session.connected_now:
            session.connected(frames.Welcome(1, bytes(16), 65536, self.cluster.window, 1))
        data = session.outgoing()
        while data:
            length = struct.unpack_from("<I", data)[0]
            self.link.append(data[:length])
            data = data[length:]
        for _ in range(rng.randrange(4)):
            if self.link:
                session.receive(self.cluster.take(self.link.popleft()))
        while self.late and rng.random() < 0.5:
            # It was on its way on an earlier connection; its answer may come on this one, or nowhere.
            answer = self.cluster.take(self.late.popleft())
            if rng.random() < 0.5:
                session.receive(answer)
        if session.held and rng.random() < 0.3:
            session.retry()
        if rng.random() < 0.05:
            self.cut(session)

    def cut(self, session: Session) -> None:
        """What is on its way may arrive all the same, sooner or later; its replies do not come on this connection."""
        while self.link:
            frame = self.link.popleft()
            if self.rng.random() < 0.8:
                self.late.append(frame)
            else:
                self.link.clear()
        session.disconnected()


def test_every_command_is_applied_once_in_order_or_fails_through_cuts_refusals_and_late_frames() -> (
    None
):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    full = 0
    for _ in range(60):
        cluster, session = Cluster(rng, 8), Session(session_id(1))
        wires = Wires(cluster, rng)
        outcomes: dict[int, Any] = {}
        asked = 0
        while len(outcomes) < 200:
            if asked < 200 and session.room > 0 and rng.random() < 0.7:
                body = struct.pack("<I", asked)
                session.command(
                    7, b"k", body, lambda a, e, n=asked, o=outcomes: o.setdefault(n, e or a)
                )
                asked += 1
            wires.step(session)
            assert session.dead is None

        done = [n for n in range(200) if isinstance(outcomes[n], frames.Reply)]
        failed = {n for n in range(200) if isinstance(outcomes[n], DiskFull)}
        assert len(done) + len(failed) == 200
        assert cluster.applied == [struct.pack("<I", number) for number in done]
        assert all(outcomes[n].body == struct.pack("<I", n) for n in done)
        full += len(failed)
    assert full, "no command ever failed on a full disk"


def test_what_a_killed_process_had_on_its_way_is_applied_once_or_never_and_the_next_one_knows() -> (
    None
):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    unlucky = 0
    for _ in range(150):
        cluster = Cluster(rng, 8)
        wires = Wires(cluster, rng)
        session = Session(session_id(1))
        bodies: dict[int, bytes] = {}
        failed: list[bytes] = []
        for asked in range(rng.randrange(1, 60)):
            while session.room <= 0:
                wires.step(session)
            body = struct.pack("<I", asked)
            number = session.command(
                7, b"k", body, lambda a, e, b=body, f=failed: f.append(b) if e else None
            )
            bodies[number] = body
            wires.step(session)
        wires.cut(session)

        session = Session(session_id(1), resumption=Resumption())
        while not session.opened:
            wires.step(session)
        earlier, before = session.resumption, list(cluster.applied)
        assert earlier is not None
        outcomes: list[Any] = []
        for number in range(20):
            while session.room <= 0:
                wires.step(session)
            body = struct.pack("<I", 1000 + number)
            session.command(7, b"k", body, lambda a, e, o=outcomes: o.append(e or a))
        while len(outcomes) < 20:
            wires.step(session)

        late = [body for body in cluster.applied[len(before) :] if body < struct.pack("<I", 1000)]
        assert not [body for body in cluster.applied if cluster.applied.count(body) > 1]
        assert not set(late) & set(bodies.values()), "applied behind the fence"
        assert not set(failed) & set(cluster.applied)
        for number, body in bodies.items():
            if body in failed:
                continue  # its number was taken from it
            try:
                assert earlier.outcome(number).body == body and body in cluster.applied
            except AnswerForgotten:
                assert body in cluster.applied
            except NotApplied:
                assert body not in cluster.applied
                unlucky += 1
        fine = [outcome.body for outcome in outcomes if isinstance(outcome, frames.Reply)]
        assert sorted(fine) == cluster.applied[len(before) :]
    assert unlucky, "every command of every killed process was applied"
