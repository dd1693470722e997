"""A leader's plain turns in C (leading.h), and the two ways between: `enter` gives all numbers away, `leave` takes them back.

`enter` asks every object that has a part in a plain turn whether anything else is under way there; what is in flight goes
with it, as long as it is little. `leave` gives each of them what its own methods would have come to.
"""

from collections.abc import Mapping
from struct import Struct
from typing import TYPE_CHECKING

from attrs import define, field

from ..raft import Entry, PeerStretch, Stretch, majority
from ..shm import Counters, Doorbell
from . import raft_messages, slots
from ._wire import ffi, lib
from .digests import Digests
from .feed import ENTRY_OVERHEAD_BYTES
from .persisting import entry_slot
from .recovered import IN_FLIGHT_ENTRIES_MAX
from .separation import COMMAND_BYTES_MIN
from .shm_table import SHM_TABLE
from .trail import ROWS, Trail
from .writes import give_writes, writes_in

if TYPE_CHECKING:
    from ._wire import CData
    from .consensus import Consensus

SLOTS_BYTES = 1024 * 1024
"""Of the entries of one stay, at least twice the longest."""
QUERIES_BYTES_MAX = 64 * 1024
DIGESTS_BYTES_MAX = 64 * 1024
"""Of this replica's own; likewise of what its peers tell."""
CARRIED_ENTRIES_MAX = 256
"""In flight when a stay begins."""
TIME_MAX = (1 << 63) - 1

_ENTRY = Struct("<QQII")
_PAIR = Struct("<QQ")


