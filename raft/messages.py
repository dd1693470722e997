"""What Raft stores and what replicas say to each other, under the paper's names.

These are plain values: no behaviour, no encoding (runtime encodes them), and none inherits from
another; receivers match on the type. Indexes and terms start at 1; 0 means "none", and so does
replica id 0. Every message carries `source`, `target` and the sender's `term`.

Two departures from figure 2 of the paper, both for the sake of disks and queries:

* `Heartbeat` is a message of its own, so that it never waits behind entries or a disk. Its
  `round` counts batches of reads (§6.4 of the thesis); the reply returns it.
* A refused `AppendEntries` is answered with the index *and* the term where the follower's log
  may still agree, so that the leader steps back over a whole term at once (end of §5.3).
"""

from typing import Final

from attrs import frozen

TERM_START: Final = 1
"""Kind of the entry that opens a leader's term (§8: "a no-op entry"). The only kind that this
package gives a meaning to; the other kinds are numbers that it carries."""


@frozen
class Entry:
    """One position of the log. `body` is opaque; `time_ns` is the log time that it carries."""

    index: int
    term: int
    time_ns: int
    kind: int
    body: bytes


@frozen
class HardState:
    """What must survive a crash besides the log (figure 2, "persistent state").

    `commit` is not needed for safety. It is kept so that a restarted replica may apply what it
    knows to be committed before it hears from a leader. It never passes the entries that are on
    the same disk (I6).
    """

    term: int = 0
    voted_for: int = 0
    commit: int = 0


@frozen
class RequestVote:
    """A candidate asks for a vote in `term`, or with `pre_vote` whether it would get one.

    A pre-vote names the term that the candidate would campaign in, which is one above its own.
    `transfer` says that the leader itself asked for this election, so that the rule "do not
    disturb a leader that is heard" does not apply.
    """

    source: int
    target: int
    term: int
    last_index: int
    last_term: int
    pre_vote: bool = False
    transfer: bool = False


@frozen
class RequestVoteReply:
    """`term` is the term asked about if granted, the voter's own if refused."""

    source: int
    target: int
    term: int
    granted: bool
    pre_vote: bool = False


@frozen
class AppendEntries:
    """Entries that follow (prev_index, prev_term), and how far the leader has committed."""

    source: int
    target: int
    term: int
    prev_index: int
    prev_term: int
    entries: tuple[Entry, ...]
    commit: int


@frozen
class AppendEntriesReply:
    """Success: all up to `index` equals the leader's log and is durable at `source` (I4).

    Otherwise `index` is the refused prev_index, and (`hint_index`, `hint_term`) the highest
    position of the follower's log that may still agree with the leader's.
    """

    source: int
    target: int
    term: int
    success: bool
    index: int
    hint_index: int = 0
    hint_term: int = 0


@frozen
class Heartbeat:
    """The leader lives. `commit` is capped at what the target is known to hold."""

    source: int
    target: int
    term: int
    commit: int
    round: int = 0


@frozen
class HeartbeatReply:
    """The source follows this leader in this term, and did so after round `round` was sent."""

    source: int
    target: int
    term: int
    round: int = 0


@frozen
class InstallSnapshot:
    """A piece of the snapshot that ends at (last_index, last_term), from byte `offset` on."""

    source: int
    target: int
    term: int
    last_index: int
    last_term: int
    offset: int
    chunk: bytes
    done: bool


@frozen
class InstallSnapshotReply:
    """The target's snapshot of `last_index` is durable at `source` up to byte `offset`."""

    source: int
    target: int
    term: int
    last_index: int
    offset: int
    done: bool


@frozen
class TimeoutNow:
    """The leader asks the target to campaign at once (thesis §3.10)."""

    source: int
    target: int
    term: int


Message = (
    RequestVote
    | RequestVoteReply
    | AppendEntries
    | AppendEntriesReply
    | Heartbeat
    | HeartbeatReply
    | InstallSnapshot
    | InstallSnapshotReply
    | TimeoutNow
)
