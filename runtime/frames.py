"""Frames for the Python side of a client's connection: bytes in, frames out, and the encoders.

Sans-IO: `Decoder.receive(bytes)` takes whatever a socket gave and returns the frames that are whole.
The layout is the actors'; see actors/layout.py. What frames mean to a session is in session.py.
"""

from struct import Struct
from typing import TypeAlias

from attrs import define, field

from ..actors.layout import (
    COMMAND,
    EVENT,
    EVENTS_LOST,
    HEADER,
    LAST_REQUEST,
    REPLY,
    SUBSCRIBE,
    SUBSCRIBE_FROM_NOW,
    SUBSCRIBED,
    SlotType,
    Status,
)
from .errors import LeftfoldError

PROTOCOL_VERSION = 1
MAGIC = b"leftfold"
ANY_CLUSTER = bytes(16)
FRAME_BYTES_MAX = 16 * 1024 * 1024
"""What a client takes from a gateway; a gateway takes what its WELCOME says."""

TOKEN_BYTES_MAX = 64

HELLO = Struct("<IHH16s8s")
WELCOME = Struct("<IHH16sIIQ")
PING = Struct("<IHHQ")
REFUSED = Struct("<IHH16sQ")
UNSUBSCRIBE = Struct("<IHH16sQ")

Position: TypeAlias = tuple[int, int, int]
"""Where an event stands: index, ordinal, number."""

BEFORE_ALL: Position = (0, 0, 0)


class ProtocolError(LeftfoldError):
    """The other side sent what no gateway sends."""


@define
class Welcome:
    """The gateway took the HELLO."""

    version: int
    cluster_id: bytes
    frame_bytes_max: int
    window: int
    replica_id: int


@define
class Reply:
    """The outcome of a command."""

    message_id: int
    session: bytes
    request: int
    index: int
    ordinal: int
    status: int
    body: bytes
    version: int = 0
    """Of the message in the body."""

    @property
    def last_request(self) -> int:
        """Of a reply to OPEN: the last request that was applied."""
        return LAST_REQUEST.unpack(self.body)[0] if self.body else 0


@define
class Answer:
    """The outcome of a query; fields as in Reply."""

    message_id: int
    session: bytes
    request: int
    index: int
    ordinal: int
    status: int
    body: bytes
    version: int = 0


@define
class EventFrame:
    """An event, to everyone who subscribed."""

    message_id: int
    position: Position
    actor_type: int
    time_ns: int
    key: bytes
    body: bytes
    version: int = 0


@define
class Subscribed:
    """The subscription is live from `index` on; `count` retained events follow, for it alone.

    `partial`: it is not live; there are more retained events, to be asked for behind the last of these.
    """

    session: bytes
    request: int
    index: int
    size: int
    count: int
    partial: bool


@define
class Lost:
    """Events up to `floor` are no longer kept; follows a SUBSCRIBE that asked for older ones."""

    session: bytes
    request: int
    floor: Position


@define
class Refused:
    """Not taken into the log this time: 1 not leader, 2 not ready, 3 disk full, 4 draining."""

    reason: int
    refused_type: int
    session: bytes
    request: int
    hint: str


@define
class Error:
    """Why the gateway closes this connection."""

    code: int
    text: str


@define
class Pong:
    """The answer to PING."""

    number: int


Frame: TypeAlias = (
    Welcome | Reply | Answer | EventFrame | Subscribed | Lost | Refused | Error | Pong
)


@define
class Decoder:
    """Collects bytes until frames are whole."""

    frame_bytes_max: int = FRAME_BYTES_MAX
    _kept: bytearray = field(factory=bytearray, init=False)

    def receive(self, data: bytes) -> list[Frame]:
        """Take what the socket gave; return every frame that is whole now."""
        kept = self._kept
        kept += data
        frames: list[Frame] = []
        at, end = 0, len(kept)
        while end - at >= HEADER.size:
            length, kind, tag = HEADER.unpack_from(kept, at)
            if not HEADER.size <= length <= self.frame_bytes_max:
                raise ProtocolError(f"a frame of {length} bytes")
            if end - at < length:
                break
            try:
                frames.append(_decode(kind, tag, bytes(kept[at : at + length])))
            except (ValueError, ArithmeticError) as error:
                raise ProtocolError(f"a frame of type {kind} that does not decode") from error
            at += length
        del kept[:at]
        return frames

    @property
    def waiting(self) -> int:
        """Bytes of a frame that is not whole yet."""
        return len(self._kept)


