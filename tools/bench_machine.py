"""What the machine alone costs for a transfer in the ledger, from the entry to the reply.

    python -m leftfold.tools.bench_machine [--commands N] [--runs N] [--accounts N] [--json]

Transfers of eight sessions, each with up to 1,024 requests unanswered, in entries of 2,500: dispatch,
admission, decoding, the handler, encoding, the kept reply, the digest and the handlers' figures. The
same entries go through a machine that counts no calls, so what the figures cost shows, and through the
road in Python that a watched machine takes; and each part is measured by itself: what is left of the
whole is the rest. Runs of all of them follow one another, so that a disturbance
meets all; the figures are CPU time per transfer, the least of the runs, which is the one that was
disturbed least, and their median. Garbage collection rests. There is no threshold here.
"""

import gc
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import repeat
from random import Random
from typing import Any

from attrs import define
from rich.console import Console
from rich.table import Table

from ..actors.app import encode_body
from ..actors.layout import COMMAND, EntryKind, SlotType, padded
from ..actors.ledger import Ledger, Transfer, Transferred
from ..actors.ledger import app as ledger
from ..actors.machine import Machine, Outputs
from ..actors.plain import plain
from .figures import command_line, give, machine

SESSIONS = 8
UNANSWERED_MAX = 1_024
ENTRY_COMMANDS = 2_500
KEY = b"ledger"
SEED = 1
FIGURES = 512
"""Words for the handlers' figures."""
Figures = dict[str, float]


@define
class Work:
    """A log of transfers, made before anything is measured."""

    entries: list[bytes]
    bodies: list[bytes]
    accounts: int

    def machine(self, watched: bool, counted: bool = True) -> Machine:
        """A machine with the accounts and the sessions, before the first transfer."""
        figures = memoryview(bytearray(8 * FIGURES)).cast("Q") if counted else None
        watch = _ignore if watched else None
        machine = Machine(ledger, None, SEED, watch=watch, figures=figures)
        actor = ledger.actor_type(Ledger)
        machine.state.actors[actor.id][KEY] = self.ledger()
        machine.state.actors_count = 1
        opens = b"".join(
            COMMAND.pack(COMMAND.size, SlotType.OPEN, 0, _session(number), 0, 0, 0, 0)
            for number in range(SESSIONS)
        )
        machine.apply(1, 0, EntryKind.COMMANDS, opens, outputs=Outputs())
        return machine

    def ledger(self) -> Ledger:
        """The accounts, each with enough for every transfer."""
        return Ledger({_account(number): 10**9 for number in range(self.accounts)})


def work_of(commands: int, accounts: int) -> Work:
    """The log: sessions take turns as a gateway would find them, some commands from each."""
    rng = Random(SEED)
    bodies: list[bytes] = []
    slots: list[bytes] = []
    requests = [0] * SESSIONS
    while len(slots) < commands:
        session = rng.randrange(SESSIONS)
        for _ in range(min(rng.randrange(1, 33), commands - len(slots))):
            source, target = rng.sample(range(accounts), 2)
            command = Transfer(_account(source), _account(target), rng.randrange(1, 100))
            id, body = ledger.encode(command)
            requests[session] += 1
            request = requests[session]
            head = COMMAND.pack(
                COMMAND.size + len(KEY) + len(body),
                SlotType.COMMAND,
                id,
                _session(session),
                request,
                min(request, UNANSWERED_MAX),
                len(KEY),
                0,
            )
            bodies.append(body)
            slots.append(padded(head + KEY + body))
    entries = [
        b"".join(slots[at : at + ENTRY_COMMANDS]) for at in range(0, commands, ENTRY_COMMANDS)
    ]
    return Work(entries, bodies, accounts)


