"""Damaged, swapped and foreign files in the directory of a real replica, and disks that are full.

A start says in one sentence what is wrong with which file, ends with code 1, and has changed none of them; or it goes on from the
snapshot before, says so, and has lost nothing. Every byte of the formats is under test where they are read
(test_snapshotfile.py, test_journal.py, test_records.py); here it is what a person sees of it.
"""

import contextlib
import hashlib
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest
from asking import ADD, askers, line, port_of, total_of
from disks import mounted
from replica import RunningReplica, leavings, replica, wait_until
from test_replica_snapshots import (
    COUNT,
    SMALL,
    check_totals,
    control,
    keep,
    make_progress,
    refusal,
    restored,
    snapshots_end,
    take_snapshot,
)

from leftfold.actors.layout import Status
from leftfold.runtime import frames, slots
from leftfold.runtime.config import KIB, MIB, TransportLimits
from leftfold.runtime.segments import SPARE_NAME
from leftfold.runtime.snapshotfile import HEADER_BLOCK_BYTES
from leftfold.runtime.snapshots import list_snapshots

pytestmark = pytest.mark.xdist_group("serial")


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Where the replica of a test lives; afterwards nothing of it may be left in memory."""
    place = tmp_path / "replica"
    yield place
    assert leavings(place) == []


# A directory with everything in it


@attrs.frozen
class Life:
    """What a killed replica has left: three segments or more, two snapshots, and a tail."""

    directory: Path
    session: bytes
    asked: int
    value: int


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Life:
    return lived(tmp_path_factory.mktemp("life") / "replica")


@pytest.fixture(scope="module")
def other_life(tmp_path_factory: pytest.TempPathFactory) -> Life:
    return lived(tmp_path_factory.mktemp("other") / "replica")


def lived(directory: Path) -> Life:
    """A replica that did something, and was killed."""
    journal = directory / "journal"
    with replica(directory, limits=SMALL, snapshot_log_bytes=1 << 40) as running:
        with askers(lambda: port_of(directory)) as working:
            for name in ("00000003.log", "00000005.log"):
                wait_until((journal / name).exists, f"the log comes to {name}")
                take_snapshot(running)
            wait_until((journal / "00000008.log").exists, "the log goes on")
            check_totals(running, working)
        with line(running) as client:
            values = [total_of(client.ask(at, ADD, amount=at))["value"] for at in (1, 2, 3)]
        running.kill("supervisor")
        running.process.wait()
    assert len(list_snapshots(directory / "snapshots")) == 2
    assert not (journal / "00000001.log").exists(), "the log was let go up to the older snapshot"
    return Life(directory, client.session, len(values), values[-1])


def fingerprints(directory: Path) -> dict[str, str]:
    """What is on disk: the identity, the log and the snapshots."""
    found: dict[str, str] = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_file() and name.startswith(("journal/", "snapshots/", "identity")):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def newest_of(directory: Path) -> Path:
    return list_snapshots(directory / "snapshots")[-1][1]


def older_of(directory: Path) -> Path:
    return list_snapshots(directory / "snapshots")[0][1]


def segments_of(directory: Path) -> list[Path]:
    return sorted((directory / "journal").glob("0*.log"))


def flip(path: Path, at: int) -> None:
    whole = bytearray(path.read_bytes())
    whole[at] ^= 0x10
    path.write_bytes(whole)


def make_newer(path: Path, checked: slice) -> None:
    """Say of a file, under a checksum that fits, that a later version has written it."""
    whole = bytearray(path.read_bytes())
    struct.pack_into("<I", whole, 12, 1000)
    struct.pack_into("<I", whole, 8, zlib.crc32(whole[checked]))
    path.write_bytes(whole)


# What is refused


def foreign_snapshot(place: Path, other: Path) -> str:
    shutil.copy(newest_of(other), newest_of(place))
    return f"{newest_of(place).name}|belongs to"


def snapshot_of_a_newer_version(place: Path, other: Path) -> str:
    make_newer(newest_of(place), slice(12, HEADER_BLOCK_BYTES))
    return f"{newest_of(place).name}|1000|too old"


def flipped_bit_in_the_log(place: Path, other: Path) -> str:
    path = segments_of(place)[1]
    flip(path, path.stat().st_size // 2)
    return f"{path.name}|offset"


def flipped_bit_in_the_header_of_a_segment(place: Path, other: Path) -> str:
    path = segments_of(place)[1]
    flip(path, 40)
    return f"{path.name}|offset 0"


def segments_swapped(place: Path, other: Path) -> str:
    first, second = segments_of(place)[1:3]
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)
    return f"{first.name}|segment"


def foreign_segment(place: Path, other: Path) -> str:
    theirs = {path.name for path in segments_of(other)}
    path = next(path for path in segments_of(place)[1:-1] if path.name in theirs)
    shutil.copy(other / "journal" / path.name, path)
    return f"{path.name}|belongs to"


def segment_of_a_newer_version(place: Path, other: Path) -> str:
    path = segments_of(place)[1]
    make_newer(path, slice(12, 144))
    return f"{path.name}|1000"


def segment_cut_short(place: Path, other: Path) -> str:
    path = segments_of(place)[1]
    os.truncate(path, path.stat().st_size // 2)
    return path.name


def segment_missing(place: Path, other: Path) -> str:
    path = segments_of(place)[1]
    path.unlink()
    return path.name


def journal_gone(place: Path, other: Path) -> str:
    shutil.rmtree(place / "journal")
    (place / "journal").mkdir()
    return "journal"


def identity_of_another(place: Path, other: Path) -> str:
    shutil.copy(other / "identity.json", place / "identity.json")
    return "belongs to"


REFUSED: list[Callable[[Path, Path], str]] = [
    foreign_snapshot,
    snapshot_of_a_newer_version,
    flipped_bit_in_the_log,
    flipped_bit_in_the_header_of_a_segment,
    segments_swapped,
    foreign_segment,
    segment_of_a_newer_version,
    segment_cut_short,
    segment_missing,
    journal_gone,
    identity_of_another,
]


@pytest.mark.parametrize("damage", REFUSED, ids=lambda damage: damage.__name__)
def test_what_cannot_be_believed_is_one_sentence_and_nothing_is_changed(
    directory: Path, life: Life, other_life: Life, damage: Callable[[Path, Path], str]
) -> None:
    shutil.copytree(life.directory, directory)
    words = damage(directory, other_life.directory)
    before = fingerprints(directory)

    sentence = refusal(directory, limits=SMALL)

    print(sentence)
    for word in words.split("|"):
        assert word in sentence, sentence
    assert fingerprints(directory) == before
    assert "Traceback" not in sentence


def test_with_both_snapshots_damaged_nothing_is_invented(directory: Path, life: Life) -> None:
    """The log begins behind them; both are set aside by name, and their content is as it was."""
    shutil.copytree(life.directory, directory)
    for path in (newest_of(directory), older_of(directory)):
        flip(path, path.stat().st_size // 2)
    before = fingerprints(directory)
    older = older_of(directory)

    sentence = refusal(directory, limits=SMALL)

    print(sentence)
    assert older.name in sentence or "snapshot" in sentence
    after = {name.removesuffix(".damaged"): text for name, text in fingerprints(directory).items()}
    assert after == before


# What is gone on from


def newest_cut_short(place: Path) -> None:
    os.truncate(newest_of(place), newest_of(place).stat().st_size // 2)


def newest_header_flipped(place: Path) -> None:
    flip(newest_of(place), 20)


def newest_empty(place: Path) -> None:
    os.truncate(newest_of(place), 0)


def older_under_the_newest_name(place: Path) -> None:
    shutil.copy(older_of(place), newest_of(place))


def both_swapped(place: Path) -> None:
    newest, older = newest_of(place), older_of(place)
    kept = newest.read_bytes()
    newest.write_bytes(older.read_bytes())
    older.write_bytes(kept)


FALLEN_BACK: list[Callable[[Path], None]] = [
    newest_cut_short,
    newest_header_flipped,
    newest_empty,
    older_under_the_newest_name,
]


@pytest.mark.parametrize("damage", FALLEN_BACK, ids=lambda damage: damage.__name__)
def test_a_snapshot_that_cannot_be_used_is_named_and_the_one_before_serves(
    directory: Path, life: Life, damage: Callable[[Path], None]
) -> None:
    shutil.copytree(life.directory, directory)
    damage(directory)
    newest, (older, _) = newest_of(directory), list_snapshots(directory / "snapshots")[0]
    with replica(directory, limits=SMALL) as running:
        (warning,) = running.events("warning")
        assert newest.name in warning["sentence"] and "offset" in warning["sentence"]
        assert f"entry {older}" in warning["sentence"]
        assert restored(running) == {older}
        with line(running, life.session) as client:
            assert isinstance(client.opened, frames.Reply)
            assert client.opened.last_request == life.asked
            assert client.read()["value"] == life.value
            again = total_of(client.ask(life.asked + 1, ADD, amount=1))
            assert again == {"value": life.value + 1, "commands": life.asked + 1}
        assert newest.with_name(newest.name + ".damaged").exists()


def test_two_snapshots_under_each_others_names_are_refused_as_both_damaged(
    directory: Path, life: Life
) -> None:
    shutil.copytree(life.directory, directory)
    both_swapped(directory)
    sentence = refusal(directory, limits=SMALL)
    assert "snapshot" in sentence, sentence


# Full disks

LARGER = attrs.evolve(
    TransportLimits(), entry_bytes_max=128 * KIB, persist_bytes=2 * MIB, segment_bytes=4 * MIB
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A replica's directory that is a file system of its own, of 24 MiB."""
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=24m", "tmpfs") as place:
        yield place
    assert leavings(place) == []


