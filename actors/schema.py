"""The schema: an App's classes as plain values, for files that are kept and compared.

    {"format": 1, "app": "bank",
     "messages": {"1": {"name": "Deposit", "version": 0, "oldest": 0, "fields": [...],
                        "taken": {"actor": 1, "kind": "handler", "internal": false,
                                  "method": "Account.deposit"},
                        "replies": [2]}},
     "actors": {"1": {"name": "Account", "version": 0, "oldest": 0, "key": "str", "fields": [...],
                      "emits": [4]}},
     "classes": {"Hold": {"fields": [...]}},
     "enums": {"Side": {"BUY": "buy", "SELL": "sell"}}}

`taken` and `replies` are of what an actor handles; a reply 0 is None. A field is its name, its type
and whether it has a default; with a validator, or in a class with a hook that runs when it is made,
that is said too. A type is a word ("int", "str"), or an object of one item that says what it is made
of: {"list": T}, {"dict": [K, V]}, {"tuple": [T, ...]}, {"sequence": T} for tuple[T, ...],
{"union": [T, ...]}, {"literal": [...]}, {"class": name}, {"enum": name}; with limits, the object has
them as further items ({"int": null, "ge": 0}). The schema is the same for the same classes, wherever
and in whatever order they are defined and listed.
"""

from typing import TYPE_CHECKING, Any, cast

import attrs
import msgspec.inspect
from attrs import Factory, define

from .actor import declaration
from .message import message_versions
from .versions import Versions

if TYPE_CHECKING:
    from .app import App, Route

FORMAT = 1

Type = Any
"""A word, or a dict as the file's text says."""

WORDS: dict[type, str] = {
    msgspec.inspect.NoneType: "None",
    msgspec.inspect.BoolType: "bool",
    msgspec.inspect.IntType: "int",
    msgspec.inspect.FloatType: "float",
    msgspec.inspect.StrType: "str",
    msgspec.inspect.BytesType: "bytes",
    msgspec.inspect.DateType: "date",
    msgspec.inspect.TimeDeltaType: "timedelta",
    msgspec.inspect.UUIDType: "UUID",
    msgspec.inspect.DecimalType: "Decimal",
}
LIMITS = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern")
HOOKS = ("__attrs_pre_init__", "__attrs_post_init__")


def schema_of(app: "App") -> dict[str, Any]:
    """The schema of an App."""
    classes = [*app.messages.values(), *(actor.cls for actor in app.actor_types.values())]
    # In one call, so that one class is one object in all of them.
    infos = dict(zip(classes, msgspec.inspect.multi_type_info(classes), strict=True))
    described = Description()
    routes = app.commands | app.queries | app.timers
    messages: dict[str, Any] = {}
    for id, cls in sorted(app.messages.items()):
        found = _head(cls, message_versions(cls)) | described.body(infos[cls])
        if id in routes:
            found |= _taken(routes[id])
        messages[str(id)] = found
    actors: dict[str, Any] = {}
    for id, actor in sorted(app.actor_types.items()):
        actors[str(id)] = {
            **_head(actor.cls, actor.versions),
            "key": actor.key.__name__,
            **described.body(infos[actor.cls]),
            "emits": sorted(actor.emits.values()),
        }
    return {
        "format": FORMAT,
        "app": app.name,
        "messages": messages,
        "actors": actors,
        "classes": described.classes,
        "enums": described.enums,
    }


def _head(cls: type, versions: Versions) -> dict[str, Any]:
    return {"name": cls.__name__, "version": versions.current, "oldest": versions.oldest}


def _taken(route: "Route") -> dict[str, Any]:
    taken = {
        "actor": declaration(route.actor.cls).id,
        "kind": route.method.kind,
        "internal": route.method.internal,
        "method": route.method.name,
    }
    return {"taken": taken, "replies": sorted(route.replies.values())}


