"""When each link that this replica dials is tried again: later from time to time, by chance, and much later after a refusal."""

import random
from collections.abc import Iterable, Iterator

from attrs import define, field

from .peer_hello import LINKS
from .peer_limits import PeerLimits
from .peer_link import Link, State


@define
class Retry:
    """When one link of a replica is dialled next."""

    at_ns: int = 0
    attempts: int = 0


@define(eq=False)
class Retries:
    """By replica and kind of link."""

    limits: PeerLimits
    rng: random.Random
    _retries: dict[tuple[int, int], Retry] = field(factory=dict[tuple[int, int], Retry], init=False)

    def dial(self, replicas: Iterable[int]) -> None:
        """These are dialled from now on, and nobody else."""
        self._retries = {
            (replica, kind): self._retries.get((replica, kind), Retry())
            for replica in replicas
            for kind in LINKS
        }

    def missing(self, linked: Iterable[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], int]]:
        """Those that are not among the linked, and when they are due."""
        return (
            (place, retry.at_ns) for place, retry in self._retries.items() if place not in linked
        )

    def ended(self, link: Link, now_ns: int, *, refused: bool = False) -> None:
        """A link has; if it is one that this replica dials, it is tried again."""
        retry = self._retries.get((link.peer, link.kind))
        if retry is None or not link.dialled:
            return
        limits = self.limits
        if link.state is State.OPEN and now_ns - link.since_ns > limits.retry_max_ns:
            retry.attempts = 0
        pause_ns = min(limits.retry_first_ns << min(retry.attempts, 32), limits.retry_max_ns)
        if refused:
            pause_ns = limits.refused_ns
        retry.attempts += 1
        retry.at_ns = now_ns + pause_ns // 2 + self.rng.randrange(pause_ns // 2 + 1)
