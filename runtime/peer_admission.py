"""Whether a replica that has greeted is let in: what `object_to` says, its certificate, strangers, and replicas that take turns.

A start of a gateway whose place another start has taken (the replica was started again) does not come back, unless there
are two replicas under one id: `instance` in the greeting tells.
"""

from collections.abc import Mapping

from attrs import define, field

from .hosts import host_of
from .peer_hello import Hello, object_to
from .peer_link import Link

STRANGERS_MAX = 8
INSTANCES_KEPT = 16
RETURNS_TOLD = 3
"""A greeting that a dead start left in a socket may be read late; one that comes so often is alive."""


@define(eq=False)
class Admission:
    """Remembers the starts of each replica."""

    _instances: dict[int, int] = field(factory=dict[int, int], init=False)
    _displaced: dict[int, dict[int, int]] = field(factory=dict[int, dict[int, int]], init=False)

    def objection(
        self, own: Hello, link: Link, hello: Hello, members: Mapping[int, str], *, any_build: bool
    ) -> str | None:
        """One sentence, or None."""
        expected = link.peer if link.dialled else None
        known = members.get(hello.source)
        objection = object_to(own, hello, expected, known, any_build=any_build)
        if objection is not None:
            return objection
        names = link.stream.names()
        if names is not None and host_of(hello.address) not in names:
            return (
                f"The certificate of replica {hello.source} is not for {host_of(hello.address)}: "
                "give it one that names its address."
            )
        if link.dialled and hello.link != link.kind:
            return f"Replica {hello.source} at {hello.address} answers for another kind of link."
        if not link.dialled and hello.source < own.source:
            return f"Replica {hello.source} called replica {own.source}: the later one calls."
        return self._objection_to_instance(hello)

    def _objection_to_instance(self, hello: Hello) -> str | None:
        current = self._instances.get(hello.source)
        displaced = self._displaced.setdefault(hello.source, {})
        if hello.instance in displaced:
            displaced[hello.instance] += 1
            return (
                f"Two replicas at {hello.address} have the id {hello.source} and take turns: stop one of them, and let "
                "it join under a new id with an empty directory."
            )
        if current is not None and current != hello.instance:
            displaced[current] = 0
            if len(displaced) > INSTANCES_KEPT:
                del displaced[next(iter(displaced))]
        self._instances[hello.source] = hello.instance
        return None

    def is_quiet(self, hello: Hello) -> bool:
        """Whether the objection may be no more than a late greeting of a start that is dead."""
        returns = self._displaced.get(hello.source, {}).get(hello.instance, RETURNS_TOLD)
        return returns < RETURNS_TOLD
