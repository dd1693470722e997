"""Finding the app that `module:attribute` names.

The module is looked for where the person stands (the current directory, or the one given), then among the
installed packages. Whatever is wrong is one OperatorError that says how to mend it.
"""

import difflib
import importlib
import sys
import traceback
from pathlib import Path

from ..actors import App
from .errors import OperatorError

EXAMPLE = "for example leftfold.actors.ledger:app"


def load_app(name: str, directory: Path = Path(".")) -> App:
    """The App that `module:attribute` names; OperatorError where there is none."""
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise OperatorError(f"{name!r} does not name an app: {_correction(name)}.")
    module = _import(module_name, directory)
    found = getattr(module, attribute, None)
    if isinstance(found, App):
        return found
    apps = [known for known, value in vars(module).items() if isinstance(value, App)]
    remedy = (
        f"write {module_name}:{(difflib.get_close_matches(attribute, apps, 1) or apps)[0]}"
        if apps
        else f"it holds no leftfold.actors.App; add `{attribute} = App(actors=[...])` to it"
    )
    what = "is not an App" if hasattr(module, attribute) else "does not exist"
    raise OperatorError(f"{attribute!r} in module {module_name} {what}: {remedy}.")


def _correction(name: str) -> str:
    if name.endswith(".py"):
        return f"write {name.removesuffix('.py').replace('/', '.')}:app"
    return f"write module:attribute, {EXAMPLE}"


def _import(name: str, directory: Path) -> object:
    where = str(directory.resolve())
    if where not in sys.path:
        sys.path.insert(0, where)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise OperatorError(
                f"Module {name} needs {error.name}, which is not installed: pip install it."
            ) from None
        raise OperatorError(
            f"There is no module {error.name} in {where} nor among the installed packages: "
            "go to the directory that holds it, or correct its name."
        ) from None
    except Exception as error:  # noqa: BLE001 - whatever the app's own code raises
        raise OperatorError(f"Module {name} cannot be imported: {_where(error)}.") from None


def _where(error: Exception) -> str:
    """The error with the innermost line outside the import machinery."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(".")
    if isinstance(error, SyntaxError):
        return text
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen") and frame.filename != __file__
    ]
    if not frames:
        return text
    # A class that breaks a rule is raised deep inside leftfold: the line to mend is the app's own.
    own = [frame for frame in frames if "/leftfold/" not in frame.filename] or frames
    return f"{text} ({own[-1].filename}:{own[-1].lineno})"
