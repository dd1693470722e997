"""The limits of a replica's transport, in one place, checked against each other (I10); and what a start was given.

Limits that change the state (windows, retention, timers) are replicated and live in `leftfold.actors.limits`.
The limits here may differ from start to start and from replica to replica.
"""

import json
from pathlib import Path
from typing import Any

import attrs
from attrs import field, frozen

from .errors import OperatorError
from .frames import TOKEN_BYTES_MAX
from .hosts import numeric_address

KIB = 1024
MIB = 1024 * KIB
NS_PER_S = 1_000_000_000
TOKENS_MAX = 8

SNAPSHOT_LOG_BYTES = 256 * MIB
"""A snapshot is due when the log behind the last one holds this much (see `snapshot_points`).

It bounds the time of a recovery and the size of the log, and costs one encoding of the state. Replay makes about 40 MB/s
of the ledger's commands, so that the tail of a recovery takes at most some seven seconds; two snapshots are kept, so that the
log holds at most about twice this. Half as much would halve both and double how often a second core is busy.
"""

MESSAGE_BYTES = 128
"""What a message of Raft takes besides its entries, rounded up."""

SLOT_SHARE = 8
"""A slot may fill an eighth of its ring; a ring's capacity follows from its largest slot."""


@frozen(kw_only=True)
class TransportLimits:
    """How large everything between the sockets and the actors may grow. Sizes are bytes."""

    frame_bytes_max: int = 64 * KIB
    entry_bytes_max: int = 256 * KIB
    ingress_bytes: int = 4 * MIB
    egress_bytes: int = 8 * MIB
    receive_bytes: int = 4 * MIB
    send_bytes: int = 4 * MIB
    bulk_receive_bytes: int = 4 * MIB
    bulk_send_bytes: int = 4 * MIB
    persist_bytes: int = 8 * MIB
    persisted_bytes: int = 64 * KIB
    read_bytes: int = 8 * MIB
    apply_bytes: int = 8 * MIB
    applied_bytes: int = 64 * KIB
    snapshot_bytes: int = 64 * KIB
    restore_bytes: int = 4 * MIB
    connections_max: int = 10_240
    sessions_routed_max: int = 262_144
    connection_output_bytes_max: int = 4 * MIB
    segment_bytes: int = 64 * MIB
    queries_waiting_bytes_max: int = 1 * MIB

    def __attrs_post_init__(self) -> None:
        entry = self.entry_bytes_max + 64
        for ring, slot_bytes in (
            ("ingress", self.frame_bytes_max),
            ("egress", self.frame_bytes_max),
            ("persist", entry),
            ("apply", entry),
            ("read", entry),
            ("receive", entry + MESSAGE_BYTES),
            ("send", entry + MESSAGE_BYTES),
            ("bulk_receive", entry + MESSAGE_BYTES),
            ("bulk_send", entry + MESSAGE_BYTES),
        ):
            capacity: int = getattr(self, f"{ring}_bytes")
            assert capacity & (capacity - 1) == 0, f"{ring}_bytes must be a power of two"
            assert slot_bytes * SLOT_SHARE <= capacity, (
                f"{ring}_bytes must be at least {SLOT_SHARE} x its largest slot ({slot_bytes})"
            )
        assert self.frame_bytes_max <= self.entry_bytes_max, "an entry must hold any frame"
        assert self.receive_bytes == self.bulk_receive_bytes, "a link takes what either ring takes"
        assert self.frame_bytes_max * 2 <= self.connection_output_bytes_max
        assert self.segment_bytes >= 4 * self.persist_bytes // 2

    @classmethod
    def smallest(cls) -> "TransportLimits":
        """The tightest rings that these limits allow: what the tests for I12 run with."""
        return cls(
            frame_bytes_max=1 * KIB,
            entry_bytes_max=2 * KIB,
            ingress_bytes=8 * KIB,
            egress_bytes=8 * KIB,
            receive_bytes=32 * KIB,
            send_bytes=32 * KIB,
            bulk_receive_bytes=32 * KIB,
            bulk_send_bytes=32 * KIB,
            persist_bytes=32 * KIB,
            persisted_bytes=4 * KIB,
            read_bytes=32 * KIB,
            apply_bytes=32 * KIB,
            applied_bytes=4 * KIB,
            snapshot_bytes=4 * KIB,
            restore_bytes=8 * KIB,
            connection_output_bytes_max=64 * KIB,
        )


