"""Sessions: each request changes the state at most once (I9).

A client numbers its requests 1, 2, 3, ... without gaps and says with each how many are unanswered,
so `request - unanswered` is the floor: the highest number up to which it has every answer. Replies
above the floor are kept, and a request that comes again gets the identical bytes again. A request
that does not fit changes nothing, except that what the client confirmed is forgotten.

Age is counted on the session clock: log time without the jumps at term starts, so that an election
or a stopped cluster ages nobody. Who is too old is decided only at TIME entries and at OPEN. The
heap of ages is only an index; an entry in it may be too early, never too late.
"""

from collections import deque
from heapq import heapify, heappop, heappush
from typing import Literal

from attrs import Factory, define

from .layout import Status


@define
class Session:
    """One client's identity: what was applied, and the replies it may still ask for."""

    last: int = 0
    floor: int = 0
    active_ns: int = 0
    # The padded REPLY slots of the requests floor+1 ... last.
    replies: deque[bytes] = Factory(deque[bytes])
    replies_bytes: int = 0

    def forget(self, floor: int) -> None:
        """Drop the replies up to this request: the client has them."""
        assert floor <= self.last
        while self.floor < floor:
            self.floor += 1
            self.replies_bytes -= len(self.replies.popleft())

    def admit(
        self, request: int, unanswered: int, window: int, bytes_max: int
    ) -> Status | bytes | Literal[True]:
        """True: apply it. Bytes: the reply it had before. A status: why it is refused.

        When it was applied, the machine raises `last` and appends to `replies`, in its hot loop.
        """
        if request > self.last + 1:
            return Status.OUT_OF_ORDER
        if unanswered < 1 or request < 1:
            return Status.BAD_REQUEST
        floor = request - unanswered
        if floor > self.floor:
            self.forget(floor)
        if request <= self.floor:
            return Status.ANSWER_FORGOTTEN
        if request <= self.last:
            return self.replies[request - self.floor - 1]
        if len(self.replies) >= window or self.replies_bytes >= bytes_max:
            return Status.WINDOW_EXCEEDED
        return True


@define
class Sessions:
    """All sessions of a machine, in order of opening."""

    sessions_max: int
    timeout_ns: int
    by_id: dict[bytes, Session] = Factory(dict[bytes, Session])
    _ages: list[tuple[int, bytes]] = Factory(list[tuple[int, bytes]])

    def open(self, id: bytes, clock_ns: int) -> Session | None:
        """Open a session, or find it if it is open; None if there are too many."""
        self.expire(clock_ns)
        session = self.by_id.get(id)
        if session is None:
            if len(self.by_id) >= self.sessions_max:
                return None
            session = Session(active_ns=clock_ns)
            self.restore(id, session)
        session.active_ns = clock_ns
        return session

    def close(self, id: bytes) -> None:
        """Forget a session; closing twice is harmless."""
        self.by_id.pop(id, None)

    def expire(self, clock_ns: int) -> None:
        """Forget every session that was silent for the timeout."""
        ages = self._ages
        while ages and ages[0][0] <= clock_ns:
            _, id = heappop(ages)
            session = self.by_id.get(id)
            if session is None:
                continue
            deadline = session.active_ns + self.timeout_ns
            if deadline <= clock_ns:
                del self.by_id[id]
            else:
                heappush(ages, (deadline, id))

    @property
    def next_check_ns(self) -> int | None:
        """The session clock at which `expire` may find one; early rather than late."""
        ages = self._ages
        while ages and ages[0][1] not in self.by_id:
            heappop(ages)
        return ages[0][0] if ages else None

    def restore(self, id: bytes, session: Session) -> None:
        """Add a session, in the order of calls."""
        self.by_id[id] = session
        heappush(self._ages, (session.active_ns + self.timeout_ns, id))
        if len(self._ages) > 64 + 2 * len(self.by_id):
            # Many were closed before their age: keep the heap as small as the table (I10).
            self._ages = [(s.active_ns + self.timeout_ns, i) for i, s in self.by_id.items()]
            heapify(self._ages)
