"""Redis's own clients at a real replica: redis-py, redis-benchmark and redis-cli unchanged; hostile bytes on the port; kill -9 under load."""

import random
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from replica import RunningReplica, wait_until
from resp_client import RespClient, encoded

from leftfold.runtime.config import ReplicaConfig
from leftfold.runtime.errors import OperatorError

pytestmark = pytest.mark.xdist_group("serial")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReplica]:
    """A replica of the orders and the cache, with the door open."""
    directory: Path = tmp_path_factory.mktemp("served") / "replica"
    replica = RunningReplica(directory, "orders:app", resp_port=0)
    try:
        replica.wait_for("ready")
        yield replica
    finally:
        replica.end()


def resp_port(replica: RunningReplica) -> int:
    """Where Redis's clients connect to."""
    port: int = replica.wait_for("ready")["resp_port"]
    return port


@pytest.fixture
def client(served: RunningReplica) -> Iterator[Any]:
    """redis-py as anybody would make it, on an empty database."""
    client: Any = redis.Redis(port=resp_port(served), socket_timeout=60)
    client.flushdb()
    yield client
    client.close()


def test_redis_py_does_its_work_unchanged(client: Any) -> None:
    assert client.ping() is True
    assert client.set("k", "v") is True and client.get("k") == b"v"
    assert client.set("k", "w", nx=True) is None and client.set("k", "w", xx=True, get=True) == b"v"
    assert client.set("t", 1, ex=100) and 90 < client.ttl("t") <= 100 and client.persist("t")
    assert client.ttl("t") == -1 and client.ttl("none") == -2
    assert client.mset({"a": 1, "b": b"\xff"}) and client.mget("a", "b", "c") == [
        b"1",
        b"\xff",
        None,
    ]
    assert client.incr("a", 41) == 42 and client.decr("a") == 41 and client.incrby("a", 1) == 42
    assert (
        client.append("s", "xyz") == 3 and client.strlen("s") == 3 and client.exists("s", "a") == 2
    )
    assert client.hset("h", mapping={"f": 1, "g": 2}) == 2 and client.hincrby("h", "f", 4) == 5
    assert client.hgetall("h") == {b"f": b"5", b"g": b"2"} and client.hdel("h", "f") == 1
    assert client.hget("h", "g") == b"2" and client.hlen("h") == 1 and client.type("h") == b"hash"
    assert set(client.scan_iter(match="?", count=2)) == {b"k", b"t", b"a", b"b", b"s", b"h"}
    assert client.dbsize() == 6 and client.delete("a", "b", "none") == 2
    assert client.config_get("appendonly") and client.info("server") and client.client_id()
    assert client.execute_command("ORDER.NEW", "ACME", "buy", 1.5, 10) >= 1
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        client.incr("h")
    with pytest.raises(redis.ResponseError, match="unknown command 'NOSUCH'"):
        client.execute_command("NOSUCH")


def test_pipelines_and_transactions_of_redis_py(client: Any) -> None:
    with client.pipeline(transaction=True) as pipe:
        pipe.set("k", 1).incr("k").get("k").hset("h", "f", "v")

        assert pipe.execute() == [True, 2, b"2", 1]
    with client.pipeline(transaction=False) as pipe:
        for number in range(5000):
            pipe.incr("n") if number % 2 else pipe.get("n")

        replies = pipe.execute()
    assert replies[1::2] == list(range(1, 2501))
    assert replies[2::2] == [b"%d" % number for number in range(1, 2500)]
    with client.pipeline() as pipe:
        pipe.incr("k").execute_command("NOSUCH")
        with pytest.raises(redis.ResponseError):
            pipe.execute()
    assert client.get("k") == b"2"


def test_a_read_sees_what_another_connection_was_told(served: RunningReplica, client: Any) -> None:
    with RespClient(resp_port(served)) as other:
        for number in range(200):
            client.set("k", number)

            assert other.ask(b"GET", b"k") == b"$%d\r\n%d\r\n" % (len(str(number)), number)


def test_a_key_expires_on_a_silent_replica(served: RunningReplica, client: Any) -> None:
    client.set("k", "v", px=50)
    wait_until(lambda: client.get("k") is None, "the key is gone")
    wait_until(lambda: client.dbsize() == 0, "its memory is free")


