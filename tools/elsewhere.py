"""A piece of folding in a process of its own: two versions of one module cannot live in one.

The process runs under the replica's hash seed, time zone and locale (I7), finds the app in the
sources that it is given, and leaves no compiled files there.
"""

import subprocess
import sys
from pathlib import Path

from ..runtime.identity import Identity
from .fold import environment_of


def start(
    module: str, identity: Identity, sources: Path, errors: int, *arguments: str
) -> "subprocess.Popen[bytes]":
    """Start one of the modules beside this one as a program, in the directory of the sources.

    `errors` is a descriptor, or subprocess.PIPE.
    """
    return subprocess.Popen(
        [sys.executable, "-P", "-m", f"leftfold.tools.{module}", *arguments],
        env=environment_of(identity) | {"PYTHONDONTWRITEBYTECODE": "1"},
        cwd=sources,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
    )


def complaint(ended: "subprocess.Popen[bytes]", errors: bytes) -> str:
    """Why it ended with a code."""
    return errors.decode(errors="replace").strip() or f"it ended with code {ended.returncode}"
