"""What Raft stores and what replicas say to each other, under the paper's names.

These are plain values: no behaviour, no encoding (runtime encodes them), and none inherits from
another; receivers match on the type. Indexes and terms start at 1; 0 means "none", and so does
replica id 0. Every message carries `source`, `target` and the sender's `term`.

Departures from the paper's figures, for the sake of disks, queries and repair:

* `Heartbeat` is a message of its own, so that it never waits behind entries or a disk. Its
  `round` counts batches of reads (§6.4 of the thesis); the reply returns it.
* A refused `AppendEntries` is answered with the index *and* the term where the follower's log
  may still agree, so that the leader steps back over a whole term at once (end of §5.3).
* `InstallSnapshot` with an empty chunk asks how much of the snapshot the follower has (transfer.py).
* A replica that is being repaired says so in its replies, and counts nowhere until it is done.

Two flows: `is_bulk` names the messages that may be long and many. A shell sends them on a
connection of their own per peer, in order among themselves, so that they delay no heartbeat.
"""

from typing import Final

from attrs import define, frozen

TERM_START: Final = 1
"""Kind of the entry that opens a leader's term (§8: "a no-op entry"); its body is the shell's."""

CONFIGURATION: Final = 4
"""Kind of the entry that changes the membership (§6); its body is `Membership.encode()`.

These two are the kinds that this package gives a meaning to; others are numbers that it carries."""


@define(unsafe_hash=True)
class Entry:
    """One position of the log. `body` is opaque; `time_ns` is the log time that it carries.

    One is made for each batch: not frozen, which costs 0.5 µs. Nobody changes it.
    """

    index: int
    term: int
    time_ns: int
    kind: int
    body: bytes


@define(unsafe_hash=True)
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
    """Entries that follow (prev_index, prev_term), and how far the leader has committed.

    `bulk`: the target is far behind, and this is part of its catching up. Means nothing to it.
    """

    source: int
    target: int
    term: int
    prev_index: int
    prev_term: int
    entries: tuple[Entry, ...]
    commit: int
    bulk: bool = False


@frozen
class AppendEntriesReply:
    """Success: all up to `index` equals the leader's log and is durable at `source` (I4).

    Otherwise `index` is the refused prev_index, and (`hint_index`, `hint_term`) the highest
    position of the follower's log that may still agree with the leader's.

    `repairing`: the source lost entries that it may have acknowledged before. The leader goes on
    sending, and does not count it.
    """

    source: int
    target: int
    term: int
    success: bool
    index: int
    hint_index: int = 0
    hint_term: int = 0
    repairing: bool = False


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
    """A piece of the snapshot that ends at (last_index, last_term) and has `size` bytes.

    `checksum` is transfer.checksum() of the piece. `done`: it is the last one. An empty piece that
    is not the last asks how much of this snapshot the target has.
    """

    source: int
    target: int
    term: int
    last_index: int
    last_term: int
    size: int
    offset: int
    checksum: int
    chunk: bytes
    done: bool


@frozen
class InstallSnapshotReply:
    """The source's snapshot of `last_index` is durable at the sender of this up to byte `offset`.

    `done`: the sender's log holds or continues all up to `last_index`. `refused`: a piece could not
    be used, being damaged or not the next one; `offset` then says nothing.
    """

    source: int
    target: int
    term: int
    last_index: int
    offset: int
    done: bool
    refused: bool = False


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


def is_bulk(message: Message) -> bool:
    """Does this message belong on the flow that must not delay heartbeats?"""
    return isinstance(message, InstallSnapshot) or (
        isinstance(message, AppendEntries) and message.bulk
    )
