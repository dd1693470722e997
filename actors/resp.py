"""RESP2 replies as bytes, with Redis's own texts for what goes wrong."""

from collections.abc import Iterable

OK = b"+OK\r\n"
NIL = b"$-1\r\n"
ZERO = b":0\r\n"
ONE = b":1\r\n"
EMPTY = b"*0\r\n"

WRONG_TYPE = b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"
NOT_INTEGER = b"-ERR value is not an integer or out of range\r\n"
HASH_NOT_INTEGER = b"-ERR hash value is not an integer\r\n"
OVERFLOW = b"-ERR increment or decrement would overflow\r\n"
DECREMENT_OVERFLOW = b"-ERR decrement would overflow\r\n"
SYNTAX = b"-ERR syntax error\r\n"
BAD_CURSOR = b"-ERR invalid cursor\r\n"
BAD_INDEX = b"-ERR DB index is out of range\r\n"
TOO_LONG = b"-ERR string exceeds maximum allowed size (proto-max-bulk-len)\r\n"
FULL = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"

QUOTED_BYTES_MAX = 128
"""As much of an unknown command's name, and of its arguments together, is repeated."""


def integer(value: int) -> bytes:
    """An integer."""
    return b":%d\r\n" % value


def bulk(value: bytes | int | None) -> bytes:
    """A string; None is nil."""
    if value is None:
        return NIL
    if type(value) is int:
        value = b"%d" % value
    return b"$%d\r\n%b\r\n" % (len(value), value)  # type: ignore[arg-type]


def array(values: Iterable[bytes | int | None]) -> bytes:
    """An array of strings."""
    items = [bulk(value) for value in values]
    return b"*%d\r\n%b" % (len(items), b"".join(items))


def wrong_arity(name: bytes) -> bytes:
    """The command exists, and not with so many arguments."""
    return b"-ERR wrong number of arguments for '%b' command\r\n" % name.lower()


def unknown_command(arguments: list[bytes]) -> bytes:
    """There is no such command. Redis quotes each word up to its first NUL."""
    name, *words = [argument.partition(b"\0")[0] for argument in arguments] or [b""]
    quoted = b""
    for word in words:
        if len(quoted) >= QUOTED_BYTES_MAX:
            break
        quoted += b"'%b' " % word[: QUOTED_BYTES_MAX - len(quoted)]
    name = name[:QUOTED_BYTES_MAX]
    text = b"unknown command '%b', with args beginning with: %b" % (name, quoted)
    return error(text)


def bad_expiry(name: bytes) -> bytes:
    """A time that cannot be."""
    return b"-ERR invalid expire time in '%b' command\r\n" % name.lower()


def error(text: bytes) -> bytes:
    """A failure in words of ours; a line break would end the reply too early."""
    return b"-ERR %b\r\n" % text.replace(b"\r", b" ").replace(b"\n", b" ")
