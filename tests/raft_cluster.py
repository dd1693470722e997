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
* durability: at the moment an entry is committed, a majority of *disks* of each half of the
  leader's configuration hold it
* a restored state is that of the entries that were committed
* reads: an answered read saw everything committed anywhere when it was asked
* a replica whose disk was damaged neither votes, nor campaigns, nor lets itself be counted

`counts` says what a history had in it. raft_disk.py is the disk; raft_words.py has the words.
"""

from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from attrs import Factory, define
from raft_disk import Disk, SnapshotFile
from raft_words import describe, describe_membership, describe_persist

from leftfold.raft import (
    CONFIGURATION,
    AppendEntriesReply,
    Change,
    Config,
    Entry,
    Fetch,
    FetchChunk,
    InstallSnapshotReply,
    Membership,
    Message,
    Persist,
    Raft,
    Ready,
    Refused,
    RequestVote,
    RequestVoteReply,
    Role,
    Stored,
)


@define
class Replica:
    """One replica: a disk that outlives crashes, and a core that does not.

    `written` is the log that the journal has been given, synced or not, behind `written_base`.
    """

    id: int
    joining: bool = False
    disk: Disk = Factory(Disk)
    raft: Raft | None = None
    starts: int = 0
    written: list[Entry] = Factory(list[Entry])
    written_base: tuple[int, int] = (0, 0)
    # Ranges for logic, or the index of a snapshot to restore.
    to_apply: deque[tuple[int, int] | int] = Factory(deque[tuple[int, int] | int])
    fetches: deque[Fetch | FetchChunk] = Factory(deque[Fetch | FetchChunk])
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
        self.counts: Counter[str] = Counter()
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
        founders = () if replica.joining else self.voters
        config = Config(
            id=id,
            voters=founders,
            learners=() if replica.joining else self.learners,
            joining=replica.joining,
            seed=self.seed * 1000 + replica.starts,
            **self.limits,
        )
        disk = replica.disk
        log, applied, configurations = disk.recover()
        replica.raft = Raft(
            config,
            disk.hard_state,
            log,
            applied,
            configurations=configurations,
            damage=disk.damage,
        )
        newest = disk.newest
        if newest is not None:
            replica.raft.snapshot_taken(Stored(newest.index, newest.term, len(newest.content)))
        replica.written = list(disk.entries)
        replica.written_base = disk.first - 1, disk.base_term
        replica.applied = [] if newest is None else newest.applied
        replica.commit = 0
        replica.role = Role.FOLLOWER
        self.drain(id)

    def join(self, id: int) -> None:
        """Start a replica with an empty disk, which knows nobody."""
        self.replicas[id] = Replica(id, joining=True)
        self.restart(id)

    def crash(self, id: int, whole: int = 0, torn: int | None = None) -> None:
        """kill -9 and power loss in one: memory is gone, and the disk loses what it had not synced."""
        replica = self.replicas[id]
        replica.raft = None
        self.counts["lost unsynced tails"] += replica.disk.crash(whole, torn)
        replica.to_apply.clear()
        replica.fetches.clear()

    def harm(self, id: int, index: int) -> None:
        """An entry on the disk of a replica that is down cannot be read any more."""
        assert self.replicas[id].raft is None
        self.counts["damaged logs"] += 1
        self.replicas[id].disk.harm(index)

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
        target = self.replicas.get(message.target)
        if target is not None and target.raft is not None:
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

    def change(self, id: int, change: Change) -> int | Refused:
        """Ask a leader for other members."""
        begun = self.raft(id).change(change)
        self.drain(id)
        return begun

    def snapshot(self, id: int) -> int | None:
        """Logic's state goes to disk, whole and durable. Its index, or None: there is nothing new."""
        replica, raft = self.replicas[id], self.raft(id)
        newest, index = replica.disk.newest, len(replica.applied)
        if any(isinstance(item, int) for item in replica.to_apply) or index < raft.log.first:
            return None
        if newest is not None and newest.index >= index:
            return None
        file = SnapshotFile.of(replica.applied, raft.membership_at(index))
        replica.disk.files[index] = file
        raft.snapshot_taken(Stored(index, file.term, len(file.content)))
        self.trace(f"{id} has a snapshot of {index}")
        self.drain(id)
        return index

    def compact(self, id: int, first: int | None = None) -> None:
        """The journal lets go of what lies below `first`, or of all that the newest snapshot covers."""
        disk = self.replicas[id].disk
        if disk.newest is None:
            return
        first = min(first or disk.newest.index + 1, disk.newest.index + 1, disk.last + 1)
        if first > disk.first:
            disk.compact(first)
            self.raft(id).compacted(first)
            self.drain(id)

    def check(self, id: int, damaged: bool = False) -> None:
        """The journal has read back the snapshot that came in chunks."""
        disk = self.replicas[id].disk
        if disk.incoming is None or len(disk.incoming_bytes) < disk.incoming.size:
            return
        index = disk.incoming.index
        disk.incoming = None
        if damaged:
            self.trace(f"{id} finds snapshot {index} damaged")
            self.raft(id).snapshot_refused(index)
        else:
            file = SnapshotFile.read(bytes(disk.incoming_bytes))
            newer = disk.newest is None or disk.newest.index < index
            # A file that the core does not take must not replace the log at the next start.
            if newer and self.raft(id).snapshot_received(file.received):
                disk.files[index] = file
        self.drain(id)

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
        item = replica.to_apply.popleft()
        if isinstance(item, int):
            restored = replica.disk.files[item].applied
            for entry in restored:
                assert self.committed[entry.index] == entry, "state machine safety, restored"
            replica.applied = restored
            self.raft(id).applied(item)
            self.drain(id)
            return
        first, last = item
        assert first == len(replica.applied) + 1, "I5: in index order, each once, without gaps"
        entries = self.raft(id).log.entries(first, last) if first >= self.raft(id).log.first else ()
        on_disk = replica.disk.range(first, last)
        assert not entries or entries == on_disk, "logic runs ahead of the disk"
        for entry in on_disk:
            assert self.committed[entry.index] == entry, "state machine safety"
        replica.applied.extend(on_disk)
        self.raft(id).applied(last)
        self.drain(id)

    def fetch(self, id: int) -> None:
        """The journal answers the oldest read."""
        replica = self.replicas[id]
        if not replica.fetches:
            return
        wanted, disk, raft = replica.fetches.popleft(), replica.disk, self.raft(id)
        if isinstance(wanted, FetchChunk):
            file = disk.files.get(wanted.index)
            content = b"" if file is None else file.content
            chunk = content[wanted.offset : wanted.offset + wanted.bytes_max]
            raft.fetched_chunk(wanted.peer, wanted.index, wanted.offset, chunk)
        else:
            found: list[Entry] = []
            for index in range(wanted.first, wanted.last + 1):
                if not disk.first <= index <= disk.last:
                    break
                [entry] = disk.range(index, index)
                if found and sum(len(e.body) for e in (*found, entry)) > wanted.bytes_max:
                    break
                found.append(entry)
            raft.fetched(wanted.peer, tuple(found))
        self.drain(id)

    def settle(self, ids: frozenset[int] | None = None) -> None:
        """Let everything that is under way among `ids` arrive, sync and apply, until it is quiet."""
        ids = ids or frozenset(self.replicas)
        for _ in range(2_000):
            up = [id for id in sorted(ids) if self.replicas[id].raft is not None]
            for id in up:
                self.sync(id)
                self.apply(id)
                self.fetch(id)
                self.check(id)
            wire, self.wire = self.wire, []
            for message in wire:
                if {message.source, message.target} <= ids and message.target in self.replicas:
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

    @staticmethod
    def _check_whole(raft: Raft, ready: Ready) -> None:
        """One `Ready` has all there is: what skips the work of a second one, loses nothing."""
        raft._touched = True
        assert raft.ready() == Ready(term_to_start=ready.term_to_start)

    def drain(self, id: int) -> None:
        replica = self.replicas[id]
        raft = self.raft(id)
        for _ in range(1000):
            # Before ready(), which may go over to the next configuration.
            self._check(replica, raft)
            ready = raft.ready()
            self._check_whole(raft, ready)
            if not ready:
                return
            self._note_role(replica, raft)
            if ready.membership is not None:
                self.trace(f"{id} goes by {describe_membership(ready.membership)}")
            if ready.repaired:
                self.trace(f"{id} is repaired")
                self.counts["repaired logs"] += 1
                replica.disk.damage = None
            for message in ready.send_now + ready.send_after_persist:
                self._check_promise(replica, message)
                self.trace(f"{id} → {message.target}  {describe(message)}")
                self.wire.append(message)
            if ready.persist is not None:
                self._write(replica, ready.persist)
            if ready.restore is not None:
                self.trace(f"{id} takes its state from snapshot {ready.restore}")
                self.counts["installed snapshots"] += 1
                replica.to_apply.clear()
                replica.to_apply.append(ready.restore)
            if ready.apply is not None:
                replica.to_apply.append(ready.apply)
            self._answer_reads(id, ready)
            replica.fetches.extend(ready.fetch)
            replica.fetches.extend(ready.fetch_chunks)
            if ready.term_to_start:
                raft.start_term(max(self.now_ns, raft.log.last_time_ns))
        raise AssertionError(f"replica {id} does not come to rest")

    def _write(self, replica: Replica, persist: Persist) -> None:
        self.trace(f"{replica.id} writes {describe_persist(persist)}")
        replica.disk.pending.append(persist)
        if persist.hard_state is not None and replica.disk.damage is None:
            newest = replica.disk.newest
            reached = max(replica.disk.last, 0 if newest is None else newest.index)
            assert persist.hard_state.commit <= reached, "I6, if it tears"
        base, base_term = replica.written_base
        if persist.truncate_from is not None:
            self.counts["overwritten tails"] += 1
            del replica.written[persist.truncate_from - base - 1 :]
        restart = persist.restart
        if restart is not None:
            keeps = restart.keep_suffix and base + len(replica.written) >= restart.index
            replica.written = replica.written[restart.index - base :] if keeps else []
            base, base_term = replica.written_base = restart.index, restart.term
        for entry in persist.entries:
            assert entry.index == base + len(replica.written) + 1
            previous = replica.written[-1].term if replica.written else base_term
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
        self.counts["elections"] += 1
        for index, entry in self.committed.items():
            if index >= raft.log.first - 1:
                assert raft.log.term_at(index) == entry.term, "leader completeness"

    def _check(self, replica: Replica, raft: Raft) -> None:
        assert raft.applied_index <= min(raft.commit, raft.durable) <= raft.log.last, "I6"
        if raft.commit <= replica.commit:
            return
        for index in range(replica.commit + 1, raft.commit + 1):
            term = raft.log.term_at(index)
            if index in self.committed:
                assert term in (None, self.committed[index].term), "state machine safety"
                continue
            assert term is not None
            entry = self.committed[index] = self.known[index, term][0]
            for half in raft.membership.quorum:
                holders = {id for id in half if self.replicas[id].disk.holds(index, term)}
                assert 2 * len(holders) > len(half), (
                    f"committed is durable on a majority: {index} of {sorted(half)} has {holders}"
                )
            if entry.kind == CONFIGURATION:
                joint = bool(Membership.decode(entry.body).outgoing)
                self.counts["joint changes" if joint else "other changes"] += 1
        replica.commit = raft.commit
        self.trace(f"{replica.id} commits {raft.commit}")

    def _check_promise(self, replica: Replica, message: Message) -> None:
        """I4, against the disk."""
        disk = replica.disk
        damaged = disk.damage is not None
        match message:
            case RequestVote(pre_vote=True) | RequestVoteReply(pre_vote=True, granted=True):
                assert not damaged, "a damaged replica takes part in an election"
                return
            case RequestVote():
                assert not damaged, "a damaged replica campaigns"
                assert disk.hard_state.voted_for == replica.id
                assert disk.last >= message.last_index
            case RequestVoteReply(granted=True):
                assert not damaged, "a damaged replica votes"
                assert disk.hard_state.voted_for == message.target
            case AppendEntriesReply(success=True):
                assert message.repairing or not damaged, "a damaged replica acknowledges"
                assert disk.last >= message.index
                assert self.raft(replica.id).durable >= message.index
            case InstallSnapshotReply(done=True):
                assert disk.last >= message.last_index
            case InstallSnapshotReply(refused=False):
                assert (
                    disk.incoming is None
                    or disk.incoming.index != message.last_index
                    or len(disk.incoming_bytes) >= message.offset
                )
            case _:
                pass
        assert disk.hard_state.term >= message.term, "I4: a term that is not durable was named"
