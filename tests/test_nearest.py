"""Folding begins at the nearest snapshot, and gives what folding from the beginning gives."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from written_log import LAST, LEDGER, WrittenLog, written_deposits

from leftfold.actors.layout import EntryKind
from leftfold.actors.ledger import Deposit, Ledger, app
from leftfold.runtime.errors import OperatorError
from leftfold.runtime.snapshotfile import read_header
from leftfold.runtime.snapshots import snapshot_name
from leftfold.tools.condition import Condition
from leftfold.tools.fold import begin, check_index, fold
from leftfold.tools.history import open_history
from leftfold.tools.until import first_place


@pytest.fixture
def log(tmp_path: Path) -> Iterator[WrittenLog]:
    """Entries of two deposits each from 3 to LAST, in segments of eight kilobytes."""
    log = written_deposits(tmp_path / "data")
    yield log
    log.close()


def replay(log: WrittenLog, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "leftfold.tools.cli", "replay", str(log.directory), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def cut(log: WrittenLog, index: int) -> int:
    """Let the journal forget what is below an index, as retention does; the first that is left."""
    assert log.journal.discard_before(index) > 0
    return log.journal.contents.first


def test_the_nearest_snapshot_is_where_the_fold_begins(log: WrittenLog) -> None:
    for index in (10, 20, 30):
        log.snapshot(index)
    history = open_history(log.directory)

    began = {at: begin(history, app, at).state.index for at in (5, 9, 10, 11, 29, 30, LAST)}

    assert began == {5: 0, 9: 0, 10: 10, 11: 10, 29: 20, 30: 30, LAST: 30}


def test_the_state_is_the_same_from_a_snapshot_and_from_the_beginning(log: WrittenLog) -> None:
    places = [(20, None), (21, 0), (21, 1), (LAST, None)]
    history = open_history(log.directory)
    from_the_beginning = [fold(history, app, *place) for place in places]
    log.snapshot(20)
    cut(log, 21)
    history = open_history(log.directory)
    assert history.first > 1

    from_the_snapshot = [fold(history, app, *place) for place in places]

    for one, other in zip(from_the_beginning, from_the_snapshot, strict=True):
        assert one.state_digest() == other.state_digest()
        assert one.digest == other.digest


def test_replay_works_on_a_log_whose_beginning_is_gone(log: WrittenLog) -> None:
    whole = replay(log, "--json", "--to", "30.0").stdout
    log.snapshot(20)
    cut(log, 21)

    after = replay(log, "--json", "--to", "30.0")

    assert after.returncode == 0, after.stderr
    assert json.loads(after.stdout) == json.loads(whole)


def test_a_log_that_begins_later_without_a_snapshot_is_refused(log: WrittenLog) -> None:
    first = cut(log, 21)

    ended = replay(log, "--to", "30")

    assert ended.returncode == 1
    assert f"The log begins at {first}, and there is no snapshot" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_place_before_what_is_kept_is_refused_with_the_range(log: WrittenLog) -> None:
    log.snapshot(20)
    cut(log, 21)
    history = open_history(log.directory)

    check_index(history, 20)
    with pytest.raises(OperatorError, match=f"no entry 19 .* from 20 to {LAST}"):
        check_index(history, 19)


def test_a_snapshot_with_a_gap_behind_it_does_not_count(log: WrittenLog) -> None:
    """As after retention removed the log that an old snapshot would need."""
    log.snapshot(3)
    log.snapshot(30)
    assert cut(log, 31) > 5
    history = open_history(log.directory)

    assert list(history.snapshots) == [30]
    assert history.earliest == 30


def test_a_damaged_snapshot_is_named_and_the_one_before_it_used(
    log: WrittenLog, capsys: pytest.CaptureFixture[str]
) -> None:
    log.snapshot(10)
    newer = log.snapshot(20)
    content = bytearray(newer.read_bytes())
    content[4200] ^= 1
    newer.write_bytes(content)
    history = open_history(log.directory)

    machine = begin(history, app, 25)

    said = capsys.readouterr().err
    assert machine.state.index == 10
    assert str(newer) in said and "at offset 4096" in said and "snapshot of index 10" in said


def test_when_every_snapshot_is_damaged_the_log_serves_if_it_is_whole(
    log: WrittenLog, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = log.snapshot(20)
    damaged.write_bytes(damaged.read_bytes()[:-100])
    history = open_history(log.directory)

    assert begin(history, app, 25).state.index == 0
    assert "from the log's beginning" in capsys.readouterr().err
    cut(log, 21)
    with pytest.raises(OperatorError, match=str(damaged)):
        begin(open_history(log.directory), app, 25)


def test_a_snapshot_of_another_replica_or_under_another_name_is_not_used(
    log: WrittenLog, tmp_path: Path
) -> None:
    other = WrittenLog(tmp_path / "other", app, LEDGER)
    other.append(EntryKind.TERM_START)
    foreign = other.snapshot(1)
    other.close()
    own = log.snapshot(20)
    cut(log, 21)
    own.rename(own.with_name(snapshot_name(22)))
    with pytest.raises(OperatorError, match="it is the snapshot of index 20"):
        begin(open_history(log.directory), app, 25)
    foreign.rename(own.with_name(snapshot_name(22)))
    with pytest.raises(OperatorError, match="belongs to replica 1 of cluster"):
        begin(open_history(log.directory), app, 25)


def test_until_looks_from_the_snapshot_on_where_the_beginning_is_gone(log: WrittenLog) -> None:
    log.snapshot(20)
    cut(log, 21)
    condition = Condition.compile("Ledger['main'].accounts['bob'] >= 1", app)

    found = first_place(open_history(log.directory), app, condition, (1, 0), LAST, None)

    assert found == (21, 0)


def test_a_log_that_was_begun_anew_is_read_from_there(log: WrittenLog) -> None:
    """As on a replica that was far behind; the segments before may still lie there after a kill."""
    snapshot = log.snapshot(LAST)
    kept = {path: path.read_bytes() for path in (log.directory / "journal").glob("*.log")}
    log.journal.restart_behind(read_header(snapshot))
    log.commands(log.command("main", Deposit("alice", 1)))
    for path, content in kept.items():
        path.write_bytes(content)

    history = open_history(log.directory)

    assert (history.first, history.last, list(history.snapshots)) == (LAST + 1, LAST + 1, [LAST])
    assert fold(history, app, LAST + 1).instance(Ledger, "main").accounts["alice"] == LAST - 1
    assert [index for index, _, _ in history.records() if index] == [LAST + 1]


def test_what_is_held_can_be_read_after_it_was_removed(log: WrittenLog) -> None:
    path = log.snapshot(20)
    history = open_history(log.directory)
    digest = fold(history, app, 30).state_digest()
    path.unlink()
    for segment in (log.directory / "journal").glob("*.log"):
        segment.rename(segment.with_suffix(".gone"))

    assert fold(history, app, 30).state_digest() == digest
    assert begin(history, app, 25).state.index == 20
