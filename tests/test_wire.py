"""Runs of slots in C: checked, separated, refused and tallied as a model in Python says (runtime/wire.h)."""

import random
import struct

import pytest
from gates import event, pad, ping, reply, request, run_of, session_id, subscribe

from leftfold.runtime._wire import ffi, lib

DRAIN = struct.pack("<IHH", 8, 38, 0)
BODY_TYPES, QUERY_TYPES = {2, 3, 4}, {5, 6}


def slots_of(run: bytes) -> list[bytes]:
    """The padded slots of a run."""
    slots: list[bytes] = []
    while run:
        size = (struct.unpack_from("<I", run)[0] + 7) & ~7
        slots.append(run[:size])
        run = run[size:]
    return slots


def random_run(rng: random.Random, count: int) -> bytes:
    frames: list[bytes] = []
    for number in range(count):
        key = rng.randbytes(rng.randrange(12))
        match rng.randrange(7):
            case 6:
                frames.append(request(50, session_id(5), number, b"", b"{}"))
            case 0:
                frames.append(request(rng.choice((2, 4)), session_id(1), 0))
            case 1:
                frames.append(subscribe(session_id(2), number, 3, key))
            case 2:
                frames.append(request(5, session_id(3), number, key, rng.randbytes(9)))
            case _:
                frames.append(request(3, session_id(4), number, key, rng.randbytes(30)))
    return run_of(*frames)


def separate(
    run: bytes, body_max: int, queries_max: int, count_max: int = 10**6, controls_max: int = 4096
):
    call = ffi.new("struct wire_separation *")
    keep = (
        ffi.from_buffer(run),
        ffi.new("uint8_t[]", body_max or 1),
        ffi.new("uint8_t[]", queries_max or 1),
    )
    call.run, call.body, call.queries = (ffi.cast("uint8_t *", place) for place in keep)
    call.run_bytes, call.body_bytes_max, call.queries_bytes_max = len(run), body_max, queries_max
    call.body_count_max = count_max
    controls = ffi.new("uint8_t[]", controls_max or 1)
    call.controls, call.controls_bytes_max = controls, controls_max
    status = lib.wire_separate(call)
    body = bytes(ffi.buffer(keep[1], call.body_bytes))
    queries = bytes(ffi.buffer(keep[2], call.queries_bytes))
    return (
        status,
        body,
        call.body_count,
        queries,
        call.queries_count,
        bytes(ffi.buffer(controls, call.controls_bytes)),
        call.consumed_bytes,
        call.drain,
    )


def test_an_ingress_run_is_separated_as_the_model_says_whatever_the_room() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(300):
        run = random_run(rng, rng.randrange(30))
        if rng.random() < 0.3:
            run += DRAIN + random_run(rng, 3)
        body_max, queries_max = rng.choice((0, 100, 500, 9999)), rng.choice((0, 100, 9999))
        count_max, controls_max = rng.choice((0, 3, 999)), rng.choice((0, 100, 9999))
        body, queries, controls, drain = [], [], [], 0
        consumed = 0
        for slot in slots_of(run):
            kind = struct.unpack_from("<IH", slot)[1]
            target, room = (body, body_max) if kind in BODY_TYPES else (queries, queries_max)
            if kind == 50:
                target, room = controls, controls_max
            if kind != 38:
                if len(b"".join(target)) + len(slot) > room or (
                    target is body and len(body) == count_max
                ):
                    break
                target.append(slot)
            consumed += len(slot)
            if kind == 38:
                drain = 1
                break

        found = separate(run, body_max, queries_max, count_max, controls_max)

        assert found == (
            0,
            b"".join(body),
            len(body),
            b"".join(queries),
            len(queries),
            b"".join(controls),
            consumed,
            drain,
        )


@pytest.mark.parametrize(
    "run",
    [
        reply(session_id(1), 1),
        struct.pack("<IHH", 4, 3, 0),
        struct.pack("<IHH", 48, 3, 0),
        bytes(7),
        struct.pack("<IHH", 2**32 - 1, 3, 0) + bytes(64),
    ],
)
def test_a_malformed_run_is_reported_and_nothing_is_read_beyond_it(run: bytes) -> None:
    assert separate(run, 1000, 1000)[0] == -1


def refuse(run: bytes, room: int, reason: int, text: bytes):
    call = ffi.new("struct wire_refusal *")
    keep = ffi.from_buffer(run), ffi.new("uint8_t[]", room or 1), ffi.from_buffer(text)
    call.run, call.refused, call.text = (ffi.cast("uint8_t *", place) for place in keep)
    call.run_bytes, call.refused_bytes_max, call.text_bytes = len(run), room, len(text)
    call.reason = reason
    status = lib.wire_refuse(call)
    return (
        status,
        bytes(ffi.buffer(keep[1], call.refused_bytes)),
        call.refused_count,
        call.consumed_bytes,
    )


