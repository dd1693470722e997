"""Temporary directories that do not outlive a kill -9 of their owner for long.

The owner holds a lock on its directory for as long as it lives. Whoever makes the next one of the same kind removes those
that nobody holds, and what replicas in them left in shared memory; one in which a replica still runs is left alone.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

from ..runtime.errors import OperatorError
from ..runtime.identity import IDENTITY_NAME, lock_directory
from ..runtime.memory import remove_leftovers

GONE_S = 10.0
"""How long a replica that was killed may take until it is gone."""


@contextlib.contextmanager
def scratch(kind: str) -> Generator[Path]:
    """A directory of our own, gone with its content at the end."""
    for left in Path(tempfile.gettempdir()).glob(f"{kind}-*"):
        _remove_if_left(left)
    path, held = _make(kind)
    try:
        yield path
    finally:
        with contextlib.suppress(OperatorError):
            _forget_memory(path, GONE_S)
        shutil.rmtree(path)
        os.close(held)


def _make(kind: str) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=f"{kind}-"))
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
