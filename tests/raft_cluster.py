"""A whole cluster in one thread: replicas around Raft cores, their disks, and the wire between.

Nothing happens by itself: a test decides which clock ticks, which message arrives, which disk
syncs and who crashes. After every input the cluster carries out what the core asks for, and
checks the properties of figure 3 of the paper, and what leftfold promises beyond them:

* election safety: at most one leader per term
* log matching: an (index, term) names one entry with one predecessor, on all replicas
* leader completeness: a new leader has everything that was ever committed
* state machine safety: no two replicas apply different entries at an index
* I4: every message that leaves is true of its sender's disk at that moment
* I6: the persisted commit never passes the persisted entries
* durability: at the moment an entry is committed, a majority of *disks* hold it
* reads: an answered read saw everything committed anywhere when it was asked
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from attrs import Factory, define

from leftfold.raft import (
    AppendEntries,
    AppendEntriesReply,
    Config,
    Entry,
    Fetch,
    HardState,
    Heartbeat,
    HeartbeatReply,
    Log,
    Message,
    Persist,
    Raft,
    Ready,
    RequestVote,
    RequestVoteReply,
    Role,
    TimeoutNow,
)


@define
class Disk:
    """What a crash leaves (`hard_state`, `entries`) and what it may take (`pending`)."""

    hard_state: HardState = Factory(HardState)
    entries: list[Entry] = Factory(list[Entry])
    pending: deque[Persist] = Factory(deque[Persist])

    def sync(self, count: int) -> int:
        """Make the oldest `count` pending writes durable; returns the last one's sequence."""
        sequence = 0
        for _ in range(count):
            write = self.pending.popleft()
            self._truncate(write)
            self.entries.extend(write.entries)
            self.hard_state = write.hard_state or self.hard_state
            sequence = write.sequence
        assert self.hard_state.commit <= len(self.entries), "I6"
        return sequence

    def crash(self, whole: int = 0, torn: int | None = None) -> None:
        """Lose what is pending, except its first `whole` writes and a part of the next one.

        The part is the truncation and `torn` entries without the hard state, or if `torn` is
        negative the hard state alone.
        """
        self.sync(whole)
        if torn is not None and self.pending:
            write = self.pending[0]
            if torn < 0:
                self.hard_state = write.hard_state or self.hard_state
                assert self.hard_state.commit <= len(self.entries), "I6"
            else:
                self._truncate(write)
                self.entries.extend(write.entries[:torn])
        self.pending.clear()

    def log(self) -> Log:
        """The log as a journal reports it at start: terms, no bodies."""
        boundaries: list[tuple[int, int]] = []
        for entry in self.entries:
            if not boundaries or boundaries[-1][1] != entry.term:
                boundaries.append((entry.index, entry.term))
        last = self.entries[-1] if self.entries else None
        return Log(
            1,
            len(self.entries),
            last.term if last else 0,
            boundaries,
            last.time_ns if last else 0,
        )

    def _truncate(self, write: Persist) -> None:
        if write.truncate_from is not None:
            del self.entries[write.truncate_from - 1 :]
        if write.entries:
            assert write.entries[0].index == len(self.entries) + 1, "a gap in the journal"


@define
class Replica:
    """One replica: a disk that outlives crashes, and a core that does not."""

    id: int
    disk: Disk = Factory(Disk)
    raft: Raft | None = None
    starts: int = 0
    written: list[Entry] = Factory(list[Entry])
    to_apply: deque[tuple[int, int]] = Factory(deque[tuple[int, int]])
    fetches: deque[Fetch] = Factory(deque[Fetch])
    applied: list[Entry] = Factory(list[Entry])
    commit: int = 0
    role: Role = Role.FOLLOWER


