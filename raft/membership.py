"""Who belongs to the cluster: the configuration of §6 of the paper, as a value, and what may become of it.

                      add            promote, once it has caught up          remove
    (a new id)  ────────────► LEARNER ─────────────► VOTER          LEARNER ────────► (gone)
                              takes entries,         counts         VOTER   ────────► (gone)
                              counts nowhere

Every change is an entry of the log. One that changes the voters goes through a joint configuration
(`outgoing` are the old voters): until that is left again, every decision needs a majority of the
old voters *and* one of the new. So any number of voters may be exchanged at once.

    {1 2 3}  ── C_old,new: voters {1 2 4}, outgoing {1 2 3} ──►  ── C_new: voters {1 2 4} ──►

A configuration counts from the moment it is *in* a replica's log, committed or not (§6: "a server
always uses the latest configuration in its log"), and no longer when it is removed from it. The
leader appends C_new by itself, once C_old,new is committed.

Guarantees: one change at a time, and none but from a configuration that is whole; a new member
begins as a learner; an id is never used twice, since a directory that was lost has lost its votes.
What is refused comes back as a sentence. Leaves to others: when a learner has caught up
(progress.py), and when a change is committed (core.py). Addresses are bytes that only the shell reads.

Encoded, little-endian:
    0  u16 version (1) | u16 members | u32 0 | u64 highest id ever used
   16  for each member, by id:  u64 id | u16 flags | u16 address bytes | u32 0 | address
       flags: 1 voter, 2 outgoing, 4 learner, 8 learner that becomes a voter once it has caught up
"""

from collections.abc import Iterable, Mapping
from struct import Struct

from attrs import evolve, field, frozen

from .errors import ConfigurationUnreadable
from .quorum import Quorum

VERSION = 1
MEMBERS_MAX = 64
ADDRESS_BYTES_MAX = 4096

_HEAD = Struct("<HHIQ")
_MEMBER = Struct("<QHHI")
_VOTER, _OUTGOING, _LEARNER, _JOINING = 1, 2, 4, 8


def _ids(ids: Iterable[int]) -> frozenset[int]:
    return frozenset(ids)


def _by_id(
    addresses: Mapping[int, bytes] | Iterable[tuple[int, bytes]],
) -> tuple[tuple[int, bytes], ...]:
    return tuple(sorted(dict(addresses).items()))


@frozen
class Refused:
    """What was asked for was not begun; the sentence says why, to an operator or a client."""

    sentence: str


@frozen(kw_only=True)
class Change:
    """What an operator asks for. `add` begins as learners; `promote` waits until they have caught up.

    `remove` does not wait. To exchange a voter that is alive, add and promote the new one first.
    """

    add: tuple[tuple[int, bytes], ...] = field(default=(), converter=_by_id)
    promote: frozenset[int] = field(default=frozenset(), converter=_ids)
    remove: frozenset[int] = field(default=frozenset(), converter=_ids)
    # Members whose address is another one now.
    move: tuple[tuple[int, bytes], ...] = field(default=(), converter=_by_id)