def test_each_slot_of_a_refused_run_is_answered_with_reason_hint_and_its_own_type() -> None:
    frames = [
        request(3, session_id(8), 5, b"k"),
        request(5, session_id(9), 6),
        subscribe(session_id(9), 7),
        request(50, session_id(9), 8, b"", b"{}"),
    ]

    status, run, count, consumed = refuse(run_of(*frames), 4096, 2, b"not ready")

    assert (status, count, consumed) == (0, 4, len(run_of(*frames)))
    kinds, numbers = (3, 5, 6, 50), (5, 6, 7, 8)
    for slot, frame, kind, number in zip(slots_of(run), frames, kinds, numbers, strict=True):
        assert struct.unpack_from("<IHH", slot) == (41, 22, 2 | kind << 8)
        assert slot[8:24] == frame[8:24]
        assert struct.unpack_from("<Q", slot, 24)[0] == number
        assert slot[32:] == pad(b"not ready")


def test_refusing_stops_where_the_room_ends() -> None:
    frames = [request(3, session_id(1), n) for n in range(1, 5)]

    status, run, count, consumed = refuse(run_of(*frames), 100, 1, b"")

    assert (status, count, consumed, len(run)) == (0, 3, 3 * 40, 3 * 32)


def test_replies_are_tallied_by_session_and_half_frames_wait() -> None:
    def to(index: int, number: int) -> bytes:
        return reply(struct.pack("<QQ", 77, index), number)

    frames = to(0, 1) + to(1, 1) + to(0, 2) + event(1, b"k") + ping(3, 24)
    highest = ffi.new("uint64_t[]", 2)
    tally = ffi.new("struct wire_tally *", {"highest": highest, "sessions": 2})

    consumed = lib.wire_tally_frames(tally, frames + to(1, 9)[:47], len(frames) + 47)

    assert consumed == len(frames)
    assert (tally.replies, tally.others, tally.failures) == (3, 2, 0)
    assert list(highest) == [2, 1]
    assert lib.wire_tally_frames(tally, struct.pack("<IHH", 3, 17, 0), 8) == -1


def check(frame: bytes) -> int:
    return lib.wire_check(frame, len(frame), 4096, 64)


def test_a_good_frame_of_each_type_is_fine_and_so_is_each_beginning_of_it() -> None:
    good = [
        request(2, session_id(1), 0),
        request(3, session_id(1), 1, b"key", b"body"),
        request(4, session_id(1), 0),
        request(5, session_id(1), 1, b"k" * 64),
        request(50, session_id(1), 1, b"", b'{"index": 9}'),
        subscribe(session_id(1), 1, 3, b"key"),
        struct.pack("<IHH16sQ", 32, 7, 0, session_id(1), 1),
        ping(1),
    ]
    for frame in good:
        for cut in range(len(frame) + 1):
            assert check(frame[:cut]) == lib.WIRE_FINE


def test_every_broken_rule_has_its_own_code() -> None:
    session = session_id(1)
    assert check(struct.pack("<IHH", 40, 0, 0)) == lib.WIRE_UNKNOWN_TYPE
    assert check(struct.pack("<IHH", 40, 9, 0)) == lib.WIRE_UNKNOWN_TYPE
    assert check(struct.pack("<IHH", 48, 17, 0)) == lib.WIRE_UNKNOWN_TYPE
    assert check(struct.pack("<IHH", 39, 3, 0)) == lib.WIRE_BAD_LENGTH
    assert check(struct.pack("<IHH", 4097, 3, 0)) == lib.WIRE_BAD_LENGTH
    assert check(struct.pack("<IHH", 0, 3, 0)) == lib.WIRE_BAD_LENGTH
    assert check(struct.pack("<IHH", 41, 2, 0)) == lib.WIRE_BAD_LENGTH
    assert check(struct.pack("<IHH", 97, 1, 0)) == lib.WIRE_BAD_LENGTH
    assert check(struct.pack("<IHH", 31, 1, 0)) == lib.WIRE_BAD_LENGTH
    for kind in (10, 15, 45, 49, 51, 54, 0xFFFF):
        assert check(struct.pack("<IHH", 40, kind, 0)) == lib.WIRE_UNKNOWN_TYPE
    assert check(request(3, bytes(16), 1)) == lib.WIRE_ZERO_SESSION
    assert check(request(50, bytes(16), 1)) == lib.WIRE_ZERO_SESSION
    assert check(request(50, session, 1, b"k" * 65)) == lib.WIRE_BAD_KEY
    assert check(subscribe(bytes(16), 1)) == lib.WIRE_ZERO_SESSION
    assert check(request(3, session, 1, b"k" * 65)) == lib.WIRE_BAD_KEY
    longer_than_frame = bytearray(request(3, session, 1, b"key"))
    struct.pack_into("<H", longer_than_frame, 36, 4)
    assert check(bytes(longer_than_frame)) == lib.WIRE_BAD_KEY