def fill(disk: Path, left_bytes: int = 0) -> Path:
    """Somebody else takes all room but this."""
    filler = disk / "somebody-elses"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(64 * KIB))
    os.truncate(filler, max(0, filler.stat().st_size - left_bytes))
    return filler


def texts_of(running: RunningReplica, session: bytes) -> int:
    with line(running, session) as client:
        client.send(frames.query(COUNT, session, 1, b"a", msgspec.msgpack.encode({})))
        answer = client.receive()
        assert isinstance(answer, frames.Answer) and answer.status == Status.OK, answer
        found: int = msgspec.msgpack.decode(answer.body)["texts"]
        return found


def test_a_disk_that_is_full_in_the_middle_of_a_snapshot_costs_that_snapshot(
    small_disk: Path,
) -> None:
    """The file is in part written when there is no room; the log goes on, and later there is a snapshot."""
    directory = small_disk
    config: dict[str, Any] = {"limits": LARGER, "disk_reserve_bytes": 0}
    with (
        replica(directory, "hoarding:app", **config) as running,
        line(running) as client,
        line(running) as operator,
    ):
        for request in range(1, 121):
            assert isinstance(keep(client, request, 40_000), frames.Reply)
        spare = directory / "journal" / SPARE_NAME
        # Otherwise it may be refused later, and what it gives back is room enough for the snapshot.
        wait_until(
            lambda: spare.exists() and spare.stat().st_blocks * 512 >= LARGER.segment_bytes,
            "the next segment has its room",
        )
        filler = fill(small_disk, 1 * MIB)
        control(operator, slots.CONTROL_SNAPSHOT)
        (warning,) = snapshots_end(running, 1)
        assert "No space left on device" in warning["sentence"]
        assert "The log is kept" in warning["sentence"]
        assert list((directory / "snapshots").iterdir()) == []
        assert running.events("died") == []
        assert texts_of(running, client.session) == 120
        filler.unlink()

        def is_kept() -> bool:
            """Commands may have been refused for a moment: the log wants its next segment."""
            return isinstance(keep(client, 121, 40_000), frames.Reply)

        wait_until(is_kept, "commands are taken")
        logic = running.pid("logic")
        # A child that has ended is no longer here only when logic has waited for it.
        children = Path(f"/proc/{logic}/task/{logic}/children")
        wait_until(lambda: not children.read_text(), "the first child is gone")
        taken = take_snapshot(running)
        client.close()
        running.kill("supervisor")
        running.process.wait()
    with replica(directory, "hoarding:app", **config) as running:
        assert taken in restored(running)
        assert texts_of(running, client.session) == 121


