"""The cache's commands: byte for byte what a real Redis answers, over random sequences; and what only ours must hold."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from replica import DEADLINE_S
from resp_client import RespClient, encoded, replies_in, started_redis

from leftfold.actors import cache, resp
from leftfold.actors.glob import matcher
from leftfold.actors.keyspace import VALUE_BYTES_MAX, Keyspace, parse_integer
from leftfold.actors.testing import Folded

KEYS = [b"a", b"b", b"counter", b"h", b""]
VALUES = [
    b"", b"0", b"1", b"-1", b"10", b"007", b"+5", b" 1", b"-0", b"x", b"\r\n", b"\xff\x00",
    b"9223372036854775807", b"-9223372036854775808", b"9223372036854775808", b"3.5", b"1" * 25,
]  # fmt: skip
OPTIONS = [
    b"NX",
    b"xx",
    b"GET",
    b"EX",
    b"PX",
    b"KEEPTTL",
    b"100",
    b"5000000",
    b"0",
    b"-1",
    b"z",
    b"GT",
    b"LT",
]

key = st.sampled_from(KEYS)
value = st.sampled_from(VALUES)
option = st.sampled_from(OPTIONS)
# TTLs in seconds only: between the two servers pass some milliseconds.
NAMES = [
    *sorted(set(cache.COMMANDS) - {b"SCAN", b"KEYS", b"PTTL", b"EXPIREAT", b"PEXPIREAT"}),
    b"NOSUCH",
]


@st.composite
def commands(draw: st.DrawFn) -> list[bytes]:
    """A command with arguments that mostly fit it."""
    name = draw(st.sampled_from(NAMES))
    entry = cache.COMMANDS.get(name)
    words = abs(entry.arity) if entry else 2
    if name in (b"SET", b"EXPIRE", b"PEXPIRE"):
        time_or_value = draw(
            value
            if name == b"SET"
            else st.sampled_from([b"100", b"-1", b"x", b"9223372036854775807"])
        )
        return [name, draw(key), time_or_value, *draw(st.lists(option, max_size=3))]
    words += draw(st.sampled_from([0, 0, 0, 0, 1, 2, -1]))
    if draw(st.integers(0, 4)) == 0:
        name = name.lower()
    return [
        name,
        *(draw(key if at == 0 else st.one_of(value, key)) for at in range(max(0, words - 1))),
    ]


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A real Redis."""
    directory: Path = tmp_path_factory.mktemp("redis")
    yield from started_redis(directory)


def ours(space: Keyspace, given: list[list[bytes]], at_ms: int = 0) -> list[bytes]:
    """Our replies."""
    answers: list[bytes] = []
    while given:
        replies = cache.run(space, given, at_ms, reads=False)
        answers += replies_in(replies.resp)
        given = given[replies.done :]
    return answers


def at_one_time(redis_port: int, sequence: list[list[bytes]]) -> tuple[int, list[bytes]]:
    """What an empty Redis answers when all is carried out in one millisecond, and which that was.

    Asked again until it was one: EXPIRE k 100 GT after EXPIRE k 100 answers 1 if the clock has ticked in between.
    """
    asked = b"".join(encoded(*words) for words in [[b"TIME"], *sequence, [b"TIME"]])
    deadline = time.monotonic() + DEADLINE_S
    with RespClient(redis_port) as client:
        while time.monotonic() < deadline:
            client.ask(b"FLUSHALL")
            client.send(asked)
            first, *theirs, last = client.replies(len(sequence) + 2)
            if milliseconds(first) == milliseconds(last):
                return milliseconds(first), theirs
    raise AssertionError("never within a millisecond")


def milliseconds(replied: bytes) -> int:
    """What TIME replied."""
    _, _, seconds, _, microseconds, _ = replied.split(b"\r\n")
    return int(seconds) * 1000 + int(microseconds) // 1000


@pytest.mark.xdist_group("serial")
@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(commands(), min_size=1, max_size=40))
def test_every_reply_is_that_of_redis(redis_port: int, sequence: list[list[bytes]]) -> None:
    sequence = [words for words in sequence if words[0].upper() != b"SELECT" or words[1:] == [b"0"]]
    space = Keyspace()
    now_ms, theirs = at_one_time(redis_port, sequence)

    assert list(zip(sequence, ours(space, sequence, now_ms), strict=True)) == list(
        zip(sequence, theirs, strict=True)
    )


