"""Each broken rule of raft/ is noticed; raft_mutants.py does the work, and this keeps it honest."""

import subprocess
import sys
from pathlib import Path

import pytest
from raft_mutants import MUTANTS, RAFT, Mutant, quick_tests

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_every_mutation_still_finds_its_line(mutant: Mutant) -> None:
    source = (RAFT / mutant.file).read_text()

    assert source.count(mutant.old) == 1
    assert mutant.old != mutant.new
    compile(source.replace(mutant.old, mutant.new), mutant.file, "exec")


def test_there_are_enough_of_them_and_no_two_are_one() -> None:
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in MUTANTS}) == len(MUTANTS) >= 20


def test_a_package_that_does_not_start_counts_as_caught(tmp_path: Path) -> None:
    (tmp_path / "leftfold" / "raft").mkdir(parents=True)
    (tmp_path / "leftfold" / "raft" / "__init__.py").write_text("raise ImportError\n")

    assert quick_tests(tmp_path)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_every_mutant_is_caught() -> None:
    command = [sys.executable, "-m", "tests.raft_mutants", "--seeds", "100"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    print(run.stdout)
    assert run.returncode == 0, run.stdout + run.stderr
