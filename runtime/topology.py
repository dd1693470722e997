"""The processes of a replica and the rings between them: one table (I2), and who may wait on whom (I12).

`waits` says that the ring's producer may stop until its consumer makes room. Everywhere else a full ring is
an answer: the producer keeps what it has, reads less of its own input, or drops what Raft sends again. The
graph of `waits` is acyclic; a test proves it.
"""

import hashlib
from pathlib import Path

from attrs import frozen

from .config import TransportLimits

GATEWAY, CONSENSUS, JOURNAL, LOGIC = PROCESSES = ("gateway", "consensus", "journal", "logic")


@frozen
class RingRow:
    """One ring: its name, its only producer, its only consumer."""

    name: str
    producer: str
    consumer: str
    waits: bool
    carries: str

    def capacity_bytes(self, limits: TransportLimits) -> int:
        """The ring's size under these limits."""
        capacity: int = getattr(limits, f"{self.name}_bytes")
        return capacity


RINGS = (
    RingRow("ingress", GATEWAY, CONSENSUS, False, "commands, openings, queries, controls, drain"),
    RingRow("egress", LOGIC, GATEWAY, True, "replies, answers, events, drain"),
    RingRow("receive", GATEWAY, CONSENSUS, False, "Raft messages from peers"),
    RingRow("send", CONSENSUS, GATEWAY, False, "Raft messages, refusals, answers to controls"),
    RingRow("bulk_receive", GATEWAY, CONSENSUS, False, "snapshot chunks, catch-up entries"),
    RingRow("bulk_send", CONSENSUS, GATEWAY, False, "snapshot chunks, catch-up entries"),
    RingRow("persist", CONSENSUS, JOURNAL, False, "entries, hard state, truncation, requests"),
    RingRow("persisted", JOURNAL, CONSENSUS, True, "durable (term, index), snapshots, room"),
    RingRow("read", JOURNAL, CONSENSUS, True, "recovered state, entries asked for"),
    RingRow("apply", CONSENSUS, LOGIC, False, "committed entries, queries, skips, requests, drain"),
    RingRow("applied", LOGIC, CONSENSUS, True, "build, index, digest, next deadline"),
    RingRow("snapshot", LOGIC, JOURNAL, True, "that a child writes a snapshot, how it ended"),
    RingRow("restore", JOURNAL, LOGIC, False, "the content of a snapshot"),
)


def rings_of(process: str) -> tuple[list[RingRow], list[RingRow]]:
    """The rings that a process consumes, and those that it produces."""
    consumed = [ring for ring in RINGS if ring.consumer == process]
    produced = [ring for ring in RINGS if ring.producer == process]
    return consumed, produced


def segment_prefix(directory: Path) -> str:
    """The start of every shared memory name of a replica: no two directories share it."""
    digest = hashlib.blake2b(str(directory.resolve()).encode(), digest_size=6).hexdigest()
    return f"leftfold-{digest}-"


def segment_name(directory: Path, generation: int, ring: str) -> str:
    """The shared memory name of one ring (or of one doorbell) in one generation."""
    return f"/{segment_prefix(directory)}{generation}-{ring}"
