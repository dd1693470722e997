"""The typed API: a sample application passes both type checkers, and every misuse in it fails."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "tests" / "typing"

# Unused ignore comments are errors: so the lines that carry one are errors without it.
MYPY = (
    "[mypy]\nmypy_path = {root}/tools/typing\nexplicit_package_bases = True\nstrict = True\n"
    "warn_unused_ignores = True\n[mypy-leftfold.*]\nignore_errors = True\n"
)
PYRIGHT = (
    '{{"include": ["{samples}"], "extraPaths": ["{root}/tools/typing"], '
    '"typeCheckingMode": "strict", "pythonVersion": "3.11", '
    '"enableTypeIgnoreComments": false, "reportUnnecessaryTypeIgnoreComment": "error"}}'
)


@pytest.fixture(params=["mypy", "basedpyright"])
def checker(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """The command of a type checker with its configuration."""
    binary = str(Path(sys.executable).parent / request.param)
    if request.param == "mypy":
        path = tmp_path / "mypy.ini"
        path.write_text(MYPY.format(root=ROOT))
        cache = str(tmp_path / "cache")
        return [binary, "--config-file", str(path), "--cache-dir", cache]
    path = tmp_path / "pyrightconfig.json"
    path.write_text(PYRIGHT.format(root=ROOT, samples=SAMPLES))
    return [binary, "--project", str(path)]


def test_the_sample_application_has_exactly_the_type_errors_it_announces(
    checker: list[str],
) -> None:
    arguments = [str(SAMPLES)] if "mypy" in checker[0] else []
    done = subprocess.run(
        [*checker, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_sample_application_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import shop, upgraded; shop.in_a_test(); upgraded.in_a_test()"],
        cwd=SAMPLES,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
