"""The fold depends on the log and the snapshot alone: not on the process, its hashes or its clock."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sample_bank

import leftfold.actors

BANNED = {
    "asyncio", "datetime", "io", "locale", "logging", "multiprocessing", "os", "pathlib", "random",
    "secrets", "selectors", "signal", "socket", "subprocess", "tempfile", "threading", "time",
    "weakref",
}  # fmt: skip
# What these files may import all the same, and why.
ALLOWED = {("context.py", "random")}  # Random is seeded from the position.


def folded_under(hash_seed: str, log_seed: int) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, sample_bank.__file__, str(log_seed)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("log_seed", [1, 2])
def test_the_same_log_gives_the_same_digests_under_other_hash_seeds(log_seed: int) -> None:
    digests = {folded_under(hash_seed, log_seed) for hash_seed in ("0", "1", "random")}

    assert len(digests) == 1 and int(digests.pop().split()[2]) > 0


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").split(".")[0])
    return found


def test_the_actors_import_no_clock_no_io_and_no_threads() -> None:
    """I3."""
    files = [Path(p) for d in leftfold.actors.__path__ for p in Path(d).glob("*.py")]
    bad = {(path.name, name) for path in files for name in imports_of(path) & BANNED}

    assert len(files) > 15 and bad <= ALLOWED
