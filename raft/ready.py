"""What the core wants done: the only way out of it.

`Raft.ready()` returns one `Ready`. Each is handed out once and must be carried out whole; what it
asks for is not repeated. Its field names are invariant I4, "persist before promise":

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
"""

from attrs import frozen

from .messages import Entry, HardState, Message


@frozen
class Persist:
    """One write for the journal: hard state, truncation, entries, then a sync.

    It need not be atomic: a crash may keep any prefix of it, in this order or with the hard state
    last, since `hard_state.commit` only names what an earlier write made durable (I6).

    `truncate_from` is the first index to remove (with all after it). `entries` follow what is
    left without a gap. `hard_state` is None when it did not change. At least one is present.
    """

    sequence: int
    hard_state: HardState | None
    truncate_from: int | None
    entries: tuple[Entry, ...]


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
class Ready:
    """See the head of this file. An empty Ready is false."""

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

    def __bool__(self) -> bool:
        return self is not NOTHING and self != NOTHING


NOTHING = Ready()
