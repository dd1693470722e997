"""A cluster on this box: its directory, its replicas' places, and the processes that run them.

    DIRECTORY/cluster.json      the app, the cluster's id, and for each replica where it listens
    DIRECTORY/replica-N/        the directory of replica N, as `leftfold run` has it

Each replica has a loopback address of its own, 127.0.0.2 for the first, so that one can be told from the other by its address. The
replicas run as children, `leftfold run --json`, and end with whoever started them.
"""

import contextlib
import errno
import json
import os
import random
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import attrs
from attrs import define, field, frozen

from ..actors.limits import Limits
from ..runtime.errors import OperatorError
from ..runtime.hosts import numeric_address
from ..runtime.identity import member_identity, open_identity
from ..runtime.listening import require_address
from ..runtime.supervisor import read_status
from ..shm import Counters, ShmError
from .status import is_leftfold

DEFAULT_DIRECTORY = Path("leftfold-cluster")
CLUSTER_NAME = "cluster.json"
REPLICAS_MAX = 9
GONE_S = 30.0
PORT_MIN = 10_000
EPHEMERAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
POLL_S = 0.01
ROLES = ("follower", "pre-candidate", "candidate", "leader")
"""As consensus counts them."""


@frozen
class Place:
    """Where one replica is."""

    id: int
    directory: Path
    host: str
    port: int
    peer_address: str


@frozen
class Layout:
    """What `cluster.json` says."""

    directory: Path
    app: str
    cluster_id: bytes
    places: dict[int, Place]

    @classmethod
    def load(cls, directory: Path) -> "Layout":
        """Read it. Raises OperatorError where there is no cluster."""
        try:
            fields = json.loads((directory / CLUSTER_NAME).read_text())
        except FileNotFoundError:
            raise OperatorError(
                f"{directory} holds no cluster: start one there with `leftfold up`, or name another one with --dir."
            ) from None
        except (OSError, ValueError) as error:
            raise OperatorError(f"Cannot read {directory / CLUSTER_NAME}: {error}.") from None
        places = {
            int(id): Place(
                int(id),
                directory / f"replica-{id}",
                str(place["host"]),
                int(place["port"]),
                str(place["peer_address"]),
            )
            for id, place in fields["replicas"].items()
        }
        return cls(directory, str(fields["app"]), bytes.fromhex(fields["cluster"]), places)

    def save(self) -> None:
        """Write it, replacing the one before at once."""
        fields = {
            "app": self.app,
            "cluster": self.cluster_id.hex(),
            "replicas": {
                id: {"host": place.host, "port": place.port, "peer_address": place.peer_address}
                for id, place in self.places.items()
            },
        }
        path = self.directory / CLUSTER_NAME
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(fields, indent=2) + "\n")
        temporary.replace(path)

    @classmethod
    def found(cls, directory: Path, app: str, count: int, port: int) -> "Layout":
        """A new cluster of so many replicas; port 0 takes free ones. Raises OperatorError."""
        if not 1 <= count <= REPLICAS_MAX:
            raise OperatorError(f"A cluster on one box has 1 to {REPLICAS_MAX} replicas.")
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise OperatorError(
                f"{directory} is no cluster, and not empty: choose another directory with --dir."
            )
        layout = cls(directory, app, os.urandom(16), {})
        for id in range(1, count + 1):
            place = layout.add(id, port)
            for address in (f"{place.host}:{place.port}", place.peer_address):
                require_address(*numeric_address(address)[1])
        directory.mkdir(parents=True, exist_ok=True)
        founders = {id: place.peer_address for id, place in layout.places.items()}
        for id, place in layout.places.items():
            identity = member_identity(
                app, id, layout.cluster_id, founders, limits=attrs.asdict(Limits())
            )
            open_identity(place.directory, app, identity)
        layout.save()
        return layout

    def add(self, id: int, port: int) -> Place:
        """A place for one more replica."""
        host = f"127.0.0.{id + 1}"
        serve, peer = (port, port + 100) if port else free_ports(host, 2)
        place = Place(id, self.directory / f"replica-{id}", host, serve, f"{host}:{peer}")
        self.places[id] = place
        return place

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where clients connect to."""
        return [(place.host, place.port) for place in self.places.values()]

    def place(self, id: int) -> Place:
        """One replica's. Raises OperatorError."""
        if id not in self.places:
            known = ", ".join(map(str, self.places))
            raise OperatorError(f"There is no replica {id} in {self.directory}: it has {known}.")
        return self.places[id]


def free_ports(host: str, count: int) -> list[int]:
    """Ports that are free now, and that the kernel gives to no outgoing connection before they are used.

    Raises OSError if the host is none of this machine.
    """
    above = int(EPHEMERAL_PORTS.read_text().split()[0])
    ports = random.SystemRandom().sample(range(PORT_MIN, max(above, PORT_MIN + count)), count)
    with contextlib.ExitStack() as held:
        for port in ports:
            taken = held.enter_context(socket.socket())
            try:
                taken.bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                return free_ports(host, count)
    return ports


def pids_of(place: Place) -> list[int]:
    """The processes of a replica that run, the supervisor first; empty if it does not run."""
    try:
        pids: list[int] = list(read_status(place.directory)["pids"].values())
    except OperatorError:
        return []
    return [pid for pid in pids if is_leftfold(pid)]


