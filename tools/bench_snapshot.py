"""What a snapshot costs: time and size, beside pickle and Redis, and what a fork for it copies.

    python -m leftfold.tools.bench_snapshot [--accounts N] [--runs N] [--fork] [--json]

The state is N accounts (a million by default), once in one ledger and once as an actor each. The
same state is pickled (protocol 5), and put into a Redis of its own, as one hash or as a key each,
where `redis-server` is installed. With `--fork` each state is also written by a forked child, with
and without `gc.freeze`; and commands run in batches without a snapshot, beside a forked child, and
with slices of the state encoded between them (stalls.py). Times are medians of the runs with the shortest beside them, in a process
that has the state already; garbage collection rests in all of them. There is no threshold here.
"""

import gc
import pickle
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import Any

from attrs import asdict
from rich.console import Console
from rich.table import Table

from ..actors.ledger import Account, Deposit, Ledger, PayIn
from ..actors.ledger import app as ledger
from ..actors.machine import Machine
from ..runtime.snapshotfile import Encoder
from .bgsave import RedisAbsent, measure_bgsave
from .copied import HEADER, MIB, measure_fork
from .figures import command_line, give, machine
from .stalls import KINDS, Keyed, measure_stalls

LEVELS = (1, 3)
SHAPES = ("one ledger", "an actor each")
SEED = 1
BATCHES = 10_000
Figures = dict[str, float]


def balances(count: int) -> Iterator[tuple[str, int]]:
    """Names and amounts that differ in length."""
    for number in range(count):
        yield f"account {number}", number * 7_919 % 1_000_003


def machine_of(shape: str, count: int) -> Machine:
    """A machine with so many accounts."""
    machine = Machine(ledger, None, SEED)
    state = machine.state
    if shape == SHAPES[0]:
        actor = ledger.actor_type(Ledger)
        state.actors[actor.id][b"ledger"] = Ledger(dict(balances(count)))
        state.actors_count = 1
    else:
        actor = ledger.actor_type(Account)
        accounts = ((name.encode(), Account(cents)) for name, cents in balances(count))
        state.actors[actor.id].update(accounts)
        state.actors_count = count
    return machine


def commands_of(shape: str, count: int) -> Callable[[Random], Keyed]:
    """A deposit into one of the accounts, whichever."""

    def deposit(chance: Random) -> Keyed:
        name = f"account {chance.randrange(count)}"
        return (b"ledger", Deposit(name, 1)) if shape == SHAPES[0] else (name.encode(), PayIn(1))

    return deposit


def measure(shape: str, count: int) -> Figures:
    """Every figure of one shape, once."""
    machine = machine_of(shape, count)
    encode_s, _ = timed(lambda: list(machine.snapshot(verify=False)))
    verified_s, chunks = timed(lambda: list(machine.snapshot(verify=True)))
    found: Figures = {
        "encode_s": encode_s,
        "encode_and_verify_s": verified_s,
        "content_bytes": sum(map(len, chunks)),
    }
    for level in LEVELS:
        compress_s, size = timed(lambda level=level: file_bytes(chunks, level))
        found[f"zstd_{level}_s"] = compress_s
        found[f"zstd_{level}_bytes"] = size
    found["restore_s"], restored = timed(lambda: Machine.restore(ledger, None, SEED, chunks))
    assert restored.state_digest() == machine.state_digest()
    del restored
    actors = machine.state.actors
    found["pickle_s"], pickled = timed(lambda: pickle.dumps(actors, 5))
    found["pickle_bytes"] = len(pickled)
    found["unpickle_s"], _ = timed(lambda: pickle.loads(pickled))
    return found


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """The seconds that a call takes, and what it returns."""
    gc.collect()
    gc.disable()
    try:
        started_s = time.perf_counter()
        found = call()
        return time.perf_counter() - started_s, found
    finally:
        gc.enable()


def file_bytes(chunks: list[bytes], level: int) -> int:
    """The size of the file."""
    encoder = Encoder(HEADER, level)
    size = len(encoder.header())
    for chunk in chunks:
        size += len(encoder.chunk(chunk))
    return size + len(encoder.end())


