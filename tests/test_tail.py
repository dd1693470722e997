"""The contract on builds: which entries this build of the app may replay."""

import pytest

from leftfold.runtime.errors import OperatorError
from leftfold.runtime.tail import Tail


def test_entries_of_this_build_and_of_no_known_one_fit() -> None:
    """A log from before builds were recorded says nothing, and no snapshot neither."""
    tail = Tail("new", "", 9, accept=False)
    assert tail.fits
    tail.open_term("new")
    assert tail.fits
    tail.open_term("")
    assert tail.fits


def test_entries_right_behind_a_snapshot_have_its_build() -> None:
    assert Tail("new", "new", 9, accept=False).fits
    assert not Tail("new", "old", 9, accept=False).fits


def test_another_build_is_refused_with_both_names_the_indexes_and_what_to_do() -> None:
    tail = Tail("new", "", 9, accept=False)
    tail.open_term("old")
    assert not tail.fits

    with pytest.raises(OperatorError) as refused:
        tail.judge(4)

    sentence = str(refused.value)
    for part in ("Entries 4 to 9", "build old", "build new", "--accept-build", "leftfold diff"):
        assert part in sentence
    assert "stop it cleanly" in sentence


def test_what_is_accepted_is_said_once() -> None:
    tail = Tail("new", "", 9, accept=True)
    tail.open_term("old")

    warning = tail.judge(4)

    assert "Entries 4 to 9" in warning and "old" in warning and "as accepted" in warning
    assert tail.judge(5) == ""
