"""Where the processes of a replica spend their time, by function: py-spy looks at their stacks from outside.

py-spy is not needed to run a replica; where it is missing, or may not look (it needs the right to trace: ptrace), the reason
is given in its place, as a sentence.
"""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import define, frozen

RATE_PER_S = 99
GRACE_S = 30.0
MISSING = "py-spy is not installed: pip install py-spy, and profile again."


@frozen
class Flame:
    """The stacks of one process: a tree, or why there is none."""

    tree: dict[str, Any] | None
    why: str = ""


@define
class Flames:
    """The samplers that run, one for each process."""

    started: dict[str, subprocess.Popen[bytes]]
    place: Path

    @classmethod
    def start(cls, pids: Mapping[str, int], seconds: float, place: Path) -> "Flames":
        """Look at each of the processes for so long; what is found goes to files in `place`."""
        program = find()
        if program is None:
            return cls({}, place)
        return cls(
            {
                name: subprocess.Popen(
                    [
                        *(program, "record", "--pid", str(pid), "--format", "raw", "--function"),
                        *("--rate", str(RATE_PER_S), "--duration", str(max(1, round(seconds)))),
                        *("--output", str(place / name), "--nonblocking"),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                )
                for name, pid in pids.items()
            },
            place,
        )

    def collect(self) -> dict[str, Flame]:
        """Wait until all are done."""
        return {name: self._collected(name, process) for name, process in self.started.items()}

    def _collected(self, name: str, process: subprocess.Popen[bytes]) -> Flame:
        try:
            _, errors = process.communicate(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return Flame(None, f"py-spy did not come to an end within {GRACE_S:.0f} s more.")
        try:
            text = (self.place / name).read_text()
        except OSError:
            text = ""
        if process.returncode or not text.strip():
            return Flame(None, _why(errors.decode(errors="replace"), process.returncode))
        return Flame(tree_of(text))


def find() -> str | None:
    """Where py-spy is: beside this Python, or on the path."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy")


def tree_of(text: str) -> dict[str, Any]:
    """Lines of `frame;frame;frame count` as one tree: name, value (its own and all below), children."""
    root: dict[str, Any] = {"name": "all", "value": 0, "children": {}}
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        if not stack or not count.isdecimal():
            continue
        node = root
        node["value"] += int(count)
        for frame in stack.split(";"):
            node = node["children"].setdefault(frame, {"name": frame, "value": 0, "children": {}})
            node["value"] += int(count)
    return _listed(root)


def _listed(node: dict[str, Any]) -> dict[str, Any]:
    children = sorted(node["children"].values(), key=lambda child: (-child["value"], child["name"]))
    return node | {"children": [_listed(child) for child in children]}


def _why(errors: str, code: int) -> str:
    if "permission denied" in errors.lower() or "not permitted" in errors.lower():
        return (
            "py-spy may not look into the processes: profile as root, or allow it to trace (in a container "
            "--cap-add SYS_PTRACE, else kernel.yama.ptrace_scope)."
        )
    said = " ".join(errors.split())[-300:]
    return f"py-spy found no stacks (code {code}): {said}" if said else "It slept all the time."