@define(eq=False)
class Leading:
    """The struct of leading.h, and the objects whose numbers it has for a time."""

    consensus: "Consensus"
    bell: Doorbell
    _lead: "CData" = field(init=False, repr=False)
    _kept: "list[CData]" = field(factory=lambda: list["CData"](), init=False, repr=False)
    """What the struct points to."""
    _slots: "CData" = field(init=False, repr=False)
    _digests: "CData" = field(init=False, repr=False)
    _told: "CData" = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        consensus, limits = self.consensus, self.consensus.config.limits
        lead = self._lead = ffi.new("struct leading *")
        lead.calls = SHM_TABLE
        lead.bell = ffi.cast("struct doorbell *", self.bell.handle)
        for at, ring in enumerate(consensus.inputs.consumers):
            lead.inputs[at] = ffi.cast("struct ring_end *", ring.handle)
        persist, apply = consensus.persisting.ring, consensus.apply
        lead.persist = ffi.cast("struct ring_end *", persist.handle)
        lead.apply = ffi.cast("struct ring_end *", apply.handle)
        lead.persist_bytes, lead.apply_bytes = persist.capacity, apply.capacity
        lead.frame_bytes_max = limits.frame_bytes_max + ENTRY_OVERHEAD_BYTES
        lead.entry_bytes_max = limits.entry_bytes_max
        lead.entry_count_max = limits.entry_bytes_max // COMMAND_BYTES_MIN
        lead.in_flight_max = IN_FLIGHT_ENTRIES_MAX
        self._slots = ffi.new("uint8_t[]", max(SLOTS_BYTES, 2 * limits.entry_bytes_max))
        self._digests = ffi.new("uint8_t[]", DIGESTS_BYTES_MAX)
        queries = ffi.new("uint8_t[]", QUERIES_BYTES_MAX)
        self._kept.append(queries)
        lead.slots, lead.slots_bytes_max = self._slots, len(self._slots)
        lead.queries = queries
        lead.queries_bytes_max = min(QUERIES_BYTES_MAX, limits.queries_waiting_bytes_max)
        lead.digests, lead.digests_bytes_max = self._digests, DIGESTS_BYTES_MAX
        self._told = ffi.new("uint8_t[]", DIGESTS_BYTES_MAX)
        lead.told, lead.told_bytes_max = self._told, DIGESTS_BYTES_MAX
        lead.send = ffi.cast("struct ring_end *", consensus.send.handle)
        self._count(lead, consensus.counters)

    def _count(self, lead: "CData", counters: Counters) -> None:
        for field_, name in (
            ("commands_count", "commands"),
            ("entries_count", "entries"),
            ("commit_count", "commit_index"),
            ("applied_count", "applied_index"),
        ):
            setattr(lead, field_, self._words(counters.counters[name].word))
        for field_, name in (
            ("entry_bytes", "entry_bytes"),
            ("durable_ns", "sequenced_to_durable_ns"),
            ("applied_ns", "sequenced_to_applied_ns"),
        ):
            histogram = counters.histograms[name]
            setattr(lead, field_, ffi.cast("uint64_t *", histogram.words))
            if isinstance(histogram, Trail):
                setattr(lead, field_.replace("_ns", "_trail"), self._words(histogram.rows))
        lead.trail_rows = ROWS

    def replace_calls(self, calls: int) -> None:
        """For a test: another table of what C calls, with a clock and a wait of its own."""
        self._lead.calls = ffi.cast("struct shm_calls *", calls)

    def _words(self, words: memoryview) -> "CData":
        found = ffi.from_buffer("uint64_t[]", words)
        self._kept.append(found)
        return found

    # There

    def enter(self) -> bool:
        """Give C what it needs, if a plain turn may come next."""
        consensus = self.consensus
        raft = consensus.raft
        if not self._may_enter() or not self._carry(raft.applied_index + 1):
            return False
        lead, log, feed, persisting = self._lead, raft.log, consensus.feed, consensus.persisting
        log_time, standing = consensus.log_time, raft.standing()
        assert log_time is not None
        lead.unapplied_max = raft.config.unapplied_entries_max
        lead.unapplied_bytes_max = raft.config.unapplied_bytes_max
        lead.id, lead.term = raft.id, raft.term
        lead.log_ns, lead.monotonic_ns = log_time.base_log_ns, log_time.base_monotonic_ns
        lead.last_time_ns = log.last_time_ns
        lead.durable, lead.commit = standing.durable, standing.commit
        lead.applying, lead.applied, lead.fed = standing.applying, standing.applied, feed.fed
        lead.durable_commit, lead.given_commit = standing.durable_commit, standing.given_commit
        lead.sequence, lead.persisted = standing.sequence, standing.persisted
        lead.handed_bytes, lead.repeats = persisting.handed_bytes, bool(persisting.repeated)
        lead.unfed_bytes = feed.unfed_bytes
        self._give_peers(standing.peers)
        give_writes(lead.writes, persisting, standing)
        lead.write_first, lead.write_count = 0, len(standing.writes)
        deadline_ns, due_ns = consensus.deadline_ns, consensus.timer_due_ns
        lead.deadline_ns = slots.NO_DEADLINE if deadline_ns is None else deadline_ns
        lead.timer_due_ns = min(due_ns, TIME_MAX)
        lead.digest, lead.time_entry = consensus.digest, consensus.time_entry
        lead.heard = feed.heard
        lead.unwritten_bytes = lead.given_bytes = lead.reads = lead.turns = 0
        lead.digests_first = lead.digests_bytes = lead.told_bytes = lead.dropped = 0
        return True

    def _give_peers(self, keep_up: Mapping[int, PeerStretch]) -> None:
        lead, raft = self._lead, self.consensus.raft
        voters = raft.membership.voters
        lead.peers_count, lead.majority = len(raft.progress), majority(len(voters))
        lead.flights_max = raft.config.appends_in_flight_max
        lead.flight_bytes_max = raft.config.entries_in_flight_bytes_max
        for at, (id, progress) in enumerate(raft.progress.items()):
            peer, standing = lead.peers[at], keep_up.get(id)
            peer.id, peer.votes, peer.match = id, id in voters, progress.match
            peer.keeps_up, peer.spoke = standing is not None, False
            if standing is None:
                continue
            peer.next, peer.round = standing.next, standing.round
            peer.flight_first, peer.flight_count = 0, len(standing.in_flight)
            peer.flight_bytes = progress.in_flight_bytes
            for place, (last, size) in enumerate(standing.in_flight):
                flight = peer.flights[place]
                flight.last, flight.bytes = last, size

    def _may_enter(self) -> bool:
        consensus = self.consensus
        raft, feed, persisting = consensus.raft, consensus.feed, consensus.persisting
        queries = consensus.queries
        limits = consensus.config.limits
        if not (
            consensus.leader
            and consensus.serving
            and not consensus.draining
            and not consensus.no_room
            and not consensus.agreement.suspect
            and consensus.skips_told
            and consensus.points.wanted is None
            and consensus.upkeep.refusal is None
            and not consensus.controls.waiting
            and not consensus.peering.telling
            and not queries.waiting
            and not persisting.waiting
            and limits.queries_waiting_bytes_max >= self._lead.frame_bytes_max
        ):
            return False
        log_time = consensus.log_time
        return (
            raft.is_steady
            and len(raft.progress) <= lib.LEADING_PEERS
            and raft.config.appends_in_flight_max <= lib.LEADING_FLIGHTS
            and feed.is_steady
            and raft.applied_index == consensus.applied_index
            and feed.fed == feed.feedable  # Otherwise Python waits for room in `apply`.
            and feed.feedable <= raft.log.last
            and len(persisting.writes) <= CARRIED_ENTRIES_MAX
            and consensus.proposals.is_behind(consensus.applied_index)
            and log_time is not None
            and min(log_time.base_log_ns, log_time.base_monotonic_ns) >= 0
        )

    def _carry(self, first: int) -> bool:
        """Take along what logic does not have; False: it is too much, or not in memory."""
        lead, log = self._lead, self.consensus.raft.log
        last = log.last
        lead.first, lead.last, lead.slots_bytes, lead.unapplied_bytes = first, last, 0, 0
        undurable, known, reached = self.consensus.proposals.in_flight()
        lead.undurable, lead.undurable_count = undurable or last + 1, 0
        if len(reached) > CARRIED_ENTRIES_MAX:
            return False
        for at, (through, now_ns) in enumerate(reached):
            lead.reached[at].through, lead.reached[at].now_ns = through, now_ns
        lead.reached_count = len(reached)
        if first > last:
            return True
        known_here = log.first <= first and last - first < CARRIED_ENTRIES_MAX
        entries = log.entries(first, last) if known_here else None
        if entries is None:
            return False
        size = 0
        for at, entry in enumerate(entries):
            since_ns, count = known.get(entry.index, (0, 0))
            slot = entry_slot(entry, 0)
            if size + len(slot) > len(self._slots) // 4:
                return False
            ffi.memmove(self._slots + size, slot, len(slot))
            ffi.memmove(lead.entries + at, _ENTRY.pack(since_ns, size, len(entry.body), count), 24)
            lead.undurable_count += count > 0 and entry.index >= lead.undurable
            size += len(slot)
            lead.unapplied_bytes += len(entry.body)
        lead.slots_bytes = size
        return True

    @property
    def turned(self) -> int:
        """How many turns the last stay had."""
        turns: int = self._lead.turns
        return turns

    def run(self, until_ns: int, spin_ns: int) -> int:
        """The turns. Why they ended: a leading_reason."""
        reason: int = lib.leading_run(self._lead, until_ns, spin_ns)
        assert reason != lib.LEADING_BROKEN, "a ring or the bell refused"
        return reason

    # And back

    def leave(self) -> None:
        """Take the numbers back, and give each object what it would have."""
        lead, consensus = self._lead, self.consensus
        if not lead.turns:
            return
        raft, feed = consensus.raft, consensus.feed
        run = memoryview(ffi.buffer(self._slots, len(self._slots)))
        entries = self._entries()
        writes = writes_in(lead.writes, lib.LEADING_WRITES, lead.write_first, lead.write_count)
        proposed = [self._entry(run, place) for place in entries[raft.log.last - lead.first + 1 :]]
        self._return_proposals(entries, run)
        raft.stretch(
            Stretch(
                proposed,
                lead.sequence,
                lead.given_commit,
                lead.persisted,
                lead.durable,
                lead.durable_commit,
                [write[1:] for write in writes],
                lead.commit,
                lead.applying,
                lead.applied,
                lead.reads,
                peers=self._peers(),
            )
        )
        at = lead.unwritten_at
        consensus.persisting.replace(
            lead.handed_bytes,
            [write[:2] for write in writes],
            slots.pack_hard_state(raft.term, raft.id, lead.given_commit),
            bytes(run[at : at + lead.unwritten_bytes]),
        )
        feed.gave(lead.fed, lead.applying, lead.unfed_bytes, lead.given_bytes)
        consensus.queries.asked(lead.reads)
        if lead.digests_bytes:
            digests = bytes(ffi.buffer(self._digests, lead.digests_bytes))
            consensus.divergence.applied(lead.digests_first, digests)
        if lead.told_bytes:
            for _, _, slot in slots.slots_of(memoryview(ffi.buffer(self._told, lead.told_bytes))):
                message = raft_messages.decode(slot)
                assert isinstance(message, Digests)
                consensus.divergence.told(message)
        consensus.peering.dropped += lead.dropped
        deadline_ns = None if lead.deadline_ns == slots.NO_DEADLINE else lead.deadline_ns
        consensus.applied(lead.applied, lead.digest, deadline_ns)

    def _return_proposals(
        self, entries: "list[tuple[int, int, int, int]]", run: memoryview
    ) -> None:
        """What clients wait for: to be refused if the office is lost, and to be timed."""
        lead = self._lead
        reached = ffi.buffer(lead.reached, lead.reached_count * _PAIR.size)
        behind = lead.applied + 1
        self.consensus.proposals.replace(
            lead.undurable,
            [
                (index, since_ns, self._body(run, at, body_bytes), count)
                for index, (since_ns, at, body_bytes, count) in enumerate(
                    entries[behind - lead.first :], behind
                )
                if count
            ],
            [(through, now_ns) for through, now_ns in _PAIR.iter_unpack(reached)],
        )

    def _entries(self) -> list[tuple[int, int, int, int]]:
        """(since when, place, body bytes, count) of each, from the first on."""
        count = self._lead.last - self._lead.first + 1
        table = ffi.buffer(self._lead.entries, count * _ENTRY.size)
        return list(_ENTRY.iter_unpack(table))

    def _peers(self) -> dict[int, PeerStretch]:
        """Those that kept up when the stay began."""
        found: dict[int, PeerStretch] = {}
        for at in range(self._lead.peers_count):
            peer = self._lead.peers[at]
            if not peer.keeps_up:
                continue
            flights: list[tuple[int, int]] = []
            for place in range(peer.flight_first, peer.flight_first + peer.flight_count):
                flight = peer.flights[place % lib.LEADING_FLIGHTS]
                flights.append((flight.last, flight.bytes))
            found[peer.id] = PeerStretch(
                peer.match, peer.next, peer.round, flights, bool(peer.spoke)
            )
        return found

    def _entry(self, run: memoryview, place: tuple[int, int, int, int]) -> Entry:
        _, at, body_bytes, _ = place
        head = slots.unpack_entry(run[at:])
        body = self._body(run, at, body_bytes)
        return Entry(head.index, head.term, head.time_ns, head.kind, body)

    @staticmethod
    def _body(run: memoryview, at: int, body_bytes: int) -> bytes:
        begin = at + slots.ENTRY_HEADER_BYTES
        return bytes(run[begin : begin + body_bytes])
