"""What somebody who watches a replica is told: the steps of the algorithm, in the order they happen.

    MESSAGE     a peer's message, before it is handled
    DURABLE     the disk has confirmed writes; before anything that waited for them is sent
    APPEND      entries `first` … last were added to the log
    TRUNCATE    entries from `first` on were removed from it
    COMMIT      the commit index has risen
    ROLE        role, term or vote is another one
    MEMBERSHIP  another configuration counts: appended, rolled back, or from a snapshot
    RESTORE     the log now starts behind a snapshot that was received

Enough to check a trace of real replicas against a specification of Raft. A replica without an
observer pays one comparison for each.
"""

from enum import Enum
from typing import Protocol

from attrs import frozen

from .membership import Membership
from .messages import Message
from .role import Role


class Happening(Enum):
    """See the head of this file."""

    MESSAGE = "message"
    DURABLE = "durable"
    APPEND = "append"
    TRUNCATE = "truncate"
    COMMIT = "commit"
    ROLE = "role"
    MEMBERSHIP = "membership"
    RESTORE = "restore"


@frozen(kw_only=True)
class Observation:
    """One step, and the replica's state just after it (before it, for MESSAGE)."""

    what: Happening
    id: int
    term: int
    voted_for: int
    role: Role
    commit: int
    last: int
    durable: int
    membership: Membership
    message: Message | None = None
    first: int = 0


class Observer(Protocol):
    """Told of everything, at once. It must not call the replica."""

    def observed(self, observation: Observation) -> None:
        """One step has happened."""
        ...