def measure(work: Work, rotation: int = 0) -> Figures:
    """Nanoseconds per transfer of the whole, on each road, and of each part, once."""
    found: Figures = {}
    digests: set[int] = set()
    roads = (("machine_ns", False, True), ("uncounted_ns", False, False), ("python_ns", True, True))
    for name, watched, counted in roads if rotation % 2 else roads[::-1]:
        machine = work.machine(watched, counted)
        found[name] = timed(lambda machine=machine: fold(machine, work.entries))
        digests.add(machine.digest)
    assert len(digests) == 1, "the two roads answer differently"
    reads, writes = plain(Transfer), plain(Transferred)
    assert reads is not None and writes is not None
    by_msgspec = ledger.route_for(Transfer).decode
    found["decode_ns"] = timed(lambda: exhaust(map(reads.decode, work.bodies)))
    found["msgspec_decode_ns"] = timed(lambda: exhaust(map(by_msgspec, work.bodies)))
    messages: list[Any] = list(map(reads.decode, work.bodies))
    handler: Callable[..., Transferred] = Ledger.transfer
    actors, contexts = repeat(work.ledger()), repeat(None)  # A transfer asks its context nothing.
    found["handler_ns"] = timed(lambda: exhaust(map(handler, actors, messages, contexts)))
    reply, times = Transferred(10**9 - 5_000, 10**9 + 5_000), len(messages)
    found["encode_ns"] = timed(lambda: exhaust(map(writes.encode, repeat(reply, times))))
    found["msgspec_encode_ns"] = timed(lambda: exhaust(map(encode_body, repeat(reply, times))))
    return {name: elapsed / len(work.bodies) for name, elapsed in found.items()}


def fold(machine: Machine, entries: list[bytes]) -> None:
    """What logic does with each entry."""
    outputs = Outputs()
    for index, entry in enumerate(entries, 2):
        machine.apply(index, 0, EntryKind.COMMANDS, memoryview(entry), outputs=outputs)
        outputs.egress.clear()


def exhaust(items: Iterable[object]) -> None:
    """Let all of it happen, at no cost of its own."""
    deque(items, maxlen=0)


def timed(call: Callable[[], None]) -> float:
    """The CPU time of a call in nanoseconds."""
    gc.collect()
    gc.disable()
    try:
        started_ns = time.thread_time_ns()
        call()
        return time.thread_time_ns() - started_ns
    finally:
        gc.enable()


def run(commands: int, runs: int, accounts: int) -> dict[str, Any]:
    """All figures."""
    work = work_of(commands, accounts)
    measured: dict[str, list[float]] = {}
    for at in range(runs):
        for name, value in measure(work, at).items():
            measured.setdefault(name, []).append(value)
    least = with_rest({name: min(values) for name, values in measured.items()})
    median = with_rest({name: statistics.median(values) for name, values in measured.items()})

    def ratio(over: str, under: str) -> float:
        """By run, since the roads of one run met the same disturbances."""
        pairs = zip(measured[over], measured[under], strict=True)
        return statistics.median(one / other for one, other in pairs)

    return {
        "machine": machine(),
        "commands": commands,
        "accounts": accounts,
        "least": least,
        "median": median,
        "python_by_machine": ratio("python_ns", "machine_ns"),
        "counted_by_uncounted": ratio("machine_ns", "uncounted_ns"),
        "runs": measured,
    }


def with_rest(figures: Figures) -> Figures:
    """The figures and what the parts leave of the whole."""
    parts = figures["decode_ns"] + figures["handler_ns"] + figures["encode_ns"]
    return {**figures, "rest_ns": figures["machine_ns"] - parts}


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    console = Console()
    machine = found["machine"]
    console.print(
        f"{found['commands']:,} transfers between {found['accounts']:,} accounts; "
        f"{machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}"
    )
    table = Table("CPU time per transfer", "least", "median")
    names = {
        "machine_ns": "the machine",
        "decode_ns": "  decoder",
        "handler_ns": "  handler",
        "encode_ns": "  encoder",
        "rest_ns": "  rest",
        "uncounted_ns": "the machine, counting no calls",
        "python_ns": "the road in Python",
        "msgspec_decode_ns": "  msgspec's decoder",
        "msgspec_encode_ns": "  msgspec's encoder",
    }
    for name, title in names.items():
        least, median = found["least"][name], found["median"][name]
        table.add_row(title, f"{least / 1e3:.3f} us", f"{median / 1e3:.3f} us")
    console.print(table)
    console.print(f"the road in Python takes {found['python_by_machine']:.2f} times as long")
    console.print(
        f"counting calls takes {found['counted_by_uncounted'] - 1:+.1%}, the median of the runs; "
        f"{found['least']['machine_ns'] / found['least']['uncounted_ns'] - 1:+.1%} of the least"
    )


def main() -> None:
    """Measure and print."""
    parser = command_line(__doc__)
    parser.add_argument("--commands", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--accounts", type=int, default=1_000)
    given = parser.parse_args()
    give(run(given.commands, given.runs, given.accounts), show, as_json=given.json)


def _ignore(ordinal: int) -> None:
    """Watch, and do nothing."""


def _session(number: int) -> bytes:
    return number.to_bytes(8, "little") + b"sessions"


def _account(number: int) -> str:
    return f"account {number}"


if __name__ == "__main__":
    main()