def test_a_log_that_finds_no_room_for_its_next_segment_loses_nothing(small_disk: Path) -> None:
    """All room is gone at once and nothing was held in reserve. It pushes back, or stops with the sentence; both are safe."""
    limits = attrs.evolve(SMALL, segment_bytes=512 * KIB)
    config: dict[str, Any] = {
        "limits": limits,
        "disk_reserve_bytes": 0,
        "snapshot_log_bytes": 1 << 40,
    }
    with askers(lambda: port_of(small_disk)) as working:
        with replica(small_disk, **config) as running:
            make_progress(working)
            filler = fill(small_disk)
            wait_until(
                lambda: (
                    "disk is nearly full" in running.output() or running.process.poll() is not None
                ),
                "it meets the end of the disk",
            )
            if running.process.poll() is None:
                running.kill("supervisor")
            elif running.process.wait() == 1:
                assert "The disk is full" in running.output()
                assert "Everything acknowledged is safe" in running.output()
                assert len(running.events("starting")) == 1
            running.process.wait()
        assert "Traceback" not in running.output()
        filler.unlink()
        with replica(small_disk, **config) as running:
            make_progress(working)
            check_totals(running, working)
            assert running.stop() == 0


def test_a_start_on_a_full_disk_is_one_sentence_and_nothing_is_lost(
    small_disk: Path, life: Life
) -> None:
    shutil.copytree(life.directory, small_disk, dirs_exist_ok=True)
    filler = fill(small_disk)
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))

    sentence = refusal(small_disk, limits=SMALL)

    print(sentence)
    assert "No space left on device" in sentence
    filler.unlink()
    with replica(small_disk, limits=SMALL) as running, line(running, life.session) as client:
        assert client.read()["value"] == life.value
