"""What the core wants done: the only way out of it. And the contract of the shell that does it.

`Raft.ready()` returns one `Ready` with everything there is to do. Each is handed out once and must
be carried out whole; what it asks for is not repeated, and without another input there is none. Its
field names are invariant I4, "persist before promise":

    send_now             promises nothing that is not durable already: send, also while the disk works
    persist              hand to the journal; when it is durable, call Raft.persisted(sequence)
    send_after_persist   promises that had to wait for a persist; that persist has been reported
                         durable, so send them like the others

The core keeps a promise back until `persisted` covers it. A shell therefore cannot break I4 by
sending in the wrong order, only by calling `persisted` too early. (The two kinds of message stay
apart so that a test can hold each promise against the disk.)

Why `persisted` takes a sequence and not (term, index): an acknowledgement must say *which write*
is durable, not what it held. A vote alone moves no index. And a log can hold (1, 5), lose it to
(2, 5), and get (1, 5) again from the leader of term 3; the late acknowledgement of the first
(1, 5) would then vouch for the third write. So every `Persist` has a number, counted from 1
without gaps; the journal works in that order; `persisted(n)` covers 1 … n. Calling it once for
several (group commit) is fine.

The shell's contract
--------------------
**Start.** Hand over what the disk holds *and has synced*: the hard state; the log's bounds and table
of terms; `applied`, the index of the newest whole snapshot; as `configurations` that snapshot's
membership with its index, then every CONFIGURATION entry behind it, in order. A snapshot at (S, T)
whose term the log does not show at S replaces the log: it starts at S + 1. Then tell the core of
that snapshot with `snapshot_taken`.

**Messages.** Any may be lost, repeated, late. What `is_bulk` names goes out on a flow of its own per
peer; within each flow the order should be kept, between the two it need not.

**Snapshots of its own.** `snapshot_taken(Stored)` once a file is whole, checked and durable; then
`compacted(first)` when the journal lets go of all below `first`, which must not pass that
snapshot's index + 1 and should not pass `needed_from()`. A snapshot of index I carries
`membership_at(I)`.

**Snapshots from the leader.** Chunks come in `Persist.chunks`, in order; the one at offset 0 begins a
new file, whatever was there. After the chunk that is `done`, check the file; if it is whole and
under its final, durable name: `snapshot_received(…)`, else `snapshot_refused(index)`. If the core
then takes it, `Ready.restore` says so, before any `apply` of the same or a later Ready: logic forgets
its state and takes it from that file; then `applied(index)`. And `Persist.restart` tells the journal
where its log goes on. A crash between the two is covered by the rule at "Start".
For `Ready.fetch_chunks`, read the file and call `fetched_chunk`.

**Members.** `Ready.membership` is the configuration that counts from now on: whom to connect to, and
where. `change(…)` begins a change; all further entries of it come by themselves. A replica that
`membership` does not name any more, once commit has reached `membership_index`, is to be stopped.

**Damage.** A log with unreadable entries, with others behind them, is handed over up to the first of
those, with `Damage`. The journal keeps a durable note of the damage, and gives it again at every
start, until `Ready.repaired`.
"""

from attrs import define, frozen

from .membership import Membership
from .messages import Entry, HardState, Message


@frozen
class SnapshotChunk:
    """Bytes of a snapshot that is being received, to be written at `offset` of its file."""

    index: int
    term: int
    size: int
    offset: int
    chunk: bytes
    done: bool


@frozen
class Restart:
    """The journal's log goes on behind a snapshot of (index, term).

    Everything up to `index` goes, and without `keep_suffix` everything else too. Should the journal
    then hold nothing, it goes on at index + 1.
    """

    index: int
    term: int
    keep_suffix: bool


@define
class Persist:
    """One write for the journal: chunks, hard state, truncation, restart, entries, then a sync.

    It need not be atomic: a crash may keep any prefix of it, in this order or with the hard state
    last, since `hard_state.commit` only names what an earlier write made durable (I6).

    `truncate_from` is the first index to remove (with all after it); it comes before `restart`.
    `entries` follow what is left without a gap. `hard_state` is None when it did not change. At
    least one of all these is present.
    """

    sequence: int
    hard_state: HardState | None
    truncate_from: int | None
    entries: tuple[Entry, ...]
    restart: Restart | None = None
    chunks: tuple[SnapshotChunk, ...] = ()


@frozen
class Read:
    """The query batch `context` may run once everything up to `index` is applied.

    `index` has been handed out in `Ready.apply` of this Ready or an earlier one, so a shell that
    carries out `apply` before `reads` on one ring need not compare indexes.
    """

    context: int
    index: int


@frozen
class Fetch:
    """Entries for `peer` that are no longer in memory: read them, call Raft.fetched(...).

    Read from `first` on as many as `bytes_max` of bodies allow, but at least one; the rest is
    asked for again. All of them are durable, so the journal has them.
    """

    peer: int
    first: int
    last: int
    bytes_max: int


@frozen
class FetchChunk:
    """Bytes of this replica's snapshot of `index`, for `peer`: read them, call Raft.fetched_chunk(...).

    From `offset` on, at most `bytes_max` and at least one; none if the file is gone.
    """

    peer: int
    index: int
    offset: int
    bytes_max: int


@define
class Ready:
    """See the head of this file. NOTHING, the only empty one that `ready()` gives, is false.

    One is made for each batch, twice. So it is not frozen, which costs 1.5 µs; nobody changes it.
    """

    send_now: tuple[Message, ...] = ()
    persist: Persist | None = None
    send_after_persist: tuple[Message, ...] = ()
    # Committed and durable here: hand (first, last), inclusive, to logic, in order (I5).
    apply: tuple[int, int] | None = None
    reads: tuple[Read, ...] = ()
    fetch: tuple[Fetch, ...] = ()
    # Role, term or known leader differ from the Ready before.
    role_changed: bool = False
    # This replica leads and its term has no TERM_START yet: call Raft.start_term(time_ns).
    # Said in every Ready until it is done, so it cannot be missed.
    term_to_start: bool = False
    # Before `apply`: logic takes its state from the received snapshot of this index.
    restore: int | None = None
    fetch_chunks: tuple[FetchChunk, ...] = ()
    # The configuration that counts from now on, if it is another one.
    membership: Membership | None = None
    # What was damaged is there again: this replica counts. Remove the durable note.
    repaired: bool = False

    def __bool__(self) -> bool:
        return self is not NOTHING


NOTHING = Ready()
