"""The benchmark of snapshots runs on a small state and says what it measured, and what it could not."""

import json
import sys
from typing import Any

import msgspec
import pytest

from leftfold.actors.layout import EntryKind
from leftfold.actors.machine import Machine, Outputs
from leftfold.tools import bench_snapshot, bgsave, stalls

SHAPES = bench_snapshot.SHAPES


@pytest.fixture(autouse=True)
def few_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_snapshot, "BATCHES", 400)


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    monkeypatch.setattr(
        sys, "argv", ["bench_snapshot", "--accounts", "3000", "--runs", "1", *words]
    )
    bench_snapshot.main()
    return capsys.readouterr().out


def test_both_shapes_are_measured_and_forked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bgsave, "SERVER", "no-such-server")
    found: dict[str, Any] = json.loads(run(capsys, monkeypatch, "--json"))

    assert found["redis"].startswith("no-such-server is not installed")
    for shape in SHAPES:
        figures = found["shapes"][shape]["median"]
        assert figures["content_bytes"] > figures["zstd_1_bytes"] > 0
        assert "bgsave_s" not in figures and figures["pickle_bytes"] > 0


@pytest.mark.xdist_group("serial")
def test_a_forked_child_writes_the_file_and_tells_its_pages(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, Any] = json.loads(run(capsys, monkeypatch, "--json", "--fork"))

    for shape in SHAPES:
        frozen, plain = found["shapes"][shape]["forks"]
        assert (frozen["frozen"], plain["frozen"]) == (True, False)
        assert frozen["file_bytes"] == plain["file_bytes"]
        assert frozen["child_private"] > 0 and frozen["parent_pss"] > 0
        stalls = found["shapes"][shape]["stalls"]
        assert list(stalls) == ["none", "fork", "slices"]
        for kind, (run_of_kind,) in stalls.items():
            assert 0 < run_of_kind["p50_s"] <= run_of_kind["p999_s"] <= run_of_kind["max_s"]
            assert run_of_kind["cpu_snapshot_s"] >= run_of_kind["cpu_begin_s"] > 0
            assert run_of_kind["kind"] == kind and run_of_kind["commands_per_s"] > 0
        if "bgsave_bytes" in found["shapes"][shape]["median"]:
            assert found["shapes"][shape]["median"]["bgsave_bytes"] > 3_000


def test_slices_write_what_was_there_when_they_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever changes meanwhile: the sketch copies before a write, or its figures would be of something else."""
    for shape in SHAPES:
        machine = bench_snapshot.machine_of(shape, 6_000)
        expected = items_of(machine)
        written: list[bytes] = []

        def encode(run: list[Any], written: list[bytes] = written) -> bytes:
            written.append(msgspec.msgpack.encode(run))
            return written[-1]

        monkeypatch.setattr(stalls, "encode_body", encode)
        sliced = stalls.Sliced(machine)
        sliced.begin()
        commands = bench_snapshot.commands_of(shape, 7_000)
        batches = stalls.batches_of(machine.app, commands, 400)
        machine.apply(1, 0, EntryKind.COMMANDS, stalls.opening(), outputs=Outputs())
        for number, batch in enumerate(batches, 2):
            if not sliced.is_over():
                sliced.advance(batch)
            machine.apply(number, 0, EntryKind.COMMANDS, batch.body, outputs=Outputs())
        assert sliced.is_over()

        items = [item for run in written for item in msgspec.msgpack.decode(run)]
        assert items_of(machine) != expected
        assert sorted(map(repr, items)) == sorted(map(repr, expected))


def items_of(machine: Machine) -> list[Any]:
    """What slices write: a ledger's accounts, or the fields of each account."""
    (instances,) = (found for found in machine.state.actors.values() if found)
    first = next(iter(instances.values()))
    if hasattr(first, "accounts"):
        return list(map(list, first.accounts.items()))
    return [msgspec.to_builtins(instance) for instance in instances.values()]


def test_the_table_says_on_what_it_was_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bgsave, "SERVER", "no-such-server")
    shown = run(capsys, monkeypatch)

    assert "3,000 accounts" in shown and "cores" in shown and "restore_s" in shown
