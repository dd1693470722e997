"""A build follows the code, wherever it lies: same sources, same build; another source, another build."""

import compileall
import importlib
import os
import py_compile
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from leftfold.actors import App, DefinitionError, ledger
from leftfold.runtime.build import build_of, imports
from leftfold.runtime.discovery import load_app
from leftfold.runtime.errors import OperatorError

APP = """
from leftfold.actors import App, Command, Context, actor, handler, message

from {bank} import fees
{more}

@message(id=1)
class Deposit(Command[None]):
    cents: int

@actor(id=1, key=str)
class Account:
    cents: int = 0

    @handler
    def deposit(self, command: Deposit, context: Context) -> None:
        import late_lib
        self.cents += fees.after(command.cents)

app = App(actors=[Account])
"""

LOOSE = {
    "bank.py": APP.format(bank="shop", more="import rates as r, extra"),
    "shop/fees.py": "from shop.money import (\n    CENT,  # one\n    EURO,\n)\ndef after(n): return n\n",
    "shop/money/__init__.py": "CENT = 1\nEURO = 100\n",
    "shop/money/unused.py": "",
    "rates.py": "from decimal import Decimal\nfrom far import \\\n    thing\n",
    "extra.py": "",
    "far/thing.py": "",
    "late_lib.py": "",
    "other.py": "import bank\n",
    "notes.txt": "",
    "far/other.py": "",
}
PACKAGE = {
    "shop/__init__.py": "",
    "shop/bank.py": APP.format(bank="shop", more="from beside import thing"),
    "shop/fees.py": "from . import deep\ndef after(n): return n\n",
    "shop/deep/__init__.py": "",
    "shop/deep/below.py": "",
    "beside/__init__.py": "",
    "beside/thing.py": "",
    "late_lib.py": "",
    "other.py": "",
    "setup.py": "import shop\n",
}


def write(directory: Path, files: dict[str, str]) -> Path:
    """A directory with these files."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


@contextmanager
def forgotten() -> Iterator[None]:
    """What is imported within is not imported afterwards."""
    for name in {"bank", "app"} & sys.modules.keys():  # Another test's.
        del sys.modules[name]
    modules, path = dict(sys.modules), list(sys.path)
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.path[:] = path
        sys.dont_write_bytecode = writes
        for name in sys.modules.keys() - modules.keys():
            del sys.modules[name]
        importlib.invalidate_caches()


def build_in(directory: Path, name: str = "bank") -> str:
    """The build of the app in a directory, as a new process would tell it."""
    with forgotten():
        return build_of(load_app(f"{name}:app", directory), name)


SAMPLES = {
    "loose": (LOOSE, "bank", {"other.py", "notes.txt", "far/other.py"}),
    "package": (PACKAGE, "shop.bank", {"other.py", "setup.py"}),
}
CASES = [(sample, file) for sample, (files, _, _) in SAMPLES.items() for file in files]


@pytest.mark.parametrize(("sample", "file"), CASES)
def test_each_file_that_can_change_behaviour_changes_the_build_and_no_other_does(
    sample: str, file: str, tmp_path: Path
) -> None:
    files, name, others = SAMPLES[sample]
    before = build_in(write(tmp_path, files), name)
    path = tmp_path / file
    path.write_text(path.read_text() + "\n# changed\n")
    after = build_in(tmp_path, name)

    assert (after == before) is (file in others)
    path.write_text(files[file])
    assert build_in(tmp_path, name) == before


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_build_is_the_same_in_another_directory_at_another_time_and_when_compiled(
    sample: str, tmp_path: Path
) -> None:
    files, name, _ = SAMPLES[sample]
    first = write(tmp_path / "a", files)
    second = write(tmp_path / "b" / "deeper", dict(reversed(files.items())))
    for path in second.rglob("*.py"):
        os.utime(path, (0, 0))
    before = build_in(first, name)
    compileall.compile_dir(first, quiet=1)

    assert build_in(first, name) == before == build_in(second, name)


def test_a_file_that_moves_to_another_name_is_another_build(tmp_path: Path) -> None:
    before = build_in(write(tmp_path, LOOSE))
    shutil.move(tmp_path / "shop/money/unused.py", tmp_path / "shop/money/unused_.py")

    assert build_in(tmp_path) != before


def test_an_installed_package_is_its_own_files_alone(tmp_path: Path) -> None:
    site = write(tmp_path / "lib" / "site-packages", PACKAGE)
    before = build_in(site, "shop.bank")
    (site / "beside" / "thing.py").write_text("changed = 1\n")
    assert build_in(site, "shop.bank") == before
    (site / "shop" / "deep" / "below.py").write_text("changed = 1\n")

    assert build_in(site, "shop.bank") != before


def test_the_classes_that_the_app_lists_count() -> None:
    assert build_of(ledger.app) != build_of(App(actors=[ledger.Account], name="ledger"))


def test_versions_are_in_the_build(tmp_path: Path) -> None:
    digest, leftfold, python = build_of(ledger.app).split()

    assert len(digest) == 16 and leftfold.startswith("leftfold-")
    assert python == f"python-{sys.version_info.major}.{sys.version_info.minor}"


def test_a_build_that_the_app_gives_is_all_that_counts() -> None:
    given = App(actors=[ledger.Account], build="2026-11-23.4")

    assert build_of(given) == "2026-11-23.4"
    for wrong in ("", "x" * 201, "two\nlines"):
        with pytest.raises(DefinitionError, match="a build is one line"):
            App(actors=[ledger.Account], build=wrong)


def test_code_without_a_source_asks_for_a_build(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "late_lib.py": "",
            "bank.py": APP.format(bank="os", more="").replace("from os import fees", ""),
        },
    )
    py_compile.compile(str(tmp_path / "bank.py"), cfile=str(tmp_path / "bank.pyc"))
    (tmp_path / "bank.py").unlink()
    with pytest.raises(OperatorError, match=r"Module bank has no source .* give the app a build"):
        build_in(tmp_path)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import a", ["a"]),
        ("import a.b, c as d", ["a.b", "c"]),
        ("if x: import a\nelse: from b import c", ["a", "b", "b.c"]),
        ("from . import c", ["top.sub", "top.sub.c"]),
        ("from .x import c", ["top.sub.x", "top.sub.x.c"]),
        ("from ..x import (\n  c, # one\n  d as e,\n)", ["top.x", "top.x.c", "top.x.d"]),
        ("from a import \\\n  b", ["a", "a.b"]),
        ("from .. import *", ["top"]),
    ],
)
def test_imports_are_found_in_whatever_form(source: str, found: list[str]) -> None:
    assert set(found) <= set(imports("top.sub.module", source.encode()))
    assert set(found) <= set(imports("top.sub.__init__", source.encode()))
