"""Logs for the shipped applications, and a fold of them that prints what came out.

    python domain_logs.py NAME       # the digests of NAME's log, as one line

The tests run it under two hash seeds: the bytes of the log come from seeded generators, and so must
be the same, and what the fold makes of them must not depend on the hashes of strings.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import attrs

from leftfold.actors import exchange, ledger, tickets
from leftfold.actors.app import App
from leftfold.actors.layout import COMMAND, EntryKind, SlotType, padded
from leftfold.actors.machine import Machine, Outputs
from leftfold.actors.message import Command
from leftfold.tools.orderflow import Action, generate, read_pitch, to_command

DATA = Path(os.environ.get("LEFTFOLD_DATA", Path(__file__).parents[1] / "../shared/data"))
PITCH = DATA / "pitch-example.txt"
PITCH_ABSENT = f"{PITCH} is absent; LEFTFOLD_DATA names the folder of the real input"

SESSION = b"one session only"
SECOND_NS = 1_000_000_000
# (time, key, command); None instead of a command: nothing but time.
Step = tuple[int, str, Command[Any] | None]


@attrs.frozen
class Entry:
    """What `Machine.apply` takes, but for the index."""

    time_ns: int
    kind: int
    body: bytes


def flow_steps(actions: Iterable[Action]) -> Iterator[Step]:
    """An order flow as commands."""
    for action in actions:
        symbol, command = to_command(action)
        yield action.time_ns, symbol, command


def ledger_steps(seed: int, count: int) -> Iterator[Step]:
    """Movements in one ledger and between single accounts, some of which are refused."""
    rng = Random(seed)
    names = [f"account {number}" for number in range(50)]
    for number in range(count):
        source, target, cents = rng.choice(names), rng.choice(names), rng.randrange(-1, 100)
        command: Command[Any] = rng.choice(
            [
                ledger.Deposit(source, cents),
                ledger.Withdraw(source, cents),
                ledger.Transfer(source, target, cents),
                ledger.PayIn(cents),
                ledger.PayOut(cents),
                ledger.Pay(target, cents),
            ]
        )
        single = isinstance(command, ledger.PayIn | ledger.PayOut | ledger.Pay)
        yield number * SECOND_NS, source if single else "ledger", command


def ticket_steps(seed: int, count: int) -> Iterator[Step]:
    """Holds, sales and releases in a few shows, with time for holds to end."""
    rng = Random(seed)
    shows = [f"show {number}" for number in range(5)]
    for show in shows:
        yield 0, show, tickets.Open(40, 20 * SECOND_NS)
    for number in range(count):
        seat, buyer = rng.randrange(1, 42), f"buyer {rng.randrange(20)}"
        kind = rng.choice([tickets.Hold, tickets.Hold, tickets.Buy, tickets.Release, None])
        command = None if kind is None else kind(seat, buyer)
        yield number * SECOND_NS // 4, rng.choice(shows), command


def entries(app: App, steps: Iterable[Step], batch: int) -> Iterator[Entry]:
    """A log: the session is opened, then the steps come, so many commands to an entry."""
    opening = COMMAND.pack(COMMAND.size, SlotType.OPEN, 0, SESSION, 0, 0, 0, 0)
    yield Entry(0, EntryKind.COMMANDS, opening)
    run: list[bytes] = []
    request = now_ns = 0
    for now_ns, key, command in steps:
        if command is None:
            yield Entry(now_ns, EntryKind.COMMANDS, b"".join(run))
            yield Entry(now_ns, EntryKind.TIME, b"")
            run.clear()
            continue
        request += 1
        id, body = app.encode(command)
        encoded = app.encode_key(type(command), key)
        length = COMMAND.size + len(encoded) + len(body)
        # Everything before was answered, so the session keeps one reply only.
        head = COMMAND.pack(length, SlotType.COMMAND, id, SESSION, request, 1, len(encoded), 0)
        run.append(padded(head + encoded + body))
        if len(run) == batch:
            yield Entry(now_ns, EntryKind.COMMANDS, b"".join(run))
            run.clear()
    yield Entry(now_ns, EntryKind.COMMANDS, b"".join(run))


def fold(app: App, log: Iterable[Entry], restore_at: int | None = None) -> tuple[Machine, bytes]:
    """The machine after a log, and all that it put out; by way of a snapshot, if wanted."""
    machine, outputs = Machine(app, None, 1), Outputs()
    for index, entry in enumerate(log, 1):
        machine.apply(index, entry.time_ns, entry.kind, entry.body, outputs=outputs)
        if index == restore_at:
            machine = Machine.restore(app, None, 1, list(machine.snapshot()))
    return machine, bytes(outputs.egress)


def log_named(name: str) -> tuple[App, Iterator[Entry]]:
    """One of the logs of this file."""
    if name == "ledger":
        return ledger.app, entries(ledger.app, ledger_steps(1, 3_000), 10)
    if name == "tickets":
        return tickets.app, entries(tickets.app, ticket_steps(1, 3_000), 10)
    assert name in ("exchange", "real"), name
    actions = generate(1, 5_000) if name == "exchange" else read_pitch(PITCH)
    return exchange.app, entries(exchange.app, flow_steps(actions), 10)


if __name__ == "__main__":
    folded, egress = fold(*log_named(sys.argv[1]))
    print(len(egress), folded.digest, folded.state_digest().hex(), folded.state.quarantined)
