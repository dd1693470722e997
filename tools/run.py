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

import attrs
import msgspec
from attrs import define, field, frozen
from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from ..actors.limits import Limits
from ..runtime.config import MIB, SNAPSHOT_LOG_BYTES, ReplicaConfig
from ..runtime.discovery import load_app
from ..runtime.errors import OperatorError
from ..runtime.hosts import numeric_address
from ..runtime.identity import IDENTITY_NAME, member_identity, open_identity
from ..runtime.listening import require_addresses
from ..runtime.quarantines import sentences
from ..runtime.supervisor import Observer, Supervisor, read_status
from ..shm import die_with_parent
from .place import parse_command
from .ranges import DAY_S, Pid, Port, ReplicaId, Seconds, between

PLAIN_PROGRESS_S = 1.0
GIB = 1024 * MIB
TIB = 1024 * GIB
DEFAULT_DIRECTORY = Path("leftfold-data")


def run(
    app: str,
    /,
    *,
    directory: Annotated[Path, Parameter(name=["--dir", "-d"])] = DEFAULT_DIRECTORY,
    host: str = "127.0.0.1",
    port: Port = 7700,
    resp: Port | None = None,
    skip: tuple[str, ...] = (),
    retry: bool = False,
    accept_clock_step: bool = False,
    accept_build: bool = False,
    old_sources: Path | None = None,
    placement: str = "",
    handler_budget_ms: Annotated[int, between(1, 1_000 * DAY_S)] = 1_000,
    drain_s: Seconds = 10.0,
    snapshot_log_mib: Annotated[float, between(0.001, TIB / MIB)] = SNAPSHOT_LOG_BYTES / MIB,
    snapshot_at_stop: Annotated[bool, Parameter(negative="--no-snapshot-at-stop")] = True,
    disk_max_gib: Annotated[float, between(0.25, TIB / GIB)] | None = None,
    peer_address: str = "",
    cluster: str = "",
    replica: ReplicaId = 1,
    member: tuple[str, ...] = (),
    any_build: bool = False,
    raft_trace: str = "",
    tls_certificate: str = "",
    tls_key: str = "",
    tls_authority: str = "",
    token: tuple[str, ...] = (),
    insecure_i_know: bool = False,
    json: bool = False,
    end_with: Pid = None,
    listed: Annotated[bool, Parameter(show=False, negative="--unlisted")] = True,
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
    resp
        A port, on this machine alone, for clients that speak Redis's protocol.
    skip
        Leave out the command at INDEX.ORDINAL, for ever: this goes into the log.
    retry
        Start a parked replica again, after its handler was mended.
    accept_clock_step
        Accept a wall clock that is far ahead of the log.
    accept_build
        Replay entries that another build of the app wrote and no snapshot covers; what this one answers differently
        is listed first, as far as that is known.
    old_sources
        With --accept-build: the directory with the sources of that other build, so that every answer is compared.
    placement
        Where the processes run: shared, spread or dedicated; default: what suits the number of cores.
    handler_budget_ms
        Show the stack of a handler that runs for longer.
    drain_s
        How long to finish what was accepted when the replica is stopped.
    snapshot_log_mib
        Take a snapshot when the log behind the last one holds this much.
    snapshot_at_stop
        Take one when the replica is stopped, so that the next start replays nothing.
    disk_max_gib
        How much journal and snapshots may take together, at least 0.25; default: what the disk has.
    peer_address
        Listen for other replicas here, HOST:PORT with a numeric host; without it there is one replica only.
    cluster
        A new cluster on several machines: 32 hex digits of your choice, the same on all, at each one's first start.
    replica
        This replica's id in that new cluster.
    member
        Its members, each as ID=HOST:PORT, where it listens for replicas; this one too.
    any_build
        Be linked with replicas that run another build of the app, while the cluster changes its build.
    raft_trace
        Write each step of Raft to this file as a JSON line; a relative name is in the replica's directory.
    tls_certificate
        PEM file: this replica's certificate, for replicas and clients.
    tls_key
        PEM file: its key.
    tls_authority
        PEM file: who signed the certificates of all replicas.
    token
        What a client must know; may be given several times, for a change.
    insecure_i_know
        Speak to other machines without certificates: anybody there can read and write.
    json
        Print each event as one JSON object on stdout.
    end_with
        The pid of the parent process; when it ends, so does the replica, at once.
    listed
        With --accept-build: list what is answered differently, unless the caller did.
    """
    if end_with is not None:
        die_with_parent(end_with)
    loaded = load_app(app)
    if old_sources is not None and not accept_build:
        raise OperatorError("--old-sources belongs to --accept-build: give that as well.")
    if accept_build and listed:
        from .accepted import say_what_differs

        say_what_differs(directory, app, loaded, old_sources, json=json)
    config = ReplicaConfig(
        directory=directory,
        app=app,
        app_directory=str(Path.cwd()),
        host=host,
        port=port,
        resp_port=resp,
        skip=tuple(parse_command(place) for place in skip),
        retry_parked=retry,
        accept_clock_step=accept_clock_step,
        accept_build=accept_build,
        placement=placement,
        handler_budget_ms=handler_budget_ms,
        drain_s=drain_s,
        snapshot_log_bytes=int(snapshot_log_mib * MIB),
        snapshot_at_stop=snapshot_at_stop,
        disk_bytes_max=int((disk_max_gib or 0) * GIB),
        peer_address=peer_address,
        any_build=any_build,
        raft_trace=raft_trace,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        tls_authority=tls_authority,
        tokens=token,
        insecure=insecure_i_know,
    )
    if member and not cluster:
        raise OperatorError(
            "--member names the replicas of a new cluster: give --cluster too, or leave it out."
        )
    if cluster:
        _found(config, cluster, replica, member)
    display = Display(directory)
    observer: Observer = _print_event if json else display.observe
    try:
        return Supervisor(config, observer).run()
    finally:
        display.end_progress()


def _found(config: ReplicaConfig, cluster: str, replica: int, member: tuple[str, ...]) -> None:
    """The first start of a replica of a new cluster: who it is, and who the others are."""
    founders: dict[int, str] = {}
    try:
        cluster_id = bytes.fromhex(cluster)
        for one in member:
            id, _, where = one.partition("=")
            founders[int(id)] = where
    except ValueError:
        cluster_id = b""
    for where in founders.values():
        numeric_address(where)
    if len(cluster_id) != 16 or founders.get(replica) != config.peer_address or replica < 1:
        raise OperatorError(
            "A new cluster needs --cluster with 32 hex digits, --replica ID, --peer-address HOST:PORT and one --member "
            "ID=HOST:PORT for each replica, this one among them with the same address."
        )
    if not (config.directory / IDENTITY_NAME).exists():
        require_addresses(config, founders.values())
    fresh = member_identity(
        config.app, replica, cluster_id, founders, limits=attrs.asdict(Limits())
    )
    found = open_identity(config.directory, config.app, fresh)
    if (found.cluster_id, found.replica_id) != (cluster_id, replica):
        raise OperatorError(
            f"{config.directory} holds replica {found.replica_id} of cluster {found.cluster_id.hex()}: name another "
            "directory, or leave out --cluster and start what is there."
        )


def _print_event(event: str, facts: dict[str, Any]) -> None:
    sys.stdout.write(msgspec.json.encode({"event": event, **facts}).decode() + "\n")
    sys.stdout.flush()


@frozen
class Progressing:
    """Something that a person waits for, and how its facts are said."""

    word: str
    done: str
    of: str
    unit: str
    size: int = 1

    def sentence(self, done: int, of: int, rate: float, left_s: float | None) -> str:
        """How far it is, how fast it goes and how long it will take, as far as that is known."""
        size = self.size
        total = f" of {of / size:.0f}" if of else ""
        pace = f", {rate / size:.0f} {self.unit}/s" if rate else ""
        left = "" if left_s is None else f", {left_s:.0f} s left"
        return f"{self.word}: {done / size:.0f}{total} {self.unit}{pace}{left}."


PROGRESS = {
    "restoring": Progressing("Restoring the snapshot", "bytes", "of", "MiB", MIB),
    "replaying": Progressing("Replaying", "applied", "last", "entries"),
    "snapshotting": Progressing("Writing the last snapshot", "bytes", "of", "MiB", MIB),
}


@define
class Display:
    """What a person sees of a replica."""

    directory: Path
    errors: Console = field(factory=lambda: Console(stderr=True, highlight=False, soft_wrap=True))
    progress: Progress | None = field(default=None, init=False)
    task: TaskID | None = field(default=None, init=False)
    shown: str = field(default="", init=False)
    """What the progress bar shows the progress of."""
    recovery_began_s: float | None = field(default=None, init=False)
    last_plain_s: float = field(default=0.0, init=False)

    def observe(self, event: str, facts: dict[str, Any]) -> None:
        """Show one event of the supervisor."""
        if event in PROGRESS:
            self._progress(event, facts)
            return
        self.end_progress()
        match event:
            case "starting":
                self.recovery_began_s = None
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
            case "snapshot":
                size, seconds = facts["bytes"] / MIB, facts["seconds"]
                self._say(f"Snapshot of entry {facts['index']}: {size:.1f} MiB in {seconds:.1f} s.")
            case "stopped":
                self._say("Stopped.")
            case "warning" | "notice":
                self._say(facts["sentence"])
            case "role":
                leader = f"replica {facts['leader']} leads" if facts["leader"] else "no leader"
                self._say(f"{facts['role'].capitalize()} in term {facts['term']}; {leader}.")
            case "quarantined":
                self._quarantined(facts)
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
        record = read_status(self.directory)
        listed = ", ".join(f"{name} {pid}" for name, pid in record["pids"].items())
        resp = (
            f", for clients of Redis on port {record['resp_port']}" if record["resp_port"] else ""
        )
        replayed = ""
        if self.recovery_began_s is not None:
            seconds = time.monotonic() - self.recovery_began_s
            replayed = f", after {seconds:.1f} s of recovery"
        print(
            f"Ready on {host}:{port}{resp}, data in {self.directory}, "
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
        if facts["replaying"]:
            self._say(
                "This is the replay, and nobody is served before it ends. If it never does: stop, mend the handler and "
                f"start again, or start with --skip {facts['index']}.{facts['ordinal']} to leave the command out."
            )

    def _quarantined(self, facts: dict[str, Any]) -> None:
        for sentence in sentences(facts, new=True):
            self._say(sentence)
        newest = facts["newest"][0]
        self._say(
            "They take no commands any more, and keep the state they were left in; all others go on. To look: leftfold replay "
            f"{self.directory} --to {newest['index']}.{newest['ordinal']} --pdb"
        )

    def _progress(self, event: str, facts: dict[str, Any]) -> None:
        """A bar on a terminal, or a line now and then."""
        now_s = time.monotonic()
        kind = PROGRESS[event]
        if event != "snapshotting" and self.recovery_began_s is None:
            self.recovery_began_s = now_s
        done, of, rate = facts[kind.done], facts.get(kind.of, 0), facts.get("rate", 0.0)
        left_s = facts.get("left_s")
        if not self.errors.is_terminal:
            if self.shown != event or now_s - self.last_plain_s >= PLAIN_PROGRESS_S:
                self.last_plain_s, self.shown = now_s, event
                self._say(kind.sentence(done, of, rate, left_s))
            return
        if self.progress is None or self.shown != event:
            self.end_progress()
            self.shown = event
            self.progress = Progress(
                TextColumn("{task.fields[sentence]}"),
                BarColumn(),
                console=self.errors,
                transient=True,
            )
            self.task = self.progress.add_task(kind.word, total=of or None, sentence="")
            self.progress.start()
        assert self.task is not None
        sentence = kind.sentence(done, of, rate, left_s)
        self.progress.update(self.task, completed=done, total=of or None, sentence=sentence)
