"""The journal against a list, over random histories with power failures.

`Power` stands between the journal and the operating system. It can fail before any call; then every
write since the last sync of its file loses an arbitrary set of 64-byte pieces, and a rename whose
directory was not synced is undone. After that the journal must hold what was acknowledged, and of
the batch in flight all or nothing.
"""

import os
import tempfile
from pathlib import Path
from random import Random

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_samples import OWNER, entries, heads

from leftfold.runtime import slots
from leftfold.runtime.journal import Journal
from leftfold.runtime.segments import Disk

SEGMENT_BYTES = 8 * 1024
PIECE_BYTES = 64
MEMORY = Path("/dev/shm")
"""Nothing here is about a real disk, so a file system in memory does, ten times faster."""


class PowerFailure(BaseException):
    """The machine is off."""


@define
class Power:
    """Passes calls on until it fails; remembers what is not durable yet."""

    chance: Random
    calls_left: int | None = None
    unsynced: list[tuple[int, int, bytes, bytes]] = field(factory=list)
    """(a file of our own, offset, bytes before, bytes written)."""
    named: set[str] = field(factory=set)
    """Names of segments that a sync of the directory made durable."""
    files: dict[int, int] = field(factory=dict)
    directory: Path = Path()

    def disk(self) -> Disk:
        return Disk(self.write, self.sync, self.sync_all, self.allocate)

    def step(self) -> None:
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                raise PowerFailure

    def write(self, file, parts, offset):
        self.step()
        content = b"".join(parts)
        before = os.pread(file, len(content), offset)
        inode = os.fstat(file).st_ino
        if inode not in self.files:
            self.files[inode] = os.dup(file)
        self.unsynced.append((inode, offset, before.ljust(len(content), b"\0"), content))
        return os.pwrite(file, content, offset)

    def sync(self, file):
        self.step()
        inode = os.fstat(file).st_ino
        self.unsynced = [lost for lost in self.unsynced if lost[0] != inode]

    def sync_all(self, directory):
        self.step()
        self.named = {path.name for path in self.directory.glob("*.log")}

    def allocate(self, file, offset, size):
        self.step()
        os.posix_fallocate(file, offset, size)

    def lose(self) -> None:
        """What the machine forgets when it goes off."""
        for inode, offset, before, content in reversed(self.unsynced):
            mode = self.chance.choice(["all", "none", "prefix", "pieces"])
            kept = bytearray(before)
            cut = self.chance.randrange(len(content) + 1)
            for at in range(-(offset % PIECE_BYTES), len(content), PIECE_BYTES):
                if mode == "all" or (mode == "pieces" and self.chance.random() < 0.5):
                    piece = slice(max(at, 0), at + PIECE_BYTES)
                    kept[piece] = content[piece]
            if mode == "prefix":
                kept[:cut] = content[:cut]
            os.pwrite(self.files[inode], kept, offset)
        self.unsynced.clear()
        for path in self.directory.glob("*.log"):
            if path.name not in self.named and self.chance.random() < 0.5:
                path.rename(self.directory / "spare.tmp")
        self.named = {path.name for path in self.directory.glob("*.log")}
        self.calls_left = None

    def close(self) -> None:
        for file in self.files.values():
            os.close(file)
        self.files.clear()


@define
class Model:
    """The dumb list: (index, term) by position, and the hard state."""

    log: list[tuple[int, int]] = field(factory=list)
    hard_state: tuple[int, int, int] = (0, 0, 0)

    def copy(self) -> "Model":
        return Model(list(self.log), self.hard_state)

    def batch(self, overwrite: int, count: int, body_bytes: int, commit: bool, explicit: bool):
        """Change the list, and give the run that changes a journal alike."""
        term, voted_for, committed = self.hard_state
        keep = max(committed, len(self.log) - overwrite)
        run = b""
        if keep < len(self.log):
            term += 1
            if explicit:
                run += slots.pack_truncate(keep + 1)
        term = max(term, 1)
        if explicit or count:
            del self.log[keep:]
        first = len(self.log) + 1
        self.log += [(index, term) for index in range(first, first + count)]
        run += entries(first, first + count - 1, term, body_bytes)
        if commit:
            committed = max(committed, len(self.log) - 2)
        self.hard_state = (term, voted_for + 1, committed)
        return run + slots.pack_hard_state(*self.hard_state)


