"""`leftfold members`: who belongs to the cluster, and changing that."""

import json as json_module
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.table import Table

from ..runtime.errors import OperatorError
from ..runtime.slots import CONTROL_MEMBERS
from .asked import ask, candidates, find_leader
from .cluster import DEFAULT_DIRECTORY
from .paper import paper
from .ranges import Seconds

POLL_S = 0.1


def members(
    operation: Literal["list", "add", "promote", "remove"] = "list",
    what: str = "",
    /,
    *,
    directory: Annotated[Path, Parameter(name=["--dir", "-d"])] = DEFAULT_DIRECTORY,
    address: str | None = None,
    learner: bool = False,
    wait_s: Seconds = 60.0,
    json: bool = False,
) -> None:
    """List the members, or change them: `add HOST:PORT`, `promote ID`, `remove ID`.

    `leftfold join` adds a replica and starts it, in one step.

    Parameters
    ----------
    operation
        list, add, promote or remove.
    what
        Where the new member listens for replicas (add), or a member's id.
    directory
        The cluster's directory.
    address
        Ask the replica that serves clients at HOST:PORT instead.
    learner
        With add: it takes the log and counts nowhere, until it is promoted.
    wait_s
        How long to wait until the change is done.
    json
        Print one JSON object.
    """
    where = candidates(directory, address)
    leader, found = find_leader(where)
    if operation != "list":
        body: dict[str, Any] = {"operation": operation}
        if operation == "add":
            body |= {"address": what, "promote": not learner}
        elif what.isdecimal():
            body["id"] = int(what)
        else:
            raise OperatorError(
                f"{what!r} is no replica's id: write a number, as in `{operation} 3`."
            )
        begun = ask(leader, CONTROL_MEMBERS, **body)
        deadline = time.monotonic() + wait_s
        while not found["settled"] or found["commit"] < begun["index"]:
            if time.monotonic() > deadline:
                raise OperatorError(
                    f"The change has begun (entry {begun['index']}) and is not done: who joins must run and catch "
                    "up. `leftfold members` shows how far it is."
                )
            time.sleep(POLL_S)
            leader, found = find_leader(where)
    for one in found["members"]:
        if one["id"] == found["id"]:
            one["serves"] = one["serves"] or f"{leader[0]}:{leader[1]}"
    if json:
        print(json_module.dumps(found))
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("replica", "kind", "listens for replicas", "serves clients", "state"):
        table.add_column(heading)
    table.add_column("behind", justify="right")
    for one in found["members"]:
        leads = one["id"] == found["leader"]
        state = "leads" if leads else one["state"] if one["heard"] else "not heard"
        behind = "" if one["match"] is None else f"{found['last'] - one['match']:,}"
        table.add_row(str(one["id"]), one["kind"], one["address"], one["serves"], state, behind)
    console = paper()
    console.print(table)
    settled = "" if found["settled"] else "; a change is under way"
    console.print(f"term {found['term']}, committed {found['commit']:,}{settled}")
