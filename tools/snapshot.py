"""`leftfold snapshot`: have a running replica write its state, and wait until that counts.

The replica goes on serving: a forked child writes. The snapshot counts when it was read back from
the disk and checked; until then the one before does, whatever happens.
"""

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from ..runtime.errors import OperatorError
from ..runtime.slots import CONTROL_SNAPSHOT, CONTROL_STATUS
from .inquiry import Inquiry, address_of, parse_address
from .progress import progress
from .status import take_sample

DEFAULT_DIRECTORY = Path("leftfold-data")
POLL_S = 0.05


def snapshot(
    *,
    directory: Annotated[Path, Parameter(name=["--dir", "-d"])] = DEFAULT_DIRECTORY,
    address: str | None = None,
    json: bool = False,
) -> None:
    """Have a running replica take a snapshot now, and wait until it is written and checked.

    Parameters
    ----------
    directory
        The directory of the replica that is asked.
    address
        Ask the replica that listens at HOST:PORT instead.
    json
        Print the outcome as one JSON object.
    """
    asked = parse_address(address) if address else address_of(directory)
    if asked is None:
        raise OperatorError(
            f"No replica runs in {directory}: start it, or name another one with --dir or "
            "--address."
        )
    with Inquiry(asked) as inquiry:
        outcome = take(inquiry, None if address else directory)
    if json:
        sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
        sys.stdout.buffer.flush()
    elif outcome["new"]:
        print(
            f"Snapshot of entry {outcome['index']}: {outcome['bytes']:,} bytes, "
            f"{outcome['seconds']:.2f} s."
        )
    else:
        print(
            f"There is a snapshot of entry {outcome['index']} already, and nothing was applied since."
        )


def take(inquiry: Inquiry, directory: Path | None) -> dict[str, Any]:
    """Ask for a snapshot and wait for it. Raises OperatorError where it does not come to be."""
    began_s = time.monotonic()
    before = _status(inquiry)
    begun: dict[str, Any] = msgspec.json.decode(inquiry.control(CONTROL_SNAPSHOT).body)
    index: int = begun["index"]
    expected: int = before["file_bytes"]
    with progress("writing", expected, "bytes") as advance:
        found = _status(inquiry)
        while found["index"] < index:
            if found["running"] != index:
                why = found["failure"] or "the replica has started again meanwhile"
                raise OperatorError(f"The snapshot of entry {index} failed: {why}.")
            advance(_written(directory))
            time.sleep(POLL_S)
            found = _status(inquiry)
    seconds = time.monotonic() - began_s
    return {
        "index": index,
        "bytes": found["file_bytes"],
        "seconds": round(seconds, 3),
        "new": begun["new"],
    }


def _status(inquiry: Inquiry) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(inquiry.control(CONTROL_STATUS).body)
    return found["snapshot"]


def _written(directory: Path | None) -> int:
    """How much of the file is there, as far as that can be seen from here."""
    roles = {} if directory is None else take_sample(directory).roles
    return roles["journal"].counters.get("snapshot_written_bytes", 0) if "journal" in roles else 0
