"""The log kept short and the disk kept from filling up: consensus's part in it.

When a snapshot is due (snapshot_points.py), logic is told to write one behind what it was given; when it counts, what no
snapshot and no replica that is heard still needs is forgotten here and discarded by the journal. While the disk has no room,
commands are refused, each with the sentence, and snapshots are taken so that the log can go.
"""

from collections.abc import Callable
from typing import Any

from attrs import define, evolve, field

from ..raft import Membership, Raft, Received, Role, Stored
from ..shm import Counters
from . import slots
from .clock import Clock
from .config import NS_PER_S
from .controls import Controls
from .feed import ENTRY_OVERHEAD_BYTES, Feed
from .peering import Peering
from .persisting import Persisting
from .separation import Refusal
from .snapshot_points import SnapshotPoints
from .transfer_slots import ReceivedSnapshot

MAKE_ROOM_AGAIN_NS = 5_000_000_000


@define(eq=False)
class Upkeep:
    """See the head of this file."""

    raft: Raft
    points: SnapshotPoints
    feed: Feed
    peering: Peering
    persisting: Persisting
    controls: Controls
    clock: Clock
    counters: Counters
    report: Callable[[dict[str, Any]], None]
    sizes: dict[int, int] = field(factory=dict[int, int], init=False)
    """Bytes of content of the snapshots that were received, until Raft has them restored."""
    asker: slots.Control | None = field(default=None, init=False)
    """Who asked for the snapshot that is wanted."""
    refusal: Refusal | None = field(default=None, init=False)
    """The disk is nearly full: why commands are refused."""
    make_room_ns: int = field(default=0, init=False)
    """When making room is tried again."""

    # Snapshots

    def take_snapshot(self, now_ns: int) -> int:
        """Tell logic to write its state, when that is due, behind what it was given."""
        reason = self.due()
        if reason is None or self.feed.restoring:
            return 0
        fed = self.feed.fed
        term = self.raft.log.term_at(fed)
        assert term is not None
        asked = slots.TakeSnapshot(fed, term, reason, self._membership(fed))
        if not self.feed.ring.write(slots.pack_take_snapshot(asked)):
            return 0
        self.points.begun(asked, now_ns)
        if self.asker is not None:
            self.controls.answer(self.asker, fed, {"index": fed, "new": True})
            self.asker = None
        self.report({"snapshotting": fed})
        return 1

    def due(self) -> int | None:
        """Why a snapshot is to be taken now; None if none is."""
        return self.points.due(share=self._share())

    def _share(self) -> float:
        """Replicas do not fork all at once, and the leader last."""
        members = sorted(self.raft.membership.members)
        if len(members) < 2:
            return 1.0
        followers = [id for id in members if id != self.raft.leader_id]
        return share_of(self.raft.role is Role.LEADER, self.raft.id, followers)

    def _membership(self, index: int) -> bytes:
        """Who the members are at that index, with all that is known of where they are; empty: it is alone, as it began."""
        membership = self.raft.membership_at(index)
        known = self.peering.addresses()
        if not known and membership.members == frozenset({self.raft.id}):
            return b""
        where = {id: known[id].encode() for id in membership.members if id in known}
        return evolve(membership, addresses=where).encode()

    def snapshot_ended(self, state: slots.SnapshotState) -> None:
        """What became of the snapshot that logic was told to write."""
        asked = self.points.ended(state)
        if asked is None:
            return
        if state.tag != slots.VERIFIED:
            self.report(
                {
                    "warning": f"There is no snapshot of entry {state.index}: {state.why}. The log is kept and service "
                    "goes on; it will be tried again."
                }
            )
            return
        self.raft.snapshot_taken(Stored(state.index, asked.term, state.file_bytes))
        self.counters.counters["snapshot_index"].set(state.index)
        seconds = (self.clock.monotonic_ns() - self.points.began_ns) / NS_PER_S
        self.report({"snapshot": state.index, "bytes": state.file_bytes, "seconds": seconds})

    def received(self, found: ReceivedSnapshot) -> None:
        """What became of the snapshot that the leader sent."""
        if found.why:
            self.report({"warning": f"The leader's snapshot of entry {found.index}: {found.why}."})
            self.raft.snapshot_refused(found.index)
            return
        membership = Membership.decode(found.membership)
        self.sizes[found.index] = found.content_bytes
        taken = self.raft.snapshot_received(
            Received(found.index, found.term, found.time_ns, found.file_bytes, membership)
        )
        if not taken:
            self.sizes.pop(found.index)
            return
        self.points.restored(found.index, found.file_bytes, found.keep_from)
        self.counters.counters["snapshot_index"].set(found.index)
        self.report({"notice": f"The leader's snapshot of entry {found.index} is here and whole."})

    def discard(self) -> int:
        """Forget what no snapshot and no replica that is heard needs any more: here, and on disk."""
        keep_from = min(self.points.keep_from, self.feed.fed + 1)
        if self.refusal is None:
            keep_from = min(keep_from, self.raft.needed_from())
        if keep_from <= self.raft.log.first or self.persisting.room() < 4 * ENTRY_OVERHEAD_BYTES:
            return 0
        self.persisting.write(slots.pack_discard(keep_from))
        self.raft.compacted(keep_from)
        self.counters.counters["log_first_index"].set(keep_from)
        return 1

    # Room

    def take_room(self, tag: int, sentence: str, slot_bytes_max: int) -> None:
        """The journal says how the disk stands."""
        if tag == slots.ROOM_LOW:
            if self.refusal is None:
                self.report({"warning": sentence})
            self.refusal = Refusal.of(slots.REFUSED_DISK_FULL, sentence, slot_bytes_max)
        elif self.refusal is not None:
            self.refusal = None
            self.report({"warning": "There is room on disk again; commands are accepted."})
        self.peering.low = self.refusal is not None

    def make_room(self, now_ns: int, propose_time: Callable[[], object] | None) -> int:
        """The disk is low, and nothing is on its way: two snapshots behind everything leave the least log.

        The log is kept from the older of two snapshots on. So when nothing was written since the newest, and it still
        keeps much of the log alive, an entry with nothing but the time gives the next one an index of its own.
        """
        points, fed = self.points, self.feed.fed
        if self.refusal is None or points.busy or now_ns < self.make_room_ns:
            return 0
        if fed > points.taken:
            self.make_room_ns = now_ns + MAKE_ROOM_AGAIN_NS
            points.want(slots.BY_SCHEDULE)
        elif self.raft.log.first < points.taken and propose_time is not None:
            propose_time()
            self.make_room_ns = 0
        else:
            return 0
        return 1


def share_of(leads: bool, id: int, followers: list[int]) -> float:
    """By how much more log than it must a replica waits with its snapshot: each by another amount."""
    if leads or id not in followers:
        return 1.5
    return 1.0 + 0.4 * followers.index(id) / len(followers)
