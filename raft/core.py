"""The Raft state machine: one replica's term, vote, log and commit index.

Pure: same configuration, same recovered state, same calls in the same order give the same
`Ready`s. No clock (time is `tick()`), no I/O, no randomness but the seed's. Section numbers are
those of the Raft paper, extended version; "thesis" is Ongaro's dissertation.

    in                                          out: ready() -> Ready
    tick()                    time passes       send_now, send_after_persist   to peers
    step(message)             a peer speaks     persist                        to the journal
    propose(kind, body, t)    a client asks     apply, reads                   to logic
    read_index(context)       a client queries  fetch                          to the journal
    persisted(sequence)       the journal did   term_to_start, role_changed    to the shell
    applied(index)            logic did
    fetched(peer, entries)    the journal read
    transfer(target)          the operator wants another leader

Inputs only change memory; all effects leave through `ready()`, which a shell calls after each
batch of inputs. What gathers between two calls leaves together: one write, one AppendEntries per
peer, one round of heartbeats for all queries.

Roles (figure 4 of the paper, with the pre-vote of §9.6 of the thesis):

                    times out               would win             wins
        FOLLOWER ─────────────► PRE_CANDIDATE ───────► CANDIDATE ───────► LEADER
            ▲                        │                     │                │
            └────────────────────────┴─────────────────────┴────────────────┘
              a leader or a higher term speaks; or a leader hears no quorum

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
  from its own journal, and logic never runs ahead of the disk beneath it.

Invariant: applied <= applying <= min(commit, durable) <= last (I6).
"""

import random
from collections import deque
from collections.abc import Iterable
from enum import Enum

from attrs import define, field, frozen

