"""Whether this replica still is what the others are: consensus's part in the contract on divergence.

What is compared, and who is right, is in divergence.py (outputs) and state_checks.py (the whole state). Here is what
follows: the leader finds out which command it was (parting.py) and tells the odd ones, who stop with the sentence; a leader that is
the odd one hands over first; where there is no majority all stop.
"""

from collections.abc import Callable

from attrs import define, field

from ..raft import Raft, Role
from ..shm import Producer
from .config import NS_PER_S
from .digests import UNPLACED, AskOrdinals, Odd, pack_ask_ordinals, unpack_ordinals
from .divergence import Divergence, Verdict, command_at, letter, sentence
from .errors import OperatorError
from .parting import Parting
from .peering import Peering
from .snapshot_points import SnapshotPoints
from .state_checks import StateChecks

HAND_OVER_NS = NS_PER_S


@define(eq=False)
class Agreement:
    """See the head of this file."""

    raft: Raft
    divergence: Divergence
    states: StateChecks
    parting: Parting
    peering: Peering
    points: SnapshotPoints
    apply: Producer
    odd: Verdict | None = field(default=None, init=False)
    """This leader is not what the others are: it hands over, and stops."""
    hand_over_until_ns: int = field(default=0, init=False)
    suspect: bool = field(default=False, init=False)
    """This leader is the odd one, and it is being found out at which command: it takes nothing from clients meanwhile."""

    def compare(self, now_ns: int) -> None:
        """Whoever is not what the majority is stops. Raises OperatorError if that is this replica."""
        told = self.peering.told_odd
        if told is not None:
            raise self._why(told)
        for to_tell in (self.divergence.to_tell(), self.states.to_tell()):
            if to_tell is not None:
                self.peering.say(to_tell)
        if self.raft.role is not Role.LEADER:
            self._pass_on_question()
            return
        verdict = self.divergence.look() or self.states.look()
        self.suspect = verdict is not None and self.raft.id in verdict.odd
        if verdict is None:
            return
        verdict = self.parting.place(verdict)
        if verdict is None:
            self._ask_for_ordinals()
            return
        for peer in sorted(verdict.odd - {self.raft.id}):
            self.peering.say(letter(self.raft, verdict, peer))
        if self.raft.id in verdict.odd:
            self._stop(verdict, now_ns)

    def forget(self) -> None:
        """The role is another one."""
        self.suspect = False
        self.divergence.forget()
        self.states.forget()
        self.parting.forget()
        self.peering.asked_ordinals = 0

    def take_ordinals(self, slot: memoryview) -> None:
        """Logic says what it had put out by the end of each ordinal of an entry."""
        raft = self.raft
        found = unpack_ordinals(slot, raft.id, raft.leader_id, raft.term)
        if raft.role is Role.LEADER:
            self.parting.heard(found)
        elif raft.leader_id:
            self.peering.say(found)

    def lost_office(self) -> None:
        """It leads no more. Raises OperatorError if it gave its office away for being the odd one."""
        if self.odd is not None:
            raise self._why(letter(self.raft, self.odd, self.raft.id))
        self.hand_over_until_ns = 0

    def checked(self, propose_check: Callable[[], int] | None, fed: int) -> bool:
        """Whether a snapshot may be taken now: a leader has the state compared first, if it can propose that.

        With each anew: one that fails is nothing to go by for the next.
        """
        if self.raft.role is not Role.LEADER:
            return True
        if self.states.proposed <= max(self.points.taken, self.points.told):
            if propose_check is None:
                return True
            self.states.proposed = propose_check()
        return fed >= self.states.proposed

    def _stop(self, verdict: Verdict, now_ns: int) -> None:
        """The leader itself: it hands over first, if there is anybody whose word counts."""
        if verdict.expected is not None and not self.hand_over_until_ns:
            self.hand_over_until_ns = now_ns + HAND_OVER_NS
            heir = self.raft.heir(verdict.odd)
            if heir and self.raft.transfer(heir):
                self.odd = verdict
                return
        if verdict.expected is None or now_ns >= self.hand_over_until_ns:
            raise self._why(letter(self.raft, verdict, self.raft.id))

    def _pass_on_question(self) -> None:
        index = self.peering.asked_ordinals
        if index and self.apply.write(pack_ask_ordinals(index)):
            self.peering.asked_ordinals = 0

    def _ask_for_ordinals(self) -> None:
        """Lost or without room: it is asked again."""
        raft, index = self.raft, self.parting.index
        for id in sorted(self.parting.to_ask):
            if id == raft.id:
                self.apply.write(pack_ask_ordinals(index))
            else:
                self.peering.say(AskOrdinals(raft.id, id, raft.term, index))

    def _why(self, odd: Odd) -> OperatorError:
        log = self.raft.log
        known = odd.ordinal != UNPLACED and log.first <= odd.index <= log.last
        entries = log.entries(odd.index, odd.index) if known else None
        return OperatorError(sentence(odd, command_at(entries[0], odd.ordinal) if entries else ""))
