"""Raft as a value machine: inputs in, one `Ready` out, and no I/O in between.

core.py        the state machine: elections, replication, commit, reads, snapshots, members
ready.py       what it wants done, invariant I4 as field names, and what the shell owes it
config.py      one replica's place and limits      role.py    follower … leader
membership.py  who belongs to the cluster, and how that may change
log.py         which term each index has, and the recent bodies
progress.py    what a leader knows about one peer
transfer.py    a snapshot on its way to one peer
stretch.py     many steps in one, where a shell did them itself
quorum.py      majorities, as arithmetic
messages.py    entries, hard state, and what replicas say to each other
observer.py    what somebody who watches is told
errors.py      what ends a replica

The shell (leftfold.runtime's consensus process) owns the clock, the rings and this loop:

    raft = Raft(config, hard_state, Log(first, last, last_term, boundaries, last_time_ns),
                configurations=…)           # of the snapshot, and of the log behind it
    raft.snapshot_taken(Stored(index, term, size))
    while True:
        for what in wait_for_inputs():      # ticks, messages, clients, journal, logic
            what(raft)                      # raft.tick(), .step(m), .propose(…), .read_index(…),
                                            # .persisted(n), .applied(i), .fetched(peer, entries),
                                            # .snapshot_taken(s), .compacted(first), .change(c), …
        while ready := raft.ready():
            if ready.role_changed:          # outstanding reads are lost; tell clients who leads
                refuse_waiting_reads(raft.role, raft.leader_id)
            if ready.membership:            # whom to connect to; a stranger by now is to be stopped
                connect(ready.membership)
            send(ready.send_now)            # before the disk is done: the peers' disks work too
            journal.write(ready.persist)    # answers with persisted(sequence) once it is synced
            send(ready.send_after_persist)  # its persist has been reported: nothing to wait for
            journal.read(ready.fetch, ready.fetch_chunks)   # fetched(…), fetched_chunk(…)
            logic.restore(ready.restore)    # before what follows it
            logic.apply(ready.apply)        # raft.log.entries(first, last), or from the journal
            logic.query(ready.reads)
            if ready.term_to_start:
                raft.start_term(max(raft.log.last_time_ns, wall_clock_ns()))
"""

from .config import Config
from .core import OWN_DISK_TIMEOUTS, Damage, Raft, Received
from .errors import (
    ConfigurationError,
    ConfigurationUnreadable,
    ProtocolViolation,
    RaftError,
    StateLost,
)
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
    is_bulk,
)
from .observer import Happening, Observation, Observer
from .progress import Progress, ProgressState
from .quorum import majority
from .ready import NOTHING, Fetch, FetchChunk, Persist, Read, Ready, Restart, SnapshotChunk
from .role import Role
from .stretch import PeerStretch, Stretch
from .transfer import Stored

__all__ = [
    "CONFIGURATION",
    "NOTHING",
    "OWN_DISK_TIMEOUTS",
    "TERM_START",
    "AppendEntries",
    "AppendEntriesReply",
    "Change",
    "Config",
    "ConfigurationError",
    "ConfigurationUnreadable",
    "Damage",
    "Entry",
    "Fetch",
    "FetchChunk",
    "Happening",
    "HardState",
    "Heartbeat",
    "HeartbeatReply",
    "InstallSnapshot",
    "InstallSnapshotReply",
    "Log",
    "Membership",
    "Message",
    "Observation",
    "Observer",
    "PeerStretch",
    "Persist",
    "Progress",
    "ProgressState",
    "ProtocolViolation",
    "Raft",
    "RaftError",
    "Read",
    "Ready",
    "Received",
    "Refused",
    "RequestVote",
    "RequestVoteReply",
    "Restart",
    "Role",
    "SnapshotChunk",
    "StateLost",
    "Stored",
    "Stretch",
    "TimeoutNow",
    "is_bulk",
    "majority",
]
