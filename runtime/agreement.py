"""Whether this replica still is what the others are: consensus's part in the contract on divergence.

What is compared, and who is right, is in divergence.py (outputs) and state_checks.py (the whole state). Here is what
follows: the leader tells the odd ones, who stop with the sentence; a leader that is the odd one hands over first; where there is
no majority all stop.
"""

from collections.abc import Callable

from attrs import define, field

from ..actors.layout import EntryKind
from ..raft import Raft, Role
from .config import NS_PER_S
from .divergence import Divergence, Verdict, commands_in, letters, sentence
from .errors import OperatorError
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
    peering: Peering
    points: SnapshotPoints
    odd: Verdict | None = field(default=None, init=False)
    """This leader is not what the others are: it hands over, and stops."""
    hand_over_until_ns: int = field(default=0, init=False)

    def compare(self, now_ns: int) -> None:
        """Whoever is not what the majority is stops. Raises OperatorError if that is this replica."""
        told = self.peering.told_odd
        if told is not None:
            why = sentence(self.raft.id, told.index, told.found, told.expected, of_state=told.state)
            raise OperatorError(why + self._commands(told.index))
        for to_tell in (self.divergence.to_tell(), self.states.to_tell()):
            if to_tell is not None:
                self.peering.say(to_tell)
        if self.raft.role is not Role.LEADER:
            return
        verdict = self.divergence.look() or self.states.look()
        if verdict is None:
            return
        for letter in letters(self.raft, verdict):
            self.peering.say(letter)
        if self.raft.id in verdict.odd:
            self._stop(verdict, now_ns)

    def forget(self) -> None:
        """The role is another one."""
        self.divergence.forget()
        self.states.forget()

    def lost_office(self) -> None:
        """It leads no more. Raises OperatorError if it gave its office away for being the odd one."""
        if self.odd is not None:
            raise self._why(self.odd)
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
            raise self._why(verdict)

    def _why(self, verdict: Verdict) -> OperatorError:
        found, expected = verdict.found[self.raft.id], verdict.expected
        why = sentence(self.raft.id, verdict.index, found, expected, of_state=verdict.of_state)
        return OperatorError(why + self._commands(verdict.index))

    def _commands(self, index: int) -> str:
        """Those of an entry of commands that is still in memory."""
        log = self.raft.log
        entries = log.entries(index, index) if log.first <= index <= log.last else None
        commands = [one for one in entries or () if one.kind == EntryKind.COMMANDS]
        return commands_in(commands[0]) if commands else ""
