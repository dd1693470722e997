"""Fold a replica's log and print digests and counts as JSON: what two folds are compared by.

A process of its own, since the fold needs the replica's hash seed from the interpreter's start:

    python -P -m leftfold.tools.tally DIRECTORY [INDEX]
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from attrs import frozen

from ..actors.layout import EntryKind, SlotType
from ..actors.machine import Outputs
from ..runtime.discovery import load_app
from ..runtime.errors import OperatorError
from ..runtime.slots import slots_of
from .fold import apply, entries_to, environment_of, new_machine
from .history import open_history


@frozen(kw_only=True)
class Tally:
    """A log folded up to an index."""

    index: int
    state_digest: str
    outputs_digest: str
    commands: int
    events: dict[str, int]


def tally(directory: Path, index: int | None = None) -> Tally:
    """Fold the log of a directory, up to an index or to its end, in a process of its own."""
    identity = open_history(directory).identity
    arguments = [sys.executable, "-P", "-m", "leftfold.tools.tally", str(directory)]
    ended = subprocess.run(
        [*arguments, *([] if index is None else [str(index)])],
        env=environment_of(identity),
        capture_output=True,
        check=False,
    )
    if ended.returncode:
        raise OperatorError(f"The log cannot be folded: {ended.stderr.decode().strip()}")
    return Tally(**json.loads(ended.stdout))


def main() -> int:
    """Fold here, and print."""
    directory = Path(sys.argv[1])
    try:
        print(json.dumps(_fold(directory, [int(index) for index in sys.argv[2:]])))
    except OperatorError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _fold(directory: Path, wanted: list[int]) -> dict[str, Any]:
    history = open_history(directory)
    app = load_app(history.identity.app)
    machine = new_machine(history, app)
    outputs = Outputs()
    events: Counter[str] = Counter()
    commands = 0
    for entry, body in entries_to(history, wanted[0] if wanted else history.last, None):
        apply(machine, entry, body, outputs)
        if entry.kind == EntryKind.COMMANDS:
            commands += sum(kind == SlotType.COMMAND for kind, _, _ in slots_of(body))
        for kind, tag, _ in slots_of(memoryview(bytes(outputs.egress))):
            if kind == SlotType.EVENT:
                events[app.messages[tag].__name__] += 1
        outputs.egress.clear()
    return {
        "index": machine.state.index,
        "state_digest": machine.state_digest().hex(),
        "outputs_digest": f"{machine.digest:08x}",
        "commands": commands,
        "events": dict(events),
    }


if __name__ == "__main__":
    sys.exit(main())
