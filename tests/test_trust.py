"""Both clients and the operator's commands against replicas that want TLS and a token."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from apps.counting import Add, Total
from certificates import Authority
from cluster import Cluster
from replica import APPS, DEADLINE_S
from served import Fold, Served

from leftfold.actors.ledger import BalanceOf, Deposit, app
from leftfold.actors.limits import Limits
from leftfold.runtime.blocking_client import BlockingClient
from leftfold.runtime.client import Client
from leftfold.runtime.errors import OperatorError
from leftfold.runtime.failures import Disconnected
from leftfold.runtime.slots import CONTROL_STATUS
from leftfold.runtime.tls import TlsFiles, client_context
from leftfold.runtime.trust import Trust
from leftfold.tools.asked import ask
from leftfold.tools.cluster import free_ports

TOKEN = "open sesame"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "theirs")


@pytest.fixture
def secured(authority: Authority) -> Iterator[Served]:
    files = authority.issue("gateway", "127.0.0.1")
    fold = Fold(app, Limits(session_window=64))
    with Served(
        fold, window=64, tls=client_context(files), tokens=(TOKEN,), linger_ns=10**8
    ) as served:
        yield served


def test_the_blocking_client_speaks_tls_and_says_its_token(
    secured: Served, authority: Authority
) -> None:
    with BlockingClient(
        secured.host,
        secured.port,
        authority=authority.certificate,
        token=TOKEN,
        deadline_s=DEADLINE_S,
        connect_s=DEADLINE_S,
    ) as client:
        deposits = (("alice", Deposit("alice", 1)) for _ in range(500))
        assert len(list(client.ask_many(deposits))) == 500  # Many records at once.
        assert client.query("alice", BalanceOf("alice")).cents == 500


def test_the_asyncio_client_speaks_tls_and_says_its_token(
    secured: Served, authority: Authority
) -> None:
    async def work() -> int:
        async with Client(
            secured.host,
            secured.port,
            authority=authority.certificate,
            token=TOKEN,
            deadline_s=DEADLINE_S,
            connect_s=DEADLINE_S,
        ) as client:
            asked = (client.ask("bob", Deposit("bob", 1)) for _ in range(200))
            await asyncio.gather(*asked)
            balance = await client.query("bob", BalanceOf("bob"))
            return balance.cents

    assert asyncio.run(work()) == 200


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize(
    ("who", "token", "words"),
    [
        ("ours", "", "wants a token"),
        ("ours", "open says me", "wants a token"),
        ("theirs", TOKEN, "its certificate is not accepted"),
    ],
)
def test_who_does_not_trust_or_is_not_trusted_is_told_why(
    secured: Served,
    authority: Authority,
    stranger: Authority,
    who: str,
    token: str,
    words: str,
    blocking: bool,
) -> None:
    certificate = (authority if who == "ours" else stranger).certificate
    with pytest.raises(Disconnected, match=words):
        if blocking:
            with BlockingClient(
                secured.host, secured.port, authority=certificate, token=token, connect_s=2.0
            ):
                pass
        else:

            async def enter() -> None:
                async with Client(
                    secured.host, secured.port, authority=certificate, token=token, connect_s=2.0
                ):
                    pass

            asyncio.run(enter())


def test_a_certificate_for_another_host_is_not_accepted(authority: Authority) -> None:
    files = authority.issue("elsewhere", "127.0.0.9")
    with (
        Served(Fold(app), tls=client_context(files), linger_ns=10**8) as served,
        pytest.raises(Disconnected, match="not accepted: IP address mismatch"),
        BlockingClient(served.host, served.port, authority=authority.certificate, connect_s=2.0),
    ):
        pass


def test_what_is_no_authority_and_no_token_is_an_operators_mistake(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("hello")
    for wrong, words in ((text, "it is not PEM"), (tmp_path / "none", "No such file")):
        with pytest.raises(OperatorError, match=words):
            Client(authority=wrong)
    with pytest.raises(OperatorError, match="more than 64 bytes"):
        Trust(token="x" * 65)


# Whole replicas


def options(files: TlsFiles) -> dict[str, str]:
    return {
        "tls_certificate": str(files.certificate),
        "tls_key": str(files.key),
        "tls_authority": str(files.authority),
    }


@pytest.mark.campaign
@pytest.mark.xdist_group("serial")
def test_a_cluster_with_tls_and_a_token_serves_is_asked_and_is_joined(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Operators' commands take theirs from the environment; who joins is given them."""
    running = Cluster(tmp_path, tokens=(TOKEN,))
    joining = None
    try:
        for id in running.founders:
            files = authority.issue(f"replica-{id}", running.serves[id][0])
            running.start(id, **options(files))
        running.wait_ready()
        with pytest.raises(OperatorError, match=r"does not answer|hangs up"):
            ask(running.serves[1], CONTROL_STATUS)
        monkeypatch.setenv("LEFTFOLD_TLS_AUTHORITY", str(authority.certificate))
        with pytest.raises(OperatorError, match="wants a token"):
            ask(running.serves[1], CONTROL_STATUS)
        monkeypatch.setenv("LEFTFOLD_TOKEN", TOKEN)
        assert ask(running.serves[1], CONTROL_STATUS)["id"] == 1

        host, port = running.serves[1]
        peer = free_ports("127.0.0.5", 1)[0]
        files = authority.issue("replica-4", "127.0.0.5")
        given = [f"--{name.replace('_', '-')}={value}" for name, value in options(files).items()]
        where = ["--dir", str(tmp_path / "4"), "--peer-address", f"127.0.0.5:{peer}", "--port=0"]
        command = [sys.executable, "-P", "-m", "leftfold.tools.cli", "join", f"{host}:{port}"]
        joining = subprocess.Popen(
            [*command, *where, *given, "--token", TOKEN, "--json"],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(APPS), "LEFTFOLD_TOKEN": ""},
            cwd=APPS,
        )
        assert joining.stdout is not None
        said = iter(joining.stdout.readline, b"")
        assert any(json.loads(line)["event"] == "ready" for line in said), "it has joined"

        async def count() -> Total:
            async with Client.connect(
                running.addresses,
                authority=authority.certificate,
                token=TOKEN,
                deadline_s=DEADLINE_S,
            ) as client:
                return await client.ask("a", Add(amount=3))

        assert asyncio.run(count()) == Total(value=3, commands=1)
        running.agree()
    finally:
        if joining is not None:
            joining.kill()
            joining.communicate()
        running.end()


@pytest.mark.xdist_group("serial")
@pytest.mark.parametrize("flags", [["--host", "0.0.0.0"], ["--peer-address", "0.0.0.0:0"]])
def test_a_replica_that_others_could_reach_without_certificates_does_not_start(
    tmp_path: Path, flags: list[str]
) -> None:
    command = [sys.executable, "-m", "leftfold.tools.cli", "run", "leftfold.actors.ledger:app"]
    found = subprocess.run(
        [*command, "--dir", str(tmp_path / "r"), "--port", "0", *flags],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert found.returncode == 1
    assert "can be reached from other machines" in found.stderr
    assert "--insecure-i-know" in found.stderr
