"""Temporary directories whose owner was killed with -9 are removed by the next of their kind, and by nobody else."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from replica import DEADLINE_S, leavings

from leftfold.runtime.identity import lock_directory
from leftfold.runtime.topology import segment_prefix
from leftfold.shm import Segment
from leftfold.tools.scratch import scratch

OWNER = """
import sys, time
from leftfold.tools.scratch import scratch
with scratch("kind") as path:
    print(path, flush=True)
    time.sleep(3600)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def begin_replica(directory: Path) -> None:
    """What is there of a replica that was killed while it started."""
    directory.mkdir()
    (directory / "identity.json").write_text("{}")
    Segment.create(f"/{segment_prefix(directory)}1-ingress", 4096, 1).close()
    assert leavings(directory) != []


def test_it_is_gone_at_the_end_also_after_an_exception(temporary: Path) -> None:
    with pytest.raises(KeyboardInterrupt), scratch("kind") as path:
        assert path.parent == temporary
        begin_replica(path / "replica")
        raise KeyboardInterrupt

    assert list(temporary.iterdir()) == []
    assert leavings(path / "replica") == []


def test_what_a_killed_owner_left_is_removed_by_the_next_and_a_living_ones_is_not(
    temporary: Path,
) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert owner.stdout is not None
    left = Path(owner.stdout.readline().strip())
    begin_replica(left / "replica")
    (temporary / "kind-of-a-file").write_text("not ours")
    with scratch("kind"), scratch("kind"):
        assert left.exists(), "its owner lives"
    owner.send_signal(signal.SIGKILL)
    owner.wait(DEADLINE_S)
    owner.stdout.close()

    running = lock_directory(left / "replica")
    with scratch("kind"):
        assert left.exists(), "a replica in it lives"
    os.close(running)
    with scratch("other"):
        assert left.exists(), "it is of another kind"
    with scratch("kind") as path:
        assert not left.exists()
        assert path.exists()

    assert leavings(left / "replica") == []
    assert [one.name for one in temporary.iterdir()] == ["kind-of-a-file"]
