"""Clients that speak Redis's protocol at the gate: order, limits, hostile bytes, transactions, verbs; no sockets, the real machine."""

import random
import struct
from typing import Any

import pytest
from apps.orders import app as orders
from hypothesis import given, settings
from hypothesis import strategies as st
from resp_client import encoded, replies_in
from visiting import Visited

from leftfold.actors import App, DefinitionError
from leftfold.actors.cache import app as cache
from leftfold.actors.ledger import Deposit, Ledger
from leftfold.runtime.errors import OperatorError
from leftfold.runtime.visitors import Vocabulary

OPEN, COMMAND, CLOSE, QUERY = 2, 3, 4, 5
CLOSED = 3


def said(*lines: str) -> bytes:
    """Requests as a person types them."""
    return b"".join(encoded(*line.encode().split()) for line in lines)


def test_what_came_together_is_one_command_and_its_replies_come_in_order() -> None:
    visited = Visited(cache)
    one = visited.visit()
    visited.say(one, said("SET k 5", "INCR k", "GET k", "PING", "INCR k", "GET nothing"))

    assert visited.kinds() == [OPEN, COMMAND]
    assert visited.settle(one) == [
        b"+OK\r\n", b":6\r\n", b"$1\r\n6\r\n", b"+PONG\r\n", b":7\r\n", b"$-1\r\n",
    ]  # fmt: skip


def test_reads_alone_are_a_query_and_leave_no_trace_in_the_log() -> None:
    visited = Visited(cache)
    one = visited.visit()
    visited.ask(one, said("SET k 5"))
    index = visited.fold.index
    visited.say(one, said("GET k", "EXISTS k", "TTL k"))

    assert visited.kinds() == [QUERY]
    assert visited.settle(one) == [b"$1\r\n5\r\n", b":1\r\n", b":-1\r\n"]
    assert visited.fold.index == index


def test_the_first_read_of_all_finds_an_empty_database() -> None:
    visited = Visited(cache)

    assert visited.ask(visited.visit(), said("GET k", "DBSIZE")) == [b"$-1\r\n", b":0\r\n"]


def test_a_later_write_never_overtakes_a_read() -> None:
    """The read is under way when the write comes: the write waits."""
    visited = Visited(cache)
    one = visited.visit()
    visited.ask(one, said("SET k old"))
    visited.say(one, said("GET k"))
    with pytest.raises(AssertionError):
        visited.feed(one, said("SET k new"))

    assert visited.settle(one) == [b"$3\r\nold\r\n"]
    assert visited.ask(one, said("SET k new", "GET k")) == [b"+OK\r\n", b"$3\r\nnew\r\n"]


def test_each_connection_has_one_session_that_is_closed_with_it() -> None:
    visited = Visited(cache)
    one = visited.visit()
    visited.ask(one, said("INCR k"))
    visited.ask(one, said("INCR k"))
    sessions = visited.fold.machine.state.sessions
    assert len(sessions) == 1
    visited.ask(one, said("QUIT"))
    visited.flush()
    visited.say(visited.visit(), b"")

    assert visited.kinds() == [CLOSE]
    visited.answer()
    assert len(sessions) == 0


