"""Who a replica is: `identity.json` and `lock` in its directory.

The identity is written once, durably, before anything else is in the directory, and never changes:
cluster id, replica id, hash seed, replicated limits, app. A directory that holds something else is
not touched. A replica's directory without its identity is not given a new one, because votes and
log would then come back under another name. Nor is one that has begun a journal, and has none any more: `begun` says
that there was one.

The lock is held by the supervisor and inherited by its children: as long as one of the five lives,
nobody else starts in the directory.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs import field, frozen

from .clock import Clock
from .errors import DirectoryInUse, LostJournal, NewerFormat, NotAReplica, OperatorError
from .files import create_directory, write_new

FORMAT = 1
IDENTITY_NAME = "identity.json"
LOCK_NAME = "lock"
BEGUN_NAME = "begun"
LOCK_WAIT_S = 3.0
LOCK_POLL_S = 0.02
NS_PER_S = 1_000_000_000


@frozen(kw_only=True)
class Identity:
    """What a replica is from its first start to its last."""

    cluster_id: bytes
    replica_id: int
    hash_seed: int
    app: str
    limits: Mapping[str, int] = field(factory=dict[str, int])
    created_ns: int
    founders: Mapping[int, str] = field(factory=dict[int, str])
    """Where the members listen for replicas that the cluster began with, or had when this one joined; empty: it is alone."""
    joining: bool = False
    """It was no founder: who the members are, the log says."""

    def to_json(self) -> bytes:
        """The content of identity.json."""
        fields = attrs.asdict(self) | {"format": FORMAT, "cluster_id": self.cluster_id.hex()}
        return (json.dumps(fields, indent=2) + "\n").encode()

    @classmethod
    def from_json(cls, text: bytes) -> "Identity":
        """Decode. Raises KeyError, TypeError or ValueError for what `to_json` did not write."""
        fields: dict[str, Any] = json.loads(text)
        cluster_id = bytes.fromhex(fields["cluster_id"])
        if len(cluster_id) != 16:
            raise ValueError("a cluster id has 16 bytes")
        return cls(
            cluster_id=cluster_id,
            replica_id=int(fields["replica_id"]),
            hash_seed=int(fields["hash_seed"]),
            app=str(fields["app"]),
            limits={str(name): int(value) for name, value in fields["limits"].items()},
            created_ns=int(fields["created_ns"]),
            founders={int(id): str(where) for id, where in fields.get("founders", {}).items()},
            joining=bool(fields.get("joining", False)),
        )


def new_identity(
    app: str,
    *,
    replica_id: int = 1,
    cluster_id: bytes | None = None,
    limits: Mapping[str, int] | None = None,
) -> Identity:
    """An identity nobody had before; give `cluster_id` to join a cluster."""
    return Identity(
        cluster_id=cluster_id or os.urandom(16),
        replica_id=replica_id,
        hash_seed=int.from_bytes(os.urandom(4), "little"),
        app=app,
        limits=limits or {},
        created_ns=Clock().wall_ns(),
    )


def member_identity(
    app: str,
    replica_id: int,
    cluster_id: bytes,
    founders: Mapping[int, str],
    *,
    limits: Mapping[str, int],
    hash_seed: int | None = None,
    joining: bool = False,
) -> Identity:
    """The identity of one of several replicas: the hash seed and the limits are the cluster's, for all of them the same."""
    derived = int.from_bytes(hashlib.blake2b(cluster_id, digest_size=4).digest(), "little")
    return Identity(
        cluster_id=cluster_id,
        replica_id=replica_id,
        hash_seed=derived if hash_seed is None else hash_seed,
        app=app,
        limits=limits,
        created_ns=Clock().wall_ns(),
        founders=founders,
        joining=joining,
    )


