"""Room on the disk: when the replica stops taking commands, before the disk is full.

A log that meets a full disk has failed, and so has the replica. So room is looked at now and then,
and told once when it becomes low and once when there is enough again: below what must stay free on
the file system, or above what journal and snapshots may take together. The next segment counts as
taken before it is there, since without it the log ends with the current one. What stays free is
for the snapshots that make room, and for what Raft must write even when it takes no commands.

Low is left only with some room more than what made it low, so that it does not come and go.
"""

import os
from collections.abc import Callable
from pathlib import Path

from attrs import define, field, frozen

from .errors import OperatorError

MIB = 1024 * 1024
RESERVE_BYTES_MAX = 256 * MIB
RESERVE_SHARE = 20
"""By default a twentieth of the file system stays free, or 256 MiB if that is less."""
AGAIN_SHARE = 4
SEGMENTS_MIN = 4


@frozen
class DiskLimits:
    """What the operator allows. Without numbers: all of the disk but the reserve."""

    disk_bytes_max: int = 0
    """What journal and snapshots may take together; 0: no limit."""
    disk_reserve_bytes: int | None = None
    """What stays free on their file system; None: see RESERVE_SHARE."""

    def check(self, segment_bytes: int) -> None:
        """Raises OperatorError when a log could not live within the limit."""
        least = SEGMENTS_MIN * segment_bytes
        if 0 < self.disk_bytes_max < least:
            raise OperatorError(
                f"A limit of {self.disk_bytes_max} bytes on disk is too small for segments of "
                f"{segment_bytes} bytes: allow at least {least} bytes."
            )


@frozen
class Use:
    """What the replica takes on disk now, and what the log will want next."""

    used_bytes: int
    next_bytes: int
    """The next segment, if it is not allocated yet."""


@define
class Room:
    """Told of nothing and asked `look()`, which says what changed."""

    directory: Path
    limits: DiskLimits
    use: Callable[[], Use]
    statvfs: Callable[[Path], os.statvfs_result] = os.statvfs
    low: bool = field(default=False, init=False)
    sentence: str = field(default="", init=False)
    """While it is low: why, for those whose commands are refused."""

    def look(self) -> bool:
        """Look at the disk; whether `low` changed."""
        found, use = self.statvfs(self.directory), self.use()
        free = found.f_bavail * found.f_frsize
        reserve = self.limits.disk_reserve_bytes
        if reserve is None:
            reserve = min(RESERVE_BYTES_MAX, found.f_blocks * found.f_frsize // RESERVE_SHARE)
        most = self.limits.disk_bytes_max
        margin = reserve // AGAIN_SHARE if self.low else 0
        wanted = reserve + margin + use.next_bytes
        sentence = ""
        if free < wanted:
            sentence = (
                f"The disk is nearly full: {free // MIB} MiB are free in {self.directory}, and "
                f"{-(-wanted // MIB)} MiB must be. Free some space there; commands are taken again "
                "as soon as there is room."
            )
        elif most and use.used_bytes + use.next_bytes > most - (most // 16 if self.low else 0):
            sentence = (
                f"Journal and snapshots in {self.directory} take {use.used_bytes // MIB} MiB of "
                f"the {most // MIB} MiB that they may. Commands are taken again when snapshots "
                "have shortened the log, or with a higher limit."
            )
        changed = bool(sentence) != self.low
        self.low, self.sentence = bool(sentence), sentence
        return changed
