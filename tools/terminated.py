"""SIGTERM, as a service manager sends it, ends a command as Ctrl-C does: what it runs is stopped, and nothing is left of it."""

import contextlib
import signal
from collections.abc import Generator


@contextlib.contextmanager
def terminated_like_interrupted() -> Generator[None]:
    """SIGTERM raises KeyboardInterrupt in the block."""

    def interrupt(number: int, frame: object) -> None:
        del number, frame
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
