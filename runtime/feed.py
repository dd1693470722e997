"""What logic is given: committed entries in index order, each once (I5), and between them queries and snapshots to restore.

Entries come from Raft's memory, or, where that does not reach (replay after a start, a replica that was far behind), from
the journal, asked ahead so that journal and logic work at the same time. A query follows once logic has all that it must
see. Nothing waits for room in `apply` (I12): what does not fit is tried again.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from attrs import define, field

from ..raft import TERM_START, Raft
from ..shm import Producer
from . import slots
from .persisting import Persisting
from .snapshot_points import SnapshotPoints
from .tail import COMMANDS, TIME, Tail

READ_AHEAD_ENTRIES = 8192
ENTRY_OVERHEAD_BYTES = 64
"""What an entry takes in a ring besides its body, rounded up; the rest of a reserve goes to padding."""


@define(eq=False)
class Feed:
    """The producer of `apply`."""

    ring: Producer
    persisting: Persisting
    raft: Raft
    points: SnapshotPoints
    report: Callable[[dict[str, Any]], None]
    replay_through: int
    """Entries up to here were recovered at the start: they were answered in an earlier life."""
    fed: int
    """How far logic was given entries."""
    feedable: int = field(default=0, init=False)
    """How far it may be given them: committed and durable."""
    tail: Tail | None = field(default=None, init=False)
    asked_through: int = field(init=False)
    unfed_bytes: int = field(default=0, init=False)
    """Of what was proposed here: what `apply` has to have room for."""
    readable: deque[tuple[int, bytes]] = field(factory=deque[tuple[int, bytes]], init=False)
    """Queries, and the index that logic must have before it answers them."""
    restore: tuple[int, int, str] | None = field(default=None, init=False)
    """(index, content bytes, build) of the snapshot that logic must take up before anything else."""
    restoring: int = field(default=0, init=False)
    """The index of that snapshot, until logic has taken it up; 0 if there is none."""
    heard: bool = field(default=False, init=False)
    """Somebody asked for events here: what is applied puts them out, whoever leads."""

    def __attrs_post_init__(self) -> None:
        self.asked_through = self.fed

    # What comes to be fed

    def proposed(self, body_bytes: int) -> None:
        """An entry of this size will want room."""
        self.unfed_bytes += body_bytes + ENTRY_OVERHEAD_BYTES

    def replaced_from(self, index: int) -> None:
        """The log was cut there: what comes to stand there was never answered."""
        self.replay_through = min(self.replay_through, index - 1)

    def restart(self, index: int, content_bytes: int, build: str) -> None:
        """Logic's state is to be that of a snapshot, and what it had been given before is void."""
        self.restore = index, content_bytes, build
        self.restoring = index
        self.fed = self.asked_through = self.feedable = index
        self.unfed_bytes = 0
        self.readable.clear()

    def applied(self, index: int) -> None:
        """Logic says how far it is."""
        if index >= self.restoring:
            self.restoring = 0

    # Giving

    @property
    def pending(self) -> bool:
        """Whether there is anything that logic lacks."""
        return self.fed < self.feedable or bool(self.readable) or self.restore is not None

    def give(self, *, leads: bool) -> int:
        """As much as there is and has room; how many things."""
        if not self.pending:
            return 0
        done = 0
        if self.restore is not None:
            if not self.ring.write(slots.pack_restore(*self.restore)):
                return 0
            self.persisting.write(slots.pack_restore(self.restore[0]))
            self.restore = None
            done += 1
        if self.fed < self.feedable:
            done += self._give_entries(0 if leads or self.heard else slots.SILENT)
        while self.readable and self.readable[0][0] <= self.fed:
            if not self.ring.write(self.readable[0][1]):
                break
            self.readable.popleft()
            done += 1
        return done

    def _give_entries(self, tag: int) -> int:
        first = self.fed + 1
        if self.asked_through > self.fed:
            return self._ask_journal(tag)  # What is on its way from there comes first.
        entries = self.raft.log.entries(first, min(self.feedable, first + 1024))
        if entries is None:
            return self._ask_journal(tag)
        done = 0
        slot_of, write = self.persisting.slot_of, self.ring.write
        for entry in entries:
            replay = slots.REPLAY if entry.index <= self.replay_through else 0
            if not write(slot_of(entry, tag | replay)):
                break
            size = len(entry.body) + ENTRY_OVERHEAD_BYTES
            self._gave(entry.index, size)
            self.unfed_bytes = self.unfed_bytes - size if self.unfed_bytes > size else 0
            done += 1
        self.asked_through = self.fed
        return done

    def _gave(self, index: int, entry_bytes: int) -> None:
        self.fed = index
        self.points.gave(entry_bytes)

    def _ask_journal(self, tag: int) -> int:
        behind = max(self.asked_through, self.fed)
        last = min(self.feedable, behind + READ_AHEAD_ENTRIES, self.raft.log.recent_first - 1)
        if behind < self.replay_through:
            last = min(last, self.replay_through)
            tag |= slots.REPLAY
        if behind - self.fed >= READ_AHEAD_ENTRIES or behind >= last:
            return 0
        if self.persisting.room() < 4 * ENTRY_OVERHEAD_BYTES:
            return 0
        piece_bytes = self.persisting.ring.capacity // 4
        self.persisting.write(slots.pack_read(behind + 1, last, piece_bytes, tag))
        self.asked_through = last
        return 1

    @property
    def is_steady(self) -> bool:
        """Whether logic goes on from what it has, answers clients, and is given all from memory."""
        return (
            not self.readable
            and self.restore is None
            and not self.restoring
            and self.asked_through == self.fed
            and self.fed >= self.replay_through
            and self.raft.log.recent_first <= self.fed + 1
        )

    def gave(self, fed: int, feedable: int, unfed_bytes: int, given_bytes: int) -> None:
        """Others have given logic more of it."""
        self.fed = self.asked_through = fed
        self.feedable, self.unfed_bytes = feedable, unfed_bytes
        self.points.gave(given_bytes)

    def pass_on(self, run: memoryview) -> int:
        """Entries that the journal has read, as they are; how many bytes of the run are done with."""
        start = done = 0
        index = self.fed
        for kind, tag, slot in slots.slots_of(run):
            if kind != slots.ENTRY or tag >= slots.ASKED_ONCE:
                break
            length = slots.padded(len(slot))
            if done > start and done - start + length > self.ring.capacity // 4:
                break
            entry = slots.unpack_entry(slot)
            if entry.index <= self.fed or entry.index > self.asked_through:
                if done > start:
                    break
                start = done = done + length  # It was asked for before logic was given a snapshot.
                continue
            index += 1
            assert entry.index == index, f"entry {entry.index} was read where {index} was due"
            done += length
            if self.tail is not None and index > self.tail.read:
                self._read_tail(self.tail, entry, slot)
        if done > start:
            if not self.ring.write(run[start:done]):
                return start
            self._gave(index, done - start)
        return done

    def _read_tail(self, tail: Tail, entry: slots.EntryHeader, slot: memoryview) -> None:
        """Before logic gets it: may this build replay it?"""
        if entry.kind == TERM_START:
            tail.open_term(bytes(slot[slots.ENTRY_HEADER_BYTES :]).decode(errors="replace"))
        elif not tail.fits and entry.index <= tail.last and entry.kind in (COMMANDS, TIME):
            warning = tail.judge(entry.index)
            if warning:
                self.report({"warning": warning})
        tail.read = entry.index
