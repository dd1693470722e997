"""The entry of the four processes: `python -m leftfold.runtime.process ROLE`, started by the supervisor only.

Each attaches to the rings of its role and to no others, says so, and runs its shell until it is told to stop. What a
person must mend goes to the supervisor as one sentence; a bug ends the process with its traceback. The gateway alone
heeds SIGTERM, by draining; SIGINT belongs to the supervisor. If the supervisor dies, the kernel ends all four.
"""

import faulthandler
import gc
import json
import os
import random
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from attrs import define
from setproctitle import setproctitle

from ..actors.limits import Limits
from ..raft import Membership
from ..shm import Counters, ShmError, die_with_parent
from . import agent, memory, recording
from .clock import Clock
from .config import NS_PER_S, ReplicaConfig
from .errors import EXIT_JOURNAL_FAILED, JournalFailed, OperatorError
from .identity import Identity, load_identity, mark_begun, refuse_lost_journal
from .placement import spin_ns
from .topology import CONSENSUS, GATEWAY, JOURNAL, LOGIC, PROCESSES

if TYPE_CHECKING:
    from .descriptors import Descriptors
    from .peers import Peers
    from .tls import TlsFiles
    from .visitors import Vocabulary

EXIT_OPERATOR = 65


@define
class Handed:
    """What the supervisor gives a process at its start."""

    config: ReplicaConfig
    identity: Identity
    generation: int
    reports: int
    eventfd: int
    port: int
    resp_port: int | None
    snapshot_socket: int
    """One end of the socket between logic's children and the journal; -1 for the others."""

    def report(self, facts: dict[str, Any]) -> None:
        """Tell the supervisor something: one line of JSON."""
        os.write(self.reports, json.dumps(facts).encode() + b"\n")