@frozen(kw_only=True)
class ReplicaConfig:
    """What one start of a replica was asked for; the directory holds everything that must outlive it."""

    directory: Path = field(converter=Path)
    app: str
    app_directory: str = "."
    host: str = "127.0.0.1"
    port: int = 7700
    resp_host: str = "127.0.0.1"
    resp_port: int | None = None
    """Where clients that speak Redis's protocol are listened for; None: nowhere."""
    limits: TransportLimits = field(factory=TransportLimits)
    placement: str = ""
    """The name of a profile of placement.py; empty: the one that suits the machine."""
    handler_budget_ms: int = 1_000
    drain_s: float = 10.0
    skip: tuple[tuple[int, int], ...] = ()
    retry_parked: bool = False
    accept_clock_step: bool = False
    accept_build: bool = False
    snapshot_log_bytes: int = SNAPSHOT_LOG_BYTES
    snapshot_at_stop: bool = True
    snapshot_stop_s: float = 600.0
    disk_bytes_max: int = 0
    """What journal and snapshots may take together; 0: as much as the disk has."""
    disk_reserve_bytes: int | None = None
    """What must stay free on their file system; None: a share of it."""
    peer_address: str = ""
    """Where other replicas are listened for, host:port; empty: nowhere, so that nobody can ever join."""
    heartbeat_ms: int = 30
    election_ms: int = 240
    """A follower that has heard no leader for this long, and up to twice as long, asks for votes."""
    any_build: bool = False
    """Be linked with replicas that run another build of the app: while the cluster changes its build."""
    tls_certificate: str = ""
    tls_key: str = ""
    tls_authority: str = ""
    tokens: tuple[str, ...] = ()
    """A client must know one of these; none: anybody may ask."""
    insecure: bool = False
    """Without certificates on addresses that others can reach: the operator says that he knows."""
    raft_trace: str = ""
    """The file that Raft's steps are written to, as JSON lines; a relative name is in the directory. Empty: none."""
    clock_step_s_max: float = 30 * 24 * 3600.0
    wall_offset_s: float = 0.0
    """Added to every reading of the wall clock: how a test, or a rehearsal, moves time."""

    def __attrs_post_init__(self) -> None:
        if ":" not in self.app:
            raise OperatorError(
                f"{self.app!r} does not name an app: write module:attribute, "
                "for example leftfold.actors.ledger:app."
            )
        if self.snapshot_log_bytes < 1:
            raise OperatorError("A snapshot needs a log to shorten: choose more than 0 bytes.")
        if not 0 <= self.port <= 65535:
            raise OperatorError(f"Port {self.port} is out of range: choose 0 to 65535.")
        if not 0 <= (self.resp_port or 0) <= 65535:
            raise OperatorError(f"Port {self.resp_port} is out of range: choose 0 to 65535.")
        if self.peer_address:
            numeric_address(self.peer_address)
        require_tokens(self.tokens)
        files = (self.tls_certificate, self.tls_key, self.tls_authority)
        if any(files) and not all(files):
            raise OperatorError(
                "TLS needs three files: give --tls-certificate, --tls-key and --tls-authority."
            )
        if not 0 < 2 * self.heartbeat_ms <= self.election_ms:
            raise OperatorError(
                f"An election time-out of {self.election_ms} ms must hold at least two heartbeats of "
                f"{self.heartbeat_ms} ms: a single late one would depose the leader."
            )

    def to_json(self) -> str:
        """Encode for a child process."""
        return json.dumps(attrs.asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> "ReplicaConfig":
        """Decode what `to_json` encoded."""
        fields: dict[str, Any] = json.loads(text)
        fields["limits"] = TransportLimits(**fields["limits"])
        fields["tokens"] = tuple(fields["tokens"])
        fields["skip"] = tuple((index, ordinal) for index, ordinal in fields["skip"])
        return cls(**fields)


def require_tokens(tokens: tuple[str, ...]) -> None:
    """Raise OperatorError unless these can be what a client must know."""
    sizes = [len(token.encode()) for token in tokens]
    if len(sizes) > TOKENS_MAX or not all(0 < size <= TOKEN_BYTES_MAX for size in sizes):
        raise OperatorError(
            f"At most {TOKENS_MAX} tokens can be valid at a time, each of 1 to {TOKEN_BYTES_MAX} bytes."
        )