def test_what_redis_clients_ask_beside_their_work() -> None:
    visited = Visited(cache)
    one = visited.visit()

    def answer(*words: str) -> bytes:
        return b"".join(visited.ask(one, encoded(*(word.encode() for word in words))))

    assert answer("PING", "hello") == b"$5\r\nhello\r\n"
    assert answer("ECHO", "x") == b"$1\r\nx\r\n"
    assert answer("SELECT", "0") == b"+OK\r\n"
    assert answer("SELECT", "1") == b"-ERR DB index is out of range\r\n"
    assert answer("SELECT", "x") == b"-ERR value is not an integer or out of range\r\n"
    assert answer("HELLO", "4") == b"-NOPROTO unsupported protocol version\r\n"
    assert b"proto\r\n:2\r\n" in answer("HELLO", "2", "SETNAME", "me")
    assert answer("CLIENT", "GETNAME") == b"$2\r\nme\r\n"
    assert answer("CLIENT", "SETNAME", "a b").startswith(b"-ERR Client names cannot contain")
    assert answer("CLIENT", "SETINFO", "LIB-NAME", "x") == b"+OK\r\n"
    assert answer("client", "id") == b":1\r\n"
    assert answer("CONFIG", "GET", "save") == b"*2\r\n$4\r\nsave\r\n$0\r\n\r\n"
    assert b"yes" in answer("CONFIG", "GET", "appendonly")
    assert answer("COMMAND", "DOCS") == b"*0\r\n"
    assert int(answer("COMMAND", "COUNT")[1:-2]) > 50
    assert b"redis_version" in answer("INFO")
    assert answer("AUTH", "x").startswith(b"-ERR AUTH <password> called without any password")
    assert answer("GET") == b"-ERR wrong number of arguments for 'get' command\r\n"
    assert (
        answer("nosuch", "a\r\nb")
        == b"-ERR unknown command 'nosuch', with args beginning with: 'a  b' \r\n"
    )


def test_who_must_know_a_token_says_it_first() -> None:
    visited = Visited(cache, tokens=(b"secret",))
    one = visited.visit()

    assert visited.ask(one, said("GET k")) == [b"-NOAUTH Authentication required.\r\n"]
    assert visited.ask(one, said("AUTH wrong"))[0].startswith(b"-WRONGPASS")
    assert visited.ask(one, said("AUTH secret", "INCR k")) == [b"+OK\r\n", b":1\r\n"]
    two = visited.visit()
    assert visited.ask(two, said("HELLO 2"))[0].startswith(b"-NOAUTH HELLO must be called")
    assert visited.ask(two, said("HELLO 2 AUTH default secret", "GET k"))[1] == b"$1\r\n1\r\n"


def test_a_transaction_is_one_command() -> None:
    visited = Visited(cache)
    one = visited.visit()
    queued = [b"+OK\r\n", b"+QUEUED\r\n", b"+QUEUED\r\n", b"+QUEUED\r\n"]
    assert visited.ask(one, said("MULTI", "SET k x", "INCR k", "PING")) == queued
    visited.say(one, said("EXEC"))
    assert visited.kinds() == [OPEN, COMMAND]
    assert visited.settle(one) == [
        b"*3\r\n+OK\r\n-ERR value is not an integer or out of range\r\n+PONG\r\n"
    ]
    assert visited.ask(one, said("MULTI", "EXEC")) == [b"+OK\r\n", b"*0\r\n"]
    assert visited.ask(one, said("MULTI", "INCR", "INCR n", "EXEC", "GET n"))[1:] == [
        b"-ERR wrong number of arguments for 'incr' command\r\n",
        b"+QUEUED\r\n",
        b"-EXECABORT Transaction discarded because of previous errors.\r\n",
        b"$-1\r\n",
    ]
    assert visited.ask(one, said("MULTI", "MULTI", "INCR n", "DISCARD", "GET n", "EXEC", "DISCARD")) == [
        b"+OK\r\n",
        b"-ERR MULTI calls can not be nested\r\n",
        b"+QUEUED\r\n",
        b"+OK\r\n",
        b"$-1\r\n",
        b"-ERR EXEC without MULTI\r\n",
        b"-ERR DISCARD without MULTI\r\n",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"*1\r\n+PING\r\n", b"expected '$', got '+'"),
        (b"*x\r\n", b"invalid multibulk length"),
        (b"*99999999\r\n", b"invalid multibulk length"),
        (b"*1\r\n$-5\r\n", b"invalid bulk length"),
        (b"*1\r\n$999999999\r\n", b"invalid bulk length"),
        (b"*" + b"1" * 100, b"too big mbulk count string"),
        (b"*1\r\n$" + b"1" * 100, b"too big bulk count string"),
        (b'SET k "x\r\n', b"unbalanced quotes in request"),
        (b"x" * 20_000, b"too big inline request"),
        (encoded(b"SET", *[b"x" * 8000] * 9)[:65536], b"the request is too large"),
    ],
)
def test_broken_requests_are_told_why_and_closed(data: bytes, why: bytes) -> None:
    visited = Visited(cache)
    one = visited.visit()

    assert visited.ask(one, said("PING") + data) == [
        b"+PONG\r\n",
        b"-ERR Protocol error: " + why + b"\r\n",
    ]
    assert visited.state(one) == CLOSED


