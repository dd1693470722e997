"""Plain messages: those that the fold may read and write in C (plain.h) instead of by msgspec.

Their fields hold int, bool, float, str, bytes or None, and nothing looks at an instance when it is
decoded. msgspec remains what says how a message looks in bytes: the order of the fields is taken
from what it writes, and all that is unusual in a message is left to it.
"""

from types import NoneType, UnionType
from typing import Any, Final, Union, cast, get_args, get_origin, get_type_hints

import attrs
import msgspec

from . import _fold

HOLDS: Final[dict[type, int]] = {NoneType: 1, bool: 2, int: 4, float: 8, str: 16, bytes: 32}
FIELDS_MAX = 15
NAME_BYTES_MAX = 31
HOOKS = ("__attrs_pre_init__", "__attrs_post_init__")
OWN = ("__new__", "__setattr__", "__getattribute__")


def plain(cls: type) -> _fold.Plain | None:
    """What reads and writes the messages of this class; None: msgspec does."""
    if cls is NoneType or not is_bare(cls):
        return None
    hints = get_type_hints(cls, include_extras=True)
    holds = {field.name: held(hints[field.name]) for field in attrs.fields(cls)}
    if not 0 < len(holds) <= FIELDS_MAX or not all(holds.values()):
        return None
    if any(len(name.encode()) > NAME_BYTES_MAX for name in holds):
        return None
    empty = cast(Any, object).__new__(cls)
    for name in holds:
        setattr(empty, name, None)
    order = cast(dict[str, Any], msgspec.msgpack.decode(msgspec.msgpack.encode(empty)))
    if set(order) != set(holds):
        return None
    return _fold.Plain(cls, tuple((name, holds[name]) for name in order))


def is_bare(cls: type) -> bool:
    """Whether an instance is its fields and nothing else, and nothing happens when one is set."""
    fields = attrs.fields(cls)
    word = object().__sizeof__() // 2
    return (
        cls.__basicsize__ == object.__basicsize__ + word * len(fields)
        and cls.__dictoffset__ == 0
        and all(getattr(cls, name) is getattr(object, name) for name in OWN)
        and not any(hasattr(cls, hook) for hook in HOOKS)
        and not any(field.validator is not None for field in fields)
    )


def held(hint: Any) -> int:
    """The set of what a field with this type may hold; 0: something else as well."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    found = 0
    for part in parts:
        if part is not None and part not in HOLDS:
            return 0
        found |= HOLDS[NoneType if part is None else part]
    # Which of both a number is would be msgspec's to say.
    return 0 if found & HOLDS[int] and found & HOLDS[float] else found
