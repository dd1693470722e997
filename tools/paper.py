"""Where a command prints for a person: as wide as the terminal, or, in a pipe or a file, as wide as what is printed.

Without a terminal there is no width to keep to, and a line that is broken at a guessed one is lost for grep and awk.
"""

import sys
from typing import Any

from rich.console import Console

COLUMNS_WITHOUT_TERMINAL = 10_000


def paper(**options: Any) -> Console:
    """What stdout is, at this moment; `options` are those of rich's Console."""
    columns = None if sys.stdout.isatty() else COLUMNS_WITHOUT_TERMINAL
    return Console(highlight=False, width=columns, **options)
