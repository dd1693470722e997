"""A gate without sockets for tests, frames to feed it, and runs to scatter: tests/test_wire.py, tests/test_gate.py."""

import struct
from typing import Any

from leftfold.runtime._wire import ffi, lib

HELLO = struct.pack("<IHH16s8s", 32, 1, 1, bytes(16), b"leftfold")
CLUSTER = bytes(range(16))
WELCOME = struct.pack("<IHH16sIIQ", 40, 16, 1, CLUSTER, 4096, 64, 1)
FREE, GREETING, OPEN, CLOSING, DONE = range(5)


def pad(frame: bytes) -> bytes:
    """A frame as a slot."""
    return frame + bytes(-len(frame) % 8)


def run_of(*frames: bytes) -> bytes:
    """Frames as a run."""
    return b"".join(pad(frame) for frame in frames)


def session_id(number: int) -> bytes:
    """A session id that is not zero."""
    return struct.pack("<QQ", 0x5E551017, number)


def request(kind: int, session: bytes, number: int, key: bytes = b"", body: bytes = b"") -> bytes:
    """COMMAND (3), QUERY (5) or CONTROL (50); OPEN (2) or CLOSE (4) without key and body."""
    length = 40 + len(key) + len(body)
    return struct.pack("<IHH16sQIHH", length, kind, 7, session, number, 1, len(key), 0) + key + body


def reply(session: bytes, number: int, body: bytes = b"", kind: int = 17) -> bytes:
    """REPLY (17) or ANSWER (18)."""
    return struct.pack("<IHH16sQQIHH", 48 + len(body), kind, 7, session, number, 9, 0, 0, 0) + body


def event(actor: int, key: bytes, body: bytes = b"") -> bytes:
    """EVENT."""
    length = 40 + len(key) + len(body)
    return struct.pack("<IHHQIIHHIq", length, 19, 7, 9, 0, 1, actor, len(key), 0, 0) + key + body


def subscribe(session: bytes, number: int, actor: int = 0, key: bytes = b"") -> bytes:
    """SUBSCRIBE from now on."""
    length = 56 + len(key)
    return (
        struct.pack("<IHH16sQQIIHHI", length, 6, 0, session, number, 0, 0, 0, actor, len(key), 1)
        + key
    )


def subscribed(session: bytes, number: int, size: int = 0, count: int = 0, tag: int = 0) -> bytes:
    """SUBSCRIBED."""
    return struct.pack("<IHH16sQQII", 48, 20, tag, session, number, 9, size, count)


def unsubscribe(session: bytes, number: int) -> bytes:
    """UNSUBSCRIBE."""
    return struct.pack("<IHH16sQ", 32, 7, 0, session, number)


def ping(number: int, kind: int = 8) -> bytes:
    """PING (8) or PONG (24)."""
    return struct.pack("<IHHQ", 16, kind, 0, number)


class Gate:
    """The C gate, with connections that have no sockets and a clock that the test sets."""

    def __init__(self, library: Any = lib, tokens: tuple[bytes, ...] = (), **limits: int) -> None:
        given: dict[str, Any] = {
            "connections_max": 16,
            "sessions_max": 1000,
            "subscriptions_max": 100,
            "frame_bytes_max": 4096,
            "key_bytes_max": 64,
            "output_bytes_max": 1 << 20,
            "hello_ns": 1000,
            "idle_ns": 0,
            "linger_ns": 500,
            "tokens_count": len(tokens),
            "tokens": [{"length": len(token), "bytes": token} for token in tokens],
            **limits,
        }
        converted = ffi.new("struct gate_limits *", given)
        ffi.memmove(converted.welcome, WELCOME, len(WELCOME))
        ffi.memmove(converted.seed, b"0123456789abcdef", 16)
        self.handle = ffi.gc(library.gate_new(converted), library.gate_free)
        self.report = library.gate_report(self.handle)
        self.now_ns = 1
        self.room = 1 << 20
        self._destination = ffi.new("uint8_t[]", 1 << 20)
        self._length = ffi.new("uint64_t *")

    def open(self, *, greet: bool = True) -> int:
        """A new connection, which has said HELLO and had its WELCOME."""
        number = lib.gate_open(self.handle, -1, self.now_ns)
        if greet:
            assert self.feed(number, HELLO) == b"" and self.take(number) == WELCOME
        return number

    def feed(self, number: int, data: bytes) -> bytes:
        """What the connection's bytes put into the ring."""
        produced = lib.gate_feed(
            self.handle, number, data, len(data), self._destination, self.room, self.now_ns
        )
        assert produced >= 0
        return bytes(ffi.buffer(self._destination, produced))

    def scatter(self, *frames: bytes) -> None:
        """A run from the other side."""
        run = run_of(*frames)
        assert lib.gate_scatter(self.handle, run, len(run), self.now_ns) == len(run)

    def take(self, number: int) -> bytes:
        """What waits to be sent to the connection, as if it was sent now."""
        start = lib.gate_output(self.handle, number, self._length)
        length = self._length[0]
        data = bytes(ffi.buffer(start, length)) if length else b""
        lib.gate_sent(self.handle, number, length)
        return data

    def flush(self) -> None:
        """Let what has ended be released."""
        lib.gate_flush(self.handle)

    def expire(self) -> None:
        """Look who is late."""
        lib.gate_expire(self.handle, self.now_ns)

    def state(self, number: int) -> int:
        """FREE … DONE."""
        return lib.gate_state(self.handle, number)

    def error(self, number: int) -> int:
        """The code of the ERROR that is the last frame waiting for the connection."""
        data = self.take(number)
        at = 0
        while True:
            length, kind, tag = struct.unpack_from("<IHH", data, at)
            if at + length == len(data):
                assert kind == 23, f"the last frame is a {kind}"
                return tag
            at += length
