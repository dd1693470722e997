"""Descriptors that Python itself reads and writes, in an epoll of their own, which the gate's epoll watches as one.

So the gateway still sleeps in one place, for clients, rings, peers and TLS alike. Level-triggered: who does not want to be
called for what he leaves unread says so with `change`.
"""

import select
from collections.abc import Callable

from attrs import define, field

IN, OUT = select.EPOLLIN, select.EPOLLOUT


@define(eq=False)
class Descriptors:
    """The table: descriptor to call."""

    _epoll: select.epoll = field(factory=select.epoll, init=False)
    _calls: dict[int, Callable[[int], None]] = field(
        factory=dict[int, Callable[[int], None]], init=False
    )
    _fresh: set[int] = field(factory=set[int], init=False)

    def fileno(self) -> int:
        """Readable while something is ready."""
        return self._epoll.fileno()

    def watch(self, fd: int, events: int, call: Callable[[int], None]) -> None:
        """Call with the events that came, from now on."""
        self._epoll.register(fd, events)
        self._calls[fd] = call
        self._fresh.add(fd)

    def change(self, fd: int, events: int) -> None:
        """Other events; 0 leaves hang-ups and errors only."""
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """No more calls; before the descriptor is closed."""
        del self._calls[fd]
        self._epoll.unregister(fd)

    def turn(self) -> int:
        """Call whoever is ready; returns how many were."""
        ready = self._epoll.poll(0)
        # A number that was closed and given out again during this turn has had no event yet.
        self._fresh.clear()
        for fd, events in ready:
            call = self._calls.get(fd)
            if call is not None and fd not in self._fresh:
                call(events)
        return len(ready)

    def close(self) -> None:
        """Let go of the epoll; the descriptors are their owners'."""
        self._epoll.close()
