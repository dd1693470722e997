"""`leftfold run`: one replica in the foreground, and what a person sees of it.

The supervisor does the work and tells of each step; here each step becomes a line, a progress bar
on a terminal, or a JSON object for a program. What there is to say about the replica's way to
readiness goes to stderr; the line that says that it is ready goes to stdout.
"""

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
from attrs import define, field
from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ..runtime.config import ReplicaConfig
from ..runtime.discovery import load_app
from ..runtime.supervisor import Observer, Supervisor, read_status
from ..shm import die_with_parent
from .place import parse_command

PLAIN_PROGRESS_S = 1.0
DEFAULT_DIRECTORY = Path("leftfold-data")


def run(
    app: str,
    /,
    *,
    directory: Annotated[Path, Parameter(name=["--dir", "-d"])] = DEFAULT_DIRECTORY,
    host: str = "127.0.0.1",
    port: int = 7700,
    skip: tuple[str, ...] = (),
    retry: bool = False,
    accept_clock_step: bool = False,
    handler_budget_ms: int = 1_000,
    drain_s: float = 10.0,
    json: bool = False,
    end_with: Annotated[int | None, Parameter(show=False)] = None,
) -> int:
    """Run a replica of an app, in the foreground, until Ctrl-C.

    Exit code 0: stopped. 1: a person must act; the sentence says how. 3: parked, because one
    command ended the logic process again and again.

    Parameters
    ----------
    app
        The app as module:attribute. The module is looked for in the current directory first.
    directory
        The replica's data; made when it does not exist.
    host
        The address to listen on.
    port
        The port to listen on; 0 takes a free one.
    skip
        Leave out the command at INDEX.ORDINAL, for ever: this goes into the log.
    retry
        Start a parked replica again, after its handler was mended.
    accept_clock_step
        Accept a wall clock that is far ahead of the log.
    handler_budget_ms
        Show the stack of a handler that runs for longer.
    drain_s
        How long to finish what was accepted when the replica is stopped.
    json
        Print each event as one JSON object on stdout.
    end_with
        The pid of the parent process; when it ends, so does the replica, at once.
    """
    if end_with is not None:
        die_with_parent(end_with)
    load_app(app)
    config = ReplicaConfig(
        directory=directory,
        app=app,
        app_directory=str(Path.cwd()),
        host=host,
        port=port,
        skip=tuple(parse_command(place) for place in skip),
        retry_parked=retry,
        accept_clock_step=accept_clock_step,
        handler_budget_ms=handler_budget_ms,
        drain_s=drain_s,
    )
    display = Display(directory)
    observer: Observer = _print_event if json else display.observe
    try:
        return Supervisor(config, observer).run()
    finally:
        display.end_progress()


def _print_event(event: str, facts: dict[str, Any]) -> None:
    sys.stdout.write(msgspec.json.encode({"event": event, **facts}).decode() + "\n")
    sys.stdout.flush()


@define
class Display:
    """What a person sees of a replica."""

    directory: Path
    errors: Console = field(factory=lambda: Console(stderr=True, highlight=False, soft_wrap=True))
    progress: Progress | None = field(default=None, init=False)
    task: TaskID | None = field(default=None, init=False)
    replay_began_s: float | None = field(default=None, init=False)
    replay_applied: int = field(default=0, init=False)
    last_plain_s: float = field(default=0.0, init=False)

    def observe(self, event: str, facts: dict[str, Any]) -> None:
        """Show one event of the supervisor."""
        if event == "replaying":
            self._replaying(facts["applied"], facts["last"])
            return
        self.end_progress()
        match event:
            case "starting":
                self.replay_began_s = None
                if facts["generation"] > 1:
                    self._say(f"Starting, generation {facts['generation']}.")
            case "ready":
                self._ready(facts)
            case "died":
                self._died(facts["process"], facts["status"])
            case "overrun":
                self._overrun(facts)
            case "draining":
                self._say("Draining: finishing what was accepted. Ctrl-C again stops at once.")
            case "stopped":
                self._say("Stopped.")
            case "warning":
                self._say(facts["sentence"])
            case "parked":
                self._say(facts["error"])
            case _:
                self._say(f"{event} {json.dumps(facts)}")

    def end_progress(self) -> None:
        """Take the progress bar away."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def _say(self, sentence: str) -> None:
        self.errors.print(sentence, markup=False)

    def _ready(self, facts: dict[str, Any]) -> None:
        host, port = facts["address"]
        pids = read_status(self.directory)["pids"]
        listed = ", ".join(f"{name} {pid}" for name, pid in pids.items())
        replayed = ""
        if self.replay_began_s is not None:
            seconds = time.monotonic() - self.replay_began_s
            replayed = f", after {seconds:.1f} s of replay"
        print(
            f"Ready on {host}:{port}, data in {self.directory}, "
            f"at index {facts['index']}{replayed} ({listed}).",
            flush=True,
        )

    def _died(self, process: str, status: int) -> None:
        how = f"was ended by signal {-status}" if status < 0 else f"ended with code {status}"
        self._say(f"The {process} process {how}; starting all four again from the log.")

    def _overrun(self, facts: dict[str, Any]) -> None:
        self._say(
            f"The handler at {facts['index']}.{facts['ordinal']} (message {facts['message']}) "
            f"runs for more than {facts['budget_ms']} ms; it is here:\n{facts['stack'].rstrip()}"
        )

    def _replaying(self, applied: int, last: int) -> None:
        now_s = time.monotonic()
        if self.replay_began_s is None:
            self.replay_began_s, self.replay_applied = now_s, applied
        elapsed_s = now_s - self.replay_began_s
        rate = (applied - self.replay_applied) / elapsed_s if elapsed_s > 0 else 0.0
        if not self.errors.is_terminal:
            if now_s - self.last_plain_s >= PLAIN_PROGRESS_S:
                self.last_plain_s = now_s
                self._say(f"Replaying: {applied} of {last} entries, {rate:.0f} entries/s.")
            return
        if self.progress is None:
            self.progress = Progress(
                TextColumn("Replaying"),
                BarColumn(),
                TextColumn("{task.completed:.0f} of {task.total:.0f}, {task.fields[rate]:.0f}/s"),
                TimeRemainingColumn(),
                console=self.errors,
                transient=True,
            )
            self.task = self.progress.add_task("replay", total=last, rate=0.0)
            self.progress.start()
        assert self.task is not None
        self.progress.update(self.task, completed=applied, total=last, rate=rate)
