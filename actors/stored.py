"""A stored actor type: what snapshots need of an actor type beside the class.

Its version, the decoder of a run of its states, of this and of older versions, and the places where
a large dict or list may be cut. Made once for each reading and writing.
"""

from functools import cached_property
from typing import Any

import msgspec
from attrs import define

from . import parts
from .app import ActorType, App


@define(eq=False, slots=False)
class StoredType:
    """See the file's text."""

    actor: ActorType

    @property
    def version(self) -> int:
        """The version under which states are written."""
        return getattr(self.actor, "version", 1)

    def decode(self, version: int, payload: bytes | memoryview) -> list[Any]:
        """A run of states, lifted to this version if they are older."""
        return self._decode(payload)

    @cached_property
    def cuts(self) -> tuple[parts.Cut, ...]:
        """Where a state may be cut."""
        return parts.cuts(self.actor.cls)

    def large(self, instance: Any) -> list[tuple[parts.Cut, parts.Container]]:
        """The containers of this actor that are to be cut."""
        found = [(cut, cut.container(instance)) for cut in self.cuts]
        return [(cut, container) for cut, container in found if container is not None]

    @cached_property
    def _decode(self) -> Any:
        return msgspec.msgpack.Decoder(list[self.actor.cls]).decode


def schema_of(app: App) -> bytes:
    """The App's schema as canonical JSON."""
    schema = getattr(app, "schema", dict)
    return msgspec.json.encode(schema(), order="sorted")
