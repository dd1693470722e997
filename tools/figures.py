"""What all benchmarks have: a command line, and figures that come as a table or, with the machine they are of, as JSON."""

import argparse
import json
import os
import platform
from collections.abc import Callable
from typing import Any


def command_line(text: str | None) -> argparse.ArgumentParser:
    """A parser described by the first line of this text, the file's own; it knows --json."""
    parser = argparse.ArgumentParser(description=(text or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print the figures as a JSON object")
    return parser


def machine() -> dict[str, Any]:
    """Where it was measured."""
    return {
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "processor": platform.machine(),
    }


def give(found: dict[str, Any], show: Callable[[dict[str, Any]], None], *, as_json: bool) -> None:
    """Print what was measured."""
    if as_json:
        print(json.dumps(found))
    else:
        show(found)
