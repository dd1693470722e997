"""A gate with visitors and without sockets, in front of the real machine: every step is the test's own."""

import struct

from gates import Gate
from resp_client import replies_in
from served import Fold, slots_of

from leftfold.actors import App
from leftfold.runtime._wire import lib
from leftfold.runtime.visitors import Vocabulary, admit


class Visited(Gate):
    """The gate, the machine behind it, and what is on its way between them."""

    def __init__(
        self,
        app: App,
        *,
        tokens: tuple[bytes, ...] = (),
        frame_bytes_max: int = 65536,
        output_bytes_max: int = 1 << 20,
        **limits: int,
    ) -> None:
        given = {"frame_bytes_max": frame_bytes_max, "output_bytes_max": output_bytes_max}
        super().__init__(tokens=tokens, **given, **limits)
        admit(self.handle, Vocabulary.of(app), frame_bytes_max, output_bytes_max)
        self.fold = Fold(app)
        self.slots: list[bytes] = []

    def visit(self) -> int:
        """A new visitor."""
        number: int = lib.gate_open_visitor(self.handle, -1, self.now_ns)
        return number

    def say(self, number: int, data: bytes) -> None:
        """The visitor sends this; what becomes of it is on its way in."""
        self.slots += slots_of(self.feed(number, data))

    def answer(self) -> bool:
        """The machine answers what is on its way, all in one entry; False: nothing was."""
        slots, self.slots = self.slots, []
        if slots:
            run = self.fold.answer(slots)
            assert lib.gate_scatter(self.handle, run, len(run), self.now_ns) == len(run)
        return bool(slots)

    def settle(self, number: int) -> list[bytes]:
        """Go back and forth until nothing moves; all replies so far."""
        data = b""
        while True:
            moved = self.answer()
            data += self.take(number)
            if self.state(number) != 2:
                break
            self.say(number, b"")
            if not moved and not self.slots:
                break
        return replies_in(data)

    def ask(self, number: int, data: bytes) -> list[bytes]:
        """The replies to this."""
        self.say(number, data)
        return self.settle(number)

    def kinds(self) -> list[int]:
        """The types of the slots on their way in."""
        return [struct.unpack_from("<H", slot, 4)[0] for slot in self.slots]
