"""Directories and files for a while that do not outlive a kill -9 of their owner for long.

The owner holds a lock on what it made for as long as it lives. Whoever makes the next one of the same kind removes those
that nobody holds, and what replicas in them left in shared memory; one in which a replica still runs is left alone.
"""

import contextlib
import fcntl
import glob
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import BinaryIO

from ..runtime.errors import OperatorError
from ..runtime.identity import IDENTITY_NAME, lock_directory
from ..runtime.memory import remove_leftovers

GONE_S = 10.0
"""How long a replica that was killed may take until it is gone."""


@contextlib.contextmanager
def scratch(kind: str) -> Generator[Path]:
    """A temporary directory of our own, gone with its content at the end."""
    for left in Path(tempfile.gettempdir()).glob(f"{kind}-*"):
        _remove_if_left(left)
    path, held = _make(lambda: Path(tempfile.mkdtemp(prefix=f"{kind}-")))
    try:
        yield path
    finally:
        with contextlib.suppress(OperatorError):
            _forget_memory(path, GONE_S)
        shutil.rmtree(path)
        os.close(held)


@contextlib.contextmanager
def beside(place: Path, kind: str) -> Generator[Path]:
    """A directory next to `place`, gone with its content at the end unless it was given another name."""
    place = place.absolute()
    for left in place.parent.glob(f".{glob.escape(place.name)}.[0-9]*.{kind}"):
        _remove_if_left(left)
    path, held = _make(lambda: _created(place.with_name(f".{place.name}.{os.getpid()}.{kind}")))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(held)


def file_beside(place: Path) -> tuple[Path, BinaryIO]:
    """A new file next to `place`, to be given its name, and where it is; it is ours while it is open. Raises OSError."""
    for left in place.parent.glob(f"{glob.escape(place.name)}.[0-9]*.tmp"):
        _remove_file_if_left(left)
    path = place.with_name(f"{place.name}.{os.getpid()}.tmp")
    while True:
        file = path.open("xb")
        with contextlib.suppress(OSError):  # Where there are no locks nothing is removed either.
            fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return path, file
        file.close()  # Somebody took it for one that was left, before it was locked.


def _remove_file_if_left(path: Path) -> None:
    try:
        held = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    with open(held, "rb") as file, contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(held)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
            path.unlink()


def _created(path: Path) -> Path:
    path.mkdir()
    return path


def _make(create: Callable[[], Path]) -> tuple[Path, int]:
    while True:
        path = create()
        held = _hold(path)
        if held is not None:
            return path, held


def _hold(path: Path) -> int | None:
    """The lock of a directory of ours; None if somebody has it, or if it is gone."""
    try:
        held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Who held it until now may have removed it meanwhile.
        if os.path.samestat(os.fstat(held), path.stat()):
            return held
    except OSError:
        pass
    os.close(held)
    return None


def _remove_if_left(path: Path) -> None:
    held = _hold(path)
    if held is None:
        return
    try:
        if os.fstat(held).st_uid == os.geteuid():
            _forget_memory(path, 0.0)
            shutil.rmtree(path, ignore_errors=True)
    except OperatorError:
        pass  # A replica in it lives.
    finally:
        os.close(held)


def _forget_memory(path: Path, wait_s: float) -> None:
    """Remove the shared memory of replicas that were killed while they started. Raises OperatorError if one lives."""
    for identity in path.rglob(IDENTITY_NAME):
        lock = lock_directory(identity.parent, wait_s)
        try:
            remove_leftovers(identity.parent)
        finally:
            os.close(lock)