@pytest.mark.parametrize("depth", [1, 64])
def test_redis_benchmark_runs(served: RunningReplica, depth: int) -> None:
    program = shutil.which("redis-benchmark")
    if program is None:
        pytest.skip("redis-benchmark is not installed: apt install redis-tools")
    command = [program, "-p", str(resp_port(served)), "-t", "ping,set,get,incr,hset,mset"]
    ran = subprocess.run(
        [*command, "-n", "2000", "-c", "20", "-P", str(depth), "--csv"],
        check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip

    assert "Error" not in ran.stdout + ran.stderr
    assert len(ran.stdout.splitlines()) == 8, ran.stdout


def test_redis_cli_types_as_it_always_does(served: RunningReplica) -> None:
    program = shutil.which("redis-cli")
    if program is None:
        pytest.skip("redis-cli is not installed: apt install redis-tools")
    lines = 'SET greeting "hello world"\nGET greeting\nINCR greeting\n'
    ran = subprocess.run(
        [program, "-p", str(resp_port(served))],
        check=True, capture_output=True, text=True, input=lines, timeout=60,
    )  # fmt: skip

    assert ran.stdout.split("\n")[:2] == ["OK", "hello world"]
    assert "ERR value is not an integer or out of range" in ran.stdout


def test_hostile_bytes_on_the_port_hurt_nobody_else(served: RunningReplica, client: Any) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    client.set("a key that nobody hits by chance", "v")
    gateway = served.pid("gateway")
    for _ in range(300):
        data = bytearray(encoded(b"SET", b"x", b"y") * 3 + b"MULTI\r\nINCR n\r\nEXEC\r\n")
        for _ in range(chance.randrange(1, 12)):
            at = chance.randrange(len(data))
            data[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(4))
        with socket.create_connection(("127.0.0.1", resp_port(served))) as hostile:
            hostile.sendall(data)
            if chance.randrange(2):
                hostile.shutdown(socket.SHUT_WR)
                hostile.settimeout(60)
                while hostile.recv(65536):
                    pass

    assert client.get("a key that nobody hits by chance") == b"v"
    assert served.pid("gateway") == gateway


def test_who_hangs_up_in_the_middle_leaves_no_session(served: RunningReplica, client: Any) -> None:
    for _ in range(50):
        with RespClient(resp_port(served)) as hasty:
            hasty.send(encoded(b"INCR", b"n") * 100)
    client.set("k", "v")

    def sessions() -> bool:
        found: list[Any] = [
            line for line in client.info().items() if line[0] == "connected_clients"
        ]
        return bool(found) and int(found[0][1]) <= 2

    wait_until(sessions, "they are gone")
    assert int(client.get("n") or 0) <= 5000


def test_acknowledged_increments_survive_kill_9(tmp_path: Path) -> None:
    """Each thread counts in a key of its own, so what it was told and what is there can be compared."""
    replica = RunningReplica(tmp_path / "replica", "leftfold.actors.cache:app", resp_port=0)
    told = [0] * 4
    stop = threading.Event()

    def count(number: int, port: int) -> None:
        client: Any
        with redis.Redis(port=port, socket_timeout=60) as client:
            while not stop.is_set():
                try:
                    with client.pipeline(transaction=False) as pipe:
                        for _ in range(20):
                            pipe.incr(f"n{number}")
                        told[number] = pipe.execute()[-1]
                except (redis.ConnectionError, redis.TimeoutError, redis.ResponseError):
                    continue

    try:
        port = resp_port(replica)
        threads = [threading.Thread(target=count, args=(n, port)) for n in range(4)]
        for thread in threads:
            thread.start()
        for kill in range(3):
            before = sum(told)
            wait_until(lambda before=before: sum(told) > before + 2000, "they count on")
            generation = replica.status()["generation"]
            replica.kill(("logic", "gateway", "journal")[kill])
            replica.wait_for("ready", generation + 1)
        stop.set()
        for thread in threads:
            thread.join()
        with redis.Redis(port=port) as client:
            found = [int(client.get(f"n{number}") or 0) for number in range(4)]
    finally:
        stop.set()
        replica.end()

    assert all(there >= heard for there, heard in zip(found, told, strict=True)), (found, told)


def test_a_door_to_an_app_with_nothing_to_say_is_a_sentence(tmp_path: Path) -> None:
    replica = RunningReplica(tmp_path / "replica", "counting:app", resp_port=0)

    assert replica.process.wait(60) == 1
    assert "nothing to say to Redis's clients" in replica.output()


def test_a_port_that_cannot_be_is_refused() -> None:
    with pytest.raises(OperatorError, match="out of range"):
        ReplicaConfig(directory=Path(), app="a:b", resp_port=70_000)