from .errors import ConfigurationError, ProtocolViolation, StateLost
from .log import Log
from .messages import (
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
from .progress import Progress, ProgressState
from .quorum import Quorum, agreed, lost, won
from .ready import NOTHING, Fetch, Persist, Read, Ready


class Role(Enum):
    """See the picture at the head of this file."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


def _frozen_ids(ids: Iterable[int]) -> frozenset[int]:
    return frozenset(ids)


@frozen(kw_only=True)
class Config:
    """One replica's place in the cluster, and its limits (I10). Times are in ticks.

    `seed` spreads election time-outs; give each start of each replica another one.
    """

    id: int
    voters: frozenset[int] = field(converter=_frozen_ids)
    learners: frozenset[int] = field(default=frozenset(), converter=_frozen_ids)
    election_ticks: int = 10
    heartbeat_ticks: int = 1
    seed: int = 0
    # Bodies kept in memory for slow peers and for logic. What is not durable yet is kept anyway,
    # and a follower takes no more entries while that alone exceeds the limit.
    recent_bytes_max: int = 64 << 20
    # One AppendEntries, and all unanswered ones of one peer.
    append_bytes_max: int = 1 << 20
    appends_in_flight_max: int = 64
    entries_in_flight_bytes_max: int = 8 << 20
    # The leader takes no proposal while more than this is not applied here.
    unapplied_entries_max: int = 4096
    unapplied_bytes_max: int = 16 << 20
    reads_max: int = 4096

    def __attrs_post_init__(self) -> None:
        limits = (
            self.recent_bytes_max,
            self.append_bytes_max,
            self.appends_in_flight_max,
            self.entries_in_flight_bytes_max,
            self.unapplied_entries_max,
            self.unapplied_bytes_max,
            self.reads_max,
        )
        members = self.voters | self.learners
        for wrong, sentence in (
            (not self.voters, "A cluster needs at least one voter."),
            (self.id not in members, f"Replica {self.id} is no member of {sorted(members)}."),
            (min(members, default=1) < 1, "Replica ids start at 1."),
            (bool(self.voters & self.learners), "A replica is a voter or a learner, not both."),
            (self.heartbeat_ticks < 1, "Heartbeats need at least one tick."),
            (
                self.election_ticks <= self.heartbeat_ticks,
                "The election time-out must be longer than the heartbeat's interval.",
            ),
            (min(limits) < 1, "Every limit is at least one."),
            (
                self.recent_bytes_max < self.unapplied_bytes_max,
                "Memory must hold at least what may be unapplied, or logic would read it back.",
            ),
        ):
            if wrong:
                raise ConfigurationError(sentence)


@define
class _Write:
    """A Persist that the journal has not confirmed. `last` falls if a later one truncates."""

    sequence: int
    hard_state: HardState
    last: int


@define
class _PendingRead:
    """A query batch: which index it must see, and which heartbeat round confirms it."""

    context: int
    index: int
    round: int


def _check_recovered(hard_state: HardState, log: Log, applied: int) -> None:
    if hard_state.commit > log.last or not log.first - 1 <= applied <= log.last:
        raise StateLost(
            f"Committed up to {hard_state.commit} and a snapshot at {applied}, "
            f"but the log is {log.first}…{log.last}: entries were lost."
        )


class Raft:
    """One replica. Not thread-safe, not re-entrant.

    `hard_state` and `log` are what the journal recovered *and has synced*. `applied` is the index
    of the snapshot that logic starts from.
    """

    def __init__(
        self, config: Config, hard_state: HardState, log: Log, applied: int | None = None
    ) -> None:
        applied = log.first - 1 if applied is None else applied
        _check_recovered(hard_state, log, applied)
        self.config = config
        self.log = log
        self.role = Role.FOLLOWER
        # A write that tore may have left entries of a term and not that term's hard state. What
        # the hard state would have said was promised to nobody, so the vote is free.
        torn = hard_state.term < log.last_term
        self.term = log.last_term if torn else hard_state.term
        self.voted_for = 0 if torn else hard_state.voted_for
        self.leader_id = 0
        self.commit = max(hard_state.commit, applied)
        self._quorum: Quorum = (config.voters,)
        self._random = random.Random(config.seed * 1_000_003 + config.id)

        self._votes: dict[int, bool] = {}
        self._election_elapsed = 0
        self._heartbeat_elapsed = 0
        self._election_timeout = self._draw_election_timeout()

        # Leadership.
        self._peers: dict[int, Progress] = {}
        self._term_start_index = 0
        self._transfer_target = 0
        self._transfer_sent = False
        self._reads: deque[_PendingRead] = deque()
        self._round = 0

        # Durability: what the journal has, what it has been given, what it has not been given.
        self._durable_hard_state = hard_state
        self._durable_last = log.last
        self._given_hard_state = hard_state
        self._given_last = log.last
        self._truncate_from: int | None = None
        self._sequence = 0
        self._persisted = 0
        self._writes: deque[_Write] = deque()

        # Logic: what it has applied, what it has been given, and the sizes in between.
        self._applied = applied
        self._applying = applied
        self._unapplied: deque[tuple[int, int]] = deque()
        self._unapplied_bytes = 0

        # Effects that wait for ready().
        self._send_now: list[Message] = []
        self._send_waiting: deque[tuple[int, Message]] = deque()
        self._fetch: list[Fetch] = []
        self._shown = (self.role, self.term, self.leader_id)

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

    # Inputs.

    def tick(self) -> None:
        """A fixed amount of time has passed."""
        if self.role is Role.LEADER:
            self._tick_leader()
            return
        if self.id not in self.config.voters:
            return
        if len(self.config.voters) == 1:
            if self.role is Role.FOLLOWER:
                self._campaign()
            return
        if self.role is Role.CANDIDATE and self._durable_hard_state.term < self.term:
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
            case InstallSnapshot() | InstallSnapshotReply():
                # Named in messages.py for the codec; no replica of this version sends them.
                raise ProtocolViolation(f"Replica {message.source} speaks a later version.")

    def start_term(self, time_ns: int, body: bytes = b"") -> int:
        """Append the new leader's first entry (§8), as Ready.term_to_start asks. Its index.

        No limit applies: without this entry nothing of earlier terms commits (§5.4.2). What the
        body says is the shell's own affair.
        """
        assert self.role is Role.LEADER and not self._term_start_index
        self._term_start_index = self._append_own(TERM_START, body, time_ns)
        return self._term_start_index

    def propose(self, kind: int, body: bytes, time_ns: int) -> int | None:
        """Append an entry, and return its index.

        None: not leader (yet), handing over to another leader, or too much unapplied.

        `time_ns` is log time and never goes back within a log; the shell sees to that.
        """
        assert kind != TERM_START, "start_term() is for that"
        if not self._term_start_index or self._transfer_target:
            return None
        if self.log.last - self._applied >= self.config.unapplied_entries_max:
            return None
        if self._unapplied_bytes + len(body) > self.config.unapplied_bytes_max and self._unapplied:
            return None
        return self._append_own(kind, body, time_ns)

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
        return True

    def transfer(self, target: int) -> bool:
        """Hand leadership to `target` (thesis §3.10). False: not leader, or it cannot take it.

        Proposals are refused until it has taken over, or an election time-out has passed; then
        this leader goes on as before.
        """
        if not self._term_start_index or target not in self.config.voters - {self.id}:
            return False
        self._stop_transfer()
        self._transfer_target = target
        self._election_elapsed = 0
        for progress in self._peers.values():
            progress.active = True  # The count of who is heard starts again with the timer.
        return True

    def persisted(self, sequence: int) -> None:
        """The journal has synced every Persist up to `sequence`. May cover several."""
        assert sequence <= self._sequence, (sequence, self._sequence)
        while self._writes and self._writes[0].sequence <= sequence:
            write = self._writes.popleft()
            self._persisted = write.sequence
            self._durable_hard_state = write.hard_state
            self._durable_last = max(self._durable_last, write.last)
        assert self._durable_last <= self.log.last
        if self.role is Role.CANDIDATE and self._durable_hard_state.term == self.term:
            self._count_vote(self.id, granted=True)
        elif self.role is Role.LEADER:
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
        if (
            entries
            and entries[0].index == progress.next
            and all(self.log.term_at(entry.index) == entry.term for entry in entries)
        ):
            self._send_entries(peer, progress, entries)

    # The output.

    def ready(self) -> Ready:
        """Everything to be done now, handed out once. See ready.py."""
        if self.role is Role.LEADER:
            self._start_round()
            for peer, progress in self._peers.items():
                self._replicate(peer, progress)
            self._hand_over()
        persist = self._take_persist()
        apply = self._take_apply()
        self.log.drop_bodies_over(self.config.recent_bytes_max, self._durable_last + 1)
        released = self._take_released() if self._send_waiting else ()
        reads = self._take_reads() if self._reads else ()
        shown = (self.role, self.term, self.leader_id)
        role_changed = shown != self._shown
        term_to_start = self.role is Role.LEADER and not self._term_start_index
        something = persist or apply or released or reads or role_changed or term_to_start
        if not (something or self._send_now or self._fetch):
            return NOTHING
        ready = Ready(
            send_now=tuple(self._send_now),
            persist=persist,
            send_after_persist=released,
            apply=apply,
            reads=reads,
            fetch=tuple(self._fetch),
            role_changed=role_changed,
            term_to_start=term_to_start,
        )
        self._shown = shown
        self._send_now.clear()
        self._fetch.clear()
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
        first = self._given_last + 1
        entries = self.log.entries(first, self.log.last) if first <= self.log.last else ()
        assert entries is not None, "what is not durable stays in memory"
        if not entries and self._truncate_from is None and not self._hard_state_changed():
            return None  # A higher commit index alone is no reason to write.
        # I6: the commit that goes to disk never passes what is on that disk already.
        hard_state = HardState(self.term, self.voted_for, min(self.commit, self._durable_last))
        self._sequence += 1
        persist = Persist(
            sequence=self._sequence,
            hard_state=hard_state if hard_state != self._given_hard_state else None,
            truncate_from=self._truncate_from,
            entries=entries,
        )
        self._given_hard_state = hard_state
        self._given_last = self.log.last
        self._truncate_from = None
        self._writes.append(_Write(self._sequence, hard_state, self.log.last))
        return persist

    def _take_apply(self) -> tuple[int, int] | None:
        last = min(self.commit, self._durable_last)
        if last <= self._applying:
            return None
        first, self._applying = self._applying + 1, last
        return first, last

    def _take_reads(self) -> tuple[Read, ...]:
        rounds = {peer: progress.round for peer, progress in self._peers.items()}
        confirmed = agreed(self._quorum, rounds | {self.id: self._round})
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
        return (given.term, given.voted_for) != (self.term, self.voted_for)

    def _send(self, message: Message, *, promises: bool = False) -> None:
        """Queue a message: for now, or for when all that this replica knows is durable."""
        if not promises and self._durable_hard_state.term == self.term:
            self._send_now.append(message)
            return
        unwritten = (
            self._hard_state_changed()
            or self._truncate_from is not None
            or self._given_last < self.log.last
        )
        self._send_waiting.append((self._sequence + unwritten, message))

    def _is_still_meant(self, message: Message) -> bool:
        """While a message waited for the disk, what it says may have become void.

        A promise of a past term is of no use to anybody. A candidate that found the leader of
        its term may since have removed entries that its request for votes boasts of.
        """
        if isinstance(message, RequestVote) and not message.pre_vote:
            return message.term == self.term and self.role is Role.CANDIDATE
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
            case AppendEntries() | Heartbeat():
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
            case _:
                pass

    def _become_follower(self, term: int, leader_id: int) -> None:
        assert term >= self.term
        if term > self.term:
            self.term = term
            self.voted_for = 0
        self.role = Role.FOLLOWER
        self.leader_id = leader_id
        self._reset_timers()
        self._peers.clear()
        self._reads.clear()
        self._fetch.clear()
        self._term_start_index = 0
        self._stop_transfer()

    def _pre_campaign(self) -> None:
        """§9.6 of the thesis: ask first, so that a replica that cannot win disturbs nobody."""
        self.role = Role.PRE_CANDIDATE
        self.leader_id = 0
        self._reset_timers()
        self._votes = {}
        for peer in sorted(self.config.voters - {self.id}):
            self._send(
                RequestVote(
                    self.id, peer, self.term + 1, self.log.last, self.log.last_term, pre_vote=True
                )
            )
        self._count_vote(self.id, granted=True)

    def _campaign(self, *, transfer: bool = False) -> None:
        """§5.2: increment the term, vote for oneself, ask all others."""
        self.role = Role.CANDIDATE
        self.leader_id = 0
        self.term += 1
        self.voted_for = self.id
        self._reset_timers()
        self._votes = {}
        for peer in sorted(self.config.voters - {self.id}):
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
            if self.role is Role.PRE_CANDIDATE:
                self._campaign()
            else:
                self._become_leader()
        elif lost(self._quorum, {v for v, yes in self._votes.items() if not yes}):
            self._become_follower(self.term, 0)

    def _become_leader(self) -> None:
        assert self.role is Role.CANDIDATE and self._durable_hard_state.term == self.term
        self.role = Role.LEADER
        self.leader_id = self.id
        self._reset_timers()
        self._round = 0
        members = self.config.voters | self.config.learners
        self._peers = {
            peer: Progress(next=self.log.last + 1) for peer in sorted(members - {self.id})
        }
        self._broadcast_heartbeat()

    def _reset_timers(self) -> None:
        self._election_elapsed = 0
        self._heartbeat_elapsed = 0
        self._election_timeout = self._draw_election_timeout()

    def _draw_election_timeout(self) -> int:
        """§5.2: randomised, so that split votes are rare."""
        return self.config.election_ticks + self._random.randrange(self.config.election_ticks)

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
        granted = free and self.log.is_up_to_date(message.last_index, message.last_term)
        reply_term = message.term if granted else self.term
        reply = RequestVoteReply(self.id, message.source, reply_term, granted, message.pre_vote)
        if granted and not message.pre_vote:
            self.voted_for = message.source
            self._reset_timers()
        self._send(reply, promises=granted and not message.pre_vote)

    def _on_request_vote_reply(self, message: RequestVoteReply) -> None:
        asked = Role.PRE_CANDIDATE if message.pre_vote else Role.CANDIDATE
        if self.role is asked:
            if message.granted and message.pre_vote and message.term != self.term + 1:
                return  # Granted for an earlier campaign.
            self._count_vote(message.source, granted=message.granted)

    def _on_timeout_now(self, message: TimeoutNow) -> None:
        """The leader hands over: campaign at once, and say that it is with its consent."""
        asked = self.role is Role.FOLLOWER and self.leader_id == message.source
        if asked and self.id in self.config.voters:
            self._campaign(transfer=True)

    # The follower's log.

    def _follow(self, message: AppendEntries | Heartbeat) -> None:
        """A message of this term's leader: follow it (§5.2)."""
        if self.role is Role.LEADER or self.leader_id not in (0, message.source):
            raise ProtocolViolation(
                f"Term {self.term} has two leaders, {self.leader_id} and {message.source}."
            )
        if self.role is not Role.FOLLOWER:
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
        if first <= self._given_last:
            self._truncate_from = min(first, self._truncate_from or first)
            self._given_last = first - 1
        # Acknowledgements under way no longer vouch for what was removed (see ready.py).
        self._durable_last = min(self._durable_last, first - 1)
        for write in self._writes:
            write.last = min(write.last, first - 1)
        while self._unapplied and self._unapplied[-1][0] >= first:
            self._unapplied_bytes -= self._unapplied.pop()[1]

    def _append(self, entries: tuple[Entry, ...]) -> None:
        self.log.append(entries)
        for entry in entries:
            self._unapplied.append((entry.index, len(entry.body)))
            self._unapplied_bytes += len(entry.body)

    def _reply_append(
        self, message: AppendEntries, *, success: bool, index: int, hint: int = 0
    ) -> None:
        hint_term = 0 if success else self.log.term_at(hint) or 0
        reply = AppendEntriesReply(
            self.id, message.source, self.term, success, index, hint, hint_term
        )
        self._send(reply, promises=success)

    def _on_heartbeat(self, message: Heartbeat) -> None:
        self._follow(message)
        self._commit_to(min(message.commit, self.log.last))
        self._send(HeartbeatReply(self.id, message.source, self.term, message.round))

    def _commit_to(self, index: int) -> None:
        assert index <= self.log.last
        self.commit = max(self.commit, index)

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
        if self._heartbeat_elapsed >= self.config.heartbeat_ticks:
            self._heartbeat_elapsed = 0
            self._broadcast_heartbeat()

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
        while progress.next <= self.log.last and progress.may_send(
            config.appends_in_flight_max, config.entries_in_flight_bytes_max
        ):
            if progress.next < self.log.first:
                progress.needs_snapshot()
                return
            entries = self.log.entries_upto(progress.next, config.append_bytes_max)
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
            AppendEntries(self.id, peer, self.term, previous, previous_term, entries, self.commit)
        )
        progress.sent(last, sum(len(entry.body) for entry in entries))

    def _on_append_entries_reply(self, message: AppendEntriesReply) -> None:
        progress = self._peers.get(message.source)
        if progress is None:
            return
        progress.active = True
        if message.success:
            if message.index > self.log.last:
                raise ProtocolViolation(
                    f"Replica {message.source} acknowledges {message.index}, "
                    f"which its leader has not written."
                )
            if progress.accepted(message.index):
                self._advance_commit()
            return
        retry = self.log.last_index_of_term_at_most(message.hint_term, message.hint_index)
        progress.refused(message.index, min(retry, message.hint_index))

    def _on_heartbeat_reply(self, message: HeartbeatReply) -> None:
        progress = self._peers.get(message.source)
        if progress is None:
            return
        progress.heard()
        progress.round = max(progress.round, message.round)
        if progress.state is ProgressState.SNAPSHOT:
            self._ask_for_snapshot(message.source)
        elif progress.match < self.log.last < progress.next and progress.may_send(
            self.config.appends_in_flight_max, self.config.entries_in_flight_bytes_max
        ):
            # Everything has been sent and not all of it was answered: ask where the peer stands.
            self._send_entries(message.source, progress, ())

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
        matches = {peer: progress.match for peer, progress in self._peers.items()}
        index = agreed(self._quorum, matches | {self.id: self._durable_last})
        if index > self.commit and self.log.term_at(index) == self.term:
            self.commit = index


__all__ = ["Config", "Raft", "Role"]
