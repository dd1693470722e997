"""The C of the rings under the thread, address and undefined-behaviour sanitizers, in threads.

The thread sanitizer sees threads over one mapping only, so this is the harness and not two
processes. A mutant with a weakened order shows that it would have seen a missing release or
acquire.
"""

import random
import subprocess
from pathlib import Path

import pytest
from ring_harness import ROOT, compile_harness

pytestmark = pytest.mark.xdist_group("serial")

SANITIZERS = {"thread": "-fsanitize=thread", "address": "-fsanitize=address,undefined"}


def run_threads(program: Path, producers: int, messages: int, kind: str) -> tuple[int, str]:
    seed = random.randrange(1, 2**31)
    print(f"seed {seed}")
    found = subprocess.run(
        [str(program), "threads", str(producers), str(messages), str(seed), kind],
        check=False,
        capture_output=True,
        text=True,
    )
    return found.returncode, found.stdout + found.stderr


def compile_sanitized(directory: Path, sanitizer: str, sources: Path = ROOT / "shm") -> Path:
    try:
        return compile_harness(
            directory, SANITIZERS[sanitizer], "-fno-sanitize-recover=all", sources=sources
        )
    except subprocess.CalledProcessError:
        plain = directory / "plain"
        plain.mkdir()
        compile_harness(plain)  # So that only the sanitizer can be what is missing.
        pytest.skip(f"this compiler has no {sanitizer} sanitizer")


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_threads_that_wake_one_another_report_nothing(tmp_path: Path, sanitizer: str) -> None:
    program = compile_sanitized(tmp_path, sanitizer)
    for kind in ("semaphore", "eventfd"):
        for producers in (1, 4):
            code, output = run_threads(program, producers, 20_000, kind)

            assert code == 0, output
            assert "rescues 0" in output
            assert "Sanitizer" not in output


@pytest.mark.parametrize(
    ("function", "order"),
    [
        ("static void publish_tail", "memory_order_seq_cst"),
        ("static void publish_head", "memory_order_seq_cst"),
        ("static uint64_t find_space", "memory_order_acquire"),
        ("static uint64_t bytes_there", "memory_order_acquire"),
    ],
)
def test_the_thread_sanitizer_sees_each_order_that_is_taken_away(
    tmp_path: Path, function: str, order: str
) -> None:
    """With the doorbell blinded, since its own orders would stand in for the missing one."""
    files = (f"{name}.{suffix}" for name in ("ring", "doorbell", "histogram") for suffix in "ch")
    for name in files:
        text = (ROOT / "shm" / name).read_text()
        if name == "ring.c":
            before, start, rest = text.partition(function)
            assert start
            assert order in rest
            text = before + start + rest.replace(order, "memory_order_relaxed", 1)
            before, start, rest = text.partition("int ring_ready(")
            text = before + start + rest.replace("memory_order_seq_cst", "memory_order_relaxed")
        (tmp_path / name).write_text(text)
    program = compile_sanitized(tmp_path, "thread", tmp_path)
    reports = (run_threads(program, 1, 2_000, "semaphore") for _ in range(20))

    assert any("data race" in output for _, output in reports)
