"""Thousands of random histories of a simulated cluster, with what they had in them.

    python -m tests.raft_campaign [--seeds N] [--first S] [--steps N] [--failures-max N] [--trace]

Seeds S … S + N - 1, each at least 500 steps and then a time in which all works. It fails if one of
them breaks safety or does not come to agree, and prints the command that plays it again (with
--trace: what happened, to the end). It fails too if the histories together lacked anything of
NEEDED: a campaign without elections proves nothing.
"""

import argparse
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from raft_chaos import Chaos

STEPS = 600
NEEDED = (
    "elections",
    "overwritten tails",
    "installed snapshots",
    "joint changes",
    "lost unsynced tails",
    "repaired logs",
)
TRACE_LINES = 200


def play(seed: int, steps: int, lines: list[str] | None = None) -> tuple[Counter[str], str]:
    """One history: what was in it, and how it failed (empty: it did not)."""
    chaos = Chaos(seed)
    if lines is not None:
        chaos.cluster.trace = lines.append
    try:
        chaos.run(steps)
    except Exception as error:  # noqa: BLE001 - whatever it is, its seed is what matters
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        return chaos.cluster.counts, f"{type(error).__name__} at {where}: {error}"
    return chaos.cluster.counts, ""


def campaign(
    first: int, seeds: int, steps: int, failures_max: int = 20
) -> tuple[Counter[str], list[str]]:
    """Many histories: what was in all of them, and a line for each that failed, up to a number."""
    counts, failures = Counter[str](), list[str]()
    for seed in range(first, first + seeds):
        had, failure = play(seed, steps)
        counts.update(had)
        if failure:
            command = (
                f"python -m tests.raft_campaign --seeds 1 --first {seed} --steps {steps} --trace"
            )
            failures.append(f"seed {seed}: {failure}\n    {command}")
            if len(failures) >= failures_max:
                break
    return counts, failures


def main() -> int:
    parser = argparse.ArgumentParser(description="Random histories of a simulated Raft cluster.")
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--failures-max", type=int, default=20)
    parser.add_argument("--trace", action="store_true")
    arguments = parser.parse_args()
    if arguments.trace:
        lines: list[str] = []
        _, failure = play(arguments.first, arguments.steps, lines)
        print("\n".join([*lines[-TRACE_LINES:], failure or "It came to a good end."]))
        return bool(failure)

    began = time.monotonic()
    counts, failures = campaign(
        arguments.first, arguments.seeds, arguments.steps, arguments.failures_max
    )
    print(
        f"{arguments.seeds} histories of {arguments.steps} steps from seed {arguments.first}, ",
        end="",
    )
    print(f"{time.monotonic() - began:.0f} s:")
    for name, count in sorted(counts.items()):
        print(f"  {count:9,}  {name}")
    lacking = [name for name in NEEDED if not counts[name]]
    for line in failures:
        print(line)
    if lacking:
        print(f"None of these histories had {', '.join(lacking)}: more seeds, or a broken test.")
    return bool(failures or lacking)


if __name__ == "__main__":
    sys.exit(main())