def _decode(kind: int, tag: int, frame: bytes) -> Frame:
    """One whole frame; ValueError if it is none of a gateway's."""
    fixed = FIXED_BYTES.get(kind)
    if fixed is None or len(frame) < fixed:
        raise ValueError
    match kind:
        case SlotType.REPLY | SlotType.ANSWER:
            _, _, _, session, request, index, ordinal, status, version = REPLY.unpack_from(frame)
            make = Reply if kind == SlotType.REPLY else Answer
            body = frame[REPLY.size :]
            return make(tag, session, request, index, ordinal, status, body, version)
        case SlotType.EVENT:
            return _event(tag, frame)
        case SlotType.WELCOME:
            return Welcome(tag, *WELCOME.unpack_from(frame)[3:])
        case SlotType.SUBSCRIBED:
            _, _, _, session, request, index, size, count = SUBSCRIBED.unpack_from(frame)
            return Subscribed(session, request, index, size, count, bool(tag & 1))
        case SlotType.EVENTS_LOST:
            _, _, _, session, request, *floor = EVENTS_LOST.unpack_from(frame)
            return Lost(session, request, (floor[0], floor[1], floor[2]))
        case SlotType.REFUSED:
            _, _, _, session, request = REFUSED.unpack_from(frame)
            hint = frame[REFUSED.size :].decode(errors="replace")
            return Refused(tag & 0xFF, tag >> 8, session, request, hint)
        case SlotType.ERROR:
            return Error(tag, frame[HEADER.size :].decode(errors="replace"))
        case _:
            return Pong(PING.unpack_from(frame)[3])


FIXED_BYTES: dict[int, int] = {
    SlotType.WELCOME: WELCOME.size,
    SlotType.REPLY: REPLY.size,
    SlotType.ANSWER: REPLY.size,
    SlotType.EVENT: EVENT.size,
    SlotType.SUBSCRIBED: SUBSCRIBED.size,
    SlotType.EVENTS_LOST: EVENTS_LOST.size,
    SlotType.REFUSED: REFUSED.size,
    SlotType.ERROR: HEADER.size,
    SlotType.PONG: PING.size,
}


def _event(tag: int, frame: bytes) -> EventFrame:
    _, _, _, index, ordinal, number, actor_type, key_length, version, time_ns = EVENT.unpack_from(
        frame
    )
    body_at = EVENT.size + key_length
    if body_at > len(frame):
        raise ValueError
    key = frame[EVENT.size : body_at]
    position = (index, ordinal, number)
    return EventFrame(tag, position, actor_type, time_ns, key, frame[body_at:], version)


def hello(cluster_id: bytes = ANY_CLUSTER, token: str = "") -> bytes:
    """The first frame of a connection; the token is for a replica that wants one."""
    secret = token.encode()
    assert len(secret) <= TOKEN_BYTES_MAX, "no replica knows a token of that length"
    length = HELLO.size + len(secret)
    return HELLO.pack(length, SlotType.HELLO, PROTOCOL_VERSION, cluster_id, MAGIC) + secret


def open_session(session: bytes) -> bytes:
    """Make the session known to the cluster, or find it."""
    return COMMAND.pack(COMMAND.size, SlotType.OPEN, 0, session, 0, 0, 0, 0)


def close_session(session: bytes) -> bytes:
    """Have the cluster forget the session."""
    return COMMAND.pack(COMMAND.size, SlotType.CLOSE, 0, session, 0, 0, 0, 0)


def command(
    message_id: int,
    session: bytes,
    request: int,
    unanswered: int,
    key: bytes,
    body: bytes,
    version: int = 0,
) -> bytes:
    """A command; `unanswered` is 1 when every earlier request was answered."""
    length = COMMAND.size + len(key) + len(body)
    kind = SlotType.COMMAND
    head = COMMAND.pack(length, kind, message_id, session, request, unanswered, len(key), version)
    return head + key + body


def query(
    message_id: int, session: bytes, number: int, key: bytes, body: bytes, version: int = 0
) -> bytes:
    """A query; queries are numbered apart from commands."""
    length = COMMAND.size + len(key) + len(body)
    head = COMMAND.pack(length, SlotType.QUERY, message_id, session, number, 0, len(key), version)
    return head + key + body


def subscribe(
    session: bytes, number: int, after: Position | None, actor_type: int = 0, key: bytes = b""
) -> bytes:
    """Ask for events after a position, or from now on (None); actor type 0 and no key mean all."""
    flags = SUBSCRIBE_FROM_NOW if after is None else 0
    return (
        SUBSCRIBE.pack(
            SUBSCRIBE.size + len(key),
            SlotType.SUBSCRIBE,
            0,
            session,
            number,
            *(after or BEFORE_ALL),
            actor_type,
            len(key),
            flags,
        )
        + key
    )


def unsubscribe(session: bytes, number: int) -> bytes:
    """End a subscription."""
    return UNSUBSCRIBE.pack(UNSUBSCRIBE.size, SlotType.UNSUBSCRIBE, 0, session, number)


def ping(number: int) -> bytes:
    """Ask the gateway for a PONG with the same number."""
    return PING.pack(PING.size, SlotType.PING, 0, number)


def failure_text(body: bytes) -> str:
    """The reason in a reply whose status is not OK."""
    return body.decode(errors="replace")


__all__ = [
    "BEFORE_ALL",
    "Answer",
    "Decoder",
    "Error",
    "EventFrame",
    "Frame",
    "Lost",
    "Pong",
    "Position",
    "ProtocolError",
    "Refused",
    "Reply",
    "Status",
    "Subscribed",
    "Welcome",
    "close_session",
    "command",
    "failure_text",
    "hello",
    "open_session",
    "ping",
    "query",
    "subscribe",
    "unsubscribe",
]
