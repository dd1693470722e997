"""Who waits for room in a window: asyncio tasks, first come, first served."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from attrs import define, field


@define(eq=False)
class Turns:
    """The queue in front of one window; `room` says how much is free."""

    room: Callable[[], int]
    _queue: "deque[asyncio.Future[None]]" = field(factory=deque["asyncio.Future[None]"], init=False)
    _granted: int = field(default=0, init=False)
    """Turns that were given and whose tasks have not run yet."""

    async def take(self, over: "asyncio.Future[Any]") -> None:
        """Return when there is room, which the caller uses at once; raise what `over` does, if it is set before."""
        while self._queue or self.room() - self._granted <= 0:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._queue.append(turn)
            try:
                await asyncio.wait({turn, over}, return_when=asyncio.FIRST_COMPLETED)
                if over.done():
                    over.result()
            except BaseException:
                self._give_up(turn)
                raise
            if turn.done():
                self._granted -= 1
                if self.room() > 0:
                    return

    def _give_up(self, turn: "asyncio.Future[None]") -> None:
        if turn.done():
            self._granted -= 1
        turn.cancel()
        self.give()  # what it may have been given is the next one's

    def give(self) -> None:
        """There may be room."""
        while self._queue and (self._queue[0].done() or self.room() - self._granted > 0):
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                self._granted += 1

    def end(self) -> None:
        """There will be no room any more: everybody looks why."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                self._granted += 1
