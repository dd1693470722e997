"""Everything the fold has built up: what a snapshot holds and a digest covers, and nothing else.

Only the machine changes it. It is apart from the machine so that the context may look at it and the
snapshot may read and rebuild it.
"""

from attrs import Factory, define, frozen

from .events import Events
from .sessions import Sessions
from .timers import Timers


@frozen
class Quarantine:
    """Why an actor takes no more messages."""

    index: int
    ordinal: int
    code: str
    handler: str
    error: str

    def __str__(self) -> str:
        where = f"index {self.index}, ordinal {self.ordinal}"
        return f"{self.code} {self.handler} at {where}: {self.error}"


@define
class State:
    """The replicated state of one machine."""

    sessions: Sessions
    events: Events
    timers: Timers = Factory(Timers)
    # Instances by actor type id, then by key bytes, in order of their first command.
    actors: dict[int, dict[bytes, object]] = Factory(dict[int, dict[bytes, object]])
    quarantined: dict[tuple[int, bytes], Quarantine] = Factory(dict[tuple[int, bytes], Quarantine])
    actors_count: int = 0
    index: int = 0
    time_ns: int = 0
    # The sum of the jumps of log time at term starts; they age no session.
    jumps_ns: int = 0
    # CRC-32 chained over every output slot.
    digest: int = 0

    @property
    def clock_ns(self) -> int:
        """The session clock."""
        return self.time_ns - self.jumps_ns
