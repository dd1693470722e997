"""The list of tests that may skip on CI names tests that exist."""

import ast
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
