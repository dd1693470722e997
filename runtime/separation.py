"""What consensus takes from `ingress` in one go: the body of the next entry, and apart from it the queries.

One C call for all that the ring holds; no command is looked at from Python.
"""

from typing import TYPE_CHECKING

from attrs import define, field, frozen

from ..shm import Consumer
from ._wire import ffi, lib
from .config import TransportLimits

if TYPE_CHECKING:
    from ._wire import CData

COMMAND_BYTES_MIN = 40


@frozen
class Separated:
    """`body` is the run of an entry with `count` slots; `queries` the run that goes to logic unlogged."""

    body: bytes
    count: int
    queries: bytes
    consumed: int
    drain: bool


NOTHING = Separated(b"", 0, b"", 0, False)


@define
class Separator:
    """Holds the buffers, so that a turn allocates only what it found."""

    limits: TransportLimits
    _call: "CData" = field(init=False)
    _body: "CData" = field(init=False)
    _queries: "CData" = field(init=False)

    def __attrs_post_init__(self) -> None:
        call = ffi.new("struct wire_separation *")
        self._body = ffi.new("uint8_t[]", self.limits.entry_bytes_max)
        self._queries = ffi.new("uint8_t[]", self.limits.queries_waiting_bytes_max)
        call.body, call.queries = self._body, self._queries
        call.body_count_max = self.limits.entry_bytes_max // COMMAND_BYTES_MIN
        self._call = call

    def take(self, ingress: Consumer, body_bytes_max: int, queries_bytes_max: int) -> Separated:
        """Take what fits from the ring, and release it."""
        if not ingress.peek():
            return NOTHING
        call = self._call
        call.run = ffi.cast("uint8_t *", ingress.address)
        call.run_bytes = ingress.length
        call.body_bytes_max = body_bytes_max
        call.queries_bytes_max = queries_bytes_max
        malformed = lib.wire_separate(call)
        assert malformed == 0, "gateway put a malformed run into ingress"
        separated = Separated(
            bytes(ffi.buffer(self._body, call.body_bytes)),
            call.body_count,
            bytes(ffi.buffer(self._queries, call.queries_bytes)),
            call.consumed_bytes,
            bool(call.drain),
        )
        if separated.consumed:
            ingress.release(separated.consumed)
        return separated
