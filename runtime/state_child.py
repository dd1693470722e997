"""The child that digests the state: a fork of logic, which goes on while the child walks the state as it was.

Like the one that writes snapshots (snapshot_child.py) it is an exception to I2, gives way to the live processes and dies with
logic. It has no descriptor at all: it leaves its answer in one word of memory that only it writes (I1), and logic
reads that once the child has ended. One that could not be made, or that failed, costs this comparison and nothing else.
"""

import gc
import mmap
import os
import signal
import traceback
from typing import NoReturn

from attrs import define, field
from setproctitle import setproctitle

from ..actors.machine import Machine
from ..shm import die_with_parent
from .digests import STATE_DIGEST_BYTES
from .snapshot_child import NICENESS, keep_only

EXIT_DIGESTED, EXIT_BROKEN = range(2)


@define(eq=False)
class StateChild:
    """At most one at a time, as logic sees it."""

    title: str
    cores: frozenset[int] = field(factory=lambda: frozenset(os.sched_getaffinity(0)))
    """Where the child may run, wherever logic is by then."""
    pid: int = field(default=0, init=False)
    index: int = field(default=0, init=False)
    _answer: mmap.mmap = field(factory=lambda: mmap.mmap(-1, mmap.PAGESIZE), init=False)

    def begin(self, machine: Machine) -> None:
        """Fork a child for the state as it is now, unless another one is still at it."""
        if self.pid:
            return
        gc.freeze()  # No collection of ours walks, and so copies, what the child shares with us.
        try:
            pid = os.fork()
        except OSError:
            return
        if not pid:
            self._be_the_child(machine, os.getppid())
        self.pid, self.index = pid, machine.state.index

    def ended(self) -> tuple[int, int] | None:
        """(entry, digest) once a child has ended that found it; None while it works, or when there is none."""
        if not self.pid:
            return None
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return None
        self.pid = 0
        if os.waitstatus_to_exitcode(status) != EXIT_DIGESTED:
            return None
        return self.index, int.from_bytes(self._answer[:STATE_DIGEST_BYTES], "little")

    def _be_the_child(self, machine: Machine, parent: int) -> NoReturn:
        status = EXIT_BROKEN
        try:
            die_with_parent(parent)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.nice(NICENESS)
            os.sched_setaffinity(0, self.cores)
            setproctitle(self.title)
            keep_only(set())
            self._answer[:STATE_DIGEST_BYTES] = machine.state_digest()[:STATE_DIGEST_BYTES]
            status = EXIT_DIGESTED
        except BaseException:  # noqa: BLE001 - whatever it is, it is shown, and ends nobody else
            traceback.print_exc()
        finally:
            os._exit(status)
