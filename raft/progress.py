"""What a leader knows about one peer, and how much it may send to it.

            a reply accepts                 a refusal
    PROBE ───────────────────► REPLICATE ───────────────► PROBE
      │                            ▲
      │ the peer needs entries     │ the peer has been given
      │ that are gone              │ a snapshot
      └────────► SNAPSHOT ─────────┘

PROBE      one AppendEntries at a time, until the leader knows where the two logs agree.
REPLICATE  `next` runs ahead of the replies, up to a window of messages and bytes.
SNAPSHOT   entries are of no use to the peer, until it says that it holds what the log goes on
           from. It is sent the leader's newest snapshot (transfer.py). A leader that knows of
           none asks it with every heartbeat that it answers: an operator may have copied one.

A peer that is far behind is sent its entries on the bulk flow, in order, and none on the other
flow until all of those are answered: two flows must not overtake each other.

A learner that is to become a voter catches up in rounds (thesis §4.2.1): a round ends when the
peer has what the leader had at its start. Once a round takes no longer than an election time-out,
the peer has caught up: a leader's fall just after its promotion would cost no more than that.

Invariant: match < next. `match` never falls within a term (a durable promise, I4), unless the
peer's disk was damaged and it says so.
"""

from collections import deque
from enum import Enum

from attrs import Factory, define

from .stretch import PeerStretch
from .transfer import Outgoing, Stored


class ProgressState(Enum):
    """See the head of this file."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


@define
class Progress:
    """One peer, as seen by the leader of this term. `next` is the next index to send."""

    next: int
    match: int = 0
    state: ProgressState = ProgressState.PROBE
    # PROBE: a probe is under way; the next waits for an answer or for the heartbeat's.
    probe_sent: bool = False
    # REPLICATE: (last index, bytes) of each AppendEntries that is unanswered.
    in_flight: deque[tuple[int, int]] = Factory(deque[tuple[int, int]])
    in_flight_bytes: int = 0
    # A journal read for this peer is under way (Ready.fetch).
    fetching: bool = False
    # What is in flight went out on the bulk flow.
    bulk: bool = False
    # SNAPSHOT: the snapshot that is on its way.
    outgoing: Outgoing | None = None
    # Heard of since the leader last checked that it has a quorum.
    active: bool = False
    # It was heard of in this term; and for how many ticks it has not been, or never was.
    spoken: bool = False
    silent_ticks: int = 0
    # It lost what it may have acknowledged, and does not count until it has it again.
    repairing: bool = False
    # A learner that joins: what ends the present round, how long it takes, and how the last one went.
    round_goal: int = 0
    round_ticks: int = 0
    caught_up: bool = False
    # The highest read round that this peer has confirmed.
    round: int = 0

    def may_send(self, messages_max: int, bytes_max: int) -> bool:
        """Is there room for another AppendEntries?"""
        if self.state is ProgressState.SNAPSHOT or self.fetching:
            return False
        if self.state is ProgressState.PROBE:
            return not self.probe_sent
        return len(self.in_flight) < messages_max and self.in_flight_bytes < bytes_max

    def sent(self, last: int, size: int) -> None:
        """An AppendEntries that ends at `last`, with `size` bytes of bodies, has been sent."""
        if self.state is ProgressState.PROBE:
            self.probe_sent = True
        elif last >= self.next:
            self.next = last + 1
            self.in_flight.append((last, size))
            self.in_flight_bytes += size

    def accepted(self, index: int) -> bool:
        """The peer holds all up to `index`. Returns whether that is news."""
        while self.in_flight and self.in_flight[0][0] <= index:
            self._land()
        news = index > self.match
        self.match = max(self.match, index)
        self.next = max(self.next, self.match + 1)
        if self.state is not ProgressState.REPLICATE and (news or index == self.next - 1):
            self._enter(ProgressState.REPLICATE)
            self.next = self.match + 1
        return news

    def refused(self, index: int, retry: int) -> bool:
        """The peer refused prev_index `index`; `retry` is where the logs may still agree.

        Returns False if the refusal is stale: an answer to a message that a later one overtook.
        """
        if index <= self.match or self.state is ProgressState.SNAPSHOT:
            return False
        if self.state is ProgressState.PROBE and index != self.next - 1:
            return False
        self._enter(ProgressState.PROBE)
        self.next = max(min(index, retry + 1), self.match + 1)
        return True

    def keeps_up(self, last: int) -> bool:
        """Has it been sent all up to `last`, on the ordinary flow, one message after the other?"""
        return (
            self.state is ProgressState.REPLICATE
            and self.next == last + 1
            and not self.bulk
            and not self.fetching
        )

    def standing(self) -> PeerStretch:
        """Where a stretch begins."""
        return PeerStretch(self.match, self.next, self.round, tuple(self.in_flight), False)

    def stretch(self, done: PeerStretch) -> None:
        """What a shell has sent and heard by itself; see stretch.py."""
        self.match, self.next, self.round = done.match, done.next, done.round
        self.in_flight = deque(done.in_flight)
        self.in_flight_bytes = sum(size for _, size in done.in_flight)
        if done.spoke:
            self.spoke()

    def lost_down_to(self, index: int) -> None:
        """The peer is being repaired, and holds no more than this of what it once accepted."""
        self.match = min(self.match, index)

    def heard(self) -> None:
        """A heartbeat was answered: whatever was sent before may be lost, so let one more out.

        Without this a lost probe would stop the peer's log for good.
        """
        self.probe_sent = False
        if self.in_flight:
            self._land()
        if self.outgoing is not None:
            self.outgoing.heard()

    def spoke(self) -> None:
        """Any reply of this term."""
        self.active = self.spoken = True
        self.silent_ticks = 0

    def is_heard(self, ticks_max: int) -> bool:
        """Has it spoken within the last `ticks_max` ticks?"""
        return self.spoken and self.silent_ticks < ticks_max

    def is_silent(self, ticks_max: int) -> bool:
        """Has it said nothing for `ticks_max` ticks? Before that, who was never heard may yet speak."""
        return self.silent_ticks >= ticks_max

    def tick(self) -> None:
        """Time passes for what is measured in it."""
        self.silent_ticks += 1

    def tick_round(self, last: int, ticks_max: int) -> None:
        """A learner that joins, while the leader's log ends at `last`: is this round over?"""
        if not self.round_goal:
            self.round_goal = last
            return
        self.round_ticks += 1
        if self.match >= self.round_goal:
            self.caught_up = self.round_ticks <= ticks_max
            self.round_goal, self.round_ticks = last, 0
        elif self.round_ticks > ticks_max:
            self.caught_up = False

    def needs_snapshot(self, stored: Stored | None) -> None:
        """What the peer needs next is no longer in the log."""
        self._enter(ProgressState.SNAPSHOT)
        self.outgoing = None if stored is None else Outgoing(stored)

    def _land(self) -> None:
        self.in_flight_bytes -= self.in_flight.popleft()[1]

    def _enter(self, state: ProgressState) -> None:
        self.state = state
        self.outgoing = None
        self.probe_sent = False
        self.in_flight.clear()
        self.in_flight_bytes = 0
