"""Versions: what an older version of a class wrote is lifted to the present one.

    @message(id=1, version=2)
    class Deposit(Command["Balance"]):
        account: str
        cents: int

        @upcast(from_version=0)
        @staticmethod
        def from_amount(fields: Fields) -> Fields:
            return {"account": fields["name"], "amount": fields["amount"]}

        @upcast(from_version=1)
        @staticmethod
        def from_whole(fields: Fields) -> Fields:
            return {"account": fields["account"], "cents": 100 * fields["amount"]}

A class of version N has one upcaster from each version below N, back to `oldest`. They run one
after the other on the fields as plain values: text, numbers, bytes, lists, dicts; a part that is an
attrs class is a dict of its fields, an enum its value, a date, a UUID or a Decimal its text. What
comes out is read as the class reads its own bytes, so it may hold real objects as well. An upcaster
is part of the fold: it may look at nothing but what it is given. What is of the present version
never meets any of this.
"""

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import msgspec
from attrs import frozen

from .errors import DefinitionError, UnreadableVersion, UpcastFailed
from .failure import describe_error

Fields: TypeAlias = dict[str, Any]
Lift = Callable[[Fields], Fields]
L = TypeVar("L", bound=Lift)

VERSION_MAX = 255

_encode = msgspec.msgpack.Encoder().encode
_decode_fields: Callable[[bytes], Fields] = msgspec.msgpack.Decoder(Fields).decode
_decode_many: Callable[[bytes], list[Fields]] = msgspec.msgpack.Decoder(list[Fields]).decode


def upcast(*, from_version: int) -> Callable[[L], L]:
    """A static method that takes the fields of a version and returns those of the next one."""
    if type(from_version) is not int or not 0 <= from_version < VERSION_MAX:
        raise DefinitionError(
            f"@upcast(from_version={from_version!r}): a version is an integer from 0 to "
            f"{VERSION_MAX - 1}"
        )

    def decorate(method: L) -> L:
        function: Any = getattr(method, "__func__", method)
        function.__upcasts__ = from_version
        return method

    return decorate


@frozen(eq=False)
class Versions:
    """The versions of one class that can be read."""

    name: str
    current: int
    oldest: int
    # By the version they start from, without gaps from the oldest on.
    steps: dict[int, tuple[str, Lift]]

    def refusal(self, version: int) -> str | None:
        """Why what this version wrote cannot be read; None if it can."""
        if version > self.current:
            return (
                f"{self.name} has version {self.current} here and this is of version {version}: "
                "run the newer code"
            )
        if version < self.oldest:
            return (
                f"{self.name} is read from version {self.oldest} on and this is of version "
                f"{version}: lift it with code that still can"
            )
        return None

    def lift(self, version: int, fields: Fields) -> Fields:
        """The fields as the present version has them."""
        refusal = self.refusal(version)
        if refusal is not None:
            raise UnreadableVersion(refusal)
        for step in range(version, self.current):
            name, upcaster = self.steps[step]
            try:
                fields = upcaster(fields)
            except MemoryError:
                raise
            except Exception as error:
                # The application's, and the first thing to mend.
                raise UpcastFailed(
                    f"{name}, from version {step}: {describe_error(error)}"
                ) from error
            if type(fields) is not dict:
                raise UpcastFailed(
                    f"{name}, from version {step}: returned {type(fields).__name__}, not a dict"
                )
        return fields

    def lift_body(self, version: int, body: bytes) -> bytes:
        """The bytes of one value as the present version writes them."""
        return _encode(self.lift(version, _decode_fields(body)))

    def lift_bodies(self, version: int, payload: bytes) -> bytes:
        """The bytes of a run of values as the present version writes them."""
        return _encode([self.lift(version, fields) for fields in _decode_many(payload)])


def check_version(version: object, oldest: object, where: str) -> None:
    """Refuse numbers that are none. `where` is for the text."""
    if type(version) is not int or not 0 <= version <= VERSION_MAX:
        raise DefinitionError(
            f"{where}version={version!r}): a version is an integer from 0 to {VERSION_MAX}"
        )
    if type(oldest) is not int or not 0 <= oldest <= version:
        raise DefinitionError(
            f"{where}oldest={oldest!r}): the oldest version that is read is from 0 to {version}"
        )


def versions_of(cls: type, version: int, oldest: int) -> Versions:
    """The versions of a class that is being made, with its upcasters checked."""
    owner = cls.__qualname__
    steps: dict[int, tuple[str, Lift]] = {}
    for name, lift, step in upcasters(cls):
        where = f"{owner}.{name}"
        if step >= version:
            raise DefinitionError(
                f"{where} lifts from version {step}, and {owner} has version {version}: raise it "
                f"to {step + 1}, or remove the upcaster"
            )
        if step < oldest:
            raise DefinitionError(
                f"{where} lifts from version {step}, and {owner} is read from version {oldest} on: "
                "remove the upcaster, or lower `oldest`"
            )
        if step in steps:
            raise DefinitionError(
                f"{where} and {owner}.{steps[step][0]} both lift from version {step}; keep one"
            )
        steps[step] = name, lift
    missing = next((step for step in range(oldest, version) if step not in steps), None)
    if missing is not None:
        raise DefinitionError(
            f"{owner} has version {version} and nothing lifts version {missing}: add a static "
            f"method with @upcast(from_version={missing}), or `oldest={missing + 1}` if no log, "
            "snapshot or client holds older ones"
        )
    named = {step: (f"{owner}.{name}", lift) for step, (name, lift) in sorted(steps.items())}
    return Versions(owner, version, oldest, named)


def upcasters(cls: type) -> list[tuple[str, Lift, int]]:
    """The upcasters of a class and its bases: name, function, version; each checked."""
    marked: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            if hasattr(getattr(value, "__func__", value), "__upcasts__"):
                marked[name] = value
            elif name in marked:
                del marked[name]
    found: list[tuple[str, Lift, int]] = []
    for name, method in marked.items():
        where = f"{cls.__qualname__}.{name}"
        if not isinstance(method, staticmethod):
            raise DefinitionError(
                f"{where}: there is no object yet that could be lifted; put @staticmethod below "
                "@upcast"
            )
        function: Any = method.__func__
        if not inspect.isfunction(function) or not _is_plain(function):
            raise DefinitionError(f"{where} must be a plain function that returns the fields")
        parameters = list(inspect.signature(function).parameters.values())
        positional = [
            p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        if len(parameters) != 1 or len(positional) != 1:
            raise DefinitionError(f"{where} must take one argument, the fields as a dict")
        found.append((name, function, function.__upcasts__))  # type: ignore[attr-defined]
    return found


def _is_plain(function: Callable[..., object]) -> bool:
    return not (
        inspect.iscoroutinefunction(function)
        or inspect.isgeneratorfunction(function)
        or inspect.isasyncgenfunction(function)
    )
