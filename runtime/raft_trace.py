"""What Raft's core tells its observer (raft/observer.py), as JSON lines: a trace that can be checked against a specification.

One file for each replica, added to at each start, all on this machine's one monotonic clock. A line is written whole, before
what it tells of has any consequence outside this process; so what kill -9 leaves is a trace of all that others can have seen.
It is for tests and for looking closely: consensus writes it itself, in its own time, the one file that it ever touches.

    t_ns what id term vote role commit last durable [first] [voters learners] [message]

`what` is a happening of the observer's, or `start`: then `terms` are (first index, term) of what the log holds. A message has
its type and fields; of entries only index, term, kind and the CRC-32 of the body are written, of a chunk its length.
"""

import json
import os
import zlib
from pathlib import Path
from typing import Any

import attrs
from attrs import define

from ..raft import Entry, Happening, Message, Observation
from . import slots
from .clock import Clock
from .errors import OperatorError


@define
class RaftTrace:
    """An observer that writes lines."""

    file: int
    clock: Clock

    @classmethod
    def open(cls, path: Path, clock: Clock) -> "RaftTrace":
        """Add to a file. Raises OperatorError if that cannot be done."""
        try:
            return cls(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC), clock)
        except OSError as error:
            raise OperatorError(f"Cannot write the trace {path}: {error.strerror}.") from error

    def started(self, id: int, recovered: slots.Recovered) -> None:
        """What the disk held."""
        facts: dict[str, Any] = {"id": id, "term": recovered.term, "vote": recovered.voted_for}
        facts |= {"commit": recovered.commit, "first": recovered.first, "last": recovered.last}
        terms = [(recovered.first - 1, recovered.origin_term), *recovered.boundaries]
        self._write({"what": "start", **facts, "terms": terms})

    def observed(self, observation: Observation) -> None:
        """One step has happened."""
        facts: dict[str, Any] = {
            "what": observation.what.value,
            "id": observation.id,
            "term": observation.term,
            "vote": observation.voted_for,
            "role": observation.role.value,
            "commit": observation.commit,
            "last": observation.last,
            "durable": observation.durable,
        }
        if observation.first:
            facts["first"] = observation.first
        if observation.what is Happening.MEMBERSHIP:
            facts["voters"] = sorted(observation.membership.voters)
            facts["learners"] = sorted(observation.membership.learners)
        if observation.message is not None:
            facts["message"] = _fields(observation.message)
        self._write(facts)

    def _write(self, facts: dict[str, Any]) -> None:
        line = json.dumps({"t_ns": self.clock.monotonic_ns(), **facts}, separators=(",", ":"))
        os.write(self.file, line.encode() + b"\n")


def _fields(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = {"type": type(message).__name__}
    for field in attrs.fields(type(message)):
        value: Any = getattr(message, field.name)
        if field.name == "entries":
            value = [_entry(entry) for entry in value]
        found[field.name] = len(value) if isinstance(value, bytes) else value
    return found


def _entry(entry: Entry) -> tuple[int, int, int, int]:
    return entry.index, entry.term, entry.kind, zlib.crc32(entry.body)
