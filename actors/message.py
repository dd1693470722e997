"""Messages: typed values with a stable number, checked when the class is made.

    @message(id=1)
    class Deposit(Command["Balance"]):
        account: str
        cents: int

`@message` makes a slotted attrs class. Type checkers see it frozen; at run time it is not, since a
frozen attrs class takes twice as long to construct and everything that leaves a handler is encoded
at that moment anyway. On the wire a message is its id, in the slot's tag, its version, and a msgpack map of
its fields. A field added later needs a default; for any other change raise the version and lift
what older versions wrote, see versions.py. Which actor handles it is left to the App.
"""

from collections.abc import Callable
from typing import Any, Generic, TypeVar, dataclass_transform

import attrs

from .errors import DefinitionError
from .fields import check_body, check_fields, check_types
from .versions import Versions, check_version, versions_of

Reply_co = TypeVar("Reply_co", covariant=True)
C = TypeVar("C", bound=type)

ID_MAX = 65_535


class Command(Generic[Reply_co]):
    """The base of a message that is answered: `class Deposit(Command["Balance"])`.

    The parameter is the reply: a message class, a union of several, or None. Queries use it too.
    """

    __slots__ = ()


@dataclass_transform(frozen_default=True, field_specifiers=(attrs.field,))
def message(*, id: int, version: int = 0, oldest: int = 0) -> Callable[[C], C]:
    """Make the class a message with this wire id, 1 to 65535, which must never change.

    `version`: of its fields; raise it by one when they change other than by a new field with a
    default. `oldest`: the oldest version that is still read. Of a reply or an event, clients must know a
    version before the cluster writes it; of a command or a query, the cluster must know it first.
    """
    if type(id) is not int or not 1 <= id <= ID_MAX:
        raise DefinitionError(f"@message(id={id!r}): the id is an integer from 1 to {ID_MAX}")
    check_version(version, oldest, f"@message(id={id}, ")

    def decorate(cls: C) -> C:
        check_body(cls, "message")
        for base in cls.__mro__[1:]:
            if "__message_id__" in vars(base):
                raise DefinitionError(
                    f"{cls.__qualname__} inherits from the message {base.__qualname__}; "
                    "messages do not inherit: put shared fields into an attrs class and hold it"
                )
        made = attrs.define(
            slots=True,
            auto_attribs=True,
            on_setattr=attrs.setters.NO_OP,
            unsafe_hash=True,
            weakref_slot=False,
        )(cls)
        made.__message_id__ = id  # type: ignore[attr-defined]
        check_fields(made, made.__qualname__)
        check_types(made)
        made.__versions__ = versions_of(made, version, oldest)  # type: ignore[attr-defined]
        return made

    return decorate


def message_id(cls: type) -> int | None:
    """The wire id of a message class; None for any other class."""
    found: Any = vars(cls).get("__message_id__")
    return found


def message_versions(cls: type) -> Versions:
    """The versions of a message class."""
    found = vars(cls).get("__versions__")
    assert isinstance(found, Versions), f"{cls!r} is not a message"
    return found


def message_version(cls: type) -> int:
    """The version that a message of this class is written with."""
    return message_versions(cls).current
