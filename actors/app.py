"""The App: which message goes to which actor type, and how keys and bodies become bytes.

    app = App(actors=[Account], name="bank")

It is made once, at import, and never changes. It checks what can only be checked when all classes
are known: numbers that are used twice, replies that do not fit, types that were not defined yet.
Clients and tools need nothing but the App to write and read slots. What it holds can be told as plain
values: `schema()`.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from types import NoneType, UnionType
from typing import Any, ForwardRef, Union, get_args, get_origin

import attrs
import msgspec

from .actor import Declaration, Method, declaration
from .errors import DefinitionError
from .fields import check_types
from .message import Command, message_id, message_versions
from .schema import schema_of
from .verbs import Verb, verbs_of
from .versions import Versions

Key = str | int | bytes
Decode = Callable[[bytes], Any]

encode_body: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode

KEY_INT_BYTES = 8
BUILD_MAX = 200


def encode_key(kind: type, key: Key) -> bytes:
    """The canonical bytes of a key: UTF-8, 8 bytes little-endian signed, or the bytes."""
    if type(key) is not kind:
        raise TypeError(f"the key must be {kind.__name__}, not {type(key).__name__}")
    if isinstance(key, str):
        return key.encode()
    if isinstance(key, int):
        return key.to_bytes(KEY_INT_BYTES, "little", signed=True)
    return key


def decode_key(kind: type, encoded: bytes) -> Key:
    """The key that these bytes stand for; ValueError if they stand for none."""
    if kind is str:
        return encoded.decode()
    if kind is int:
        if len(encoded) != KEY_INT_BYTES:
            raise ValueError("an int key has 8 bytes")
        return int.from_bytes(encoded, "little", signed=True)
    return encoded


@attrs.frozen(eq=False)
class ActorType:
    """One actor class with what the machine needs to keep its instances."""

    id: int
    cls: type
    key: type
    emits: dict[type, int]
    decode: Decode
    versions: Versions
    _decode_many: Callable[[bytes], list[Any]]

    def decode_states(self, version: int, payload: bytes | memoryview) -> list[Any]:
        """The actors in a msgpack array of states; an older version is lifted, a newer refused."""
        if version != self.versions.current:
            payload = self.versions.lift_bodies(version, bytes(payload))
        return self._decode_many(payload)  # type: ignore[arg-type]

    @property
    def version(self) -> int:
        """The version that states are written with."""
        return self.versions.current

    @property
    def name(self) -> str:
        """The class's name, for texts."""
        return self.cls.__qualname__


@attrs.frozen(eq=False)
class Route:
    """Where one message class leads."""

    message: type
    message_id: int
    actor: ActorType
    method: Method
    decode: Decode
    # The wire id of each class that the method may return; NoneType is 0.
    replies: dict[type, int]
    versions: Versions

    def decoder(self, version: int) -> Decode:
        """Decodes what this version of the message wrote, lifted to the present one."""
        decode, versions = self.decode, self.versions
        if version == versions.current:
            return decode
        return lambda body: decode(versions.lift_body(version, body))

    @property
    def call(self) -> Callable[[Any, Any, Any], Any]:
        """The function as (actor, message, context), whether or not it wants the context."""
        function = self.method.function
        if self.method.takes_context:
            return function
        return lambda instance, message, _: function(instance, message)


