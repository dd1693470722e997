"""What clients ask and no log holds: queries that wait for Raft's word, and subscriptions. And what is refused, and how.

A leader hands a run of queries to Raft, which says when it may be answered and what it must see (thesis §6.4); logic is
given it then (feed.py). Who does not lead refuses queries and commands with the leader's address, and serves subscriptions.
A refusal that finds no room in `send` is dropped: who was not answered asks again (I12).
"""

from attrs import define, field

from ..raft import Raft
from ..shm import Counters, Producer
from . import slots
from .feed import Feed
from .peering import Peering
from .separation import Refusal
from .upkeep import Upkeep


@define(eq=False)
class Queries:
    """See the head of this file."""

    raft: Raft
    feed: Feed
    peering: Peering
    upkeep: Upkeep
    send: Producer
    counters: Counters
    leads: bool = field(default=False, init=False)
    """This replica leads, and its term is opened."""
    waiting: dict[int, bytes] = field(factory=dict[int, bytes], init=False)
    """Those that wait for Raft's word, by context."""
    _next: int = field(default=1, init=False)

    @property
    def waiting_bytes(self) -> int:
        """All that logic has not been given."""
        readable, waiting = self.feed.readable, self.waiting
        held = sum(len(run) for _, run in readable) if readable else 0
        return held + sum(len(run) for run in waiting.values()) if waiting else held

    def take(self, run: bytes) -> None:
        """A run of queries and subscriptions from `ingress`."""
        if self.leads:
            self._ask_raft(run)
            return
        queries: list[memoryview] = []
        for kind, _, slot in slots.slots_of(memoryview(run)):
            if kind == slots.SUBSCRIBE:
                self._subscribe(slot)
            else:
                queries.append(slot)
        self._refuse_each(queries)

    def asked(self, runs: int) -> None:
        """Others have passed on so many runs, each with a context of its own."""
        self._next += runs

    def confirmed(self, context: int, index: int) -> None:
        """Raft's word: logic may be given them once it has `index`."""
        self.feed.readable.append((index, self.waiting.pop(context)))

    def _ask_raft(self, run: bytes) -> None:
        if not self.feed.heard:
            kinds = (kind for kind, _, _ in slots.slots_of(memoryview(run)))
            self.feed.heard = any(kind == slots.SUBSCRIBE for kind in kinds)
        context, self._next = self._next, self._next + 1
        self.waiting[context] = run
        accepted = self.raft.read_index(context)
        assert accepted, "the leader takes as many as may wait"

    def _subscribe(self, slot: memoryview) -> None:
        padding = bytes(-len(slot) % 8)
        self.feed.heard = True
        self.feed.readable.append((self.feed.fed, bytes(slot) + padding))

    # Refusing

    def refusal(self) -> Refusal | None:
        """Why commands are refused now, if they are."""
        if self.leads:
            return self.upkeep.refusal
        hint = self.peering.leader_serves
        return Refusal.of(slots.REFUSED_NOT_LEADER, hint, self.send.slot_bytes_max)

    def refuse(self, refusal: Refusal, run: bytes, count: int) -> None:
        """Tell those who asked, one for each of the `count` slots of the run."""
        if self.send.write(refusal.of_each(run, count)):
            self.counters.counters["refused"].add(count)

    def refuse_waiting(self) -> None:
        """The office is lost: whoever asked, asks the next leader."""
        for run in self.waiting.values():
            self._refuse_each([slot for _, _, slot in slots.slots_of(memoryview(run))])
        self.waiting.clear()

    def _refuse_each(self, queries: list[memoryview]) -> None:
        refusal = self.refusal()
        if queries and refusal is not None:
            run = b"".join(bytes(slot) + bytes(-len(slot) % 8) for slot in queries)
            self.refuse(refusal, run, len(queries))