class Cluster:
    """See the head of this file. `trace` hears of everything that happens, as sentences."""

    def __init__(
        self,
        size: int,
        seed: int = 0,
        trace: Callable[[str], None] = lambda line: None,
        learners: int = 0,
        **limits: Any,
    ) -> None:
        self.voters = frozenset(range(1, size + 1))
        self.learners = frozenset(range(size + 1, size + learners + 1))
        self.seed = seed
        self.limits = limits
        self.trace = trace
        self.replicas = {id: Replica(id) for id in sorted(self.voters | self.learners)}
        self.wire: list[Message] = []
        self.now_ns = 0
        self.leaders: dict[int, int] = {}
        self.known: dict[tuple[int, int], tuple[Entry, int]] = {}
        self.committed: dict[int, Entry] = {}
        self.reads: dict[int, int] = {}
        self.reads_answered: list[int] = []
        for id in self.replicas:
            self.restart(id)

    # Inputs

    def restart(self, id: int) -> None:
        """Start a replica from its disk."""
        replica = self.replicas[id]
        assert replica.raft is None
        replica.starts += 1
        config = Config(
            id=id,
            voters=self.voters,
            learners=self.learners,
            seed=self.seed * 1000 + replica.starts,
            **self.limits,
        )
        replica.raft = Raft(config, replica.disk.hard_state, replica.disk.log())
        replica.written = list(replica.disk.entries)
        replica.applied = []
        replica.commit = 0
        replica.role = Role.FOLLOWER
        self.drain(id)

    def crash(self, id: int, whole: int = 0, torn: int | None = None) -> None:
        """kill -9 and power loss in one: memory is gone, and the disk loses what it had not synced."""
        replica = self.replicas[id]
        replica.raft = None
        replica.disk.crash(whole, torn)
        replica.to_apply.clear()
        replica.fetches.clear()

    def raft(self, id: int) -> Raft:
        """The core of a replica that is up."""
        raft = self.replicas[id].raft
        assert raft is not None, f"replica {id} is down"
        return raft

    def tick(self, id: int) -> None:
        self.now_ns += 1_000
        self.raft(id).tick()
        self.drain(id)

    def deliver(self, message: Message) -> None:
        """A message arrives (the caller takes it off the wire, or not)."""
        if self.replicas[message.target].raft is not None:
            self.raft(message.target).step(message)
            self.drain(message.target)

    def propose(self, id: int, body: bytes) -> int | None:
        self.now_ns += 1
        time_ns = max(self.now_ns, self.raft(id).log.last_time_ns)
        index = self.raft(id).propose(0, body, time_ns)
        self.drain(id)
        return index

    def read(self, id: int) -> bool:
        """Ask for a read index; what it must see is noted."""
        context = len(self.reads)
        self.reads[context] = max(self.committed, default=0)
        accepted = self.raft(id).read_index(context)
        self.drain(id)
        return accepted

    def transfer(self, id: int, target: int) -> bool:
        """Ask a leader to hand over."""
        accepted = self.raft(id).transfer(target)
        self.drain(id)
        return accepted

    def sync(self, id: int, count: int | None = None) -> None:
        """The disk finishes its oldest writes, and says so."""
        disk = self.replicas[id].disk
        count = len(disk.pending) if count is None else count
        if count:
            self.raft(id).persisted(disk.sync(count))
            self.drain(id)

    def apply(self, id: int) -> None:
        """Logic applies the oldest range that it was given."""
        replica = self.replicas[id]
        if not replica.to_apply:
            return
        first, last = replica.to_apply.popleft()
        assert first == len(replica.applied) + 1, "I5: in index order, each once, without gaps"
        entries = self.raft(id).log.entries(first, last)
        on_disk = tuple(replica.disk.entries[first - 1 : last])
        assert entries is None or entries == on_disk, "logic runs ahead of the disk"
        for entry in on_disk:
            assert self.committed[entry.index] == entry, "state machine safety"
        replica.applied.extend(on_disk)
        self.raft(id).applied(last)
        self.drain(id)

    def fetch(self, id: int) -> None:
        """The journal answers the oldest read."""
        replica = self.replicas[id]
        if replica.fetches:
            wanted = replica.fetches.popleft()
            found: list[Entry] = []
            for entry in replica.disk.entries[wanted.first - 1 : wanted.last]:
                if found and sum(len(e.body) for e in (*found, entry)) > wanted.bytes_max:
                    break
                found.append(entry)
            self.raft(id).fetched(wanted.peer, tuple(found))
            self.drain(id)

    def settle(self, ids: frozenset[int] | None = None) -> None:
        """Let everything that is under way among `ids` arrive, sync and apply, until it is quiet."""
        ids = ids or frozenset(self.replicas)
        for _ in range(10_000):
            up = [id for id in sorted(ids) if self.replicas[id].raft is not None]
            for id in up:
                self.sync(id)
                self.apply(id)
                self.fetch(id)
            wire, self.wire = self.wire, []
            for message in wire:
                if {message.source, message.target} <= ids:
                    self.deliver(message)
            quiet = not self.wire and not any(
                self.replicas[id].disk.pending
                or self.replicas[id].to_apply
                or self.replicas[id].fetches
                for id in up
            )
            if quiet:
                return
        raise AssertionError("the cluster does not come to rest")

    def elect(self, id: int, ids: frozenset[int] | None = None) -> None:
        """Make `id` the leader: no other clock runs until it is, save to forget an old leader."""
        for _ in range(100):
            if self.raft(id).role is Role.LEADER:
                return
            for other in ids or frozenset(self.replicas):
                if other != id and self.replicas[other].raft is not None:
                    raft = self.raft(other)
                    if raft.role is Role.FOLLOWER and raft.leader_id:
                        self.tick(other)
                        self.settle(ids)
            self.tick(id)
            self.settle(ids)
        raise AssertionError(f"replica {id} was not elected")

    @property
    def leader(self) -> int | None:
        """The leader of the highest term among the replicas that are up."""
        leading = [
            (replica.raft.term, id)
            for id, replica in self.replicas.items()
            if replica.raft is not None and replica.raft.role is Role.LEADER
        ]
        return max(leading)[1] if leading else None

    # Carrying out what the core wants, and checking it

    def drain(self, id: int) -> None:
        replica = self.replicas[id]
        raft = self.raft(id)
        while ready := raft.ready():
            self._check(replica, raft)
            self._note_role(replica, raft)
            for message in ready.send_now + ready.send_after_persist:
                self._check_promise(replica, message)
                self.trace(f"{id} → {message.target}  {describe(message)}")
                self.wire.append(message)
            if ready.persist is not None:
                self._write(replica, ready.persist)
            if ready.apply is not None:
                replica.to_apply.append(ready.apply)
            self._answer_reads(id, ready)
            replica.fetches.extend(ready.fetch)
            if ready.term_to_start:
                raft.start_term(max(self.now_ns, raft.log.last_time_ns))
        self._check(replica, raft)

    def _write(self, replica: Replica, persist: Persist) -> None:
        self.trace(f"{replica.id} writes {describe_persist(persist)}")
        replica.disk.pending.append(persist)
        if persist.hard_state is not None:
            assert persist.hard_state.commit <= len(replica.disk.entries), "I6, if it tears"
        if persist.truncate_from is not None:
            del replica.written[persist.truncate_from - 1 :]
        for entry in persist.entries:
            assert entry.index == len(replica.written) + 1
            previous = replica.written[-1].term if replica.written else 0
            known = self.known.setdefault((entry.index, entry.term), (entry, previous))
            assert known == (entry, previous), "log matching"
            replica.written.append(entry)

    def _answer_reads(self, id: int, ready: Ready) -> None:
        for read in ready.reads:
            self.trace(f"{id} may answer query {read.context} once {read.index} is applied")
            assert read.index >= self.reads[read.context], "a stale read"
            self.reads_answered.append(read.context)

    def _note_role(self, replica: Replica, raft: Raft) -> None:
        if raft.role is replica.role:
            return
        replica.role = raft.role
        self.trace(f"{replica.id} is {raft.role.value} in term {raft.term}")
        if raft.role is not Role.LEADER:
            return
        assert self.leaders.setdefault(raft.term, replica.id) == replica.id, "election safety"
        for index, entry in self.committed.items():
            assert raft.log.term_at(index) == entry.term, "leader completeness"

    def _check(self, replica: Replica, raft: Raft) -> None:
        assert raft.applied_index <= min(raft.commit, raft.durable) <= raft.log.last, "I6"
        assert raft.durable <= len(replica.disk.entries), "durable is what the disk says"
        if raft.commit <= replica.commit:
            return
        for index in range(replica.commit + 1, raft.commit + 1):
            term = raft.log.term_at(index)
            if index in self.committed:
                assert self.committed[index].term == term, "state machine safety"
                continue
            assert term is not None
            self.committed[index] = self.known[index, term][0]
            holders = {
                id
                for id in self.voters
                if len(self.replicas[id].disk.entries) >= index
                and self.replicas[id].disk.entries[index - 1].term == term
            }
            assert 2 * len(holders) > len(self.voters), "committed is durable on a majority"
        replica.commit = raft.commit
        self.trace(f"{replica.id} commits {raft.commit}")

    def _check_promise(self, replica: Replica, message: Message) -> None:
        """I4, against the disk."""
        disk = replica.disk
        match message:
            case RequestVote(pre_vote=True) | RequestVoteReply(pre_vote=True, granted=True):
                return
            case RequestVote():
                assert disk.hard_state.voted_for == replica.id
                assert len(disk.entries) >= message.last_index
            case RequestVoteReply(granted=True):
                assert disk.hard_state.voted_for == message.target
            case AppendEntriesReply(success=True):
                assert len(disk.entries) >= message.index
                assert self.raft(replica.id).durable >= message.index
            case _:
                pass
        assert disk.hard_state.term >= message.term, "I4: a term that is not durable was named"


