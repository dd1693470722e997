"""The duty cycle that consensus, journal and logic share: work until there is none, then wait on the doorbell.

A process shell gives `work() -> int` (0: nothing to do), the ring ends to watch, and how long it may sleep. Learning
one shell is learning them all. The gateway waits in epoll instead, and has its own loop.
"""

from collections.abc import Callable
from typing import Protocol

from ..shm import Consumer, Doorbell, Producer

PARK_NS_MAX = 100_000_000
"""The longest sleep, so that signals are seen; a wake-up never depends on it."""

Ends = tuple[Consumer | Producer, ...]


class Shell(Protocol):
    """One process between its rings."""

    def work(self) -> int:
        """Do what there is to do now, in bounded pieces; 0 when there was nothing."""
        ...

    @property
    def more(self) -> bool:
        """Whether the last turn may have left something to do that no ring tells of: then it is not waited behind it."""
        ...

    def ends(self) -> Ends:
        """What can wake it now. An input that cannot be taken for lack of room is left out."""
        ...

    def sleep_ns(self) -> int:
        """How long the process may sleep before it must look again by itself."""
        ...


def run(
    shell: Shell,
    doorbell: Doorbell,
    spin_ns: int,
    stopped: Callable[[], bool],
    elsewhere: Callable[[], bool] | None = None,
) -> None:
    """Turn until `stopped()`. `elsewhere` does turns of the shell in C, waiting included, and says whether it did."""
    while not stopped():
        if not shell.work() or not shell.more:
            if elsewhere is not None and elsewhere():
                continue
            doorbell.wait(shell.ends(), spin_ns, min(PARK_NS_MAX, shell.sleep_ns()))
