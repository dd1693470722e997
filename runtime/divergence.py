"""Replicas whose logic has put out different things are found at once, entry by entry: the contract on divergence.

Each follower tells the leader its digests as it applies; the leader compares them with its own. At the first entry where two
differ, the majority of the voters decides: the odd replica stops, naming the entry and both values. A leader that is the odd one
hands over first. Without a majority all stop, since nobody can tell who is right.

The digests chain over all outputs, so a replica that once was different stays so; one that differs in state alone is found by
state_checks.py. Kept are the last WINDOW entries; what a replica tells of older ones is passed over. Messages may be lost, and begin
anywhere after a change of leader: of what was not told nothing is concluded, and the newest digest is told again and again.
"""

from struct import Struct

from attrs import define, field, frozen

from ..actors.layout import COMMAND, EntryKind
from ..raft import Entry, Raft, Role
from . import slots
from .digests import DIGESTS_MAX, UNPLACED, Digests, Odd

WINDOW = 65_536
BLOCKS_MAX = 256
SILENT_TIMEOUTS = 4
"""For how many election time-outs a voter that says nothing is waited for."""
TELL_AGAIN_TICKS = 100
_VALUE = Struct("<I")


@frozen
class Place:
    """From which ordinal of the entry on a replica is not what the others are, and the digests there; see parting.py."""

    ordinal: int
    found: int
    expected: int


@frozen
class Verdict:
    """At entry `index` the replicas `odd` are not what the majority is; `expected` is None where there is no majority."""

    index: int
    found: dict[int, int]
    expected: int | None
    odd: frozenset[int]
    of_state: bool = False
    """It is the digests of the whole state that differ, not those of the outputs."""
    places: dict[int, Place] = field(factory=dict[int, Place])
    """Of the odd ones, as far as that is known."""


