"""Counters and histograms: what is recorded is what is read, also after the writer was killed."""

import gc
import json
import os
import random
import signal
from pathlib import Path

import pytest
from hdrh.histogram import HdrHistogram

from leftfold.shm import Counters, LayoutMismatch, Schema
from leftfold.shm._shm import lib

SCHEMA = {
    "consensus": Schema(counters=("entries", "votes"), histograms=("persist_ns", "commit_ns")),
    "logic": Schema(counters=("commands",), words={"position": 3}),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Make the file of a replica of two roles."""
    Counters.create(tmp_path / "counters", SCHEMA)
    return tmp_path / "counters"


def test_a_new_file_holds_zeros(path: Path) -> None:
    roles = Counters.read(path)

    assert roles["consensus"].counters == {"entries": 0, "votes": 0}
    assert roles["logic"].words == {"position": (0, 0, 0)}
    assert roles["consensus"].histograms["commit_ns"].count == 0
    assert roles["consensus"].histograms["commit_ns"].p99 == 0
    assert roles["consensus"].histograms["commit_ns"].mean == 0.0


def test_two_writers_and_a_reader_share_a_file(path: Path) -> None:
    with Counters.attach(path, "consensus") as consensus, Counters.attach(path, "logic") as logic:
        consensus.counters["entries"].add()
        consensus.counters["entries"].add(2**40)
        consensus.counters["votes"].set(2**64 - 1)
        consensus.histograms["commit_ns"].record(1_000)
        logic.words["position"][2] = 77
        logic.counters["commands"].add(3)

        roles = Counters.read(path)
        assert roles["consensus"].counters == {"entries": 2**40 + 1, "votes": 2**64 - 1}
        assert consensus.counters["entries"].value == 2**40 + 1
        assert roles["logic"].counters == {"commands": 3}
        assert roles["logic"].words == {"position": (0, 0, 77)}
        assert roles["consensus"].histograms["commit_ns"].count == 1
        assert roles["consensus"].histograms["persist_ns"].count == 0


def test_the_figures_of_a_killed_process_can_be_read(path: Path) -> None:
    child = os.fork()
    if child == 0:
        counters = Counters.attach(path, "consensus")
        counters.counters["entries"].add(41)
        counters.histograms["persist_ns"].record_n(5, 6)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)

    found = Counters.read(path)["consensus"]
    assert found.counters["entries"] == 41
    assert found.histograms["persist_ns"].count == 6


def test_a_writer_that_starts_again_goes_on_counting(path: Path) -> None:
    for _ in range(2):
        with Counters.attach(path, "logic") as logic:
            logic.counters["commands"].add(2)

    assert Counters.read(path)["logic"].counters["commands"] == 4


def test_a_figure_outlives_its_counters_and_the_last_one_unmaps_the_file(path: Path) -> None:
    counters = Counters.attach(path, "consensus")
    entries, persist = counters.counters["entries"], counters.histograms["persist_ns"]
    del counters
    gc.collect()
    entries.add(3)
    with Counters.attach(path, "logic") as logic:
        position = logic.words["position"]
        commands = logic.counters["commands"]

    entries.add(4)
    persist.record(5)
    commands.add(6)
    with pytest.raises(ValueError, match="released"):
        position[0] = 1
    assert logic.counters == logic.histograms == logic.words == {}
    found = Counters.read(path)
    assert found["consensus"].counters["entries"] == entries.value == 7
    assert found["consensus"].histograms["persist_ns"] == persist.snapshot()
    assert found["logic"].counters["commands"] == 6
    assert str(path) in Path("/proc/self/maps").read_text()
    del entries, persist, commands
    gc.collect()
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_the_roles_of_a_file_share_no_line(path: Path) -> None:
    content = path.read_bytes()
    layout = json.loads(content[16 : 16 + int.from_bytes(content[8:16], "little")])
    lines: dict[str, set[int]] = {}
    for role, place in layout["roles"].items():
        words = {*place["counters"].values()}
        words |= {word + i for word, n in place["words"].values() for i in range(n)}
        size = layout["histogram_header_words"] + layout["histogram_buckets"]
        words |= {word + i for word in place["histograms"].values() for i in range(size)}
        lines[role] = {word // 16 for word in words}

    assert not lines["consensus"] & lines["logic"]
    assert len(content) % 4096 % 8 == 0


def test_another_role_another_file_and_another_build_are_refused(path: Path) -> None:
    with pytest.raises(LayoutMismatch, match="gateway"):
        Counters.attach(path, "gateway")
    path.write_bytes(path.read_bytes().replace(b'_bits": 6', b'_bits": 5'))
    with pytest.raises(LayoutMismatch, match="build"):
        Counters.attach(path, "logic")
    path.write_bytes(b"x" * 9000)
    with pytest.raises(LayoutMismatch, match="no file of counters"):
        Counters.read(path)


def test_each_bucket_ends_where_the_next_begins_and_is_narrow() -> None:
    first = 0
    for bucket in range(lib.HISTOGRAM_BUCKETS):
        last = lib.histogram_bucket_last(bucket)
        assert lib.histogram_bucket(first) == bucket == lib.histogram_bucket(last)
        assert last - first <= first / 64
        first = last + 1

    assert first == 2**lib.HISTOGRAM_BITS_MAX
    assert lib.histogram_bucket(2**64 - 1) == lib.HISTOGRAM_BUCKETS - 1


@pytest.mark.parametrize("shape", ["uniform", "exponential", "spiky", "small"])
def test_percentiles_agree_with_hdrhistogram(path: Path, shape: str) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    draw = {
        "uniform": lambda: chance.randrange(1, 10**9),
        "exponential": lambda: 1 + int(chance.expovariate(1e-6)),
        "spiky": lambda: chance.choice([90, 100, 100_000, 10**10 + chance.randrange(10**9)]),
        "small": lambda: chance.randrange(1, 128),
    }[shape]
    oracle = HdrHistogram(1, 2**42, 4)
    values = [draw() for _ in range(5_000)]
    with Counters.attach(path, "consensus") as counters:
        histogram = counters.histograms["commit_ns"]
        for value in values:
            histogram.record(value)
            oracle.record_value(value)
        histogram.record_n(12_345, 250)
        oracle.record_value(12_345, 250)
        found = histogram.snapshot()

    assert found == Counters.read(path)["consensus"].histograms["commit_ns"]
    assert found.count == oracle.get_total_count() == 5_250
    assert found.max == max(*values, 12_345)
    assert found.sum == sum(values) + 12_345 * 250
    assert found.mean == pytest.approx(found.sum / 5_250)
    for percent in (0.1, 1, 25, 50, 75, 90, 99, 99.9, 99.99, 100):
        expected = oracle.get_value_at_percentile(percent)
        assert found.percentile(percent) == pytest.approx(expected, rel=1 / 64 + 1e-4)
    assert found.p50 == found.percentile(50)
    assert found.p99 == found.percentile(99)
    assert found.p999 == found.percentile(99.9)


def test_values_beyond_the_last_bucket_are_counted_and_their_maximum_kept(path: Path) -> None:
    with Counters.attach(path, "consensus") as counters:
        counters.histograms["commit_ns"].record(2**50)
        found = counters.histograms["commit_ns"].snapshot()

    assert (found.count, found.max, found.sum) == (1, 2**50, 2**50)
    assert found.p50 == 2**42 - 1
