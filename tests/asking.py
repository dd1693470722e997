"""Clients for the tests with real processes, written against the wire alone.

`Line` is one connection. `Asker` keeps a counter of the app `counting` busy from a thread of its own, asks
again with the same session and the same numbers for as long as it must, and checks every answer: the reply to request
n must be the sum of the first n amounts and the count n, so that a command that was lost, or applied twice, shows in
the very next answer. Nothing of `leftfold.runtime.session` is used: it is itself under test elsewhere.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from replica import DEADLINE_S, RunningReplica, wait_until

from leftfold.actors.layout import Status
from leftfold.runtime import frames

TOTAL, ADD, READ, EXIT, DAWDLE, ADD_LATER, DUE, FAIL = range(900, 908)
"""The messages of apps/counting.py."""

RECEIVE_BYTES = 1 << 20
PATIENCE_S = 0.02
WINDOW = 64
REPLIES_COMPARED = 4096


def port_of(directory: Path) -> int | None:
    """Where the replica of this directory serves now; None while it does not."""
    try:
        record = json.loads((directory / "replica.json").read_text())
    except (OSError, ValueError):
        return None
    port: int | None = record["port"] if record["state"] == "ready" else None
    return port


class Line:
    """One connection to a gateway, with the session opened on it."""

    def __init__(self, port: int, session: bytes | None = None) -> None:
        self.session = session or os.urandom(16)
        self.decoder = frames.Decoder()
        self.received: list[frames.Frame] = []
        self.socket = socket.create_connection(("127.0.0.1", port), DEADLINE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.send(frames.hello() + frames.open_session(self.session))
            welcome = self.receive()
            assert isinstance(welcome, frames.Welcome), welcome
            self.opened = self.receive()
        except BaseException:
            self.close()
            raise

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.socket.sendall(data)

    def receive(self) -> frames.Frame:
        """The next frame; ConnectionError when there is none any more."""
        while not self.received:
            data = self.socket.recv(RECEIVE_BYTES)
            if not data:
                raise ConnectionError("the gateway has hung up")
            self.received = self.decoder.receive(data)
        return self.received.pop(0)

    def command(
        self, request: int, message: int, key: str, unanswered: int = 1, **body: Any
    ) -> None:
        """Send one command."""
        encoded = msgspec.msgpack.encode(body)
        self.send(frames.command(message, self.session, request, unanswered, key.encode(), encoded))

    def ask(
        self, request: int, message: int, key: str = "a", unanswered: int = 1, **body: Any
    ) -> frames.Reply:
        """One command and its reply."""
        self.command(request, message, key, unanswered, **body)
        reply = self.receive()
        assert isinstance(reply, frames.Reply), reply
        assert reply.request == request, reply
        return reply

    def read(self, key: str = "a") -> dict[str, int]:
        """The total of a counter, by a query."""
        self.send(frames.query(READ, self.session, 1, key.encode(), msgspec.msgpack.encode({})))
        answer = self.receive()
        assert isinstance(answer, frames.Answer) and answer.status == Status.OK, answer
        return total_of(answer)

    def close(self) -> None:
        """Hang up; a stopping gateway lingers for those who do not."""
        self.socket.close()


def total_of(reply: frames.Reply | frames.Answer) -> dict[str, int]:
    """What a Total says."""
    assert reply.status == Status.OK, reply
    total: dict[str, int] = msgspec.msgpack.decode(reply.body)
    return total


@contextlib.contextmanager
def line(replica: RunningReplica, session: bytes | None = None) -> Iterator[Line]:
    """A connection to a replica that serves."""
    opened = Line(replica.port, session)
    try:
        yield opened
    finally:
        opened.close()


class Interrupted(Exception):
    """The conversation must begin again: everything unanswered has to be asked again."""


class Asker:
    """A client that never stops asking, and believes no answer; see the file's text."""

    def __init__(self, port: Callable[[], int | None], key: str, window: int = WINDOW) -> None:
        self.port = port
        self.key = key
        self.window = window
        self.session = os.urandom(16)
        self.sums = [0]
        self.answered = 0
        """Requests up to this one have their answers."""
        self.replies: dict[int, frames.Reply] = {}
        """The last answers that were taken, for those that come again."""
        self.asked_again = 0
        self.conversations = 0
        self.first_answers: list[float] = []
        """When each conversation had its first answer (monotonic)."""
        self.line: Line | None = None
        self.stopping = threading.Event()
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name=f"asker {key}")
        self.thread.start()

    @property
    def asked(self) -> int:
        """The last request that was ever sent."""
        return len(self.sums) - 1

    @property
    def total(self) -> int:
        """What the counter holds when every answered request was applied once."""
        return self.sums[self.answered]

    def finish(self) -> None:
        """Ask nothing new; return when everything asked has been answered rightly."""
        self.stopping.set()
        self.thread.join()
        if self.failure is not None:
            raise self.failure
        assert self.answered == self.asked

    def abandon(self) -> None:
        """End the thread, whatever is unanswered."""
        self.stopping.set()
        self.port = lambda: None
        if self.line is not None:
            with contextlib.suppress(OSError):
                self.line.socket.shutdown(socket.SHUT_RDWR)
        self.failure = self.failure or Interrupted()
        self.thread.join()

    # The thread

    def _run(self) -> None:
        try:
            heard = time.monotonic()
            before = 0
            while not (self.stopping.is_set() and self.answered == self.asked):
                if self.failure is not None:
                    return
                with contextlib.suppress(OSError, Interrupted):
                    self._converse()
                if self.answered > before:
                    before, heard = self.answered, time.monotonic()
                waited = time.monotonic() - heard
                assert waited < DEADLINE_S, f"no answer to {self.answered + 1} for {waited:.0f} s"
                time.sleep(PATIENCE_S)
        except BaseException as error:  # noqa: BLE001 - told to whoever waits
            self.failure = self.failure or error

    def _converse(self) -> None:
        port = self.port()
        if port is None:
            return
        self.conversations += 1
        first = True
        self.line = opened = Line(port, self.session)
        try:
            self._check_opening(opened.opened)
            sent = self.answered
            self.asked_again += self.asked - sent
            while not (self.stopping.is_set() and self.answered == self.asked):
                sent = self._send(opened, sent)
                self._take(opened.receive())
                while opened.received:
                    self._take(opened.received.pop(0))
                if first:
                    first = False
                    self.first_answers.append(time.monotonic())
        finally:
            opened.close()

    def _check_opening(self, reply: frames.Frame) -> None:
        if isinstance(reply, frames.Refused | frames.Error):
            raise Interrupted
        if not isinstance(reply, frames.Reply) or reply.request:
            return  # an answer that was still on its way to the last connection; OPEN's follows
        assert reply.status == Status.OK, reply
        assert self.answered <= reply.last_request <= self.asked, (
            f"the session is at {reply.last_request}, but {self.answered} were answered"
        )

    def _send(self, opened: Line, sent: int) -> int:
        out: list[bytes] = []
        while sent < self.answered + self.window:
            if sent == self.asked:
                if self.stopping.is_set():
                    break
                self.sums.append(self.sums[-1] + self._amount(sent + 1))
            sent += 1
            body = msgspec.msgpack.encode({"amount": self._amount(sent)})
            unanswered = sent - self.answered
            out.append(frames.command(ADD, self.session, sent, unanswered, self.key.encode(), body))
        if out:
            opened.send(b"".join(out))
        return sent

    @staticmethod
    def _amount(number: int) -> int:
        return 1 + number * 7919 % 1000

    def _take(self, frame: frames.Frame) -> None:
        if isinstance(frame, frames.Refused | frames.Error):
            raise Interrupted
        assert isinstance(frame, frames.Reply), frame
        number = frame.request
        if number == 0:
            return self._check_opening(frame)
        if number in self.replies:
            if number <= self.answered and frame.status == Status.ANSWER_FORGOTTEN:
                return None
            assert frame == self.replies[number], f"{frame} now, {self.replies[number]} before"
            return None
        if number <= self.answered:
            return None  # too long ago to be compared
        if frame.status in (Status.OUT_OF_ORDER, Status.WINDOW_EXCEEDED):
            assert number > self.answered + 1, f"{frame}: an answered command is gone"
            raise Interrupted
        found = total_of(frame)
        assert found == {"value": self.sums[number], "commands": number}, (
            f"request {number} of {self.key} was answered {found}, "
            f"but the sum of all up to it is {self.sums[number]}"
        )
        self.replies[number] = frame
        while self.answered + 1 in self.replies:
            self.answered += 1
            self.replies.pop(self.answered - REPLIES_COMPARED, None)
        return None


@contextlib.contextmanager
def askers(
    port: Callable[[], int | None], count: int = 3, window: int = WINDOW
) -> Iterator[list[Asker]]:
    """Several clients at work; each must have `finish()` called, or is abandoned."""
    working = [Asker(port, f"key {number}", window) for number in range(count)]
    try:
        yield working
    finally:
        for asker in working:
            asker.abandon()


def make_progress(working: list[Asker], answers: int = 50) -> None:
    """Wait until every client has this many answers more."""
    goals = [asker.answered + answers for asker in working]

    def reached() -> bool:
        for asker in working:
            if asker.failure is not None:
                raise asker.failure
        return all(asker.answered >= goal for asker, goal in zip(working, goals, strict=True))

    wait_until(reached, f"every client gets {answers} answers more")


def check_totals(running: RunningReplica, working: Sequence[Asker]) -> None:
    """Every client has every answer, each was right, and the counters say the same."""
    for asker in working:
        asker.finish()
    with line(running) as client:
        for asker in working:
            assert client.read(asker.key) == {"value": asker.total, "commands": asker.asked}
