"""`leftfold up`: a whole cluster on this box in one command, and a live view of it.

What it shows it reads from the replicas' mapped figures, which costs them nothing. A replica that is killed is started again after
a while, so that `leftfold kill N` can be tried out as often as one likes. Ctrl-C drains and stops all; the data stays, and the next
`up` with the same directory goes on with it.
"""

import json as json_module
import sys
import time
from collections import deque
from pathlib import Path
from typing import Annotated, Any

from attrs import define, field
from cyclopts import Parameter
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..runtime.discovery import load_app
from ..runtime.errors import OperatorError
from .cluster import (
    CLUSTER_NAME,
    DEFAULT_DIRECTORY,
    ROLES,
    Layout,
    Members,
    figures,
    leader_of,
    pids_of,
)
from .paper import paper
from .ranges import Seconds, between
from .terminated import terminated_like_interrupted

SHOW_S = 0.25
LINES_SHOWN = 8


def up(
    app: str,
    /,
    *,
    replicas: Annotated[int, between(1, 9)] = 3,
    directory: Annotated[Path, Parameter(name=["--dir", "-d"])] = DEFAULT_DIRECTORY,
    port: Annotated[int, between(0, 65_435)] = 7700,  # Replicas use the port 100 above.
    restart_s: Seconds = 3.0,
    accept_build: bool = False,
    raft_trace: bool = False,
    json: bool = False,
) -> int:
    """Run a cluster of an app on this box, in the foreground, until Ctrl-C.

    Replica N listens on 127.0.0.(N+1). Try `leftfold kill N`, `pause N` and `transfer` meanwhile.

    Parameters
    ----------
    app
        The app as module:attribute. The module is looked for in the current directory first.
    replicas
        How many replicas a new cluster has; one that exists keeps its own.
    directory
        The cluster's data; made when it does not exist.
    port
        The port for clients, the same on each address; replicas use the port 100 above. 0 takes free ones.
    restart_s
        Start a replica that was killed again after so many seconds.
    accept_build
        Replay entries that another build of the app wrote and no snapshot covers.
    raft_trace
        Have each replica write each step of Raft into raft-trace.jsonl in its directory, all on one clock.
    json
        Print events and the state of all replicas as JSON lines on stdout.
    """
    load_app(app)
    if (directory / CLUSTER_NAME).exists():
        layout = Layout.load(directory)
        running = [str(id) for id, place in layout.places.items() if pids_of(place)]
        if running:
            raise OperatorError(
                f"The cluster in {directory} runs already, with replica {', '.join(running)}: look at it with "
                f"`leftfold members --dir {directory}`, or stop it first."
            )
        if layout.app != app:
            raise OperatorError(
                f"{directory} holds a cluster of {layout.app}, not of {app}: name its own app, or another directory."
            )
    else:
        layout = Layout.found(directory, app, replicas, port)
    arguments = ("--accept-build",) if accept_build else ()
    if raft_trace:
        arguments += ("--raft-trace", "raft-trace.jsonl")
    with (directory / "output.txt").open("ab") as errors, terminated_like_interrupted():
        return Running(Members(layout, arguments, errors), restart_s, as_json=json).run()


