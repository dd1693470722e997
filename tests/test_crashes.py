"""Commands that end the logic process are counted, and park the replica."""

from pathlib import Path

import pytest

from leftfold.runtime import crashes
from leftfold.runtime.errors import OperatorError

PLACE = {"index": 12, "ordinal": 3, "message": 201}


def test_three_deaths_at_one_place_park_the_replica(tmp_path: Path) -> None:
    """The sentence names the place and both remedies; the next start is refused with it."""
    assert crashes.count(tmp_path, PLACE) is None
    assert crashes.count(tmp_path, PLACE) is None
    sentence = crashes.count(tmp_path, PLACE)

    assert sentence is not None
    assert "12.3" in sentence and "--skip 12.3" in sentence and "--retry" in sentence
    with pytest.raises(OperatorError, match=r"12\.3"):
        crashes.refuse_if_parked(tmp_path)


def test_deaths_at_different_places_do_not_add_up(tmp_path: Path) -> None:
    """A replica killed here and there is not parked."""
    for index in range(6):
        assert crashes.count(tmp_path, PLACE | {"index": index}) is None


def test_a_replay_that_gets_past_the_place_clears_the_count(tmp_path: Path) -> None:
    """What passed in replay is not poisonous."""
    crashes.count(tmp_path, PLACE)
    crashes.count(tmp_path, PLACE)
    crashes.note_ready(tmp_path)

    assert crashes.count(tmp_path, PLACE) is None
