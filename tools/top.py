"""`leftfold top`: a replica's figures live in the terminal, until q.

Everything is a difference of two readings (reading.py), so the replica pays nothing for being watched. A dead replica's
directory shows its last figures and says that it is dead.
"""

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Generator
from pathlib import Path
from typing import Annotated

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from ..runtime.errors import OperatorError
from .handlers import Names
from .ranges import DAY_S, between
from .reading import Window, take
from .status import DEFAULT_DIRECTORY
from .tables import handlers_of, headline, hops_of, processes_of, rings_of

HANDLERS_SHOWN = 8
QUIT = b"qQ\x03\x1b"


def top(
    directory: Path = DEFAULT_DIRECTORY, /, *, interval: Annotated[float, between(0.1, DAY_S)] = 1.0
) -> None:
    """Show a replica's figures live, until q; those of a dead one as they were last.

    Parameters
    ----------
    directory
        The replica's directory.
    interval
        Seconds between two pictures; figures are those of the time between them.
    """
    before = take(directory)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise OperatorError("top needs a terminal: use `leftfold stat` for figures without one.")
    names = Names.of(before.status.get("app"))
    console = Console(highlight=False)
    live = Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop")
    with _keys() as keys, live:
        live.update(picture(Window(before, before), names), refresh=True)
        while not _pressed(keys, interval):
            after = take(directory)
            # Without a replica there is no window: what is shown is all that it ever did.
            window = Window(before, after) if after.alive else Window(after, after)
            live.update(picture(window, names), refresh=True)
            before = after


def picture(window: Window, names: Names) -> Group:
    """One picture."""
    parts: list[RenderableType] = [headline(window), Text(), processes_of(window), Text()]
    parts += [hops_of(window), Text(), rings_of(window)]
    parts += [Text(), handlers_of(window, names, HANDLERS_SHOWN)]
    parts.append(Text("q: quit", style="dim"))
    return Group(*parts)


@contextlib.contextmanager
def _keys() -> Generator[int]:
    """Keys come at once, one by one, and are not echoed; afterwards the terminal is as it was."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield descriptor
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _pressed(keys: int, seconds: float) -> bool:
    """Wait that long; whether somebody wants to leave."""
    until_s = time.monotonic() + seconds
    while (left_s := until_s - time.monotonic()) > 0:
        if select.select([keys], [], [], left_s)[0]:
            pressed = os.read(keys, 64)
            if not pressed or any(key in QUIT for key in pressed):
                return True
    return False
