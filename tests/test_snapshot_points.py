"""When a snapshot is due: by the length of the log, by command, at the end; and never two at a time."""

from leftfold.runtime import slots
from leftfold.runtime.snapshot_points import SnapshotPoints


def taken(points: SnapshotPoints, index: int, reason: int = slots.BY_SCHEDULE) -> None:
    points.begun(slots.TakeSnapshot(index, 1, reason), now_ns=0)


def verified(points: SnapshotPoints, index: int, file_bytes: int = 10, keep_from: int = 0):
    return points.ended(slots.SnapshotState(index, file_bytes, keep_from))


def test_one_is_due_when_the_log_behind_the_last_is_long_enough() -> None:
    points = SnapshotPoints(log_bytes=1000)

    points.gave(999)
    assert points.due() is None
    points.gave(1)
    assert points.due() == slots.BY_SCHEDULE
    taken(points, 7)
    points.gave(400)
    assert verified(points, 7) == slots.TakeSnapshot(7, 1, slots.BY_SCHEDULE)

    assert points.taken == 7
    points.gave(599)
    assert points.due() is None, "counted from the point, not from its end"
    points.gave(1)
    assert points.due() == slots.BY_SCHEDULE


def test_the_leader_of_others_takes_its_own_later() -> None:
    points = SnapshotPoints(log_bytes=1000)

    points.gave(1499)
    assert points.due() == slots.BY_SCHEDULE
    assert points.due(share=1.5) is None
    points.gave(1)
    assert points.due(share=1.5) == slots.BY_SCHEDULE


def test_a_large_state_is_not_written_more_often_than_as_much_log() -> None:
    points = SnapshotPoints(log_bytes=1000)
    taken(points, 7)
    verified(points, 7, file_bytes=5000)

    points.gave(4999)
    assert points.due() is None
    points.gave(1)
    assert points.due() == slots.BY_SCHEDULE


def test_two_are_never_written_at_a_time_and_a_wish_is_kept() -> None:
    points = SnapshotPoints(log_bytes=1000)
    taken(points, 7)

    points.want(slots.AT_STOP)
    points.gave(5000)

    assert points.due() is None
    assert points.busy
    verified(points, 7)
    assert points.due() == slots.AT_STOP
    taken(points, 9, slots.AT_STOP)
    verified(points, 9)
    assert not points.busy


def test_one_that_failed_counts_for_nothing_and_is_not_tried_at_once() -> None:
    points = SnapshotPoints(log_bytes=1000, taken=5)
    points.gave(1000)
    taken(points, 7)

    asked = points.ended(slots.SnapshotState(7, 0, 0, "it does not encode", slots.NOT_TAKEN))

    assert asked is not None
    assert (points.taken, points.keep_from, points.busy) == (5, 0, False)
    assert points.due() is None
    points.gave(1000)
    assert points.due() == slots.BY_SCHEDULE


def test_the_end_of_a_snapshot_that_nobody_asked_for_changes_nothing() -> None:
    """A late word about one that was given up."""
    points = SnapshotPoints(log_bytes=1000)
    assert verified(points, 7) is None
    taken(points, 9)

    assert verified(points, 7) is None

    assert points.taken == 0 and points.busy


def test_what_is_kept_is_the_journals_to_say_and_never_goes_back() -> None:
    points = SnapshotPoints(log_bytes=1000)
    taken(points, 7)
    verified(points, 7, keep_from=0)
    assert points.keep_from == 0
    taken(points, 9)
    verified(points, 9, keep_from=8)

    assert points.keep_from == 8
