"""Random histories of a one-thread cluster; raft_cluster.py checks safety after every step.

A failure prints the command that replays it. raft_campaign.py is the same for thousands of seeds.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from raft_campaign import NEEDED, STEPS, campaign
from raft_chaos import Chaos

LONG = 4_000


@pytest.mark.parametrize("seed", range(1, 13))
def test_no_long_history_breaks_safety_and_a_healed_cluster_agrees(seed: int) -> None:
    _, failures = campaign(seed, 1, LONG)

    assert not failures, failures[0]


def test_no_short_history_does_and_together_they_had_everything_in_them() -> None:
    """Without the counts this could pass by never electing, restoring or truncating."""
    counts, failures = campaign(10_000, 150, STEPS)

    assert not failures, "\n".join(failures)
    assert all(counts[name] for name in NEEDED), counts


def test_what_memory_lets_go_of_while_a_peer_is_fed_in_bulk_is_asked_of_the_journal_at_once() -> (
    None
):
    """The end of the log left memory behind the decision how to send it: a second `Ready` had more."""
    for seed in (286, 337, 405):
        _, failures = campaign(seed, 1, STEPS)
        assert not failures, failures[0]


@pytest.mark.campaign
@pytest.mark.timeout(1800)
def test_no_history_of_thousands_does() -> None:
    counts, failures = campaign(100_000, 5_000, STEPS)

    print(dict(counts))
    assert not failures, "\n".join(failures)
    assert all(counts[name] for name in NEEDED), counts


def test_the_same_seed_gives_the_same_history() -> None:
    def history() -> list[str]:
        lines: list[str] = []
        chaos = Chaos(7)
        chaos.cluster.trace = lines.append
        chaos.run(LONG)
        return lines

    first = history()

    assert len(first) > 100
    assert first == history()


def test_the_histories_reach_what_they_are_meant_to_test() -> None:
    """What no count says: the words of the trace, over some seeds."""
    wanted = {
        "remove from",
        "cannot follow",
        "may answer",
        "bulk append",
        "refused",
        "nothing else stays",
        "campaign now",
        "repairing",
        "finds snapshot",
        "joining",
        " and ",
    }
    seen: set[str] = set()
    for seed in range(1, 400):
        lines: list[str] = []
        chaos = Chaos(seed)
        chaos.cluster.trace = lines.append
        chaos.run(STEPS)
        text = "\n".join(lines)
        seen |= {word for word in wanted if word in text}
        if seen == wanted:
            break

    assert seen == wanted


def test_a_campaign_that_lacks_something_fails_and_says_what() -> None:
    """One short history cannot have had everything."""
    command = [sys.executable, "-m", "tests.raft_campaign", "--seeds", "1", "--steps", "1"]
    run = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )

    assert run.returncode == 1
    assert "installed snapshots" in run.stdout
