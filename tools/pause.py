"""`leftfold pause`: stop a replica of a cluster on this box for a while, as a machine stalls, to see what happens."""

import signal
import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..runtime.errors import OperatorError
from .cluster import DEFAULT_DIRECTORY, Layout, send_signal
from .ranges import ReplicaId, Seconds


def pause(
    replica: ReplicaId,
    /,
    *,
    seconds: Seconds = 5.0,
    directory: Annotated[Path, Parameter(name=["--dir", "-d"])] = DEFAULT_DIRECTORY,
) -> None:
    """Stop all five processes of a replica (SIGSTOP), and let them go on after some seconds.

    Parameters
    ----------
    replica
        The replica's id.
    seconds
        For how long.
    directory
        The cluster's directory.
    """
    place = Layout.load(directory).place(replica)
    if not send_signal(place, signal.SIGSTOP):
        raise OperatorError(f"Replica {replica} does not run.")
    print(f"Replica {replica} is paused for {seconds:g} s.", flush=True)
    try:
        time.sleep(seconds)
    finally:
        send_signal(place, signal.SIGCONT)
    print(f"Replica {replica} goes on.")
