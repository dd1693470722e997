"""The store of snapshots: which one counts, whatever happens to a file, a process or the power."""

import errno
import os
import shutil
from pathlib import Path
from random import Random, SystemRandom

import pytest
from attrs import define, evolve, field
from journal_samples import OWNER
from snapshot_samples import pieces_of, put, sample

from leftfold.runtime.errors import (
    ForeignSnapshot,
    NewerFormat,
    OperatorError,
    SnapshotFailed,
)
from leftfold.runtime.segments import Disk
from leftfold.runtime.snapshotfile import contents
from leftfold.runtime.snapshots import SnapshotStore, list_snapshots, snapshot_name


def written(store, index, content=None):
    """Write and sync a snapshot under its temporary name, through the store's disk."""
    path = store.temporary(index)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        store.disk.write(file, [sample(index) if content is None else content], 0)
        store.disk.sync(file)
    finally:
        os.close(file)


def admitted(store, *indexes):
    for index in indexes:
        written(store, index)
        store.admit(index)
    return store


def names(directory):
    return sorted(os.listdir(directory))


def flip(path, at):
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 16]))


def test_an_empty_store_keeps_all_of_the_log(tmp_path):
    for _ in range(2):
        store = SnapshotStore.open(tmp_path / "new" / "snapshots", OWNER)
        assert (store.newest, store.keep_from, store.file_bytes) == (None, 0, 0)
        assert store.warnings == []


def test_the_newest_serves_and_the_log_is_kept_from_the_one_before(tmp_path):
    store = admitted(SnapshotStore.open(tmp_path, OWNER), 10)
    assert (store.newest.index, store.keep_from) == (10, 0), "one alone lets nothing go"
    admitted(store, 20)
    assert (store.newest.index, store.keep_from) == (20, 11)
    admitted(store, 30)

    for found in (store, SnapshotStore.open(tmp_path, OWNER)):
        assert (found.newest.index, found.keep_from) == (30, 21)
        assert names(tmp_path) == [snapshot_name(20), snapshot_name(30)]
        assert found.file_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
        assert list(contents(found.path_of(30))) == pieces_of(30)
        assert found.kept[-1].content_bytes == sum(map(len, pieces_of(30)))


def test_a_snapshot_of_the_same_entry_takes_the_place_of_the_first(tmp_path):
    store = admitted(SnapshotStore.open(tmp_path, OWNER), 10, 20, 20)

    assert [one.index for one in store.kept] == [10, 20]
    assert store.keep_from == 11


@pytest.mark.parametrize("at", [0, 9, 100, 4095, 4200, 5000, -1])
def test_a_damaged_newest_is_set_aside_and_the_one_before_serves(tmp_path, at):
    admitted(SnapshotStore.open(tmp_path, OWNER), 10, 20)
    path = tmp_path / snapshot_name(20)
    flip(path, at % path.stat().st_size)

    store = SnapshotStore.open(tmp_path, OWNER)

    assert (store.newest.index, store.keep_from) == (10, 0)
    assert names(tmp_path) == [snapshot_name(10), snapshot_name(20) + ".damaged"]
    (warning,) = store.warnings
    assert f"{path} at offset " in warning
    assert warning.endswith(f"{path.name}.damaged; the snapshot of entry 10 is used.")
    assert SnapshotStore.open(tmp_path, OWNER).warnings == [], "it is said once"


def test_a_truncated_a_misnamed_and_an_older_damaged_one_are_set_aside(tmp_path):
    admitted(SnapshotStore.open(tmp_path, OWNER), 10, 30)
    flip(tmp_path / snapshot_name(10), 4300)
    put(tmp_path, 40).rename(tmp_path / snapshot_name(50))
    os.truncate(put(tmp_path, 60), 4200)

    store = SnapshotStore.open(tmp_path, OWNER)

    assert [one.index for one in store.kept] == [30]
    assert len(store.warnings) == 3
    assert "it is the snapshot of entry 40" in store.warnings[1]
    assert "used" not in store.warnings[2], "an older one changes nothing about what serves"


