"""Load at a pace that nothing slows down, and how long every reply took.

Every millisecond, or less often at a low rate, each connection is due to send a burst. A reply's latency counts from the moment when its request was due,
not from when it could be sent: if the replica stands still, the requests that pile up meanwhile are late as well.
So a stall shows with all of its weight. The frames are encoded beforehand; no latency is worked out before the end.
"""

import gc
import select
import time
from array import array
from collections.abc import Sequence

from attrs import define, field, frozen

from ..runtime.errors import OperatorError
from .load import Lane, Replies, Shape, connect_lanes, transfers
from .outgoing import STALLED_S
from .resp_load import RespLane, connect_resp_lanes

BURST_NS = 1_000_000
LANES = 4


@frozen
class Latencies:
    """Of one stretch of paced load; in seconds, for people."""

    commands: int
    per_second: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    longest_stall_ms: float
    """The longest time in which nothing was replied."""


@frozen
class Rhythm:
    """When how much is due: a burst on each connection, again and again."""

    lanes: int
    burst: int
    interval_ns: int
    seconds: int

    @classmethod
    def of(cls, per_second: float, seconds: int) -> "Rhythm":
        """For this rate; below one command for each millisecond and connection there is one connection."""
        lanes = LANES if per_second * BURST_NS / 1e9 >= LANES else 1
        burst = max(1, round(per_second / lanes * BURST_NS / 1e9))
        return cls(lanes, burst, max(1, int(burst * lanes / per_second * 1e9)), seconds)

    @property
    def per_second(self) -> float:
        """Of all connections."""
        return self.burst * self.lanes / self.interval_ns * 1e9

    @property
    def count(self) -> int:
        """Commands of each connection."""
        return self.burst * max(1, self.seconds * 1_000_000_000 // self.interval_ns)


@define(eq=False)
class Paced:
    """A load that is encoded and connected; `run()` sends it."""

    lanes: Sequence[Lane | RespLane]
    replies: Replies
    rhythm: "Rhythm"
    took_ns: "array[int]" = field(factory=lambda: array("q"), init=False)
    stall_ns: int = field(default=0, init=False)

    @classmethod
    def connect(
        cls, host: str, port: int, shape: Shape, accounts: int, per_second: float, seconds: int
    ) -> "Paced":
        """Encode so many seconds of load at this rate."""
        rhythm = Rhythm.of(per_second, seconds)
        lanes, replies = connect_lanes(host, port, rhythm.lanes)
        for lane in lanes:
            lane.load(transfers(shape, lane.index, rhythm.count, accounts), lane.window)
            lane.link.setblocking(False)
        return cls(lanes, replies, rhythm)

    @classmethod
    def connect_resp(cls, host: str, port: int, per_second: float, seconds: int) -> "Paced":
        """The same of INCR, for what speaks Redis's protocol."""
        rhythm = Rhythm.of(per_second, seconds)
        lanes, replies = connect_resp_lanes(host, port, rhythm.lanes)
        for lane in lanes:
            lane.load(rhythm.count, lane.window)
            lane.link.setblocking(False)
        return cls(lanes, replies, rhythm)

    def run(self) -> Latencies:
        """Send all of it, each burst when it is due."""
        gc.collect()
        gc.disable()
        try:
            heard = self._run()
        finally:
            gc.enable()
        self._work_out(heard)
        tally = self.replies.tally
        if tally.failures or tally.refused:
            raise OperatorError(f"{tally.failures} failed and {tally.refused} were refused.")
        return self._latencies()

    def close(self) -> None:
        """Close the sessions and the connections."""
        for lane in self.lanes:
            lane.close()

    def _run(self) -> "list[tuple[int, int, int]]":
        """(when, which connection, up to which request it has its replies), from the start on."""
        heard: list[tuple[int, int, int]] = []
        links = [lane.link for lane in self.lanes]
        by_link = {lane.link: lane for lane in self.lanes}
        left = len(self.lanes)
        highest = self.replies.highest
        burst, interval_ns = self.rhythm.burst, self.rhythm.interval_ns
        began_ns = time.monotonic_ns()
        heard_ns = began_ns
        while left:
            now_ns = time.monotonic_ns()
            due = (now_ns - began_ns) // interval_ns + 1
            full: list[int] = []
            for lane in self.lanes:
                upto = min(due * burst, lane.count)
                # What the window does not allow yet goes when it does.
                if not lane.send_upto(min(upto, highest[lane.index] + lane.window)):
                    full.append(lane.index)
            wait_ns = began_ns + due * interval_ns - time.monotonic_ns()
            writing = [self.lanes[at].link for at in full]
            ready, _, _ = select.select(links, writing, [], max(0, wait_ns) / 1e9)
            now_ns = time.monotonic_ns()
            for link in ready:
                lane = by_link[link]
                before = highest[lane.index]
                lane.receive(self.replies)
                replied = highest[lane.index]
                if replied > before:
                    heard.append((now_ns - began_ns, lane.index, replied))
                    self.stall_ns = max(self.stall_ns, now_ns - heard_ns)
                    heard_ns = now_ns
                    left -= replied == lane.count
            if now_ns - heard_ns > STALLED_S * 1e9:
                raise OperatorError(f"No reply for {STALLED_S:.0f} s.")
        return heard

    def _work_out(self, heard: "list[tuple[int, int, int]]") -> None:
        done = [0] * len(self.lanes)
        burst, interval_ns = self.rhythm.burst, self.rhythm.interval_ns
        for at_ns, lane, replied in heard:
            for number in range(done[lane], replied):
                self.took_ns.append(at_ns - number // burst * interval_ns)
            done[lane] = replied

    def _latencies(self) -> Latencies:
        took = sorted(self.took_ns)

        def percentile_ms(percent: float) -> float:
            return took[min(len(took) - 1, int(len(took) * percent / 100))] / 1e6

        return Latencies(
            commands=len(took),
            per_second=len(took) / self.rhythm.seconds,
            p50_ms=percentile_ms(50),
            p99_ms=percentile_ms(99),
            p999_ms=percentile_ms(99.9),
            max_ms=took[-1] / 1e6,
            longest_stall_ms=self.stall_ns / 1e6,
        )
