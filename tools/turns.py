"""Clients that each have one command in flight, and send the next one when it is answered: how long each takes.

One process plays all of them, in Python, so what it takes to send and to receive is in the figures, the same for whatever server
is measured. It is a closed loop, as redis-benchmark's is: a server that stalls is asked less meanwhile. Load at a pace of its own
is paced.py's.
"""

import gc
import select
import time
from array import array
from collections.abc import Sequence

from ..runtime.errors import OperatorError
from .curves import Curve
from .load import Lane, Replies
from .outgoing import STALLED_S
from .resp_load import RespLane


def take_turns(
    name: str, lanes: Sequence[Lane | RespLane], replies: Replies
) -> tuple[Curve, float]:
    """Send everything that is loaded, one at a time on each connection; the latencies, and commands per second."""
    poller = select.epoll()
    by_fd = {lane.link.fileno(): lane for lane in lanes}
    sent_ns = [0] * len(lanes)
    took_ns: array[int] = array("q")
    gc.collect()
    gc.disable()
    try:
        for lane in lanes:
            lane.link.setblocking(False)
            poller.register(lane.link, select.EPOLLIN)
        began_ns = time.perf_counter_ns()
        for lane in lanes:
            sent_ns[lane.index] = time.perf_counter_ns()
            _send(lane, 1)
        left = len(lanes)
        while left:
            ready = poller.poll(STALLED_S)
            if not ready:
                raise OperatorError(f"No reply for {STALLED_S:.0f} s.")
            for fd, _ in ready:
                lane = by_fd[fd]
                before = replies.highest[lane.index]
                lane.receive(replies)
                now_ns = time.perf_counter_ns()
                replied = replies.highest[lane.index]
                if replied == before:
                    continue
                took_ns.append(now_ns - sent_ns[lane.index])
                if replied < lane.count:
                    sent_ns[lane.index] = now_ns
                    _send(lane, replied + 1)
                else:
                    left -= 1
        elapsed_s = (time.perf_counter_ns() - began_ns) / 1e9
    finally:
        gc.enable()
        poller.close()
    if replies.tally.failures or replies.tally.refused:
        raise OperatorError(
            f"{replies.tally.failures} failed, {replies.tally.refused} were refused."
        )
    return Curve(name, sorted(took_ns)), len(took_ns) / elapsed_s


def _send(lane: Lane | RespLane, number: int) -> None:
    # One command never fills a socket that has answered everything.
    if not lane.send_upto(number):
        raise OperatorError("The socket does not take one command.")
