"""The duty cycle: when a process waits, and when it takes another turn first."""

import os

from attrs import define, field

from leftfold.runtime import agent
from leftfold.shm import DOORBELL_BYTES, Doorbell


@define
class Scripted:
    """A shell that did `turns[i]` = (done, more) in its i-th turn, and says in which it was asked how long to sleep."""

    turns: list[tuple[int, bool]]
    turn: int = 0
    slept: list[int] = field(factory=list[int])

    def work(self) -> int:
        self.turn += 1
        return self.turns[self.turn - 1][0]

    @property
    def more(self) -> bool:
        return self.turns[self.turn - 1][1]

    def ends(self) -> agent.Ends:
        return ()

    def sleep_ns(self) -> int:
        self.slept.append(self.turn)
        return 0


def test_it_waits_behind_a_turn_without_work_and_behind_one_that_left_none() -> None:
    event_fd = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        bell = Doorbell(memoryview(bytearray(DOORBELL_BYTES)), event_fd=event_fd)
        shell = Scripted([(1, True), (1, False), (0, True), (2, True), (0, False)])
        agent.run(shell, bell, 0, lambda: shell.turn == len(shell.turns))
        bell.close()
    finally:
        os.close(event_fd)

    assert shell.slept == [2, 3, 5]
