"""The two ends of a ring, for Python. The ring itself, and what it guarantees, is in ring.h.

An end works over any writable buffer: a Segment, a slice of one, or a bytearray. It belongs to one
thread; two at a time raise RingBusy. Full is False, 0 or None, and empty is empty: nothing blocks
here. After a refusal the producer counts as waiting for space, and a Doorbell that watches it wakes
once when what it asked for fits.

A run is one or more slots, each padded with zero bytes to a multiple of 8: see padded().
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn

from attrs import define, field

from ._shm import ffi, lib
from .doorbell import Doorbell
from .errors import LayoutMismatch, RingBusy, RingCorrupt, UsedAfterClose, UsedAfterFork
from .memory import Memory, pin
from .segment import Segment

if TYPE_CHECKING:
    from ._shm import CData
    from .counters import Histogram

HEADER_BYTES: int = lib.RING_HEADER_BYTES
ERRORS_END = 16  # ring_claim gives an address or an error; no address is below this
LENGTH_MASK = 0xFFFF_FFFF
EMPTY = memoryview(b"")
CONSUMER_FIGURES = ("wait_ns", "service_ns", "batch_bytes", "fill_bytes")
"""What a consumer can record: see `struct ring_figures` in ring.h."""


def padded(slot: bytes) -> bytes:
    """Return a slot with the zero bytes that make it fit for a run."""
    return slot + bytes(-len(slot) % 8)


def ring_bytes(capacity: int) -> int:
    """Return how much memory a ring of this capacity needs."""
    return HEADER_BYTES + capacity


def format_ring(memory: Memory, capacity: int, position: int = 0) -> None:
    """Make an empty ring in the memory; capacity is a power of two, at least 64."""
    pinned, address, size = pin(memory)
    with pinned:
        answer = lib.ring_format(ffi.cast("void *", address), size, capacity, position)
    if answer < 0:
        raise ValueError(f"no ring of {capacity} bytes from {position} fits this memory")


def _fail(error: int) -> NoReturn:
    if error == lib.RING_BUSY:
        raise RingBusy("another thread is inside this end of the ring, or a claim is open")
    if error == lib.RING_FORKED:
        raise UsedAfterFork("this end of the ring was opened before fork")
    if error == lib.RING_CORRUPT:
        raise RingCorrupt("the ring holds bytes that no producer of ours writes")
    if error == lib.RING_CLOSED:
        raise UsedAfterClose("this end of the ring is closed")
    assert error == lib.RING_INVALID, error
    raise ValueError("not a run of whole padded slots, a size out of bounds, or no claim to commit")


@define(eq=False)
class _End:
    """What both ends have in common: the memory, its C handle, positions and closing."""

    memory: Memory = field(repr=False)
    own_bell: Doorbell | None = None
    peer_bell: Doorbell | None = None
    capacity: int = field(init=False)
    handle: CData = field(init=False, repr=False)  # struct ring_end *, for C of other modules
    _pinned: CData = field(init=False, repr=False)
    _data: memoryview = field(init=False, repr=False)
    _address: int = field(init=False, repr=False)
    _recorded: object = field(init=False, default=None, repr=False)
    """The histograms that C fills: they keep their memory in place."""

    def _open(self, role: int) -> None:
        self._pinned, address, size = pin(self.memory)
        bell = ffi.NULL if self.peer_bell is None else self.peer_bell.handle
        end = lib.ring_open(ffi.cast("void *", address), size, role, bell)
        if end == ffi.NULL:
            ffi.release(self._pinned)
            raise LayoutMismatch("this memory holds no ring of this build's layout")
        self.handle = ffi.gc(end, lib.ring_free)
        self.capacity = lib.ring_capacity(end)
        self._address = address + HEADER_BYTES
        view = self.memory.memory if isinstance(self.memory, Segment) else memoryview(self.memory)
        self._data = view.cast("B")[HEADER_BYTES : HEADER_BYTES + self.capacity]

    @property
    def position(self) -> int:
        """Bytes that ever passed this end, padding included: the ring's tail or head."""
        return lib.ring_position(self.handle)

    @property
    def run_bytes_max(self) -> int:
        """The longest run that fits, if the consumer keeps up."""
        return self.capacity // 2

    @property
    def slot_bytes_max(self) -> int:
        """The longest slot that the ring takes."""
        return self.capacity // 8

    def used(self) -> int:
        """Return the bytes between head and tail now, padding included."""
        return lib.ring_used(self.handle)

    def free(self) -> int:
        """Return the bytes free now, not necessarily in one piece."""
        return self.capacity - lib.ring_used(self.handle)

    def _record(self, figures: Mapping[str, Histogram | None]) -> None:
        struct = ffi.new("struct ring_figures *")
        for name, histogram in figures.items():
            setattr(struct, name, ffi.NULL if histogram is None else histogram.words)
        self._recorded = figures
        lib.ring_record(self.handle, struct)

    def close(self) -> None:
        """Let go of the memory, so that its Segment can be closed. The end is dead after that."""
        lib.ring_close(self.handle)
        self._data.release()
        ffi.release(self._pinned)


