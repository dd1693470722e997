"""A stored actor type: what snapshots need of an actor type beside the class.

Its version, the decoder of a run of its states, of this and of older versions, and the places where
a large dict or list may be cut. Made once for each reading and writing.
"""

from functools import cached_property
from typing import Any

from attrs import define

from . import parts
from .app import ActorType


@define(eq=False, slots=False)
class StoredType:
    """See the file's text."""

    actor: ActorType

    @property
    def version(self) -> int:
        """The version under which states are written."""
        return self.actor.version

    def decode(self, version: int, payload: bytes | memoryview) -> list[Any]:
        """A run of states, lifted to this version if they are older."""
        return self.actor.decode_states(version, payload)

    @cached_property
    def cuts(self) -> tuple[parts.Cut, ...]:
        """Where a state may be cut."""
        return parts.cuts(self.actor.cls)

    def large(self, instance: Any) -> list[tuple[parts.Cut, parts.Container]]:
        """The containers of this actor that are to be cut."""
        found = [(cut, cut.container(instance)) for cut in self.cuts]
        return [(cut, container) for cut, container in found if container is not None]
