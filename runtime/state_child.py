"""The child that digests the state: a fork of logic (offshoot.py), which goes on while the child walks the state as it was.

It has no descriptor at all: it leaves its answer in one word of memory that only it writes (I1), and logic reads that once
the child has ended. One that could not be made, or that failed, costs this comparison and nothing else.
"""

import gc
import mmap

from attrs import define, field

from ..actors.machine import Machine
from .digests import STATE_DIGEST_BYTES
from .offshoot import EXIT_DONE, Offshoot


@define(eq=False)
class StateChild:
    """At most one at a time, as logic sees it."""

    offshoot: Offshoot
    index: int = field(default=0, init=False)
    _answer: mmap.mmap = field(factory=lambda: mmap.mmap(-1, mmap.PAGESIZE), init=False)

    @property
    def pid(self) -> int:
        """0: there is none."""
        return self.offshoot.pid

    def begin(self, machine: Machine) -> None:
        """Fork a child for the state as it is now, unless another one is still at it."""
        if self.pid:
            return

        def digest() -> int:
            self._answer[:STATE_DIGEST_BYTES] = machine.state_digest()[:STATE_DIGEST_BYTES]
            return EXIT_DONE

        gc.freeze()  # No collection of ours walks, and so copies, what the child shares with us.
        try:
            self.offshoot.begin(digest)
        except OSError:
            return
        self.index = machine.state.index

    def ended(self) -> tuple[int, int] | None:
        """(entry, digest) once a child has ended that found it; None while it works, or when there is none."""
        if self.offshoot.ended() != EXIT_DONE:
            return None
        return self.index, int.from_bytes(self._answer[:STATE_DIGEST_BYTES], "little")
