"""The context: everything a handler may know or cause besides its own fields.

Time, randomness and ids come from the position in the log, so every replica sees the same. What a
handler sends, emits or schedules is encoded at the call, so later changes to an object cannot leak,
and is kept aside until the whole command has succeeded; a command that fails leaves none of it.
There is one context per machine, set anew for each handler: do not keep it.
"""

from random import Random
from typing import Literal
from uuid import UUID

import attrs
from attrs import define, setters

from .app import ActorType, App, Key, Route, decode_key, encode_body, encode_key
from .errors import ContextMisuse, LimitExceeded, TargetQuarantined
from .fold import State
from .limits import Limits
from .message import message_id

INT64_MAX = (1 << 63) - 1


@define(on_setattr=setters.NO_OP)
class Send:
    """A message for another actor, delivered within the same unit."""

    route: Route
    key: bytes
    body: bytes
    depth: int


Emit = tuple[int, bytes, int, bytes]
"""An event for subscribers: actor type, key, message id, body. A tuple, because fold.c takes it apart."""


@define(on_setattr=setters.NO_OP)
class SetTimer:
    """A timer to be kept."""

    id: int
    deadline_ns: int
    actor_type: int
    key: bytes
    message_id: int
    body: bytes


@define(on_setattr=setters.NO_OP)
class CancelTimer:
    """A timer to be forgotten."""

    id: int
    actor_type: int
    key: bytes


Output = Send | Emit | SetTimer | CancelTimer
Mode = Literal["handler", "query"]


@define(eq=False, on_setattr=setters.NO_OP)
class Context:
    """What a handler is given; the fields that begin with _ belong to the machine."""

    _app: App
    _state: State
    _limits: Limits
    _seed: int
    # The three words of the machine's position; the second is the ordinal.
    _position: memoryview
    # Log time in nanoseconds since 1970, the same for all commands of an entry.
    time_ns: int = 0
    _index: int = 0
    _actor: ActorType | None = None
    _key: bytes = b""
    _depth: int = 0
    _mode: Mode = "handler"
    _outputs: list[Output] = attrs.field(factory=list[Output])
    _rng: Random | None = None
    _rng_position: tuple[int, int] = (-1, -1)

    @property
    def position(self) -> tuple[int, int]:
        """(index, ordinal) of this command in the log."""
        return self._index, self._position[1]

    @property
    def key(self) -> Key:
        """The key of this actor."""
        assert self._actor is not None
        return decode_key(self._actor.key, self._key)

    @property
    def rng(self) -> Random:
        """Random numbers seeded from the position: the same on every replica, not secret."""
        self._check_handler("rng")
        position = self.position
        if self._rng is None or self._rng_position != position:
            self._rng = Random(self._seed << 96 | self._index << 32 | position[1])
            self._rng_position = position
        return self._rng

    def uuid(self) -> UUID:
        """A version 4 UUID drawn from `rng`."""
        return UUID(int=self.rng.getrandbits(128), version=4)

    def send(self, key: Key, message: object) -> None:
        """Send a message to the actor with this key, of the type that takes the message.

        It is delivered after this handler returns, within the same log entry, in the order of the
        calls. Its reply is dropped. Its failure fails the whole command.
        """
        self._check_handler("send")
        route = self._app.route_for(type(message))
        if route.method.kind != "handler":
            raise ContextMisuse(f"{route.method.name} is a {route.method.kind}; send to a @handler")
        if self._depth >= self._limits.send_depth_max:
            raise LimitExceeded(f"sends are nested deeper than {self._limits.send_depth_max}")
        encoded = self._check_key(encode_key(route.actor.key, key))
        quarantine = self._state.quarantined.get((route.actor.id, encoded))
        if quarantine is not None:
            raise TargetQuarantined(f"{route.actor.name} {key!r} is quarantined: {quarantine}")
        self._put(Send(route, encoded, self._encode(message), self._depth + 1))

    def emit(self, event: object) -> None:
        """Send an event to the clients that subscribe to this actor."""
        if self._mode == "query":
            self._check_handler("emit")
        actor = self._actor
        assert actor is not None
        id = actor.emits.get(type(event))
        if id is None:
            name = type(event).__qualname__
            raise ContextMisuse(f"{actor.name} emits {name}: declare it, @actor(emits=({name},))")
        body = encode_body(event)
        limits, outputs = self._limits, self._outputs
        if len(body) > limits.message_bytes_max or len(outputs) >= limits.outputs_per_command_max:
            self._check_size(event, body)
            self._check_room()
        outputs.append((actor.id, self._key, id, body))

    def set_timer(
        self, message: object, *, at_ns: int | None = None, after_ns: int | None = None
    ) -> int:
        """Have this actor's @on_timer method for the message called at a log time.

        Returns the timer's id, for `cancel_timer`.
        """
        self._check_handler("set_timer")
        actor = self._actor
        assert actor is not None
        route = self._app.timers.get(message_id(type(message)) or 0)
        if route is None or route.actor is not actor:
            name = type(message).__qualname__
            raise ContextMisuse(f"{actor.name} has no @on_timer method that takes {name}")
        if (at_ns is None) == (after_ns is None):
            raise ContextMisuse("set_timer takes either at_ns or after_ns")
        deadline = at_ns if after_ns is None else self.time_ns + after_ns
        if type(deadline) is not int or not 0 <= deadline <= INT64_MAX:
            raise ContextMisuse("a timer's time is an integer of nanoseconds, 0 or more")
        timers = self._state.timers
        if len(timers.by_id) >= self._limits.timers_max:
            raise LimitExceeded(f"more than {self._limits.timers_max} timers")
        body = self._encode(message)
        id = timers.reserve()
        self._put(SetTimer(id, deadline, actor.id, self._key, route.message_id, body))
        return id

    def cancel_timer(self, id: int) -> None:
        """Forget a timer that this actor set; one that has fired is ignored."""
        self._check_handler("cancel_timer")
        assert self._actor is not None
        self._put(CancelTimer(id, self._actor.id, self._key))

    def _check_handler(self, what: str) -> None:
        if self._mode == "query":
            raise ContextMisuse(f"a query may not use {what}: it must leave no trace")

    def _check_key(self, encoded: bytes) -> bytes:
        if len(encoded) > self._limits.key_bytes_max:
            raise LimitExceeded(f"a key has at most {self._limits.key_bytes_max} bytes")
        return encoded

    def _encode(self, message: object) -> bytes:
        body = encode_body(message)
        self._check_size(message, body)
        return body

    def _check_size(self, message: object, body: bytes) -> None:
        if len(body) > self._limits.message_bytes_max:
            raise LimitExceeded(
                f"{type(message).__qualname__} has {len(body)} bytes, "
                f"{self._limits.message_bytes_max} are allowed"
            )

    def _put(self, output: Output) -> None:
        self._check_room()
        self._outputs.append(output)

    def _check_room(self) -> None:
        if len(self._outputs) >= self._limits.outputs_per_command_max:
            raise LimitExceeded(
                f"one command has at most {self._limits.outputs_per_command_max} sends, events "
                "and timers"
            )
