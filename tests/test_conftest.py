"""What conftest.py promises: the list of tests that may skip on CI names tests that exist, and Ctrl-C is heeded."""

import ast
import signal
import subprocess
import sys
from pathlib import Path

from conftest import MAY_SKIP_ON_CI

HERE = Path(__file__).parent


def test_every_test_that_may_skip_on_ci_exists() -> None:
    """A name that was left behind by a renamed test would let nothing skip, and look as if it did."""
    names = {
        node.name
        for path in HERE.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }

    assert set(MAY_SKIP_ON_CI) - names == set()


def test_ctrl_c_is_heeded_by_what_a_test_starts() -> None:
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


def test_a_suite_in_the_background_of_a_shell_heeds_ctrl_c_as_well() -> None:
    """A shell has Ctrl-C ignored there, and processes inherit that."""
    inner = f"{HERE}/test_conftest.py::{test_ctrl_c_is_heeded_by_what_a_test_starts.__name__}"
    ended = subprocess.run(
        [
            *("/bin/sh", "-c", "trap '' INT; exec \"$@\"", "sh"),
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", inner),
        ],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert ended.returncode == 0, ended.stdout
