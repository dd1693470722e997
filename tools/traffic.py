"""Order flow sent to a replica as clients send it: in sessions and pipelines, each reply awaited.

All orders of a symbol go through one session, so that they reach its book in the order of the flow.
What is measured is what the clients see, in this one process: from the call to the reply, the
waiting for a place in the pipeline left out.
"""

import asyncio
import hashlib
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from attrs import define, field

from ..actors.exchange import Depth, DepthOf, Placed
from ..actors.message import Command
from ..runtime.client import Client
from ..runtime.errors import OperatorError
from ..runtime.failures import ClientError, Rejected

SESSIONS = 4
PIPELINE = 32
DEPTH_LEVELS = 500

Order = tuple[str, Command[Any]]
Address = tuple[str, int]


@define
class Sent:
    """What came of a flow."""

    latencies_ns: list[int] = field(factory=list[int])
    seconds: float = 0.0
    rejected: int = 0
    traded: int = 0
    gap_ns: int = 0
    """The longest time in which no order was answered."""
    last_ns: int = 0

    def answered(self, now_ns: int) -> None:
        """An order was."""
        if self.last_ns:
            self.gap_ns = max(self.gap_ns, now_ns - self.last_ns)
        self.last_ns = now_ns

    @property
    def orders(self) -> int:
        """How many were answered."""
        return len(self.latencies_ns)

    def percentile_ns(self, percent: float) -> int:
        """The latency that this share of the orders did not exceed."""
        ordered = sorted(self.latencies_ns)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


async def send(
    host: str,
    port: int,
    orders: Sequence[Order],
    progress: Callable[[int], None],
    others: tuple[Address, ...] = (),
) -> Sent:
    """Send everything, and wait for every reply. `others`: more addresses of the same cluster."""
    sent = Sent()
    lanes: list[list[Order]] = [[] for _ in range(SESSIONS)]
    for order in orders:
        lanes[zlib.crc32(order[0].encode()) % SESSIONS].append(order)
    clients = [Client(host, port, others) for _ in lanes]
    try:
        for client in clients:
            await client.__aenter__()
        ticker = asyncio.create_task(_tick(sent, progress))
        begin_s = time.perf_counter()
        flows = [iter(lane) for lane in lanes]
        await asyncio.gather(
            *(
                _drive(client, flow, sent)
                for client, flow in zip(clients, flows, strict=True)
                for _ in range(PIPELINE)
            )
        )
        sent.seconds = time.perf_counter() - begin_s
        ticker.cancel()
    except ClientError as error:
        raise OperatorError(f"An order was not answered: {error}.") from None
    finally:
        for client in clients:
            await client.aclose()
    progress(sent.orders)
    return sent


async def _tick(sent: Sent, progress: Callable[[int], None]) -> None:
    while True:
        progress(sent.orders)
        await asyncio.sleep(0.1)


async def _drive(client: Client, flow: Iterator[Order], sent: Sent) -> None:
    """One place of a session's pipeline: the next order as soon as the last is answered."""
    clock = time.perf_counter_ns
    for symbol, command in flow:
        begin_ns = clock()
        try:
            reply = await client.ask(symbol, command)
        except Rejected:
            sent.rejected += 1
        else:
            if type(reply) is Placed and reply.traded:
                sent.traded += 1
        now_ns = clock()
        sent.latencies_ns.append(now_ns - begin_ns)
        sent.answered(now_ns)


async def books(
    host: str, port: int, symbols: Sequence[str], others: tuple[Address, ...] = ()
) -> dict[str, Depth]:
    """Every book, as a client is answered now."""
    found: dict[str, Depth] = {}
    async with Client(host, port, others) as client:
        for symbol in symbols:
            found[symbol] = await client.query(symbol, DepthOf(DEPTH_LEVELS))
    return found


def digest(books: dict[str, Depth]) -> str:
    """A digest of what clients were answered about all books."""
    content = "\n".join(f"{symbol} {depth!r}" for symbol, depth in sorted(books.items()))
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
