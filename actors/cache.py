"""A cache that speaks Redis's commands: `leftfold run leftfold.actors.cache:app --resp 6379`.

One `Cache` actor is one database. A client's pipeline comes as one command of the log, `Execute`, which holds the
argument vectors of several Redis commands and is answered with their replies, RESP-encoded, in order; one that only reads
comes as the query `Read`. So what a session, a log entry and a reply cost is paid once for many commands. A transaction is
`EXEC n`, followed by its n commands.

If the replies together would become too long, the rest is left undone, and the answer says how many commands were done: the
asker sends the others again. A transaction is never divided.

Time is log time. Keys that have expired are gone for every command; a timer frees their memory.
"""

from collections.abc import Callable

from attrs import Factory, frozen

from . import cache_hashes as hashes
from . import cache_keys as keys
from . import cache_strings as strings
from . import resp
from .actor import actor, handler, on_timer, query
from .app import App
from .context import Context
from .keyspace import VALUE_BYTES_MAX, Keyspace, parse_integer
from .message import Command, message

MS_NS = 1_000_000
ENOUGH_BYTES = 8 << 10
"""With so many bytes of replies no further command is begun; one more reply of the largest size still fits."""
REPLY_BYTES_MAX = VALUE_BYTES_MAX + 1024
COLLECT_MAX = 1_000
COLLECT_PAUSE_MS = 20
"""Between two collections: keys that expire one after the other do not cost one log entry each."""
ARGUMENTS_MAX = 1 << 20

TOO_LARGE = b"-ERR the reply has more than %d bytes\r\n" % REPLY_BYTES_MAX
NOT_HERE = b"-ERR only a read can be asked as one\r\n"


@message(id=302)
class Replies:
    """The replies to the first so many commands."""

    done: int
    resp: bytes


@message(id=300)
class Execute(Command[Replies]):
    """Redis commands, to be done one after the other with nothing between them."""

    commands: list[list[bytes]]


@message(id=301)
class Read(Command[Replies]):
    """Redis commands that only read."""

    commands: list[list[bytes]]


@message(id=303)
class Collect:
    """Keys have expired."""


Function = Callable[[Keyspace, list[bytes], int], bytes]


@frozen
class Entry:
    """One Redis command."""

    function: Function
    # How many words it has with its name: exactly; or, if negative, at least.
    arity: int
    reads: bool = False

    def takes(self, words: int) -> bool:
        """Whether it may have so many words."""
        return words == self.arity if self.arity > 0 else words >= -self.arity


