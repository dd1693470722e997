"""Where a fold begins: the nearest snapshot at or before a place, or the log's beginning.

The snapshots of a directory are held open as its segments are, and before them, so that a running
replica cannot take away both a snapshot and the log behind an older one. A snapshot that does not
check is named on stderr, and the one before it is taken.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from ..actors import ActorsError, App
from ..actors.limits import Limits
from ..actors.machine import Machine
from ..actors.unit import Watch
from ..runtime.errors import CorruptSnapshot, OperatorError
from ..runtime.identity import Identity
from ..runtime.snapshotfile import contents, read_header
from ..runtime.snapshots import list_snapshots
from .held import LISTINGS_MAX, Held

DIRECTORY = "snapshots"


def hold_snapshots(directory: Path) -> dict[int, Held]:
    """Open every snapshot of a replica's directory, by index, oldest first."""
    for _ in range(LISTINGS_MAX):
        try:
            listed = list_snapshots(directory / DIRECTORY)
            return {index: Held.open(path) for index, path in listed}
        except FileNotFoundError:
            if not (directory / DIRECTORY).exists():
                return {}
        except OSError as error:
            raise OperatorError(f"Cannot read {error.filename}: {error.strerror}.") from None
    raise OperatorError(
        f"The snapshots in {directory} changed while they were listed, again and again: try again."
    )


def content_of(held: Held, identity: Identity, index: int) -> Iterator[bytes]:
    """The content of a held snapshot, checked. Raises OperatorError that names the file."""
    try:
        header = read_header(held.now)
        header.refuse_foreign(held.path, identity)
        if header.index != index:
            raise CorruptSnapshot(held.path, 48, f"it is the snapshot of index {header.index}")
        yield from contents(held.now)
    except CorruptSnapshot as damage:
        raise CorruptSnapshot(held.path, damage.offset, damage.why) from None


def restore_nearest(
    snapshots: dict[int, Held],
    identity: Identity,
    app: App,
    index: int,
    position: memoryview | None = None,
    watch: Watch | None = None,
) -> Machine | None:
    """The machine of the newest of these snapshots at or before `index`; None if there is none.

    Raises OperatorError where there are such, and none of them can be used.
    """
    why: OperatorError | None = None
    for at in sorted((at for at in snapshots if at <= index), reverse=True):
        if why is not None:
            print(f"leftfold: {why} Using the snapshot of index {at}.", file=sys.stderr)
        try:
            return _restore(snapshots[at], identity, app, at, position, watch)
        except OperatorError as error:
            why = error
    if why is not None:
        raise why
    return None


def _restore(
    held: Held,
    identity: Identity,
    app: App,
    index: int,
    position: memoryview | None,
    watch: Watch | None,
) -> Machine:
    limits = Limits(**identity.limits)
    chunks = content_of(held, identity, index)
    try:
        machine = Machine.restore(
            app, limits, identity.hash_seed, chunks, position=position, watch=watch
        )
    except ActorsError as refused:
        raise OperatorError(f"{held.path} does not fit the app: {refused}.") from None
    if machine.state.index != index:
        raise CorruptSnapshot(held.path, 48, f"its content is of index {machine.state.index}")
    return machine
