"""The table of rings: who speaks to whom, and who may wait on whom."""

from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from leftfold.runtime.config import TransportLimits
from leftfold.runtime.topology import CONSENSUS, GATEWAY, PROCESSES, RINGS, rings_of


def test_each_ring_has_one_producer_and_one_consumer() -> None:
    """I2: no ring stands twice in the table, and both its ends are processes of the replica."""
    names = [ring.name for ring in RINGS]

    assert len(names) == len(set(names))
    for ring in RINGS:
        assert ring.producer in PROCESSES
        assert ring.consumer in PROCESSES
        assert ring.producer != ring.consumer


def test_the_graph_of_who_may_wait_on_whom_is_acyclic() -> None:
    """I12: TopologicalSorter raises CycleError otherwise."""
    waits: dict[str, set[str]] = {process: set() for process in PROCESSES}
    for ring in RINGS:
        if ring.waits:
            waits[ring.producer].add(ring.consumer)

    order = list(TopologicalSorter(waits).static_order())

    assert sorted(order) == sorted(PROCESSES)


def test_gateway_and_consensus_wait_on_no_ring() -> None:
    """I12, second half."""
    for process in (GATEWAY, CONSENSUS):
        _, produced = rings_of(process)

        assert not [ring.name for ring in produced if ring.waits]


def test_a_ring_too_small_for_its_largest_slot_is_refused() -> None:
    """I10: the limits are checked against each other."""
    with pytest.raises(AssertionError, match="persist_bytes must be at least"):
        TransportLimits(persist_bytes=64 * 1024)
    with pytest.raises(AssertionError, match="power of two"):
        TransportLimits(ingress_bytes=3_000_000)


def test_the_smallest_limits_hold_together() -> None:
    """What the tests for full rings run with is itself a legal configuration."""
    smallest = TransportLimits.smallest()

    assert all(ring.capacity_bytes(smallest) >= 4096 for ring in RINGS)


def test_the_table_in_architecture_md_is_the_table_of_the_code() -> None:
    """What the page says of each ring is what topology.py says."""
    page = (Path(__file__).parent.parent / "ARCHITECTURE.md").read_text()
    rows = [
        f"| {ring.name} | {ring.producer} → {ring.consumer} | {'yes' if ring.waits else 'no'} "
        f"| {ring.carries} |"
        for ring in RINGS
    ]

    assert [row for row in rows if row not in page] == []