def test_without_any_that_checks_the_log_alone_serves(tmp_path):
    admitted(SnapshotStore.open(tmp_path, OWNER), 10)
    flip(tmp_path / snapshot_name(10), 4200)

    store = SnapshotStore.open(tmp_path, OWNER)

    assert store.newest is None
    assert store.warnings[0].endswith("; the log from its beginning is used.")


def test_damaged_ones_go_when_two_newer_ones_count(tmp_path):
    admitted(SnapshotStore.open(tmp_path, OWNER), 10, 20)
    flip(tmp_path / snapshot_name(20), 4200)
    store = admitted(SnapshotStore.open(tmp_path, OWNER), 30)
    assert snapshot_name(20) + ".damaged" in names(tmp_path)

    admitted(store, 40)

    assert names(tmp_path) == [snapshot_name(30), snapshot_name(40)]


def test_temporary_files_of_a_killed_process_go_at_the_start(tmp_path):
    admitted(SnapshotStore.open(tmp_path, OWNER), 10)
    (tmp_path / (snapshot_name(20) + ".tmp")).write_bytes(sample(20)[:5000])

    assert SnapshotStore.open(tmp_path, OWNER).newest.index == 10
    assert names(tmp_path) == [snapshot_name(10)]


@pytest.mark.parametrize("change", [{"replica_id": 2}, {"cluster_id": bytes(16)}])
def test_a_foreign_snapshot_is_refused_and_not_touched(tmp_path, change):
    admitted(SnapshotStore.open(tmp_path, OWNER), 10)
    path = put(tmp_path, 20, **change)

    with pytest.raises(ForeignSnapshot, match=f"{path.name} .offset 16. belongs to replica"):
        SnapshotStore.open(tmp_path, OWNER)
    assert names(tmp_path) == [snapshot_name(10), snapshot_name(20)]


def test_a_snapshot_of_a_later_format_is_refused_and_not_touched(tmp_path, monkeypatch):
    admitted(SnapshotStore.open(tmp_path, OWNER), 10)
    with monkeypatch.context() as later:
        later.setattr("leftfold.runtime.snapshotfile.VERSION", 2)
        put(tmp_path, 20)

    with pytest.raises(NewerFormat, match=f"{snapshot_name(20)} has snapshot format 2"):
        SnapshotStore.open(tmp_path, OWNER)
    assert names(tmp_path) == [snapshot_name(10), snapshot_name(20)]


def test_a_directory_that_cannot_be_used_is_a_sentence(tmp_path):
    (tmp_path / "snapshots").write_bytes(b"")

    with pytest.raises(OperatorError, match="Cannot use the snapshots in"):
        SnapshotStore.open(tmp_path / "snapshots", OWNER)


def test_what_does_not_read_back_as_written_does_not_count(tmp_path):
    store = admitted(SnapshotStore.open(tmp_path, OWNER), 10)
    whole = sample(20)
    for content in (whole[:-1], whole[:4300] + b"?" + whole[4301:], sample(21), b""):
        written(store, 20, content)
        with pytest.raises(SnapshotFailed, match="damaged at offset"):
            store.admit(20)
        store.discard(20)
    written(store, 20, sample(20, replica_id=4))
    with pytest.raises(SnapshotFailed, match="belongs to replica 4"):
        store.admit(20)
    store.discard(20)

    assert names(tmp_path) == [snapshot_name(10)]
    assert store.newest.index == 10


