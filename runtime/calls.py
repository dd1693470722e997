"""Typed calls: a message object to the bytes of a request, and a reply's bytes to the object that was promised.

A client needs no App: the command's class says which replies may come (`Command[Reply]`), and an actor class which events
it emits. Shared by both clients.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from attrs import frozen

from ..actors.actor import declaration
from ..actors.app import Key, encode_body, encode_key, reply_types
from ..actors.errors import UnreadableVersion, UpcastFailed
from ..actors.message import Command, message_id, message_version, message_versions
from . import frames
from .failures import Unreadable, failure
from .frames import Position

Reply = TypeVar("Reply")

DEADLINE_S = 30.0
CONNECT_S = 5.0
ATTEMPT_S = 1.0
"""How long one address may take to greet, when there are others."""

NOT_READY_MAX = 3
"""How often a replica is asked again that is not ready, before another one is."""

FATAL_ERRORS = {2, 3}
"""Codes of ERROR after which connecting again cannot help: wrong version, wrong cluster."""


@frozen
class Event:
    """One event of a subscription. `position` is where to subscribe after, to go on behind it."""

    position: Position
    time_ns: int
    actor_type: int
    key: Key
    message: Any
    """The message object; None if its class is not among those of the subscription."""
    message_id: int
    body: bytes
    version: int = 0
    """Of the message in the body."""


@frozen
class Call:
    """A request as bytes, and how to read its reply."""

    message_id: int
    key: bytes
    body: bytes
    message: type
    version: int = 0

    def result(self, reply: "frames.Reply | frames.Answer") -> Any:
        """The reply object, or what the reply says went wrong, raised."""
        if reply.status:
            raise failure(reply.status, reply.body, reply.index, reply.ordinal)
        return self.decode(reply)

    def decode(self, reply: "frames.Reply | frames.Answer") -> Any:
        """The reply object."""
        decode = _reply_decoders(self.message).get(reply.message_id)
        if decode is None:
            if reply.message_id == 0:
                return None
            raise frames.ProtocolError(
                f"{self.message.__qualname__} does not promise a reply with id {reply.message_id}"
            )
        return decode(reply.version, reply.body)


def call(key: Key, message: Command[Any]) -> Call:
    """Encode a command or a query for the actor with this key."""
    cls = type(message)
    id = message_id(cls)
    if id is None:
        raise TypeError(f"{cls.__qualname__} is not a message; decorate it with @message(id=...)")
    return Call(id, encode_key(type(key), key), encode_body(message), cls, message_version(cls))


@lru_cache(maxsize=4096)
def _reply_decoders(message: type) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for reply in reply_types(message):
        id = message_id(reply)
        if id is not None:
            found[id] = _decoder(reply)
    return found


def _decoder(cls: type) -> Callable[[int, bytes], Any]:
    """Decodes what a version of the class wrote, lifted to the present one."""
    versions = message_versions(cls)
    decode: Any = msgspec.msgpack.Decoder(cls).decode

    def decoded(version: int, body: bytes) -> Any:
        if version != versions.current:
            try:
                body = versions.lift_body(version, body)
            except (UnreadableVersion, UpcastFailed) as error:
                raise Unreadable(str(error)) from error
        return decode(body)

    return decoded


@frozen(eq=False)
class EventFilter:
    """What a subscription asks for: an actor class or all, a key or all."""

    actor_type: int
    key: bytes
    key_kind: type
    decoders: dict[int, Any]

    @classmethod
    def of(cls, actor: type | None, key: Key | None) -> "EventFilter":
        """From what the caller named."""
        if actor is None:
            assert key is None, "a key needs its actor class"
            return cls(0, b"", bytes, {})
        declared = declaration(actor)
        decoders: dict[int, Any] = {}
        for emitted in declared.emits:
            id = message_id(emitted)
            assert id is not None
            decoders[id] = _decoder(emitted)
        encoded = b"" if key is None else encode_key(declared.key, key)
        return cls(declared.id, encoded, declared.key, decoders)

    def event(self, frame: "frames.EventFrame") -> Event:
        """The event object of a frame."""
        decode = self.decoders.get(frame.message_id)
        key: Key = frame.key
        if self.key_kind is str:
            key = frame.key.decode()
        elif self.key_kind is int:
            key = int.from_bytes(frame.key, "little", signed=True)
        return Event(
            frame.position,
            frame.time_ns,
            frame.actor_type,
            key,
            None if decode is None else decode(frame.version, frame.body),
            frame.message_id,
            frame.body,
            frame.version,
        )
