"""`leftfold bench` on so little that its figures mean nothing: they are there, and what is not installed is named."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from leftfold.shm import leftovers
from leftfold.tools import bench, bench_ring, ring_latency
from leftfold.tools.cli import EXIT_OPERATOR, EXIT_USAGE, call
from leftfold.tools.curves import Curve

pytestmark = pytest.mark.xdist_group("serial")

RING = "bench ring --messages 2000 --native-messages 5000 --runs 1 --rate 4000 --seconds 0.1"
REPLICA = "bench replica --commands 2000 --rate 1000 --seconds 1"


def figures(capsys: pytest.CaptureFixture[str], words: str, svg: Path) -> dict[str, Any]:
    code = call([*words.split(), "--json", "--svg", str(svg)])
    shown = capsys.readouterr()

    assert code == 0, shown.err
    found: dict[str, Any] = json.loads(shown.out)
    return found


def curves_in(svg: Path) -> int:
    return len(ElementTree.parse(svg).findall("{http://www.w3.org/2000/svg}polyline"))


def test_a_ring_is_measured_beside_the_other_queues(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = figures(capsys, RING, tmp_path / "ring.svg")

    assert set(found["latency"]) == set(ring_latency.systems()) <= set(found["messages_per_s"])
    for one in found["latency"].values():
        assert one["count"] == 400
        assert 0 < one["p50_us"] <= one["p99_us"] <= one["max_us"]
    assert curves_in(tmp_path / "ring.svg") == len(found["latency"])
    assert leftovers("/leftfold-bench-") == []


def test_a_person_sees_tables_and_a_plot(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    native = {"batch": 8, "messages_per_s": {"in C": 2e8}, "absent": {"in Java": "no java"}}
    found = {"messages_per_s": {bench_ring.RING: 1e7}, "ring_is_faster_by": {}, "absent": []}
    monkeypatch.setattr(bench_ring, "run", lambda *given: found | {"native": native})
    monkeypatch.setattr(
        ring_latency, "measure", lambda name, *given: Curve(name, range(1000, 9000))
    )
    assert call(RING.split()) == 0
    shown = capsys.readouterr().out

    assert "200,000,000" in shown and "not measured: in Java: no java" in shown
    assert "5 µs" in shown and "●" in shown and bench_ring.STANDARD in shown


@pytest.mark.parametrize("present", [True, False])
def test_a_replica_is_measured_beside_redis(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    present: bool,
) -> None:
    if present and (why := bench.missing()):
        pytest.skip(why)
    if not present:
        monkeypatch.setattr(bench, "missing", lambda: "it is not installed")
    found = figures(capsys, REPLICA, tmp_path / "replica.svg")

    assert set(found["per_second"]) == {"leftfold"} | ({"redis"} if present else set())
    assert found["absent"] == ({} if present else {"redis": "it is not installed"})
    assert len(found["latency"]) == len(found["per_second"]) == curves_in(tmp_path / "replica.svg")
    for one in found["latency"].values():
        assert one["count"] == 1000
        assert 0 < one["p50_us"] <= one["p99_us"] <= one["max_us"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("ring --rate 0", EXIT_USAGE),
        ("replica --seconds 0", EXIT_USAGE),
        ("replica --dir nowhere", EXIT_OPERATOR),
    ],
)
def test_a_mistake_is_one_sentence(
    capsys: pytest.CaptureFixture[str], words: str, code: int
) -> None:
    assert call(["bench", *words.split()]) == code
    assert capsys.readouterr().err.count("\n") == 1
