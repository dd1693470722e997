"""The build of an app: a short text that is another one when the code that folds the log is another one."""

import inspect
import platform
from hashlib import blake2b
from importlib.metadata import version

from ..actors.app import App


def build_of(app: App) -> str:
    """A hash over the sources of the modules that define the app's actors, with the versions beneath them."""
    digest = blake2b(digest_size=8)
    modules = {inspect.getmodule(actor.cls) for actor in app.actor_types.values()}
    for module in sorted(filter(None, modules), key=lambda module: module.__name__):
        digest.update(inspect.getsource(module).encode())
    python = ".".join(platform.python_version_tuple()[:2])
    return f"{digest.hexdigest()} leftfold-{version('leftfold')} python-{python}"
