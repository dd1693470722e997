"""Sessions: each request changes the state at most once (I9).

A client numbers its requests 1, 2, 3, ... without gaps and says with each how many are unanswered,
so `request - unanswered` is the floor: the highest number up to which it has every answer. Replies
above the floor are kept, and a request that comes again gets the identical bytes again. A request
that does not fit changes nothing, except that what the client confirmed is forgotten.

Age is counted on the session clock: log time without the jumps at term starts, so that an election
or a stopped cluster ages nobody. Who is too old is decided only at TIME entries and at OPEN.

The table is in C (sessions.h), because every command goes through it; this is what the rest of
Python sees of it. Admitting requests and keeping replies is done there, by fold.c.
"""

from collections.abc import Iterator

from attrs import frozen

from . import _fold


@frozen
class Session:
    """One client's identity, as it is now: what was applied, and the replies it may ask for."""

    id: bytes
    last: int
    floor: int
    active_ns: int
    # The padded REPLY slots of the requests floor+1 ... last.
    replies: list[bytes]

    @property
    def replies_bytes(self) -> int:
        """What is kept."""
        return sum(map(len, self.replies))


class Sessions:
    """All sessions of a machine, in order of opening."""

    def __init__(self, sessions_max: int, timeout_ns: int) -> None:
        self.timeout_ns = timeout_ns
        self.table = _fold.Sessions(sessions_max, timeout_ns)

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[Session]:
        for id in self.table.ids():
            found = self.find(id)
            assert found is not None
            yield found

    def find(self, id: bytes) -> Session | None:
        """A look at a session."""
        found = self.table.find(id)
        return None if found is None else Session(*found)

    def open(self, id: bytes, clock_ns: int) -> int | None:
        """Open a session, or find it open; its last request applied. None: there are too many."""
        return self.table.open(id, clock_ns)

    def close(self, id: bytes) -> None:
        """Forget a session; closing twice is harmless."""
        self.table.close(id)

    def expire(self, clock_ns: int) -> None:
        """Forget every session that was silent for the timeout."""
        self.table.expire(clock_ns)

    @property
    def next_check_ns(self) -> int | None:
        """The session clock at which the next may expire."""
        return self.table.next_check_ns

    def restore(
        self, id: bytes, last: int, floor: int, active_ns: int, replies: list[bytes]
    ) -> None:
        """Add a session, in the order of opening. ValueError if it does not hold what it says."""
        self.table.restore(id, last, floor, active_ns, replies)
