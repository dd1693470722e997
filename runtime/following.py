"""A follower's plain turns in C (following.h), and the two ways between: `enter` gives all numbers away, `leave` takes them back.

`enter` asks every object that has a part in a plain turn whether anything else is under way there; what is in flight goes
with it, as long as it is little. `leave` gives each of them what its own methods would have come to.
"""

from typing import TYPE_CHECKING

from attrs import define, field

from ..raft import Entry, Stretch
from ..shm import Doorbell
from . import slots
from ._wire import ffi, lib
from .carriers import set_layouts
from .shm_table import SHM_TABLE
from .writes import give_writes, writes_in

if TYPE_CHECKING:
    from ._wire import CData
    from .consensus import Consensus

SLOTS_BYTES = 256 * 1024
"""Of the entries of one stay."""
RUN_BYTES_MAX = 32 * 1024
"""Of what one ring holds. Longer runs are rare, and Python counts for little in them."""
CARRIED_MAX = 64
"""In flight when a stay begins: entries, writes and acknowledgements."""


@define(eq=False)
class Following:
    """The struct of following.h, and the objects whose numbers it has for a time."""

    consensus: "Consensus"
    bell: Doorbell
    _follow: "CData" = field(init=False, repr=False)
    _slots: memoryview = field(init=False, repr=False)
    _kept: "list[CData]" = field(factory=lambda: list["CData"](), init=False, repr=False)
    """What the struct points to."""
    _last: int = field(default=0, init=False)
    """The log's end when the stay began."""

    def __attrs_post_init__(self) -> None:
        consensus = self.consensus
        follow = self._follow = ffi.new("struct following *")
        follow.calls = SHM_TABLE
        follow.bell = ffi.cast("struct doorbell *", self.bell.handle)
        for at, ring in enumerate(consensus.inputs.consumers):
            follow.inputs[at] = ffi.cast("struct ring_end *", ring.handle)
        persist, apply, send = consensus.persisting.ring, consensus.apply, consensus.send
        for name, ring in (("persist", persist), ("apply", apply), ("send", send)):
            setattr(follow, name, ffi.cast("struct ring_end *", ring.handle))
            setattr(follow, f"{name}_bytes", ring.capacity)
        follow.slot_bytes_max = min(persist.slot_bytes_max, apply.slot_bytes_max)
        follow.run_bytes_max = RUN_BYTES_MAX
        slots_of_stay = ffi.new("uint8_t[]", SLOTS_BYTES)
        self._slots = memoryview(ffi.buffer(slots_of_stay))
        follow.slots, follow.slots_bytes_max = slots_of_stay, SLOTS_BYTES
        self._kept.append(slots_of_stay)
        set_layouts(follow.layouts)
        for name in ("commit", "applied"):
            word = consensus.counters.counters[f"{name}_index"].word
            self._kept.append(ffi.from_buffer("uint64_t[]", word))
            setattr(follow, f"{name}_count", self._kept[-1])

    # There

    def enter(self) -> bool:
        """Give C what it needs, if a plain turn may come next."""
        if not self._may_enter():
            return False
        standing = self.consensus.raft.standing()
        if not self._carry(standing):
            return False
        self._give(standing)
        return True

    def _may_enter(self) -> bool:
        consensus = self.consensus
        if not consensus.serving:
            return False  # It may know nothing yet.
        raft, feed, peering = consensus.raft, consensus.feed, consensus.peering
        persisting = consensus.persisting
        return (
            not consensus.draining
            and not consensus.no_room
            and consensus.skips_told
            and consensus.points.wanted is None
            and not consensus.controls.waiting
            and not peering.telling
            and not peering.low
            and not persisting.waiting
            and bool(persisting.repeated)
            and len(persisting.writes) <= CARRIED_MAX
            and raft.log.last - feed.fed <= CARRIED_MAX
            and feed.fed == feed.feedable
            and not feed.unfed_bytes
            and feed.is_steady
            and raft.follows_steadily
            and raft.applied_index == consensus.applied_index
            and raft.config.recent_bytes_max >= SLOTS_BYTES
        )

    def _carry(self, standing: Stretch) -> bool:
        """Take along what is in flight; False: it is too much, or not in memory."""
        follow, fed = self._follow, self.consensus.feed.fed
        if len(standing.replies) > CARRIED_MAX or standing.applying != fed:
            return False
        last = self._last = self.consensus.raft.log.last
        follow.first, follow.begins[0] = fed + 1, 0
        if last > fed and not self._carry_entries(fed + 1, last):
            return False
        give_writes(follow.writes, self.consensus.persisting, standing)
        for at, (sequence, index) in enumerate(standing.replies):
            follow.replies[at].sequence, follow.replies[at].index = sequence, index
        return True

    def _carry_entries(self, first: int, last: int) -> bool:
        entries = self.consensus.raft.log.entries(first, last)
        if entries is None:
            return False
        size = 0
        for at, entry in enumerate(entries, 1):
            slot = self.consensus.persisting.slot_of(entry, 0)
            if size + len(slot) > SLOTS_BYTES // 4:
                return False
            self._slots[size : size + len(slot)] = slot
            size += len(slot)
            self._follow.begins[at] = size
        return True

    def _give(self, standing: Stretch) -> None:
        follow, consensus = self._follow, self.consensus
        raft, deadline_ns = consensus.raft, consensus.deadline_ns
        follow.id, follow.leader = raft.id, raft.leader_id
        follow.term, follow.vote = raft.term, raft.voted_for
        follow.tag = 0 if consensus.feed.heard else slots.SILENT
        follow.turns = 0
        follow.now = {
            "last": self._last,
            "commit": standing.commit,
            "durable": standing.durable,
            "durable_commit": standing.durable_commit,
            "persisted": standing.persisted,
            "given_commit": standing.given_commit,
            "sequence": standing.sequence,
            "handed_bytes": consensus.persisting.handed_bytes,
            "applying": standing.applying,
            "applied": standing.applied,
            "digest": consensus.digest,
            "deadline_ns": slots.NO_DEADLINE if deadline_ns is None else deadline_ns,
            "given_bytes": 0,
            "digests_bytes": 0,
            "heard": 0,
            "entries": self._last - standing.applying,
            "write_first": 0,
            "write_count": len(standing.writes),
            "reply_first": 0,
            "reply_count": len(standing.replies),
        }

    @property
    def turned(self) -> int:
        """How many turns the last stay had."""
        turns: int = self._follow.turns
        return turns

    def run(self, until_ns: int, spin_ns: int) -> int:
        """The turns. Why they ended: a following_reason."""
        reason: int = lib.following_run(self._follow, until_ns, spin_ns)
        assert reason != lib.FOLLOWING_BROKEN, "a ring or the bell refused"
        return reason

    def turn(self) -> int:
        """One turn without waiting, for tests."""
        reason: int = lib.following_turn(self._follow)
        return reason

    # And back

    def leave(self) -> None:
        """Take the numbers back, and give each object what it would have."""
        follow, consensus = self._follow, self.consensus
        if not follow.turns:
            return
        raft, now = consensus.raft, follow.now
        writes = writes_in(follow.writes, lib.FOLLOWING_WRITES, now.write_first, now.write_count)
        replies = self._replies(now)
        raft.stretch(
            Stretch(
                self._entries(now.entries),
                now.sequence,
                now.given_commit,
                now.persisted,
                now.durable,
                now.durable_commit,
                [write[1:] for write in writes],
                now.commit,
                now.applying,
                now.applied,
                reads=0,
                replies=replies,
                heard=bool(now.heard),
            )
        )
        consensus.persisting.replace(
            now.handed_bytes,
            [write[:2] for write in writes],
            slots.pack_hard_state(raft.term, raft.voted_for, now.given_commit),
            b"",
        )
        consensus.feed.gave(now.applying, now.applying, 0, now.given_bytes)
        if now.digests_bytes:
            digests = bytes(ffi.buffer(follow.digests, now.digests_bytes))
            consensus.divergence.applied(now.digests_first, digests)
        deadline_ns = None if now.deadline_ns == slots.NO_DEADLINE else now.deadline_ns
        consensus.applied(now.applied, now.digest, deadline_ns)

    def _replies(self, now: "CData") -> list[tuple[int, int]]:
        """(sequence, index) of the acknowledgements that wait."""
        found: list[tuple[int, int]] = []
        for at in range(now.reply_first, now.reply_first + now.reply_count):
            reply = self._follow.replies[at % lib.FOLLOWING_REPLIES]
            found.append((reply.sequence, reply.index))
        return found

    def _entries(self, count: int) -> list[Entry]:
        """Those of this stay."""
        follow = self._follow
        run = self._slots[follow.begins[self._last + 1 - follow.first] : follow.begins[count]]
        entries: list[Entry] = []
        for _, _, slot in slots.slots_of(run):
            head = slots.unpack_entry(slot)
            body = bytes(slot[slots.ENTRY_HEADER_BYTES :])
            entries.append(Entry(head.index, head.term, head.time_ns, head.kind, body))
        return entries
