"""The fold's C under the address and undefined-behaviour sanitizers, driven by the tests of the fold.

The extension is compiled anew with the sanitizers and takes the place of the installed one in a
process of its own, in which Python takes its memory from malloc, so that the sanitizer sees each
object's bounds. That process runs the tests that drive the fold hardest.
"""

import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "tests"
FLAGS = ["-std=gnu11", "-O1", "-g", "-fno-omit-frame-pointer", "-Wall", "-Wextra", "-Werror"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

# Before anything imports the package, so that all of it finds this module.
RUN = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("leftfold.actors._fold", sys.argv[1])
module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
import pytest
raise SystemExit(pytest.main(sys.argv[2:]))
"""


def sources() -> list[Path]:
    """The C files that pyproject.toml names for the extension."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (found,) = (
        extension["sources"]
        for extension in project["tool"]["setuptools"]["ext-modules"]
        if extension["name"] == "leftfold.actors._fold"
    )
    return [ROOT / source for source in found]


def library(name: str) -> str:
    found = subprocess.run(
        ["cc", f"-print-file-name={name}"], check=True, capture_output=True, text=True
    )
    return found.stdout.strip()


def compile_fold(directory: Path, sources: list[Path]) -> Path:
    module = directory / "_fold.so"
    include = sysconfig.get_path("include")
    command = ["cc", "-shared", "-fPIC", *FLAGS, *SANITIZE, "-DPy_LIMITED_API=0x030B0000"]
    built = subprocess.run(
        [*command, f"-I{include}", f"-I{ROOT / 'actors'}", *map(str, sources), "-o", str(module)],
        check=False,
        capture_output=True,
        text=True,
    )
    if built.returncode and "cannot find" in built.stderr and "san" in built.stderr:
        pytest.skip("this compiler has no address sanitizer")
    assert built.returncode == 0, built.stderr
    return module


def run_tests(module: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    preload = " ".join(library(name) for name in ("libasan.so", "libubsan.so"))
    environment = {
        **os.environ,
        "LD_PRELOAD": preload,
        "PYTHONMALLOC": "malloc",
        # The interpreter itself leaves memory to the end of the process.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    program = module.parent / "run.py"
    program.write_text(RUN)
    options = ["-q", "-s", "-p", "no:xdist", "-p", "no:cacheprovider", "-o", "timeout=0"]
    return subprocess.run(
        [sys.executable, str(program), str(module), *options, *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )


def test_the_fold_reports_nothing(tmp_path: Path) -> None:
    module = compile_fold(tmp_path, sources())
    names = ("test_fold", "test_plain", "test_sessions")
    found = run_tests(module, *(str(TESTS / f"{name}.py") for name in names))

    assert found.returncode == 0, found.stdout[-3_000:] + found.stderr[-6_000:]
    assert " passed" in found.stdout


def test_a_slot_that_is_read_beyond_its_end_is_reported(tmp_path: Path) -> None:
    """A mutant: without it, the test above could pass because nothing looks."""
    mutant = tmp_path / "commands.c"
    whole = (ROOT / "actors/commands.c").read_text()
    mutant.write_text(whole.replace("|| command.length > bytes - at", ""))
    assert mutant.read_text() != whole
    others = [source for source in sources() if source.name != mutant.name]
    module = compile_fold(tmp_path, [mutant, *others])
    found = run_tests(module, str(TESTS / "test_fold.py"), "-k", "a_broken_slot")

    assert found.returncode != 0 and "AddressSanitizer" in found.stderr
