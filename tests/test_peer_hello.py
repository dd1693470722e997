"""How replicas greet, without sockets: every byte of it checked, and one sentence for each reason to refuse."""

import random
import struct

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peer_nodes import hello

from leftfold.runtime.peer_hello import (
    BULK_LINK,
    HELLO_BYTES_MAX,
    REFUSAL_BYTES_MAX,
    Hello,
    NotAPeer,
    object_to,
    read_hello,
    refusal,
)

OWN = hello(2, "127.0.0.3:7800")
OTHER = hello(1, "127.0.0.2:7800", target=2)
IDS = st.integers(1, 2**64 - 1)
TEXTS = st.text(max_size=60).filter(str.isprintable)


@st.composite
def hellos(draw: st.DrawFn) -> Hello:
    return hello(
        draw(IDS),
        draw(TEXTS),
        cluster_id=draw(st.binary(min_size=16, max_size=16)),
        target=draw(IDS),
        instance=draw(IDS),
        link=draw(st.sampled_from((1, BULK_LINK))),
        serves=draw(TEXTS),
        build=draw(TEXTS),
        python=(draw(st.integers(0, 65535)), draw(st.integers(0, 65535))),
    )


@given(hellos(), st.binary(max_size=20))
def test_a_greeting_comes_back_as_it_was_whatever_follows(
    given_hello: Hello, behind: bytes
) -> None:
    frame = given_hello.encode()

    assert len(frame) % 8 == 0
    assert read_hello(frame + behind) == (given_hello, len(frame))


def test_a_part_of_a_greeting_is_waited_for() -> None:
    frame = OTHER.encode()
    for cut in range(len(frame)):
        assert read_hello(frame[:cut]) is None


def test_any_bytes_are_a_greeting_or_no_peer() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(20_000):
        data = bytearray(
            OTHER.encode() if rng.random() < 0.7 else rng.randbytes(rng.randrange(200))
        )
        for _ in range(rng.randrange(4)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            found = read_hello(data)
        except NotAPeer as error:
            assert str(error).startswith("it ") and "\n" not in str(error)
            continue
        if found is not None:
            assert found[1] <= len(data)
            assert found[0].address.isprintable()


def changed(at: int, value: bytes) -> bytes:
    frame = bytearray(OTHER.encode())
    frame[at : at + len(value)] = value
    return bytes(frame)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x16\x03\x01\x02\x00\x01", "speaks TLS, and this replica was started without"),
        (b"GET / HTTP/1.1\r\n", "does not speak as a replica"),
        (changed(4, b"\x01\0"), "does not speak as a replica"),
        (changed(8, b"leftfold"), "does not speak as a replica"),
        (
            changed(16, b"\x02\0"),
            "speaks version 2 of the replicas' protocol, and this replica version 1",
        ),
        (changed(0, struct.pack("<I", HELLO_BYTES_MAX + 1)), "it sent a greeting of"),
        (changed(0, struct.pack("<I", 71)), "it sent a greeting of 71 bytes"),
        (changed(18, b"\x07\0"), "makes no sense"),
        (changed(40, bytes(8)), "makes no sense"),
        (changed(64, b"\xff\0"), "makes no sense"),
        (
            refusal("Two replicas\nhave \x1b[31mthe id 2."),
            r"it refuses this replica: Two replicas\?have \?\[31mthe",
        ),
    ],
)
def test_each_broken_rule_has_its_clause(data: bytes, why: str) -> None:
    with pytest.raises(NotAPeer, match=why):
        read_hello(data)


def test_a_refusal_has_a_limit() -> None:
    assert len(refusal("x" * 100_000)) <= REFUSAL_BYTES_MAX


def objection(
    *,
    expected: int | None = None,
    known: str | None = None,
    any_build: bool = False,
    **fields: object,
) -> str | None:
    other = attrs.evolve(OTHER, **fields)
    return object_to(OWN, other, expected, known, any_build=any_build)


def test_nothing_is_wrong_with_a_peer_as_it_should_be() -> None:
    assert objection() is None
    assert objection(expected=1, known="127.0.0.2:7800") is None
    assert objection(build="build 2", any_build=True) is None
    assert objection(source=77) is None


def test_each_objection_is_one_sentence_that_names_both_sides_and_the_remedy() -> None:
    who = "Replica 1 at 127.0.0.2:7800"
    for found, parts in (
        (
            objection(cluster_id=b"\xaa" * 16),
            (who, "another cluster", "aaaaaaaa", "00010203", "list of members"),
        ),
        (
            objection(source=2),
            ("Two replicas have the id 2", "127.0.0.3:7800", "127.0.0.2:7800", "stop one"),
        ),
        (objection(expected=3), (who, "answers where replica 3 is expected", "list of members")),
        (objection(target=5), (who, "takes this replica, 2, for replica 5", "list of members")),
        (
            objection(known="127.0.0.9:1"),
            ("Two replicas have the id 1", "127.0.0.9:1", "127.0.0.2:7800", "stop one"),
        ),
        (objection(python=(3, 13)), (who, "Python 3.13", "3.11", "same minor version")),
        (objection(build="build 2"), (who, "build 2", "build 1", "same code")),
    ):
        assert found is not None and found.endswith(".") and "\n" not in found
        for part in parts:
            assert part in found
