"""A fork of logic that works on the state as it was, while logic goes on.

The one exception to I2: it uses no ring, opens no file, and keeps no descriptor but the standard ones and those that it is
given. It gives way to the live processes and dies with logic; its own death costs nothing but its work. Logic never waits
for it: how it ended is asked for in passing. The work and what comes of it are in snapshot_child.py and state_child.py.
"""

import os
import signal
import traceback
from collections.abc import Callable, Collection
from typing import NoReturn

from attrs import define, field
from setproctitle import setproctitle

from ..shm import die_with_parent

NICENESS = 10
EXIT_DONE, EXIT_BROKEN = range(2)


@define(eq=False)
class Offshoot:
    """At most one at a time, as logic sees it."""

    title: str
    """What the process list shows."""
    cores: frozenset[int] = field(factory=lambda: frozenset(os.sched_getaffinity(0)))
    """Where it may run, wherever logic is by then."""
    pid: int = field(default=0, init=False)
    """0: there is none."""

    def begin(self, work: Callable[[], int], kept: Collection[int] = ()) -> None:
        """Fork; the child does the work and ends with the code that it gives. Raises OSError."""
        assert not self.pid
        pid = os.fork()
        if not pid:
            self._be_it(work, kept, os.getppid())
        self.pid = pid

    def ended(self) -> int | None:
        """How it ended, once: its code, or minus its signal. None while it works, or when there is none."""
        if not self.pid:
            return None
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return None
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def _be_it(self, work: Callable[[], int], kept: Collection[int], parent: int) -> NoReturn:
        status = EXIT_BROKEN
        try:
            die_with_parent(parent)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.nice(NICENESS)
            os.sched_setaffinity(0, self.cores)
            setproctitle(self.title)
            _keep_only(kept)
            status = work()
        except BaseException:  # noqa: BLE001 - whatever it is, it is shown, and ends nobody else
            traceback.print_exc()
        finally:
            os._exit(status)


def _keep_only(descriptors: Collection[int]) -> None:
    """Let go of the lock, of the supervisor's pipe and of whatever else logic has open."""
    kept = sorted(descriptors)
    for low, high in zip([2, *kept], [*kept, os.sysconf("SC_OPEN_MAX")], strict=True):
        os.closerange(low + 1, high)