@pytest.mark.xdist_group("serial")
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.text("ab*?[]^-\\", max_size=8).map(str.encode), min_size=1, max_size=8),
    st.lists(st.text("ab-^]\\c", min_size=1, max_size=5).map(str.encode), max_size=10, unique=True),
)
def test_patterns_match_what_they_match_in_redis(
    redis_port: int, patterns: list[bytes], names: list[bytes]
) -> None:
    with RespClient(redis_port) as client:
        client.ask(b"FLUSHALL")
        for name in names:
            client.ask(b"SET", name, b"1")
        for pattern in patterns:
            found = client.ask(b"KEYS", pattern)
            matches = matcher(pattern)

            mine = resp.array(sorted(name for name in names if matches(name)))
            assert sorted(mine.split(b"\r\n")) == sorted(found.split(b"\r\n")), pattern


@pytest.mark.xdist_group("serial")
@pytest.mark.parametrize(
    "words",
    [
        [b"nosuch", b"a\0b", b"\xff\0", b"c"],
        [b"no\0such", b"a"],
        [b"nosuch", b"a" * 127, b"bc", b"d"],
        [b"nosuch", b"a" * 124, b"bcd", b"e"],
        [b"n" * 200, b"a\r\nb"],
    ],
)
def test_an_unknown_command_is_quoted_as_redis_quotes_it(
    redis_port: int, words: list[bytes]
) -> None:
    with RespClient(redis_port) as client:
        assert ours(Keyspace(), [words]) == [client.ask(*words)]


def test_a_hostile_pattern_takes_no_time() -> None:
    assert not matcher(b"a*" * 500 + b"b")(b"a" * 5000)


@given(st.one_of(st.binary(max_size=22), st.integers(-(1 << 65), 1 << 65).map(lambda n: b"%d" % n)))
def test_an_integer_reads_back_as_the_same_bytes_or_is_none(text: bytes) -> None:
    number = parse_integer(text)

    assert number is None or b"%d" % number == text


def test_a_key_is_gone_when_its_time_has_passed_and_not_before() -> None:
    space = Keyspace()
    ours(space, [[b"SET", b"k", b"v", b"PX", b"100"]], 1_000)

    assert ours(space, [[b"PTTL", b"k"], [b"GET", b"k"]], 1_100) == [b":0\r\n", b"$1\r\nv\r\n"]
    assert (
        cache.run(space, [[b"GET", b"k"], [b"TTL", b"k"]], 1_101, reads=True).resp
        == b"$-1\r\n:-2\r\n"
    )
    assert b"k" in space.values, "a read changes nothing"
    assert ours(space, [[b"INCR", b"k"], [b"TTL", b"k"]], 1_101) == [b":1\r\n", b":-1\r\n"]


def test_times_to_live_are_rounded_as_redis_rounds_them() -> None:
    space = Keyspace()
    ours(space, [[b"SET", b"k", b"v", b"PX", b"1500"]], 0)

    assert ours(space, [[b"TTL", b"k"]], 0) == [b":2\r\n"]
    assert ours(space, [[b"TTL", b"k"]], 1) == [b":1\r\n"]


def test_a_timer_frees_what_nobody_touches() -> None:
    folded = Folded(cache.app)
    for number in range(50):
        ask(folded, [b"SET", b"%d" % number, b"v", b"PX", b"%d" % (100 + number)])
    ask(folded, [b"SET", b"stays", b"v"])
    actor = folded.machine.instance(cache.Cache, 0)

    assert len(actor.keyspace.values) == 51
    folded.advance(seconds=1)
    assert list(actor.keyspace.values) == [b"stays"] and not actor.keyspace.queue


def ask(folded: Folded, *given: list[bytes]) -> Any:
    return folded.ask(0, cache.Execute(list(given)))


def test_a_key_whose_time_is_moved_leaves_nothing_behind() -> None:
    space = Keyspace()
    for number in range(10_000):
        ours(space, [[b"SET", b"k", b"v", b"PX", b"%d" % (1 + number % 7)]], 0)

    assert len(space.queue) < 100


