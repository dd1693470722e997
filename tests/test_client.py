"""Both clients against a real gateway and the real machine: typed replies, pipelines, and exactly once through cuts."""

import asyncio
import contextlib
import random
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from replica import APPS
from served import Fold, Served, until

from leftfold.actors import Rejected
from leftfold.actors.ledger import BalanceOf, Deposit, Withdraw, app
from leftfold.actors.limits import Limits
from leftfold.runtime.blocking_client import BlockingClient
from leftfold.runtime.client import Client
from leftfold.runtime.failures import (
    Disconnected,
    EventsLost,
    SessionExpired,
    TimedOut,
    Unknown,
)

sys.path.append(str(APPS))
from cells import Cell, Write
from cells import app as cells_app

WINDOW = 64


@pytest.fixture
def served() -> Iterator[Served]:
    limits = Limits(session_window=WINDOW)
    with Served(Fold(app, limits), window=WINDOW, linger_ns=10**8) as served:
        yield served


@pytest.fixture
def cells() -> Iterator[Served]:
    """Actors that emit events."""
    limits = Limits(session_window=WINDOW)
    with Served(Fold(cells_app, limits), window=WINDOW, linger_ns=10**8) as served:
        yield served


class CuttingProxy:
    """Passes bytes on and cuts connections after random numbers of them, in either direction."""

    def __init__(self, port: int, rng: random.Random, bytes_max: int) -> None:
        self.port, self.rng, self.bytes_max = port, rng, bytes_max
        self.cuts = 0

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = self.rng.randrange(1, self.bytes_max)
        with contextlib.suppress(OSError):
            while data := await reader.read(1500):
                writer.write(data[:left])
                await writer.drain()
                left -= len(data)
                if left <= 0:
                    self.cuts += 1
                    return

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            writer.transport.abort()
            return
        with contextlib.suppress(OSError):
            both = [
                asyncio.create_task(self._pass(reader, there[1])),
                asyncio.create_task(self._pass(there[0], writer)),
            ]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for task in both:
                task.cancel()
            await asyncio.wait(both)
            for one in (there[1], writer):
                one.transport.abort()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        """The port to connect to instead."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            # Let the connections see that they are over, so that no transport is left behind: one that was just
            # accepted has no task yet, and one that was aborted is closed in a later turn.
            for _ in range(10):
                await asyncio.sleep(0)
                while others := asyncio.all_tasks() - {asyncio.current_task()}:
                    await asyncio.wait(others)


async def ask_typed(served: Served) -> None:
    async with Client(served.host, served.port) as client:
        balance = await client.ask("bank", Deposit("alice", 100))
        assert balance.cents == 100
        with pytest.raises(Rejected):
            await client.ask("bank", Withdraw("alice", 101))
        assert (await client.query("bank", BalanceOf("alice"))).cents == 100


def test_replies_are_the_promised_classes_and_no_is_an_exception(served: Served) -> None:
    asyncio.run(ask_typed(served))
    with BlockingClient(served.host, served.port) as client:
        assert client.ask("bank", Deposit("alice", 1)).cents == 101
        with pytest.raises(Rejected):
            client.ask("bank", Withdraw("alice", 102))
        assert client.query("bank", BalanceOf("alice")).cents == 101


def test_many_tasks_share_the_window_and_their_commands_keep_their_order(served: Served) -> None:
    async def run() -> None:
        async with Client(served.host, served.port) as client:
            asked = [client.ask("bank", Deposit("alice", 1)) for _ in range(WINDOW * 20)]
            balances = await asyncio.gather(*asked)
        assert [balance.cents for balance in balances] == list(range(1, WINDOW * 20 + 1))

    asyncio.run(run())


def test_ask_many_fills_the_window_and_returns_replies_in_order(served: Served) -> None:
    with BlockingClient(served.host, served.port) as client:
        commands = [
            Deposit("alice", 1) if n % 10 else Withdraw("alice", 10**9) for n in range(1000)
        ]
        replies = client.ask_many(("bank", command) for command in commands)

    assert sum(isinstance(reply, Rejected) for reply in replies) == 100
    assert [reply.cents for reply in replies if not isinstance(reply, Exception)] == list(
        range(1, 901)
    )


def test_every_command_is_applied_once_though_connections_are_cut_anywhere(served: Served) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)

    async def run() -> None:
        proxy = CuttingProxy(served.port, rng, 6000)
        async with proxy.running() as port:
            async with Client("127.0.0.1", port) as client:
                asked = [client.ask("bank", Deposit("alice", 1)) for _ in range(1500)]
                balances = await asyncio.gather(*asked)
            assert [balance.cents for balance in balances] == list(range(1, 1501))
            assert proxy.cuts > 3, "the proxy never cut"

    asyncio.run(run())


def test_the_blocking_client_applies_once_through_cuts_as_well(served: Served) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    proxy = CuttingProxy(served.port, random.Random(seed), 6000)
    ports: list[int] = []
    done = threading.Event()

    async def run() -> None:
        async with proxy.running() as port:
            ports.append(port)
            while not done.is_set():
                await asyncio.sleep(0.005)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        until(lambda: ports, "the proxy listens")
        with BlockingClient("127.0.0.1", ports[0]) as client:
            replies = client.ask_many(("bank", Deposit("alice", 1)) for _ in range(1000))
    finally:
        done.set()
        thread.join()

    assert [getattr(reply, "cents", reply) for reply in replies] == list(range(1, 1001))
    assert proxy.cuts > 3, "the proxy never cut"


def test_a_late_answer_is_unknown_and_can_be_resolved(served: Served) -> None:
    async def run() -> None:
        async with Client(served.host, served.port) as client:
            await client.ask("bank", Deposit("alice", 1))
            served.frozen.set()
            with pytest.raises(Unknown) as unknown:
                await client.ask("bank", Deposit("alice", 10), deadline_s=0.05)
            with pytest.raises(TimedOut):
                await client.query("bank", BalanceOf("alice"), deadline_s=0.05)
            with pytest.raises(Unknown):
                await client.resolve(unknown.value.request, deadline_s=0.05)
            served.frozen.clear()
            assert (await client.resolve(unknown.value)).cents == 11
            assert (await client.ask("bank", Deposit("alice", 1))).cents == 12

    asyncio.run(run())
    with BlockingClient(served.host, served.port) as client:
        served.frozen.set()
        with pytest.raises(Unknown) as unknown:
            client.ask("bank", Deposit("alice", 10), deadline_s=0.05)
        served.frozen.clear()
        assert client.ask("bank", Deposit("alice", 1)).cents == 23
        assert client.resolve(unknown.value).cents == 22


def test_another_process_resumes_the_session_and_learns_how_the_last_command_ended(
    served: Served,
) -> None:
    with BlockingClient(served.host, served.port, keep=True) as first:
        first.ask("bank", Deposit("alice", 5))
        served.frozen.set()
        with pytest.raises(Unknown):
            first.ask("bank", Deposit("alice", 6), deadline_s=0.05)
        session_id, unknown = first.session_id, first.last_request
        served.frozen.clear()
    here = [(served.host, served.port)]
    with BlockingClient.connect(here, session=session_id) as second:
        assert second.resolve(unknown, "bank", Deposit("alice", 6)).cents == 11
        assert second.ask("bank", Deposit("alice", 1)).cents == 12


def test_a_forgotten_session_is_an_error_and_not_a_new_session(served: Served) -> None:
    assert isinstance(served.behind, Fold)
    sessions = served.behind.machine.state.sessions
    with BlockingClient(served.host, served.port) as client:
        client.ask("bank", Deposit("alice", 5))
        sessions.close(client.session_id)
        with pytest.raises(SessionExpired):
            client.ask("bank", Deposit("alice", 6))
        with pytest.raises(SessionExpired):
            client.ask("bank", Deposit("alice", 6))
        with pytest.raises(SessionExpired):
            BlockingClient.connect(
                [(served.host, served.port)], session=client.session_id
            ).__enter__()


def test_a_client_that_leaves_nothing_unknown_closes_its_session(served: Served) -> None:
    assert isinstance(served.behind, Fold)
    sessions = served.behind.machine.state.sessions
    with BlockingClient(served.host, served.port) as client:
        client.ask("bank", Deposit("alice", 5))
        assert sessions.find(client.session_id) is not None
    until(lambda: not len(sessions), "the session is closed")


def test_events_arrive_in_order_with_positions_to_go_on_from(cells: Served) -> None:
    async def run() -> None:
        async with Client(cells.host, cells.port) as client:
            for cents in range(1, 6):
                await client.ask("a", Write(cents))
            await client.ask("b", Write(1))
            stream = client.subscribe(actor=Cell, key="a")
            first = [await anext(stream) for _ in range(3)]
            await stream.aclose()  # pyright: ignore[reportAttributeAccessIssue]
            rest = client.subscribe(actor=Cell, key="a", after=first[-1].position)
            second = [await anext(rest) for _ in range(2)]
            await client.ask("a", Write(6))
            second.append(await anext(rest))
            await rest.aclose()  # pyright: ignore[reportAttributeAccessIssue]
        assert [event.message.value for event in first + second] == [1, 2, 3, 4, 5, 6]
        assert {event.key for event in first + second} == {"a"}

    asyncio.run(run())


def test_the_blocking_client_iterates_over_events_until_a_silence(cells: Served) -> None:
    with BlockingClient(cells.host, cells.port) as client:
        client.ask_many(("a", Write(cents)) for cents in range(1, 30))
        events = list(client.events(actor=Cell, silence_s=2.0))
    assert [event.message.value for event in events] == list(range(1, 30))


def test_no_event_is_missed_or_repeated_though_connections_are_cut(cells: Served) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)

    async def run() -> None:
        proxy = CuttingProxy(cells.port, rng, 4000)
        async with proxy.running() as port:
            async with (
                Client("127.0.0.1", port) as watcher,
                Client(cells.host, cells.port) as client,
            ):
                found: list[int] = []

                async def watch() -> None:
                    async for event in watcher.subscribe(actor=Cell):
                        found.append(event.message.value)
                        if len(found) == 400:
                            return

                watching = asyncio.create_task(watch())
                for cents in range(1, 401):
                    await client.ask("a", Write(cents))
                await watching
            assert found == list(range(1, 401))
            assert proxy.cuts > 1, "the proxy never cut"

    asyncio.run(run())


def test_a_subscriber_is_told_that_events_are_gone() -> None:
    limits = Limits(session_window=WINDOW, events_kept_max=5)
    with (
        Served(Fold(cells_app, limits), window=WINDOW) as cells,
        BlockingClient(cells.host, cells.port) as client,
    ):
        client.ask_many(("a", Write(1)) for _ in range(20))
        with pytest.raises(EventsLost) as lost:
            next(client.events(actor=Cell))
        left = list(client.events(actor=Cell, after=lost.value.floor, silence_s=2.0))
    assert len(left) == 5


def test_nobody_there_is_said_in_a_sentence() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]

        async def run() -> None:
            with pytest.raises(Disconnected, match=f"No leftfold answers at 127.0.0.1:{port}"):
                async with Client("127.0.0.1", port, connect_s=1.0):
                    pass

        asyncio.run(run())
        with pytest.raises(Disconnected, match=f"No leftfold answers at 127.0.0.1:{port}"):
            BlockingClient("127.0.0.1", port, connect_s=1.0).__enter__()


def test_a_window_of_large_replies_is_confirmed_and_goes_on() -> None:
    """The cluster keeps a session's replies up to a size; beyond it requests come back and go out again."""
    limits = Limits(
        session_window=WINDOW,
        session_replies_bytes_max=600,
        reply_bytes_max=600,
        reason_bytes_max=100,
    )
    with (
        Served(Fold(app, limits), window=WINDOW) as served,
        BlockingClient(served.host, served.port) as client,
    ):
        replies = client.ask_many(("bank", Deposit("alice", 1)) for _ in range(500))
    assert [getattr(reply, "cents", reply) for reply in replies] == list(range(1, 501))
