"""When a snapshot is taken, and what may go once it counts: consensus's part in keeping the log short.

A point is chosen by the log alone: so many bytes of entries behind the last snapshot. No clock is in it. Each of several replicas
waits for another share more than that, the leader for the largest, so that not all of them fork at once.
A state that is larger than that many bytes of log stretches the distance to its own size; so snapshots never
write more to the disk than the log does.

One snapshot at a time, from the request until the journal has verified it or said why not. One that failed is not tried
again before another such distance, since what failed will mostly fail again, and costs a fork each time.
"""

from attrs import define, field

from . import slots


@define
class SnapshotPoints:
    """What is known of the snapshots, and when the next is due."""

    log_bytes: int
    taken: int = 0
    """The index of the newest snapshot that counts; 0 if there is none."""
    file_bytes: int = 0
    keep_from: int = 0
    """The first entry that a snapshot still needs; 0: all are needed."""
    running: slots.TakeSnapshot | None = field(default=None, init=False)
    wanted: int | None = field(default=None, init=False)
    """Why one was asked for beside the schedule."""
    told: int = field(default=0, init=False)
    """The index of the last one that logic was told to write, whatever became of it."""
    since_bytes: int = field(default=0, init=False)
    """What logic was given since the last point, failed ones included."""
    began_ns: int = field(default=0, init=False)
    failure: str = field(default="", init=False)
    """Why the last one was not taken; empty if it was."""

    def gave(self, entry_bytes: int) -> None:
        """Logic was given that much more of the log."""
        self.since_bytes += entry_bytes

    @property
    def busy(self) -> bool:
        """Whether one is being written, or will be at the next occasion."""
        return self.running is not None or self.wanted is not None

    def want(self, reason: int) -> None:
        """Ask for one, at the next occasion."""
        self.wanted = reason

    def due(self, *, share: float = 1.0) -> int | None:
        """Why a snapshot is to be taken now; None if none is."""
        if self.running is not None:
            return None
        if self.wanted is not None:
            return self.wanted
        distance = self.log_bytes * share
        return slots.BY_SCHEDULE if self.since_bytes >= max(distance, self.file_bytes) else None

    def restored(self, index: int, file_bytes: int, keep_from: int) -> None:
        """Logic takes up a snapshot that was received; one that was being written before is of no interest."""
        self.running = None
        self.taken, self.file_bytes, self.since_bytes = index, file_bytes, 0
        self.keep_from = max(self.keep_from, keep_from)

    def begun(self, asked: slots.TakeSnapshot, now_ns: int) -> None:
        """Logic has been told."""
        self.running, self.wanted, self.told = asked, None, asked.index
        self.since_bytes, self.began_ns = 0, now_ns

    def ended(self, state: slots.SnapshotState) -> slots.TakeSnapshot | None:
        """What became of a snapshot: what was asked for, or None if that was not asked for here."""
        asked = self.running
        if asked is None or asked.index != state.index:
            return None
        self.running = None
        self.failure = state.why
        if state.tag == slots.VERIFIED:
            self.taken, self.file_bytes = state.index, state.file_bytes
            self.keep_from = max(self.keep_from, state.keep_from)
        return asked
