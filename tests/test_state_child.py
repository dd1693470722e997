"""The child that digests the state: what it finds is the state's digest, and it runs where it may, not where logic is."""

import os

import pytest
from replica import wait_until
from test_snapshot_child import app

from leftfold.actors.machine import Machine
from leftfold.runtime.offshoot import Offshoot
from leftfold.runtime.state_child import StateChild

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


def test_it_finds_the_digest_on_any_core_though_logic_is_kept_to_one() -> None:
    machine = Machine(app)
    cores = os.sched_getaffinity(0)
    child = StateChild(Offshoot("state digest of a test"))
    os.sched_setaffinity(0, {min(cores)})
    try:
        child.begin(machine)
        pid = child.pid
        wait_until(lambda: os.sched_getaffinity(pid) == cores, "the child is not kept to one core")
    finally:
        os.sched_setaffinity(0, cores)
    found: list[tuple[int, int]] = []

    def ended() -> bool:
        found.extend(filter(None, [child.ended()]))
        return bool(found)

    wait_until(ended, "the child says what it found")
    assert found == [(0, int.from_bytes(machine.state_digest()[:7], "little"))]
    assert child.pid == 0 and child.ended() is None
