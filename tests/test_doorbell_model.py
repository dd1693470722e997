"""The models of sleeping and waking, and of each a mutant for every barrier, which must fail.

The models are tests/models/*.pml; `apt install spin` (and gcc) runs them.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

MODELS = Path(__file__).parent / "models"
MUTANTS = {
    "doorbell": [
        "NO_WAKER_BARRIER",
        "NO_SLEEPER_BARRIER",
        "NO_SECOND_LOOK",
        "DRAIN_AFTER_FLAG",
    ],
    "space": [
        "NO_TAIL_BARRIER",
        "NO_HEAD_BARRIER",
        "NO_PRODUCER_FLAG_BARRIER",
        "NO_CONSUMER_FLAG_BARRIER",
        "WAITS_SET_AFTER_LOOK",
    ],
}

pytestmark = pytest.mark.skipif(shutil.which("spin") is None, reason="spin is not installed")


def check(model: str, directory: Path, *options: str) -> str:
    return subprocess.run(
        ["spin", *options, "-run", "-safety", str(MODELS / f"{model}.pml")],
        check=True,
        cwd=directory,
        capture_output=True,
        text=True,
    ).stdout


@pytest.mark.parametrize("model", MUTANTS)
def test_no_order_of_steps_loses_a_wake_up(model: str, tmp_path: Path) -> None:
    output = check(model, tmp_path)

    assert "errors: 0" in output
    assert "Search not completed" not in output


@pytest.mark.parametrize(
    ("model", "mutant"), [(model, mutant) for model in MUTANTS for mutant in MUTANTS[model]]
)
def test_a_step_that_is_taken_away_loses_a_wake_up(model: str, mutant: str, tmp_path: Path) -> None:
    comment, _, steps = (MODELS / f"{model}.pml").read_text().partition("*/")
    assert mutant in comment
    assert mutant in steps

    assert "invalid end state" in check(model, tmp_path, f"-D{mutant}").partition("errors: 1")[0]
