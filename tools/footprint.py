"""How much memory all processes of a replica take together.

The sum is over PSS: a page that several share counts once, so that a forked child counts with what it has copied. It costs the
kernel a walk over all page tables, so it is looked at some times a second and not more.
"""

from pathlib import Path

from ..runtime.supervisor import read_status


def pss_bytes(pid: int) -> int:
    """Of one process; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def children_of(pid: int) -> list[int]:
    """The processes that its first thread has made."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in listed.split()]


def footprint(directory: Path) -> int:
    """The supervisor, the four, and logic's child if there is one."""
    pids: dict[str, int] = read_status(directory)["pids"]
    return sum(pss_bytes(pid) for pid in [*pids.values(), *children_of(pids["logic"])])
