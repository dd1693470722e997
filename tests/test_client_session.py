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
    EventsLost,
    OutOfOrder,
    Rejected,
    SessionExpired,
)
from leftfold.runtime.session import EVENTS_QUEUED_MAX, Session

WELCOME = frames.Welcome(1, bytes(16), 65536, 4, 1)


def opened(last: int = 0, window: int = 4, **given: Any) -> Session:
    session = Session(session_id(1), **given)
    session.connected(frames.Welcome(1, bytes(16), 65536, window, 1))
    assert session.outgoing() == frames.open_session(session.id)
    session.receive(reply(0, body=struct.pack("<Q", last)))
    return session


def reply(request: int, status: int = 0, body: bytes = b"") -> frames.Reply:
    return frames.Reply(0, session_id(1), request, 9, 0, status, body)


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
    session.receive(reply(1, Status.OUT_OF_ORDER))

    assert isinstance(outcomes[0], OutOfOrder)


def test_a_refused_request_waits_for_the_back_off() -> None:
    session = opened()
    outcomes = ask(session, 2)
    sent(session)
    session.receive(frames.Refused(2, 3, session.id, 1, "not ready"))
    session.receive(reply(2, Status.OUT_OF_ORDER))
    assert session.held and session.outgoing() == b""
    waiting = session.waiting_for(1)
    assert waiting is not None and waiting.why == "not ready"

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


def test_a_resumed_session_that_the_cluster_has_forgotten_is_refused() -> None:
    session = opened(last=0, answered_before=5)
    assert isinstance(session.dead, SessionExpired)
    assert opened(last=5, answered_before=5).dead is None


def test_a_resumed_session_can_ask_how_an_old_request_ended() -> None:
    session = opened(last=10)
    outcomes: list[Any] = []
    session.ask_again(9, 7, b"k", b"", lambda answer, error: outcomes.append(error or answer))
    assert sent(session) == [(9, 1)]
    session.receive(reply(9))
    ask(session)

    assert sent(session) == [(11, 1)]
    assert len(outcomes) == 1
    with pytest.raises(AnswerForgotten):
        session.ask_again(2, 7, b"k", b"", lambda answer, error: None)


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
    while (one := session.next_event(subscription)) is not None:
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
        session.next_event(subscription)
    assert lost.value.floor == (50, 0, 1)


class Cluster:
    """The cluster's half of exactly-once: applies in order, keeps replies, refuses as it likes."""

    def __init__(self, rng: random.Random, window: int) -> None:
        self.rng, self.window = rng, window
        self.last = self.floor = 0
        self.applied: list[bytes] = []

    def take(self, frame: bytes) -> frames.Reply | frames.Refused | None:
        _, kind, _, id, request, unanswered = struct.unpack_from("<IHH16sQI", frame)
        if kind == 2:
            return reply(0, body=struct.pack("<Q", self.last))
        if self.rng.random() < 0.03:
            return frames.Refused(2, 3, id, request, "not ready")
        if request > self.last + 1:
            return reply(request, Status.OUT_OF_ORDER)
        self.floor = max(self.floor, request - unanswered)
        assert request > self.floor, "asked for what it said it has"
        if request <= self.last:
            return reply(request)
        if self.last - self.floor >= self.window or self.rng.random() < 0.03:
            return reply(request, Status.WINDOW_EXCEEDED)
        self.last = request
        self.applied.append(frame[41:])
        return reply(request)


def test_every_command_is_applied_once_in_order_through_cuts_refusals_and_lost_replies() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(30):
        cluster, session = Cluster(rng, 8), Session(session_id(1))
        link: deque[bytes] = deque()
        settled: list[int] = []
        asked = 0
        while len(settled) < 200:
            if not session.connected_now:
                session.connected(frames.Welcome(1, bytes(16), 65536, 8, 1))
            if asked < 200 and session.room > 0 and rng.random() < 0.7:
                number = asked
                session.command(
                    7,
                    b"k",
                    struct.pack("<I", number),
                    lambda _, e, n=number, s=settled: s.append(n),
                )
                asked += 1
            data = session.outgoing()
            while data:
                length = struct.unpack_from("<I", data)[0]
                link.append(data[:length])
                data = data[length:]
            for _ in range(rng.randrange(4)):
                if link:
                    answer = cluster.take(link.popleft())
                    if answer is not None and session.connected_now:
                        session.receive(answer)
            if session.held and rng.random() < 0.3:
                session.retry()
            if rng.random() < 0.05:
                # Some of what was sent arrives all the same, its replies do not.
                while link and rng.random() < 0.7:
                    cluster.take(link.popleft())
                link.clear()
                session.disconnected()

        assert sorted(settled) == list(range(200))
        assert cluster.applied == [struct.pack("<I", number) for number in range(200)]
