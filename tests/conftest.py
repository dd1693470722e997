"""What holds for every test: nothing is imported twice, and on CI only the tests named here may skip."""

import os
import signal
import sys
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

MAY_SKIP_ON_CI = {
    "test_a_power_cut_costs_no_answer": "needs loop devices and the right to mount",
    "test_what_was_only_in_the_page_cache_is_synced_before_it_is_answered": "the same, and strace",
    "test_a_failing_sync_stops_the_replica_for_good_and_loses_nothing": "needs the right to trace",
    "test_a_full_disk_pushes_back_and_loses_nothing": "needs the right to mount",
    "test_an_unwritable_directory_is_named": "root needs an installation that nobody else may read",
    "test_an_unwritable_directory_is_a_sentence": "needs root to become somebody else",
    "test_a_really_full_file_system_loses_nothing_that_was_acknowledged": "needs a mount namespace",
    "test_a_full_file_system_is_a_clean_error_and_leaves_nothing": "needs a mount namespace",
    "test_a_full_disk_leaves_nothing_of_backup_or_restore": "needs the right to mount",
    "test_the_kernel_refuses_a_sync": "needs the right to trace",
    "test_kill_9_at_each_step": "needs the right to trace, and x86-64's numbers of system calls",
    "test_a_power_cut_at_each_step": "the same, loop devices and the right to mount",
    "test_kill_9_at_each_step_of_a_new_segment": "needs the right to trace, as above",
    "test_a_power_cut_at_each_step_of_a_new_segment": "the same, loop devices and the right to mount",
    "test_kill_9_at_each_step_of_a_backup": "needs the right to trace",
    "test_kill_9_at_each_step_of_a_restore": "needs the right to trace",
    "test_a_power_cut_at_each_step_of_both": "the same, loop devices and the right to mount",
    "test_a_disk_that_is_full_in_the_middle_of_a_snapshot_costs_that_snapshot": "mounts",
    "test_a_log_that_finds_no_room_for_its_next_segment_loses_nothing": "needs the right to mount",
    "test_a_start_on_a_full_disk_is_one_sentence_and_nothing_is_lost": "needs the right to mount",
    "test_an_isolated_leader_is_replaced_and_what_it_says_does_not_count": "needs a network namespace",
    "test_an_isolated_follower_costs_nothing_and_does_not_disturb_when_it_is_back": "a network namespace",
    "test_a_one_way_cut": "a network namespace",
    "test_one_packet_in_five_is_lost": "a network namespace",
    "test_a_link_that_comes_and_goes": "a network namespace",
    "test_a_line_on_which_everything_takes_its_time": "a network namespace and a TUN device",
    "test_a_slow_sync_costs_the_leader_its_office_and_a_power_cut_then_nothing": "mounts, traces",
    "test_the_power_of_all_three_goes_at_once": "needs loop devices and the right to mount",
    "test_a_leader_whose_disk_refuses_stops_and_the_others_go_on": "mounts, traces",
    "test_a_leader_whose_disk_is_full_refuses_commands_and_goes_on_when_there_is_room": "mounts",
    "test_a_follower_whose_disk_is_full_is_passed_by_and_catches_up_when_there_is_room": "mounts",
}
"""A machine of CI may lack a privilege; it may not lack a package, which .ci/run installs, nor the data beside it."""


def pytest_configure() -> None:
    """No test fails because the machine is slow. And processes that tests start inherit that Ctrl-C is ignored, as a shell
    has it for a job in the background."""
    settings.register_profile(
        "patient", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("patient")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that skips on CI without being named above has failed."""
    report = yield
    name = item.name.partition("[")[0]
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if skipped and os.environ.get("CI") and name not in MAY_SKIP_ON_CI:
        report.outcome = "failed"
        report.longrepr = f"{name} skipped, and conftest.py does not name it: {report.longrepr}"
    return report


def pytest_sessionfinish() -> None:
    """A folder imported by its bare name would be a second copy of the package."""
    assert not {"runtime", "shm", "actors", "raft", "tools"} & sys.modules.keys()
