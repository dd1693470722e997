"""What each process counts and times, in the mapped file `counters` of the replica's directory."""

from collections import deque
from collections.abc import Mapping

from ..actors.layout import HANDLER_WORDS
from ..shm import Consumer, Counters, Histogram, Schema
from . import recording
from .topology import CONSENSUS, GATEWAY, JOURNAL, LOGIC, PROCESSES, rings_of
from .trail import Trail

HANDLERS_MAX = 512
"""How many handlers have a row of their own in logic's figures; those beyond share the last."""

COUNTED = (
    "connections",
    "sessions",
    "subscriptions",
    "output_bytes",
    "accepted",
    "closed",
    "errors",
    "slow_readers",
    "turned_away",
    "frames_in",
    "bytes_in",
    "frames_out",
    "bytes_out",
    "events_out",
    "unrouted",
)
"""The fields of gate.h's report that are published under the same names."""

COUNTED_OF_PEERS = (
    "peers_linked",
    "peer_messages_in",
    "peer_messages_out",
    "peer_dropped_in",
    "peer_dropped_out",
    "peer_refused",
    "bulk_pauses",
)
"""What `Peers.counts` gives."""

_SCHEMAS = {
    # latency_ns: from a command's arrival to its reply, sampled, one in flight a connection.
    GATEWAY: Schema(
        counters=(*COUNTED, *COUNTED_OF_PEERS, "tls_failed", "pauses", "turns"),
        histograms=("latency_ns",),
    ),
    CONSENSUS: Schema(
        counters=(
            *("commands", "refused", "entries", "commit_index", "applied_index", "term"),
            *("snapshot_index", "log_first_index", "role", "leader"),
        ),
        histograms=("sequenced_to_durable_ns", "sequenced_to_applied_ns", "entry_bytes"),
    ),
    JOURNAL: Schema(
        counters=(
            *("batches", "bytes", "syncs", "durable_index", "segments"),
            # What journal and snapshots take on disk; how much of the snapshot that is being written is there.
            *("disk_bytes", "snapshot_written_bytes"),
        ),
        histograms=("write_ns", "fsync_ns", "batch_bytes"),
    ),
    LOGIC: Schema(
        counters=("entries", "applied_index", "waits_for_space", "snapshots", "quarantined"),
        histograms=("apply_ns", "fork_ns"),
        words={"handlers": HANDLER_WORDS * HANDLERS_MAX},
    ),
}


def schema() -> dict[str, Schema]:
    """The figures of the four processes; each also shows how full the rings are that it reads."""
    return {
        process: recording.together(
            (
                _SCHEMAS[process],
                Schema(tuple(f"{ring.name}_used_bytes" for ring in rings_of(process)[0])),
                recording.schema_of(process),
            )
        )
        for process in PROCESSES
    }


def publish_fill(counters: Counters, consumers: Mapping[str, Consumer]) -> None:
    """Show how many bytes wait in each ring that a process reads; done now and then, not for every slot."""
    for name, ring in consumers.items():
        counters.counters[f"{name}_used_bytes"].set(ring.used())


def record_reached(
    waiting: "deque[tuple[int, int]] | deque[tuple[int, int, bytes, int]]",
    through: int,
    now_ns: int,
    histogram: Histogram,
) -> None:
    """Record how long the entries up to `through` took, of those that wait as (index, since when, …)."""
    trail = histogram if isinstance(histogram, Trail) else None
    while waiting and waiting[0][0] <= through:
        index, since_ns, *_ = waiting.popleft()
        histogram.record(now_ns - since_ns)
        if trail is not None:
            trail.note(index, since_ns, now_ns)