@define(eq=False)
class Description:
    """One description of many classes, each told once."""

    classes: dict[str, Any] = Factory(dict[str, Any])
    enums: dict[str, Any] = Factory(dict[str, Any])
    # Names that are given, by what has them.
    _names: dict[object, str] = Factory(dict[object, str])

    def body(self, info: msgspec.inspect.Type) -> dict[str, Any]:
        """The fields of a class, and what runs when one is made."""
        assert isinstance(info, msgspec.inspect.DataclassType)
        # Of a generic class with arguments, the class.
        cls = cast(type, getattr(info.cls, "__origin__", info.cls))
        attributes = attrs.fields_dict(cls)
        fields: list[dict[str, Any]] = []
        for field in info.fields:
            found = {
                "name": field.name,
                "type": self.type(field.type),
                "default": not field.required,
            }
            if attributes[field.name].validator is not None:
                found["validator"] = True
            fields.append(found)
        body: dict[str, Any] = {"fields": fields}
        if hooks := [hook for hook in HOOKS if hasattr(cls, hook)]:
            body["hooks"] = hooks
        return body

    def type(self, info: msgspec.inspect.Type) -> Type:
        """A type, with the classes in it told as well."""
        limits = {
            name: limit for name in LIMITS if (limit := getattr(info, name, None)) is not None
        }
        word = WORDS.get(type(info))
        if word is not None:
            return {word: None, **limits} if limits else word
        match info:
            case msgspec.inspect.ListType():
                return {"list": self.type(info.item_type), **limits}
            case msgspec.inspect.VarTupleType():
                return {"sequence": self.type(info.item_type), **limits}
            case msgspec.inspect.TupleType():
                return {"tuple": [self.type(item) for item in info.item_types]}
            case msgspec.inspect.DictType():
                return {"dict": [self.type(info.key_type), self.type(info.value_type)], **limits}
            case msgspec.inspect.UnionType():
                return {"union": sorted((self.type(one) for one in info.types), key=_canonical)}
            case msgspec.inspect.LiteralType():
                return {"literal": sorted(info.values, key=_canonical)}
            case msgspec.inspect.EnumType():
                return {"enum": self._enum(info)}
            case msgspec.inspect.DataclassType():
                return {"class": self._class(info)}
            case _:
                raise AssertionError(f"a field of type {info!r} passed the checks")

    def _enum(self, info: msgspec.inspect.EnumType) -> str:
        name, is_new = self._name(info.cls, info.cls.__name__, self.enums)
        if is_new:
            members = info.cls.__members__
            self.enums[name] = {member: one.value for member, one in members.items()}
        return name

    def _class(self, info: msgspec.inspect.DataclassType) -> str:
        cls: Any = info.cls
        shown = cls.__name__ if isinstance(cls, type) else str(cls).rpartition(".")[2]
        name, is_new = self._name(info, shown, self.classes)
        if is_new:
            self.classes[name] = {}  # It may hold itself.
            self.classes[name] = self.body(info)
        return name

    def _name(self, one: Any, name: str, taken: dict[str, Any]) -> tuple[str, bool]:
        """The name of a class, with a number if another one of that name came before."""
        found = self._names.get(id(one))
        if found is not None:
            return found, False
        number, free = 2, name
        while free in taken:
            free = f"{name}~{number}"
            number += 1
        self._names[id(one)] = free
        return free, True


def _canonical(value: object) -> bytes:
    return msgspec.json.encode(value, order="sorted")


def taken_apart(type_: Type) -> tuple[str, Any, dict[str, Any]]:
    """What kind of type it is, what it is made of, and its limits."""
    if isinstance(type_, str):
        return type_, None, {}
    limits = {name: type_[name] for name in LIMITS if name in type_}
    (kind,) = (name for name in type_ if name not in limits)
    return kind, type_[kind], limits


def text_of(type_: Type) -> str:
    """A type as Python writes it."""
    kind, inner, limits = taken_apart(type_)
    match kind:
        case "list":
            text = f"list[{text_of(inner)}]"
        case "sequence":
            text = f"tuple[{text_of(inner)}, ...]"
        case "tuple":
            text = f"tuple[{', '.join(map(text_of, inner)) or '()'}]"
        case "dict":
            text = f"dict[{', '.join(map(text_of, inner))}]"
        case "union":
            text = " | ".join(map(text_of, inner))
        case "literal":
            text = f"Literal[{', '.join(map(repr, inner))}]"
        case "class" | "enum":
            text = inner
        case _:
            text = kind
    shown = ", ".join(f"{name}={limit!r}" for name, limit in limits.items())
    return f"{text} ({shown})" if shown else text