def _ping(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    if len(arguments) > 2:
        return resp.wrong_arity(arguments[0])
    return resp.bulk(arguments[1]) if len(arguments) == 2 else b"+PONG\r\n"


def _echo(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    return resp.bulk(arguments[1])


def _select(space: Keyspace, arguments: list[bytes], now_ms: int) -> bytes:
    number = parse_integer(arguments[1])
    if number is None:
        return resp.NOT_INTEGER
    return resp.BAD_INDEX if number else resp.OK


COMMANDS: dict[bytes, Entry] = {
    b"GET": Entry(strings.get, 2, True),
    b"MGET": Entry(strings.mget, -2, True),
    b"STRLEN": Entry(strings.strlen, 2, True),
    b"SET": Entry(strings.set_, -3),
    b"SETNX": Entry(strings.setnx, 3),
    b"SETEX": Entry(strings.setex, 4),
    b"PSETEX": Entry(strings.setex, 4),
    b"GETSET": Entry(strings.getset, 3),
    b"GETDEL": Entry(strings.getdel, 2),
    b"MSET": Entry(strings.mset, -3),
    b"INCR": Entry(strings.incr, 2),
    b"DECR": Entry(strings.decr, 2),
    b"INCRBY": Entry(strings.incrby, 3),
    b"DECRBY": Entry(strings.decrby, 3),
    b"APPEND": Entry(strings.append, 3),
    b"HSET": Entry(hashes.hset, -4),
    b"HMSET": Entry(hashes.hset, -4),
    b"HSETNX": Entry(hashes.hsetnx, 4),
    b"HGET": Entry(hashes.hget, 3, True),
    b"HMGET": Entry(hashes.hmget, -3, True),
    b"HGETALL": Entry(hashes.hgetall, 2, True),
    b"HKEYS": Entry(hashes.hkeys, 2, True),
    b"HVALS": Entry(hashes.hvals, 2, True),
    b"HLEN": Entry(hashes.hlen, 2, True),
    b"HEXISTS": Entry(hashes.hexists, 3, True),
    b"HDEL": Entry(hashes.hdel, -3),
    b"HINCRBY": Entry(hashes.hincrby, 4),
    b"DEL": Entry(keys.del_, -2),
    b"UNLINK": Entry(keys.del_, -2),
    b"EXISTS": Entry(keys.exists, -2, True),
    b"TYPE": Entry(keys.type_, 2, True),
    b"EXPIRE": Entry(keys.expire, -3),
    b"PEXPIRE": Entry(keys.expire, -3),
    b"EXPIREAT": Entry(keys.expire, -3),
    b"PEXPIREAT": Entry(keys.expire, -3),
    b"TTL": Entry(keys.ttl, 2, True),
    b"PTTL": Entry(keys.pttl, 2, True),
    b"PERSIST": Entry(keys.persist, 2),
    b"DBSIZE": Entry(keys.dbsize, 1, True),
    b"FLUSHDB": Entry(keys.flushdb, -1),
    b"FLUSHALL": Entry(keys.flushdb, -1),
    b"KEYS": Entry(keys.keys, 2, True),
    b"SCAN": Entry(keys.scan, -2, True),
    # In a transaction; elsewhere whoever speaks with the client answers these.
    b"PING": Entry(_ping, -1, True),
    b"ECHO": Entry(_echo, 2, True),
    b"SELECT": Entry(_select, 2, True),
}

# The way of nearly every command: its name as it stands, and how many words it must have.
_EXACT: dict[tuple[bytes, int], Function] = {
    (name, entry.arity): entry.function for name, entry in COMMANDS.items() if entry.arity > 0
}


def run(space: Keyspace, commands: list[list[bytes]], now_ms: int, *, reads: bool) -> Replies:
    """Do as many commands as there is room for replies."""
    replies: list[bytes] = []
    size = done = within = 0
    for arguments in commands:
        if size > ENOUGH_BYTES and not within:
            break
        done += 1
        within -= within > 0
        name = arguments[0] if arguments else b""
        function = None if reads else _EXACT.get((name, len(arguments)))
        if function is not None:
            reply = function(space, arguments, now_ms)
        elif name == b"EXEC" and len(arguments) == 2 and not within:
            within = parse_integer(arguments[1]) or 0
            reply = b"*%d\r\n" % within
        else:
            reply = _any(space, arguments, now_ms, reads)
        if len(reply) > REPLY_BYTES_MAX:
            reply = TOO_LARGE
        replies.append(reply)
        size += len(reply)
    return Replies(done, b"".join(replies))


def _any(space: Keyspace, arguments: list[bytes], now_ms: int, reads: bool) -> bytes:
    """One command, whatever it is."""
    entry = COMMANDS.get(arguments[0].upper()) if arguments else None
    if entry is None:
        return resp.unknown_command(arguments)
    if not entry.takes(len(arguments)):
        return resp.wrong_arity(arguments[0])
    if reads and not entry.reads:
        return NOT_HERE
    return entry.function(space, arguments, now_ms)


@actor(id=4, key=int)
class Cache:
    """One database."""

    keyspace: Keyspace = Factory(Keyspace)
    # When the timer is due, and its id; 0: there is none.
    timer_ms: int = 0
    timer: int = 0
    collected_ms: int = 0

    @handler
    def execute(self, command: Execute, context: Context) -> Replies:
        """Do these commands."""
        space = self.keyspace
        replies = run(space, command.commands, context.time_ns // MS_NS, reads=False)
        if space.queue:
            self.set_timer(context)
        return replies

    @query
    def read(self, query: Read, context: Context) -> Replies:
        """Answer these commands."""
        return run(self.keyspace, query.commands, context.time_ns // MS_NS, reads=True)

    @on_timer
    def collect(self, timer: Collect, context: Context) -> None:
        """Free what has expired, and wait for the next."""
        self.timer_ms = 0
        self.collected_ms = context.time_ns // MS_NS
        self.keyspace.collect(self.collected_ms, COLLECT_MAX)
        self.set_timer(context)

    def set_timer(self, context: Context) -> None:
        """Be called when the first key goes: one timer for all of them."""
        deadline_ms = self.keyspace.next_deadline_ms()
        if deadline_ms is None:
            return
        due_ms = max(deadline_ms + 1, self.collected_ms + COLLECT_PAUSE_MS)
        if self.timer_ms and self.timer_ms <= due_ms:
            return
        if due_ms * MS_NS >= 1 << 63:
            return  # Later than log time can ever be.
        if self.timer_ms:
            context.cancel_timer(self.timer)
        self.timer = context.set_timer(Collect(), at_ns=due_ms * MS_NS)
        self.timer_ms = due_ms


app = App(actors=[Cache], name="cache")
