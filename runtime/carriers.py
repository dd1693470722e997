"""Message links that C carries between their sockets and the rings, while all that passes is plainly fine: see carrier.h.

Peers attaches a link when it is OPEN, and detaches it before it closes it. In between it asks for what C would not decide
(`asking`): the bytes are then in the link's input, and what was not sent in its queue, as if there had been no carrier.
"""

from typing import TYPE_CHECKING

from attrs import define, field

from ..shm import Producer
from . import raft_messages
from ._wire import ffi, lib
from .peer_link import Link
from .tls import PlainStream

if TYPE_CHECKING:
    from ._wire import CData


@define(eq=False)
class Carriers:
    """The places in one loop."""

    gate: "CData"
    loop: "CData"
    receive: Producer
    replica: int
    read_bytes_max: int
    messages_in: int = field(default=0, init=False)
    """Of links that are gone; those of the others are in their carriers."""
    messages_out: int = field(default=0, init=False)
    _links: dict[int, Link] = field(factory=dict[int, Link], init=False)
    """By place."""

    def __attrs_post_init__(self) -> None:
        self.loop.receive = ffi.cast("struct ring_end *", self.receive.handle)
        set_layouts(self.loop.layouts)

    def attach(self, link: Link) -> None:
        """Carry what this link says from now on, if it can be carried; until Python has sent all that waits, it sends first."""
        free = (at for at in range(lib.LOOP_CARRIERS) if at not in self._links)
        place = next(free, None)
        if place is None or not isinstance(link.stream, PlainStream):
            return
        made = lib.carrier_new(self.receive.slot_bytes_max, self.read_bytes_max)
        if made == ffi.NULL:
            return
        if lib.gate_watch(self.gate, link.fileno(), lib.GATE_LINK + place) < 0:
            lib.carrier_free(made)
            return
        carrier = ffi.gc(made, lib.carrier_free)
        carrier.fd, carrier.peer, carrier.own = link.fileno(), link.peer, self.replica
        carrier.held = 1
        link.carrier = carrier
        self._links[place] = link
        self.loop.carriers[place] = carrier
        self.give_back(link)

    def detach(self, link: Link) -> None:
        """It is Python's alone from now on. What came and was not looked at is in its input."""
        if link.carrier is None:
            return
        self.take(link)
        place = next(at for at, carried in self._links.items() if carried is link)
        self.loop.carriers[place] = ffi.NULL
        del self._links[place]
        lib.gate_unwatch(self.gate, link.fileno())
        self.messages_in += link.carrier.messages_in
        self.messages_out += link.carrier.messages_out
        link.heard_ns, link.said_ns = link.last_heard_ns, link.last_said_ns
        link.carrier = None

    def asking(self) -> list[Link]:
        """The links that want Python."""
        links = self._links.values()
        return [link for link in links if link.carrier is not None and link.carrier.asks]

    @staticmethod
    def take(link: Link) -> bool:
        """Put what came, and what was not sent, where Python has it; whether more may come."""
        carrier = link.carrier
        assert carrier is not None
        lost, carrier.lost, carrier.asks = carrier.lost, 0, 0
        link.input += ffi.buffer(carrier.input, carrier.input_bytes)
        carrier.input_bytes = 0
        if carrier.unsent_bytes:
            link.resend(bytes(ffi.buffer(carrier.unsent, carrier.unsent_bytes)))
            carrier.unsent_bytes = 0
        return not lost

    @staticmethod
    def give_back(link: Link) -> None:
        """What is left is the beginning of a frame."""
        carrier = link.carrier
        if carrier is not None and link.input:
            ffi.memmove(carrier.input, link.input, len(link.input))
            carrier.input_bytes = len(link.input)
            link.input.clear()

    def counts(self) -> tuple[int, int]:
        """Messages that came and went this way, ever."""
        links = self._links.values()
        carriers = [link.carrier for link in links if link.carrier is not None]
        return (
            self.messages_in + sum(carrier.messages_in for carrier in carriers),
            self.messages_out + sum(carrier.messages_out for carrier in carriers),
        )


def set_layouts(layouts: "CData") -> None:
    """Tell C how each kind of message lies in its slot."""
    tails = {"": lib.CARRIER_NO_TAIL, "entries": lib.CARRIER_ENTRIES}
    for layout in raft_messages.LAYOUTS:
        known = layouts[layout.tag]
        known.numbers, known.flags = len(layout.numbers), layout.flags
        known.tail = tails.get(layout.tail, lib.CARRIER_BYTES)
