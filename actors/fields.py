"""What fields messages and actors may have, checked when the class is made.

msgspec encodes attrs classes, with pitfalls that are silent: private fields are dropped, converters
are skipped, a set comes back in another order, a value of a subclass comes back as its base. Each
is refused here, with a remedy, before the first byte is written. Fields of a class whose types are
not all defined yet are checked again when the App is made.
"""

from collections.abc import Iterator

import attrs
import msgspec.inspect

from .errors import DefinitionError

SCALARS = (
    msgspec.inspect.NoneType,
    msgspec.inspect.BoolType,
    msgspec.inspect.IntType,
    msgspec.inspect.FloatType,
    msgspec.inspect.StrType,
    msgspec.inspect.BytesType,
    msgspec.inspect.DateType,
    msgspec.inspect.TimeDeltaType,
    msgspec.inspect.UUIDType,
    msgspec.inspect.DecimalType,
    msgspec.inspect.EnumType,
    msgspec.inspect.LiteralType,
)

REMEDIES: dict[str, str] = {
    "SetType": "a set comes back from a snapshot in another order; use dict[T, None] or a list",
    "FrozenSetType": "a frozenset comes back in another order; use dict[T, None] or a tuple",
    "AnyType": "Any and object lose the type; name the type",
    "DateTimeType": "a datetime loses its zone; store integer nanoseconds",
    "TimeType": "a time loses its zone; store integer nanoseconds",
    "StructType": "use an attrs class instead of a msgspec.Struct",
    "TypedDictType": "use an attrs class instead of a TypedDict",
    "NamedTupleType": "use an attrs class instead of a NamedTuple",
    "ByteArrayType": "use bytes",
    "MemoryViewType": "use bytes",
}


def check_body(cls: type, kind: str) -> None:
    """Refuse what attrs would silently accept or drop, before attrs sees the class."""
    name = cls.__qualname__
    if "__attrs_attrs__" in vars(cls):
        raise DefinitionError(f"{name}: @{kind} applies attrs itself; remove attrs' decorator")
    if "__del__" in vars(cls):
        raise DefinitionError(f"{name}: __del__ runs at moments that differ; remove it")
    annotations = vars(cls).get("__annotations__", {})
    for attribute, value in vars(cls).items():
        if attribute.startswith("__") or attribute in annotations:
            continue
        if callable(value) or hasattr(value, "__get__"):
            continue
        raise DefinitionError(
            f"{name}.{attribute} has no annotation, so it would not be encoded; "
            f"write `{attribute}: <type> = ...`, or ClassVar for a constant"
        )


def check_fields(cls: type, owner: str) -> None:
    """Refuse attrs fields that do not survive encoding. `owner` is for the text."""
    if "_attrs_cached_hash" in getattr(cls, "__slots__", ()):
        raise DefinitionError(f"{owner}: cache_hash breaks a decoded object; remove it")
    if "__del__" in vars(cls):
        raise DefinitionError(f"{owner}: __del__ runs at moments that differ; remove it")
    for field in attrs.fields(cls):
        where = f"{owner}.{field.name}"
        if field.name.startswith("_"):
            raise DefinitionError(f"{where}: private fields are not encoded; rename it")
        if field.converter is not None:
            raise DefinitionError(f"{where}: converters do not run on decoding; convert outside")
        if field.type is None:
            raise DefinitionError(f"{where} has no annotation; write `{field.name}: <type>`")
        if not field.init:
            raise DefinitionError(f"{where}: init=False is reset on decoding; remove it")


def check_types(cls: type) -> bool:
    """Check the types of all fields, and of attrs classes inside them; False: not all defined."""
    try:
        found = msgspec.inspect.type_info(cls)
    except NameError:
        return False
    except TypeError as error:
        raise DefinitionError(
            f"{cls.__qualname__}: {error}; put what they share into one attrs class, or hold them "
            "in two fields of which one is None"
        ) from error
    seen: set[type] = set()
    _check_type(found, cls.__qualname__, seen)
    return True


def _check_type(found: msgspec.inspect.Type, where: str, seen: set[type]) -> None:
    if isinstance(found, SCALARS):
        return
    if isinstance(found, msgspec.inspect.DataclassType):
        if found.cls in seen:
            return
        seen.add(found.cls)
        if not attrs.has(found.cls):
            raise DefinitionError(f"{where}: {found.cls.__qualname__} must be an attrs class")
        check_fields(found.cls, found.cls.__qualname__)
        for field in found.fields:
            _check_type(field.type, f"{found.cls.__qualname__}.{field.name}", seen)
        return
    parts = list(_parts(found))
    if not parts:
        name = type(found).__name__
        remedy = REMEDIES.get(name, "use numbers, text, bytes, list, tuple, dict or attrs classes")
        raise DefinitionError(f"{where}: {name.removesuffix('Type')} is refused: {remedy}")
    for part in parts:
        _check_type(part, where, seen)


def _parts(found: msgspec.inspect.Type) -> Iterator[msgspec.inspect.Type]:
    """The types inside a container type; nothing for a type that is refused."""
    if isinstance(found, msgspec.inspect.UnionType):
        yield from found.types
    elif isinstance(found, msgspec.inspect.ListType | msgspec.inspect.VarTupleType):
        yield found.item_type
    elif isinstance(found, msgspec.inspect.TupleType):
        yield from found.item_types
    elif isinstance(found, msgspec.inspect.DictType):
        yield found.key_type
        yield found.value_type
