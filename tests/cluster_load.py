"""Clients at work on a cluster while it is being hurt, and the judgement of what they saw.

    with load("127.0.0.2:7700,127.0.0.3:7700", tmp_path / "history.jsonl") as working:
        ...                     # kill, pause, partition
        report = working.finish()
    report.check()

The cluster runs the app `cells:app` (tests/apps). Each client asks one thing after the other: it writes, reads, and compares and sets
registers that all share, adds to totals that all share, and adds to a counter of its own. What is left Unknown is resolved: at
once, or at the end. `check()` holds that every history is linearizable, key by key, and that the counter of each client holds what it
was answered, and not a command more or less (I9). Everything is recorded in the file, to be looked at when it fails.
"""

import asyncio
import contextlib
import random
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import define, field
from linearizability import Counter as CounterModel
from linearizability import Operation, Register, check, read_history

sys.path.append(str(Path(__file__).parent / "apps"))
import cells
from cells import Increase, Look, Swap, Swapped, Value, Write
from counting import Add, Read, Total

from leftfold.runtime.client import Client
from leftfold.runtime.failures import NEVER_APPLIED, ClientError, NoSuchActor, TimedOut, Unknown
from leftfold.runtime.recorder import Recorder

RESOLVE_S = 60.0
VALUES = 8


def describe(message: Any) -> tuple[str, Any]:
    """As the models of the checker name it."""
    match message:
        case Write():
            return "write", message.value
        case Swap():
            return "cas", [message.old, message.new]
        case Increase() | Add():
            return "add", message.amount
        case _:
            return "read", None


def outcome(message: Any, reply: Any) -> Any:
    """What was answered, as a plain value."""
    return reply.done if isinstance(reply, Swapped) else reply.value


def read(f: str, value: Any, result: Any) -> tuple[str, Any, Any]:
    """As the models of the checker take it."""
    return f, tuple(value) if isinstance(value, list) else value, result


@define(eq=False)
class Worker:
    """One client, and what it knows of its own counter."""

    key: str
    client: Client
    rng: random.Random
    asked: int = 0
    added: int = 0
    """The sum of what was applied to its own counter, as far as it knows."""
    left: list[tuple[Unknown, int]] = field(factory=list[tuple[Unknown, int]])
    """What is unknown, with the amount that it adds to the counter."""
    found: Total | None = None
    """The counter at the end."""


@define
class Report:
    """What came of a load."""

    history: Path
    seed: int
    answered: int = 0
    unknown: int = 0
    """Requests that had no answer in time; all have been resolved."""
    never: int = 0
    """Requests that were refused for good."""
    gap_s: float = 0.0
    """The longest time between two answers."""
    gap_at_s: float = 0.0
    """When it ended, after the start."""
    workers: list[Worker] = field(factory=list[Worker])

    def check(self) -> None:
        """Fail if anything was lost, doubled, or seen in an impossible order."""
        for worker in self.workers:
            found = worker.found
            assert found is not None, f"{worker.key}: never read"
            told = f"seed {self.seed}: {worker.key} was answered"
            assert found.commands == worker.asked, (
                f"{told} {worker.asked} times, {found.commands} commands were applied"
            )
            assert found.value == worker.added, f"{told} {worker.added}, it holds {found.value}"
        registers: list[Operation] = []
        counters: list[Operation] = []
        for operation in self.operations():
            (registers if "register" in str(operation.key) else counters).append(operation)
        for operations, model in ((registers, Register(0)), (counters, CounterModel())):
            verdict = check(operations, model)
            assert verdict, f"seed {self.seed}: {verdict} ({self.history})"

    def operations(self) -> list[Operation]:
        """The recorded history."""
        return read_history(self.history.read_bytes().splitlines(), read)


