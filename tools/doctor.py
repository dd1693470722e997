"""`leftfold doctor`: whether this machine can run a replica well, and what to do where it cannot.

Every finding is something that was looked at or measured here and now. A warning comes with its
remedy. Nothing is changed; the file that fsync is measured on is removed.
"""

import json
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
from attrs import frozen
from rich.markup import escape
from rich.table import Table

from ..runtime.config import MIB, TransportLimits
from ..runtime.errors import OperatorError
from ..runtime.topology import RINGS
from .paper import paper

SYNCS_MAX = 300
SYNC_SECONDS_MAX = 1.0
SYNC_BYTES = 4096
SYNC_SLOW_NS = 5_000_000
DISK_FREE_MIN_BYTES = 1024 * MIB
KERNEL_MIN = (5, 3)
NOFILE_SPARE = 256
GOOD_CLOCKS = ("tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page")
MEMORY_FILESYSTEMS = ("tmpfs", "ramfs")


@frozen
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str
    remedy: str | None = None


def doctor(directory: Path = Path("."), /, *, json: bool = False) -> None:
    """Check whether this machine can run a replica well: each finding with a remedy.

    Parameters
    ----------
    directory
        Where the replica's data would lie; its disk is measured.
    json
        Print the findings as one JSON object.
    """
    if not directory.is_dir():
        raise OperatorError(f"{directory} is not a directory: name an existing one to measure.")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise OperatorError(f"{directory} cannot be written: choose another, or change its mode.")
    findings = list(_examine(directory))
    if json:
        _print_json(findings)
    else:
        _print_table(findings)


def _print_json(findings: list[Finding]) -> None:
    everything = {
        "ok": all(finding.ok for finding in findings),
        "findings": [attrs.asdict(finding) for finding in findings],
    }
    print(json.dumps(everything, indent=2))


def _print_table(findings: list[Finding]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        mark = "[green]ok[/]" if finding.ok else "[yellow]warn[/]"
        found = escape(finding.found)
        if finding.remedy:
            found += f"\n[yellow]→ {escape(finding.remedy)}[/]"
        table.add_row(mark, finding.name, found)
    console = paper()
    console.print(table)
    warnings = sum(not finding.ok for finding in findings)
    console.print("Nothing to mend." if not warnings else f"{warnings} to mend.")


def _examine(directory: Path) -> Iterator[Finding]:
    yield _python()
    yield _compiler()
    yield _kernel()
    yield _clock()
    yield _cores()
    yield _shared_memory()
    yield _open_files()
    yield _disk_space(directory)
    yield _sync_speed(directory)


def _python() -> Finding:
    found = f"{platform.python_implementation()} {platform.python_version()}"
    supported = sys.implementation.name == "cpython" and sys.version_info >= (3, 11)
    if supported:
        return Finding("python", True, found)
    return Finding("python", False, found, "Install CPython 3.11 or later.")


def _compiler() -> Finding:
    for name in ("cc", "gcc", "clang"):
        path = shutil.which(name)
        if path:
            return Finding("compiler", True, path)
    remedy = "Only a build from source needs one: apt install gcc."
    return Finding("compiler", False, "no C compiler", remedy)


def _kernel() -> Finding:
    release = platform.release()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    libc = " ".join(platform.libc_ver())
    found = f"{platform.system()} {release}, {libc}"
    if numbers >= KERNEL_MIN:
        return Finding("kernel", True, found)
    return Finding("kernel", False, found, "leftfold needs Linux 5.3 or later (pidfd_open).")


def _clock() -> Finding:
    path = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    try:
        source = path.read_text().strip()
    except OSError:
        return Finding("clock", True, "source unknown")
    begin_ns = time.perf_counter_ns()
    for _ in range(1000):
        time.monotonic_ns()
    reading_ns = (time.perf_counter_ns() - begin_ns) // 1000
    found = f"{source}, {reading_ns} ns a reading"
    if source in GOOD_CLOCKS:
        return Finding("clock", True, found)
    remedy = f"Reading {source} needs a system call: boot with clocksource=tsc if the machine can."
    return Finding("clock", False, found, remedy)


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0))
    if cores >= 2:
        return Finding("cores", True, f"{cores} to run on")
    remedy = "The four processes will take turns; give the replica two cores or more."
    return Finding("cores", False, f"{cores} to run on", remedy)


