"""A leader's turns in C under the address and undefined-behaviour sanitizers, among slots of any sort from a seed."""

import random
from collections import Counter
from pathlib import Path

from test_gate_sanitizers import ROOT, compile_harness, run_harness

SOURCES = [
    ROOT / "runtime/leading.c",
    ROOT / "runtime/leading_peers.c",
    ROOT / "runtime/wire.c",
    *(ROOT / "shm" / f"{name}.c" for name in ("ring", "doorbell", "histogram", "calls")),
]


def test_plain_and_odd_slots_report_nothing_and_break_no_promise(tmp_path: Path) -> None:
    program = compile_harness(tmp_path, "leading_harness", SOURCES)
    first = random.randrange(2**32)
    print(f"first seed {first}")

    totals: Counter[str] = Counter()
    for seed in range(first, first + 4):  # One seed alone may stand still early.
        totals.update(run_harness(program, seed, 20_000))
    assert min(totals.values()) > 0, f"the harness does not reach everything: {totals}"
