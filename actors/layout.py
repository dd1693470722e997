"""Slots: the bytes that client, log and machine share.

A slot begins with u32 length (header included, padding excluded), u16 type, u16 tag, and is padded
with zeros to 8 bytes in rings and entries. All integers are little-endian. This file names the
types, statuses and entry kinds and holds one `struct.Struct` for each slot that the machine reads
or writes; it guarantees that the numbers agree everywhere because everybody imports them from here.
Moving the slots is left to the rings.
"""

from enum import IntEnum
from struct import Struct
from typing import Final

HANDLER_WORDS: Final = 4
"""Of a row of the handlers' figures: message id, calls, calls that were timed, their nanoseconds (handlers.c)."""


class SlotType(IntEnum):
    """What a slot is; the second field of its header."""

    PADDING = 0
    HELLO = 1
    OPEN = 2
    COMMAND = 3
    CLOSE = 4
    QUERY = 5
    SUBSCRIBE = 6
    UNSUBSCRIBE = 7
    PING = 8
    WELCOME = 16
    REPLY = 17
    ANSWER = 18
    EVENT = 19
    SUBSCRIBED = 20
    EVENTS_LOST = 21
    REFUSED = 22
    ERROR = 23
    PONG = 24
    ENTRY = 32
    HARD_STATE = 33
    PERSISTED = 34
    READ = 35
    RECOVERED = 36
    APPLIED = 37
    DRAIN = 38
    SNAPSHOT_CHUNK = 39
    RESTORE = 40
    RAFT_MESSAGE = 41
    TRUNCATE = 42
    SKIP = 43
    FAILED = 44
    PEER = 45
    TAKE_SNAPSHOT = 46
    SNAPSHOT_STATE = 47
    DISCARD = 48
    BUILD = 49
    CONTROL = 50
    ROOM = 51
    SNAPSHOT_BEGUN = 52
    SNAPSHOT_ENDED = 53
    PEERS = 54
    LINK = 55


class EntryKind(IntEnum):
    """What an entry of the log holds."""

    COMMANDS = 0
    TERM_START = 1
    TIME = 2
    SKIP = 3
    CONFIGURATION = 4
    CHECK = 5


class Status(IntEnum):
    """How a command or a query ended. Up to QUARANTINED the actor was reached."""

    OK = 0
    REJECTED = 1
    FAILED = 2
    QUARANTINED = 3
    OUT_OF_ORDER = 4
    SESSION_EXPIRED = 5
    UNKNOWN_MESSAGE = 6
    BAD_REQUEST = 7
    WINDOW_EXCEEDED = 8
    TOO_MANY_SESSIONS = 9
    NO_SUCH_ACTOR = 10
    ANSWER_FORGOTTEN = 11
    REPLY_TOO_LARGE = 12
    SKIPPED = 13
    TOO_MANY_ACTORS = 14


# length, type, tag
HEADER: Final = Struct("<IHH")
# header, session, request, unanswered, key length, message version; then key, body.
# OPEN, CLOSE and QUERY have the same head.
COMMAND: Final = Struct("<IHH16sQIHH")
# header, session, request, index, ordinal, status, version of the reply's message; then the body.
# ANSWER is the same.
REPLY: Final = Struct("<IHH16sQQIHH")
# header, index, ordinal, number, actor type, key length, message version, time_ns; then key, body.
EVENT: Final = Struct("<IHHQIIHHIq")
# header, session, request, after index, after ordinal, after number, actor type, key length,
# flags; then the key.
SUBSCRIBE: Final = Struct("<IHH16sQQIIHHI")
# header, session, request, stream index, bytes of the run that follows, count of its slots.
SUBSCRIBED: Final = Struct("<IHH16sQQII")
# header, session, request, then the position of the last event that is no longer kept.
EVENTS_LOST: Final = Struct("<IHH16sQQII")
# The body of an entry of kind SKIP: index, ordinal, 0.
SKIP_BODY: Final = Struct("<QII")
# The body of the reply to OPEN: the last request that was applied.
LAST_REQUEST: Final = Struct("<Q")

SUBSCRIBE_FROM_NOW: Final = 1

# PADDINGS[length & 7] is what fills a slot of that length up to 8 bytes.
PADDINGS: Final = tuple(bytes(-length & 7) for length in range(8))

assert COMMAND.size == 40 and REPLY.size == 48 and EVENT.size == 40
assert SUBSCRIBE.size == 56 and SUBSCRIBED.size == 48 and EVENTS_LOST.size == 48


def padded(slot: bytes) -> bytes:
    """The slot with the zeros that bring it to a multiple of 8."""
    return slot + PADDINGS[len(slot) & 7]


def reply_slot(
    type_: SlotType,
    tag: int,
    session: bytes,
    request: int,
    position: tuple[int, int],
    status: Status,
    body: bytes,
    version: int = 0,
) -> bytes:
    """A padded REPLY or ANSWER. The machine packs the successful reply itself, for speed."""
    index, ordinal = position
    length = REPLY.size + len(body)
    head = REPLY.pack(length, type_, tag, session, request, index, ordinal, status, version)
    return head + body + PADDINGS[length & 7]
