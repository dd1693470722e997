"""Segments: names, generations, what cannot be attached, and what is left behind."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import posix_ipc
import pytest

from leftfold.shm import (
    LayoutMismatch,
    Segment,
    SegmentExists,
    SegmentMissing,
    create_semaphore,
    leftovers,
    remove_leftovers,
)


@pytest.fixture
def name() -> Iterator[str]:
    """Give a name that this test alone uses, and remove what is left under it."""
    prefix = f"/leftfold-test-{os.getpid()}-{os.urandom(4).hex()}"
    yield prefix
    remove_leftovers(prefix)


def damage(name: str, offset: int, content: bytes) -> None:
    with open(f"/dev/shm{name}", "r+b") as file:
        file.seek(offset)
        file.write(content)


def test_what_one_mapping_writes_another_reads(name: str) -> None:
    with Segment.create(name, 8192, 7) as first, Segment.attach(name, 7) as second:
        assert bytes(first.memory) == bytes(8192)
        first.memory[8000:8005] = b"bytes"
        assert bytes(second.memory[8000:8005]) == b"bytes"
        assert (second.size, second.generation) == (8192, 7)


def test_an_unlinked_segment_lives_until_it_is_closed(name: str) -> None:
    with Segment.create(name, 64) as first, Segment.attach(name) as second:
        first.unlink()
        first.unlink()
        first.memory[0] = 9
        assert second.memory[0] == 9
        with pytest.raises(SegmentMissing):
            Segment.attach(name)


def test_a_name_is_created_once(name: str) -> None:
    with Segment.create(name, 64), pytest.raises(SegmentExists):
        Segment.create(name, 64)


def test_a_segment_of_another_generation_is_refused(name: str) -> None:
    with Segment.create(name, 64, 3), pytest.raises(LayoutMismatch, match="generation 3, not 4"):
        Segment.attach(name, 4)


@pytest.mark.parametrize("offset", [0, 8, 16], ids=["magic", "layout", "size"])
def test_a_segment_of_another_layout_is_refused(name: str, offset: int) -> None:
    with Segment.create(name, 64):
        damage(name, offset, b"\xff")
        with pytest.raises(LayoutMismatch, match="another build"):
            Segment.attach(name)


def test_a_segment_that_was_cut_is_refused(name: str) -> None:
    with Segment.create(name, 8192):
        os.truncate(f"/dev/shm{name}", 5000)
        with pytest.raises(LayoutMismatch):
            Segment.attach(name)


def test_a_segment_whose_creator_died_before_it_was_ready_is_missing(name: str) -> None:
    posix_ipc.SharedMemory(name, posix_ipc.O_CREX).close_fd()
    with pytest.raises(SegmentMissing, match="never finished"):
        Segment.attach(name)
    os.truncate(f"/dev/shm{name}", 8192)
    with pytest.raises(SegmentMissing, match="never finished"):
        Segment.attach(name)


def test_a_segment_cannot_be_closed_under_a_view_of_it(name: str) -> None:
    segment = Segment.create(name, 64)
    view = segment.memory[:8]

    with pytest.raises(BufferError):
        segment.close()
    view[0] = 1
    view.release()
    segment.close()


def test_leftovers_are_named_by_prefix_and_removed(name: str) -> None:
    Segment.create(f"{name}-a", 64).close()
    Segment.create(f"{name}-b", 64).close()
    create_semaphore(f"{name}-c")
    create_semaphore(f"{name}x")

    assert leftovers(f"{name}-") == [f"{name}-a", f"{name}-b", f"sem.{name}-c"]
    assert remove_leftovers(f"{name}-") == [f"{name}-a", f"{name}-b", f"sem.{name}-c"]
    assert leftovers(name) == [f"sem.{name}x"]


def test_a_semaphore_is_created_once(name: str) -> None:
    create_semaphore(name)
    with pytest.raises(SegmentExists):
        create_semaphore(name)


FILL = """
import sys
from leftfold.shm import Segment, SegmentFull, leftovers
try:
    Segment.create("/leftfold-full", 4 << 20)
except SegmentFull as error:
    print(error)
    sys.exit(0 if not leftovers("/leftfold-full") else 1)
sys.exit(2)
"""


def test_a_full_file_system_is_a_clean_error_and_leaves_nothing() -> None:
    """A tmpfs of 1 MiB is /dev/shm, in a mount namespace of its own."""
    unshare = shutil.which("unshare")
    probe = [unshare or "unshare", "-m", "mount", "-t", "tmpfs", "none", "/dev/shm"]
    with contextlib.suppress(FileNotFoundError):
        if subprocess.run(probe, check=False, capture_output=True).returncode == 0:
            mount = "mount -t tmpfs -o size=1m none /dev/shm"
            found = subprocess.run(
                [*probe[:2], "sh", "-c", f'{mount} && exec "$0" -c "$1"', sys.executable, FILL],
                check=False,
                capture_output=True,
                text=True,
            )

            assert found.returncode == 0, found.stderr
            assert "no room for" in found.stdout
            return
    pytest.skip("this user may not make a mount namespace")
