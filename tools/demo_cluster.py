"""The demo with three replicas: an exchange under order flow, its leader killed with -9 in the middle of it.

Shown, and named for what it is: for how long no order was answered; that every book is what the same orders give when they are
folded in this process, without any cluster, so that none was lost and none applied twice; and that all three replicas, the
killed one too once it has caught up, chain the same digest over all outputs and fold to the same state.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import define, field
from rich.console import Console

from ..actors.errors import Rejected
from ..actors.exchange import DepthOf, OrderBook
from ..actors.exchange import app as exchange
from ..actors.testing import Folded
from ..runtime.errors import OperatorError
from ..runtime.slots import CONTROL_STATUS
from .asked import ask
from .cluster import Layout, Members, figures, kill, leader_of
from .paper import paper
from .tally import tally
from .traffic import DEPTH_LEVELS, PIPELINE, SESSIONS, Address, Order, Sent, books, digest, send

APP = "leftfold.actors.exchange:app"
AGREE_S = 60.0
POLL_S = 0.05


@define(eq=False)
class Flow:
    """The orders, sent from a thread of their own."""

    addresses: Sequence[Address]
    orders: list[Order]
    answered: int = field(default=0, init=False)
    sent: Sent | None = field(default=None, init=False)
    failure: BaseException | None = field(default=None, init=False)
    thread: threading.Thread = field(init=False)

    def start(self) -> None:
        """Begin."""
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        (host, port), *others = self.addresses
        try:
            self.sent = asyncio.run(send(host, port, self.orders, self._note, tuple(others)))
        except BaseException as failure:  # noqa: BLE001 - raised where it is waited for
            self.failure = failure

    def _note(self, answered: int) -> None:
        self.answered = answered

    def wait_for(self, answered: int) -> None:
        """Until so many orders are answered, or all that ever will be."""
        while self.answered < answered and self.thread.is_alive():
            time.sleep(POLL_S)

    def end(self) -> Sent:
        """Until all are."""
        self.thread.join()
        if self.failure is not None:
            raise self.failure
        assert self.sent is not None
        return self.sent


def demo_cluster(flow: list[Order], source: str, directory: Path) -> int:
    """Run it; 0 if everything agrees."""
    console = paper(soft_wrap=True)
    layout = Layout.found(directory, APP, 3, 0)
    with (directory / "output.txt").open("ab") as errors:
        members = Members(layout, errors=errors)
        try:
            for id in layout.places:
                members.start(id)
            members.wait_ready()
            return _show(console, members, flow, source)
        finally:
            members.kill()


def _show(console: Console, members: Members, flow: list[Order], source: str) -> int:
    layout = members.layout
    where = ", ".join(f"{place.host}:{place.port}" for place in layout.places.values())
    console.print(
        f"An exchange runs on three replicas ({where}), their logs in {layout.directory}."
    )
    console.print(f"Sending {len(flow)} orders from {source}.")
    sending = Flow(layout.addresses, flow)
    sending.start()
    sending.wait_for(len(flow) // 2)
    leader = leader_of(layout)
    term = figures(layout.places[leader])["term"]
    at = sending.answered
    kill(layout.places[leader])
    console.print(
        f"\nkill -9 of replica {leader}, the leader of term {term}, after {at} orders: all five of its processes."
    )
    sent = sending.end()
    heir = _wait_for_leader(layout)
    console.print(
        f"Replica {heir} leads term {figures(layout.places[heir])['term']}. "
        f"The longest time without an answer was {sent.gap_ns / 1e6:.0f} ms."
    )
    members.members[leader].close()
    members.start(leader)
    members.wait_ready()
    agreed = _wait_until_equal(layout)
    console.print(f"Replica {leader} was started again and has caught up, at index {agreed[0]}.\n")
    p50, p99 = (sent.percentile_ns(percent) / 1e6 for percent in (50, 99))
    console.print(
        f"{sent.orders} orders answered, each after two of three disks had it: "
        f"{sent.orders / sent.seconds:.0f} per second from one Python client process, "
        f"{SESSIONS} sessions with {PIPELINE} in flight each; p50 {p50:.2f} ms, p99 {p99:.2f} ms."
    )
    same = _compare(console, members, flow, agreed)
    if not same:
        print("The replicas, or the orders, do not agree.", file=sys.stderr)
    return 0 if same and sent.orders == len(flow) else 1


def _wait_for_leader(layout: Layout) -> int:
    deadline = time.monotonic() + AGREE_S
    while not (found := leader_of(layout)):
        if time.monotonic() > deadline:
            raise OperatorError("No replica leads.")
        time.sleep(POLL_S)
    return found


def _wait_until_equal(layout: Layout) -> tuple[int, int]:
    """(index, digest) where all replicas are."""
    deadline = time.monotonic() + AGREE_S
    while True:
        found: list[dict[str, Any]] = [ask(address, CONTROL_STATUS) for address in layout.addresses]
        seen = {(one["applied"], one["digest"]) for one in found}
        if len(seen) == 1 and found[0]["applied"] == found[0]["log"]["last"]:
            return seen.pop()
        if time.monotonic() > deadline:
            return max(seen)
        time.sleep(POLL_S)


def _compare(
    console: Console, members: Members, flow: list[Order], agreed: tuple[int, int]
) -> bool:
    layout = members.layout
    symbols = sorted({symbol for symbol, _ in flow})
    (host, port), *others = layout.addresses
    answered = digest(asyncio.run(books(host, port, symbols, tuple(others))))
    expected = digest(_fold(flow, symbols))
    outputs = [f"{ask(address, CONTROL_STATUS)['digest']:08x}" for address in layout.addresses]
    members.stop()
    folded = [tally(place.directory, agreed[0]) for place in layout.places.values()]
    rows = (
        ("all books, against the same orders without a cluster", [expected, answered]),
        ("all outputs, as the three replicas say", outputs),
        ("the whole state, folded from each log", [one.state_digest for one in folded]),
    )
    same = True
    for what, values in rows:
        equal = len(set(values)) == 1
        same &= equal
        shown = values[0][:32] if equal else " / ".join(value[:32] for value in values)
        console.print(f"{'same' if equal else 'DIFFERENT'}  {what}: {shown}", markup=False)
    return same


def _fold(flow: list[Order], symbols: list[str]) -> dict[str, Any]:
    """What the books are when nothing ever fails."""
    folded = Folded(exchange, strict=False)
    for symbol, command in flow:
        try:
            folded.ask(symbol, command)
        except Rejected:
            pass
    return {
        symbol: folded.actor(OrderBook, symbol).depth(DepthOf(DEPTH_LEVELS)) for symbol in symbols
    }
