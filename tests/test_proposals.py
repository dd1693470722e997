"""What a leader has put into the log, until logic has it."""

from pathlib import Path

from leftfold.runtime.metrics import schema
from leftfold.runtime.proposals import Proposals
from leftfold.shm import Counters


def test_what_logic_does_not_have_is_taken_back_once_in_order(tmp_path: Path) -> None:
    Counters.create(tmp_path / "counters", schema())
    with Counters.attach(tmp_path / "counters", "consensus") as counters:
        proposals = Proposals(counters)
        for index in (3, 4, 6):
            proposals.add(index, 100 * index, b"%d" % index, index)
        proposals.durable(6, 1000)
        proposals.applied(3, 2000)

        assert list(proposals.take_back()) == [(b"4", 4), (b"6", 6)]
        assert list(proposals.take_back()) == []

        proposals.durable(9, 3000)  # Nothing is left that could be timed.
        proposals.applied(9, 3000)
        durable = counters.histograms["sequenced_to_durable_ns"].snapshot()
        applied = counters.histograms["sequenced_to_applied_ns"].snapshot()

    assert (durable.count, durable.max, durable.sum) == (3, 700, 3000 - 1300)
    assert (applied.count, applied.max) == (1, 1700)
