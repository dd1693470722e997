"""How long consensus may sleep: what comes through a ring is not waited for by looking again and again."""

from types import SimpleNamespace
from typing import Any, cast

from raft_samples import lead, raft_with, take

from leftfold.runtime.agent import PARK_NS_MAX
from leftfold.runtime.agreement import Agreement
from leftfold.runtime.clock import Clock, LogTime
from leftfold.runtime.consensus import Consensus
from leftfold.runtime.divergence import Divergence
from leftfold.runtime.parting import Parting
from leftfold.runtime.peering import Peering
from leftfold.runtime.slots import BY_SCHEDULE
from leftfold.runtime.snapshot_points import SnapshotPoints
from leftfold.runtime.state_checks import CHECK, StateChecks
from leftfold.shm import Producer

TICK_NS = 5_000_000


def leading(*, time_entry: int) -> Consensus:
    """A leader at time 0 with a timer that is due; it has applied entry 4, and its next tick is in TICK_NS."""
    shell: Any = Consensus.__new__(Consensus)
    shell.build = "build"
    shell.clock = SimpleNamespace(monotonic_ns=lambda: 0)
    shell.log_time = SimpleNamespace(at=lambda now_ns: 100)  # pyright: ignore[reportUnknownLambdaType]
    shell.next_tick_ns, shell.timer_due_ns = TICK_NS, -10
    shell.time_entry, shell.applied_index = time_entry, 4
    shell.leader = shell.serving = True
    shell.draining = False
    shell.upkeep = SimpleNamespace(refusal=None)
    found: Consensus = shell
    return found


def test_a_timer_that_is_due_lets_it_not_sleep_unless_its_entry_is_on_its_way() -> None:
    assert leading(time_entry=4).sleep_ns() == 0
    assert leading(time_entry=5).sleep_ns() == TICK_NS


def test_the_entry_by_which_states_are_compared_goes_out_at_once() -> None:
    """It is proposed behind what Raft was last asked; the next turn is not the next tick."""
    shell: Any = leading(time_entry=0)
    shell.raft = raft_with([])
    lead(shell.raft, 2, 3)
    take(shell.raft)
    shell.upkeep = SimpleNamespace(due=lambda: BY_SCHEDULE, refusal=None)
    shell.persisting = SimpleNamespace(room=lambda: 1 << 20)
    shell.feed = SimpleNamespace(proposed=lambda size: None, fed=1)  # pyright: ignore[reportUnknownLambdaType]
    shell.counters = SimpleNamespace(counters={"entries": SimpleNamespace(add=lambda: None)})
    shell.identity = SimpleNamespace(replica_id=1)
    shell.agreement = Agreement(
        shell.raft,
        Divergence(shell.raft),
        StateChecks(shell.raft),
        Parting(shell.raft),
        cast("Peering", None),
        SnapshotPoints(1000),
        cast("Producer", None),
    )

    assert shell._take_snapshot(0) == 1
    assert shell._take_snapshot(0) == 0, "it waits for it"


def test_while_the_others_start_it_sleeps() -> None:
    shell = leading(time_entry=0)
    shell.build = None
    assert shell.sleep_ns() == PARK_NS_MAX


def test_a_clock_read_before_the_term_was_opened_is_no_step_back_of_log_time() -> None:
    """A turn reads the clock first, may open a term after that, and then proposes a CHECK by the first reading."""
    clock = Clock()
    now_ns = clock.monotonic_ns()
    raft = raft_with([])
    lead(raft, 2, 3)
    shell: Any = Consensus.__new__(Consensus)
    shell.raft = raft
    shell.log_time = LogTime.start_term(clock, 0, 1 << 60, accept_step=True)
    shell.feed = SimpleNamespace(proposed=lambda size: None)
    shell.counters = SimpleNamespace(counters={"entries": SimpleNamespace(add=lambda: None)})
    raft.start_term(shell.log_time.at(clock.monotonic_ns()), b"build")

    assert shell._propose(CHECK, b"", now_ns) == 2
