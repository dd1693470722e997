"""Small durable files: written whole or not at all, and there after a power failure.

A rename, and a new name, are durable only once the directory is synced too; nothing here returns
before that.
"""

import os
from pathlib import Path


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def create_directory(directory: Path) -> None:
    """Create a directory, its parents too if need be, durably. An existing one is fine."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        sync_directory(path.parent)


def write_new(path: Path, content: bytes) -> bool:
    """Create a file with this content; False, and nothing changed, when the name is taken."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    _write_synced(temporary, content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    sync_directory(path.parent)
    return True


def replace(path: Path, content: bytes) -> None:
    """Write a file whole, in place of what has the name."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    _write_synced(temporary, content)
    temporary.replace(path)
    sync_directory(path.parent)


def _write_synced(path: Path, content: bytes) -> None:
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    with os.fdopen(opened, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
