"""What consensus takes from `ingress` in one go: the body of the next entry, and apart from it the queries and controls.

One C call for all that the ring holds; no command is looked at from Python. A body that must not become an entry is
turned into refusals by one more call, one for each slot, so that no client waits for an answer that never comes.
"""

from typing import TYPE_CHECKING

from attrs import define, field, frozen

from ..shm import Consumer
from ._wire import ffi, lib
from .config import SLOT_SHARE, TransportLimits

if TYPE_CHECKING:
    from ._wire import CData

COMMAND_BYTES_MIN = 40
REFUSED_BYTES: int = lib.WIRE_REFUSED_BYTES
TEXT_BYTES_MAX = 512


@define
class Separated:
    """`body` is the run of an entry with `count` slots; `queries` the run that goes to logic unlogged; `controls` is for
    consensus itself. Not frozen, which costs 0.6 µs for each batch; nobody changes it."""

    body: bytes
    count: int
    queries: bytes
    controls: bytes
    consumed: int
    drain: bool


NOTHING = Separated(b"", 0, b"", b"", 0, False)


@define
class Separator:
    """Holds the buffers, so that a turn allocates only what it found."""

    limits: TransportLimits
    _call: "CData" = field(init=False)
    _body: "CData" = field(init=False)
    _queries: "CData" = field(init=False)
    _controls: "CData" = field(init=False)
    _controls_bytes_max: int = field(init=False)
    _count_max: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        call = ffi.new("struct wire_separation *")
        self._body = ffi.new("uint8_t[]", self.limits.entry_bytes_max)
        self._queries = ffi.new("uint8_t[]", self.limits.queries_waiting_bytes_max)
        self._controls_bytes_max = self.limits.ingress_bytes // SLOT_SHARE
        self._controls = ffi.new("uint8_t[]", self._controls_bytes_max)
        self._count_max = self.limits.entry_bytes_max // COMMAND_BYTES_MIN
        call.body, call.queries, call.controls = self._body, self._queries, self._controls
        self._call = call

    def take(
        self,
        ingress: Consumer,
        body_bytes_max: int,
        queries_bytes_max: int,
        count_max: int | None = None,
        *,
        controls: bool = True,
    ) -> Separated:
        """Take what fits from the ring, and release it; a control that is not wanted now stays, and all behind it."""
        if not ingress.peek():
            return NOTHING
        call = self._call
        call.run = ffi.cast("uint8_t *", ingress.address)
        call.run_bytes = ingress.length
        call.body_bytes_max = body_bytes_max
        call.queries_bytes_max = queries_bytes_max
        call.controls_bytes_max = self._controls_bytes_max if controls else 0
        call.body_count_max = self._count_max if count_max is None else count_max
        malformed = lib.wire_separate(call)
        assert malformed == 0, "gateway put a malformed run into ingress"
        queries, control = call.queries_bytes, call.controls_bytes
        separated = Separated(
            bytes(ffi.buffer(self._body, call.body_bytes)),
            call.body_count,
            bytes(ffi.buffer(self._queries, queries)) if queries else b"",
            bytes(ffi.buffer(self._controls, control)) if control else b"",
            call.consumed_bytes,
            bool(call.drain),
        )
        if separated.consumed:
            ingress.release(separated.consumed)
        return separated


@frozen
class Refusal:
    """Why commands are refused, in bytes that fit a slot of a ring."""

    reason: int
    text: bytes

    @classmethod
    def of(cls, reason: int, sentence: str, slot_bytes_max: int) -> "Refusal":
        """With as much of the sentence as one slot takes."""
        room = min(slot_bytes_max - REFUSED_BYTES - 8, TEXT_BYTES_MAX)
        return cls(reason, sentence.encode()[:room].decode(errors="ignore").encode())

    @property
    def slot_bytes(self) -> int:
        """What each refused slot costs."""
        return (REFUSED_BYTES + len(self.text) + 7) & ~7

    def of_each(self, run: bytes, count: int) -> bytes:
        """A REFUSED slot for each of the `count` slots of the run, in their order."""
        call = ffi.new("struct wire_refusal *")
        room = count * self.slot_bytes
        refused = ffi.new("uint8_t[]", room)
        with ffi.from_buffer(run) as given, ffi.from_buffer(self.text) as text:
            call.run, call.run_bytes = ffi.cast("uint8_t *", given), len(run)
            call.refused, call.refused_bytes_max = refused, room
            call.text, call.text_bytes = ffi.cast("uint8_t *", text), len(self.text)
            call.reason = self.reason
            malformed = lib.wire_refuse(call)
        assert malformed == 0 and call.refused_count == count, "an entry's body is whole slots"
        return bytes(ffi.buffer(refused, call.refused_bytes))
