"""Replicas compare their whole state, at entries that the leader puts into the log for that: CHECK.

A fault in state alone shows in no output before that state reaches one. So the leader lets a CHECK go before each of its
snapshots, and every replica that applies it forks a child that digests the state as it is there (state_child.py); followers
tell the leader, and the majority decides as it does over outputs (divergence.py). Who cannot say anything (its child
could not be made, it took the entry from a snapshot or replayed it) says nothing, and is asked with the next one.
"""

from attrs import define, field

from ..raft import Raft, Role
from .digests import StateDigest
from .divergence import Verdict, concerns, judge

CHECK = 5
"""The kind of the entry; its body is empty, and it changes nothing."""
KEPT = 16


@define(eq=False)
class StateChecks:
    """The last KEPT of them."""

    raft: Raft
    proposed: int = field(default=0, init=False)
    """The newest CHECK of this leader."""
    own: dict[int, int] = field(factory=dict[int, int], init=False)
    told: dict[int, dict[int, int]] = field(factory=dict[int, dict[int, int]], init=False)
    """What peers have said, by entry."""
    untold: list[int] = field(factory=list[int], init=False)
    """The entries of which the leader does not know what is found here."""

    def digested(self, index: int, digest: int) -> None:
        """Logic's own."""
        self.own[index] = digest
        self.untold.append(index)
        _shorten(self.own)

    def to_tell(self) -> StateDigest | None:
        """What the leader has not been told yet, one at a time."""
        raft = self.raft
        if not self.untold or raft.role is not Role.FOLLOWER or not raft.leader_id:
            return None
        index = self.untold.pop(0)
        return StateDigest(raft.id, raft.leader_id, raft.term, index, self.own.get(index, 0))

    def heard(self, message: StateDigest) -> None:
        """A peer's. Only a leader compares, and only what it may have digested itself."""
        if self.raft.role is not Role.LEADER or message.index > self.raft.log.last:
            return
        self.told.setdefault(message.index, {})[message.source] = message.digest
        _shorten(self.told)

    def look(self) -> Verdict | None:
        """The verdict on the first entry where two replicas' states differ, if it can be given."""
        for index in sorted(self.own.keys() & self.told.keys()):
            found = {self.raft.id: self.own[index]} | self.told[index]
            if len(set(found.values())) > 1:
                verdict = judge(self.raft, index, found, of_state=True)
                # None: somebody has yet to say, or was asked in vain; a later one may do. So where the odd one has stopped.
                if verdict is not None and concerns(self.raft, verdict):
                    return verdict
        return None

    def forget(self) -> None:
        """The role is another one: what peers told was for the leader, and another leader may want to know."""
        self.told.clear()
        self.proposed = 0  # It may never be committed.
        self.untold = sorted(self.own)


def _shorten(kept: dict[int, int] | dict[int, dict[int, int]]) -> None:
    for index in sorted(kept)[:-KEPT]:
        del kept[index]
