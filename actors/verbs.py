"""Verbs: the commands that an App offers to clients that speak Redis's protocol.

    app = App(actors=[OrderBook], resp={"ORDER.NEW": Place, "ORDER.DEPTH": DepthOf})

`ORDER.NEW sym side price quantity` becomes the message Place("side", price, quantity) for the actor "sym": the first argument
is the actor's key, the others are the message's fields in their order; those at the end that have defaults may be left out. A
verb whose message is a query reads. Every rule is checked when the App is made. Reading the arguments of one request is left
to the gateway: an integer, a number, or 0 and 1 for a bool, with Redis's errors for what is none; text is UTF-8.
"""

from collections.abc import Iterable
from enum import Enum
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs
from attrs import frozen

from .errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .app import App, Route

Value = Literal["text", "bytes", "integer", "real", "boolean"]

NAME_BYTES_MAX = 32
FIELDS_MAX = 16
FIELD_BYTES_MAX = 64
KINDS: dict[object, Value] = {
    str: "text",
    bytes: "bytes",
    int: "integer",
    float: "real",
    bool: "boolean",
}


@frozen
class Verb:
    """One command for clients that speak Redis's protocol."""

    name: str
    route: "Route"
    key: Value
    # Of the arguments behind the key, in order.
    fields: tuple[tuple[str, Value], ...]
    # How many of them must be there.
    required: int

    @property
    def reads(self) -> bool:
        """Whether it is a query."""
        return self.route.method.kind == "query"


def verbs_of(app: "App", messages: "Mapping[str, type]") -> dict[str, Verb]:
    """The verbs of an App, by upper-case name."""
    verbs: dict[str, Verb] = {}
    for written, message in messages.items():
        verb = _verb(app, written, message)
        if verb.name in verbs:
            raise DefinitionError(f"resp={written!r}: there are two of that name")
        verbs[verb.name] = verb
    return verbs


def _verb(app: "App", written: str, message: type) -> Verb:
    where = f"resp={written!r}"
    name = written.upper()
    if (
        not (name.isascii() and name.isprintable() and 0 < len(name) <= NAME_BYTES_MAX)
        or " " in name
    ):
        raise DefinitionError(
            f"{where}: a name is one word of 1 to {NAME_BYTES_MAX} ASCII characters"
        )
    try:
        route = app.route_for(message)
    except (TypeError, AttributeError) as error:
        raise DefinitionError(f"{where}: {error}") from error
    if route.method.kind == "on_timer" or route.method.internal:
        raise DefinitionError(f"{where}: clients may not send {message.__qualname__}")
    hints = get_type_hints(message)
    fields: list[tuple[str, Value]] = []
    required = 0
    for field in attrs.fields(message):
        kind = _kind(hints[field.name])
        if kind is None or len(field.name.encode()) > FIELD_BYTES_MAX:
            if field.default is not attrs.NOTHING:
                break  # It, and what comes behind it, keeps its default.
            raise DefinitionError(
                f"{where}: {message.__qualname__}.{field.name} cannot be one argument; "
                "use str, bytes, int, float, bool or an Enum, or give it a default"
            )
        fields.append((field.name, kind))
        required += field.default is attrs.NOTHING
    if len(fields) > FIELDS_MAX:
        raise DefinitionError(f"{where}: a command has at most {FIELDS_MAX} arguments and a key")
    return Verb(name, route, KINDS[route.actor.key], tuple(fields), required)


def _kind(hint: Any) -> Value | None:
    if hint in KINDS:
        return KINDS[hint]
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        kinds: set[Value | None] = {_kind(part) for part in parts if part is not NoneType}
        return kinds.pop() if len(kinds) == 1 else None
    if origin is Literal:
        return _common(parts)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _common([member.value for member in hint])
    return None


def _common(values: Iterable[object]) -> Value | None:
    kinds: set[Value | None] = {KINDS.get(type(value)) for value in values}
    return kinds.pop() if len(kinds) == 1 else None
