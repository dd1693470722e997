"""The benchmark of the ring, on so few messages that its figures mean nothing."""

import pytest

from leftfold.shm import leftovers
from leftfold.tools import bench_ring, ring_native

pytestmark = pytest.mark.xdist_group("serial")


@pytest.mark.parametrize("present", [True, False])
def test_every_system_that_is_present_is_measured(
    monkeypatch: pytest.MonkeyPatch, present: bool
) -> None:
    if present:
        pytest.importorskip("faster_fifo")
    else:
        monkeypatch.setattr(bench_ring, "find_spec", lambda name: None)
        monkeypatch.setattr(ring_native.shutil, "which", lambda name: None)
    found = bench_ring.run(2_000, 1, 5_000)

    others = {bench_ring.STANDARD} | ({bench_ring.MANY, bench_ring.ONE} if present else set())
    assert set(found["ring_is_faster_by"]) == others
    assert all(rate > 0 for rate in found["messages_per_s"].values())
    assert found["absent"] == ([] if present else ["faster-fifo"])
    native = found["native"]
    assert set(native["messages_per_s"]) | set(native["absent"]) == {
        ring_native.RING,
        ring_native.DISRUPTOR,
    }
    assert (ring_native.RING in native["messages_per_s"]) == present
    bench_ring.show(found)
    assert leftovers("/leftfold-bench-") == []
