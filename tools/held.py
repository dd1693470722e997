"""A file of a running replica, held open so that retention cannot take it away while it is read."""

import os
from pathlib import Path

from attrs import define

from ..runtime.errors import OperatorError

LISTINGS_MAX = 5
"""A running replica may remove files between a listing and the opening of what it lists."""


@define
class Held:
    """A file that is held open: it can be read for as long as this object lives, removed or not."""

    path: Path
    descriptor: int

    @classmethod
    def open(cls, path: Path) -> "Held":
        """Open for reading. Raises OSError."""
        return cls(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    @property
    def now(self) -> Path:
        """A path that leads to the open file whatever happened to its name."""
        return Path(f"/proc/self/fd/{self.descriptor}")

    @property
    def size(self) -> int:
        """How long the file is now."""
        return os.fstat(self.descriptor).st_size

    def read(self, size: int | None = None, offset: int = 0) -> bytes:
        """Up to `size` bytes from `offset`; all of them by default. Raises OperatorError."""
        try:
            wanted = (self.size if size is None else size + offset) - offset
            pieces: list[bytes] = []
            while wanted > 0:
                piece = os.pread(self.descriptor, wanted, offset)
                if not piece:
                    break
                pieces.append(piece)
                offset, wanted = offset + len(piece), wanted - len(piece)
        except OSError as error:
            raise OperatorError(f"Cannot read {self.path}: {error.strerror}.") from None
        return b"".join(pieces)

    def __del__(self) -> None:
        os.close(self.descriptor)
