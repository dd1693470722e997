"""A follower's turns in C under the address and undefined-behaviour sanitizers, among messages of any sort from a seed."""

import random
from collections import Counter
from pathlib import Path

from test_gate_sanitizers import ROOT, compile_harness, run_harness

SOURCES = [
    ROOT / "runtime/following.c",
    ROOT / "runtime/carrier.c",
    *(ROOT / "shm" / f"{name}.c" for name in ("ring", "doorbell", "histogram", "calls")),
]


def test_messages_that_go_on_and_others_report_nothing_and_break_no_promise(
    tmp_path: Path,
) -> None:
    program = compile_harness(tmp_path, "following_harness", SOURCES)
    first = random.randrange(2**32)
    print(f"first seed {first}")

    totals: Counter[str] = Counter()
    for seed in range(first, first + 4):  # One seed alone may stand still early.
        totals.update(run_harness(program, seed, 20_000))
    assert min(totals.values()) > 0, f"the harness does not reach everything: {totals}"
