"""Timers: replicated, durable, fired by TIME entries in the order (deadline, id).

Ids are given out when a handler asks, so the order is the same on every replica. The dict is the
state, in order of ids; the heap is only an index over it, rebuilt after a restore, with cancelled
timers left in until they surface.
"""

from heapq import heapify, heappop, heappush

from attrs import Factory, define, frozen


@frozen
class Timer:
    """A message that an actor has put off until a time."""

    id: int
    deadline_ns: int
    actor_type: int
    key: bytes
    message_id: int
    body: bytes


@define
class Timers:
    """All timers of a machine."""

    next_id: int = 1
    by_id: dict[int, Timer] = Factory(dict[int, Timer])
    _heap: list[tuple[int, int]] = Factory(list[tuple[int, int]])

    def reserve(self) -> int:
        """The id of the next timer. A failed command does not give its ids back."""
        id = self.next_id
        self.next_id = id + 1
        return id

    def set(self, timer: Timer) -> None:
        """Keep a timer."""
        assert timer.id not in self.by_id and timer.id < self.next_id
        self.by_id[timer.id] = timer
        heappush(self._heap, (timer.deadline_ns, timer.id))

    def cancel(self, id: int, actor_type: int, key: bytes) -> None:
        """Forget a timer of this actor, if it is still there."""
        timer = self.by_id.get(id)
        if timer is None or (timer.actor_type, timer.key) != (actor_type, key):
            return
        del self.by_id[id]
        if len(self._heap) > 64 + 2 * len(self.by_id):
            self._rebuild()

    def due(self, now_ns: int, maximum: int) -> list[int]:
        """Take the ids of timers that are due, at most `maximum`, in the order they fire.

        They stay cancellable until `take`, since one that fires may cancel the next.
        """
        ids: list[int] = []
        while len(ids) < maximum:
            deadline = self.next_deadline_ns
            if deadline is None or deadline > now_ns:
                break
            ids.append(heappop(self._heap)[1])
        return ids

    def take(self, id: int) -> Timer | None:
        """Take out a timer that fires now; None if it was cancelled meanwhile."""
        return self.by_id.pop(id, None)

    @property
    def next_deadline_ns(self) -> int | None:
        """When the first timer is due."""
        heap = self._heap
        while heap and heap[0][1] not in self.by_id:
            heappop(heap)
        return heap[0][0] if heap else None

    def restore(self, timer: Timer) -> None:
        """Keep a timer read from a snapshot, in the snapshot's order."""
        self.by_id[timer.id] = timer
        heappush(self._heap, (timer.deadline_ns, timer.id))

    def _rebuild(self) -> None:
        self._heap = [(timer.deadline_ns, id) for id, timer in self.by_id.items()]
        heapify(self._heap)