@given(st.data())
def test_a_scan_finds_every_key_that_was_there_all_the_time(data: st.DataObject) -> None:
    space = Keyspace()
    names = [b"%d" % number for number in range(data.draw(st.integers(0, 60)))]
    ours(space, [[b"SET", name, b"v"] for name in names])
    stays = set(data.draw(st.lists(st.sampled_from(names), unique=True))) if names else set[bytes]()
    seen: set[bytes] = set()
    cursor = b"0"
    while True:
        count = b"%d" % data.draw(st.integers(1, 9))
        reply = ours(space, [[b"SCAN", cursor, b"COUNT", count]])[0]
        words = reply.split(b"\r\n")
        cursor = words[2]
        seen |= set(words[5::2])
        if cursor == b"0":
            break
        for name in data.draw(st.lists(st.sampled_from(names), max_size=5)):
            if name not in stays:
                other = data.draw(st.sampled_from([[b"DEL", name], [b"SET", b"new" + name, b"v"]]))
                ours(space, [other])

    assert stays <= seen


def test_a_transaction_is_one_reply_and_goes_on_after_an_error() -> None:
    space = Keyspace()
    given = [
        [b"EXEC", b"3"],
        [b"SET", b"k", b"x"],
        [b"INCR", b"k"],
        [b"GET", b"k"],
        [b"STRLEN", b"k"],
    ]

    assert ours(space, given) == [
        b"*3\r\n+OK\r\n" + resp.NOT_INTEGER + b"$1\r\nx\r\n",
        b":1\r\n",
    ]


def test_replies_that_would_be_too_long_are_divided_but_no_transaction_is() -> None:
    space = Keyspace()
    large = bytes(VALUE_BYTES_MAX)
    ours(space, [[b"SET", b"k", large], [b"SET", b"m", large]])

    first = cache.run(space, [[b"GET", b"k"], [b"GET", b"m"]], 0, reads=True)
    both = cache.run(space, [[b"EXEC", b"2"], [b"GET", b"k"], [b"GET", b"m"]], 0, reads=False)

    assert first.done == 1 and both.done == 3
    assert ours(space, [[b"MGET", b"k", b"m"]]) == [cache.TOO_LARGE]
    assert ours(space, [[b"APPEND", b"k", b"x"]]) == [resp.TOO_LONG]
    assert ours(space, [[b"SET", b"k", large + b"x"]]) == [resp.TOO_LONG]


def test_a_query_cannot_write() -> None:
    space = Keyspace()

    assert cache.run(space, [[b"SET", b"k", b"v"]], 0, reads=True).resp == cache.NOT_HERE
    assert not space.values


@given(st.lists(st.lists(st.binary(max_size=8), max_size=5), max_size=20), st.booleans())
def test_whatever_it_is_given_it_answers(given_: list[list[bytes]], reads: bool) -> None:
    """A client of leftfold's own protocol may send anything; the actor must not be quarantined for it."""
    names = list(cache.COMMANDS)
    for at, words in enumerate(given_):
        if words and at % 2:
            words[0] = names[len(words[0]) * 7 % len(names)]

    assert cache.run(Keyspace(), given_, 0, reads=reads).done <= len(given_)


def test_the_state_survives_a_snapshot_and_a_replay_is_the_same() -> None:
    folded = Folded(cache.app)
    ask(
        folded,
        [b"SET", b"s", b"\xff"],
        [b"INCR", b"i"],
        [b"HSET", b"h", b"f", b"v"],
        [b"EXPIRE", b"s", b"9"],
    )
    before = ask(folded, [b"GET", b"s"], [b"GET", b"i"], [b"HGETALL", b"h"], [b"PTTL", b"s"]).resp
    machine = folded.machine

    again = type(machine).restore(cache.app, machine.limits, machine.seed, [*machine.snapshot()])
    space = again.instance(cache.Cache, 0).keyspace
    words = [[b"GET", b"s"], [b"GET", b"i"], [b"HGETALL", b"h"], [b"PTTL", b"s"]]
    assert (
        cache.run(space, words, folded.machine.state.time_ns // 1_000_000, reads=True).resp
        == before
    )