def test_inline_requests_are_read_as_redis_reads_them() -> None:
    visited = Visited(cache)
    one = visited.visit()
    visited.ask(one, b"\r\n\r\nSET k \"a b\\x41\\n\\\"\" \r\nSET l 'it\\'s'\r\n*0\r\n")

    assert visited.ask(one, b"MGET k l\n") == [b"*2\r\n$6\r\na bA\n\"\r\n$4\r\nit's\r\n"]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_wherever_the_bytes_are_cut_the_answers_are_the_same(data: st.DataObject) -> None:
    lines = data.draw(
        st.lists(
            st.sampled_from(
                ["INCR a", "GET a", "SET b x", "MGET a b", "PING", "MULTI", "EXEC", "DBSIZE",
                 "HGETALL b", "nosuch", "ORDER.NEW s buy 1.5 2", "ORDER.COUNT s", "ORDER.NEW s", "APPEND b y"]
            ),
            max_size=60,
        )
    )  # fmt: skip
    whole = said(*lines)
    one, two = Visited(orders), Visited(orders)
    together = one.ask(visitor := one.visit(), whole)
    pieces: list[bytes] = []
    other = two.visit()
    at = 0
    while at < len(whole):
        size = data.draw(st.integers(1, 80))
        pieces += two.ask(other, whole[at : at + size])
        at += size

    assert together == pieces and len(together) == len(lines)
    assert one.state(visitor) == two.state(other) == 2


def test_many_large_replies_come_in_parts_and_in_order() -> None:
    visited = Visited(cache, output_bytes_max=1 << 22)
    one = visited.visit()
    for number in range(20):
        visited.ask(one, encoded(b"SET", b"%d" % number, b"%d" % number * 10_000))
    replies = visited.ask(one, said(*(f"GET {number}" for number in range(20)), "INCR n"))

    assert [reply[-10:-2][-1:] for reply in replies[:20]] == [b"%d" % (n % 10) for n in range(20)]
    assert replies[20] == b":1\r\n"


def test_a_client_that_does_not_read_is_not_read_either() -> None:
    visited = Visited(cache, output_bytes_max=1 << 18)
    one = visited.visit()
    visited.ask(one, encoded(b"SET", b"k", bytes(40_000)))
    visited.say(one, said(*["GET k"] * 60))
    for _ in range(60):
        visited.answer()
        visited.say(one, b"")

    assert visited.state(one) == 2 and visited.report.output_bytes < 1 << 18
    assert len(visited.settle(one)) == 60


