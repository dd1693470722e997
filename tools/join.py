"""`leftfold join`: start a new replica with an empty directory, and make it a member of a running cluster."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..runtime.config import ReplicaConfig
from ..runtime.errors import OperatorError
from ..runtime.hosts import numeric_address
from ..runtime.identity import IDENTITY_NAME, member_identity, open_identity
from ..runtime.listening import require_addresses
from ..runtime.slots import CONTROL_MEMBERS
from ..runtime.trust import Trust
from .asked import ask, find_leader
from .inquiry import parse_address
from .ranges import Pid, Port
from .run import run


def join(
    cluster: str,
    /,
    *,
    directory: Annotated[Path, Parameter(name=["--dir", "-d"])],
    peer_address: str,
    host: str = "",
    port: Port = 7700,
    tls_certificate: str = "",
    tls_key: str = "",
    tls_authority: str = "",
    token: tuple[str, ...] = (),
    insecure_i_know: bool = False,
    learner: bool = False,
    json: bool = False,
    end_with: Pid = None,
) -> int:
    """Start a new replica of a running cluster, in the foreground, until Ctrl-C. Later starts: `leftfold run`.

    It takes the next id that was never used, gets the state and the log from the leader, and counts as soon as it has caught
    up. A replica whose directory was lost joins in this way, after `leftfold members remove` of its old id.

    Parameters
    ----------
    cluster
        Where a member serves clients, HOST:PORT.
    directory
        The new replica's directory, empty or missing.
    peer_address
        Where it listens for the others, HOST:PORT with a numeric host.
    host
        The address to serve clients on; the peer address's by default.
    port
        The port to serve clients on.
    tls_certificate
        PEM file: this replica's certificate.
    tls_key
        PEM file: its key.
    tls_authority
        PEM file: who signed the certificates of all replicas.
    token
        What a client must know; may be given several times.
    insecure_i_know
        Speak to other machines without certificates.
    learner
        Take the log and count nowhere, until it is promoted.
    json
        Print each event as one JSON object on stdout.
    end_with
        The pid of the parent process; when it ends, so does the replica, at once.
    """
    if (directory / IDENTITY_NAME).exists():
        raise OperatorError(
            f"{directory} holds a replica already: start it with `leftfold run`, or name an empty directory."
        )
    _, (own_host, _) = numeric_address(peer_address)
    told = Trust.from_environment()
    trust = Trust(tls_authority or told.authority, token[0] if token else told.token)
    leader, found = find_leader([parse_address(cluster)], trust)
    others = {one["id"]: one["address"] for one in found["members"]}
    if not all(others.values()):
        raise OperatorError(
            "A member of that cluster listens for nobody: start it again with --peer-address."
        )
    config = ReplicaConfig(
        directory=directory,
        app=found["app"],
        host=host or own_host,
        port=port,
        peer_address=peer_address,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        tls_authority=tls_authority,
        tokens=token,
        insecure=insecure_i_know,
    )
    require_addresses(config, others.values())  # Before the cluster counts on it.
    begun = ask(
        leader,
        CONTROL_MEMBERS,
        trust=trust,
        operation="add",
        address=peer_address,
        promote=not learner,
    )
    identity = member_identity(
        found["app"],
        begun["id"],
        bytes.fromhex(found["cluster"]),
        others,
        limits=found["limits"],
        hash_seed=found["hash_seed"],
        joining=True,
    )
    open_identity(directory, found["app"], identity)
    return run(
        found["app"],
        directory=directory,
        host=host or own_host,
        port=port,
        peer_address=peer_address,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        tls_authority=tls_authority,
        token=token,
        insecure_i_know=insecure_i_know,
        json=json,
        end_with=end_with,
    )
