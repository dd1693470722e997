"""What a core did while nothing changed in its term but numbers: entries, writes and what became of them.

A shell that does such a stretch itself (in C, say) tells the core afterwards, by one call in place of many: `Raft.stretch`. The
contract is that the core is then as it would be after these, in this order and any number:

    propose(kind, body, time_ns)     a kind that has no meaning here, taken in
    persisted(sequence), applied(index)
    step(message)                    an AppendEntriesReply that accepts, or a HeartbeatReply, of this term, from a peer
                                     that has been sent all, on the ordinary flow, and is not under repair
    read_index(context)              of one that leads alone, answered with the next ready()
    ready() until NOTHING            after each batch of them

from a moment at which `Raft.is_steady`. For a follower, from a moment at which `Raft.follows_steadily`, after these:

    step(AppendEntries)              of its leader, of this term, that begins where the log ends; what it holds is of this
                                     term and of kinds that have no meaning here
    step(Heartbeat)                  of its leader, of this term
    persisted(sequence), applied(index), ready() until NOTHING

A shell owes for such a stretch what ready.py says it owes for each `Ready`.
"""

from collections.abc import Mapping, Sequence

from attrs import Factory, define

from .messages import Entry


@define
class PeerStretch:
    """What became of one peer that has been sent all."""

    match: int
    next: int
    round: int
    in_flight: Sequence[tuple[int, int]]
    spoke: bool


@define
class Stretch:
    """See the head of this file. Each number is the one at the end."""

    entries: Sequence[Entry]
    """What came into the log."""
    sequence: int
    """Of the last write that was given out."""
    given_commit: int
    """The commit index that the last write, or one before it, brings to the disk."""
    persisted: int
    """The last write that is durable, with the log's end and the commit index that it brought."""
    durable: int
    durable_commit: int
    writes: Sequence[tuple[int, int, int]]
    """(sequence, log's end, commit index) of those that are not."""
    commit: int
    applying: int
    """The last index that was handed out in `Ready.apply`."""
    applied: int
    reads: int
    """How many calls of read_index there were in batches of their own."""
    replies: Sequence[tuple[int, int]] = ()
    """(sequence, index) of a follower's acknowledgements that wait for a write."""
    heard: bool = False
    """A follower's leader has spoken."""
    peers: Mapping[int, PeerStretch] = Factory(dict[int, PeerStretch])
    """A leader's, as far as they had been sent all when it began."""
