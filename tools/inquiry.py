"""One question to a running replica, and its answer: an inspection, or what an operator asks.

Nothing of it enters the log: the session is a random number that is never opened. A cluster that wants TLS or a token is asked
with what the environment says: LEFTFOLD_TLS_AUTHORITY, a PEM file, and LEFTFOLD_TOKEN.
"""

import os
import socket
import ssl
import time
from pathlib import Path
from typing import Self

from attrs import define, field

from ..actors.layout import COMMAND, SlotType, Status
from ..runtime import frames
from ..runtime.correspondent import reason_of
from ..runtime.errors import OperatorError
from ..runtime.slots import CONTROL
from ..runtime.supervisor import read_status
from ..runtime.trust import Trust
from .status import is_leftfold

DEADLINE_S = 30.0
RECEIVE_BYTES = 1 << 20
REFUSALS = {
    1: "it is not the leader",
    2: "it is not ready yet",
    3: "its disk is full",
    4: "it is about to stop",
}
Address = tuple[str, int]


def parse_address(text: str) -> Address:
    """HOST:PORT. Raises OperatorError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise OperatorError(f"{text!r} is not an address: write HOST:PORT, as in 127.0.0.1:7700.")
    return host.strip("[]"), int(port)


def address_of(directory: Path) -> Address | None:
    """Where the replica of a directory serves now; None if it does not run."""
    try:
        record = read_status(directory)
    except OperatorError:
        return None
    if record["state"] != "ready" or not is_leftfold(record["pids"]["supervisor"]):
        return None
    return record["address"], record["port"]


@define
class Inquiry:
    """A connection to a replica for questions, one after the other."""

    address: Address
    deadline_s: float = DEADLINE_S
    trust: Trust = field(factory=Trust.from_environment)
    _session: bytes = field(factory=lambda: os.urandom(16), init=False)
    _number: int = field(default=0, init=False)
    _socket: socket.socket | None = field(default=None, init=False)
    _decoder: frames.Decoder = field(factory=frames.Decoder, init=False)
    _received: list[frames.Frame] = field(factory=list[frames.Frame], init=False)

    def __enter__(self) -> Self:
        context = self.trust.context()
        try:
            self._socket = socket.create_connection(self.address, self.deadline_s)
            if context is not None:
                self._socket = context.wrap_socket(self._socket, server_hostname=self.address[0])
        except ssl.SSLError as error:
            raise self._gone(reason_of(error)) from None
        except OSError as error:
            raise OperatorError(
                f"No replica answers at {self._name}: {error.strerror or error}. "
                "Start it, or correct the address."
            ) from None
        self._send(frames.hello(token=self.trust.token))
        return self

    def __exit__(self, *raised: object) -> None:
        if self._socket is not None:
            self._socket.close()

    def inspect(self, actor: str, key: bytes) -> frames.Answer:
        """One live actor as JSON."""
        return self._ask(SlotType.QUERY, 0, key, actor.encode())

    def control(self, operation: int, body: bytes = b"{}") -> frames.Answer:
        """What an operator asks of consensus; the answer is JSON, or REJECTED with the reason."""
        answer = self._ask(CONTROL, operation, b"", body)
        if answer.status != Status.OK:
            raise OperatorError(frames.failure_text(answer.body))
        return answer

    def _ask(self, kind: int, tag: int, key: bytes, body: bytes) -> frames.Answer:
        self._number += 1
        length = COMMAND.size + len(key) + len(body)
        head = COMMAND.pack(length, kind, tag, self._session, self._number, 0, len(key), 0)
        self._send(head + key + body)
        deadline = time.monotonic() + self.deadline_s
        while True:
            match self._next(deadline):
                case frames.Answer() as answer if answer.request == self._number:
                    return answer
                case frames.Refused() as refused:
                    why = REFUSALS.get(refused.reason, f"it refuses ({refused.reason})")
                    hint = f"; ask {refused.hint}, with --address" if refused.hint else ""
                    raise OperatorError(f"The replica at {self._name} cannot say: {why}{hint}.")
                case frames.Error() as error:
                    raise OperatorError(f"The replica at {self._name} hangs up: {error.text}.")
                case _:
                    pass

    def _send(self, data: bytes) -> None:
        assert self._socket is not None
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise self._gone(error.strerror or str(error)) from None

    def _next(self, deadline: float) -> frames.Frame:
        assert self._socket is not None
        while not self._received:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except TimeoutError:
                raise self._gone(f"there was no answer within {self.deadline_s:.0f} s") from None
            except OSError as error:
                raise self._gone(error.strerror or str(error)) from None
            if not data:
                raise self._gone("it has hung up")
            try:
                self._received = self._decoder.receive(data)
            except frames.ProtocolError as error:
                raise self._gone(f"that is no replica ({error})") from None
        return self._received.pop(0)

    def _gone(self, why: str) -> OperatorError:
        return OperatorError(f"The replica at {self._name} does not answer: {why}.")

    @property
    def _name(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"
