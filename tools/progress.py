"""Progress where a person waits: a bar on a terminal, a line now and then elsewhere, on stderr.

What is over within a second shows nothing. Rate and time left come from what was done so far; where
the total is not known it is 0, and no time is left to be told.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Generator

from attrs import define, field
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

QUIET_S = 1.0
PLAIN_EVERY_S = 5.0
UNITS = (("G", 1e9), ("M", 1e6), ("k", 1e3))

Advance = Callable[[int], None]
"""Told how much is done by now."""


@contextlib.contextmanager
def progress(what: str, total: int, unit: str) -> Generator[Advance]:
    """Show how far a piece of work is, for as long as the block lasts."""
    shown = Shown(what, total, unit)
    try:
        yield shown.advance
    finally:
        shown.end()


@define
class Shown:
    """One piece of work as a person sees it."""

    what: str
    total: int
    unit: str
    began_s: float = field(factory=lambda: time.monotonic(), init=False)
    next_s: float = field(init=False)
    bar: Progress | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        plain = not sys.stderr.isatty()
        self.next_s = self.began_s + (PLAIN_EVERY_S if plain else QUIET_S)

    def advance(self, done: int) -> None:
        """So much is done by now."""
        now_s = time.monotonic()
        if now_s < self.next_s:
            return
        rate = done / (now_s - self.began_s)
        total = f" of {scaled(self.total)}" if self.total else ""
        said = f"{scaled(done)}{total} {self.unit}, {scaled(rate)} {self.unit}/s"
        if not sys.stderr.isatty():
            left = f", {max(0, self.total - done) / rate:.0f} s left" if rate and self.total else ""
            print(f"{self.what}: {said}{left}", file=sys.stderr, flush=True)
            self.next_s = now_s + PLAIN_EVERY_S
            return
        if self.bar is None:
            columns = (
                *(TextColumn(self.what), BarColumn(), TextColumn("{task.fields[said]}")),
                TimeRemainingColumn(compact=True),
            )
            self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self.bar.add_task("", total=self.total or None, said=said)
            self.bar.start()
        self.bar.update(self.bar.task_ids[0], completed=done, said=said)
        self.next_s = now_s + 0.1

    def end(self) -> None:
        """The work is over; the bar goes."""
        if self.bar is not None:
            self.bar.stop()


def scaled(figure: float) -> str:
    """A figure with three digits or so."""
    for letter, factor in UNITS:
        if figure >= factor:
            return f"{figure / factor:.4g}{letter}"
    return f"{figure:.0f}"
