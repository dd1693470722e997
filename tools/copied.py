"""What a fork for a snapshot copies, and how long it takes.

A forked child shares its parent's pages until one of them writes to a page; and CPython writes to
an object when it looks at it, since the reference count lies in it. Here a child writes a machine's
snapshot, verified and compressed as the real one, to /dev/null, while the parent only waits. It
reads its own pages from smaps_rollup all the time; the parent does at the start and at the end.
"""

import gc
import json
import os
import time
from collections.abc import Callable

from attrs import asdict, frozen

from ..actors.machine import Machine
from ..runtime.snapshotfile import Encoder, SnapshotHeader
from .apart import apart

HEADER = SnapshotHeader(cluster_id=bytes(16), replica_id=1, index=1, term=1, time_ns=0)
CHUNKS_BETWEEN = 16
MIB = 1 << 20


@frozen
class Fork:
    """One fork, in seconds and bytes."""

    frozen: bool
    # The call of fork in the parent, which serves nobody meanwhile.
    fork_s: float
    child_s: float
    file_bytes: int
    # Of the parent before; of both when the child had most.
    parent_pss: int
    parent_pss_after: int
    child_pss: int
    # What the child alone has: pages it copied, and pages it filled.
    child_private: int


def measure_fork(build: Callable[[], Machine], frozen: bool) -> Fork:
    """Build a machine in a process of its own, and fork it there.

    `frozen`: the parent freezes its objects and the child does not collect, as in logic. Otherwise
    both are left as Python has them.
    """
    return Fork(**apart(lambda: asdict(_forked(build(), frozen))))


def _forked(machine: Machine, frozen: bool) -> Fork:
    if frozen:
        gc.collect()
        gc.freeze()
    reading, writing = os.pipe()
    done_reading, done_writing = os.pipe()
    parent_pss = memory()["Pss"]
    started_s = time.perf_counter()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.close(done_writing)
            if frozen:
                gc.disable()
            os.write(writing, f"{json.dumps(write_all(machine))}\n".encode())
            os.read(done_reading, 1)  # Until the parent has looked at its own pages.
            status = 0
        finally:
            os._exit(status)
    fork_s = time.perf_counter() - started_s
    os.close(writing)
    with open(reading, "rb") as answer:
        child = json.loads(answer.readline())
    parent_pss_after = memory()["Pss"]
    os.close(done_writing)
    os.waitpid(pid, 0)
    return Fork(frozen, fork_s, parent_pss=parent_pss, parent_pss_after=parent_pss_after, **child)


def write_all(machine: Machine) -> dict[str, float]:
    """Write a snapshot to nowhere, and tell what that took and what this process has for itself."""
    started_s = time.perf_counter()
    looking_s = 0.0
    encoder = Encoder(HEADER)
    pss = private = file_bytes = 0
    with open("/dev/null", "wb") as sink:
        sink.write(encoder.header())
        for number, chunk in enumerate(machine.snapshot(verify=True)):
            file_bytes += sink.write(encoder.chunk(chunk))
            if number % CHUNKS_BETWEEN == 0:
                before_s = time.perf_counter()
                now = memory()
                pss = max(pss, now["Pss"])
                private = max(private, now["Private_Dirty"] + now["Private_Clean"])
                looking_s += time.perf_counter() - before_s
        file_bytes += sink.write(encoder.end())
    child_s = time.perf_counter() - started_s - looking_s
    now = memory()
    return {
        "child_s": child_s,
        "file_bytes": file_bytes,
        "child_pss": max(pss, now["Pss"]),
        "child_private": max(private, now["Private_Dirty"] + now["Private_Clean"]),
    }


def memory() -> dict[str, int]:
    """The bytes of this process by kind, as the kernel counts them."""
    found: dict[str, int] = {}
    with open("/proc/self/smaps_rollup") as lines:
        next(lines)
        for line in lines:
            name, value, *_ = line.replace(":", "").split()
            found[name] = int(value) * 1024
    return found
