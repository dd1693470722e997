"""Clients that know several addresses, against replicas by script: the leader is found, whoever lies, hangs up or is silent."""

import asyncio
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any, Self

import pytest
from cluster_load import cells
from gates import CLUSTER
from scripted import Scripted, frame

from leftfold.actors.ledger import BalanceOf, Deposit, app
from leftfold.actors.limits import Limits
from leftfold.runtime.addresses import COLD_S, PAUSE_S, Addresses, parse
from leftfold.runtime.blocking_client import BlockingClient
from leftfold.runtime.client import Client
from leftfold.runtime.errors import OperatorError
from leftfold.runtime.failures import (
    Disconnected,
    DiskFull,
    EventsLost,
    NotApplied,
    SessionExpired,
    Unknown,
    WrongCluster,
)
from leftfold.runtime.pulse import PING_S, SILENCE_S, Pulse

PATIENCE_S = 0.15
OTHER_CLUSTER = bytes(reversed(CLUSTER))


@pytest.fixture(params=["asyncio", "blocking"])
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


class Asking:
    """Either client behind one blocking surface, so that each test runs with both."""

    def __init__(self, kind: str, to: Any, **options: Any) -> None:
        options = {"patience_s": PATIENCE_S} | options
        self._loop: asyncio.AbstractEventLoop | None = None
        if kind == "asyncio":
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
            self._thread.start()
            self.client: Any = Client.connect(to, **options)
            try:
                self._do(self.client.__aenter__())
            except BaseException:
                self._end()
                raise
        else:
            self.client = BlockingClient.connect(to, **options).__enter__()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._loop is None:
            self.client.close()
        else:
            self._do(self.client.aclose())
            self._end()

    def _do(self, coroutine: Any) -> Any:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def _end(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    def ask(self, cents: int, **options: Any) -> int:
        """Deposit; the balance."""
        asked = self.client.ask("bank", Deposit("alice", cents), **options)
        balance: int = (asked if self._loop is None else self._do(asked)).cents
        return balance

    def ask_many(self, count: int) -> list[int]:
        """Deposit one cent each, in a pipeline; the balances."""
        pairs = [("bank", Deposit("alice", 1))] * count
        if self._loop is None:
            return [getattr(reply, "cents", reply) for reply in self.client.ask_many(pairs)]

        async def all_of_them() -> list[Any]:
            asked = [self.client.ask(*pair) for pair in pairs]
            replies = await asyncio.gather(*asked, return_exceptions=True)
            return [getattr(reply, "cents", reply) for reply in replies]

        found: list[int] = self._do(all_of_them())
        return found

    def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Another method of the client."""
        called = getattr(self.client, name)(*arguments, **options)
        return called if self._loop is None else self._do(called)


@pytest.fixture
def cluster() -> Iterator[Scripted]:
    with Scripted(app, 3) as cluster:
        yield cluster


def test_the_leader_is_found_from_any_address(cluster: Scripted, kind: str) -> None:
    cluster.leader = cluster.replicas[2]
    with Asking(kind, cluster.text) as asking:
        assert asking.ask(5) == 5
        assert asking.call("query", "bank", BalanceOf("alice")).cents == 5

    assert len(cluster.replicas[2].asked) > len(cluster.replicas[1].asked)


def test_one_address_is_enough_when_it_hints_at_the_leader(cluster: Scripted, kind: str) -> None:
    cluster.leader = cluster.replicas[1]
    with Asking(kind, cluster.replicas[0].text) as asking:
        assert asking.ask(5) == 5
        cluster.close(1)
        cluster.leader = cluster.replicas[0]
        assert asking.ask(1) == 6


def test_a_pipeline_follows_the_leader_from_replica_to_replica(
    cluster: Scripted, kind: str
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    done = threading.Event()
    moves = 0

    def move() -> None:
        nonlocal moves
        while not done.wait(0.01):
            old, new = cluster.leader, rng.choice(cluster.replicas)
            cluster.leader = None if rng.random() < 0.3 else new
            if old is not None and rng.random() < 0.5:
                old.cut_after = rng.randrange(1, 3000)
            if old is not None and rng.random() < 0.3:
                old.hang_up()
            moves += 1
        cluster.leader = cluster.replicas[0]

    mover = threading.Thread(target=move, daemon=True)
    mover.start()
    try:
        with Asking(kind, cluster.text) as asking:
            balances: list[int] = []
            while moves < 30 or len(balances) < 600:
                balances += asking.ask_many(100)
    finally:
        done.set()
        mover.join()

    assert balances == list(range(1, len(balances) + 1))


def test_a_connection_cut_in_the_middle_of_a_frame_costs_nothing(
    cluster: Scripted, kind: str
) -> None:
    leader = cluster.replicas[0]
    with Asking(kind, cluster.text) as asking:
        for count in range(1, 120, 7):
            leader.cut_after = count
            asking.ask(1)
        assert asking.ask(1) == len(range(1, 120, 7)) + 1
    assert leader.accepted > 3


def test_a_circle_of_hints_is_walked_slowly_and_left_when_there_is_a_leader(
    cluster: Scripted, kind: str
) -> None:
    with Asking(kind, cluster.text) as asking:
        one, two, three = cluster.replicas
        for replica, next_one in ((one, two), (two, three), (three, one)):
            replica.refuses = (1, next_one.text)
        before = sum(replica.accepted for replica in cluster.replicas)
        began = time.monotonic()
        with pytest.raises(Unknown) as unknown:
            asking.ask(5, deadline_s=0.5)
        tries, said = 0, str(unknown.value)
        while tries <= 3 or "not the leader" not in said:  # Soon, unless the time was over first.
            with pytest.raises(Unknown) as still:
                asking.call("resolve", unknown.value, deadline_s=0.5)
            said = str(still.value)
            tries = sum(replica.accepted for replica in cluster.replicas) - before
        rounds = 2 + (time.monotonic() - began) / (PAUSE_S[0] / 2)
        two.refuses = None
        cluster.leader = two
        assert asking.call("resolve", unknown.value).cents == 5
        assert asking.ask(1) == 6

    # A round of three, a pause of at least PAUSE_S / 2, a round …: one again for each request.
    assert tries < 3 * rounds


def test_a_hint_at_an_address_that_never_answers_is_not_followed_for_ever(
    cluster: Scripted, kind: str
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        hint = f"127.0.0.1:{silent.getsockname()[1]}"
        with Asking(kind, cluster.text) as asking:
            for replica in cluster.replicas:
                replica.refuses = (1, hint)
            threading.Timer(0.3, lambda: setattr(cluster.replicas[1], "refuses", None)).start()
            cluster.leader = cluster.replicas[1]
            assert asking.ask(5) == 5


def test_a_hint_that_is_no_address_is_passed_over(cluster: Scripted, kind: str) -> None:
    cluster.replicas[0].refuses = (1, "somewhere else")
    cluster.leader = cluster.replicas[1]
    with Asking(kind, cluster.text) as asking:
        assert asking.ask(5) == 5


def test_answers_that_come_twice_are_taken_once(cluster: Scripted, kind: str) -> None:
    cluster.replicas[0].twist = lambda slot: [slot, slot]
    with Asking(kind, cluster.text) as asking:
        assert asking.ask_many(200) == list(range(1, 201))


def test_answers_out_of_turn_find_their_requests(cluster: Scripted, kind: str) -> None:
    """Replies are held back in threes and sent the wrong way round."""
    held: list[bytes] = []

    def twist(slot: bytes) -> list[bytes]:
        if struct.unpack_from("<H", slot, 4)[0] != 17 or not struct.unpack_from("<Q", slot, 24)[0]:
            return [slot]
        held.append(slot)
        if len(held) < 3:
            return []
        out = held[::-1]
        held.clear()
        return out

    cluster.replicas[0].twist = twist
    with Asking(kind, cluster.text) as asking:
        assert asking.ask_many(60) == list(range(1, 61))


def test_a_silent_leader_is_left_and_its_late_answers_are_no_news(
    cluster: Scripted, kind: str
) -> None:
    one, two, _ = cluster.replicas
    with Asking(kind, cluster.text) as asking:
        assert asking.ask(1) == 1
        one.answers = False
        cluster.leader = two
        assert asking.ask(10) == 11
        one.answers = True
        cluster.leader = one
        assert asking.ask(100) == 111


def test_a_leader_that_answers_only_pings_is_left(cluster: Scripted, kind: str) -> None:
    """It may have lost its quorum; nobody tells its clients."""
    one, two, _ = cluster.replicas
    with Asking(kind, cluster.text) as asking:
        assert asking.ask(1) == 1
        one.works = False
        cluster.leader = two
        assert asking.ask(10) == 11


def test_an_unknown_outcome_is_resolved_by_another_replica(cluster: Scripted, kind: str) -> None:
    one, two, _ = cluster.replicas
    with Asking(kind, cluster.text) as asking:
        assert asking.ask(1) == 1
        # Applied, but nobody hears of it.
        one.twist = lambda slot: []
        with pytest.raises(Unknown) as unknown:
            asking.ask(10, deadline_s=0.05)
        with pytest.raises(Unknown):
            asking.call("resolve", unknown.value, deadline_s=0.05)
        cluster.leader = two
        assert asking.call("resolve", unknown.value).cents == 11
        with pytest.raises(ValueError, match="not one that this client left unknown"):
            asking.call("resolve", unknown.value)
        assert asking.ask(100) == 111


def test_a_late_answer_waits_for_resolve(cluster: Scripted, kind: str) -> None:
    one = cluster.replicas[0]
    with Asking(kind, one.text) as asking:
        one.works = False
        with pytest.raises(Unknown) as unknown:
            asking.ask(10, deadline_s=0.05)
        one.works = True
        one.hang_up()
        assert asking.ask(1) == 11
        assert asking.call("resolve", unknown.value.request).cents == 10


def test_an_address_of_another_cluster_is_refused_and_the_others_serve(
    cluster: Scripted, kind: str
) -> None:
    stranger = cluster.replicas[1]
    stranger.cluster_id = OTHER_CLUSTER
    with Asking(kind, cluster.text) as asking:
        assert asking.ask(1) == 1
        assert asking.client.cluster_id == CLUSTER
        cluster.close(0)
        cluster.leader = cluster.replicas[2]
        assert asking.ask(1) == 2
        assert stranger.accepted >= 1 and not stranger.asked
        cluster.replicas[2].hang_up()
        accepted = stranger.accepted
        assert asking.ask(1) == 3
        assert stranger.accepted == accepted, "it was tried again"


def test_only_addresses_of_other_clusters_end_the_session(cluster: Scripted, kind: str) -> None:
    with pytest.raises(WrongCluster, match="belongs to another cluster"):
        Asking(kind, cluster.text, cluster=OTHER_CLUSTER)


def test_a_gateway_that_lies_about_the_cluster_is_refused_as_well(
    cluster: Scripted, kind: str
) -> None:
    """It takes any HELLO, but its WELCOME names another cluster."""
    content = struct.pack("<16sIIQ", OTHER_CLUSTER, 65536, 64, 1)
    cluster.replicas[0].twist = lambda slot: (
        [frame(16, 1, content)] if slot[4] in (16, 23) else [slot]
    )
    cluster.leader = cluster.replicas[1]
    with Asking(kind, cluster.text, cluster=CLUSTER) as asking:
        assert asking.ask(1) == 1
    assert not cluster.replicas[0].asked


def test_who_accepts_late_is_waited_for_and_passed_over_when_there_are_others(kind: str) -> None:
    cluster = Scripted(app, 2)
    cluster.slow = (cluster.replicas[0],)
    cluster.leader = cluster.replicas[1]
    with cluster:
        with Asking(kind, cluster.text) as asking:
            assert asking.ask(1) == 1
        cluster.leader = cluster.replicas[0]
        opening = threading.Timer(0.2, lambda: cluster.serve(0))
        opening.start()
        with Asking(kind, cluster.replicas[0].text) as asking:
            assert asking.ask(1) == 2
        opening.join()


def test_not_ready_and_stopping_are_waited_out_here_and_elsewhere(
    cluster: Scripted, kind: str
) -> None:
    one, two, _ = cluster.replicas
    with Asking(kind, one.text) as alone:
        assert alone.ask(1) == 1
        one.refuses = (2, "an election is under way")
        with pytest.raises(Unknown, match="an election is under way"):
            alone.ask(10, deadline_s=1.0)
        one.refuses = None
        assert alone.ask(100) == 111
    with Asking(kind, cluster.text, patience_s=60.0) as asking:
        for reason in (2, 4):
            one.refuses = (reason, "")
            cluster.leader = two
            before = asking.ask(1)
            one.refuses, two.refuses = None, (reason, "")
            cluster.leader = one
            assert asking.ask(1) == before + 1
            two.refuses = None


def test_a_full_disk_is_an_error_of_its_own_and_costs_no_number(
    cluster: Scripted, kind: str
) -> None:
    one = cluster.replicas[0]
    with Asking(kind, cluster.text) as asking:
        assert asking.ask_many(10) == list(range(1, 11))
        one.refuses = (3, "no room: 3 MB are left on /data; free some space")
        with pytest.raises(DiskFull, match="no room: 3 MB"):
            asking.ask(1)
        failed = asking.ask_many(50)
        assert all(isinstance(one, DiskFull) for one in failed)
        assert asking.client.last_request == 10
        one.refuses = None
        assert asking.ask_many(10) == list(range(11, 21))


def test_a_restarted_process_goes_on_and_learns_how_its_requests_ended(
    cluster: Scripted, kind: str
) -> None:
    one = cluster.replicas[0]
    first = Asking(kind, cluster.text, keep=True)
    with first:
        assert [first.ask(n) for n in (1, 2)] == [1, 3]
        one.works = False
        with pytest.raises(Unknown) as unknown:
            first.ask(10, deadline_s=0.05)
        never = unknown.value.request
        one.works = True
        one.hang_up()
        assert first.call("resolve", never).cents == 13
        session = first.client.session_id
    cluster.leader = cluster.replicas[1]
    with Asking(kind, cluster.text, session=session) as second:
        assert second.client.applied_before == 3
        assert second.call("resolve", 3, "bank", Deposit("alice", 10)).cents == 13
        assert second.call("resolve", 3, "bank", Deposit("alice", 10)).cents == 13
        with pytest.raises(NotApplied):
            second.call("resolve", 4)
        assert second.call("resolve", 4, "bank", Deposit("alice", 100)).cents == 113
        assert second.ask(1000) == 1113


def test_a_session_that_is_gone_is_not_opened_anew_by_a_restarted_process(
    cluster: Scripted, kind: str
) -> None:
    with pytest.raises(SessionExpired):
        Asking(kind, cluster.text, session=bytes(range(1, 17)))
    assert len(cluster.fold.machine.state.sessions) == 0


def test_no_event_is_missed_or_repeated_across_replicas() -> None:
    async def run(cluster: Scripted) -> None:
        one, two, three = cluster.replicas
        async with (
            Client.connect(cluster.text, patience_s=PATIENCE_S) as watcher,
            Client.connect(cluster.text, patience_s=PATIENCE_S) as client,
        ):
            stream = watcher.subscribe(actor=cells.Cell)
            found: list[int] = []
            for cents in range(1, 61):
                await client.ask("a", cells.Write(cents))
                if cents % 2:
                    found.append((await anext(stream)).message.value)
                if cents % 10 == 0:
                    old = cluster.leader
                    cluster.leader = {one: two, two: three, three: one}[old or one]
                    (old or one).hang_up()
            while len(found) < 60:
                found.append((await anext(stream)).message.value)
            await stream.aclose()  # pyright: ignore[reportAttributeAccessIssue]
        assert found == list(range(1, 61))

    with Scripted(cells.app, 3) as cluster:
        asyncio.run(run(cluster))


def test_a_subscriber_leaves_a_silent_replica_though_it_asks_nothing() -> None:
    with Scripted(cells.app, 2) as cluster:
        one, two = cluster.replicas
        with (
            BlockingClient.connect(cluster.text, patience_s=PATIENCE_S) as watcher,
            BlockingClient.connect(two.text) as client,
        ):
            stream = watcher.events(actor=cells.Cell)
            client.ask("a", cells.Write(1))
            assert next(stream).message.value == 1
            one.answers = False
            cluster.leader = two
            client.ask("a", cells.Write(2))
            assert next(stream).message.value == 2


def test_events_that_another_replica_no_longer_keeps_are_told() -> None:
    with Scripted(cells.app, 2, Limits(session_window=64, events_kept_max=5)) as cluster:
        two = cluster.replicas[1]
        with (
            BlockingClient.connect(cluster.text, patience_s=PATIENCE_S) as watcher,
            BlockingClient.connect(two.text) as client,
        ):
            stream = watcher.events(actor=cells.Cell)
            client.ask("a", cells.Write(1))
            assert next(stream).message.value == 1
            cluster.leader = two
            for replica in cluster.replicas:
                replica.hang_up()
            client.ask_many(("a", cells.Write(1)) for _ in range(20))
            with pytest.raises(EventsLost) as lost:
                next(stream)
            rest = list(watcher.events(actor=cells.Cell, after=lost.value.floor, silence_s=2.0))
    assert len(rest) == 5


def test_nobody_at_all_is_said_with_what_was_wrong_at_each_address(kind: str) -> None:
    with socket.socket() as one, socket.socket() as two:
        for unused in (one, two):
            unused.bind(("127.0.0.1", 0))
        addresses = [unused.getsockname() for unused in (one, two)]
        with pytest.raises(Disconnected) as raised:
            Asking(kind, addresses, connect_s=1.0)
    for _, port in addresses:
        assert f"127.0.0.1:{port}: connection refused: nothing listens there" in str(raised.value)
        assert "start the replica, or correct the address" in str(raised.value)


def test_a_dead_port_is_refused_to_who_knows_no_other(kind: str) -> None:
    """However the time runs out, in a pause or in a try, the reason is the last try's."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(Disconnected, match="connection refused: nothing listens there"):
            Asking(kind, "127.0.0.1:{1}".format(*unused.getsockname()), connect_s=1.0)


def test_a_full_disk_at_the_first_connection_is_told_as_what_it_is(
    cluster: Scripted, kind: str
) -> None:
    one = cluster.replicas[0]
    one.refuses = (3, "no room: 3 MB are left on /data; free some space")
    with pytest.raises(DiskFull, match=f"No session was opened at {one.text}: no room: 3 MB"):
        Asking(kind, one.text, connect_s=1.0)
    one.refuses = (2, "")
    with pytest.raises(Disconnected, match=f"No session .* {one.text}: the replica is not ready"):
        Asking(kind, one.text, connect_s=1.0)


def test_addresses_are_read_as_people_write_them() -> None:
    assert parse("127.0.0.1:1, [::1]:2,box:65535") == (("127.0.0.1", 1), ("::1", 2), ("box", 65535))
    assert parse(["a:1", ("b", 2), "a:1"]) == (("a", 1), ("b", 2))
    for wrong in ("", "127.0.0.1", "a:0", "a:65536", ":7", "a:b"):
        with pytest.raises(OperatorError, match="host:port"):
            parse(wrong)


def test_each_round_is_followed_by_a_pause_that_grows_to_a_limit() -> None:
    addresses = Addresses([("a", 1), ("b", 1)], random.Random(1))
    pauses: list[float] = []
    order: list[str] = []
    for _ in range(40):
        address, pause_s = addresses.next(0.0)
        order.append(address[0])
        pauses.append(pause_s)
        addresses.failed("no", 0.0)

    assert order == ["a", "b"] * 20
    assert pauses[:2] == [0.0, 0.0] and not any(pauses[1::2])
    assert all(PAUSE_S[0] / 2 <= pause <= PAUSE_S[1] for pause in pauses[2::2])
    assert max(pauses) > PAUSE_S[1] / 2 > pauses[2]
    addresses.served()
    addresses.failed("no", 0.0)
    assert addresses.next(0.0)[1] == 0.0


def test_an_address_that_timed_out_is_left_alone_for_a_while_even_if_it_is_hinted_at() -> None:
    addresses = Addresses([("a", 1), ("b", 1), ("c", 1)])
    assert addresses.next(0.0)[0] == ("a", 1)
    addresses.failed("silent", 0.0, timed_out=True)
    assert addresses.next(0.1)[0] == ("b", 1)
    addresses.redirected("a:1")
    assert addresses.next(0.2)[0] == ("c", 1)
    addresses.redirected("a:1")
    assert addresses.next(0.3)[0] == ("b", 1)
    addresses.redirected("a:1")
    assert addresses.next(COLD_S[0] + 0.1)[0] == ("a", 1)


def test_a_leader_hinted_at_is_remembered_only_when_it_has_served() -> None:
    addresses = Addresses([("a", 1)])
    addresses.next(0.0)
    addresses.redirected("x:9")
    assert addresses.next(0.0)[0] == ("x", 9) and not addresses.several
    addresses.failed("refused", 0.0)
    assert addresses.next(0.0)[0] == ("a", 1)
    addresses.redirected("y:9")
    addresses.next(0.0)
    addresses.served()
    assert addresses.several


def test_with_nowhere_else_to_go_only_long_silence_ends_a_connection() -> None:
    pulse = Pulse(1.0)
    pulse.began(0.0)
    assert pulse.look(10.0, waiting=True) == ("", False, PING_S)
    assert pulse.look(PING_S, waiting=True)[1]
    assert pulse.look(PING_S + 1, waiting=True) == ("", False, PING_S)
    assert pulse.look(SILENCE_S, waiting=True)[0] == "the gateway is silent"


def test_a_stall_is_left_and_the_next_one_is_given_twice_the_time() -> None:
    pulse = Pulse(1.0, several=True)

    def stalls_at(begin_s: float) -> float:
        pulse.began(begin_s)
        now_s = begin_s
        while not pulse.look(now_s, waiting=True)[0]:
            now_s += 0.25
            pulse.heard(now_s)
        return now_s - begin_s

    assert [stalls_at(100.0), stalls_at(200.0), stalls_at(300.0)] == [2.0, 4.0, 8.0]
    pulse.answered()
    assert stalls_at(400.0) == 2.0
