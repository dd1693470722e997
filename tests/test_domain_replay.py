"""The same log gives the same outputs and state (I7): other hash seeds, and through a snapshot."""

import os
import subprocess
import sys
from pathlib import Path

import domain_logs
import pytest
from domain_logs import PITCH, PITCH_ABSENT, fold, log_named

from leftfold.actors.layout import HEADER, REPLY, SlotType, Status
from leftfold.actors.testing import slots_of

REAL = pytest.param(
    "real", marks=pytest.mark.skipif(not PITCH.exists(), reason=PITCH_ABSENT), id="real"
)
NAMES = ["exchange", "ledger", "tickets", REAL]


def folded_elsewhere(name: str, hash_seed: int) -> str:
    """What a process with this hash seed makes of the log."""
    done = subprocess.run(
        [sys.executable, str(Path(domain_logs.__file__)), name],
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_a_log_gives_the_same_under_two_hash_seeds(name: str) -> None:
    found = folded_elsewhere(name, 1)

    assert folded_elsewhere(name, 2) == found
    machine, egress = fold(*log_named(name))
    digests = f"{machine.digest} {machine.state_digest().hex()} {{}}\n"
    assert f"{len(egress)} {digests}" == found


@pytest.mark.parametrize("name", NAMES)
def test_a_snapshot_in_the_middle_changes_nothing(name: str) -> None:
    app, log = log_named(name)
    kept = list(log)
    machine, egress = fold(app, kept)
    restored, egress_restored = fold(app, kept, restore_at=len(kept) // 2)

    assert egress_restored == egress
    assert restored.digest == machine.digest
    assert restored.state_digest() == machine.state_digest()
    assert not machine.state.quarantined


@pytest.mark.parametrize("name", NAMES)
def test_the_logs_are_worth_replaying(name: str) -> None:
    """They have events and good ends, and, but for the real one, commands that are refused."""
    slots = slots_of(fold(*log_named(name))[1])
    types = [HEADER.unpack_from(slot)[1] for slot in slots]
    replies = [s for s, type_ in zip(slots, types, strict=True) if type_ == SlotType.REPLY]
    statuses = {REPLY.unpack_from(reply)[7] for reply in replies}

    assert types.count(SlotType.EVENT) > 500
    assert types.count(SlotType.REPLY) > 1_000
    expected = {Status.OK} if name in ("real", "exchange") else {Status.OK, Status.REJECTED}
    assert statuses == expected
