"""The benchmark beside Redis, on so little that its figures mean nothing; and the words of redis-benchmark."""

import json
import sys
from typing import Any

import pytest

from leftfold.tools import bench_redis, redis_server

pytestmark = pytest.mark.xdist_group("serial")


def test_all_three_servers_are_measured_in_one_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if why := redis_server.missing():
        pytest.skip(why)
    words = ["--commands", "20000", "--singles", "500", "--clients", "10", "--runs", "2", "--json"]
    monkeypatch.setattr(sys, "argv", ["bench_redis", *words])
    bench_redis.main()
    found: dict[str, Any] = json.loads(capsys.readouterr().out)

    for name, (over, under) in bench_redis.RATIOS.items():
        ratios = [a / b for a, b in zip(found["runs"][over], found["runs"][under], strict=True)]
        assert found["runs"][name] == pytest.approx(ratios) and min(ratios) > 0
    assert all(len(values) == 2 and min(values) > 0 for values in found["runs"].values())
    bench_redis.show(found)
    assert "transfers_by_redis" in capsys.readouterr().out


def test_without_redis_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_server.shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["bench_redis"])

    with pytest.raises(SystemExit, match="apt install redis-server"):
        bench_redis.main()
