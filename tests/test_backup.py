"""`leftfold backup` and `leftfold restore`: the same state under a new cluster, or a sentence and
nothing left behind."""

import contextlib
import io
import json
import os
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from asking import Asker
from disks import mounted
from replica import leavings, replica, wait_until
from written_log import LAST, LEDGER, WrittenLog, written_deposits

from leftfold.actors.layout import EntryKind
from leftfold.actors.ledger import Deposit, app
from leftfold.runtime.identity import load_identity
from leftfold.runtime.journal import Journal
from leftfold.runtime.snapshotfile import contents, read_header
from leftfold.tools import backup as backup_module
from leftfold.tools.cli import call
from leftfold.tools.fold import fold
from leftfold.tools.history import open_history
from leftfold.tools.manifest import BLOCK_BYTES, NAME
from leftfold.tools.scratch import beside, file_beside


@pytest.fixture
def log(tmp_path: Path) -> Iterator[WrittenLog]:
    """Deposits up to entry LAST, two snapshots, and a log that begins behind the first of them."""
    log = written_deposits(tmp_path / "data")
    log.snapshot(20)
    log.snapshot(30)
    assert log.journal.discard_before(21) > 0
    yield log
    log.close()


def call_quietly(*arguments: object) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        assert call([str(argument) for argument in arguments]) == 0


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def copy(log: WrittenLog, tmp_path: Path) -> Path:
    """A backup of the log, as a directory."""
    call_quietly("backup", log.directory, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def archive(log: WrittenLog, tmp_path: Path) -> Path:
    """A backup of the log, as a tar."""
    call_quietly("backup", log.directory, tmp_path / "copy.tar")
    return tmp_path / "copy.tar"


# What is written


def test_it_holds_the_identity_the_newest_snapshot_and_the_log_from_there(
    log: WrittenLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(log.directory)

    assert call(["backup", str(log.directory), str(tmp_path / "copy"), "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    copied = files(tmp_path / "copy")
    assert (found["snapshot"], found["first"], found["last"]) == (30, 30, LAST)
    assert set(copied) < {*before, NAME}
    assert [name for name in copied if name.startswith("snap")] == [
        "snapshots/snapshot-00000000000000000030.lfs"
    ]
    for name, content in copied.items():
        if name != NAME:
            assert before[name].startswith(content), name
    assert files(log.directory) == before


def test_a_damaged_snapshot_is_left_out_and_said_to_be(
    log: WrittenLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = log.directory / "snapshots/snapshot-00000000000000000030.lfs"
    newest.write_bytes(newest.read_bytes()[:-1])

    assert call(["backup", str(log.directory), str(tmp_path / "copy"), "--json"]) == 0

    captured = capsys.readouterr()
    assert json.loads(captured.out)["snapshot"] == 20
    assert f"{newest} at offset" in captured.err and "It is left out" in captured.err


def test_a_log_without_a_snapshot_is_copied_whole(tmp_path: Path) -> None:
    log = WrittenLog(tmp_path / "data", app, LEDGER)
    log.append(EntryKind.TERM_START)
    log.close()

    call_quietly("backup", log.directory, tmp_path / "copy")
    call_quietly("restore", tmp_path / "copy", tmp_path / "again")

    assert open_history(tmp_path / "again").last == 1
    assert not (tmp_path / "again" / "snapshots").exists()


def test_more_can_be_taken_along_to_go_back_further(
    log: WrittenLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call_quietly("backup", log.directory, tmp_path / "copy", "--from", "25")
    call_quietly("restore", tmp_path / "copy", tmp_path / "again", "--to", "25")

    assert len(list((tmp_path / "copy/snapshots").iterdir())) == 2
    assert open_history(tmp_path / "again").last == 25
    assert call(["backup", str(log.directory), str(tmp_path / "more"), "--from", "19"]) == 1
    assert "what is kept goes from 20 to 42" in capsys.readouterr().err
    assert not (tmp_path / "more").exists()


def test_a_log_that_is_whole_goes_back_to_its_beginning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = WrittenLog(tmp_path / "data", app, LEDGER)
    for _ in range(4):
        log.append(EntryKind.TIME)
    log.snapshot(3)
    log.close()

    call(["backup", str(log.directory), str(tmp_path / "copy"), "--from", "1", "--json"])

    found = json.loads(capsys.readouterr().out)
    assert (found["first"], found["last"], found["snapshot"]) == (1, 4, 3)
    call_quietly("restore", tmp_path / "copy", tmp_path / "again", "--to", 1)
    assert open_history(tmp_path / "again").last == 1


def test_retention_cannot_take_away_what_is_copied(
    log: WrittenLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is removed between the opening and the first byte that is copied."""
    opened = open_history(log.directory)

    def removed(directory: Path) -> Any:
        for path in (*directory.glob("journal/*"), *directory.glob("snapshots/*")):
            path.unlink()
        return opened

    monkeypatch.setattr(backup_module, "open_history", removed)
    call_quietly("backup", log.directory, tmp_path / "copy")

    assert open_history(tmp_path / "copy").last == LAST


@pytest.mark.parametrize("target", ["copy", "copy.tar"])
def test_a_target_that_holds_something_is_refused(
    log: WrittenLog, tmp_path: Path, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    call_quietly("backup", log.directory, tmp_path / target)
    before = files(tmp_path)

    code = call(["backup", str(log.directory), str(tmp_path / target)])

    assert code == 1
    assert "name a target that does not" in capsys.readouterr().err
    assert files(tmp_path) == before


def test_a_log_that_cannot_be_restored_is_not_backed_up(
    log: WrittenLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in log.directory.glob("snapshots/*"):
        path.unlink()

    code = call(["backup", str(log.directory), str(tmp_path / "copy")])

    assert code == 1
    assert "there is no snapshot that it goes on from" in capsys.readouterr().err
    assert not (tmp_path / "copy").exists()


# What is restored


def test_the_restored_replica_has_the_state_and_a_new_cluster(
    log: WrittenLog, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["restore", str(copy), str(tmp_path / "again"), "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    old, new = load_identity(log.directory), load_identity(tmp_path / "again")
    assert new.cluster_id.hex() == found["cluster_id"] != old.cluster_id.hex()
    assert (new.hash_seed, new.limits, new.app) == (old.hash_seed, old.limits, old.app)
    one, other = (
        fold(open_history(directory), app, LAST)
        for directory in (log.directory, tmp_path / "again")
    )
    assert one.state_digest() == other.state_digest()
    assert one.digest == other.digest


def test_the_snapshot_changes_its_header_and_nothing_else(
    log: WrittenLog, copy: Path, tmp_path: Path
) -> None:
    call_quietly("restore", copy, tmp_path / "again")

    name = "snapshots/snapshot-00000000000000000030.lfs"
    before, after = log.directory / name, tmp_path / "again" / name
    assert b"".join(contents(before)) == b"".join(contents(after))
    old, new = read_header(before), read_header(after)
    assert new.cluster_id == load_identity(tmp_path / "again").cluster_id
    assert (new.index, new.term, new.time_ns, new.build) == (
        *(old.index, old.term, old.time_ns),
        old.build,
    )
    assert new.membership == b""


def test_the_restored_journal_is_one_that_a_replica_opens(copy: Path, tmp_path: Path) -> None:
    call_quietly("restore", copy, tmp_path / "again", "--to", 35)

    identity = load_identity(tmp_path / "again")
    header = read_header(tmp_path / "again/snapshots/snapshot-00000000000000000030.lfs")
    journal = Journal.open(tmp_path / "again/journal", identity, covered=header)
    recovered = journal.recovered
    journal.close()
    assert (recovered.first, recovered.last, recovered.commit) == (31, 35, 35)
    assert (recovered.term, recovered.voted_for, recovered.last_term) == (1, 0, 1)


@pytest.mark.parametrize("to", [30, 31, LAST])
def test_it_goes_back_to_any_index_that_is_in_it(
    log: WrittenLog, archive: Path, tmp_path: Path, to: int
) -> None:
    call_quietly("restore", archive, tmp_path / "again", "--to", to)

    history = open_history(tmp_path / "again")
    assert history.last == to
    old = fold(open_history(log.directory), app, to)
    assert fold(history, app, to).state_digest() == old.state_digest()


def test_members_of_the_old_cluster_are_left_out_and_change_no_state(tmp_path: Path) -> None:
    log = WrittenLog(tmp_path / "data", app, LEDGER)
    log.commands(log.open_session())
    log.append(EntryKind.CONFIGURATION, [b"who belongs to it, eh???"])
    log.commands(log.command("main", Deposit("alice", 1)))
    log.close()

    call_quietly("backup", log.directory, tmp_path / "copy")
    call_quietly("restore", tmp_path / "copy", tmp_path / "again")

    history = open_history(tmp_path / "again")
    kinds = [entry.kind for entry, _ in history.entries(1, 3)]
    assert kinds == [EntryKind.COMMANDS, EntryKind.SKIP, EntryKind.COMMANDS]
    old = fold(open_history(log.directory), app, 3)
    assert fold(history, app, 3).state_digest() == old.state_digest()


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("29", "it goes from 30 to 42"),
        ("43", "it goes from 30 to 42"),
        ("31.0", "restore to a whole entry"),
        ("x", "is not a place in the log"),
    ],
)
def test_an_index_that_is_not_in_it_is_refused_with_the_range(
    copy: Path, tmp_path: Path, to: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = call(["restore", str(copy), str(tmp_path / "again"), "--to", to])

    assert code == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


def test_a_directory_that_holds_something_is_not_touched(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "mine").write_text("precious")

    code = call(["restore", str(copy), str(tmp_path / "again")])

    assert code == 1
    assert "is not empty" in capsys.readouterr().err
    assert files(tmp_path / "again") == {"mine": b"precious"}


# Streams


def leftfold(*arguments: object, **options: Any) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-m", "leftfold.tools.cli", *map(str, arguments)],
        capture_output="stdout" not in options,
        timeout=60,
        check=False,
        **options,
    )


def test_a_stream_is_a_tar_that_restore_reads_from_stdin(log: WrittenLog, tmp_path: Path) -> None:
    sent = leftfold("backup", log.directory, "-")
    taken = leftfold("restore", "-", tmp_path / "again", input=sent.stdout)

    assert sent.returncode == taken.returncode == 0, sent.stderr + taken.stderr
    with tarfile.open(fileobj=io.BytesIO(sent.stdout)) as archive:
        names = archive.getnames()
    assert names[0] == "identity.json" and names[-1] == NAME
    assert b"restores to any entry from 30 to 42" in sent.stderr
    assert open_history(tmp_path / "again").last == LAST
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "data"]


def test_a_reader_that_hangs_up_is_an_error(log: WrittenLog) -> None:
    reading, writing = os.pipe()
    os.close(reading)

    ended = leftfold("backup", log.directory, "-", stdout=writing, stderr=subprocess.PIPE)

    os.close(writing)
    assert ended.returncode == 1
    assert b"the reader has hung up" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_full_disk_behind_a_stream_is_an_error(log: WrittenLog) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = leftfold("backup", log.directory, "-", stdout=full, stderr=subprocess.PIPE)

    assert ended.returncode == 1
    assert b"No space left on device" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


# Damage


def flips(content: bytes, count: int) -> Iterator[int]:
    """Positions in a file: every byte of a small one, `count` of a larger one."""
    yield from range(0, len(content), max(1, len(content) // count))


def refused(source: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert call(["restore", str(source), str(target)]) == 1
    assert not target.exists()
    assert sorted(path.name for path in target.parent.glob(".*")) == []
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    return said


def test_every_flipped_bit_is_named_by_file_and_offset(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in files(copy).items():
        for at in flips(content, len(content) if name == NAME else 24):
            changed = bytearray(content)
            changed[at] ^= 1 << at % 8
            (copy / name).write_bytes(changed)

            said = refused(copy, tmp_path / "again", capsys)

            where = 0 if name == NAME else at // BLOCK_BYTES * BLOCK_BYTES
            assert f"{copy}/{name} at offset {where}" in said, (name, at, said)
        (copy / name).write_bytes(content)
    call_quietly("restore", copy, tmp_path / "again")


def test_every_cut_is_named_by_file_and_offset(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in files(copy).items():
        for end in flips(content, 8):
            (copy / name).write_bytes(content[:end])

            said = refused(copy, tmp_path / "again", capsys)

            where = 0 if name == NAME else end
            assert f"{copy}/{name} at offset {where}" in said, (name, end, said)
        (copy / name).write_bytes(content + b"!")
        assert f"{copy}/{name} at offset" in refused(copy, tmp_path / "again", capsys)
        (copy / name).unlink()
        said = refused(copy, tmp_path / "again", capsys)
        assert "was not finished" in said if name == NAME else "the file is missing" in said
        (copy / name).write_bytes(content)


def test_files_of_another_backup_are_refused(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = WrittenLog(tmp_path / "other", app, LEDGER)
    other.append(EntryKind.TERM_START)
    other.close()
    foreign = (other.directory / "identity.json").read_bytes()
    own = (copy / "identity.json").read_bytes()

    (copy / "identity.json").write_bytes(foreign[:-1].ljust(len(own) - 1)[: len(own) - 1] + b"\n")
    assert "identity.json at offset 0" in refused(copy, tmp_path / "again", capsys)

    # A hash seed has ten digits or fewer, so another identity may be longer or shorter.
    for other_length in (foreign + b" " * len(own), foreign[:100]):
        (copy / "identity.json").write_bytes(other_length)
        assert "identity.json at offset" in refused(copy, tmp_path / "again", capsys)


def test_a_damaged_tar_is_refused_wherever_the_damage_is(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = archive.read_bytes()
    for at in flips(content, 60):
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8
        archive.write_bytes(changed)
        code = call(["restore", str(archive), str(tmp_path / "again")])
        said = capsys.readouterr().err
        if code == 0:  # A byte of the padding, or of the time in a member's header.
            assert open_history(tmp_path / "again").last == LAST
            subprocess.run(["rm", "-r", str(tmp_path / "again")], check=True)
            continue
        assert code == 1 and len(said.splitlines()) == 1, (at, said)
        assert str(archive) in said, (at, said)
        assert not (tmp_path / "again").exists()
    for end in flips(content[:-10_240], 20):
        archive.write_bytes(content[:end])
        assert str(archive) in refused(archive, tmp_path / "again", capsys), end


def test_a_tar_with_anything_else_in_it_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("../outside", "/etc/passwd", "journal/../../x", "notes.txt"):
        with tarfile.open(tmp_path / "evil.tar", "w") as evil:
            info = tarfile.TarInfo(name)
            info.size = 4
            evil.addfile(info, io.BytesIO(b"evil"))
        said = refused(tmp_path / "evil.tar", tmp_path / "again", capsys)
        assert "no backup has a member" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.tar"]


@pytest.mark.parametrize("what", ["nothing", "file", "replica"])
def test_what_is_no_backup_is_named(
    log: WrittenLog, tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = {"nothing": tmp_path / "nowhere", "file": tmp_path / "x", "replica": log.directory}[
        what
    ]
    (tmp_path / "x").write_text("hello")

    said = refused(source, tmp_path / "again", capsys)

    assert str(source) in said


def test_a_backup_of_a_later_format_is_refused(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((copy / NAME).read_bytes()) | {"format": 2}
    del manifest["crc32"]
    crc = zlib.crc32(msgspec.json.encode(manifest) + b"\n")
    (copy / NAME).write_bytes(msgspec.json.encode(manifest | {"crc32": crc}) + b"\n")

    assert "too old to read" in refused(copy, tmp_path / "again", capsys)


def test_what_killed_restores_left_is_removed_by_the_next_and_a_living_ones_is_not(
    archive: Path, tmp_path: Path
) -> None:
    for left in ("restoring", "unpacked"):
        (tmp_path / f".again.1.{left}" / "journal").mkdir(parents=True)
        (tmp_path / f".other.1.{left}").mkdir()
    with beside(tmp_path / "again", "restoring") as living:
        assert leftfold("restore", archive, tmp_path / "again").returncode == 0

        assert living.is_dir()
    hidden = sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("."))
    assert hidden == [".other.1.restoring", ".other.1.unpacked"]
    assert open_history(tmp_path / "again").last == LAST


def test_what_killed_backups_left_of_a_tar_is_removed_by_the_next_and_a_living_ones_is_not(
    log: WrittenLog, tmp_path: Path
) -> None:
    for name in ("again.tar", "other.tar"):
        (tmp_path / f"{name}.1.tmp").write_bytes(b"half of it")
    (tmp_path / "again.tar.old.tmp").write_bytes(b"somebody else's")
    living, file = file_beside(tmp_path / "again.tar")
    with file:
        assert leftfold("backup", log.directory, tmp_path / "again.tar").returncode == 0

        assert living.exists()
    left = sorted(path.name for path in tmp_path.glob("*.tmp"))
    assert left == sorted([living.name, "again.tar.old.tmp", "other.tar.1.tmp"])
    assert leftfold("restore", tmp_path / "again.tar", tmp_path / "r").returncode == 0


# Full disks


def test_a_full_disk_leaves_nothing_of_backup_or_restore(
    log: WrittenLog, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    big = "x" * 60_000
    for _ in range(40):
        log.commands(log.command("main", Deposit(big[:900], 1)) * 40)
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=256k", "tmpfs") as small:
        for arguments in (
            ["backup", str(log.directory), str(small / "copy")],
            ["backup", str(log.directory), str(small / "copy.tar")],
            ["restore", str(copy), str(small / "again")],
        ):
            code = call(arguments)

            said = capsys.readouterr().err
            assert code == 1, arguments
            assert "No space left on device" in said and len(said.splitlines()) == 1, said
            assert list(small.iterdir()) == []


# Running replicas


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "replica"
    yield place
    assert leavings(place) == []
    assert leavings(tmp_path / "again") == []


def digest_of(directory: Path, index: int) -> str:
    ended = leftfold(
        "replay", directory, "--to", index, "--json", cwd=Path(__file__).parent / "apps"
    )
    assert ended.returncode == 0, ended.stderr
    found: str = json.loads(ended.stdout)["state_digest"]
    return found


@pytest.mark.xdist_group("serial")
def test_a_replica_is_backed_up_while_it_works_and_serves_again_from_the_backup(
    directory: Path, tmp_path: Path
) -> None:
    with replica(directory) as running:
        asker = Asker(lambda: running.port, "key")
        wait_until(lambda: asker.answered > 200, "the client is at work")
        before = asker.answered
        copied = leftfold("backup", directory, tmp_path / "copy", "--json")
        wait_until(lambda: asker.answered > before + 200, "the client goes on")
        asker.finish()
        running.stop()
    assert copied.returncode == 0, copied.stderr
    last = json.loads(copied.stdout)["last"]

    assert leftfold("restore", tmp_path / "copy", tmp_path / "again").returncode == 0
    expected = digest_of(directory, last)
    assert digest_of(tmp_path / "again", last) == expected

    with replica(tmp_path / "again") as running:
        asker = Asker(lambda: running.port, "another key")
        wait_until(lambda: asker.answered > 50, "the restored replica answers")
        asker.finish()
        running.stop()
    assert digest_of(tmp_path / "again", last) == expected
    # What was answered before the backup began is in it.
    ended = leftfold(
        *("state", "Counter", "key", "--dir", tmp_path / "again", "--at", last),
        cwd=Path(__file__).parent / "apps",
    )
    assert json.loads(ended.stdout)["state"]["commands"] >= before
