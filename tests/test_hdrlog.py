"""Our histograms in HdrHistogram's formats, read back by HdrHistogram."""

import io
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

from leftfold.shm import Counters, HistogramSnapshot, Schema
from leftfold.tools.hdrlog import Interval, encode, write

PERCENTS = (1, 10, 25, 50, 75, 90, 99, 99.9, 99.99)


def recorded(tmp_path: Path, values: list[int]) -> HistogramSnapshot:
    """Let the C count them."""
    Counters.create(tmp_path / "counters", {"role": Schema(histograms=("ns",))})
    with Counters.attach(tmp_path / "counters", "role") as counters:
        for value in values:
            counters.histograms["ns"].record(value)
        return counters.histograms["ns"].snapshot()


@pytest.mark.parametrize(
    "draw",
    [
        lambda chance: chance.randrange(1, 10**9),
        lambda chance: 1 + int(chance.expovariate(1e-6)),
        lambda chance: chance.choice([90, 100, 100_000, 10**10 + chance.randrange(10**9)]),
        lambda chance: chance.randrange(1, 128),
        lambda chance: int(2 ** (chance.random() * 41.9)),
    ],
    ids=["uniform", "exponential", "spiky", "small", "all sizes"],
)
def test_the_oracle_decodes_ours_to_the_same_percentiles(
    tmp_path: Path, draw: Callable[[random.Random], int]
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    values = [draw(chance) for _ in range(5_001)]
    ours = recorded(tmp_path, values)
    decoded = HdrHistogram.decode(encode(ours))
    oracle = HdrHistogram(1, 2**43, 4)
    for value in values:
        oracle.record_value(value)

    assert decoded.get_total_count() == ours.count == 5_001
    assert decoded.get_max_value() == pytest.approx(max(values), rel=1 / 128)
    for percent in PERCENTS:
        exact = oracle.get_value_at_percentile(percent)
        assert decoded.get_value_at_percentile(percent) == pytest.approx(exact, rel=1 / 64 + 1e-4)
        assert min(ours.max, decoded.get_value_at_percentile(percent)) == ours.percentile(percent)


def test_an_empty_histogram_and_one_beyond_the_last_bucket_decode(tmp_path: Path) -> None:
    assert HdrHistogram.decode(encode(recorded(tmp_path, []))).get_total_count() == 0
    decoded = HdrHistogram.decode(encode(recorded(tmp_path, [2**50, 2**63, 0])))

    assert decoded.get_total_count() == 3
    assert decoded.get_max_value() >= 2**42 - 1


def test_great_counts_survive_their_encoding(tmp_path: Path) -> None:
    Counters.create(tmp_path / "counters", {"role": Schema(histograms=("ns",))})
    with Counters.attach(tmp_path / "counters", "role") as counters:
        for power in range(41):
            counters.histograms["ns"].record_n(2**power, 2**power)
        ours = counters.histograms["ns"].snapshot()
    decoded = HdrHistogram.decode(encode(ours))

    assert decoded.get_total_count() == ours.count == 2**41 - 1
    for percent in PERCENTS:
        assert min(ours.max, decoded.get_value_at_percentile(percent)) == ours.percentile(percent)


def test_a_log_is_read_by_the_oracle_line_by_line(tmp_path: Path) -> None:
    ours = recorded(tmp_path, [1_000, 2_000, 3_000_000])
    empty = HistogramSnapshot(0, 0, 0, (0,) * len(ours.buckets))
    log = tmp_path / "replica.hlog"
    text = io.StringIO()
    write(
        text,
        [
            Interval("gateway.latency_ns", 0.0, 2.5, ours),
            Interval("logic.gc_ns", 0.0, 2.5, empty),
            Interval("journal.fsync_ns", 0.0, 2.5, ours),
        ],
        began_s=1_700_000_000.0,
    )
    log.write_text(text.getvalue())
    reader = HistogramLogReader(str(log), HdrHistogram(1, 2**43, 2))
    found = []
    while (histogram := reader.get_next_interval_histogram()) is not None:
        found.append(histogram)
    reader.close()

    assert [one.get_tag() for one in found] == ["gateway.latency_ns", "journal.fsync_ns"]
    assert [one.get_total_count() for one in found] == [3, 3]
    assert found[0].get_max_value() == pytest.approx(3_000_000, rel=1 / 128)


def test_a_window_is_what_was_recorded_in_it(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    oracle = HdrHistogram(1, 2**43, 4)
    Counters.create(tmp_path / "counters", {"role": Schema(histograms=("ns",))})
    with Counters.attach(tmp_path / "counters", "role") as counters:
        histogram = counters.histograms["ns"]
        for _ in range(2_001):
            histogram.record(chance.randrange(10**6, 10**9))
        before = histogram.snapshot()
        for _ in range(2_001):
            value = chance.randrange(1, 10**6)
            histogram.record(value)
            oracle.record_value(value)
        after = histogram.snapshot()
    window = after.since(before)

    assert window.count == 2_001
    assert window.sum == after.sum - before.sum
    for percent in PERCENTS:
        exact = oracle.get_value_at_percentile(percent)
        assert window.percentile(percent) == pytest.approx(exact, rel=1 / 64 + 1e-4)
    assert before.since(after) == before, "a file of another start"
    assert after.since(after).count == after.since(after).max == 0
