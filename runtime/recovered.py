"""From what the disk holds and the operator asked for to what Raft starts from: its limits and times, and its log.

Raft's limits follow from those of the rings: what may be in flight to a peer fits that peer's `persist`, if it was started with the same
limits, and a piece of a snapshot fits every ring on its way.
"""

import os

from ..raft import Config, Damage, HardState, Log, Membership, Observer, Raft, Stored
from . import slots
from .config import SLOT_SHARE, ReplicaConfig
from .identity import Identity
from .peering import MESSAGE_FIXED_BYTES
from .transfer_slots import CHUNK_HEADER_BYTES

NS_PER_MS = 1_000_000
IN_FLIGHT_ENTRIES_MAX = 32_768
IN_FLIGHT_TO_PEER_BYTES = 2 * 1024 * 1024
RECENT_BYTES = 32 * 1024 * 1024
CHUNK_BYTES = 128 * 1024


def raft_config(config: ReplicaConfig, identity: Identity, tick_ns: int, *, last: int) -> Config:
    """For a replica whose log ends at `last`, and whose clock ticks so often."""
    limits = config.limits
    voters = frozenset(identity.founders) or frozenset({identity.replica_id})
    slot = min(limits.bulk_send_bytes, limits.persist_bytes, limits.read_bytes) // SLOT_SHARE
    unapplied = 2 * limits.apply_bytes
    in_flight = min(IN_FLIGHT_TO_PEER_BYTES, limits.persist_bytes // 4)
    chunk = min(CHUNK_BYTES, slot - CHUNK_HEADER_BYTES - MESSAGE_FIXED_BYTES)
    return Config(
        id=identity.replica_id,
        voters=frozenset() if identity.joining else voters,
        joining=identity.joining,
        heartbeat_ticks=max(1, config.heartbeat_ms * NS_PER_MS // tick_ns),
        election_ticks=max(2, config.election_ms * NS_PER_MS // tick_ns),
        seed=int.from_bytes(os.urandom(6), "little"),
        recent_bytes_max=max(RECENT_BYTES if config.peer_address else 0, unapplied),
        append_bytes_max=min(limits.entry_bytes_max, in_flight),
        entries_in_flight_bytes_max=in_flight,
        chunk_bytes_max=chunk,
        chunks_in_flight_bytes_max=4 * chunk,
        unapplied_bytes_max=unapplied,
        unapplied_entries_max=2 * IN_FLIGHT_ENTRIES_MAX + last,
        reads_max=limits.queries_waiting_bytes_max // slots.HEADER_BYTES,
    )


def log_of(recovered: slots.Recovered) -> Log:
    """The log, with the term of the entry before its first one."""
    boundaries = list(recovered.boundaries)
    if recovered.first > 1:
        if boundaries and boundaries[0][1] == recovered.origin_term:
            del boundaries[0]
        boundaries.insert(0, (recovered.first - 1, recovered.origin_term))
    return Log(
        recovered.first,
        recovered.last,
        recovered.last_term,
        boundaries,
        recovered.last_time_ns,
    )


def damage_of(recovered: slots.Recovered) -> Damage | None:
    """What the journal had lost behind its last entry, if it had."""
    if not recovered.damage_last:
        return None
    return Damage(recovered.last + 1, recovered.damage_last, recovered.damage_last_term)


def raft_of(
    recovered: slots.Recovered,
    config: ReplicaConfig,
    identity: Identity,
    tick_ns: int,
    observer: Observer | None,
) -> Raft:
    """Raft as it was when the disk was last synced, with the newest snapshot."""
    snapshot = recovered.snapshot_index
    configurations = [
        (index, Membership.decode(body))
        for index, body in recovered.configurations
        if index > snapshot
    ]
    if recovered.membership:
        configurations.insert(0, (snapshot, Membership.decode(recovered.membership)))
    raft = Raft(
        raft_config(config, identity, tick_ns, last=recovered.last),
        HardState(recovered.term, recovered.voted_for, recovered.commit),
        log_of(recovered),
        snapshot or recovered.first - 1,
        configurations=configurations,
        damage=damage_of(recovered),
        observer=observer,
    )
    if snapshot:
        stored = Stored(snapshot, recovered.snapshot_term, recovered.snapshot_file_bytes)
        raft.snapshot_taken(stored)
    return raft
