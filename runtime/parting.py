"""At which command of an entry replicas parted: the leader asks for digests per ordinal once a verdict names the entry.

    leader ── AskOrdinals ──► the odd ones, and one whose word counts; its own logic is asked in the same way
    leader ◄── OrdinalDigests ── each, in parts, from what its logic still has (recent_outputs.py)

What is lost on the way is asked again. Who cannot say is waited for no longer than PATIENCE_TICKS: then the verdict stands without
an ordinal. It does too where all ordinals are alike: then the replicas parted before this entry, under another leader say.
"""

from struct import Struct

from attrs import define, evolve, field

from ..raft import Raft
from .digests import OrdinalDigests
from .divergence import Place, Verdict, may_say

PATIENCE_TICKS = 300
ASK_AGAIN_TICKS = 50
"""Logic answers behind all that it was given: under full load that takes a while."""
ORDINALS_MAX = 65_536
"""No entry has as many."""
_VALUE = Struct("<I")


@define
class _Told:
    """What one replica has said of the entry."""

    digests: bytearray = field(factory=bytearray)
    ended: bool = False
    knows: bool = True

    def at(self, ordinal: int) -> int:
        """After the last one nothing came."""
        last = len(self.digests) // _VALUE.size - 1
        where = min(ordinal, last)
        value: int = _VALUE.unpack_from(self.digests, _VALUE.size * where)[0] if where >= 0 else 0
        return value


@define(eq=False)
class Parting:
    """One entry at a time."""

    raft: Raft
    index: int = field(default=0, init=False)
    to_ask: frozenset[int] = field(default=frozenset(), init=False)
    """Whom to ask now for the digests of `index`."""
    _told: dict[int, _Told] = field(factory=dict[int, _Told], init=False)
    _ticks: int = field(default=0, init=False)

    def place(self, verdict: Verdict) -> Verdict | None:
        """The verdict with what can be told of ordinals; None: somebody has to be asked, or to answer. Once a tick."""
        if verdict.of_state:
            return verdict
        fresh = verdict.index != self.index
        if fresh:
            self.forget()
            self.index = verdict.index
        needed = verdict.odd | self._right(verdict)
        missing = frozenset(id for id in needed if id not in self._told or not self._told[id].ended)
        if not missing:
            return self._placed(verdict)
        if self._ticks >= PATIENCE_TICKS:
            return verdict
        self.to_ask = missing if fresh or self._ticks % ASK_AGAIN_TICKS == 0 else frozenset()
        self._ticks += 1
        return None

    def heard(self, message: OrdinalDigests) -> None:
        """A part of what a replica says, this one's own logic included."""
        if message.index != self.index or len(message.digests) % _VALUE.size:
            return
        told = self._told.setdefault(message.source, _Told())
        if told.ended or _VALUE.size * message.first != len(told.digests):
            return  # It was said before, or something before it was lost.
        told.digests += message.digests
        told.knows = message.knows and len(told.digests) <= _VALUE.size * ORDINALS_MAX
        told.ended = message.last or not told.knows

    def forget(self) -> None:
        """The role is another one."""
        self.index = self._ticks = 0
        self._told.clear()

    def _right(self, verdict: Verdict) -> frozenset[int]:
        """One replica of the majority, if there is a majority: this one, or else one that is heard."""
        raft = self.raft
        able = sorted(
            verdict.found.keys() - verdict.odd,
            key=lambda id: (id != raft.id, not may_say(raft, id), id),
        )
        return frozenset(able[:1])

    def _placed(self, verdict: Verdict) -> Verdict:
        right = self._right(verdict)
        places: dict[int, Place] = {}
        for id in verdict.odd:
            own, others = self._told[id], [self._told[other] for other in right or verdict.odd]
            if not all(told.knows for told in (own, *others)):
                continue
            longest = max(len(told.digests) for told in (own, *others)) // _VALUE.size
            for ordinal in range(longest):
                found, wanted = own.at(ordinal), {told.at(ordinal) for told in others}
                if wanted != {found}:
                    places[id] = Place(ordinal, found, wanted.pop() if right else found)
                    break
        return evolve(verdict, places=places)