def open_identity(directory: Path, app: str, fresh: Identity | None = None) -> Identity:
    """The identity of the replica in `directory`; an empty or missing directory becomes a replica
    for `app`.

    `fresh` is what a new directory is given instead of `new_identity(app)`.
    """
    try:
        create_directory(directory)
        found = _load(directory)
        if found is not None:
            return found
        _refuse_other_content(directory)
        identity = fresh or new_identity(app)
        if write_new(directory / IDENTITY_NAME, identity.to_json()):
            return identity
        return load_identity(
            directory
        )  # Another start was quicker; the lock decides between the two.
    except OSError as error:
        raise _unusable(directory, error) from error


def load_identity(directory: Path) -> Identity:
    """The identity of an existing replica. Raises OperatorError when there is none."""
    try:
        found = _load(directory)
    except OSError as error:
        raise _unusable(directory, error) from error
    if found is None:
        raise NotAReplica(
            f"{directory} is not the directory of a replica: it has no {IDENTITY_NAME}. "
            "Name the directory that `leftfold run` was given."
        )
    return found


def refuse_lost_journal(directory: Path, segments: int) -> None:
    """A replica that may have voted does not start with an empty log. Raises LostJournal."""
    if not segments and (directory / BEGUN_NAME).exists():
        raise LostJournal(
            f"{directory} holds no journal any more: the replica's term and vote are lost, and with them whatever it "
            "acknowledged. Put the journal back, or remove this replica from the cluster and let one with an empty "
            "directory join under a new id."
        )


def mark_begun(directory: Path) -> None:
    """The journal is there, durably; called before anything is promised on it. Raises OperatorError."""
    path = directory / BEGUN_NAME
    try:
        if not path.exists():
            write_new(path, b"This replica has begun its journal, and does not start without it.\n")
    except OSError as error:
        raise _unusable(directory, error) from error


def _load(directory: Path) -> Identity | None:
    path = directory / IDENTITY_NAME
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        version = int(json.loads(text)["format"])
        if version <= FORMAT:
            return Identity.from_json(text)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotAReplica(
            f"{path} cannot be read as the identity of a replica ({error}). "
            "Restore it from a copy of the directory; do not make a new one."
        ) from error
    raise NewerFormat(
        f"{path} has format {version}, which this leftfold is too old to read. "
        "Start it with the version that wrote it, or a later one."
    )


def _refuse_other_content(directory: Path) -> None:
    ours = {LOCK_NAME}
    names = sorted(path.name for path in directory.iterdir())
    if "journal" in names:
        raise NotAReplica(
            f"{directory} has a journal but no {IDENTITY_NAME}: the replica has lost its identity. "
            f"Restore {IDENTITY_NAME} from a copy; "
            "a new one would forget the votes given under the old."
        )
    foreign = [name for name in names if name not in ours and not name.endswith(".tmp")]
    if foreign:
        raise NotAReplica(
            f"{directory} is not the directory of a replica, and not empty: it has {foreign[0]}. "
            "Choose another directory, or an empty one."
        )


def _unusable(directory: Path, error: OSError) -> OperatorError:
    return OperatorError(
        f"Cannot use {directory}: {error.strerror} ({error.filename}). "
        "Choose a directory that this user can read and write."
    )


def lock_directory(directory: Path, wait_s: float = LOCK_WAIT_S) -> int:
    """Lock a replica's directory, waiting a little for a predecessor that is about to end.

    The descriptor is inheritable; the lock lasts until every process that has it is gone or has
    closed it. Raises DirectoryInUse.
    """
    path = directory / LOCK_NAME
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _unusable(directory, error) from error
    clock = Clock()
    deadline_ns = clock.monotonic_ns() + int(wait_s * NS_PER_S)
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if clock.monotonic_ns() >= deadline_ns:
                holder = os.pread(file, 32, 0).decode(errors="replace").strip() or "unknown"
                os.close(file)
                raise DirectoryInUse(
                    f"{directory} is in use by pid {holder}. Stop that replica first, "
                    "or choose another directory."
                ) from None
            time.sleep(LOCK_POLL_S)
    os.ftruncate(file, 0)
    os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
    os.set_inheritable(file, True)
    return file