@frozen(kw_only=True)
class Membership:
    """One configuration. Joint while `outgoing` has anybody."""

    voters: frozenset[int] = field(default=frozenset(), converter=_ids)
    outgoing: frozenset[int] = field(default=frozenset(), converter=_ids)
    learners: frozenset[int] = field(default=frozenset(), converter=_ids)
    # Learners that become voters by themselves once they have caught up.
    joining: frozenset[int] = field(default=frozenset(), converter=_ids)
    addresses: tuple[tuple[int, bytes], ...] = field(default=(), converter=_by_id)
    last_id: int = 0

    def __attrs_post_init__(self) -> None:
        assert not self.learners & self.electors and self.joining <= self.learners, self
        highest = max(self.members, default=0)
        if self.last_id < highest:
            object.__setattr__(self, "last_id", highest)

    @property
    def electors(self) -> frozenset[int]:
        """Everybody who counts in a decision."""
        return self.voters | self.outgoing

    @property
    def members(self) -> frozenset[int]:
        """Everybody who is sent the log."""
        return self.voters | self.outgoing | self.learners

    @property
    def quorum(self) -> Quorum:
        """What a decision needs: a majority of each half (quorum.py)."""
        return (self.voters, self.outgoing) if self.outgoing else (self.voters,)

    def address(self, id: int) -> bytes:
        """Where the shell finds a member; empty if nobody said so."""
        return dict(self.addresses).get(id, b"")

    def changed(self, change: Change) -> "Membership | Refused":
        """The configuration that the change leads to, joint if the voters change."""
        sentence = self._why_not(change)
        if sentence:
            return Refused(sentence)
        voters = self.voters - change.remove
        learners = (self.learners | {id for id, _ in change.add}) - change.remove
        changed = Membership(
            voters=voters,
            outgoing=self.voters if voters != self.voters else (),
            learners=learners,
            joining=(self.joining | change.promote) - change.remove,
            addresses={**dict(self.addresses), **dict(change.add), **dict(change.move)},
            last_id=max(self.last_id, *(id for id, _ in change.add), 0),
        )
        changed = changed._without_strangers()
        return Refused("Nothing would change.") if changed == self else changed

    def promoted(self, ids: frozenset[int]) -> "Membership":
        """The joint configuration in which these learners, who have caught up, become voters."""
        assert ids and ids <= self.joining and not self.outgoing, (ids, self)
        return evolve(
            self,
            voters=self.voters | ids,
            outgoing=self.voters,
            learners=self.learners - ids,
            joining=self.joining - ids,
        )

    def left(self) -> "Membership":
        """C_new: the joint configuration without the old voters."""
        assert self.outgoing
        return evolve(self, outgoing=frozenset[int]())._without_strangers()

    def encode(self) -> bytes:
        """The body of a CONFIGURATION entry."""
        parts = [_HEAD.pack(VERSION, len(self.members), 0, self.last_id)]
        for id in sorted(self.members):
            flags = (
                _VOTER * (id in self.voters)
                | _OUTGOING * (id in self.outgoing)
                | _LEARNER * (id in self.learners)
                | _JOINING * (id in self.joining)
            )
            address = self.address(id)
            parts += [_MEMBER.pack(id, flags, len(address), 0), address]
        return b"".join(parts)

    @classmethod
    def decode(cls, body: bytes) -> "Membership":
        """The configuration that `encode` gave these bytes. Raises ConfigurationUnreadable."""
        if len(body) >= 2 and int.from_bytes(body[:2], "little") > VERSION:
            version = int.from_bytes(body[:2], "little")
            raise ConfigurationUnreadable(
                f"The cluster's configuration has version {version}; this program reads up to "
                f"{VERSION}. Start a newer leftfold."
            )
        try:
            membership = cls._decoded(body)
        except (AssertionError, ValueError):
            membership = None
        if membership is None or membership.encode() != body:
            raise ConfigurationUnreadable(
                f"{len(body)} bytes are no configuration of a cluster: {body[:24].hex()}…"
            )
        return membership

    @classmethod
    def _decoded(cls, body: bytes) -> "Membership | None":
        if len(body) < _HEAD.size:
            return None
        _, count, _, last_id = _HEAD.unpack_from(body)
        flagged: dict[int, int] = {}
        addresses: dict[int, bytes] = {}
        at = _HEAD.size
        for _ in range(count):
            if at + _MEMBER.size > len(body):
                return None
            id, flags, length, _ = _MEMBER.unpack_from(body, at)
            at += _MEMBER.size
            flagged[id] = flags
            if length:
                addresses[id] = body[at : at + length]
            at += length

        def having(flag: int) -> frozenset[int]:
            return frozenset(id for id, flags in flagged.items() if flags & flag)

        return cls(
            voters=having(_VOTER),
            outgoing=having(_OUTGOING),
            learners=having(_LEARNER),
            joining=having(_JOINING),
            addresses=addresses,
            last_id=last_id,
        )

    def _without_strangers(self) -> "Membership":
        kept = tuple((id, where) for id, where in self.addresses if id in self.members and where)
        return evolve(self, addresses=kept)

    def _why_not(self, change: Change) -> str:
        added = frozenset(id for id, _ in change.add)
        moved = frozenset(id for id, _ in change.move)
        used = sorted(id for id in added if id <= self.last_id)
        unknown = sorted((change.promote - added | change.remove | moved) - self.members)
        voting = sorted(change.promote & self.voters)
        both = sorted(change.remove & (added | change.promote | moved))
        longest = max((len(where) for _, where in change.add + change.move), default=0)
        if self.outgoing:
            return "A change of the members is under way; ask again when it is done."
        if used:
            return (
                f"Replica id {used[0]} has been used, and none is used twice: what it promised may "
                f"be lost. The next free id is {self.last_id + 1}."
            )
        if unknown:
            return f"Replica {unknown[0]} is no member."
        if voting:
            return f"Replica {voting[0]} is a voter already."
        if both:
            return f"Replica {both[0]} cannot be removed and kept in one change."
        if not self.voters - change.remove:
            return "A cluster needs at least one voter; the last one cannot be removed."
        if len(self.members | added) > MEMBERS_MAX:
            return f"A cluster has at most {MEMBERS_MAX} members."
        if longest > ADDRESS_BYTES_MAX:
            return f"An address of {longest} bytes is longer than {ADDRESS_BYTES_MAX}."
        return ""
