"""What goes from Raft to the other replicas, and what comes from them: consensus's side of the gateway's links (peers.py).

A message that does not fit its ring is dropped; Raft sends again (I12). An AppendEntries larger than a slot goes out as
several. Entries that are in memory no more, and bytes of a snapshot, are asked of the journal, which answers on `read`; the
answer goes back to Raft. Whom to be linked with is told to the gateway whenever the members change, and never lost.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from attrs import define, evolve, field

from ..raft import (
    AppendEntries,
    Entry,
    Fetch,
    FetchChunk,
    Message,
    ProtocolViolation,
    Raft,
    Role,
    is_bulk,
)
from ..shm import Consumer, Producer
from . import raft_messages, slots
from .digests import AskOrdinals, Digests, Odd, OrdinalDigests, StateDigest
from .divergence import Divergence
from .parting import Parting
from .persisting import Persisting
from .state_checks import StateChecks
from .transfer_slots import ReadChunk, pack_read_chunk, unpack_chunk

MESSAGE_FIXED_BYTES = 128
TAKE_BYTES = 1024 * 1024
REPORT_NS = 1_000_000_000


@define(eq=False)
class Peering:
    """See the head of this file."""

    raft: Raft
    send: Producer
    bulk_send: Producer
    persisting: Persisting
    founders: Mapping[int, str]
    any_build: bool
    report: Callable[[dict[str, Any]], None]
    divergence: Divergence
    states: StateChecks
    parting: Parting
    told_odd: Odd | None = field(default=None, init=False)
    """The leader says that this replica is not what the others are."""
    asked_ordinals: int = field(default=0, init=False)
    """The entry of which the leader wants the digests by ordinal; 0: none."""
    low: bool = field(default=False, init=False)
    """The disk has no room for entries: they are passed over, and the leader sends them again."""
    serves: dict[int, str] = field(factory=dict[int, str], init=False)
    """Where the replicas that are linked serve clients."""
    dropped: int = field(default=0, init=False)
    telling: bytes = field(default=b"", init=False)
    """The PEERS slot that `send` had no room for yet."""
    _build: str = field(default="", init=False)
    _fetches: dict[int, Fetch] = field(factory=dict[int, Fetch], init=False)
    _fetched: list[Entry] = field(factory=list[Entry], init=False)
    _next_tag: int = field(default=slots.ASKED_ONCE, init=False)
    _told_ns: int = field(default=0, init=False)

    # Who

    def addresses(self) -> dict[int, str]:
        """Where each member listens for replicas."""
        membership = self.raft.membership
        named = {id: where.decode() for id, where in membership.addresses}
        founders = {
            id: where
            for id, where in self.founders.items()
            if id in membership.members or not self.raft.is_member
        }
        return founders | {id: where for id, where in named.items() if where}

    def tell_gateway(self, build: str = "") -> None:
        """Whom to be linked with, from now on."""
        self._build = build or self._build
        if not self._build:
            return
        peers = slots.Peers(self._build, self.any_build, self.addresses())
        self.telling = slots.pack_peers(peers)
        self.flush()

    def flush(self) -> int:
        """Say what could not be said before."""
        if self.telling and self.send.write(self.telling):
            self.telling = b""
            return 1
        return 0

    @property
    def leader_serves(self) -> str:
        """Where the leader serves clients, if that is known."""
        return self.serves.get(self.raft.leader_id, "")

    # Out

    def carry(self, messages: tuple[Message, ...]) -> None:
        """Send these, as far as there is room."""
        for message in messages:
            ring = self.bulk_send if is_bulk(message) else self.send
            for piece in self._pieces(message, ring.slot_bytes_max):
                if not ring.write(piece):
                    self.dropped += 1

    @staticmethod
    def _pieces(message: Message, slot_bytes_max: int) -> Iterator[bytes]:
        if not isinstance(message, AppendEntries) or not message.entries:
            yield raft_messages.encode(message)
            return
        room = slot_bytes_max - MESSAGE_FIXED_BYTES
        run: list[bytes] = []
        size = 0
        previous = (message.prev_index, message.prev_term)
        last = previous
        for entry in message.entries:
            slot = raft_messages.entry_slot(entry)
            if run and size + len(slot) > room:
                yield _append(message, previous, run)
                run, size, previous = [], 0, last
            run.append(slot)
            size += len(slot)
            last = (entry.index, entry.term)
        yield _append(message, previous, run)

    def say(self, message: Digests | StateDigest | Odd | AskOrdinals | OrdinalDigests) -> None:
        """What the runtime itself has to say to another replica; lost like the others."""
        self.dropped += not self.send.write(raft_messages.encode(message))

    def ask_journal(self, fetches: tuple[Fetch, ...], chunks: tuple[FetchChunk, ...]) -> None:
        """Have entries and bytes of snapshots read, for peers that are behind."""
        for fetch in fetches:
            tag, self._next_tag = self._next_tag, self._next_tag + 1
            if self._next_tag > 0xFFFF:
                self._next_tag = slots.ASKED_ONCE
            self._fetches[tag] = fetch
            asked = slots.pack_read(fetch.first, fetch.last, fetch.bytes_max, tag)
            self.persisting.write(asked)
        for chunk in chunks:
            asked_chunk = ReadChunk(chunk.peer, chunk.index, chunk.offset, chunk.bytes_max)
            self.persisting.write(pack_read_chunk(asked_chunk))

    def take_read(self, run: memoryview) -> int:
        """What the journal has read for peers; how many bytes of the run are done with."""
        done = 0
        for kind, tag, slot in slots.slots_of(run):
            if kind == slots.ENTRY:
                if tag < slots.ASKED_ONCE:
                    break
                head = slots.unpack_entry(slot)
                body = bytes(slot[slots.ENTRY_HEADER_BYTES :])
                entry = Entry(head.index, head.term, head.time_ns, head.kind, body)
                self._fetched.append(entry)
            elif kind == slots.READ_DONE:
                fetch = self._fetches.pop(tag)
                self.raft.fetched(fetch.peer, tuple(self._fetched))
                self._fetched.clear()
            else:
                assert kind == slots.CHUNK, f"read carried a slot of type {kind}"
                self.raft.fetched_chunk(*unpack_chunk(slot))
            done += slots.padded(len(slot))
        return done

    # In

    def take(self, ring: Consumer, now_ns: int) -> int:
        """Give Raft the messages that have come."""
        run = ring.peek(TAKE_BYTES)
        if not run:
            return 0
        for kind, tag, slot in slots.slots_of(run):
            if kind == slots.LINK:
                replica, serves = slots.unpack_link(slot)
                if tag == slots.LINK_UP:
                    self.serves[replica] = serves
                else:
                    self.serves.pop(replica, None)
                    self._lose_link(replica)
            else:
                assert kind == slots.RAFT_MESSAGE, f"a link carried a slot of type {kind}"
                self._take_message(raft_messages.decode(slot), now_ns)
        ring.release(len(run))
        return 1

    def _take_message(self, message: raft_messages.Said, now_ns: int) -> None:
        match message:
            case Digests():
                self.divergence.told(message)
            case StateDigest():
                self.states.heard(message)
            case Odd():
                if self._is_from_leader(message):
                    self.told_odd = message
            case AskOrdinals():
                if self._is_from_leader(message):
                    self.asked_ordinals = message.index
            case OrdinalDigests():
                if self.raft.role is Role.LEADER and message.term == self.raft.term:
                    self.parting.heard(message)
            case _:
                self._step(message, now_ns)

    def _is_from_leader(self, message: Odd | AskOrdinals) -> bool:
        return message.source == self.raft.leader_id and message.term == self.raft.term

    def _lose_link(self, replica: int) -> None:
        """A leader whose connection broke is most likely dead: what is left to wait for is the random part of the time-out.

        It costs nothing if it lives: the others hear it, and give no vote.
        """
        if replica != self.raft.leader_id:
            return
        for _ in range(self.raft.config.election_ticks):
            if self.raft.role is Role.FOLLOWER:
                self.raft.tick()

    def _step(self, message: Message, now_ns: int) -> None:
        if (
            isinstance(message, AppendEntries)
            and message.entries
            and (self.low or self.persisting.full)
        ):
            message = evolve(message, entries=())
        try:
            self.raft.step(message)
        except ProtocolViolation as violation:
            if now_ns >= self._told_ns:
                self._told_ns = now_ns + REPORT_NS
                self.report({"warning": f"{violation} The message was not heeded."})


def _append(message: AppendEntries, previous: tuple[int, int], run: list[bytes]) -> bytes:
    index, term = previous
    piece = evolve(message, prev_index=index, prev_term=term, entries=())
    return raft_messages.encode_entries(piece, b"".join(run))
