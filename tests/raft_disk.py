"""A simulated disk under one Raft core: what a crash leaves, what it may take, and what is recovered at start."""

import pickle
from collections import deque

from attrs import Factory, define, evolve, frozen

from leftfold.raft import (
    CONFIGURATION,
    Damage,
    Entry,
    HardState,
    Log,
    Membership,
    Persist,
    Received,
    SnapshotChunk,
)


@frozen
class SnapshotFile:
    """A whole snapshot: the state is the list of all entries that were applied."""

    index: int
    term: int
    membership: Membership
    content: bytes

    @classmethod
    def of(cls, applied: list[Entry], membership: Membership) -> "SnapshotFile":
        fields = [(e.index, e.term, e.time_ns, e.kind, e.body) for e in applied]
        content = pickle.dumps((membership.encode(), fields))
        return cls(applied[-1].index, applied[-1].term, membership, content)

    @classmethod
    def read(cls, content: bytes) -> "SnapshotFile":
        encoded, fields = pickle.loads(content)
        return cls(fields[-1][0], fields[-1][1], Membership.decode(encoded), content)

    @property
    def applied(self) -> list[Entry]:
        _, fields = pickle.loads(self.content)
        return [Entry(*each) for each in fields]

    @property
    def received(self) -> Received:
        time_ns = self.applied[-1].time_ns
        return Received(self.index, self.term, time_ns, len(self.content), self.membership)


