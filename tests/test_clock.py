"""Log time: never back, jumps only at the start of a term, and never far ahead by accident."""

import pytest

from leftfold.runtime.clock import Clock, LogTime
from leftfold.runtime.errors import OperatorError

DAY_NS = 86_400 * 10**9
YEAR_NS = 365 * DAY_NS


def test_a_wall_clock_set_back_a_year_does_not_turn_log_time_back() -> None:
    """The new term starts at the log's last time."""
    clock = Clock()
    last_ns = clock.wall_ns()

    log_time = LogTime.start_term(
        Clock(wall_offset_ns=-YEAR_NS), last_ns, 30 * DAY_NS, accept_step=False
    )

    assert log_time.base_log_ns == last_ns
    assert log_time.at(log_time.base_monotonic_ns + 5) == last_ns + 5


def test_a_wall_clock_set_forward_a_year_is_refused_by_name() -> None:
    """Otherwise one wrong clock would leave the log a year ahead for good."""
    last_ns = Clock().wall_ns()
    ahead = Clock(wall_offset_ns=YEAR_NS)

    with pytest.raises(OperatorError, match=r"365 days ahead.*--accept-clock-step"):
        LogTime.start_term(ahead, last_ns, 30 * DAY_NS, accept_step=False)

    assert LogTime.start_term(ahead, last_ns, 30 * DAY_NS, accept_step=True).base_log_ns > last_ns


def test_an_empty_log_takes_the_wall_clock_as_it_is() -> None:
    """There is nothing to be ahead of."""
    log_time = LogTime.start_term(Clock(), 0, 1, accept_step=False)

    assert log_time.base_log_ns > YEAR_NS


def test_log_time_does_not_go_back_with_a_monotonic_reading_from_before_the_term() -> None:
    """A reading taken before the term began counts as its beginning."""
    log_time = LogTime(base_log_ns=1000, base_monotonic_ns=50)

    assert log_time.at(40) == 1000


def test_a_log_time_is_reached_at_one_reading_of_the_monotonic_clock() -> None:
    log_time = LogTime(base_log_ns=1000, base_monotonic_ns=50)
    due_ns = log_time.reached_at(1007)

    assert log_time.at(due_ns) == 1007
    assert log_time.at(due_ns - 1) < 1007
