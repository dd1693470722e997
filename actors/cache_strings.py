"""The cache's commands on strings and integers, as Redis 7.0 answers them.

Each takes the keyspace, the whole command and log time in milliseconds, and returns the reply. How many arguments there are
was checked before.
"""

from attrs import define

from . import resp
from .keyspace import INT64_MAX, INT64_MIN, VALUE_BYTES_MAX, Keyspace, Value, parse_integer


def get(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """GET key."""
    value = space.find(arguments[1], now_ms)
    if type(value) is dict:
        return resp.WRONG_TYPE
    return resp.bulk(value)  # type: ignore[arg-type]


def mget(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """MGET key ...: what is no string is nil."""
    found = (space.find(key, now_ms) for key in arguments[1:])
    return resp.array(None if isinstance(value, dict) else value for value in found)


def strlen(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """STRLEN key."""
    value = space.find(arguments[1], now_ms)
    if value is None:
        return resp.ZERO
    if isinstance(value, dict):
        return resp.WRONG_TYPE
    return resp.integer(len(_text(value)))


@define
class Options:
    """What follows the value in SET."""

    when_there: bool | None = None
    wants_old: bool = False
    keeps_deadline: bool = False
    unit: bytes = b""
    amount: bytes = b""


def set_(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """SET key value [NX | XX] [GET] [EX s | PX ms | EXAT s | PXAT ms | KEEPTTL]."""
    key, value = arguments[1], arguments[2]
    if len(arguments) == 3:
        return _put(space, key, value, now_ms)
    options = _options(arguments)
    if options is None:
        return resp.SYNTAX
    deadline_ms: int | None = None
    if options.unit:
        found = deadline_of(options.amount, options.unit, now_ms, b"set")
        if isinstance(found, bytes):
            return found
        deadline_ms = found
    old = space.take(key, now_ms)
    if options.wants_old and isinstance(old, dict):
        return resp.WRONG_TYPE
    before = resp.bulk(old) if options.wants_old else b""  # type: ignore[arg-type]
    if options.when_there is not None and (old is not None) is not options.when_there:
        return before or resp.NIL
    kept_ms = space.deadlines.get(key) if options.keeps_deadline else None
    answer = _put(space, key, value, now_ms)
    if answer is not resp.OK:
        return answer
    if deadline_ms is not None:
        space.expire_at(key, deadline_ms)
    elif kept_ms is not None:
        space.deadlines[key] = kept_ms
    return before or answer


def _options(arguments: list[bytes]) -> Options | None:
    options = Options()
    at = 3
    while at < len(arguments):
        word = arguments[at].upper()
        at += 1
        if word in (b"NX", b"XX") and options.when_there in (None, word == b"XX"):
            options.when_there = word == b"XX"
        elif word == b"GET":
            options.wants_old = True
        elif word == b"KEEPTTL" and not options.unit:
            options.keeps_deadline = True
        elif word in UNITS and at < len(arguments):
            if options.unit or options.keeps_deadline:
                return None
            options.unit, options.amount = word, arguments[at]
            at += 1
        else:
            return None
    return options


# Milliseconds in one of the unit, and whether it counts from now.
UNITS = {b"EX": (1000, True), b"PX": (1, True), b"EXAT": (1000, False), b"PXAT": (1, False)}


def deadline_of(amount: bytes, unit: bytes, now_ms: int, command: bytes) -> int | bytes:
    """The deadline that SET and its kin ask for; or the error."""
    value = parse_integer(amount)
    if value is None:
        return resp.NOT_INTEGER
    factor, from_now = UNITS[unit]
    deadline_ms = value * factor + (now_ms if from_now else 0)
    if value <= 0 or deadline_ms > INT64_MAX:
        return resp.bad_expiry(command)
    return deadline_ms


def _put(space: Keyspace, key: bytes, value: bytes, now_ms: int) -> bytes:
    """The key is this string from now on, and does not expire."""
    if len(value) > VALUE_BYTES_MAX:
        return resp.TOO_LONG
    if key not in space.values and not space.has_room():
        return resp.FULL
    if space.deadlines and key in space.deadlines:
        space.take(key, now_ms)
        space.deadlines.pop(key, None)
    space.values[key] = value
    return resp.OK


def setnx(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """SETNX key value."""
    if space.take(arguments[1], now_ms) is not None:
        return resp.ZERO
    answer = _put(space, arguments[1], arguments[2], now_ms)
    return resp.ONE if answer is resp.OK else answer


def setex(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """SETEX key seconds value, PSETEX key milliseconds value."""
    name, key, amount, value = arguments
    unit = b"PX" if name[:1] in b"pP" else b"EX"
    found = deadline_of(amount, unit, now_ms, name)
    if isinstance(found, bytes):
        return found
    answer = _put(space, key, value, now_ms)
    if answer is resp.OK:
        space.expire_at(key, found)
    return answer


def getset(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """GETSET key value."""
    old = space.take(arguments[1], now_ms)
    if isinstance(old, dict):
        return resp.WRONG_TYPE
    before = resp.bulk(old)
    answer = _put(space, arguments[1], arguments[2], now_ms)
    return before if answer is resp.OK else answer


def getdel(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """GETDEL key."""
    old = space.take(arguments[1], now_ms)
    if isinstance(old, dict):
        return resp.WRONG_TYPE
    if old is not None:
        space.remove(arguments[1])
    return resp.bulk(old)


def mset(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """MSET key value ...: all of them or none."""
    if len(arguments) % 2 == 0:
        return resp.wrong_arity(arguments[0])
    if any(len(value) > VALUE_BYTES_MAX for value in arguments[2::2]):
        return resp.TOO_LONG
    if not space.has_room(len(arguments) // 2):
        return resp.FULL
    for key, value in zip(arguments[1::2], arguments[2::2], strict=True):
        _put(space, key, value, now_ms)
    return resp.OK


def incr(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """INCR key."""
    return _add(space, arguments[1], 1, now_ms)


def decr(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """DECR key."""
    return _add(space, arguments[1], -1, now_ms)


def incrby(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """INCRBY key amount."""
    amount = parse_integer(arguments[2])
    if amount is None:
        return resp.NOT_INTEGER
    return _add(space, arguments[1], amount, now_ms)


def decrby(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """DECRBY key amount."""
    amount = parse_integer(arguments[2])
    if amount is None:
        return resp.NOT_INTEGER
    if amount == INT64_MIN:
        return resp.DECREMENT_OVERFLOW
    return _add(space, arguments[1], -amount, now_ms)


def _add(space: Keyspace, key: bytes, amount: int, now_ms: int) -> bytes:
    value = space.take(key, now_ms) if space.deadlines else space.values.get(key)
    if type(value) is not int:
        number = _number(space, value)
        if isinstance(number, bytes):
            return number
        value = number
    value += amount
    if not INT64_MIN <= value <= INT64_MAX:
        return resp.OVERFLOW
    space.values[key] = value
    return b":%d\r\n" % value


def _number(space: Keyspace, value: Value | None) -> int | bytes:
    """What INCR starts from; or the error."""
    if value is None:
        return 0 if space.has_room() else resp.FULL
    if isinstance(value, dict):
        return resp.WRONG_TYPE
    number = parse_integer(value)
    return resp.NOT_INTEGER if number is None else number


def append(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """APPEND key value."""
    key = arguments[1]
    old = space.take(key, now_ms)
    if isinstance(old, dict):
        return resp.WRONG_TYPE
    if old is None and not space.has_room():
        return resp.FULL
    value = (b"" if old is None else _text(old)) + arguments[2]
    if len(value) > VALUE_BYTES_MAX:
        return resp.TOO_LONG
    space.values[key] = value
    return resp.integer(len(value))


def _text(value: bytes | int) -> bytes:
    return b"%d" % value if type(value) is int else value  # type: ignore[return-value]
