"""Who a replica is, and that only one lives in a directory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from leftfold.runtime.errors import (
    DirectoryInUse,
    LostJournal,
    NewerFormat,
    NotAReplica,
    OperatorError,
)
from leftfold.runtime.identity import (
    load_identity,
    lock_directory,
    mark_begun,
    new_identity,
    open_identity,
    refuse_lost_journal,
)


def test_a_new_directory_becomes_a_replica_and_stays_the_same_one(tmp_path):
    directory = tmp_path / "some" / "replica"

    first = open_identity(directory, "bank:app")

    assert open_identity(directory, "bank:app") == first == load_identity(directory)
    assert len(first.cluster_id) == 16
    assert first.app == "bank:app"
    assert sorted(path.name for path in directory.iterdir()) == ["identity.json"]


def test_two_replicas_never_share_a_cluster_id_by_chance(tmp_path):
    one, other = (open_identity(tmp_path / name, "bank:app") for name in "ab")

    assert one.cluster_id != other.cluster_id


def test_a_given_identity_is_kept_with_its_limits(tmp_path):
    given = new_identity("bank:app", replica_id=3, cluster_id=b"x" * 16, limits={"window": 64})

    assert open_identity(tmp_path / "r", "bank:app", given) == given
    assert load_identity(tmp_path / "r").limits == {"window": 64}


def test_a_directory_that_is_something_else_is_not_touched(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"")

    with pytest.raises(NotAReplica, match=r"holiday\.jpg"):
        open_identity(tmp_path, "bank:app")
    with pytest.raises(NotAReplica, match="leftfold run"):
        load_identity(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_a_replica_without_its_identity_gets_no_new_one(tmp_path):
    (tmp_path / "journal").mkdir()

    with pytest.raises(NotAReplica, match="lost its identity"):
        open_identity(tmp_path, "bank:app")


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"format": 1}', '{"format": "x"}'])
def test_an_identity_that_does_not_decode_is_refused(tmp_path, text):
    (tmp_path / "identity.json").write_text(text)

    with pytest.raises(NotAReplica, match=r"identity\.json"):
        open_identity(tmp_path, "bank:app")


def test_an_identity_of_a_later_format_is_refused_as_such(tmp_path):
    open_identity(tmp_path, "bank:app")
    path = tmp_path / "identity.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))

    with pytest.raises(NewerFormat, match="99"):
        open_identity(tmp_path, "bank:app")


def test_a_file_in_place_of_the_directory_is_a_sentence(tmp_path):
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(OperatorError, match="Choose a directory"):
        open_identity(tmp_path / "file", "bank:app")
    with pytest.raises(OperatorError, match="Choose a directory"):
        lock_directory(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone who may not write")
def test_an_unwritable_directory_is_a_sentence(tmp_path):
    """In a process of its own that gives up root."""
    script = (
        "import os, pathlib, sys\n"
        "from leftfold.runtime.identity import open_identity\n"
        "from leftfold.runtime.errors import OperatorError\n"
        "os.setuid(65534)\n"
        "try:\n"
        "    open_identity(pathlib.Path(sys.argv[1]), 'bank:app')\n"
        "except OperatorError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "replica")],
        capture_output=True,
        text=True,
        check=True,
    )

    assert "Permission denied" in done.stdout
    assert "Choose a directory that this user can read and write." in done.stdout


def test_a_locked_directory_names_who_holds_it(tmp_path):
    held = lock_directory(tmp_path)

    with pytest.raises(DirectoryInUse, match=f"in use by pid {os.getpid()}"):
        lock_directory(tmp_path, wait_s=0)
    os.close(held)
    os.close(lock_directory(tmp_path, wait_s=0))


@pytest.mark.xdist_group("serial")
def test_the_lock_lives_as_long_as_any_child_that_has_it(tmp_path):
    """The supervisor dies, a child lives: nobody else may start."""
    held = lock_directory(tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        pass_fds=[held],
    )
    os.close(held)

    with pytest.raises(DirectoryInUse):
        lock_directory(tmp_path, wait_s=0.05)
    child.communicate()
    os.close(lock_directory(tmp_path, wait_s=0))


@pytest.mark.xdist_group("serial")
def test_a_start_waits_for_a_predecessor_that_is_about_to_end(tmp_path):
    """The predecessor goes while we wait: the lock is had without an error."""
    held = lock_directory(tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.readline()"],
        stdin=subprocess.PIPE,
        pass_fds=[held],
    )
    os.close(held)
    assert child.stdin is not None
    child.stdin.close()

    mine = lock_directory(tmp_path, wait_s=60)

    assert Path(f"/proc/self/fd/{mine}").exists()
    assert os.get_inheritable(mine)
    os.close(mine)
    child.wait()


def test_a_replica_that_had_a_journal_does_not_start_without_it(tmp_path):
    """Its votes were in it. One that never had any begins."""
    open_identity(tmp_path, "bank:app")
    refuse_lost_journal(tmp_path, 0)

    mark_begun(tmp_path)
    mark_begun(tmp_path)

    refuse_lost_journal(tmp_path, 1)
    with pytest.raises(LostJournal, match="term and vote are lost"):
        refuse_lost_journal(tmp_path, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun", "identity.json"]