class Load:
    """Clients in a thread with an event loop of its own."""

    def __init__(
        self,
        to: str,
        history: Path,
        *,
        clients: int = 4,
        keys: int = 2,
        deadline_s: float = 2.0,
        patience_s: float = 0.5,
        seed: int | None = None,
    ) -> None:
        self.seed = random.randrange(2**32) if seed is None else seed
        print(f"load: seed {self.seed}")
        self.report = Report(history, self.seed)
        self.recorder = Recorder(history, describe, outcome)
        self.name = secrets.token_hex(4)
        self.keys, self.deadline_s = keys, deadline_s
        self.workers = [
            Worker(
                f"{self.name} own {number}",
                Client.connect(
                    to, patience_s=patience_s, connect_s=RESOLVE_S, history=self.recorder
                ),
                random.Random(f"{self.seed} {number}"),
            )
            for number in range(clients)
        ]
        self.report.workers = self.workers
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._started_s = self._answered_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._thread.start()

    def finish(self) -> Report:
        """Ask nothing new, resolve what is unknown, read the counters."""
        self._stopping.set()
        self._thread.join(2 * RESOLVE_S)
        assert not self._thread.is_alive(), "the load does not end"
        if self._failure is not None:
            raise self._failure
        return self.report

    def check_alive(self) -> None:
        """Fail if no client asks anything any more."""
        if self._failure is not None:
            raise self._failure

    def abandon(self) -> None:
        """End, whatever is unanswered."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(2 * RESOLVE_S)
        self.recorder.close()

    # The thread

    def _run(self) -> None:
        try:
            asyncio.run(self._work())
        except BaseException as error:  # noqa: BLE001 - told to whoever waits
            self._failure = error

    async def _work(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for worker in self.workers:
                await stack.enter_async_context(worker.client)
            await asyncio.gather(*(self._drive(worker) for worker in self.workers))
            for worker in self.workers:
                worker.found = Total(0, 0)
                with contextlib.suppress(NoSuchActor):
                    worker.found = await worker.client.query(
                        worker.key, Read(), deadline_s=RESOLVE_S
                    )

    async def _drive(self, worker: Worker) -> None:
        rng = worker.rng
        while not self._stopping.is_set():
            kind = rng.random()
            key = f"{self.name} {'register' if kind < 0.5 else 'total'} {rng.randrange(self.keys)}"
            if kind < 0.2:
                await self._ask(worker, key, Write(rng.randrange(VALUES)))
            elif kind < 0.4:
                await self._ask(worker, key, Swap(rng.randrange(VALUES), rng.randrange(VALUES)))
            elif kind < 0.5 or kind > 0.95:
                await self._look(worker, key)
            elif kind < 0.75:
                await self._ask(worker, key, Increase(1 + rng.randrange(1000)))
            else:
                amount = 1 + rng.randrange(1000)
                await self._ask(worker, worker.key, Add(amount), amount)
            if worker.left and rng.random() < 0.3:
                await self._resolve(worker, self.deadline_s)
        deadline_s = time.monotonic() + RESOLVE_S
        while worker.left:
            await self._resolve(worker, deadline_s - time.monotonic())
            assert time.monotonic() < deadline_s, f"not resolved: {worker.left}"

    async def _ask(self, worker: Worker, key: str, command: Any, amount: int = 0) -> None:
        try:
            await worker.client.ask(key, command, deadline_s=self.deadline_s)
        except Unknown as unknown:
            self.report.unknown += 1
            worker.left.append((unknown, amount))
        except NEVER_APPLIED:
            self.report.never += 1
        except ClientError:
            if worker.client.session.dead is not None:
                raise  # nothing of it can be known any more
            self.report.never += 1
        else:
            self._answered(worker, amount)

    async def _look(self, worker: Worker, key: str) -> None:
        with contextlib.suppress(TimedOut, NoSuchActor):
            found: Value = await worker.client.query(key, Look(), deadline_s=self.deadline_s)
            assert isinstance(found, Value)
            self._answered(worker, 0)

    async def _resolve(self, worker: Worker, deadline_s: float) -> None:
        unknown, amount = worker.left.pop(0)
        try:
            await worker.client.resolve(unknown, deadline_s=deadline_s)
        except Unknown as again:
            worker.left.append((again, amount))
        else:
            self._answered(worker, amount)

    def _answered(self, worker: Worker, amount: int) -> None:
        now_s = time.monotonic()
        if now_s - self._answered_s > self.report.gap_s:
            self.report.gap_s = now_s - self._answered_s
            self.report.gap_at_s = now_s - self._started_s
        self._answered_s = now_s
        self.report.answered += 1
        worker.asked += amount > 0
        worker.added += amount


@contextlib.contextmanager
def load(to: str, history: Path, **options: Any) -> Iterator[Load]:
    """Clients at work until the block ends."""
    working = Load(to, history, **options)
    try:
        yield working
    finally:
        working.abandon()


__all__ = ["Load", "Report", "cells", "load"]
