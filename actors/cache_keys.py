"""The cache's commands on keys of any type, as Redis 7.0 answers them; see cache_strings.py."""

from itertools import islice

from . import resp
from .glob import matcher
from .keyspace import INT64_MAX, INT64_MIN, Keyspace, parse_integer

SCAN_COUNT = 10
SCAN_COUNT_MAX = 10_000
"""So that one SCAN does not hold up everybody."""


def del_(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """DEL key ..."""
    removed = 0
    for key in arguments[1:]:
        if space.take(key, now_ms) is not None:
            space.remove(key)
            removed += 1
    return resp.integer(removed)


def exists(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """EXISTS key ...: a key that is named twice counts twice."""
    return resp.integer(sum(space.find(key, now_ms) is not None for key in arguments[1:]))


def type_(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """TYPE key."""
    value = space.find(arguments[1], now_ms)
    if value is None:
        return b"+none\r\n"
    return b"+hash\r\n" if isinstance(value, dict) else b"+string\r\n"


# Milliseconds in one of the unit, and whether it counts from now.
EXPIRIES = {
    b"EXPIRE": (1000, True),
    b"PEXPIRE": (1, True),
    b"EXPIREAT": (1000, False),
    b"PEXPIREAT": (1, False),
}
CONDITIONS = (b"NX", b"XX", b"GT", b"LT")


def expire(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """EXPIRE, PEXPIRE, EXPIREAT, PEXPIREAT key time [NX | XX | GT | LT]."""
    name, key = arguments[0].upper(), arguments[1]
    conditions = {argument.upper(): argument for argument in arguments[3:]}
    for word, written in conditions.items():
        if word not in CONDITIONS:
            return b"-ERR Unsupported option %b\r\n" % written
    if b"NX" in conditions and len(conditions) > 1:
        return b"-ERR NX and XX, GT or LT options at the same time are not compatible\r\n"
    if b"GT" in conditions and b"LT" in conditions:
        return b"-ERR GT and LT options at the same time are not compatible\r\n"
    value = parse_integer(arguments[2])
    if value is None:
        return resp.NOT_INTEGER
    factor, from_now = EXPIRIES[name]
    deadline_ms = value * factor + (now_ms if from_now else 0)
    if not INT64_MIN <= value * factor <= INT64_MAX or deadline_ms > INT64_MAX:
        return resp.bad_expiry(name)
    if space.take(key, now_ms) is None:
        return resp.ZERO
    current_ms = space.deadlines.get(key)
    if not _may_expire(set(conditions), current_ms, deadline_ms):
        return resp.ZERO
    if deadline_ms <= now_ms:
        space.remove(key)
    else:
        space.expire_at(key, deadline_ms)
    return resp.ONE


def _may_expire(conditions: set[bytes], current_ms: int | None, deadline_ms: int) -> bool:
    """A key without a deadline counts as one that is infinitely far."""
    if b"NX" in conditions:
        return current_ms is None
    if b"XX" in conditions and current_ms is None:
        return False
    if b"GT" in conditions:
        return current_ms is not None and deadline_ms > current_ms
    if b"LT" in conditions:
        return current_ms is None or deadline_ms < current_ms
    return True


def ttl(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """TTL key: rounded to whole seconds."""
    left_ms = _left_ms(space, arguments[1], now_ms)
    return resp.integer(left_ms if left_ms < 0 else (left_ms + 500) // 1000)


def pttl(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """PTTL key."""
    return resp.integer(_left_ms(space, arguments[1], now_ms))


def _left_ms(space: Keyspace, key: bytes, now_ms: int) -> int:
    if space.find(key, now_ms) is None:
        return -2
    deadline_ms = space.deadlines.get(key)
    return -1 if deadline_ms is None else max(0, deadline_ms - now_ms)


def persist(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """PERSIST key."""
    if space.take(arguments[1], now_ms) is None:
        return resp.ZERO
    return resp.integer(space.deadlines.pop(arguments[1], None) is not None)


def dbsize(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """DBSIZE: with those that have expired and were not removed yet, as in Redis."""
    return resp.integer(len(space.values))


def flushdb(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """FLUSHDB, FLUSHALL [ASYNC | SYNC]."""
    modes = (b"ASYNC", b"SYNC")
    if len(arguments) > 2 or (len(arguments) == 2 and arguments[1].upper() not in modes):
        return resp.SYNTAX
    space.clear()
    return resp.OK


def keys(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """KEYS pattern."""
    matches = matcher(arguments[1])
    return resp.array(
        key for key in space.values if matches(key) and space.find(key, now_ms) is not None
    )


def scan(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """SCAN cursor [MATCH pattern] [COUNT n] [TYPE t].

    The cursor is a place in the order of creation, and goes from the newest key back to the oldest. New keys come behind
    it, and a key that is removed moves those that were not seen yet away from it, never past it. So a key that is there
    all the time is seen at least once, whatever happens meanwhile.
    """
    cursor = parse_integer(arguments[1])
    if cursor is None or cursor < 0:
        return resp.BAD_CURSOR
    count, pattern, kind = SCAN_COUNT, b"*", b""
    for at in range(2, len(arguments), 2):
        option = arguments[at].upper()
        if option not in (b"COUNT", b"MATCH", b"TYPE") or at + 1 == len(arguments):
            return resp.SYNTAX
        if option == b"MATCH":
            pattern = arguments[at + 1]
        elif option == b"TYPE":
            kind = arguments[at + 1].lower()
        else:
            number = parse_integer(arguments[at + 1])
            if number is None:
                return resp.NOT_INTEGER
            if number < 1:
                return resp.SYNTAX
            count = min(number, SCAN_COUNT_MAX)
    end = min(cursor, len(space.values)) if cursor else len(space.values)
    start = max(0, end - count)
    matches = matcher(pattern)
    found = [
        key
        for key in islice(space.values, start, end)
        if matches(key)
        and space.find(key, now_ms) is not None
        and (not kind or type_(space, [b"TYPE", key], now_ms) == b"+%b\r\n" % kind)
    ]
    return b"*2\r\n%b%b" % (resp.bulk(start), resp.array(found))
