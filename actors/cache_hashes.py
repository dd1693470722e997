"""The cache's commands on hashes, as Redis 7.0 answers them; see cache_strings.py. A hash without fields does not exist."""

from . import resp
from .keyspace import (
    FIELDS_MAX,
    INT64_MAX,
    INT64_MIN,
    VALUE_BYTES_MAX,
    Keyspace,
    Value,
    parse_integer,
)

Hash = dict[bytes, bytes]


def _hash(value: Value | None) -> Hash | None:
    """The fields; none, of a key that is not there; None for another type."""
    if value is None:
        return {}
    return value if isinstance(value, dict) else None


def _room(space: Keyspace, key: bytes, fields: Hash, more: int) -> bool:
    return len(fields) + more <= FIELDS_MAX and (key in space.values or space.has_room())


def hset(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """HSET key field value ..., and HMSET, which answers OK."""
    if len(arguments) % 2:
        return resp.wrong_arity(arguments[0])
    key = arguments[1]
    fields = _hash(space.take(key, now_ms))
    if fields is None:
        return resp.WRONG_TYPE
    if any(len(text) > VALUE_BYTES_MAX for text in arguments[2:]):
        return resp.TOO_LONG
    if not _room(space, key, fields, len(arguments) // 2 - 1):
        return resp.FULL
    before = len(fields)
    fields.update(zip(arguments[2::2], arguments[3::2], strict=True))
    space.values[key] = fields
    if arguments[0][:2].upper() == b"HM":
        return resp.OK
    return resp.integer(len(fields) - before)


def hsetnx(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """HSETNX key field value."""
    fields = _hash(space.take(arguments[1], now_ms))
    if fields is None:
        return resp.WRONG_TYPE
    if arguments[2] in fields:
        return resp.ZERO
    return hset(space, [b"HSET", *arguments[1:]], now_ms)


def hget(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """HGET key field."""
    fields = _hash(space.find(arguments[1], now_ms))
    return resp.WRONG_TYPE if fields is None else resp.bulk(fields.get(arguments[2]))


def hmget(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """HMGET key field ..."""
    fields = _hash(space.find(arguments[1], now_ms))
    return resp.WRONG_TYPE if fields is None else resp.array(map(fields.get, arguments[2:]))


def hgetall(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """HGETALL key."""
    fields = _hash(space.find(arguments[1], now_ms))
    if fields is None:
        return resp.WRONG_TYPE
    return resp.array(text for pair in fields.items() for text in pair)


def hkeys(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """HKEYS key."""
    fields = _hash(space.find(arguments[1], now_ms))
    return resp.WRONG_TYPE if fields is None else resp.array(fields)


def hvals(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """HVALS key."""
    fields = _hash(space.find(arguments[1], now_ms))
    return resp.WRONG_TYPE if fields is None else resp.array(fields.values())


def hlen(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """HLEN key."""
    fields = _hash(space.find(arguments[1], now_ms))
    return resp.WRONG_TYPE if fields is None else resp.integer(len(fields))


def hexists(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """HEXISTS key field."""
    fields = _hash(space.find(arguments[1], now_ms))
    return resp.WRONG_TYPE if fields is None else resp.integer(arguments[2] in fields)


def hdel(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """HDEL key field ..."""
    key = arguments[1]
    fields = _hash(space.take(key, now_ms))
    if fields is None:
        return resp.WRONG_TYPE
    removed = sum(fields.pop(field, None) is not None for field in arguments[2:])
    if removed and not fields:
        space.remove(key)
    return resp.integer(removed)


def hincrby(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    """HINCRBY key field amount."""
    _, key, field, amount = arguments
    added = parse_integer(amount)
    if added is None:
        return resp.NOT_INTEGER
    fields = _hash(space.take(key, now_ms))
    if fields is None:
        return resp.WRONG_TYPE
    number = parse_integer(fields.get(field, b"0"))
    if number is None:
        return resp.HASH_NOT_INTEGER
    if not INT64_MIN <= number + added <= INT64_MAX:
        return resp.OVERFLOW
    if len(field) > VALUE_BYTES_MAX:
        return resp.TOO_LONG
    if not _room(space, key, fields, 1):
        return resp.FULL
    fields[field] = b"%d" % (number + added)
    space.values[key] = fields
    return resp.integer(number + added)