@define(eq=False)
class Producer(_End):
    """The end that writes."""

    _claimed: int = field(init=False, default=0, repr=False)

    def record(self, claim_ns: Histogram | None = None) -> None:
        """Stamp runs from now on, for the consumer's wait_ns; record how long claims are open."""
        self._record({"claim_ns": claim_ns})

    def __attrs_post_init__(self) -> None:
        self._open(lib.RING_PRODUCER)

    def write(self, run: bytes | bytearray | memoryview) -> bool:
        """Append a run whole; False if there is no room, and then nothing was written."""
        if type(run) is bytes:
            answer = lib.ring_write(self.handle, run, len(run))
        else:
            pointer = ffi.from_buffer(run)
            answer = lib.ring_write(self.handle, pointer, len(pointer))
            ffi.release(pointer)
        if answer < 0:
            _fail(-answer)
        return answer == 1

    def claim(self, size: int) -> int:
        """Return the address of `size` contiguous bytes to write a run into, or 0 if full."""
        return self._take(lib.ring_claim(self.handle, size))

    def claim_upto(self, minimum: int, maximum: int) -> tuple[int, int]:
        """Return address and size of the most there is between the two, or (0, 0) if full."""
        address = self._take(lib.ring_claim_upto(self.handle, minimum, maximum))
        return address, self.claimed if address else 0

    def _take(self, address: int) -> int:
        if 0 < address < ERRORS_END:
            _fail(address)
        self._claimed = address
        return address

    @property
    def claimed(self) -> int:
        """The bytes of the open claim, or 0."""
        return lib.ring_claimed(self.handle)

    def claimed_view(self) -> memoryview:
        """Return the open claim as a writable view; it is the ring's again after commit."""
        offset = self._claimed - self._address
        return self._data[offset : offset + self.claimed]

    def commit(self, size: int) -> None:
        """Publish the first `size` bytes of the claim as a run; 0 gives the claim back."""
        answer = lib.ring_commit(self.handle, size)
        if answer < 0:
            _fail(-answer)


@define(eq=False)
class Consumer(_End):
    """The end that reads."""

    _run: int = field(init=False, default=0, repr=False)  # offset << 32 | length, as C says it

    def record(self, figures: Mapping[str, Histogram]) -> None:
        """Fill these histograms from now on, by the names of `struct ring_figures`."""
        assert figures.keys() <= set(CONSUMER_FIGURES)
        self._record(figures)

    def __attrs_post_init__(self) -> None:
        self._open(lib.RING_CONSUMER)

    def peek(self, maximum: int | None = None) -> memoryview:
        """Show the longest contiguous run of whole slots; empty if there is none.

        At least one slot, and no more that would pass `maximum` bytes. The view is valid until
        release(): after that the producer writes there.
        """
        run = (
            lib.ring_peek(self.handle)
            if maximum is None
            else lib.ring_peek_upto(self.handle, maximum)
        )
        self._run = run
        if not run:
            return EMPTY
        length = run & LENGTH_MASK
        if length == LENGTH_MASK:
            self._run = 0
            _fail(run >> 32)
        offset = run >> 32
        return self._data[offset : offset + length]

    def peek_bytes(self, maximum: int | None = None) -> bytes:
        """Copy what peek() shows."""
        return self.peek(maximum).tobytes()

    @property
    def address(self) -> int:
        """Where the run of the last peek begins in memory, for C of other modules."""
        return self._address + (self._run >> 32)

    @property
    def length(self) -> int:
        """The bytes of the run of the last peek."""
        return self._run & LENGTH_MASK

    def release(self, size: int) -> None:
        """Free the first `size` bytes peeked, which are whole slots."""
        answer = lib.ring_release(self.handle, size)
        if answer < 0:
            _fail(-answer)


@define(eq=False)
class Inputs:
    """The rings that one process reads, looked at in one call."""

    consumers: tuple[Consumer, ...]
    _ends: CData = field(init=False, repr=False)
    _count: int = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        assert len(self.consumers) <= 64, "one bit for each"
        self._count = len(self.consumers)
        self._ends = ffi.new("struct ring_end *[]", [end.handle for end in self.consumers])

    def ready(self) -> int:
        """Bit i is set if consumers[i] has something to read."""
        return lib.ring_ready_of(self._ends, self._count)
