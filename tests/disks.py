"""Disks for tests: small ones that fill up, and ones whose power can be cut; and calls that fail when told to.

A power cut is a copy of the image file below a loop device, taken while the replica stands still: what an fsync has not
reached is in the file system's memory and not in the copy. What it cannot show is a device that forgets, or
reorders, writes within its own cache. Everything is unmounted in the end, whatever happened.
"""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from replica import wait_until

KERNEL_TICK_S = 0.02
"""The kernel's time stamps are not finer than its tick."""


def _call(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def mounted(place: Path, *options: str) -> Iterator[Path]:
    """A file system at `place`; skips the test where that is not allowed."""
    place.mkdir()
    if os.geteuid() or not _call("mount", *options, str(place)):
        pytest.skip("this test needs the right to mount")
    try:
        yield place
    finally:
        # A process that was just killed may still hold it for a moment.
        wait_until(lambda: _call("umount", str(place)), f"{place} can be unmounted")


@contextlib.contextmanager
def loop_disk(image: Path, place: Path, size_bytes: int) -> Iterator[Path]:
    """A new ext4 file system in an image file, empty but for nothing."""
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("this test needs mkfs.ext4")
    with image.open("wb") as file:
        file.truncate(size_bytes)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    with mounted(place, "-o", "loop", str(image)):
        (place / "lost+found").rmdir()
        yield place


def cut_power(image: Path, copy: Path) -> None:
    """Copy the image as it is at one moment; the kernel may write to it meanwhile, then the copy is taken again."""

    def copied() -> bool:
        before = image.stat().st_mtime_ns
        subprocess.run(["cp", "--sparse=always", str(image), str(copy)], check=True)
        time.sleep(KERNEL_TICK_S)
        return image.stat().st_mtime_ns == before

    wait_until(copied, f"{image} stands still for a copy")


@contextlib.contextmanager
def failing_calls(pid: int, injection: str, log: Path) -> Iterator[Path]:
    """Attach strace to a process, to make a system call of it fail, or kill it there; yields strace's log."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("this test needs strace")
    command = [
        *(strace, "-f", "-p", str(pid), "-o", str(log)),
        *("-e", "trace=pwrite64,pwritev,pwritev2,fdatasync,fsync", "-e", f"inject={injection}"),
    ]
    errors = log.with_suffix(".errors")
    with errors.open("wb") as file:
        tracing = subprocess.Popen(command, stderr=file)
    try:
        wait_until(
            lambda: "attached" in errors.read_text() or tracing.poll() is not None,
            "strace attaches",
        )
        if "attached" not in errors.read_text():
            pytest.skip(f"strace may not attach here: {errors.read_text().strip()}")
        yield log
    finally:
        tracing.terminate()
        tracing.wait()
