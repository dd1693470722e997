"""Actors: plain classes whose fields are snapshot state and whose methods handle messages.

    @actor(id=1, key=str, emits=(Deposited,))
    class Account:
        cents: int = 0

        @handler
        def deposit(self, command: Deposit, context: Context) -> Balance: ...
        @query
        def balance(self, query: BalanceOf) -> Balance: ...
        @on_timer
        def expire(self, timer: Expire, context: Context) -> None: ...

An actor exists once per key and comes into being, with its defaults, at the first command for that
key. Every rule is checked when the class is made; an error names the remedy. Nested state is an
attrs class: plain `attrs.define`, or `@state`, which is the same with faster assignment. State that
an older version wrote into a snapshot is lifted, see versions.py; parts are lifted with the actor.
Finding the actor for a message is left to the App, running it to the machine.
"""

import inspect
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any, Literal, TypeVar, dataclass_transform, overload

import attrs

from .errors import DefinitionError
from .fields import check_body, check_fields, check_types
from .message import ID_MAX, message_id
from .versions import Versions, check_version, upcasters, versions_of

C = TypeVar("C", bound=type)
F = TypeVar("F", bound=Callable[..., object])
Kind = Literal["handler", "query", "on_timer"]


@attrs.frozen
class Mark:
    """What a decorator notes on a method."""

    kind: Kind
    internal: bool


@attrs.frozen
class Method:
    """One checked method of an actor class."""

    kind: Kind
    internal: bool
    message: type
    function: Callable[..., object]
    takes_context: bool
    name: str


@attrs.frozen
class Declaration:
    """What `@actor` knows about its class; the class carries it as `__actor__`."""

    id: int
    key: type
    emits: tuple[type, ...]
    methods: tuple[Method, ...]
    versions: Versions


@overload
def handler(method: F, /) -> F: ...
@overload
def handler(*, internal: bool) -> Callable[[F], F]: ...
def handler(method: Any = None, /, *, internal: bool = False) -> Any:
    """A method that handles a command: `(self, command, context) -> reply`.

    `internal=True`: only other actors may send it; a client is told UNKNOWN_MESSAGE.
    """

    def decorate(function: Any) -> Any:
        function.__leftfold__ = Mark("handler", internal)
        return function

    return decorate if method is None else decorate(method)


def query(method: F, /) -> F:
    """A method that answers without a trace in the log: `(self, query) -> reply`.

    It may take the context as well, for the time; it may not change state, send or emit.
    """
    method.__leftfold__ = Mark("query", False)  # type: ignore[attr-defined]
    return method


def on_timer(method: F, /) -> F:
    """A method that runs when a timer is due: `(self, message, context) -> None`."""
    method.__leftfold__ = Mark("on_timer", False)  # type: ignore[attr-defined]
    return method


@dataclass_transform(field_specifiers=(attrs.field,))
def state(cls: C, /) -> C:
    """A class for parts of an actor's state: attrs, slotted, checked as `@actor` checks."""
    check_body(cls, "state")
    for name, _, _ in upcasters(cls):
        raise DefinitionError(
            f"{cls.__qualname__}.{name}: a part has no version of its own; raise the version of the "
            "actor or the message that holds it, and lift the part there"
        )
    made = attrs.define(
        slots=True, auto_attribs=True, on_setattr=attrs.setters.NO_OP, weakref_slot=False
    )(cls)
    check_fields(made, made.__qualname__)
    check_types(made)
    return made


@dataclass_transform(field_specifiers=(attrs.field,))
def actor(
    *, id: int, key: type, emits: tuple[type, ...] = (), version: int = 0, oldest: int = 0
) -> Callable[[C], C]:
    """Make the class an actor type.

    `id`: 1 to 65535, stable for ever. `key`: str, int (64 bits, signed) or bytes. `emits`: the
    message classes that its handlers may emit as events. `version`: of its fields and their parts;
    raise it by one when they change other than by a new field with a default. `oldest`: the oldest
    version that is still read.
    """
    if type(id) is not int or not 1 <= id <= ID_MAX:
        raise DefinitionError(f"@actor(id={id!r}): the id is an integer from 1 to {ID_MAX}")
    if key not in (str, int, bytes):
        raise DefinitionError(f"@actor(key={key!r}): the key is str, int or bytes")
    check_version(version, oldest, f"@actor(id={id}, ")

    def decorate(cls: C) -> C:
        check_body(cls, "actor")
        made = attrs.define(
            slots=True, auto_attribs=True, on_setattr=attrs.setters.NO_OP, weakref_slot=False
        )(cls)
        owner = made.__qualname__
        check_fields(made, owner)
        check_types(made)
        for field in attrs.fields(made):
            if field.default is attrs.NOTHING:
                raise DefinitionError(
                    f"{owner}.{field.name} needs a default: an actor comes into being by itself "
                    "at the first command for its key"
                )
        for event in emits:
            if message_id(event) is None:
                raise DefinitionError(f"{owner}: emits {event!r}, which is not a @message class")
        versions = versions_of(made, version, oldest)
        made.__actor__ = Declaration(  # type: ignore[attr-defined]
            id, key, emits, _methods(made), versions
        )
        return made

    return decorate


def declaration(cls: type) -> Declaration:
    """What `@actor` noted on this class."""
    found = vars(cls).get("__actor__")
    if not isinstance(found, Declaration):
        raise DefinitionError(f"{cls!r} is not an actor; decorate it with @actor(id=..., key=...)")
    return found


def _methods(cls: type) -> tuple[Method, ...]:
    """Every marked method, bases first, each checked."""
    marked: dict[str, FunctionType] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            if isinstance(getattr(value, "__leftfold__", None), Mark):
                marked[name] = value
    if not marked:
        raise DefinitionError(f"{cls.__qualname__} handles nothing; mark a method with @handler")
    return tuple(_method(cls, name, function) for name, function in marked.items())


def _method(cls: type, name: str, function: FunctionType) -> Method:
    mark: Mark = function.__leftfold__  # type: ignore[attr-defined]
    where = f"{cls.__qualname__}.{name}"
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise DefinitionError(
            f"{where} is async or a generator; handlers are plain functions: "
            "for work in several steps keep state and set a timer"
        )
    if inspect.isasyncgenfunction(function) or not inspect.isfunction(function):
        raise DefinitionError(f"{where} must be a plain function")
    parameters = list(inspect.signature(function).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    counts = (2, 3) if mark.kind == "query" else (3,)
    if len(positional) != len(parameters) or len(parameters) not in counts:
        expected = "(self, query)" if mark.kind == "query" else "(self, message, context)"
        raise DefinitionError(f"{where} must take {expected}")
    found = _annotation(function, parameters[1], where)
    if not isinstance(found, type) or message_id(found) is None:
        raise DefinitionError(
            f"{where}: annotate `{parameters[1].name}` with one @message class, not {found!r}"
        )
    return Method(mark.kind, mark.internal, found, function, len(parameters) == 3, where)


def _annotation(function: FunctionType, parameter: inspect.Parameter, where: str) -> object:
    """The annotation of a parameter, evaluated if it is text."""
    found = parameter.annotation
    if found is parameter.empty:
        raise DefinitionError(f"{where}: annotate `{parameter.name}` with its @message class")
    if not isinstance(found, str):
        return found
    module = sys.modules.get(function.__module__)
    names = {**vars(module), **function.__globals__} if module else function.__globals__
    try:
        return eval(found, names)
    except NameError as error:
        raise DefinitionError(
            f"{where}: {found} is not defined yet; define message classes at module level, "
            "above the actor"
        ) from error
