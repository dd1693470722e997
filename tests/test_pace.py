"""How fast something goes, and how long it will still take."""

import pytest

from leftfold.runtime import pace
from leftfold.runtime.pace import Pace


def test_the_rate_counts_from_the_first_report(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    found = Pace()

    assert found.facts(500, 1000) == {"rate": 0.0, "left_s": None}
    now[0] += 2.0
    assert found.facts(700, 1000) == {"rate": 100.0, "left_s": 3.0}
    assert found.facts(700, 0)["left_s"] is None, "nobody knows how much there is"


def test_what_begins_again_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    found = Pace()
    found.facts(500, 1000)
    now[0] += 1.0

    assert found.facts(100, 1000) == {"rate": 0.0, "left_s": None}
    now[0] += 1.0
    assert found.facts(200, 1000)["rate"] == 100.0