def _shared_memory() -> Finding:
    limits = TransportLimits()
    needed = sum(ring.capacity_bytes(limits) for ring in RINGS)
    try:
        stat = os.statvfs("/dev/shm")
    except OSError as error:
        remedy = "Mount a tmpfs on /dev/shm; in a container: --shm-size=256m."
        return Finding("/dev/shm", False, f"missing: {error.strerror}", remedy)
    size, free = stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize
    found = f"{size // MIB} MiB, {free // MIB} MiB free; one replica takes {needed // MIB + 1} MiB"
    # Twice: while a replica starts again, the rings of the last generation may still be mapped.
    if free >= 2 * needed:
        return Finding("/dev/shm", True, found)
    remedy = "mount -o remount,size=256m /dev/shm; in a container: --shm-size=256m."
    return Finding("/dev/shm", False, found, remedy)


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = TransportLimits().connections_max + NOFILE_SPARE
    found = f"{soft} (hard limit {hard})"
    if soft >= needed or soft == resource.RLIM_INFINITY:
        return Finding("open files", True, found)
    return Finding("open files", False, found, f"For all connections: ulimit -n {needed}.")


def _disk_space(directory: Path) -> Finding:
    stat = os.statvfs(directory)
    free = stat.f_bavail * stat.f_frsize
    found = f"{free // MIB} MiB free in {directory.resolve()}"
    if free >= DISK_FREE_MIN_BYTES:
        return Finding("disk", True, found)
    return Finding("disk", False, found, "The log grows: make room, or choose another directory.")


def _sync_speed(directory: Path) -> Finding:
    times_ns = sorted(measure_syncs_ns(directory))
    p50_ns = times_ns[len(times_ns) // 2]
    p99_ns = times_ns[(len(times_ns) * 99) // 100]
    filesystem = filesystem_of(directory)
    found = (
        f"fdatasync p50 {p50_ns / 1e6:.3f} ms, p99 {p99_ns / 1e6:.3f} ms "
        f"({len(times_ns)} x {SYNC_BYTES // 1024} KiB on {filesystem})"
    )
    if filesystem in MEMORY_FILESYSTEMS:
        remedy = "This directory is in memory, a power cut loses it: choose one on a disk."
        return Finding("fsync", False, found, remedy)
    if p50_ns > SYNC_SLOW_NS:
        remedy = "Each batch waits for one of these: use a local SSD."
        return Finding("fsync", False, found, remedy)
    return Finding("fsync", True, found)


def measure_syncs_ns(directory: Path) -> list[int]:
    """Append and fdatasync for at most a second, as the journal does; how long each sync took."""
    block = os.urandom(SYNC_BYTES)
    times_ns: list[int] = []
    descriptor, name = tempfile.mkstemp(prefix=".leftfold-doctor-", dir=directory)
    try:
        until_ns = time.monotonic_ns() + int(SYNC_SECONDS_MAX * 1e9)
        os.posix_fallocate(descriptor, 0, SYNC_BYTES * SYNCS_MAX)
        while len(times_ns) < SYNCS_MAX:
            os.write(descriptor, block)
            begin_ns = time.monotonic_ns()
            os.fdatasync(descriptor)
            end_ns = time.monotonic_ns()
            times_ns.append(end_ns - begin_ns)
            if end_ns > until_ns:
                break
    except OSError as error:
        raise OperatorError(f"Cannot measure fsync in {directory}: {error.strerror}.") from None
    finally:
        os.close(descriptor)
        os.unlink(name)
    return times_ns


def filesystem_of(directory: Path) -> str:
    """The type of the file system that a directory lies on."""
    device = os.stat(directory).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == number:
            return after.split()[0]
    return "an unknown file system"