def describe(message: Message) -> str:
    """One message as a line of a play."""
    match message:
        case RequestVote():
            kind = "would you vote for me" if message.pre_vote else "vote for me"
            return (
                f"{kind} in term {message.term}? my log ends at "
                f"{message.last_index} of term {message.last_term}"
            )
        case RequestVoteReply():
            kind = "pre-vote" if message.pre_vote else "vote"
            return f"{kind} {'granted' if message.granted else 'refused'} (term {message.term})"
        case AppendEntries():
            return (
                f"append {describe_entries(message.entries)} after {message.prev_index} of term {message.prev_term}, "
                f"commit {message.commit} (term {message.term})"
            )
        case AppendEntriesReply():
            if message.success:
                return f"have all up to {message.index} (term {message.term})"
            return (
                f"cannot follow {message.index}, try {message.hint_index} of term "
                f"{message.hint_term} (term {message.term})"
            )
        case Heartbeat():
            return (
                f"heartbeat, commit {message.commit}, round {message.round} (term {message.term})"
            )
        case HeartbeatReply():
            return f"heartbeat heard, round {message.round} (term {message.term})"
        case TimeoutNow():
            return f"campaign now (term {message.term})"
        case _:
            raise AssertionError(message)


def describe_entries(entries: tuple[Entry, ...]) -> str:
    if not entries:
        return "nothing"
    first, last = entries[0].index, entries[-1].index
    return f"entry {first}" if first == last else f"entries {first}…{last}"


def describe_persist(persist: Persist) -> str:
    """One write as a line of a play."""
    parts = [f"#{persist.sequence}:"]
    if persist.hard_state is not None:
        state = persist.hard_state
        parts.append(f"term {state.term}, vote {state.voted_for}, commit {state.commit};")
    if persist.truncate_from is not None:
        parts.append(f"remove from {persist.truncate_from};")
    if persist.entries:
        parts.append(f"{describe_entries(persist.entries)} of term {persist.entries[-1].term};")
    return " ".join(parts).removesuffix(";")
