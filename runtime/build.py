"""The build of an app: a short text that is another one when the code that folds the log is another one.

    shop-3f0c6d1e92ab47c8 leftfold-0.1.0 python-3.11

It is the same wherever the sources lie and on whatever machine: what goes into it is

- the sources of the modules that define the app's actors and messages, and of the app's own module if it is given;
- what these import, at any depth, from the directory in which they are found, `import` within functions included. Of a
  package all Python files count, imported or not; of an installed module (in site-packages) its package alone;
- the app's schema, which tells which classes the app consists of;
- the versions of leftfold and, to the minor, of Python.

Each source goes in under its dotted name, as it is on disk; comments count. What is not seen: libraries beyond the directory,
compiled modules, files that the code reads, imports by computed names. Who needs these to count gives the App a build of
his own, `App(build="2026-11-23.4")`, which then is all that counts.
"""

import platform
import re
import sys
from collections.abc import Iterator
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from attrs import define, field

from ..actors.app import App
from .errors import OperatorError

DIGEST_BYTES = 8
SOURCES_MAX = 5_000
OWN = __name__.partition(".")[0]
INSTALLED = frozenset(("site-packages", "dist-packages"))

# Wherever the words stand: what is found too much is only looked for in the directory, in vain.
IMPORT = re.compile(
    rb"\bfrom\s+(\.*)\s*([\w.]*)\s+import\s*(?:\(([\w\s,]*)|([\w \t,]*))"
    rb"|\bimport\s+([\w.]+(?:\s+as\s+\w+)?(?:\s*,\s*[\w.]+(?:\s+as\s+\w+)?)*)"
)
BETWEEN = re.compile(rb"#[^\n]*|\\\n")
LIST = re.compile(rb"[\w.]+")


def build_of(app: App, module: str | None = None) -> str:
    """The build of an app; `module` is the one that holds it, if it holds more than that."""
    if app.build is not None:
        return app.build
    sources = Sources()
    for name in sorted(_modules_of(app) | ({module} if module else set[str]())):
        sources.add_module(name)
    digest = blake2b(app.schema_json(), digest_size=DIGEST_BYTES)
    for name, path in sorted(sources.found.items()):
        source = path.read_bytes()
        digest.update(b"%d %s %d " % (len(name), name.encode(), len(source)))
        digest.update(source)
    python = ".".join(platform.python_version_tuple()[:2])
    return f"{digest.hexdigest()} leftfold-{version('leftfold')} python-{python}"


def _modules_of(app: App) -> set[str]:
    """The modules that define the app's classes, and the bases that they inherit methods from."""
    classes = [actor.cls for actor in app.actor_types.values()] + list(app.messages.values())
    bases = {base.__module__ for cls in classes for base in cls.__mro__}
    return {cls.__module__ for cls in classes} | {
        name for name in bases if name.partition(".")[0] not in (OWN, *sys.stdlib_module_names)
    }


@define(eq=False)
class Sources:
    """The Python files that an app consists of, by dotted name."""

    found: dict[str, Path] = field(factory=dict[str, Path])
    _looked_for: set[tuple[Path, str]] = field(factory=set[tuple[Path, str]])

    def add_module(self, name: str) -> None:
        """A module that was imported, and what it imports."""
        module = sys.modules[name]
        file = _file_of(module)
        if name == "__main__":
            name = file.stem
        root = _root_of(name, file)
        packages = _packages_above(name)
        if packages:
            self._add_package(packages[0], _file_of(sys.modules[packages[0]]).parent, root)
        else:
            self._add(name, file, root)

    def _add_package(self, name: str, directory: Path, root: Path | None) -> None:
        for path in sorted(directory.rglob("*.py")):
            parts = path.relative_to(directory).with_suffix("").parts
            self._add(".".join((name, *parts)), path, root)

    def _add(self, name: str, path: Path, root: Path | None) -> None:
        if name in self.found:
            return
        if len(self.found) == SOURCES_MAX:
            raise OperatorError(
                f"The app's code has more than {SOURCES_MAX} files, {path} among them: move the app to a "
                'directory of its own, or give it a build, App(build="...").'
            )
        self.found[name] = path
        if root is not None:
            for imported in imports(name, path.read_bytes()):
                self._look_for(root, imported)

    def _look_for(self, root: Path, name: str) -> None:
        """Add what an import means in the directory, if it means anything there."""
        if (root, name) in self._looked_for:
            return
        self._looked_for.add((root, name))
        path, known = root, ""
        for part in name.split("."):
            path, known = path / part, f"{known}.{part}".lstrip(".")
            if (path / "__init__.py").is_file():
                self._add_package(known, path, root)
                return
            if path.with_suffix(".py").is_file():
                self._add(known, path.with_suffix(".py"), root)
                return
            if not path.is_dir():
                return


def _file_of(module: ModuleType) -> Path:
    file = Path(module.__file__ or "")
    if file.suffix != ".py" or not file.is_file():
        raise OperatorError(
            f"Module {module.__name__} has no source from which its build could be told: give the app a build, "
            'App(build="..."), and another one whenever its code changes.'
        )
    return file


def _packages_above(name: str) -> list[str]:
    """The packages of a module that have an __init__.py, outermost first; itself, if it is one."""
    parts = name.split(".")
    above = [".".join(parts[: end + 1]) for end in range(len(parts))]
    return [
        package
        for package in above
        if hasattr(sys.modules.get(package), "__path__")
        and getattr(sys.modules[package], "__file__", None)
    ]


def _root_of(name: str, file: Path) -> Path | None:
    """The directory from which the module is imported; None if what lies there is not the app's."""
    at = Path(*name.split("."))
    relative = at / "__init__.py" if file.name == "__init__.py" else at.with_suffix(".py")
    depth = len(relative.parts)
    if file.parts[-depth:] != relative.parts or not INSTALLED.isdisjoint(file.parts):
        return None
    return file.parents[depth - 1]


def imports(name: str, source: bytes) -> Iterator[str]:
    """The modules that a source may import, each also as a part of the one it is imported from."""
    package = name.removesuffix(".__init__").split(".")
    if not name.endswith(".__init__"):
        del package[-1]
    for dots, origin, enclosed, open_, plain in IMPORT.findall(BETWEEN.sub(b" ", source)):
        if plain:
            yield from (word.decode() for word in LIST.findall(plain))
            continue
        base = package[: len(package) - len(dots) + 1] if dots else []
        whole = ".".join((*base, *filter(None, (origin.decode(),))))
        if whole:
            yield whole
        prefix = f"{whole}." if whole else ""
        yield from (f"{prefix}{word.decode()}" for word in LIST.findall(enclosed + open_))