@define(eq=False)
class Divergence:
    """See the head of this file."""

    raft: Raft
    base: int = field(default=0, init=False)
    """The entry that the first of `own` belongs to; 0: none yet."""
    own: bytearray = field(factory=bytearray, init=False)
    told_through: int = field(default=0, init=False)
    _quiet_ticks: int = field(default=0, init=False)
    agreed: dict[int, int] = field(factory=dict[int, int], init=False)
    """How far each peer's digests were found equal."""
    differs: dict[int, tuple[int, bytearray]] = field(
        factory=dict[int, tuple[int, bytearray]], init=False
    )
    """The first entry at which a peer is known to differ, and its digests from there on."""
    waiting: dict[int, list[tuple[int, bytes]]] = field(
        factory=dict[int, list[tuple[int, bytes]]], init=False
    )
    """Digests of entries that this replica has not applied yet."""

    def applied(self, first: int, digests: bytes) -> None:
        """Logic's own."""
        if first != self.base + len(self.own) // 4:  # The first ones, or those behind a snapshot.
            self.base = first
            self.own.clear()
            self.told_through = first - 1
        self.own += digests
        surplus = len(self.own) // 4 - WINDOW
        if surplus > 0:
            del self.own[: 4 * surplus]
            self.base += surplus

    def to_tell(self) -> Digests | None:
        """What the leader has not been told yet, a part at a time; the newest again, where nothing comes. Once a tick."""
        raft = self.raft
        if not self.own or raft.role is not Role.FOLLOWER or not raft.leader_id:
            return None
        first = max(self.told_through + 1, self.base)
        run = self._slice(first, DIGESTS_MAX)
        self._quiet_ticks = 0 if run else self._quiet_ticks + 1
        if self._quiet_ticks == TELL_AGAIN_TICKS:
            self._quiet_ticks = 0
            first, run = first - 1, bytes(self.own[-_VALUE.size :])
        if not run:
            return None
        self.told_through = first + len(run) // 4 - 1
        return Digests(raft.id, raft.leader_id, raft.term, first, run)

    def told(self, message: Digests) -> None:
        """A peer's. Only a leader compares."""
        count, odd_bytes = divmod(len(message.digests), _VALUE.size)
        if self.raft.role is not Role.LEADER or odd_bytes or not 0 < count <= DIGESTS_MAX:
            return
        waiting = self.waiting.setdefault(message.source, [])
        if len(waiting) < BLOCKS_MAX:
            waiting.append((message.first, message.digests))

    def look(self) -> Verdict | None:
        """Compare what can be compared; the verdict on the first entry that differs, if it can be given.

        Who was told, and has stopped, stands before no later difference.
        """
        for peer, blocks in self.waiting.items():
            while blocks and self._compare(peer, *blocks[0]):
                blocks.pop(0)
        for index in sorted({index for index, _ in self.differs.values()}):
            verdict = self._judge(index) if index >= self.base else None
            if verdict is not None and concerns(self.raft, verdict):
                return verdict
        return None

    def forget(self) -> None:
        """The role is another one: what peers told was for the leader, and another one is told a part of it anew."""
        self.agreed.clear()
        self.differs.clear()
        self.waiting.clear()
        self.told_through = max(0, self.told_through - DIGESTS_MAX)

    def _slice(self, first: int, count: int) -> bytes:
        start = 4 * (first - self.base)
        return bytes(self.own[start : start + 4 * count]) if start >= 0 else b""

    def _compare(self, peer: int, first: int, run: bytes) -> bool:
        """Whether this replica had applied all of it, so that it was compared."""
        last = first + len(run) // 4 - 1
        if last >= self.base + len(self.own) // 4:
            return False
        if peer in self.differs:
            self._go_on(peer, first, run)
            return True
        skipped = max(0, self.base - first)
        run, first = run[4 * skipped :], first + skipped
        own = self._slice(first, len(run) // 4)
        if run == own:
            self.agreed[peer] = max(self.agreed.get(peer, 0), last)
            return True
        for at in range(0, len(run), 4):
            if run[at : at + 4] != own[at : at + 4]:
                index = first + at // 4
                if at:  # Of what lies before its first digest here nobody knows.
                    self.agreed[peer] = max(self.agreed.get(peer, 0), index - 1)
                self.differs[peer] = index, bytearray(run[at:])
                break
        return True

    def _go_on(self, peer: int, first: int, run: bytes) -> None:
        """More from one that differs: a later entry may be the first of which enough have told."""
        begin, kept = self.differs[peer]
        end = begin + len(kept) // 4
        if first > end or begin < self.base:
            self.differs[peer] = first, bytearray(run)  # What differed stays different.
        else:
            kept += run[4 * (end - first) :]

    def _judge(self, index: int) -> Verdict | None:
        raft = self.raft
        own = _VALUE.unpack(self._slice(index, 1))[0]
        found = {raft.id: own}
        for peer, (first, run) in self.differs.items():
            if first <= index < first + len(run) // 4:
                found[peer] = _VALUE.unpack_from(run, 4 * (index - first))[0]
        for peer, through in self.agreed.items():
            if through >= index:
                found[peer] = own
        return judge(raft, index, found)


def judge(
    raft: Raft, index: int, found: dict[int, int], *, of_state: bool = False
) -> Verdict | None:
    """What the majority of the voters has at an entry where two replicas differ; None: somebody who matters has yet to say."""
    voters = raft.membership.voters
    counted = [value for id, value in found.items() if id in voters]
    for value in set(counted):
        if 2 * counted.count(value) > len(voters):
            odd = frozenset(id for id, other in found.items() if other != value)
            return Verdict(index, found, value, odd, of_state)
    if any(may_say(raft, id) for id in voters - found.keys()):
        return None  # It will say.
    return Verdict(index, found, None, frozenset(found), of_state)


def concerns(raft: Raft, verdict: Verdict) -> bool:
    """Whether anybody is there to whom it says something new: it is not, once all that are odd have stopped."""
    return any(id == raft.id or may_say(raft, id) for id in verdict.odd)


def may_say(raft: Raft, peer: int) -> bool:
    """A new leader has not heard of anybody yet; that is no sign that there is nobody."""
    progress = raft.progress.get(peer)
    return progress is not None and not progress.is_silent(
        SILENT_TIMEOUTS * raft.config.election_ticks
    )


def letter(raft: Raft, verdict: Verdict, id: int) -> Odd:
    """What the leader tells an odd one, itself included."""
    place = verdict.places.get(id)
    if place is None:
        found = verdict.found[id]
        expected = found if verdict.expected is None else verdict.expected
        place = Place(UNPLACED, found, expected)
    return Odd(
        raft.id,
        id,
        raft.term,
        verdict.index,
        place.ordinal,
        place.found,
        place.expected,
        verdict.of_state,
    )


def command_at(entry: Entry, ordinal: int) -> str:
    """What an entry has at an ordinal, as far as that can be said without the app."""
    if entry.kind == EntryKind.TIME:
        return "a timer that was due"
    if entry.kind != EntryKind.COMMANDS:
        return ""
    for at, (kind, message, slot) in enumerate(slots.slots_of(memoryview(entry.body))):
        if at == ordinal and kind == slots.COMMAND:
            key_bytes = COMMAND.unpack_from(slot)[6]
            key = bytes(slot[COMMAND.size : COMMAND.size + key_bytes])
            return f"message {message} for key {key.hex()}"
        if at == ordinal:
            return "a session that opens or closes"
    return ""


def sentence(odd: Odd, command: str = "") -> str:
    """Why this replica stops."""
    where = f"by the end of entry {odd.index}"
    if odd.state:
        where = f"at entry {odd.index}"
    elif odd.ordinal != UNPLACED:
        where = f"at index {odd.index}, ordinal {odd.ordinal}"
        where += f", {command}" if command else ""
    if odd.expected == odd.found:
        what = "hold different states" if odd.state else "have put out different things"
        return (
            f"The replicas {what} {where} (here the digest is {odd.found:08x}), and there is no majority that would "
            "say who is right: all stop. `leftfold diff` of two directories shows the command."
        )
    what = "holds another state than" if odd.state else "has put out something else than"
    return (
        f"Replica {odd.target} {what} the majority {where}: its digest there is {odd.found:08x}, theirs "
        f"{odd.expected:08x}. It has stopped; `leftfold diff` of its directory and another's shows the command. Its state "
        "is not to be trusted: let it join again under a new id with an empty directory."
    )