class App:
    """The registry of one application; see the file's text."""

    def __init__(
        self,
        *,
        actors: Iterable[type],
        name: str = "app",
        build: str | None = None,
        resp: Mapping[str, type] | None = None,
    ) -> None:
        """`resp`: message classes by the names that Redis's clients call them by, see verbs.py.

        `build`: a text that is another one whenever the code answers differently.

        Without one the build is made from the sources, see runtime/build.py.
        """
        if build is not None and not (build.isprintable() and 0 < len(build) <= BUILD_MAX):
            raise DefinitionError(
                f"App(build={build!r}): a build is one line of 1 to {BUILD_MAX} printable characters"
            )
        self.name = name
        self.build = build
        self.actor_types: dict[int, ActorType] = {}
        self.messages: dict[int, type] = {}
        self.commands: dict[int, Route] = {}
        self.queries: dict[int, Route] = {}
        self.timers: dict[int, Route] = {}
        # By wire id, of the messages that are not of version 0.
        self.versions: dict[int, int] = {}
        self._decoders: dict[int, Decode] = {}
        self._types: dict[type, ActorType] = {}
        self._routes: dict[type, Route] = {}
        self._schema_json: bytes | None = None
        for cls in actors:
            self._add_actor(cls, declaration(cls))
        if not self.actor_types:
            raise DefinitionError(f"App {name!r} has no actors")
        # By upper-case name.
        self.verbs: dict[str, Verb] = verbs_of(self, resp or {})

    def message_for(self, id: int) -> type:
        """The message class with this wire id; KeyError if there is none."""
        return self.messages[id]

    def encode(self, message: object) -> tuple[int, bytes]:
        """The wire id and the body of a message."""
        id = message_id(type(message))
        if id is None or self.messages.get(id) is not type(message):
            raise TypeError(f"{type(message).__qualname__} is not a message of App {self.name!r}")
        return id, encode_body(message)

    def decode(self, id: int, body: bytes | memoryview, version: int | None = None) -> Any:
        """The message with this wire id and body, of the present version or lifted; id 0 is None."""
        if id == 0:
            return None
        if version is not None and version != self.versions.get(id, 0):
            body = self.lift(id, version, bytes(body))
        return self._decoders[id](body)  # type: ignore[arg-type]

    def lift(self, id: int, version: int, body: bytes) -> bytes:
        """The body of a message of this version as the present version has it."""
        return message_versions(self.messages[id]).lift_body(version, body)

    def schema(self) -> dict[str, Any]:
        """All classes and what they have to do with each other, as plain values; see schema.py."""
        return schema_of(self)

    def schema_json(self) -> bytes:
        """The schema as JSON, the same bytes for the same schema."""
        if self._schema_json is None:
            self._schema_json = msgspec.json.encode(self.schema(), order="sorted")
        return self._schema_json

    def route_for(self, message: type) -> Route:
        """Where messages of this class go; TypeError if no actor takes them."""
        route = self._routes.get(message)
        if route is None:
            raise TypeError(f"no actor of App {self.name!r} takes {message.__qualname__}")
        return route

    def actor_type(self, cls: type) -> ActorType:
        """The actor type of an actor class."""
        found = self._types.get(cls)
        if found is None:
            raise TypeError(f"{cls.__qualname__} is not an actor of App {self.name!r}")
        return found

    def is_query(self, message: type) -> bool:
        """Whether messages of this class are queries, which are not logged."""
        return self.route_for(message).method.kind == "query"

    def encode_key(self, target: type, key: Key) -> bytes:
        """The bytes of a key of the actor class, or of the actor that takes the message class."""
        actor = self._types.get(target) or self.route_for(target).actor
        return encode_key(actor.key, key)

    def decode_key(self, actor_type_id: int, encoded: bytes) -> Key:
        """The key of an actor of this type."""
        return decode_key(self.actor_types[actor_type_id].key, encoded)

    def _add_actor(self, cls: type, declared: Declaration) -> None:
        other = self.actor_types.get(declared.id)
        if other is not None:
            raise DefinitionError(f"actors {other.name} and {cls.__qualname__} share id {other.id}")
        if not check_types(cls):
            raise DefinitionError(
                f"{cls.__qualname__}: a field's type is not defined at module level"
            )
        emits = {event: self._add_message(event) for event in declared.emits}
        actor = ActorType(
            declared.id,
            cls,
            declared.key,
            emits,
            msgspec.msgpack.Decoder(cls).decode,
            declared.versions,
            msgspec.msgpack.Decoder(list[cls]).decode,  # type: ignore[valid-type]
        )
        self.actor_types[declared.id] = actor
        self._types[cls] = actor
        for method in declared.methods:
            self._add_route(actor, method)

    def _add_route(self, actor: ActorType, method: Method) -> None:
        taken = self._routes.get(method.message)
        if taken is not None:
            raise DefinitionError(
                f"{method.message.__qualname__} is taken by both {taken.method.name} and "
                f"{method.name}; a message class belongs to one method of one actor"
            )
        id = self._add_message(method.message)
        replies = {NoneType: 0}
        if method.kind != "on_timer":
            replies = self._replies(method)
        versions = message_versions(method.message)
        route = Route(method.message, id, actor, method, self._decoders[id], replies, versions)
        self._routes[method.message] = route
        tables = {"handler": self.commands, "query": self.queries, "on_timer": self.timers}
        tables[method.kind][id] = route

    def _add_message(self, cls: type) -> int:
        id = message_id(cls)
        if id is None:
            raise DefinitionError(f"{cls!r} is not a message; decorate it with @message(id=...)")
        other = self.messages.setdefault(id, cls)
        if other is not cls:
            raise DefinitionError(
                f"messages {other.__qualname__} and {cls.__qualname__} share id {id}"
            )
        if id not in self._decoders:
            if not check_types(cls):
                raise DefinitionError(
                    f"{cls.__qualname__}: a field's type is not defined at module level"
                )
            self._decoders[id] = msgspec.msgpack.Decoder(cls).decode
            version = message_versions(cls).current
            if version:
                self.versions[id] = version
        return id

    def _replies(self, method: Method) -> dict[type, int]:
        """The reply classes that `Command[Reply]` promises, with their ids."""
        replies: dict[type, int] = {}
        for reply in reply_types(method.message):
            replies[reply] = 0 if reply is NoneType else self._add_message(reply)
        return replies


def reply_types(message: type) -> tuple[type, ...]:
    """The classes in `Command[...]` of this message class; without one, None is the reply."""
    for base in getattr(message, "__orig_bases__", ()):
        if get_origin(base) is Command:
            found = get_args(base)[0]
            break
    else:
        return (NoneType,)
    if isinstance(found, ForwardRef):
        found = found.__forward_arg__
    if isinstance(found, str):
        try:
            found = eval(found, vars(sys.modules[message.__module__]))
        except NameError as error:
            raise DefinitionError(
                f"{message.__qualname__}: the reply {found} is not defined at module level"
            ) from error
    parts = get_args(found) if get_origin(found) in (Union, UnionType) else (found,)
    replies = tuple(NoneType if part is None else part for part in parts)
    for reply in replies:
        if not isinstance(reply, type) or (reply is not NoneType and message_id(reply) is None):
            raise DefinitionError(
                f"{message.__qualname__}: a reply is a @message class or None, not {reply!r}"
            )
    return replies