def holds(journal: Journal, model: Model) -> bool:
    found = journal.recovered
    if (found.term, found.voted_for, found.commit) != model.hard_state:
        return False
    if (found.first, found.last) != (1, len(model.log)):
        return False
    boundaries = [
        pair for at, pair in enumerate(model.log) if at == 0 or model.log[at - 1][1] != pair[1]
    ]
    assert list(found.boundaries) == boundaries
    assert found.last_time_ns == (model.log[-1][0] * 1000 + model.log[-1][1] if model.log else 0)
    return heads(journal.read(1, found.last, 1 << 30)) == model.log


def test_the_model_can_tell(tmp_path):
    """The comparison itself fails for a journal that lacks an entry."""
    journal = Journal.open(tmp_path, OWNER, segment_bytes=SEGMENT_BYTES)
    model = Model()
    journal.write(model.batch(0, 3, 8, False, False))
    journal.sync()

    assert holds(journal, model)
    model.log.append((4, 1))
    assert not holds(journal, model)
    journal.close()


batches = st.tuples(
    st.just("batch"),
    st.sampled_from([0, 0, 0, 1, 3, 50]),
    st.integers(0, 12),
    st.sampled_from([0, 13, 400]),
    st.booleans(),
    st.booleans(),
)
others = st.sampled_from([("close",), ("kill",), ("idle",), ("read",)])
failures = st.tuples(st.just("failure"), st.integers(0, 12))


@settings(max_examples=250, deadline=None)
@given(st.lists(st.one_of(batches, batches, batches, others, failures), max_size=40), st.integers())
def test_the_journal_is_a_list_that_survives_power_failures(steps, seed):
    """All that was acknowledged, and of the batch in flight all or nothing."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:
        power = Power(Random(seed), directory=Path(directory, "journal"))
        try:
            run_history(power, steps)
        finally:
            power.close()


def run_history(power: Power, steps) -> None:
    model, inflight = Model(), None

    def reopen() -> Journal:
        return Journal.open(power.directory, OWNER, segment_bytes=SEGMENT_BYTES, disk=power.disk())

    journal = reopen()
    for step in steps:
        try:
            match step:
                case ("batch", *how):
                    inflight = model.copy()
                    journal.write(inflight.batch(*how))
                    journal.sync()
                    model, inflight = inflight, None
                case ("close",):
                    journal.close()
                    journal = reopen()
                case ("kill",):
                    journal.abandon()
                    journal = reopen()
                case ("idle",):
                    while journal.prepare():
                        pass
                case ("read",):
                    first = power.chance.randrange(1, len(model.log) + 2)
                    run = journal.read(first, len(model.log), power.chance.choice([0, 500, 5000]))
                    assert heads(run) == model.log[first - 1 :][: len(heads(run))]
                    assert len(heads(run)) == 0 if first > len(model.log) else heads(run)
                case ("failure", calls):
                    power.calls_left = calls
                    continue
            if power.calls_left is None or step[0] in ("close", "kill"):
                assert holds(journal, model), step
        except PowerFailure:
            journal.abandon()
            power.lose()
            journal, model = restart(power, reopen, model, inflight)
            inflight = None
    power.calls_left = None
    journal.abandon()
    journal = reopen()
    assert holds(journal, model)
    journal.close()


def restart(power: Power, reopen, model: Model, inflight: Model | None):
    """Start after a failure; often fail again while starting."""
    while power.chance.random() < 0.5:
        power.calls_left = power.chance.randrange(8)
        try:
            reopen().abandon()
        except PowerFailure:
            power.lose()
        power.calls_left = None
        power.unsynced.clear()
    journal = reopen()
    if inflight is not None and holds(journal, inflight):
        return journal, inflight
    assert holds(journal, model), "an acknowledged batch is gone, or half of one is there"
    return journal, model
