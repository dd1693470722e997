"""Frames of the Python side: what is encoded passes the gateway's check, and any cut decodes alike."""

import random
import struct

import pytest
from gates import event, ping, reply, session_id, subscribed

from leftfold.runtime import frames
from leftfold.runtime._wire import lib

SESSION = session_id(1)
WELCOME = struct.pack("<IHH16sIIQ", 40, 16, 1, bytes(16), 4096, 64, 1)
REFUSED = struct.pack("<IHH16sQ", 36, 22, 2 | 3 << 8, SESSION, 5) + b"wait"
LOST = struct.pack("<IHH16sQQII", 48, 21, 0, SESSION, 5, 9, 1, 2)
ERROR = struct.pack("<IHH", 12, 23, 6) + b"zero"


def test_what_the_encoders_make_passes_the_gateways_check() -> None:
    made = [
        frames.hello(),
        frames.open_session(SESSION),
        frames.close_session(SESSION),
        frames.command(7, SESSION, 1, 1, b"key", b"body"),
        frames.query(7, SESSION, 1, b"", b""),
        frames.subscribe(SESSION, 1, (1, 2, 3), 4, b"key"),
        frames.subscribe(SESSION, 1, None),
        frames.unsubscribe(SESSION, 1),
        frames.ping(1),
    ]
    for frame in made:
        assert struct.unpack_from("<I", frame)[0] == len(frame)
        assert lib.wire_check(frame, len(frame), 4096, 64) == lib.WIRE_FINE


def test_a_stream_cut_anywhere_gives_the_same_frames() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    stream = b"".join(
        [
            WELCOME,
            reply(SESSION, 3, b"body"),
            reply(SESSION, 4, b"", kind=18),
            event(2, b"key", b"body"),
            subscribed(SESSION, 5, tag=1),
            LOST,
            REFUSED,
            ping(8, 24),
            ERROR,
        ]
    )
    expected = [
        frames.Welcome(1, bytes(16), 4096, 64, 1),
        frames.Reply(7, SESSION, 3, 9, 0, 0, b"body"),
        frames.Answer(7, SESSION, 4, 9, 0, 0, b""),
        frames.EventFrame(7, (9, 0, 1), 2, 0, b"key", b"body"),
        frames.Subscribed(SESSION, 5, 9, 0, 0, True),
        frames.Lost(SESSION, 5, (9, 1, 2)),
        frames.Refused(2, 3, SESSION, 5, "wait"),
        frames.Pong(8),
        frames.Error(6, "zero"),
    ]
    for cut in range(len(stream) + 1):
        decoder = frames.Decoder()
        assert decoder.receive(stream[:cut]) + decoder.receive(stream[cut:]) == expected
        assert decoder.waiting == 0
    for _ in range(100):
        decoder, found, rest = frames.Decoder(), [], stream
        while rest:
            size = rng.randrange(1, 30)
            found += decoder.receive(rest[:size])
            rest = rest[size:]
        assert found == expected


@pytest.mark.parametrize(
    "stream",
    [
        struct.pack("<IHH", 7, 17, 0),
        struct.pack("<IHH", 2**31, 17, 0),
        struct.pack("<IHH", 8, 3, 0),
        struct.pack("<IHH", 8, 999, 0),
        reply(SESSION, 1)[:4] + struct.pack("<HH", 16, 0) + bytes(40)[:16],
        struct.pack("<IHHQIIHHIq", 40, 19, 7, 9, 0, 1, 1, 8, 0, 0),
    ],
)
def test_what_no_gateway_sends_is_a_protocol_error(stream: bytes) -> None:
    with pytest.raises(frames.ProtocolError):
        frames.Decoder().receive(stream + bytes(64))


def test_random_bytes_give_frames_or_a_protocol_error() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(3000):
        stream = bytearray(reply(SESSION, 3, b"body") + event(2, b"key") + REFUSED + ERROR)
        for _ in range(rng.randrange(1, 8)):
            stream[rng.randrange(len(stream))] = rng.randrange(256)
        try:
            frames.Decoder(frame_bytes_max=1000).receive(bytes(stream))
        except frames.ProtocolError:
            pass
