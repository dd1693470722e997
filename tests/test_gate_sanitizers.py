"""The C of the gateway, and the short roads of the others, under the address and undefined-behaviour sanitizers, fed with broken frames from a seed."""

import random
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = [
    ROOT / "runtime" / f"{name}.c"
    for name in (
        "wire",
        "gate",
        "scatter",
        "sockets",
        "routes",
        "subscriptions",
        "resp",
        "courtesies",
        "door",
        "door_answers",
    )
]
FLAGS = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-format"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


SHM_SOURCES = [ROOT / "shm" / f"{name}.c" for name in ("ring", "doorbell", "histogram", "calls")]
LOOP_SOURCES = [*SOURCES, ROOT / "runtime/loop.c", ROOT / "runtime/carrier.c", *SHM_SOURCES]
ROADS_SOURCES = [
    *(ROOT / "runtime" / f"{name}.c" for name in ("wire", "batch", "carrier", "passage")),
    *SHM_SOURCES,
]


def compile_harness(
    directory: Path, name: str = "gate_harness", sources: list[Path] = SOURCES
) -> Path:
    program = directory / name
    command = [
        "cc",
        *FLAGS,
        *SANITIZE,
        f"-I{ROOT / 'runtime'}",
        f"-I{ROOT / 'shm'}",
        str(ROOT / f"tests/c/{name}.c"),
    ]
    built = subprocess.run(
        [*command, *map(str, sources), "-pthread", "-o", str(program)],
        check=False,
        capture_output=True,
        text=True,
    )
    if built.returncode and "cannot find" in built.stderr and "san" in built.stderr:
        pytest.skip("this compiler has no address sanitizer")
    assert built.returncode == 0, built.stderr
    return program


def run_harness(program: Path, seed: int, rounds: int) -> dict[str, int]:
    ran = subprocess.run(
        [program, str(seed), str(rounds)], check=False, capture_output=True, text=True
    )
    assert ran.returncode == 0, f"seed {seed}\n{ran.stderr}"
    words = ran.stdout.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def test_broken_frames_and_hostile_timing_report_nothing(tmp_path: Path) -> None:
    program = compile_harness(tmp_path)
    seed = random.randrange(2**32)
    print(f"seed {seed}")

    totals = run_harness(program, seed, 20_000)

    assert min(totals.values()) > 0, f"the harness does not reach everything: {totals}"


def test_the_loop_between_real_sockets_and_rings_and_the_fold_report_nothing(
    tmp_path: Path,
) -> None:
    program = compile_harness(tmp_path, "loop_harness", LOOP_SOURCES)
    seed = random.randrange(2**32)
    print(f"seed {seed}")

    totals = run_harness(program, seed, 20_000)

    assert min(totals.values()) > 0, f"the harness does not reach everything: {totals}"


def test_the_short_roads_of_journal_peers_and_logic_report_nothing(tmp_path: Path) -> None:
    program = compile_harness(tmp_path, "roads_harness", ROADS_SOURCES)
    seed = random.randrange(2**32)
    print(f"seed {seed}")

    totals = run_harness(program, seed, 20_000)

    assert min(totals.values()) > 0, f"the harness does not reach everything: {totals}"


@pytest.mark.campaign
def test_many_seeds_report_nothing(tmp_path: Path) -> None:
    program = compile_harness(tmp_path)
    first = random.randrange(2**32)
    for seed in range(first, first + 50):
        run_harness(program, seed, 100_000)
