"""`leftfold transfer`: have another replica lead."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..runtime.slots import CONTROL_TRANSFER
from .asked import ask, candidates, find_leader
from .cluster import DEFAULT_DIRECTORY
from .ranges import REPLICA_ID_MAX, between


def transfer(
    to: Annotated[int, between(0, REPLICA_ID_MAX)] = 0,
    /,
    *,
    directory: Annotated[Path, Parameter(name=["--dir", "-d"])] = DEFAULT_DIRECTORY,
    address: str | None = None,
) -> int:
    """Hand leadership to another replica; without an id, to the one that has the most of the log.

    Parameters
    ----------
    to
        The replica's id; default: the one that has the most of the log.
    directory
        The cluster's directory.
    address
        Ask the replica that serves clients at HOST:PORT instead.
    """
    where = candidates(directory, address)
    leader, before = find_leader(where)
    asked = ask(leader, CONTROL_TRANSFER, to=to)
    _, after = find_leader([one for one in where if one != leader] or where)
    if after["leader"] == before["leader"]:
        print(f"Replica {asked['to']} did not take over; replica {before['leader']} leads on.")
        return 1
    print(f"Replica {after['leader']} leads term {after['term']}.")
    return 0