@define
class Disk:
    """`pending` is written and not synced. Entries begin at `first`, behind `base_term`."""

    hard_state: HardState = Factory(HardState)
    first: int = 1
    base_term: int = 0
    entries: list[Entry] = Factory(list[Entry])
    files: dict[int, SnapshotFile] = Factory(dict[int, SnapshotFile])
    # The snapshot that is being received: its first piece says which, and the bytes so far.
    incoming: SnapshotChunk | None = None
    incoming_bytes: bytearray = Factory(bytearray)
    pending: deque[Persist] = Factory(deque[Persist])
    damage: Damage | None = None
    # What the last truncation removed, up to where the log ended then: the record that replaced it may be damaged.
    replaced: list[Entry] = Factory(list[Entry])
    replaced_from: int = 0

    @property
    def last(self) -> int:
        return self.first + len(self.entries) - 1

    @property
    def newest(self) -> SnapshotFile | None:
        return self.files[max(self.files)] if self.files else None

    def term_at(self, index: int) -> int | None:
        if index == self.first - 1:
            return self.base_term
        return self.entries[index - self.first].term if self.first <= index <= self.last else None

    def range(self, first: int, last: int) -> tuple[Entry, ...]:
        assert self.first <= first and last <= self.last, (first, last, self.first, self.last)
        return tuple(self.entries[first - self.first : last - self.first + 1])

    def holds(self, index: int, term: int) -> bool:
        """Is the entry durable here, itself or within a snapshot?

        Or was it, before the disk was damaged: such a replica does not vote until it is again.
        """
        if self.damage is not None and index <= self.damage.last:
            return True
        known = self.term_at(index)
        if known is not None and index >= self.first:
            return known == term
        return self.newest is not None and self.newest.index >= index

    def sync(self, count: int) -> int:
        """Make the oldest `count` pending writes durable; returns the last one's sequence."""
        sequence = 0
        for _ in range(count):
            write = self.pending.popleft()
            for chunk in write.chunks:
                self._receive(chunk)
            self._cut(write)
            self._extend(write.entries)
            self.hard_state = write.hard_state or self.hard_state
            sequence = write.sequence
        self._check_commit()
        return sequence

    def crash(self, whole: int = 0, torn: int | None = None) -> bool:
        """Lose what is pending, except its first `whole` writes and a part of the next one.

        The part is what is cut off and `torn` entries without the hard state, or if `torn` is
        negative the hard state alone. A file that is not whole is removed. Returns whether an
        entry was lost.
        """
        self.sync(whole)
        lost = sum(len(write.entries) for write in self.pending)
        if torn is not None and self.pending:
            write = self.pending[0]
            if torn < 0:
                self.hard_state = write.hard_state or self.hard_state
                self._check_commit()
            else:
                self._cut(write)
                self._extend(write.entries[:torn])
                lost -= len(write.entries[:torn])
        self.pending.clear()
        self.incoming = None
        self.incoming_bytes.clear()
        return lost > 0

    def compact(self, first: int) -> None:
        """Let go of everything below `first`."""
        base = self.term_at(first - 1)
        assert base is not None and self.first <= first
        del self.entries[: first - self.first]
        self.first, self.base_term = first, base

    def harm(self, index: int) -> None:
        """Entry `index` cannot be read any more, and the journal has noted it.

        If it once replaced others, these are there again: what is left is the log as it was before.
        """
        last = self.entries[-1]
        there_again = self.replaced if index == self.replaced_from else []
        note = Damage(index + len(there_again), last.index, last.term)
        if self.damage is not None:
            ends = (self.damage.last_term, self.damage.last), (last.term, last.index)
            note = evolve(note, last_term=max(ends)[0], last=max(ends)[1])
        self.damage = note
        self.entries[index - self.first :] = there_again
        self.hard_state = evolve(self.hard_state, commit=min(self.hard_state.commit, index - 1))

    def recover(self) -> tuple[Log, int, list[tuple[int, Membership]]]:
        """What a journal reports at start: terms, no bodies; the snapshot's index; configurations."""
        newest = self.newest
        if newest is not None and self.term_at(newest.index) != newest.term:
            # It was received, and the crash came before the log was cut.
            self.entries.clear()
            self.first, self.base_term = newest.index + 1, newest.term
        boundaries = [(self.first - 1, self.base_term)] if self.first > 1 else []
        for entry in self.entries:
            if not boundaries or boundaries[-1][1] != entry.term:
                boundaries.append((entry.index, entry.term))
        times = [entry.time_ns for entry in self.entries]
        if newest is not None:
            times.append(newest.received.time_ns)
        last_term = self.entries[-1].term if self.entries else self.base_term
        log = Log(self.first, self.last, last_term, boundaries, max(times, default=0))
        applied = 0 if newest is None else newest.index
        configurations = [] if newest is None else [(newest.index, newest.membership)]
        configurations += [
            (entry.index, Membership.decode(entry.body))
            for entry in self.entries
            if entry.kind == CONFIGURATION and entry.index > applied
        ]
        return log, applied, configurations

    def _receive(self, chunk: SnapshotChunk) -> None:
        if chunk.offset == 0:
            self.incoming = chunk
            self.incoming_bytes.clear()
        assert self.incoming is not None and self.incoming.index == chunk.index
        assert len(self.incoming_bytes) == chunk.offset, "a gap in a snapshot"
        self.incoming_bytes += chunk.chunk
        assert chunk.done is (len(self.incoming_bytes) == chunk.size)

    def _cut(self, write: Persist) -> None:
        if write.truncate_from is not None:
            assert write.truncate_from >= self.first
            self.replaced_from = write.truncate_from
            self.replaced = self.entries[write.truncate_from - self.first :]
            del self.entries[write.truncate_from - self.first :]
        restart = write.restart
        if restart is not None:
            keeps = restart.keep_suffix and self.last >= restart.index
            self.entries = self.entries[restart.index + 1 - self.first :] if keeps else []
            self.first, self.base_term = restart.index + 1, restart.term

    def _extend(self, entries: tuple[Entry, ...]) -> None:
        if entries:
            assert entries[0].index == self.last + 1, "a gap in the journal"
        self.entries.extend(entries)

    def _check_commit(self) -> None:
        reached = max(self.last, 0 if self.newest is None else self.newest.index)
        assert self.damage is not None or self.hard_state.commit <= reached, "I6"
