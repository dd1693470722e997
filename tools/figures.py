"""The command line that all benchmarks have: what is measured is said by options, and the figures come as a table or as JSON."""

import argparse
import json
from collections.abc import Callable
from typing import Any


def command_line(text: str | None) -> argparse.ArgumentParser:
    """A parser described by the first line of this text, the file's own; it knows --json."""
    parser = argparse.ArgumentParser(description=(text or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print the figures as a JSON object")
    return parser


def give(found: dict[str, Any], show: Callable[[dict[str, Any]], None], *, as_json: bool) -> None:
    """Print what was measured."""
    if as_json:
        print(json.dumps(found))
    else:
        show(found)
