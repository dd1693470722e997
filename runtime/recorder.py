"""A history of what clients asked and were answered, as JSON lines, for checkers of consistency.

    {"process":0,"type":"invoke","f":"deposit","key":"alice","value":{"cents":5},"time":81235711}
    {"process":0,"type":"ok","f":"deposit","key":"alice","value":{"cents":105},"time":81377002}

`type` is `invoke`; then `ok` (answered), `fail` (changed nothing, for certain) or `info` (not known). A process has one operation
at a time, and after `info` asks nothing any more; if the outcome becomes known after all, `ok` or `fail` follows the `info`.
`time` is CLOCK_MONOTONIC in nanoseconds, one clock for all processes of a machine. Each line is one write to a file opened
for appending, so that a process killed at any moment has told what it asked, and several may share a file.

What `f` and `value` are is a function's to say, from the message and its reply; by default the name of the class, in small letters,
and the fields.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import msgspec
from attrs import define, field

from ..actors.app import Key
from .failures import NEVER_APPLIED

PROCESSES_MAX = 1_000_000
"""Numbers of processes that one recorder may use, by default behind a multiple of the process id."""

Describe = Callable[[Any], tuple[str, Any]]
Outcome = Callable[[Any, Any], Any]


def described(message: Any) -> tuple[str, Any]:
    """The class's name, and the fields."""
    return type(message).__name__.lower(), msgspec.to_builtins(message)


def outcome(message: Any, reply: Any) -> Any:
    """The fields of the reply."""
    return msgspec.to_builtins(reply)


def _first_process() -> int:
    return os.getpid() * PROCESSES_MAX


@define(eq=False)
class Recording:
    """One operation that was invoked."""

    recorder: "Recorder"
    process: int
    f: str
    key: Key
    value: Any
    message: Any
    is_unknown: bool = False

    def answered(self, reply: Any) -> None:
        """It ended with this reply."""
        self.recorder.write(self, "ok", self.recorder.outcome(self.message, reply))
        self._end()

    def ended(self, error: BaseException) -> None:
        """It ended with this error, or is left unknown with it."""
        if isinstance(error, NEVER_APPLIED):
            self.recorder.write(self, "fail", self.value)
            self._end()
        elif not self.is_unknown:
            self.recorder.write(self, "info", self.value)
            self.is_unknown = True

    def _end(self) -> None:
        if not self.is_unknown:
            self.recorder.release(self.process)


@define(eq=False)
class Recorder:
    """Writes one history; may be shared by the clients and the threads of a process."""

    path: Path = field(converter=Path)
    describe: Describe = described
    outcome: Outcome = outcome
    first_process: int = field(factory=_first_process)
    _fd: int = field(init=False)
    _free: list[int] = field(factory=list[int], init=False)
    _used: int = field(default=0, init=False)
    _lock: Lock = field(factory=Lock, init=False)

    def __attrs_post_init__(self) -> None:
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def invoke(self, key: Key, message: Any) -> Recording:
        """An operation begins."""
        f, value = self.describe(message)
        with self._lock:
            if self._free:
                process = self._free.pop()
            else:
                process = self.first_process + self._used
                self._used += 1
        recording = Recording(self, process, f, key, value, message)
        self.write(recording, "invoke", value)
        return recording

    def write(self, recording: Recording, type_: str, value: Any) -> None:
        """One line."""
        line: dict[str, Any] = {
            "process": recording.process,
            "type": type_,
            "f": recording.f,
            "key": recording.key,
            "value": value,
            "time": time.monotonic_ns(),
        }
        # One that is closed passes over ends that come late: an operation without an end is one whose outcome is not known.
        if self._fd >= 0:
            os.write(self._fd, msgspec.json.encode(line) + b"\n")

    def release(self, process: int) -> None:
        """This process may ask again."""
        with self._lock:
            self._free.append(process)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