def run(count: int, runs: int, with_forks: bool) -> dict[str, Any]:
    """All figures, by shape."""
    shapes: dict[str, Any] = {}
    redis = "measured"
    for shape in SHAPES:
        measured: dict[str, list[float]] = {}
        for _ in range(runs):
            figures = measure(shape, count)
            try:
                dump = measure_bgsave(balances(count), shape == SHAPES[0])
                redis = f"version {dump.version}"
                figures["bgsave_s"] = dump.save_s
                figures["bgsave_bytes"] = dump.dump_bytes
                figures["redis_load_s"] = dump.load_s
            except RedisAbsent as absent:
                redis = str(absent)
            for name, value in figures.items():
                measured.setdefault(name, []).append(value)
        medians = {name: statistics.median(values) for name, values in measured.items()}
        forks: list[dict[str, Any]] = []
        if with_forks:
            for frozen in (True, False):
                found = measure_fork(lambda shape=shape: machine_of(shape, count), frozen)
                forks.append(asdict(found))
        stalls: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
        for _ in range(runs if with_forks else 0):
            build = partial(machine_of, shape, count)
            for one in measure_stalls(build, commands_of(shape, count), BATCHES):
                stalls[one.kind].append(asdict(one))
        shapes[shape] = {"median": medians, "runs": measured, "forks": forks, "stalls": stalls}
    return {
        "machine": machine(),
        "redis": redis,
        "accounts": count,
        "shapes": shapes,
    }


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    console = Console()
    machine = found["machine"]
    title = (
        f"{found['accounts']:,} accounts; {machine['cores']} cores, Linux {machine['kernel']}, "
        f"Python {machine['python']}; Redis: {found['redis']}"
    )
    console.print(title)
    table = Table(
        "figure", *(f"{shape}: {what}" for shape in SHAPES for what in ("median", "least"))
    )
    shapes = found["shapes"]
    for name in shapes[SHAPES[0]]["median"]:
        cells: list[str] = []
        for shape in SHAPES:
            cells.append(_shown(name, shapes[shape]["median"][name]))
            cells.append(_shown(name, min(shapes[shape]["runs"][name])))
        table.add_row(name, *cells)
    console.print(table)
    forks = [(shape, fork) for shape in SHAPES for fork in shapes[shape]["forks"]]
    if not forks:
        return
    table = Table("a forked child", *(_column(shape, fork["frozen"]) for shape, fork in forks))
    for name in forks[0][1]:
        if name != "frozen":
            table.add_row(name, *(_shown(name, fork[name]) for _, fork in forks))
    console.print(table)
    for shape in SHAPES:
        stalls = shapes[shape]["stalls"]
        table = Table(f"{shape}: batches, medians of the runs", *stalls)
        for name in next(iter(stalls.values()))[0]:
            if name not in ("kind", "batches"):
                medians = (statistics.median(run[name] for run in runs) for runs in stalls.values())
                table.add_row(name, *(_stall(name, median) for median in medians))
        console.print(table)


def _stall(name: str, value: float) -> str:
    if name == "commands_per_s":
        return f"{value:,.0f}"
    return f"{value * 1e3:.3f} ms" if name.endswith("_s") else f"{value / MIB:.1f} MiB"


def _column(shape: str, frozen: bool) -> str:
    return f"{shape}, frozen" if frozen else f"{shape}, not frozen"


def _shown(name: str, value: float) -> str:
    if name == "fork_s":
        return f"{value * 1e3:.1f} ms"
    return f"{value:.2f} s" if name.endswith("_s") else f"{value / MIB:.1f} MiB"


def main() -> None:
    """Measure and print."""
    parser = command_line(__doc__)
    parser.add_argument("--accounts", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--fork", action="store_true", help="measure forked children as well")
    given = parser.parse_args()
    give(run(given.accounts, given.runs, given.fork), show, as_json=given.json)


if __name__ == "__main__":
    main()
