"""Where the logic process is: four words in a mapped file that outlives it.

Logic writes the command's place before it runs it, so that the supervisor can name the handler that does not come
back, or that ended the process. One writer (I1); readers may see the words of two commands mixed for a moment,
so they look twice before they act.
"""

import mmap
from pathlib import Path
from typing import Any, Self

from attrs import define

WORDS = 4
INDEX, ORDINAL, MESSAGE, RUNNING = range(WORDS)
SIZE_BYTES = WORDS * 8

IDLE, APPLYING, QUERYING = range(3)
"""What the word RUNNING says. A query is in no log, so it is named when it overruns, and never parks the replica."""


@define
class Position:
    """The mapped words: index, ordinal, message id, and what is running."""

    words: memoryview
    path: Path

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make the file anew, all zero."""
        path.write_bytes(bytes(SIZE_BYTES))
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Map an existing file."""
        with path.open("r+b") as file:
            return cls(memoryview(mmap.mmap(file.fileno(), SIZE_BYTES)).cast("Q"), path)

    def clear(self) -> None:
        """Forget the place, before a new start."""
        for word in range(WORDS):
            self.words[word] = 0

    def running(self) -> tuple[int, int] | None:
        """(index, ordinal) of the command that runs now, or None between commands."""
        if not self.words[RUNNING]:
            return None
        return self.words[INDEX], self.words[ORDINAL]

    def applying(self) -> bool:
        """Whether what runs is a command (or timer) of the log."""
        return self.words[RUNNING] == APPLYING

    def facts(self) -> dict[str, Any]:
        """The place as a tool shows it."""
        return {
            "index": self.words[INDEX],
            "ordinal": self.words[ORDINAL],
            "message": self.words[MESSAGE],
        }