def main() -> int:
    """Run one process of a replica."""
    role = sys.argv[1]
    assert role in PROCESSES
    given = json.loads(os.environ.pop("LEFTFOLD_PROCESS"))
    die_with_parent(given["supervisor"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    config = ReplicaConfig.from_json(json.dumps(given["config"]))
    setproctitle(f"leftfold: {role} {config.directory}")
    handed = Handed(
        config,
        load_identity(config.directory),
        given["generation"],
        given["reports"],
        given["eventfd"],
        given["port"],
        given["resp_port"],
        given["snapshot_socket"],
    )
    try:
        return RUN[role](handed)
    except OperatorError as error:
        handed.report({"fatal": str(error)})
        return EXIT_OPERATOR
    except JournalFailed as error:
        handed.report({"fatal": error.sentence})
        return EXIT_JOURNAL_FAILED
    except ShmError as error:
        handed.report({"fatal": f"Shared memory: {error}."})
        return EXIT_OPERATOR


def _attach(handed: Handed, role: str) -> tuple[memory.Attachment, Counters]:
    attachment = memory.attach(handed.config, handed.generation, role, handed.eventfd)
    counters = Counters.attach(handed.config.directory / "counters", role)
    recording.record(role, attachment, counters)
    handed.report({"attached": True})
    return attachment, counters


def _never() -> bool:
    return False


def _stop_when_told() -> Callable[[], bool]:
    """The supervisor says SIGUSR2 after a drain: nothing is on its way any more."""
    told: list[int] = []
    signal.signal(signal.SIGUSR2, lambda number, frame: told.append(number))
    return lambda: bool(told)


# Each process imports what it is made of: five interpreters start at once, before a replica can recover.


def _run_gateway(handed: Handed) -> int:
    from . import gateway
    from .descriptors import Descriptors
    from .listening import listen, require_certificates
    from .tls import client_context

    config, identity = handed.config, handed.identity
    limits = Limits(**identity.limits)
    files = require_certificates(config, identity.founders.values())
    listener = listen(config.host, handed.port)
    visitors = _visitors(handed)
    attachment, counters = _attach(handed, GATEWAY)
    descriptors = Descriptors()
    peers = _peers(handed, attachment, listener, files, descriptors)
    process = gateway.Gateway(
        listener,
        gateway.Identity(
            identity.cluster_id,
            identity.replica_id,
            limits.session_window,
            config.tokens,
        ),
        attachment.producers["ingress"],
        attachment.consumers["egress"],
        attachment.consumers["send"],
        attachment.bell,
        counters,
        gateway.GatewayLimits.of(config.limits),
        spin_ns(config.placement, GATEWAY),
        peers=peers,
        tls=None if files is None else client_context(files),
        descriptors=descriptors,
        visitors=visitors,
    )
    signal.signal(signal.SIGTERM, lambda number, frame: process.drain())
    host, port = process.address
    resp_port = None if visitors is None else visitors[0].getsockname()[1]
    handed.report({"listening": [host, port], "resp": resp_port})
    status = process.run()
    process.close()
    attachment.close()
    return status


def _visitors(handed: Handed) -> "tuple[socket.socket, Vocabulary] | None":
    """Where clients that speak Redis's protocol knock, and what they may say; None: they may not."""
    from .discovery import load_app
    from .listening import listen
    from .tls import require_security
    from .visitors import Vocabulary

    config = handed.config
    if handed.resp_port is None:
        return None
    # TLS is not spoken there.
    require_security([config.resp_host], None, insecure=config.insecure)
    app = load_app(config.app, Path(config.app_directory))
    return listen(config.resp_host, handed.resp_port, "--resp"), Vocabulary.of(app)


def _peers(
    handed: Handed,
    attachment: memory.Attachment,
    clients: socket.socket,
    files: "TlsFiles | None",
    descriptors: "Descriptors",
) -> "Peers | None":
    """The links to the other replicas; None where none can be."""
    from .addresses import shown
    from .hosts import numeric_address
    from .listening import listen
    from .peer_hello import RAFT_LINK, Hello
    from .peers import Peers
    from .tls import peer_contexts

    config, identity = handed.config, handed.identity
    if not config.peer_address:
        return None
    _, (host, port) = numeric_address(config.peer_address)
    serving = clients.getsockname()
    own = Hello(
        cluster_id=identity.cluster_id,
        source=identity.replica_id,
        target=0,
        instance=int.from_bytes(os.urandom(8), "little"),
        link=RAFT_LINK,
        address=config.peer_address,
        serves=shown((str(serving[0]), int(serving[1]))),
        build="",
    )
    return Peers(
        own,
        listen(host, port, "--peer-address"),
        attachment.producers["receive"],
        attachment.producers["bulk_receive"],
        attachment.consumers["bulk_send"],
        descriptors,
        lambda sentence: handed.report({"notice": sentence}),
        random.Random(),
        dict(identity.founders),
        None if files is None else peer_contexts(files),
        config.any_build,
    )


def _run_consensus(handed: Handed) -> int:
    from .consensus import Consensus
    from .steady import Steady

    attachment, counters = _attach(handed, CONSENSUS)
    shell = Consensus(
        handed.config,
        Clock(int(handed.config.wall_offset_s * NS_PER_S)),
        handed.identity,
        attachment.consumers,
        attachment.producers,
        counters,
        handed.report,
    )
    spin = spin_ns(handed.config.placement, CONSENSUS)
    agent.run(shell, attachment.bell, spin, _never, Steady(shell, attachment.bell, spin).run)
    return 0


def _has_peers(identity: Identity, members: bytes) -> bool:
    """Whether another replica votes in the cluster, going by the newest membership that is known here."""
    electors = Membership.decode(members).electors if members else frozenset(identity.founders)
    return bool(electors - {identity.replica_id})


def _run_journal(handed: Handed) -> int:
    from .journal import Journal
    from .journal_process import JournalProcess
    from .room import DiskLimits
    from .segments import list_segments
    from .snapshots import SnapshotStore

    config = handed.config
    attachment, counters = _attach(handed, JOURNAL)
    store = SnapshotStore.open(config.directory / "snapshots", handed.identity)
    for warning in store.warnings:
        handed.report({"warning": warning})
    if store.newest is None:  # Otherwise the journal itself sees what is lost.
        refuse_lost_journal(config.directory, len(list_segments(config.directory / "journal")))
    journal = Journal.open(
        config.directory / "journal",
        handed.identity,
        segment_bytes=config.limits.segment_bytes,
        covered=store.newest,
        has_peers=lambda members: _has_peers(handed.identity, members),
    )
    mark_begun(config.directory)
    if journal.note is not None:
        note = journal.note
        handed.report(
            {
                "warning": (
                    f"The journal was damaged at {note.file}, offset {note.offset}. What it had up to entry {note.last} is fetched from "
                    "the other replicas; until then this one neither votes nor acknowledges."
                )
            }
        )
    if journal.torn is not None:
        handed.report({"warning": f"The end of the journal was torn: {journal.torn}."})
    shell = JournalProcess(
        journal,
        store,
        attachment.consumers["persist"],
        attachment.producers["persisted"],
        attachment.producers["read"],
        attachment.consumers["snapshot"],
        attachment.producers["restore"],
        socket.socket(fileno=handed.snapshot_socket),
        Clock(int(config.wall_offset_s * NS_PER_S)),
        DiskLimits(config.disk_bytes_max, config.disk_reserve_bytes),
        counters,
    )
    spin = spin_ns(config.placement, JOURNAL)
    agent.run(shell, attachment.bell, spin, _stop_when_told(), lambda: shell.turn_elsewhere(spin))
    shell.close()
    attachment.close()
    return 0


def _run_logic(handed: Handed) -> int:
    from ..actors.machine import Machine
    from .build import build_of
    from .discovery import load_app
    from .logic import Logic
    from .offshoot import Offshoot
    from .position import Position
    from .snapshot_child import SnapshotChild
    from .state_child import StateChild

    directory = handed.config.directory
    app = load_app(handed.config.app, Path(handed.config.app_directory))
    build = build_of(app, handed.config.app.partition(":")[0])
    stacks = (directory / "overrun.txt").open("a")
    faulthandler.register(signal.SIGUSR1, stacks)
    position = Position.open(directory / "position")
    limits, seed = Limits(**handed.identity.limits), handed.identity.hash_seed

    def warn(sentence: str) -> None:
        handed.report({"warning": f"Taking up a snapshot: {sentence}"})

    def rebuild(content: Iterable[bytes]) -> Machine:
        return Machine.restore(
            app, limits, seed, content, position=position.words, figures=figures, warn=warn
        )

    signal.signal(signal.SIGCHLD, lambda number, frame: None)  # It ends a wait: see Offshoot.
    gc.disable()  # Collected between entries, never inside a handler.
    attachment, counters = _attach(handed, LOGIC)
    figures = counters.words["handlers"] if recording.is_recording() else None
    shell = Logic(
        Machine(app, limits, seed, position=position.words, figures=figures),
        build,
        rebuild,
        SnapshotChild(
            socket.socket(fileno=handed.snapshot_socket),
            handed.identity,
            build,
            Offshoot(f"leftfold: snapshot {directory}"),
        ),
        StateChild(Offshoot(f"leftfold: state digest {directory}")),
        position,
        attachment.consumers["apply"],
        attachment.consumers["restore"],
        attachment.producers["egress"],
        attachment.producers["applied"],
        attachment.producers["snapshot"],
        attachment.bell,
        counters,
        handed.report,
        has_peers=bool(handed.config.peer_address),
    )
    agent.run(shell, attachment.bell, spin_ns(handed.config.placement, LOGIC), _never)
    return 0


RUN = {
    GATEWAY: _run_gateway,
    CONSENSUS: _run_consensus,
    JOURNAL: _run_journal,
    LOGIC: _run_logic,
}


def _end() -> NoReturn:
    """Run, and leave without the interpreter's own ending.

    That would take apart the mapped rings in no particular order, under what still points into them; after a
    sentence or a traceback it ended in a crash that hid both. What must be closed was closed by then.
    """
    status = 1
    try:
        status = main()
    except BaseException:  # noqa: BLE001 - whatever it is, it is shown
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _end()
