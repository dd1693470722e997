"""The two sides of a comparison: each a log, an app and its sources, folded in its own process."""

import os
import subprocess
import tempfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec
from attrs import define, field, frozen

from ..runtime.errors import OperatorError
from . import elsewhere
from .decoding import Line
from .history import History
from .trace import MARK

Mark = tuple[int, int, int]
"""An index, the crc of its entry, the digest of all outputs up to it."""
READ_BYTES = 1 << 20


@frozen
class Side:
    """One of the two."""

    label: str
    history: History
    app: str
    sources: Path

    @contextmanager
    def trace(self, verb: str, *numbers: int | None) -> Generator["Trace"]:
        """What its process writes; it is ended with the block."""
        given = [str(number) for number in numbers if number is not None]
        directory = str(self.history.directory.resolve())
        with tempfile.TemporaryFile() as errors:
            process = elsewhere.start(
                *("trace", self.history.identity, self.sources, errors.fileno()),
                *(verb, directory, self.app, str(self.sources), *given),
            )
            trace = Trace(self, process, errors)
            try:
                yield trace
            finally:
                trace.end()

    def commands(self, index: int) -> dict[int, Line]:
        """The commands of one entry by ordinal, with their outputs."""
        with self.trace("entry", index) as trace:
            return {line["ordinal"]: line for line in map(decode, trace.lines())}


@define
class Trace:
    """The output of one side's process. Raises OperatorError when the process cannot go on."""

    side: Side
    process: "subprocess.Popen[bytes]"
    errors: BinaryIO
    _over: bool = field(default=False, init=False)

    def marks(self) -> Iterator[Mark]:
        """What `trace outputs` writes."""
        assert self.process.stdout is not None
        rest = b""
        while piece := os.read(self.process.stdout.fileno(), READ_BYTES):
            piece = rest + piece
            whole = len(piece) - len(piece) % MARK.size
            yield from MARK.iter_unpack(piece[:whole])
            rest = piece[whole:]
        self._finish()

    def lines(self) -> Iterator[bytes]:
        """What the others write."""
        assert self.process.stdout is not None
        yield from self.process.stdout
        self._finish()

    def _finish(self) -> None:
        self._over = True
        if self.process.wait():
            self.errors.seek(0)
            why = elsewhere.complaint(self.process, self.errors.read())
            raise OperatorError(f"{self.side.label} cannot be folded: {why}")

    def end(self) -> None:
        """Whatever it still does, it is over."""
        if self.process.stdout is not None:
            self.process.stdout.close()
        if not self._over:
            self.process.kill()
        self.process.wait()


def decode(line: bytes) -> Line:
    """One JSON line."""
    found: Line = msgspec.json.decode(line)
    return found


Actor = tuple[str, str]
"""Its type's name and its key in hex: the order in which both sides come."""


def pairs(a: Iterable[bytes], b: Iterable[bytes]) -> Iterator[tuple[Line | None, Line | None]]:
    """The actors of both sides that are not the same bytes, side by side; None where there is none."""
    left, right = iter(a), iter(b)
    one, other = _next(left), _next(right)
    while one is not None or other is not None:
        if other is None or (one is not None and one[0] < other[0]):
            assert one is not None
            yield decode(one[1]), None
            one = _next(left)
        elif one is None or other[0] < one[0]:
            yield None, decode(other[1])
            other = _next(right)
        else:
            if one[1] != other[1]:
                yield decode(one[1]), decode(other[1])
            one, other = _next(left), _next(right)


def _next(lines: Iterator[bytes]) -> tuple[Actor, bytes] | None:
    line = next(lines, None)
    if line is None:
        return None
    name, key, described = line.split(b"\t", 2)
    return (name.decode(), key.decode()), described