@define(eq=False)
class Running:
    """The replicas, and what is shown of them."""

    members: Members
    restart_s: float
    as_json: bool
    lines: deque[str] = field(factory=lambda: deque[str](maxlen=LINES_SHOWN), init=False)
    ended: dict[int, float] = field(factory=dict[int, float], init=False)
    """When a replica that was killed has ended."""
    failed: set[int] = field(factory=set[int], init=False)
    began_s: float = field(factory=time.monotonic, init=False)

    def run(self) -> int:
        """Until Ctrl-C, or until no replica runs any more."""
        layout = self.members.layout
        console = paper(soft_wrap=True)
        try:
            for id in layout.places:
                self.members.start(id)
            with Live(console=console, auto_refresh=False, transient=False) as live:
                self._watch(live if console.is_terminal and not self.as_json else None)
            return 1
        except KeyboardInterrupt:
            self._say(0, "Stopping all replicas.")
            codes = self.members.stop()
            self._say(0, "Stopped.")
            return max((code for code in codes if code > 0), default=0)
        finally:
            self.members.kill()

    def _watch(self, live: Live | None) -> None:
        due_s = 0.0
        while len(self.failed) < len(self.members.members):
            for id, event in self.members.wait(SHOW_S):
                self._heed(id, event)
            now_s = time.monotonic()
            for id, since_s in [*self.ended.items()]:
                if now_s - since_s >= self.restart_s:
                    del self.ended[id]
                    self._say(id, "is started again")
                    self.members.start(id)
            if now_s >= due_s:
                due_s = now_s + (SHOW_S if live is not None else 1.0)
                if live is not None:
                    live.update(show(self.members.layout, [*self.lines]), refresh=True)
                elif self.as_json:
                    print(json_module.dumps({"event": "state", **state(self.members.layout)}))
                    sys.stdout.flush()

    def _heed(self, id: int, event: dict[str, Any]) -> None:
        match event:
            case {"event": "ended", "code": int(code)}:
                if code < 0:
                    self.ended[id] = time.monotonic()
                    self._say(id, f"was ended by signal {-code}")
                else:
                    self.failed.add(id)
                    self._say(
                        id,
                        f"ended with code {code}: see {self.members.layout.directory}/output.txt",
                    )
            case {"event": "role", "role": role, "term": term, "leader": leader}:
                if role == "leader":
                    self._say(id, f"leads term {term}")
                elif not leader:
                    self._say(id, f"knows of no leader in term {term}")
            case {"event": "ready", "address": [host, port]}:
                self._say(id, f"is ready at {host}:{port}")
            case {"event": "warning" | "notice", "sentence": sentence}:
                self._say(id, sentence)
            case {"event": "accepted", "first": first, "last": last, "commands": count}:
                self._say(id, f"refuses or fails {count} of entries {first} to {last}, as accepted")
            case {"event": "died", "process": process, "status": status}:
                self._say(id, f"has lost its {process} process (status {status})")
            case _:
                pass

    def _say(self, id: int, text: str) -> None:
        if self.as_json:
            print(json_module.dumps({"event": "said", "replica": id, "text": text}), flush=True)
            return
        at_s = time.monotonic() - self.began_s
        line = f"{at_s:8.2f} s  replica {id}  {text}" if id else f"{at_s:8.2f} s  {text}"
        self.lines.append(line)
        if not sys.stdout.isatty():
            print(line, flush=True)


def state(layout: Layout) -> dict[str, Any]:
    """All replicas at this moment."""
    found = {id: figures(place) for id, place in layout.places.items()}
    alive = {id: bool(pids_of(place)) for id, place in layout.places.items()}
    commit = max((one.get("commit_index", 0) for one in found.values()), default=0)
    return {
        "leader": leader_of(layout),
        "commit": commit,
        "replicas": [
            {
                "id": id,
                "address": f"{layout.places[id].host}:{layout.places[id].port}",
                "alive": alive[id],
                "role": ROLES[one.get("role", 0)] if alive[id] else "dead",
                "term": one.get("term", 0),
                "commit": one.get("commit_index", 0),
                "applied": one.get("applied_index", 0),
                "lag": commit - one.get("applied_index", 0),
                "commands": one.get("commands", 0),
            }
            for id, one in found.items()
        ],
    }


def show(layout: Layout, lines: list[str]) -> Group:
    """The same as a person reads it."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("replica", "address", "role"):
        table.add_column(heading)
    for heading in ("term", "committed", "applied", "lag"):
        table.add_column(heading, justify="right")
    now = state(layout)
    for one in now["replicas"]:
        style = "bold" if one["role"] == "leader" else "dim" if not one["alive"] else ""
        numbers = (one["term"], one["commit"], one["applied"], one["lag"])
        table.add_row(
            str(one["id"]), one["address"], one["role"], *(f"{n:,}" for n in numbers), style=style
        )
    title = f"{layout.app} in {layout.directory}; Ctrl-C stops all"
    return Group(Text(title), table, Text("\n".join(lines)))
