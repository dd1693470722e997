"""What operators ask of consensus (CONTROL): its status, a snapshot, another leader, other members.

Bodies and answers are JSON. What only the leader can do is refused elsewhere with the sentence that names the leader. A change
of the members is answered when it has begun; `members` with `list` shows when it is done.
"""

import json
from typing import Any

from attrs import define

from ..raft import Change, Raft, Refused, Role
from . import slots
from .controls import Controls, status
from .errors import OperatorError
from .feed import Feed
from .hosts import numeric_address
from .identity import Identity
from .peering import Peering
from .snapshot_points import SnapshotPoints
from .upkeep import Upkeep


@define(eq=False)
class Administration:
    """See the head of this file."""

    identity: Identity
    raft: Raft
    points: SnapshotPoints
    feed: Feed
    peering: Peering
    upkeep: Upkeep
    controls: Controls

    def carry_out(self, control: slots.Control, build: str | None, digest: int) -> None:
        """Answer it, or say why not."""
        match control.operation:
            case slots.CONTROL_SNAPSHOT:
                self.snapshot(control)
            case slots.CONTROL_TRANSFER:
                self.transfer(control)
            case slots.CONTROL_MEMBERS:
                self.members(control)
            case slots.CONTROL_STATUS:
                refusal = self.upkeep.refusal
                refusing = "" if refusal is None else refusal.text.decode()
                facts = status(self.raft, self.points, refusing)
                facts |= {"id": self.identity.replica_id, "leader": self.raft.leader_id}
                facts |= {"build": build, "digest": digest}
                self.controls.answer(control, self.feed.fed, facts)
            case _:
                self._refuse(control, f"This replica knows no control {control.operation}.")

    def snapshot(self, control: slots.Control) -> None:
        """Have logic write its state now."""
        points, fed = self.points, self.feed.fed
        if points.busy:
            self.controls.refuse(control, fed, "A snapshot is being written already.")
        elif fed == points.taken:
            self.controls.answer(control, fed, {"index": points.taken, "new": False})
        else:
            points.want(slots.BY_COMMAND)
            self.upkeep.asker = control

    def transfer(self, control: slots.Control) -> None:
        """Hand leadership to somebody: who was named, or who has the most of the log."""
        target = self._number(control, "to")
        if self.raft.role is not Role.LEADER:
            self._refuse(control, self._not_leader())
            return
        target = target or self.raft.heir()
        if target == self.raft.id:
            self._refuse(control, f"Replica {target} leads already.")
        elif not target:
            self._refuse(control, "There is no other voter that could take over now.")
        elif not self.raft.transfer(target):
            why = "it is no voter, or is being repaired"
            self._refuse(control, f"Replica {target} cannot take over now: {why}.")
        else:
            facts = {"from": self.raft.id, "to": target, "term": self.raft.term}
            self.controls.answer(control, self.feed.fed, facts)

    def members(self, control: slots.Control) -> None:
        """List them, or begin a change."""
        asked = self._body(control)
        operation = asked.get("operation", "list")
        if operation == "list":
            self.controls.answer(control, self.feed.fed, self.list())
            return
        if self.raft.role is not Role.LEADER:
            self._refuse(control, self._not_leader())
            return
        try:
            change = self._change(operation, asked)
        except (OperatorError, ValueError, TypeError, KeyError) as error:
            why = str(error).removesuffix(".")
            self._refuse(control, f"That is no change of the members: {why}.")
            return
        index = self.raft.change(change)
        if isinstance(index, Refused):
            self._refuse(control, index.sentence)
        else:
            added = [id for id, _ in change.add]
            facts = {"index": index, "id": added[0] if added else asked.get("id", 0)}
            self.controls.answer(control, self.feed.fed, facts)

    def list(self) -> dict[str, Any]:
        """Everybody who belongs to the cluster, as far as this replica knows."""
        raft, membership = self.raft, self.raft.membership
        addresses = self.peering.addresses()
        listed: list[dict[str, Any]] = []
        for id in sorted(membership.members):
            progress = raft.progress.get(id)
            match = raft.log.last if id == raft.id else progress.match if progress else None
            heard = id == raft.id or (
                progress is not None and progress.is_heard(raft.config.election_ticks)
            )
            listed.append(
                {
                    "id": id,
                    "kind": self._kind(id),
                    "address": addresses.get(id, ""),
                    "serves": self.peering.serves.get(id, ""),
                    "linked": id == raft.id or id in self.peering.serves,
                    "heard": heard,
                    "match": match,
                    "state": "" if progress is None else progress.state.value,
                }
            )
        return {
            "id": raft.id,
            "leader": raft.leader_id,
            "leader_serves": self.peering.leader_serves,
            "term": raft.term,
            "commit": raft.commit,
            "last": raft.log.last,
            "settled": not membership.outgoing
            and not membership.joining
            and raft.commit >= raft.membership_index,
            "members": listed,
            "cluster": self.identity.cluster_id.hex(),
            "hash_seed": self.identity.hash_seed,
            "limits": dict(self.identity.limits),
            "app": self.identity.app,
            "next_id": membership.last_id + 1,
        }

    def _kind(self, id: int) -> str:
        membership = self.raft.membership
        if id in membership.joining:
            return "joining"
        if id in membership.learners:
            return "learner"
        return "voter" if id in membership.voters else "leaving"

    def _change(self, operation: str, asked: dict[str, Any]) -> Change:
        membership, known = self.raft.membership, self.peering.addresses()
        # The founders' addresses enter the log with the first change, for those who join.
        unnamed = {
            id: known[id].encode()
            for id in membership.members
            if id in known and not membership.address(id)
        }
        if operation == "add":
            id = int(asked.get("id") or membership.last_id + 1)
            address = str(asked["address"])
            numeric_address(address)
            promote = {id} if asked.get("promote", True) else set[int]()
            return Change(add={id: address.encode()}, promote=promote, move=unnamed)
        id = int(asked["id"])
        unnamed.pop(id, None)
        if operation == "promote":
            return Change(promote={id}, move=unnamed)
        if operation == "remove":
            return Change(remove={id}, move=unnamed)
        raise ValueError(f"{operation!r} is neither add, promote nor remove")

    def _not_leader(self) -> str:
        leader, serves = self.raft.leader_id, self.peering.leader_serves
        if not leader:
            return f"Replica {self.raft.id} does not lead, and knows of no leader now: ask again."
        where = f" at {serves}" if serves else ""
        return f"Replica {self.raft.id} does not lead: ask replica {leader}{where}."

    def _body(self, control: slots.Control) -> dict[str, Any]:
        try:
            asked: Any = json.loads(control.body or b"{}")
        except ValueError:
            return {}
        return asked if isinstance(asked, dict) else {}  # pyright: ignore[reportUnknownVariableType]

    def _number(self, control: slots.Control, name: str) -> int:
        found = self._body(control).get(name)
        return found if isinstance(found, int) and not isinstance(found, bool) else 0

    def _refuse(self, control: slots.Control, why: str) -> None:
        self.controls.refuse(control, self.feed.fed, why)
