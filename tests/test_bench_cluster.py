"""The benchmark of three replicas, on so little that its figures mean nothing."""

import tempfile
from pathlib import Path

import pytest

from leftfold.runtime.topology import segment_prefix
from leftfold.shm import leftovers
from leftfold.tools import bench_cluster, etcd, syncobj
from leftfold.tools.bench_cluster import Asking, Sizes
from leftfold.tools.cluster import Layout
from leftfold.tools.status import is_leftfold

pytestmark = pytest.mark.xdist_group("serial")

SIZES = Sizes(commands=2_000, singles=30, kills=1, calm_s=1.0, away=2_000)


def processes() -> list[int]:
    """Of leftfold, with a directory below the one that temporary files go to, which is this test's own."""
    mine = tempfile.gettempdir().encode()
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mine in path.read_bytes() and is_leftfold(int(path.parent.name)):
                found.append(int(path.parent.name))
        except OSError:
            continue  # It has just ended.
    return found


@pytest.mark.parametrize("present", [True, False])
def test_what_is_installed_is_measured_and_what_is_not_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    present: bool,
) -> None:
    installed = {"leftfold"}
    if present:
        installed |= {"etcd"} if etcd.program() else set()
        installed |= {"pysyncobj"} if syncobj.is_installed() else set()
    else:
        monkeypatch.setattr(etcd, "program", lambda: None)
        monkeypatch.setattr(syncobj, "is_installed", lambda: False)
    found = bench_cluster.run(["latency"], 1, SIZES, tmp_path)

    assert set(found["latency"][0]) == installed
    assert {*found["absent"]} == {"etcd", "pysyncobj"} - installed
    assert all(0 < one["p50_us"] <= one["p99_us"] for one in found["latency"][0].values())
    bench_cluster.show(found)
    printed = capsys.readouterr().out
    assert all(f"not measured: {name}" in printed for name in found["absent"])
    assert [*tmp_path.iterdir()] == []


def test_a_killed_leader_costs_clients_a_gap_and_nothing_stays_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefixes: set[str] = set()
    leads = bench_cluster.leader_of

    def note(layout: Layout) -> int:
        prefixes.update(segment_prefix(place.directory) for place in layout.places.values())
        return leads(layout)

    monkeypatch.setattr(bench_cluster, "leader_of", note)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    [found] = bench_cluster.run(["kills"], 1, SIZES)["kills"]

    assert len(found["gaps_ms"]) == 1 and found["worst_ms"] > 0
    assert found["term"] >= 2, "nobody was elected when the leader was gone"
    assert not found["failures"]
    assert [*tmp_path.iterdir()] == [] and processes() == []
    assert len(prefixes) == 3
    assert [name for prefix in prefixes for name in leftovers(prefix)] == []


def test_the_gap_is_the_longest_time_between_two_answers_that_ends_after_the_kill() -> None:
    asking = Asking([])
    asking.answers_ns += [0, 9_000_000, 10_000_000, 13_000_000, 13_500_000]
    assert asking.gap_ms(10_500_000) == 3.0
    assert asking.gap_ms(1) == 9.0
