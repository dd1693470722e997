"""The Raft state machine: one replica's term, vote, log, commit index and membership.

Pure: same configuration, same recovered state, same calls in the same order give the same
`Ready`s. No clock (time is `tick()`), no I/O, no randomness but the seed's. Section numbers are
those of the Raft paper, extended version; "thesis" is Ongaro's dissertation.

    in                                          out: ready() -> Ready
    tick()                    time passes       send_now, send_after_persist   to peers
    step(message)             a peer speaks     persist                        to the journal
    propose(kind, body, t)    a client asks     restore, apply, reads          to logic
    read_index(context)       a client queries  fetch, fetch_chunks            to the journal
    persisted(sequence)       the journal did   term_to_start, role_changed,
    applied(index)            logic did         membership, repaired           to the shell
    fetched(peer, entries)    the journal read
    fetched_chunk(peer, …)    likewise
    snapshot_taken(stored)    this replica has a snapshot of its own
    compacted(first)          the journal let go of what it covers
    snapshot_received(…)      a snapshot that came in chunks is whole and durable
    snapshot_refused(index)   it is damaged
    change(change)            the operator wants other members
    transfer(target)          the operator wants another leader

Inputs only change memory; all effects leave through `ready()`, which a shell calls after each
batch of inputs; ready.py says what it owes. What gathers between two calls leaves together: one
write, one AppendEntries per peer, one round of heartbeats for all queries.

* The only voter of a cluster skips both waiting and pre-vote: its first tick makes it a candidate.
* A candidate asks for votes, and counts its own, only when its vote *and its whole log* are
  durable: those who grant compare logs, so the log they compare with must survive a crash.
* A leader sends entries while its own disk still works (thesis §10.2.1), and counts itself
  towards the commit index only for what its disk has confirmed.
* The term's first entry needs a time, and the core has no clock. So winning does not append it:
  `Ready.term_to_start` asks the shell to call `start_term(time_ns)`, with the time that the shell
  then anchors its log time to. Until then, `propose` and `read_index` refuse. The leader's
  heartbeats run meanwhile, so nothing but the first entry waits.
* `Ready.apply` covers what is committed *and durable here*, so a shell can always read it back
  from its own journal, and logic never runs ahead of the disk beneath it. A leader whose disk
  keeps what is committed waiting for long hands over to a replica whose disk has it.
* A configuration counts while it is in the log, committed or not (§6). So this replica remembers
  each one that its log holds, and those that a truncation may bring back. Entries of that kind
  need no clock: they carry the log time of the entry before them.
* A replica whose log was damaged keeps what lies before the damage, follows, and is sent the rest
  like any that is behind. Until it has an entry of its leader's term, and all that it may have
  acknowledged in that term, it neither votes, nor campaigns, nor counts: then it holds whatever
  was ever committed with its help (leader completeness).

Invariant: applied <= applying <= min(commit, durable) <= last (I6).
"""

import random
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence

from attrs import define, frozen

from .config import Config
from .errors import ProtocolViolation, StateLost
from .log import Log
from .membership import Change, Membership, Refused
from .messages import (
    CONFIGURATION,
    TERM_START,
    AppendEntries,
    AppendEntriesReply,
    Entry,
    HardState,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    InstallSnapshotReply,
    Message,
    RequestVote,
    RequestVoteReply,
    TimeoutNow,
)
from .observer import Happening, Observation, Observer
from .progress import Progress, ProgressState
from .quorum import Quorum, agreed, lost, won
from .ready import NOTHING, Fetch, FetchChunk, Persist, Read, Ready, Restart, SnapshotChunk
from .role import CANDIDATE, FOLLOWER, LEADER, PRE_CANDIDATE
from .stretch import Stretch
from .transfer import Incoming, Stored, checksum

OWN_DISK_TIMEOUTS = 4
"""For so many election time-outs a leader's disk may keep a committed entry waiting."""


@frozen
class Received:
    """A snapshot that came in chunks and proved whole: what its header says."""

    index: int
    term: int
    time_ns: int
    size: int
    membership: Membership


@frozen
class Damage:
    """Entries from `first` on are lost, and the log had gone on to (`last`, `last_term`)."""

    first: int
    last: int
    last_term: int


@define
class _Write:
    """A Persist that the journal has not confirmed. `last` falls if a later one truncates."""

    sequence: int
    hard_state: HardState
    last: int
    chunk_bytes: int = 0


@define
class _PendingRead:
    """A query batch: which index it must see, and which heartbeat round confirms it."""

    context: int
    index: int
    round: int


def _check_recovered(hard_state: HardState, log: Log, applied: int, damage: Damage | None) -> None:
    if damage is None and hard_state.commit > log.last:
        raise StateLost(
            f"Committed up to {hard_state.commit} and a snapshot at {applied}, "
            f"but the log is {log.first}…{log.last}: entries were lost."
        )
    if not log.first - 1 <= applied <= log.last:
        raise StateLost(
            f"A snapshot at {applied}, but the log is {log.first}…{log.last}: entries were lost."
        )


