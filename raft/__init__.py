"""Raft as a value machine: inputs in, one `Ready` out, and no I/O in between.

core.py      the state machine: elections, replication, commit, reads
ready.py     what it wants done; invariant I4 as field names
log.py       which term each index has, and the recent bodies
progress.py  what a leader knows about one peer
quorum.py    majorities, as arithmetic
messages.py  entries, hard state, and what replicas say to each other
errors.py    what ends a replica

The shell (leftfold.runtime's consensus process) owns the clock, the rings and this loop:

    raft = Raft(config, hard_state, Log(first, last, last_term, boundaries, last_time_ns))
    while True:
        for what in wait_for_inputs():      # ticks, messages, clients, journal, logic
            what(raft)                      # raft.tick(), .step(m), .propose(…), .read_index(…),
                                            # .persisted(n), .applied(i), .fetched(peer, entries)
        while ready := raft.ready():
            if ready.role_changed:          # outstanding reads are lost; tell clients who leads
                refuse_waiting_reads(raft.role, raft.leader_id)
            send(ready.send_now)            # before the disk is done: the peers' disks work too
            journal.write(ready.persist)    # answers with persisted(sequence) once it is synced
            send(ready.send_after_persist)  # its persist has been reported: nothing to wait for
            journal.read(ready.fetch)       # answers with fetched(peer, entries)
            logic.apply(ready.apply)        # raft.log.entries(first, last), or from the journal
            logic.query(ready.reads)
            if ready.term_to_start:
                raft.start_term(max(raft.log.last_time_ns, wall_clock_ns()))
"""

from .core import Config, Raft, Role
from .errors import ConfigurationError, ProtocolViolation, RaftError, StateLost
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
from .ready import Fetch, Persist, Read, Ready

__all__ = [
    "TERM_START",
    "AppendEntries",
    "AppendEntriesReply",
    "Config",
    "ConfigurationError",
    "Entry",
    "Fetch",
    "HardState",
    "Heartbeat",
    "HeartbeatReply",
    "InstallSnapshot",
    "InstallSnapshotReply",
    "Log",
    "Message",
    "Persist",
    "Progress",
    "ProgressState",
    "ProtocolViolation",
    "Raft",
    "RaftError",
    "Read",
    "Ready",
    "RequestVote",
    "RequestVoteReply",
    "Role",
    "StateLost",
    "TimeoutNow",
]