def batched(items: list[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(items[::2], items[1::2], strict=True))


def test_an_app_maps_commands_onto_its_actors() -> None:
    visited = Visited(orders)
    one = visited.visit()

    assert visited.ask(one, said("ORDER.LAST ACME", "ORDER.NEW ACME buy 1.5 10", "order.count ACME")) == [
        b"$-1\r\n", b":1\r\n", b":1\r\n",
    ]  # fmt: skip
    words = visited.ask(one, said("ORDER.NEW ACME sell 2 3 1 note", "ORDER.LAST ACME"))[1]
    assert words.startswith(b"*10\r\n") and {
        b"$4\r\nside\r\n$4\r\nsell\r\n",
        b"$5\r\nprice\r\n$1\r\n2\r\n",
        b"$8\r\nquantity\r\n:3\r\n",
        b"$6\r\nurgent\r\n:1\r\n",
        b"$4\r\nnote\r\n$4\r\nnote\r\n",
    } == {b"".join(pair) for pair in batched(replies_in(words[5:]))}
    assert visited.ask(one, said("ORDER.NEW ACME buy x 1")) == [
        b"-ERR value is not a valid float\r\n"
    ]
    assert visited.ask(one, said("ORDER.NEW ACME buy 1 1.5")) == [
        b"-ERR value is not an integer or out of range\r\n"
    ]
    assert visited.ask(one, said("ORDER.NEW ACME buy 1")) == [
        b"-ERR wrong number of arguments for 'order.new' command\r\n"
    ]
    assert visited.ask(one, said("ORDER.NEW ACME buy 1 1 1 n more")) == [
        b"-ERR wrong number of arguments for 'order.new' command\r\n"
    ]
    assert visited.ask(one, said("ORDER.NEW ACME hold 1 1"))[0].startswith(b"-ERR ")
    assert visited.ask(one, encoded(b"ORDER.NEW", b"\xff", b"buy", b"1", b"1")) == [
        b"-ERR value is not valid UTF-8\r\n"
    ]
    assert visited.ask(one, said("ORDER.NEW ACME buy 1 0")) == [
        b"-REJECTED the quantity must be positive\r\n"
    ]
    assert visited.ask(one, said("ORDER.COUNT ACME", "INCR k", "ORDER.NEW ACME buy 1 1", "ORDER.COUNT ACME")) == [
        b":2\r\n", b":1\r\n", b":3\r\n", b":3\r\n",
    ]  # fmt: skip


def test_a_refusal_is_an_error_and_the_next_command_has_its_number() -> None:
    visited = Visited(cache)
    one = visited.visit()
    visited.ask(one, said("INCR k"))
    for reason, text, told in (
        (1, b"127.0.0.1:7", b"-READONLY this replica does not lead; the leader is 127.0.0.1:7\r\n"),
        (3, b"the disk is full", b"-MISCONF the disk is full\r\n"),
    ):
        visited.say(one, said("MULTI", "INCR k", "INCR k", "EXEC", "INCR k"))
        (slot,) = visited.slots
        visited.slots = []
        head = struct.pack("<IHH", 32 + len(text), 22, reason | COMMAND << 8)
        visited.scatter(head + slot[8:32] + text)
        assert visited.settle(one) == [b"+OK\r\n", b"+QUEUED\r\n", b"+QUEUED\r\n", told, told]
    assert visited.ask(one, said("INCR k")) == [b":2\r\n"]


def test_a_session_that_expired_is_opened_again_without_anybody_noticing() -> None:
    visited = Visited(cache)
    one = visited.visit()
    visited.ask(one, said("INCR k", "INCR k"))
    sessions = visited.fold.machine.state.sessions
    for id in sessions.table.ids():
        sessions.close(id)

    assert visited.ask(one, said("INCR k")) == [b":3\r\n"]
    assert visited.ask(one, said("INCR k")) == [b":4\r\n"]


def test_an_answer_that_never_comes_is_not_waited_for_for_ever() -> None:
    visited = Visited(cache)
    one = visited.visit()
    visited.say(one, said("INCR k"))
    visited.now_ns += 31 * 10**9
    visited.expire()

    assert visited.take(one).startswith(b"-ERR the replica has not answered in time")
    assert visited.state(one) == CLOSED


def test_an_idle_client_may_stay() -> None:
    visited = Visited(cache, idle_ns=1000)
    one = visited.visit()
    visited.ask(one, said("PING"))
    visited.now_ns += 10**15
    visited.expire()

    assert visited.state(one) == 2


def test_one_too_many_is_told_so_in_words_of_redis() -> None:
    visited = Visited(cache, connections_max=1)
    visited.visit()
    two = visited.visit()

    assert visited.take(two) == b"-ERR too many connections on this replica\r\n"


def test_a_full_ring_pushes_back_and_loses_nothing() -> None:
    visited = Visited(cache, frame_bytes_max=1024)
    visited.room = 1024
    visitors = [visited.visit() for _ in range(8)]
    replies: dict[int, list[bytes]] = {number: [] for number in visitors}
    for number in visitors:
        data = said(*["INCR k"] * 200)
        for at in range(0, len(data), 900):
            replies[number] += visited.ask(number, data[at : at + 900])

    numbers = sorted(int(reply[1:-2]) for some in replies.values() for reply in some)
    assert numbers == list(range(1, 1601))


@pytest.mark.parametrize("app", [cache, orders], ids=["cache", "orders"])
def test_hostile_bytes_neither_crash_nor_grow(app: App) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    visited = Visited(app, frame_bytes_max=4096)
    good = [
        said(
            "SET k v",
            "GET k",
            "MULTI",
            "INCR n",
            "EXEC",
            "ORDER.NEW a buy 1 1",
            "HSET h f v",
            "SCAN 0",
        )
    ]
    good.append(encoded(b"HELLO", b"2", b"SETNAME", b"x"))
    good.append(b"set a 'b c'\r\nECHO \"\\x00\"\r\n")
    for _ in range(1500):
        number = visited.visit()
        data = bytearray(b"".join(chance.choices(good, k=chance.randrange(1, 4))))
        for _ in range(chance.randrange(6)):
            at = chance.randrange(len(data))
            what = chance.randrange(4)
            if what == 0:
                data[at] = chance.randrange(256)
            elif what == 1:
                del data[at : at + chance.randrange(9)]
            elif what == 2:
                data[at:at] = chance.randbytes(chance.randrange(9))
            else:
                data[at:at] = chance.choice([b"*", b"$", b"\r\n", b"-1", b"9" * 12, b'"', b"'"])
            if not data:
                break
        at = 0
        while at < len(data) and visited.state(number) == 2:
            size = chance.randrange(1, 200)
            visited.ask(number, bytes(data[at : at + size]))
            at += size
        if visited.state(number) == 2:
            visited.ask(number, b"\r\nQUIT\r\n")
        if chance.randrange(2) or visited.report.connections > 10:
            visited.now_ns += 10**12
            visited.flush()
            visited.expire()
            visited.flush()
        if visited.report.connections > 10:
            visited = Visited(app, frame_bytes_max=4096)


def test_names_that_cannot_be_are_refused_when_the_app_is_made() -> None:
    for resp in ({"two words": Deposit}, {"": Deposit}, {"x" * 40: Deposit}, {"X": int}):
        with pytest.raises(DefinitionError):
            App(actors=[Ledger], resp=resp)  # type: ignore[arg-type]
    given: Any = {"GET": Deposit}
    with pytest.raises(OperatorError, match=r"APP\.GET"):
        Vocabulary.of(App(actors=[Ledger], resp=given))
    with pytest.raises(OperatorError, match="nothing to say"):
        Vocabulary.of(App(actors=[Ledger]))


def test_replies_are_whole() -> None:
    assert replies_in(b"*2\r\n:1\r\n$2\r\nab\r\n+O") == [b"*2\r\n:1\r\n$2\r\nab\r\n"]


def test_who_asks_for_resp3_gets_its_nil_and_its_maps() -> None:
    visited = Visited(orders)
    one = visited.visit()
    visited.say(one, said("HELLO 3"))
    assert visited.take(one).startswith(b"%7\r\n")
    visited.say(one, said("HSET h f v", "HGETALL h", "GET none", "MGET none none", "hgetall none"))
    visited.say(one, b"") if visited.answer() else None
    assert visited.take(one) == b":1\r\n%1\r\n$1\r\nf\r\n$1\r\nv\r\n_\r\n*2\r\n_\r\n_\r\n%0\r\n"
    visited.say(one, said("MULTI", "HGETALL h", "GET none", "EXEC", "ORDER.LAST x"))
    while visited.answer():
        visited.say(one, b"")
    assert visited.take(one).endswith(b"+QUEUED\r\n*2\r\n%1\r\n$1\r\nf\r\n$1\r\nv\r\n_\r\n_\r\n")
