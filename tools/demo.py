"""`leftfold demo`: an exchange under order flow, killed with -9 in the middle of it or behind it, and compared.

With three replicas the leader is killed while the orders flow (demo_cluster.py). With one, all of it is killed, and
started again. Then three things are compared, and each is named for what it is: what clients are answered about every
book before and after; the digest of all outputs, folded from the log before against what the
restarted replica says itself; and the digest of the whole state, folded from the log before and
after. Everything it starts and makes is gone at the end, also after Ctrl-C; with `--keep` the data
stays. What a demo that was killed with -9 leaves in the temporary directory, the next one removes.
"""

import asyncio
import collections
import contextlib
import sys
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from ..actors.exchange import Depth
from ..runtime.errors import OperatorError
from .child import Child
from .demo_cluster import demo_cluster
from .orderflow import Action, FlowError, generate, read_csv, read_pitch, to_command
from .paper import paper
from .ranges import SEED_MAX, between
from .scratch import scratch
from .tally import Tally, tally
from .terminated import terminated_like_interrupted
from .traffic import PIPELINE, SESSIONS, Order, Sent, books, digest, send

APP = "leftfold.actors.exchange:app"
TOPS_SHOWN = 8
PRICE_UNIT = 10_000
"""Prices are ten-thousandths, as in the exchange's own feed."""


def demo(
    *,
    file: Path | None = None,
    orders: Annotated[int, between(1, 100_000_000)] = 50_000,
    seed: Annotated[int, between(0, SEED_MAX)] = 1,
    replicas: Literal[1, 3] = 3,
    keep: Path | None = None,
) -> int:
    """Send order flow to an exchange, kill it with -9 (of three replicas the leader), and compare.

    Parameters
    ----------
    replicas
        Three, of which the leader is killed in the middle; or one, which is killed at the end and started again.
    file
        Send these orders: a .txt in the PITCH format or a .csv. Default: a generated flow.
    orders
        How many orders to send.
    seed
        The seed of the generated flow.
    keep
        Keep the data in this directory, which must be empty or missing.
    """
    source = f"{file}" if file else f"a generated flow with seed {seed}"
    flow = [to_command(action) for action in _actions(file, orders, seed)]
    if not flow:
        raise OperatorError(f"There are no orders in {source}: choose another file.")
    with (
        terminated_like_interrupted(),
        scratch("leftfold-demo") if keep is None else _kept(keep) as directory,
    ):
        if replicas > 1:
            return demo_cluster(flow, source, directory / "cluster")
        child = Child(APP, directory / "exchange")
        try:
            return _show(child, flow, source)
        finally:
            if hasattr(child, "process"):
                child.kill()


def _actions(file: Path | None, orders: int, seed: int) -> Sequence[Action]:
    if file is None:
        return list(generate(seed, orders))
    if file.suffix not in (".txt", ".csv"):
        raise OperatorError(f"{file} is neither a .txt (PITCH) nor a .csv file.")
    read = read_csv if file.suffix == ".csv" else read_pitch
    try:
        return list(islice(read(file), orders))
    except FlowError as error:
        raise OperatorError(f"{error}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"Cannot read {file}: {error}.") from None


def _kept(keep: Path) -> contextlib.AbstractContextManager[Path]:
    """A directory that stays."""
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise OperatorError(
            f"{keep} is not an empty directory: choose another to keep the data in."
        )
    keep.mkdir(parents=True, exist_ok=True)
    return contextlib.nullcontext(keep)


def _show(child: Child, flow: list[Order], source: str) -> int:
    console = paper(soft_wrap=True)
    child.start()
    console.print(f"An exchange runs on port {child.port}, its log in {child.directory}.")
    sent = _send(child, flow, source, console)
    symbols = sorted({symbol for symbol, _ in flow})
    before = asyncio.run(books("127.0.0.1", child.port, symbols))
    folded = tally(child.directory)
    _print_sent(console, sent, folded, len(symbols))
    _print_tops(console, before, flow)

    console.print("\nkill -9: the supervisor and its four processes.")
    child.kill()
    begin_s = time.monotonic()
    child.start()
    restart_s = time.monotonic() - begin_s
    console.print(
        f"Ready again after {restart_s:.2f} s, {child.ready['index']} entries replayed from disk."
    )
    after = asyncio.run(books("127.0.0.1", child.port, symbols))
    same = _print_comparison(console, child, folded, digest(before), digest(after))
    child.stop()
    return 0 if same and folded.commands >= len(flow) else 1


def _send(child: Child, flow: list[Order], source: str, console: Console) -> Sent:
    count = len(flow)
    if not console.is_terminal:
        console.print(f"Sending {count} orders from {source}.")
        return asyncio.run(send("127.0.0.1", child.port, flow, lambda done: None))
    columns = (
        TextColumn(f"Sending {source}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("orders", total=count)
        return asyncio.run(
            send(
                "127.0.0.1",
                child.port,
                flow,
                lambda done: bar.update(task, completed=done),
            )
        )


def _print_sent(console: Console, sent: Sent, folded: Tally, symbols: int) -> None:
    trades = folded.events.get("Traded", 0)
    p50, p99, p999 = (sent.percentile_ns(percent) / 1e6 for percent in (50, 99, 99.9))
    console.print(
        f"{sent.orders} orders for {symbols} books answered, each after it was synced to disk: "
        f"{trades} trades, {sent.rejected} rejected."
    )
    console.print(
        f"{sent.orders / sent.seconds:.0f} orders per second from one Python client process, "
        f"{SESSIONS} sessions with {PIPELINE} orders in flight each."
    )
    console.print(f"End to end: p50 {p50:.2f} ms, p99 {p99:.2f} ms, p99.9 {p999:.2f} ms.")


def _print_tops(console: Console, found: dict[str, Depth], flow: list[Order]) -> None:
    busiest = collections.Counter(symbol for symbol, _ in flow).most_common(TOPS_SHOWN)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("book")
    for heading in ("orders sent", "bid", "quantity", "ask", "quantity"):
        table.add_column(heading, justify="right")
    for symbol, count in busiest:
        depth = found[symbol]
        table.add_row(symbol, str(count), *_top(depth.buys), *_top(depth.sells))
    console.print(table)


def _top(levels: "list[tuple[int, int, int]]") -> tuple[str, str]:
    if not levels:
        return "-", "-"
    price, quantity, _ = levels[0]
    return f"{price / PRICE_UNIT:.4f}", str(quantity)


def _print_comparison(
    console: Console, child: Child, before: Tally, books_before: str, books_after: str
) -> bool:
    after = tally(child.directory, before.index)
    replayed = f"{child.ready['digest']:08x}"
    # What the restarted replica says covers the entries it added by starting: they put nothing out.
    rows = (
        ("all books, as clients are answered", books_before, books_after),
        ("all outputs, as the replica says", before.outputs_digest, replayed),
        ("the whole state, folded from the log", before.state_digest, after.state_digest),
    )
    same = True
    for what, old, new in rows:
        same &= old == new
        console.print(f"{'same' if old == new else 'DIFFERENT'}  {what}: {old[:32]}", markup=False)
        if old != new:
            console.print(f"           after: {new[:32]}", markup=False)
    if not same:
        print("The state after the restart is not the state before.", file=sys.stderr)
    return same