class Raft:
    """One replica. Not thread-safe, not re-entrant.

    `hard_state` and `log` are what the journal recovered *and has synced*. `applied` is the index
    of the snapshot that logic starts from. `configurations` are those of the snapshot and of the
    log behind it, each with its index, in order; before them, `config` counts. `damage` is what
    the journal noted (ready.py).
    """

    def __init__(
        self,
        config: Config,
        hard_state: HardState,
        log: Log,
        applied: int | None = None,
        *,
        configurations: Sequence[tuple[int, Membership]] = (),
        damage: Damage | None = None,
        observer: Observer | None = None,
    ) -> None:
        applied = log.first - 1 if applied is None else applied
        _check_recovered(hard_state, log, applied, damage)
        self.config = config
        self.log = log
        self.role = FOLLOWER
        # A write that tore may have left entries of a term and not that term's hard state. What
        # the hard state would have said was promised to nobody, so the vote is free.
        last_term = log.last_term if damage is None else max(log.last_term, damage.last_term)
        torn = hard_state.term < last_term
        self.term = last_term if torn else hard_state.term
        self.voted_for = 0 if torn else hard_state.voted_for
        self.leader_id = 0
        self.commit = max(min(hard_state.commit, log.last), applied)
        self._damage = damage
        self._observer: Observer | None = None  # What was recovered is no event.
        self._random = random.Random(config.seed * 1_000_003 + config.id)

        # The configurations that the log and its snapshot hold, by index; the last one counts.
        founded = Membership(voters=config.voters, learners=config.learners)
        self._configurations = [(0, founded), *configurations]
        indexes = [index for index, _ in self._configurations]
        assert indexes == sorted(set(indexes)) and indexes[-1] <= log.last, indexes
        self.membership = founded
        self.membership_index = 0
        self._quorum: Quorum = ()
        self._is_elector = False
        self._is_alone = False
        self._unsettled = False
        self._adopt_membership()
        if damage is not None and self.membership.electors == frozenset({self.id}):
            raise StateLost(
                f"Entry {damage.first} is damaged, and there is no other voter to repair it from."
            )

        self._votes: dict[int, bool] = {}
        self._election_elapsed = 0
        self._heartbeat_elapsed = 0
        self._election_timeout = self._draw_election_timeout()

        # Leadership.
        self._peers: dict[int, Progress] = {}
        self._term_start_index = 0
        self._transfer_target = 0
        self._transfer_sent = False
        # What was committed before this leader's own disk had it, and for how long it has waited.
        self._awaited = 0
        self._awaited_ticks = 0
        self._reads: deque[_PendingRead] = deque()
        self._round = 0

        # Durability: what the journal has, what it has been given, what it has not been given.
        self._durable_hard_state = hard_state
        self._durable_last = log.last
        self._given_hard_state = hard_state
        self._given_last = log.last
        self._truncate_from: int | None = None
        self._restart: Restart | None = None
        self._chunks: list[SnapshotChunk] = []
        self._undurable_chunk_bytes = 0
        self._sequence = 0
        self._persisted = 0
        self._writes: deque[_Write] = deque()

        # Snapshots: the newest of this replica's own, and the one that its leader sends.
        self._stored: Stored | None = None
        self._incoming: Incoming | None = None

        # Logic: what it has applied, what it has been given, and the sizes in between.
        self._applied = applied
        self._applying = applied
        self._unapplied: deque[tuple[int, int]] = deque()
        self._unapplied_bytes = 0

        # Effects that wait for ready(), and whether there can be any.
        self._touched = True
        self._send_now: list[Message] = []
        self._send_waiting: deque[tuple[int, Message]] = deque()
        self._fetch: list[Fetch] = []
        self._fetch_chunks: list[FetchChunk] = []
        self._restore: int | None = None
        self._repaired = False
        self._shown = (self.role, self.term, self.leader_id)
        self._shown_membership = self.membership
        self._observer = observer

    # What a shell may look at.

    @property
    def id(self) -> int:
        """This replica's id."""
        return self.config.id

    @property
    def durable(self) -> int:
        """The last index that this replica's disk is known to hold."""
        return self._durable_last

    @property
    def applied_index(self) -> int:
        """The last index that logic has reported."""
        return self._applied

    @property
    def progress(self) -> dict[int, Progress]:
        """The leader's view of its peers, for tools and tests. Empty unless leading."""
        return self._peers

    @property
    def is_member(self) -> bool:
        """Does the configuration in this replica's log name it? Ask again once that is committed."""
        return self.id in self.membership.members

    @property
    def is_damaged(self) -> bool:
        """Has this replica yet to regain what it may have acknowledged?"""
        return self._damage is not None

    def membership_at(self, index: int) -> Membership:
        """The configuration that counted once the log had reached `index`: a snapshot's own."""
        assert self.log.first - 1 <= index <= self.log.last, index
        position = bisect_right(self._configurations, index, key=lambda known: known[0]) - 1
        return self._configurations[position][1]

    def needed_from(self) -> int:
        """The first entry that a peer which is heard still needs; the log's end + 1 if none does.

        A journal that keeps the log from here on spares these peers a snapshot, or another one.
        """
        needed = self.log.last + 1
        for progress in self._peers.values():
            if progress.is_heard(self.config.election_ticks):
                outgoing = progress.outgoing
                match = progress.match if outgoing is None else outgoing.snapshot.index
                needed = min(needed, match + 1)
        return needed

    # Inputs.

    def tick(self) -> None:
        """A fixed amount of time has passed."""
        self._touched = True
        if self.role is LEADER:
            self._tick_leader()
            return
        if not self._is_elector and not self._may_campaign():
            self._election_elapsed += 1  # For how long a leader counts as heard.
            return
        if self._is_alone:
            if self.role is FOLLOWER:
                self._campaign()
            return
        if self.role is CANDIDATE and self._durable_hard_state.term < self.term:
            # Our own disk is what this election waits for; a further term would not help.
            return
        self._election_elapsed += 1
        if self._election_elapsed >= self._election_timeout:
            self._pre_campaign()

    def step(self, message: Message) -> None:
        """A peer's message has arrived: late, twice, out of order, or never, as it likes."""
        if message.target != self.id:
            raise ProtocolViolation(
                f"A message for replica {message.target} reached replica {self.id}."
            )
        self._touched = True
        if self._observer is not None:
            self._observe(Happening.MESSAGE, message=message)
        if message.term > self.term:
            if not self._accept_higher_term(message):
                return
        elif message.term < self.term:
            self._answer_lower_term(message)
            return
        match message:
            case RequestVote():
                self._on_request_vote(message)
            case RequestVoteReply():
                self._on_request_vote_reply(message)
            case AppendEntries():
                self._on_append_entries(message)
            case AppendEntriesReply():
                self._on_append_entries_reply(message)
            case Heartbeat():
                self._on_heartbeat(message)
            case HeartbeatReply():
                self._on_heartbeat_reply(message)
            case TimeoutNow():
                self._on_timeout_now(message)
            case InstallSnapshot():
                self._on_install_snapshot(message)
            case InstallSnapshotReply():
                self._on_install_snapshot_reply(message)

    def start_term(self, time_ns: int, body: bytes = b"") -> int:
        """Append the new leader's first entry (§8), as Ready.term_to_start asks. Its index.

        No limit applies: without this entry nothing of earlier terms commits (§5.4.2). What the
        body says is the shell's own affair.
        """
        assert self.role is LEADER and not self._term_start_index
        self._term_start_index = self._append_own(TERM_START, body, time_ns)
        return self._term_start_index

    def propose(self, kind: int, body: bytes, time_ns: int) -> int | None:
        """Append an entry, and return its index.

        None: not leader (yet), handing over to another leader, or too much unapplied; `refusal()`
        says it in words, and `leader_id` whom to ask instead.

        `time_ns` is log time and never goes back within a log; the shell sees to that.
        """
        assert kind not in (TERM_START, CONFIGURATION), "start_term() and change() are for these"
        if not self._term_start_index or self._transfer_target:
            return None
        if self.log.last - self._applied >= self.config.unapplied_entries_max:
            return None
        if self._unapplied_bytes + len(body) > self.config.unapplied_bytes_max and self._unapplied:
            return None
        return self._append_own(kind, body, time_ns)

    def refusal(self, size: int = 0) -> Refused | None:
        """Why `propose` refuses a body of `size` bytes now, or None if it does not."""
        config = self.config
        if self.role is not LEADER:
            leader = f"replica {self.leader_id} leads" if self.leader_id else "no leader is known"
            return Refused(f"Replica {self.id} does not lead; {leader}.")
        if not self._term_start_index:
            return Refused(f"Replica {self.id} has only just won term {self.term}.")
        if self._transfer_target:
            return Refused(f"Replica {self.id} hands over to replica {self._transfer_target}.")
        behind = self.log.last - self._applied
        if behind >= config.unapplied_entries_max:
            return Refused(f"{behind} entries are not applied yet.")
        if self._unapplied_bytes + size > config.unapplied_bytes_max and self._unapplied:
            return Refused(f"{self._unapplied_bytes} bytes are not applied yet.")
        return None

    def change(self, change: Change) -> int | Refused:
        """Begin a change of the members (§6). The index of its first entry, or why not.

        It is done when `membership` is as asked for and `membership_index` is committed.
        """
        if self.role is not LEADER or not self._term_start_index or self._transfer_target:
            refusal = self.refusal()
            assert refusal is not None
            return refusal
        if self.commit < max(self._term_start_index, self.membership_index):
            # §5.4.2 for configurations: one of an earlier term might still come back.
            return Refused("The change before this one, or this term, is not committed yet.")
        changed = self.membership.changed(change)
        if isinstance(changed, Refused):
            return changed
        if changed.outgoing:
            heard = frozenset(
                peer
                for peer, progress in self._peers.items()
                if progress.is_heard(self.config.election_ticks) and not progress.repairing
            )
            if not won((changed.voters,), heard | {self.id}):
                return Refused(
                    f"Of the voters that would remain, {sorted(changed.voters)}, no majority is "
                    f"heard by their leader: the cluster could not go on."
                )
        return self._append_configuration(changed)

    def read_index(self, context: int) -> bool:
        """Ask when the query batch `context` may run (thesis §6.4). False: not leader, or full.

        It will see everything that was in the leader's log at this call, so a client sees its own
        commands. The answer comes as `Ready.reads`; if the role changes first, it never comes.
        """
        if not self._term_start_index or len(self._reads) >= self.config.reads_max:
            return False
        # The round is the next one to be sent: only a heartbeat sent after this call proves that
        # no newer leader had been elected before it.
        self._reads.append(_PendingRead(context, self.log.last, self._round + 1))
        self._touched = True
        return True

    def transfer(self, target: int) -> bool:
        """Hand leadership to `target` (thesis §3.10). False: not leader, or it cannot take it.

        Proposals are refused until it has taken over, or an election time-out has passed; then
        this leader goes on as before.
        """
        if not self._term_start_index or target not in self.membership.voters - {self.id}:
            return False
        if self._peers[target].repairing:
            return False
        self._stop_transfer()
        self._touched = True
        self._transfer_target = target
        self._election_elapsed = 0
        for progress in self._peers.values():
            progress.active = True  # The count of who is heard starts again with the timer.
        return True

    def heir(self, excluded: frozenset[int] = frozenset()) -> int:
        """The voter that can lead soonest: heard, with the most of the log. 0 if there is none.

        A leader knows; to be asked of nobody else. Who is under repair cannot take over.
        """
        able = [
            (self._is_heard(peer), self._peers[peer].match, -peer)
            for peer in self.membership.voters - {self.id} - excluded
            if not self._peers[peer].repairing
        ]
        return -max(able)[2] if able else 0

    def persisted(self, sequence: int) -> None:
        """The journal has synced every Persist up to `sequence`. May cover several."""
        assert sequence <= self._sequence, (sequence, self._sequence)
        self._touched = True
        while self._writes and self._writes[0].sequence <= sequence:
            write = self._writes.popleft()
            self._persisted = write.sequence
            self._durable_hard_state = write.hard_state
            self._durable_last = max(self._durable_last, write.last)
            self._undurable_chunk_bytes -= write.chunk_bytes
        assert self._durable_last <= self.log.last
        if self._observer is not None:
            self._observe(Happening.DURABLE)
        if self._damage is not None:
            self._look_whether_repaired(self._damage)
        if self.role is CANDIDATE and self._durable_hard_state.term == self.term:
            self._count_vote(self.id, granted=True)
        elif self.role is LEADER:
            self._advance_commit()

    def applied(self, index: int) -> None:
        """Logic has applied everything up to `index`."""
        assert self._applied <= index <= self._applying, (self._applied, index, self._applying)
        self._applied = index
        while self._unapplied and self._unapplied[0][0] <= index:
            self._unapplied_bytes -= self._unapplied.popleft()[1]

    def fetched(self, peer: int, entries: tuple[Entry, ...]) -> None:
        """The journal has read what a Fetch asked for.

        Time has passed since: only what still is our log goes out.
        """
        progress = self._peers.get(peer)
        if progress is None or not progress.fetching:
            return
        progress.fetching = False
        self._touched = True
        if (
            entries
            and entries[0].index == progress.next
            and all(self.log.term_at(entry.index) == entry.term for entry in entries)
        ):
            self._send_entries(peer, progress, entries)

    def fetched_chunk(self, peer: int, index: int, offset: int, chunk: bytes) -> None:
        """The journal has read what a FetchChunk asked for. No bytes: that file is gone."""
        progress = self._peers.get(peer)
        outgoing = None if progress is None else progress.outgoing
        if progress is None or outgoing is None:
            return
        if (outgoing.snapshot.index, outgoing.fetching) != (index, offset):
            return
        outgoing.fetching = None
        self._touched = True
        if not chunk:
            progress.needs_snapshot(self._stored)
            if progress.outgoing is not None:
                progress.outgoing.probe_sent = True  # With the next heartbeat; not at once again.
        elif not outgoing.probing and outgoing.next == offset:
            outgoing.next += len(chunk)
            self._send_chunk(peer, outgoing.snapshot, offset, chunk)

    def snapshot_taken(self, stored: Stored) -> None:
        """This replica's disk has a snapshot, whole, checked and durable, of what it has applied."""
        assert stored.index <= self._applied and stored.size > 0, (stored, self._applied)
        if self._stored is None or stored.index > self._stored.index:
            self._stored = stored
            self._touched = True

    def compacted(self, first: int) -> None:
        """The journal has let go of everything below `first`; the newest snapshot covers it."""
        assert self._stored is not None and first <= self._stored.index + 1, (first, self._stored)
        if first > self.log.first:
            self.log.compact(first)
            self._forget_configurations()
            self._touched = True

    def snapshot_received(self, received: Received) -> bool:
        """The snapshot that came in chunks is whole, checked, and durable under its final name.

        True: it is taken; `Ready.restore` and `Persist.restart` follow. False: it came too late,
        and is no more than a file.
        """
        incoming, self._incoming = self._incoming, None
        index, term = received.index, received.term
        self._touched = True
        if index <= self.commit or self.role is LEADER:
            return False
        if self.role is not FOLLOWER:
            self._become_follower(self.term, 0)
        # §7: "If instead the snapshot describes a prefix of its log, then log entries covered by
        # the snapshot are deleted but entries following the snapshot are still valid".
        keep_suffix = self.log.term_at(index) == term
        self._restart_log(received, keep_suffix=keep_suffix)
        self.commit = self._applying = self._restore = index
        self._stored = Stored(index, term, received.size)
        if self._observer is not None:
            self._observe(Happening.RESTORE, first=index)
        if incoming is not None and incoming.source == self.leader_id:
            self._reply_install(incoming.source, index, received.size, done=True)
        return True

    def snapshot_refused(self, index: int) -> None:
        """The snapshot that came in chunks is damaged: it will be sent anew, from its first byte."""
        if self._incoming is not None and self._incoming.snapshot.index == index:
            self._incoming = None

    # A stretch in which a shell did by itself what is asked of this core over and over (stretch.py).

    @property
    def is_steady(self) -> bool:
        """Is this a leader with nothing under way but entries, writes and their acknowledgements?

        Who does not keep up may be among its peers, as long as it is waited for.
        """
        started = self._term_start_index
        return (
            self.role is LEADER
            and len(self._quorum) == 1
            and all(map(self._is_steady, self._peers.values()))
            and 0 < started <= self.commit
            and self.membership_index <= self.commit
            and self.log.last_term == self.term
            and not self._touched
            and not self._unsettled
            and not self._transfer_target
            and not self._reads
            and not self._send_waiting
            and not self._undurable_chunk_bytes
            and self._damage is None
            and self._observer is None
            and not self._hard_state_changed()
            and self._durable_hard_state.term == self.term
            and self.voted_for == self.id
            and self._given_last == self.log.last
            and self._applying == min(self.commit, self._durable_last)
            and len(self._unapplied) == self.log.last - self._applied
        )

    @property
    def follows_steadily(self) -> bool:
        """Is this a follower of a known leader, with nothing under way but entries, writes and its acknowledgements?"""
        durable = self._durable_hard_state
        return (
            self.role is FOLLOWER
            and self.leader_id != 0
            and self.log.last_term == self.term == durable.term
            and self.voted_for == durable.voted_for
            and not self._touched
            and not self._undurable_chunk_bytes
            and self._damage is None
            and self._observer is None
            and not self._hard_state_changed()
            and self._given_last == self.log.last
            and self._applying == min(self.commit, self._durable_last)
            and all(self._acknowledges(message) for _, message in self._send_waiting)
        )

    def _acknowledges(self, message: Message) -> bool:
        """Is it a plain acknowledgement to this term's leader?"""
        return (
            isinstance(message, AppendEntriesReply)
            and (message.target, message.term) == (self.leader_id, self.term)
            and message.success
            and not message.repairing
        )

    def _is_steady(self, progress: Progress) -> bool:
        if progress.outgoing is not None or progress.repairing:
            return False
        return progress.keeps_up(self.log.last) or not progress.may_send(
            self.config.appends_in_flight_max, self.config.entries_in_flight_bytes_max
        )

    def standing(self) -> Stretch:
        """Where a stretch begins."""
        return Stretch(
            (),
            self._sequence,
            self._given_hard_state.commit,
            self._persisted,
            self._durable_last,
            self._durable_hard_state.commit,
            [(write.sequence, write.last, write.hard_state.commit) for write in self._writes],
            self.commit,
            self._applying,
            self._applied,
            0,
            [
                (sequence, message.index)
                for sequence, message in self._send_waiting
                if isinstance(message, AppendEntriesReply)
            ],
            peers={
                peer: progress.standing()
                for peer, progress in self._peers.items()
                if progress.keeps_up(self.log.last)
            },
        )

    def stretch(self, done: Stretch) -> None:
        """The shell has done that; see stretch.py.

        It is the same as the steps: an append to the log and to what is not applied commutes with what is taken off their
        fronts, each acknowledgement leaves what the last one says, and a body leaves memory by the log's size alone, of which
        what is not durable is less than the limit. An acknowledgement says the same whenever it is made.
        """
        assert self.is_steady or self.follows_steadily
        term, vote = self.term, self.voted_for
        for peer, gone_on in done.peers.items():
            self._peers[peer].stretch(gone_on)
        self.log.append(done.entries)
        for entry in done.entries:
            self._unapplied.append((entry.index, len(entry.body)))
            self._unapplied_bytes += len(entry.body)
        self._given_last = self.log.last
        self._sequence, self._persisted = done.sequence, done.persisted
        self._given_hard_state = HardState(term, vote, done.given_commit)
        self._durable_hard_state = HardState(term, vote, done.durable_commit)
        self._writes = deque(
            _Write(sequence, HardState(term, vote, commit), last)
            for sequence, last, commit in done.writes
        )
        self._durable_last = done.durable
        self.commit, self._applying = done.commit, done.applying
        self.applied(done.applied)
        self._round += done.reads
        self._send_waiting = deque(
            (sequence, AppendEntriesReply(self.id, self.leader_id, term, True, index))
            for sequence, index in done.replies
        )
        if done.heard:
            self._election_elapsed = 0
        if self.log.recent_bytes > self.config.recent_bytes_max:
            self.log.drop_bodies_over(self.config.recent_bytes_max, self._durable_last + 1)

    # The output.

    def ready(self) -> Ready:
        """Everything to be done now, handed out once. See ready.py."""
        if not self._touched:
            return NOTHING
        leads = self.role is LEADER
        if leads and self._unsettled:
            self._settle_membership()
            leads = self.role is LEADER
        # First: what is in memory no more decides what is sent below, and on which flow.
        if self.log.recent_bytes > self.config.recent_bytes_max:
            self.log.drop_bodies_over(self.config.recent_bytes_max, self._durable_last + 1)
        if leads:
            if self._reads:
                self._start_round()
            for peer, progress in self._peers.items():
                self._replicate(peer, progress)
            if self._transfer_target:
                self._hand_over()
        persist = self._take_persist()
        apply = self._take_apply()
        released = self._take_released() if self._send_waiting else ()
        reads = self._take_reads() if self._reads else ()
        shown = (self.role, self.term, self.leader_id)
        role_changed = shown != self._shown
        term_to_start = leads and not self._term_start_index
        self._touched = term_to_start
        restore, repaired = self._restore, self._repaired
        other_membership = self.membership is not self._shown_membership
        if not (
            persist
            or apply
            or released
            or reads
            or self._send_now
            or role_changed
            or term_to_start
            or self._fetch
            or self._fetch_chunks
            or restore is not None
            or other_membership
            or repaired
        ):
            return NOTHING
        ready = Ready(
            tuple(self._send_now) if self._send_now else (),
            persist,
            released,
            apply,
            reads,
            tuple(self._fetch) if self._fetch else (),
            role_changed,
            term_to_start,
            restore,
            tuple(self._fetch_chunks) if self._fetch_chunks else (),
            self.membership if other_membership else None,
            repaired,
        )
        self._restore, self._repaired = None, False
        self._shown = shown
        self._shown_membership = self.membership
        if ready.send_now:
            self._send_now.clear()
        if ready.fetch or ready.fetch_chunks:
            self._fetch.clear()
            self._fetch_chunks.clear()
        return ready

    def _take_released(self) -> tuple[Message, ...]:
        """The messages whose persist has been reported, as far as they still mean something."""
        released: list[Message] = []
        while self._send_waiting and self._send_waiting[0][0] <= self._persisted:
            _, message = self._send_waiting.popleft()
            if self._is_still_meant(message):
                released.append(message)
        return tuple(released)

    def _take_persist(self) -> Persist | None:
        first, last = self._given_last + 1, self.log.last
        if (
            first > last
            and self._truncate_from is None
            and not self._hard_state_changed()
            and self._restart is None
            and not self._chunks
        ):
            return None  # A higher commit index alone is no reason to write.
        entries = self.log.entries(first, last) if first <= last else ()
        assert entries is not None, "what is not durable stays in memory"
        # I6: the commit that goes to disk never passes what is on that disk already.
        commit = min(self.commit, self._durable_last)
        hard_state = self._given_hard_state
        changed = commit != hard_state.commit or self._hard_state_changed()
        if changed:
            hard_state = HardState(self.term, self.voted_for, commit)
        self._sequence += 1
        persist = Persist(
            self._sequence,
            hard_state if changed else None,
            self._truncate_from,
            entries,
            self._restart,
            tuple(self._chunks) if self._chunks else (),
        )
        self._given_hard_state = hard_state
        self._given_last = last
        self._truncate_from = None
        self._restart = None
        chunk_bytes = 0
        if self._chunks:
            chunk_bytes = sum(len(chunk.chunk) for chunk in self._chunks)
            self._chunks.clear()
        self._writes.append(_Write(self._sequence, hard_state, last, chunk_bytes))
        return persist

    def _take_apply(self) -> tuple[int, int] | None:
        last = min(self.commit, self._durable_last)
        if last <= self._applying:
            return None
        first, self._applying = self._applying + 1, last
        return first, last

    def _take_reads(self) -> tuple[Read, ...]:
        confirmed = self._round
        if not self._is_alone:
            rounds = {peer: progress.round for peer, progress in self._peers.items()}
            rounds[self.id] = self._round
            confirmed = agreed(self._quorum, rounds)
        reads: list[Read] = []
        while (
            self._reads
            and self._reads[0].round <= confirmed
            and self._reads[0].index <= self._applying
        ):
            read = self._reads.popleft()
            reads.append(Read(read.context, read.index))
        return tuple(reads)

    # Sending. No message carries a term, and none makes a promise, before that is durable (I4).

    def _hard_state_changed(self) -> bool:
        given = self._given_hard_state
        return given.term != self.term or given.voted_for != self.voted_for

    def _send(self, message: Message, *, promises: bool = False) -> None:
        """Queue a message: for now, or for when all that this replica knows is durable."""
        if not promises and self._durable_hard_state.term == self.term:
            self._send_now.append(message)
            return
        unwritten = (
            self._hard_state_changed()
            or self._truncate_from is not None
            or self._given_last < self.log.last
            or self._restart is not None
            or bool(self._chunks)
        )
        self._send_waiting.append((self._sequence + unwritten, message))

    def _is_still_meant(self, message: Message) -> bool:
        """While a message waited for the disk, what it says may have become void.

        A promise of a past term is of no use to anybody. A candidate that found the leader of
        its term may since have removed entries that its request for votes boasts of.
        """
        if isinstance(message, RequestVote) and not message.pre_vote:
            return message.term == self.term and self.role is CANDIDATE
        return message.term >= self.term

    # Terms and roles.

    def _accept_higher_term(self, message: Message) -> bool:
        """§5.1: a higher term makes any replica a follower of it. False: ignore the message."""
        match message:
            case RequestVote(transfer=False) if self._hears_leader():
                # Thesis §4.2.3: a replica that hears a leader helps nobody to depose it.
                return False
            case RequestVote(pre_vote=True) | RequestVoteReply(pre_vote=True, granted=True):
                # The term asked about is nobody's term yet.
                return True
            case AppendEntries() | Heartbeat() | InstallSnapshot():
                self._become_follower(message.term, message.source)
            case _:
                self._become_follower(message.term, 0)
        return True

    def _answer_lower_term(self, message: Message) -> None:
        """§5.1: a request with a stale term is refused; the refusal carries the newer term.

        That matters for more than politeness: a leader of a lower term would otherwise go on, and
        by the stickiness rule its followers would ignore this replica's own elections for ever.
        """
        match message:
            case RequestVote():
                self._send(
                    RequestVoteReply(self.id, message.source, self.term, False, message.pre_vote)
                )
            case AppendEntries() | Heartbeat():
                self._send(AppendEntriesReply(self.id, message.source, self.term, False, 0))
            case InstallSnapshot():
                self._reply_install(message.source, message.last_index, 0, refused=True)
            case _:
                pass

    def _become_follower(self, term: int, leader_id: int) -> None:
        assert term >= self.term
        news = term > self.term or self.role is not FOLLOWER
        if term > self.term:
            self.term = term
            self.voted_for = 0
        self.role = FOLLOWER
        self.leader_id = leader_id
        self._reset_timers()
        self._peers.clear()
        self._reads.clear()
        self._fetch.clear()
        self._fetch_chunks.clear()
        self._term_start_index = 0
        self._stop_transfer()
        if news and self._observer is not None:
            self._observe(Happening.ROLE)

    def _pre_campaign(self) -> None:
        """§9.6 of the thesis: ask first, so that a replica that cannot win disturbs nobody."""
        self.role = PRE_CANDIDATE
        self.leader_id = 0
        self._reset_timers()
        self._votes = {}
        if self._observer is not None:
            self._observe(Happening.ROLE)
        for peer in sorted(self.membership.electors - {self.id}):
            self._send(
                RequestVote(
                    self.id, peer, self.term + 1, self.log.last, self.log.last_term, pre_vote=True
                )
            )
        self._count_vote(self.id, granted=True)

    def _campaign(self, *, transfer: bool = False) -> None:
        """§5.2: increment the term, vote for oneself, ask all others."""
        self.role = CANDIDATE
        self.leader_id = 0
        self.term += 1
        self.voted_for = self.id
        self._reset_timers()
        self._votes = {}
        if self._observer is not None:
            self._observe(Happening.ROLE)
        for peer in sorted(self.membership.electors - {self.id}):
            self._send(
                RequestVote(
                    self.id,
                    peer,
                    self.term,
                    self.log.last,
                    self.log.last_term,
                    transfer=transfer,
                ),
                promises=True,
            )
        # The own vote is counted in persisted().

    def _count_vote(self, voter: int, *, granted: bool) -> None:
        self._votes.setdefault(voter, granted)
        if won(self._quorum, {v for v, yes in self._votes.items() if yes}):
            if self.role is PRE_CANDIDATE:
                self._campaign()
            else:
                self._become_leader()
        elif lost(self._quorum, {v for v, yes in self._votes.items() if not yes}):
            self._become_follower(self.term, 0)

    def _become_leader(self) -> None:
        assert self.role is CANDIDATE and self._durable_hard_state.term == self.term
        self.role = LEADER
        self.leader_id = self.id
        self._reset_timers()
        self._round = self._awaited = 0
        self._peers = {}
        self._meet_peers()
        if self._observer is not None:
            self._observe(Happening.ROLE)
        self._broadcast_heartbeat()

    def _reset_timers(self) -> None:
        self._election_elapsed = 0
        self._heartbeat_elapsed = 0
        self._election_timeout = self._draw_election_timeout()

    def _draw_election_timeout(self) -> int:
        """§5.2: randomised, so that split votes are rare."""
        shortest, spread = self.config.election_ticks, self.config.election_spread_ticks
        return shortest + self._random.randrange(shortest if spread is None else spread)

    def _hears_leader(self) -> bool:
        """Within the shortest election time-out, has this replica heard a leader (or is it one)?"""
        return self.leader_id != 0 and self._election_elapsed < self.config.election_ticks

    # Votes.

    def _on_request_vote(self, message: RequestVote) -> None:
        if message.pre_vote:
            # Same term as ours: not higher, so a campaign in it would be refused.
            free = message.term > self.term
        else:
            free = self.voted_for in (0, message.source) and self.leader_id == 0
        # A replica that lost entries cannot tell whether another one has those that it promised.
        free = free and self._damage is None
        granted = free and self.log.is_up_to_date(message.last_index, message.last_term)
        reply_term = message.term if granted else self.term
        reply = RequestVoteReply(self.id, message.source, reply_term, granted, message.pre_vote)
        if granted and not message.pre_vote:
            self.voted_for = message.source
            self._reset_timers()
            if self._observer is not None:
                self._observe(Happening.ROLE)
        self._send(reply, promises=granted and not message.pre_vote)

    def _on_request_vote_reply(self, message: RequestVoteReply) -> None:
        asked = PRE_CANDIDATE if message.pre_vote else CANDIDATE
        if self.role is asked:
            if message.granted and message.pre_vote and message.term != self.term + 1:
                return  # Granted for an earlier campaign.
            self._count_vote(message.source, granted=message.granted)

    def _on_timeout_now(self, message: TimeoutNow) -> None:
        """The leader hands over: campaign at once, and say that it is with its consent."""
        asked = self.role is FOLLOWER and self.leader_id == message.source
        if asked and self._may_campaign():
            self._campaign(transfer=True)

    # The follower's log.

    def _follow(self, message: AppendEntries | Heartbeat | InstallSnapshot) -> None:
        """A message of this term's leader: follow it (§5.2)."""
        if self.role is LEADER or self.leader_id not in (0, message.source):
            raise ProtocolViolation(
                f"Term {self.term} has two leaders, {self.leader_id} and {message.source}."
            )
        if self.role is not FOLLOWER:
            self._become_follower(self.term, message.source)
        self.leader_id = message.source
        self._election_elapsed = 0

    def _on_append_entries(self, message: AppendEntries) -> None:
        self._follow(message)
        self._check_committed(message)
        if message.prev_index < self.commit:
            # Old news: up to the commit index the logs agree (leader completeness).
            self._reply_append(message, success=True, index=self.commit)
            return
        if self.log.term_at(message.prev_index) != message.prev_term:
            hint = self.log.last_index_of_term_at_most(message.prev_term, message.prev_index)
            self._reply_append(message, success=False, index=message.prev_index, hint=hint)
            return
        if self._undurable_bytes_full():
            return  # I10: the leader sends again after a heartbeat.
        self._accept_entries(message)
        last = message.prev_index + len(message.entries)
        self._commit_to(min(message.commit, last))
        self._reply_append(message, success=True, index=last)

    def _check_committed(self, message: AppendEntries) -> None:
        """Leader completeness (§5.4.3): no leader contradicts what is committed here.

        One that does was elected by a replica that forgot what it had promised, say after its
        directory was wiped. Following it would change what clients were told.
        """
        named = [(message.prev_index, message.prev_term)]
        named += [(entry.index, entry.term) for entry in message.entries]
        for index, term in named:
            if index > self.commit:
                return
            known = self.log.term_at(index)
            if known is not None and known != term:
                raise ProtocolViolation(
                    f"Replica {message.source} leads term {self.term} and would overwrite "
                    f"committed entry {index} of term {known} with one of term {term}."
                )

    def _undurable_bytes_full(self) -> bool:
        first = max(self._durable_last + 1, self.log.recent_first)
        if first > self.log.last or self.log.recent_bytes <= self.config.recent_bytes_max:
            return False
        self.log.drop_bodies_over(self.config.recent_bytes_max, self._durable_last + 1)
        return self.log.recent_bytes > self.config.recent_bytes_max

    def _accept_entries(self, message: AppendEntries) -> None:
        """§5.3: skip what is there, remove what conflicts, append the rest.

        What is there must stay, even behind the last entry of this message: the message may be
        late, and what follows may be acknowledged already.
        """
        for position, entry in enumerate(message.entries):
            if entry.index != message.prev_index + 1 + position or entry.term > message.term:
                raise ProtocolViolation(f"Replica {message.source} sent entries with a gap.")
            known = self.log.term_at(entry.index)
            if known == entry.term:
                continue
            if known is not None:
                self._truncate(entry.index)
            self._append(message.entries[position:])
            return

    def _truncate(self, first: int) -> None:
        assert first > self.commit, (first, self.commit)
        self.log.truncate(first)
        if self._observer is not None:
            self._observe(Happening.TRUNCATE, first=first)
        if first <= self._given_last:
            self._truncate_from = min(first, self._truncate_from or first)
            self._given_last = first - 1
        # Acknowledgements under way no longer vouch for what was removed (see ready.py).
        self._durable_last = min(self._durable_last, first - 1)
        for write in self._writes:
            write.last = min(write.last, first - 1)
        while self._unapplied and self._unapplied[-1][0] >= first:
            self._unapplied_bytes -= self._unapplied.pop()[1]
        if self.membership_index >= first:
            # §6: the configuration that counts is the latest in the log, and that one is gone.
            while self._configurations[-1][0] >= first:
                self._configurations.pop()
            self._adopt_membership()

    def _append(self, entries: tuple[Entry, ...]) -> None:
        self._touched = True
        self.log.append(entries)
        for entry in entries:
            self._unapplied.append((entry.index, len(entry.body)))
            self._unapplied_bytes += len(entry.body)
            if entry.kind == CONFIGURATION:
                self._configurations.append((entry.index, Membership.decode(entry.body)))
        if self._observer is not None:
            self._observe(Happening.APPEND, first=entries[0].index)
        if self._configurations[-1][0] > self.membership_index:
            self._adopt_membership()

    def _reply_append(
        self, message: AppendEntries, *, success: bool, index: int, hint: int = 0
    ) -> None:
        hint_term = 0 if success else self.log.term_at(hint) or 0
        repairing = self._damage is not None
        reply = AppendEntriesReply(
            self.id, message.source, self.term, success, index, hint, hint_term, repairing
        )
        self._send(reply, promises=success)

    def _on_heartbeat(self, message: Heartbeat) -> None:
        self._follow(message)
        if self._damage is None:
            self._commit_to(min(message.commit, self.log.last))
        elif message.commit > self.commit:
            # The leader goes by what this replica acknowledged before its log was damaged. What
            # is left may end with entries that were replaced by what is lost: only an
            # AppendEntries tells which of them are the leader's.
            last, last_term = self.log.last, self.log.last_term
            self._send(
                AppendEntriesReply(
                    self.id, message.source, self.term, False, last + 1, last, last_term, True
                )
            )
        self._send(HeartbeatReply(self.id, message.source, self.term, message.round))

    def _commit_to(self, index: int) -> None:
        assert index <= self.log.last
        if index > self.commit:
            self.commit = index
            if self._observer is not None:
                self._observe(Happening.COMMIT)

    # The follower's repair, and the snapshots that it is sent.

    def _look_whether_repaired(self, damage: Damage) -> None:
        """An entry of this term came from its leader, so all before it is the leader's log too.

        What was committed in earlier terms with this replica's help is in that log (§5.4.3); what
        it acknowledged in this term is, up to where its own log had been.
        """
        durable = self._durable_last
        if self.log.term_at(durable) != self.term:
            return
        if damage.last_term == self.term and durable < damage.last:
            return
        self._damage = None
        self._repaired = True
        self._adopt_membership()
        if self.leader_id:
            reply = AppendEntriesReply(self.id, self.leader_id, self.term, True, durable)
            self._send(reply, promises=True)

    def _on_install_snapshot(self, message: InstallSnapshot) -> None:
        self._follow(message)
        source, snapshot = (
            message.source,
            Stored(message.last_index, message.last_term, message.size),
        )
        if snapshot.index <= self.commit:
            self._reply_install(source, snapshot.index, snapshot.size, done=True)
            return
        incoming = self._incoming
        if incoming is None or (incoming.source, incoming.snapshot) != (source, snapshot):
            older = incoming is not None and incoming.leader_term == message.term
            if older and incoming is not None and snapshot.index < incoming.snapshot.index:
                return  # Late: this leader has gone over to a newer one.
            self._incoming = incoming = Incoming(source, snapshot, message.term)
        incoming.leader_term = message.term
        if message.chunk and not self._take_chunk(message, incoming):
            return
        self._reply_install(source, snapshot.index, incoming.received)

    def _take_chunk(self, message: InstallSnapshot, incoming: Incoming) -> bool:
        """The next piece, undamaged and with room for it? Then it goes to the journal."""
        snapshot, chunk = incoming.snapshot, message.chunk
        if message.offset < incoming.received:
            return False  # A repetition; the answer to the first one says more.
        end = message.offset + len(chunk)
        expected = checksum(snapshot.index, snapshot.term, snapshot.size, message.offset, chunk)
        if (
            message.offset > incoming.received
            or end > snapshot.size
            or message.checksum != expected
            or message.done is not (end == snapshot.size)
        ):
            self._reply_install(message.source, snapshot.index, 0, refused=True)
            return False
        waiting = self._undurable_chunk_bytes
        if waiting and waiting + len(chunk) > self.config.chunks_in_flight_bytes_max:
            return False  # I10: the leader asks again after a heartbeat.
        self._undurable_chunk_bytes += len(chunk)
        incoming.received = end
        self._chunks.append(
            SnapshotChunk(
                snapshot.index, snapshot.term, snapshot.size, message.offset, chunk, message.done
            )
        )
        return True

    def _reply_install(
        self, target: int, index: int, offset: int, *, done: bool = False, refused: bool = False
    ) -> None:
        reply = InstallSnapshotReply(self.id, target, self.term, index, offset, done, refused)
        self._send(reply, promises=not refused)

    def _restart_log(self, received: Received, *, keep_suffix: bool) -> None:
        """Let the log begin behind the snapshot, with what still belongs there behind it."""
        index = received.index
        behind = [known for known in self._configurations if known[0] > index and keep_suffix]
        self._configurations = [(index, received.membership), *behind]
        if keep_suffix:
            self.log.compact(index + 1)
            self._given_last = max(self._given_last, index)
            self._durable_last = max(self._durable_last, index)
            while self._unapplied and self._unapplied[0][0] <= index:
                self._unapplied_bytes -= self._unapplied.popleft()[1]
        else:
            self.log.restart(index, received.term, received.time_ns)
            self._given_last = self._durable_last = index
            self._truncate_from = None
            # Acknowledgements under way vouch for nothing behind the snapshot (see ready.py).
            for write in self._writes:
                write.last = min(write.last, index)
            self._unapplied.clear()
            self._unapplied_bytes = 0
        earlier = self._restart is None or self._restart.keep_suffix
        self._restart = Restart(index, received.term, keep_suffix and earlier)
        self._adopt_membership()

    # The membership.

    def _adopt_membership(self) -> None:
        """Whatever configuration is the latest in the log counts, from now on (§6)."""
        before = self.membership
        self.membership_index, self.membership = self._configurations[-1]
        membership = self.membership
        self._quorum = membership.quorum
        self._is_elector = self.id in membership.electors and self._damage is None
        self._is_alone = self._is_elector and len(membership.electors) == 1
        self._unsettled = bool(
            membership.outgoing or membership.joining or self.id not in membership.voters
        )
        if self.role is LEADER:
            self._meet_peers()
        if membership is not before and self._observer is not None:
            self._observe(Happening.MEMBERSHIP, first=self.membership_index)

    def _may_campaign(self) -> bool:
        """Is this replica a voter? Or was it, until a configuration that may not be committed yet?

        Thesis §4.2.2: a removed server "might still be needed to make progress". It may be the
        only one that holds C_new; those who still need its vote would not get it.
        """
        if self._is_elector or self._damage is not None:
            return self._is_elector
        undecided = self.membership_index > self.commit and len(self._configurations) > 1
        return undecided and self.id in self._configurations[-2][1].electors

    def _forget_configurations(self) -> None:
        """Keep the one that counts before the log's first entry, and all behind it."""
        first = self.log.first
        while len(self._configurations) > 1 and self._configurations[1][0] < first:
            del self._configurations[0]

    def _meet_peers(self) -> None:
        """The leader sends to every member. Who is none any more leaves in `_dismiss`."""
        for peer in sorted(self.membership.members - {self.id} - self._peers.keys()):
            self._peers[peer] = Progress(next=self.log.last + 1)

    def _append_configuration(self, membership: Membership) -> int:
        return self._append_own(CONFIGURATION, membership.encode(), self.log.last_time_ns)

    def _settle_membership(self) -> None:
        """What a leader owes to a configuration that is committed: the next step (§6)."""
        membership = self.membership
        started = self._term_start_index
        if not started or self.commit < max(started, self.membership_index):
            return
        if membership.outgoing:
            self._append_configuration(membership.left())
        elif self.id not in membership.voters:
            self._leave_office()
        elif membership.joining and not self._transfer_target:
            caught_up = {
                peer
                for peer in membership.joining
                if self._peers[peer].caught_up and not self._peers[peer].repairing
            }
            if caught_up:
                self._append_configuration(membership.promoted(frozenset(caught_up)))

    def _leave_office(self) -> None:
        """§6: the leader that is no member "steps down once it has committed the C_new entry".

        Its heartbeat tells the others that it is committed, and whoever has the whole log need
        not wait for a time-out (thesis §4.2.2).
        """
        self._broadcast_heartbeat()
        heir = self.heir()
        if heir and self._peers[heir].match == self.log.last:
            self._send(TimeoutNow(self.id, heir, self.term))
        self._become_follower(self.term, 0)

    def _dismiss(self) -> None:
        """Who was removed is sent the log until it knows that, or is not heard any more."""
        for peer in sorted(self._peers.keys() - self.membership.members):
            progress = self._peers[peer]
            told = self.commit >= self.membership_index and progress.match >= self.membership_index
            if told or not progress.is_heard(self.config.election_ticks):
                del self._peers[peer]

    # The leader.

    def _tick_leader(self) -> None:
        self._heartbeat_elapsed += 1
        self._election_elapsed += 1
        if self._election_elapsed >= self.config.election_ticks:
            self._election_elapsed = 0
            self._stop_transfer()
            active = {peer for peer, progress in self._peers.items() if progress.active}
            if not won(self._quorum, active | {self.id}):
                # Thesis §6.2: a leader that hears no majority must not go on as one.
                self._become_follower(self.term, 0)
                return
            for progress in self._peers.values():
                progress.active = False
        for progress in self._peers.values():
            progress.tick()
        for peer in self.membership.joining:
            self._peers[peer].tick_round(self.log.last, self.config.election_ticks)
        if self._heartbeat_elapsed >= self.config.heartbeat_ticks:
            self._heartbeat_elapsed = 0
            self._broadcast_heartbeat()
            self._dismiss()
        self._watch_own_disk()

    def _watch_own_disk(self) -> None:
        """Thesis §10.2.1 lets the others commit before this disk; logic here waits for it (I6).

        So a disk that hangs would hang every client, though a majority could serve them. One that
        keeps a committed entry waiting for long costs its replica the office (thesis §3.10).
        """
        if self._durable_last >= self._awaited:
            self._awaited, self._awaited_ticks = self.commit, 0
            return
        self._awaited_ticks += 1
        if self._awaited_ticks < OWN_DISK_TIMEOUTS * self.config.election_ticks:
            return
        self._awaited_ticks = 0
        heir = self.heir()
        if heir and self._peers[heir].match >= self._awaited and self._is_heard(heir):
            self.transfer(heir)

    def _is_heard(self, peer: int) -> bool:
        return self._peers[peer].is_heard(self.config.election_ticks)

    def _broadcast_heartbeat(self) -> None:
        for peer, progress in self._peers.items():
            commit = min(self.commit, progress.match)
            self._send(Heartbeat(self.id, peer, self.term, commit, self._round))

    def _hand_over(self) -> None:
        """Thesis §3.10: once the target has the whole log, it may campaign without waiting."""
        target = self._transfer_target
        if target and not self._transfer_sent and self._peers[target].match == self.log.last:
            self._transfer_sent = True
            self._send(TimeoutNow(self.id, target, self.term))

    def _stop_transfer(self) -> None:
        self._transfer_target = 0
        self._transfer_sent = False

    def _start_round(self) -> None:
        """One heartbeat round for all reads that came since the last one."""
        if self._reads and self._reads[-1].round > self._round:
            self._round += 1
            self._broadcast_heartbeat()

    def _append_own(self, kind: int, body: bytes, time_ns: int) -> int:
        assert time_ns >= self.log.last_time_ns, "log time never goes back"
        self._append((Entry(self.log.last + 1, self.term, time_ns, kind, body),))
        return self.log.last

    def _replicate(self, peer: int, progress: Progress) -> None:
        """Send what the peer lacks, as far as its window allows. Batches what has gathered."""
        config = self.config
        if progress.outgoing is not None:
            self._send_snapshot(peer, progress.outgoing.snapshot)
            return
        while progress.next <= self.log.last and progress.may_send(
            config.appends_in_flight_max, config.entries_in_flight_bytes_max
        ):
            if progress.next < self.log.first:
                progress.needs_snapshot(self._stored)
                if self._stored is not None:
                    self._send_snapshot(peer, self._stored)
                return
            entries = self.log.entries_upto(progress.next, config.append_bytes_max)
            far_behind = entries is None or entries[-1].index < self.log.last
            if progress.in_flight and progress.bulk is not far_behind:
                # The two flows may overtake each other: change over when nothing is unanswered.
                # A peer that once kept up stays on the ordinary flow while memory serves it.
                if progress.bulk or entries is None:
                    return
            else:
                progress.bulk = far_behind
            if entries is None:
                progress.fetching = True
                last = min(self.log.recent_first - 1, self.log.last)
                self._fetch.append(Fetch(peer, progress.next, last, config.append_bytes_max))
                return
            self._send_entries(peer, progress, entries)

    def _send_entries(self, peer: int, progress: Progress, entries: tuple[Entry, ...]) -> None:
        previous = progress.next - 1
        previous_term = self.log.term_at(previous)
        assert previous_term is not None, previous
        last = previous + len(entries)
        self._send(
            AppendEntries(
                self.id,
                peer,
                self.term,
                previous,
                previous_term,
                entries,
                self.commit,
                progress.bulk,
            )
        )
        progress.sent(last, sum(len(entry.body) for entry in entries))

    def _send_snapshot(self, peer: int, snapshot: Stored) -> None:
        """Ask the peer where it stands, or fetch the next piece for it."""
        outgoing = self._peers[peer].outgoing
        assert outgoing is not None
        config = self.config
        if outgoing.probing and not outgoing.probe_sent:
            outgoing.probe_sent = True
            self._send_chunk(peer, snapshot, 0, b"")
        elif outgoing.may_fetch(config.chunks_in_flight_bytes_max):
            outgoing.fetching = outgoing.next
            size = min(config.chunk_bytes_max, snapshot.size - outgoing.next)
            self._fetch_chunks.append(FetchChunk(peer, snapshot.index, outgoing.next, size))

    def _send_chunk(self, peer: int, snapshot: Stored, offset: int, chunk: bytes) -> None:
        index, term, size = snapshot.index, snapshot.term, snapshot.size
        done = offset + len(chunk) == size
        check = checksum(index, term, size, offset, chunk)
        self._send(
            InstallSnapshot(self.id, peer, self.term, index, term, size, offset, check, chunk, done)
        )

    def _on_append_entries_reply(self, message: AppendEntriesReply) -> None:
        progress = self._peers.get(message.source)
        if progress is None:
            return
        progress.spoke()
        counted = not progress.repairing
        progress.repairing = message.repairing
        if message.success:
            if message.index > self.log.last:
                raise ProtocolViolation(
                    f"Replica {message.source} acknowledges {message.index}, "
                    f"which its leader has not written."
                )
            if progress.accepted(message.index) or not counted:
                self._advance_commit()
            return
        retry = self.log.last_index_of_term_at_most(message.hint_term, message.hint_index)
        retry = min(retry, message.hint_index)
        if message.repairing:
            # Its log may end with entries that were replaced by what it has lost.
            progress.lost_down_to(retry)
        progress.refused(message.index, retry)

    def _on_heartbeat_reply(self, message: HeartbeatReply) -> None:
        progress = self._peers.get(message.source)
        if progress is None:
            return
        progress.spoke()
        progress.heard()
        progress.round = max(progress.round, message.round)
        if progress.state is ProgressState.SNAPSHOT:
            if progress.outgoing is None:
                self._ask_for_snapshot(message.source)
                progress.needs_snapshot(self._stored)
            return
        waits = progress.next > self.log.last or progress.bulk
        if (
            progress.match < progress.next - 1
            and waits
            and progress.next >= self.log.first
            and progress.may_send(
                self.config.appends_in_flight_max, self.config.entries_in_flight_bytes_max
            )
        ):
            # What has been sent was not all answered: ask where the peer stands.
            self._send_entries(message.source, progress, ())

    def _on_install_snapshot_reply(self, message: InstallSnapshotReply) -> None:
        progress = self._peers.get(message.source)
        if progress is None:
            return
        progress.spoke()
        outgoing = progress.outgoing
        if message.done:
            if message.last_index > self.log.last:
                raise ProtocolViolation(
                    f"Replica {message.source} has a snapshot of {message.last_index}, "
                    f"which its leader has not written."
                )
            if progress.accepted(message.last_index):
                self._advance_commit()
        elif outgoing is None or outgoing.snapshot.index != message.last_index:
            return
        elif message.refused:
            outgoing.refused()
        else:
            outgoing.answered(message.offset)

    def _ask_for_snapshot(self, peer: int) -> None:
        """Has the peer been given what the log goes on from? Its answer says so."""
        previous = self.log.first - 1
        previous_term = self.log.term_at(previous)
        assert previous_term is not None, previous
        self._send(
            AppendEntries(self.id, peer, self.term, previous, previous_term, (), self.commit)
        )

    def _advance_commit(self) -> None:
        """§5.3, §5.4.2: a majority holds it durably, and it is of this term."""
        index = self._durable_last
        if not self._is_alone:
            matches = {
                peer: progress.match
                for peer, progress in self._peers.items()
                if not progress.repairing
            }
            matches[self.id] = self._durable_last
            index = agreed(self._quorum, matches)
        if index > self.commit and self.log.term_at(index) == self.term:
            self.commit = index
            if self._observer is not None:
                self._observe(Happening.COMMIT)

    # The observer.

    def _observe(self, what: Happening, *, message: Message | None = None, first: int = 0) -> None:
        if self._observer is None:
            return
        self._observer.observed(
            Observation(
                what=what,
                id=self.id,
                term=self.term,
                voted_for=self.voted_for,
                role=self.role,
                commit=self.commit,
                last=self.log.last,
                durable=self._durable_last,
                membership=self.membership,
                message=message,
                first=first,
            )
        )


__all__ = ["Damage", "Raft", "Received"]
