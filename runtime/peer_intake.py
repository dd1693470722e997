"""What comes over the links of other replicas, checked and passed on to consensus.

Every frame is whole, of a size that the rings take, and of a type that replicas send; every message decodes, and is from
the replica at the other end to this one. Anything else raises NotAPeer or Malformed, and the link ends.
"""

from attrs import define, field

from ..shm import Producer
from . import raft_messages, slots
from .peer_hello import ALIVE, RAFT_LINK, REFUSED, NotAPeer, read_text
from .peer_link import Link

ALIVE_FRAMES_MAX = 64
ALIVE_FRAME_NS_MIN = 100_000_000
"""So many frames that say nothing may come at once, and after that no more often than this, since the link was made."""

DROPPED_IN_A_ROW_MAX = 10_000
"""More messages than this, none of which fits, are a flood: Raft has far fewer in flight."""


@define(eq=False)
class Intake:
    """The ends of `receive` and `bulk_receive`, and what is counted."""

    replica: int
    receive: Producer
    bulk_receive: Producer
    messages: int = field(default=0, init=False)
    dropped: int = field(default=0, init=False)
    pauses: int = field(default=0, init=False)

    @property
    def slot_bytes_max(self) -> int:
        """The longest frame that is taken."""
        return self.receive.slot_bytes_max

    @property
    def read_bytes_max(self) -> int:
        """How much may be read at a time, so that it fits the ring as one run."""
        return min(128 * 1024, self.receive.capacity // 4)

    def has_room(self, link: Link) -> bool:
        """Whether a paused link's next message may fit now; if it still does not, the ring will ring."""
        return self.bulk_receive.free() >= link.missing_bytes

    def take(self, link: Link, now_ns: int) -> None:
        """Pass on the whole frames of the link's input; pause the link at the first that has no room."""
        data = bytes(link.input)
        messages: list[tuple[int, int]] = []
        words: list[tuple[int, int]] = []
        at = 0
        while len(data) - at >= slots.HEADER_BYTES:
            length, kind, _ = slots.HEADER.unpack_from(data, at)
            if not slots.HEADER_BYTES <= length <= self.slot_bytes_max:
                raise NotAPeer(f"it sent a frame of {length} bytes")
            end = at + slots.padded(length)
            if end > len(data):
                break
            if kind == slots.RAFT_MESSAGE:
                self._check(link, memoryview(data)[at : at + length])
                messages.append((at, end))
            elif kind == slots.PEER:
                words.append((at, at + length))
            else:
                raise NotAPeer(f"it sent a slot of type {kind}")
            at = end
        left = self._deliver(link, data, messages)
        taken = at if left is None else left
        for start, end in words:
            if start < taken:
                self._heed(link, data[start:end], now_ns)
        del link.input[:taken]
        self._pause(link, left is not None, now_ns)

    def _check(self, link: Link, slot: memoryview) -> None:
        envelope = raft_messages.check(slot)
        if envelope.source != link.peer or envelope.target != self.replica:
            raise NotAPeer(
                f"it sent a message of replica {envelope.source} to replica {envelope.target}"
            )

    def _heed(self, link: Link, frame: bytes, now_ns: int) -> None:
        tag = slots.HEADER.unpack_from(frame)[2]
        if tag == REFUSED:
            raise NotAPeer(f"it refuses this replica: {read_text(frame[slots.HEADER_BYTES :])}")
        if tag != ALIVE:
            raise NotAPeer("it greeted twice")
        link.alive_frames += 1
        earned = (now_ns - link.since_ns) // ALIVE_FRAME_NS_MIN
        if link.alive_frames > ALIVE_FRAMES_MAX + earned:
            raise NotAPeer("it floods this replica with frames that say nothing")

    def _deliver(self, link: Link, data: bytes, messages: list[tuple[int, int]]) -> int | None:
        """Write the messages to the link's ring. None: all are done with; else where the first begins that must wait."""
        if not messages:
            return None
        ring = self.receive if link.kind == RAFT_LINK else self.bulk_receive
        view = memoryview(data)
        first, last = messages[0][0], messages[-1][1]
        side_by_side = sum(end - start for start, end in messages) == last - first
        if side_by_side and last - first <= ring.run_bytes_max and ring.write(view[first:last]):
            self.messages += len(messages)
            link.dropped_in_a_row = 0
            return None
        for start, end in messages:
            if ring.write(view[start:end]):
                self.messages += 1
                link.dropped_in_a_row = 0
            elif link.kind != RAFT_LINK:
                link.missing_bytes = end - start
                return start
            else:
                self.dropped += 1
                link.dropped_in_a_row += 1
        if link.dropped_in_a_row > DROPPED_IN_A_ROW_MAX:
            raise NotAPeer("it floods this replica with messages")
        return None

    def _pause(self, link: Link, paused: bool, now_ns: int) -> None:
        if link.paused and not paused:
            link.heard_ns = now_ns  # Not the other side was silent.
        self.pauses += paused and not link.paused
        link.paused = paused
