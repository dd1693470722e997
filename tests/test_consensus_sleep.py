"""How long consensus may sleep: what comes through a ring is not waited for by looking again and again."""

from types import SimpleNamespace
from typing import Any

from leftfold.runtime.agent import PARK_NS_MAX
from leftfold.runtime.consensus import Consensus

TICK_NS = 5_000_000


def leading(*, time_entry: int) -> Consensus:
    """A leader at time 0 with a timer that is due; it has applied entry 4, and its next tick is in TICK_NS."""
    shell: Any = Consensus.__new__(Consensus)
    shell.build = "build"
    shell.clock = SimpleNamespace(monotonic_ns=lambda: 0)
    shell.log_time = SimpleNamespace(at=lambda now_ns: 100)  # pyright: ignore[reportUnknownLambdaType]
    shell.next_tick_ns, shell.deadline_ns = TICK_NS, 90
    shell.time_entry, shell.applied_index = time_entry, 4
    shell.leader = shell.serving = True
    shell.draining = False
    shell.upkeep = SimpleNamespace(refusal=None)
    found: Consensus = shell
    return found


def test_a_timer_that_is_due_lets_it_not_sleep_unless_its_entry_is_on_its_way() -> None:
    assert leading(time_entry=4).sleep_ns() == 0
    assert leading(time_entry=5).sleep_ns() == TICK_NS


def test_while_the_others_start_it_sleeps() -> None:
    shell = leading(time_entry=0)
    shell.build = None
    assert shell.sleep_ns() == PARK_NS_MAX