@pytest.mark.parametrize("call", ["rename_file", "sync_all"])
def test_a_disk_that_refuses_costs_this_snapshot_only(tmp_path, call):
    def refuse(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    store = admitted(SnapshotStore.open(tmp_path, OWNER), 10)
    written(store, 20)
    store.disk = evolve(store.disk, **{call: refuse})
    with pytest.raises(SnapshotFailed, match="No space left on device"):
        store.admit(20)
    assert store.newest.index == 10
    store.disk = Disk()

    admitted(store, 30)
    assert [one.index for one in store.kept] == [10, 30]


# Power cuts


class PowerFailure(BaseException):
    """The machine is off."""


@define
class Power:
    """A directory's disk that fails before a chosen call, and then forgets what was not synced.

    Of the writes since a file's last sync an arbitrary prefix is left, and of the names that
    changed since the directory's last sync, in their order, an arbitrary prefix too.
    """

    directory: Path
    chance: Random
    calls_left: int = 1 << 30
    calls: list[str] = field(factory=list)
    unsynced: dict[int, tuple[int, int]] = field(factory=dict)
    """By inode: a descriptor of our own, and how much of the file is durable."""
    undo: list = field(factory=list)
    """How to take back each change of names since the last sync, oldest first."""

    def disk(self) -> Disk:
        return Disk(
            self.write, self.sync, self.sync_all, unlink=self.unlink, rename_file=self.rename
        )

    def step(self, name):
        if self.calls_left <= 0:
            raise PowerFailure
        self.calls_left -= 1
        self.calls.append(name)

    def write(self, file, parts, offset):
        self.step("write")
        inode = os.fstat(file).st_ino
        if inode not in self.unsynced:
            self.unsynced[inode] = (os.dup(file), 0)
        return os.pwritev(file, parts, offset)

    def sync(self, file):
        self.step("sync")
        held = self.unsynced.pop(os.fstat(file).st_ino, None)
        if held is not None:
            os.close(held[0])

    def sync_all(self, directory):
        self.step("sync_all")
        self.undo.clear()

    def unlink(self, path):
        self.step("unlink")
        graveyard = self.directory.parent / f"unlinked-{len(self.calls)}"
        os.rename(path, graveyard)
        self.undo.append(lambda: os.rename(graveyard, path))

    def rename(self, old, new):
        self.step("rename")
        beside = self.directory.parent / f"replaced-{len(self.calls)}"
        if os.path.exists(new):
            os.link(new, beside)

        def take_back():
            os.rename(new, old)
            if beside.exists():
                os.rename(beside, new)

        os.rename(old, new)
        self.undo.append(take_back)

    def lose(self):
        for descriptor, durable in self.unsynced.values():
            size = os.fstat(descriptor).st_size
            os.ftruncate(descriptor, self.chance.randint(durable, size))
            os.close(descriptor)
        self.unsynced.clear()
        kept = self.chance.randint(0, len(self.undo))
        for take_back in reversed(self.undo[kept:]):
            take_back()
        self.undo.clear()
        self.calls_left = 1 << 30


def life_of(power, through):
    """Open the store and take snapshots 10, 20, …; those that counted, as they were told."""
    told = []
    try:
        store = SnapshotStore.open(power.directory, OWNER, disk=power.disk())
        for index in range((store.newest.index if store.newest else 0) + 10, through + 1, 10):
            written(store, index)
            store.admit(index)
            told.append((index, store.keep_from))
    except PowerFailure:
        power.lose()
    return told


@pytest.mark.parametrize("lives", [1, 3])
def test_a_crash_at_any_step_leaves_the_one_before_serving(tmp_path, lives):
    """Every call of four snapshots is the last once; what was told to count is there afterwards,
    and so is the one before it."""
    seed = SystemRandom().randrange(1 << 32)
    print("seed", seed)
    directory = tmp_path / "snapshots"
    whole = Power(directory, Random(seed))
    assert [index for index, _ in life_of(whole, 40)] == [10, 20, 30, 40]
    assert {"write", "sync", "rename", "sync_all", "unlink"} <= set(whole.calls)
    for cut in range(len(whole.calls)):
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        power = Power(directory, Random(seed + cut))
        told = []
        for life in range(lives):
            power.calls_left = cut if life == 0 else power.chance.randrange(12)
            told += life_of(power, 40)
            if told:
                newest, keep_from = told[-1]
                found = {index for index, _ in list_snapshots(directory)}
                assert newest in found, f"after {cut} calls"
                # Or a newer one, if the last of its calls was to let the old one go.
                serve = [index for index in found if index >= keep_from - 1]
                assert not keep_from or len(serve) >= 2, f"after {cut} calls"
        store = SnapshotStore.open(directory, OWNER)
        assert store.warnings == [], "a crash damages nothing that has its name"
        assert (store.newest.index if store.newest else 0) >= max(
            (index for index, _ in told), default=0
        )
        for one in store.kept:
            assert list(contents(one.path)) == pieces_of(one.index)
        assert not list(directory.glob("*.tmp"))
