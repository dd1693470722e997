"""`leftfold kill`: kill -9 of a replica of a cluster on this box, to see what happens."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..runtime.errors import OperatorError
from .cluster import DEFAULT_DIRECTORY, Layout
from .cluster import kill as kill_all
from .ranges import ReplicaId


def kill(
    replica: ReplicaId,
    /,
    *,
    directory: Annotated[Path, Parameter(name=["--dir", "-d"])] = DEFAULT_DIRECTORY,
) -> None:
    """Kill all five processes of a replica with -9. `leftfold up` starts it again after a while.

    Parameters
    ----------
    replica
        The replica's id.
    directory
        The cluster's directory.
    """
    if not kill_all(Layout.load(directory).place(replica)):
        raise OperatorError(f"Replica {replica} does not run.")
    print(f"Replica {replica} was killed.")