def send_signal(place: Place, number: int) -> int:
    """To all five; how many there were."""
    pids = pids_of(place)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    return len(pids)


def kill(place: Place) -> int:
    """kill -9 of all five; returns how many there were, when all are gone."""
    pids = pids_of(place)
    send_signal(place, signal.SIGKILL)
    deadline = time.monotonic() + GONE_S
    while any(_runs(pid) for pid in pids):
        if time.monotonic() > deadline:
            raise OperatorError(f"Processes of replica {place.id} do not end: {pids}.")
        time.sleep(POLL_S)
    return len(pids)


def _runs(pid: int) -> bool:
    """Whether it lives; a zombie is whose child it was to bury."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def figures(place: Place) -> dict[str, int]:
    """What consensus shows of itself, in the mapped file; empty if nothing is there."""
    try:
        return dict(Counters.read(place.directory / "counters")["consensus"].counters)
    except (OSError, ShmError, KeyError):
        return {}


def leader_of(layout: Layout) -> int:
    """Who leads the highest term, of those that run; 0 if nobody does."""
    running = {id: figures(place) for id, place in layout.places.items() if pids_of(place)}
    newest = max((found.get("term", 0) for found in running.values()), default=0)
    for id, found in running.items():
        if found.get("role") == len(ROLES) - 1 and found["term"] == newest:
            return id
    return 0


@define(eq=False)
class Member:
    """One replica as a child process."""

    app: str
    place: Place
    arguments: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    buffer: bytes = field(default=b"", init=False)
    ready: bool = field(default=False, init=False)
    ended_s: float = field(default=0.0, init=False)

    def start(self, errors: BinaryIO | None = None) -> None:
        """Start it; it is not ready yet."""
        place = self.place
        self.buffer, self.ready = b"", False
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "leftfold.tools", "run", self.app),
                *("--dir", str(place.directory), "--host", place.host, "--port", str(place.port)),
                *("--peer-address", place.peer_address, "--json", f"--end-with={os.getpid()}"),
                *self.arguments,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            process_group=0,
        )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)

    @property
    def alive(self) -> bool:
        """Whether its supervisor runs."""
        return self.process is not None and self.process.poll() is None

    def events(self) -> Iterator[dict[str, Any]]:
        """What it has said since."""
        assert self.process is not None and self.process.stdout is not None
        while True:
            try:
                piece = os.read(self.process.stdout.fileno(), 65536)
            except BlockingIOError:
                return
            if not piece:
                return
            *lines, self.buffer = (self.buffer + piece).split(b"\n")
            for line in lines:
                event: dict[str, Any] = json.loads(line)
                self.ready = self.ready or event["event"] == "ready"
                yield event

    def close(self) -> int:
        """Reap it, after it has ended or was killed."""
        assert self.process is not None
        code = self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code


@define(eq=False)
class Members:
    """All replicas of a cluster on this box, as children."""

    layout: Layout
    arguments: tuple[str, ...] = ()
    errors: BinaryIO | None = None
    members: dict[int, Member] = field(factory=dict[int, Member], init=False)

    def start(self, id: int) -> Member:
        """Start one replica, or start it again."""
        member = Member(self.layout.app, self.layout.place(id), self.arguments)
        self.members[id] = member
        member.start(self.errors)
        return member

    def wait(self, seconds: float) -> Iterator[tuple[int, dict[str, Any]]]:
        """What they say within that time: (id, event). A member that ended says nothing any more."""
        with selectors.DefaultSelector() as selector:
            for id, member in self.members.items():
                process = member.process
                if process is not None and process.stdout is not None and not process.stdout.closed:
                    selector.register(process.stdout, selectors.EVENT_READ, id)
            if not selector.get_map():
                time.sleep(seconds)
                return
            for key, _ in selector.select(seconds):
                member = self.members[key.data]
                for event in member.events():
                    yield key.data, event
                if not member.alive:
                    member.close()
                    yield key.data, {"event": "ended", "code": _code(member)}

    def wait_ready(self, seconds: float = 120.0) -> None:
        """Until all serve. Raises OperatorError when one ends, or the time is over."""
        deadline = time.monotonic() + seconds
        while not all(member.ready for member in self.members.values()):
            for id, event in self.wait(0.1):
                if event["event"] == "ended":
                    raise OperatorError(
                        f"Replica {id} ended with code {event['code']} before it was ready."
                    )
            if time.monotonic() > deadline:
                raise OperatorError(f"The cluster was not ready within {seconds:.0f} s.")

    def stop(self) -> list[int]:
        """Drain and end all of them; their exit codes."""
        for member in self.members.values():
            if member.alive and member.process is not None:
                member.process.terminate()
        while any(member.alive for member in self.members.values()):
            for _ in self.wait(0.1):
                pass
        return [member.close() for member in self.members.values()]

    def kill(self) -> None:
        """kill -9 of whatever runs; for the end of a tool, however it comes."""
        for member in self.members.values():
            if member.process is not None and member.process.poll() is None:
                member.process.kill()
                kill(member.place)
            member.close()


def _code(member: Member) -> int:
    assert member.process is not None
    code = member.process.returncode
    return -1 if code is None else code
