"""What consensus is told of message links: LINK slots in `receive`. Never dropped, only late: it learns the last state of each."""

from collections.abc import Mapping

from attrs import define, field

from ..shm import Producer
from . import slots
from .peer_hello import RAFT_LINK, Hello
from .peer_link import Link, State


@define(eq=False)
class LinkNews:
    """What was told, and whether that may be out of date."""

    receive: Producer
    due: bool = field(default=False, init=False)
    """Set by whoever changes a link; it stays while `receive` has no room."""
    _told: dict[int, Hello] = field(factory=dict[int, Hello], init=False)

    def tell(self, links: Mapping[tuple[int, int], Link]) -> None:
        """Tell how these links, by replica and kind, stand, where consensus does not know it yet."""
        up = {
            replica: link.hello
            for (replica, kind), link in links.items()
            if kind == RAFT_LINK and link.state is State.OPEN and link.hello is not None
        }
        for replica in [*self._told.keys() - up.keys()]:
            serves = self._told[replica].serves
            if self.receive.write(slots.pack_link(replica, serves, up=False)):
                del self._told[replica]
        for replica, hello in up.items():
            if self._told.get(replica) != hello and self.receive.write(
                slots.pack_link(replica, hello.serves, up=True)
            ):
                self._told[replica] = hello
        self.due = up != self._told
