"""What the last commands of a log are answered by the app as it is now, as JSON lines.

`leftfold dev` runs this twice, as a process of its own, under the old sources and under the new
ones, and compares. Everything before the last commands is folded too, since they stand on it.

    python -P -m leftfold.tools.replies DIRECTORY APP SOURCES COUNT
"""

import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ..actors import App
from ..actors.layout import COMMAND, REPLY, EntryKind, SlotType, Status
from ..actors.machine import Outputs
from ..runtime.discovery import load_app
from ..runtime.errors import OperatorError
from ..runtime.slots import slots_of
from .decoding import Line, lines_of
from .fold import apply, begin
from .history import History, open_history
from .outputs import answer


def last_places(history: History, count: int) -> set[tuple[int, int]]:
    """(index, ordinal) of the last `count` commands that can be folded."""
    places: deque[tuple[int, int]] = deque(maxlen=count)
    for entry, body in history.entries((history.earliest or 0) + 1, history.last):
        if entry.kind == EntryKind.COMMANDS:
            for ordinal, (kind, _, _) in enumerate(slots_of(body)):
                if kind == SlotType.COMMAND:
                    places.append((entry.index, ordinal))
    return set(places)


def replies(history: History, app: App, count: int) -> Iterator[Line]:
    """The last commands with what the app answers them."""
    wanted = last_places(history, count)
    indexes = {index for index, _ in wanted}
    outputs = Outputs()
    machine = begin(history, app, min(indexes, default=history.last + 1) - 1)
    for entry, body in history.entries(machine.state.index + 1, history.last):
        apply(machine, entry, body, outputs)
        if entry.index in indexes:
            answers = _answers(outputs.egress, app)
            requests = [_request_of(slot) for _, _, slot in slots_of(body)]
            for line in lines_of(entry, body, app):
                ordinal: int = line["ordinal"]
                if (entry.index, ordinal) in wanted:
                    # A request that is sent again is answered with the reply of the first time.
                    yield line | {"reply": answers.get(requests[ordinal])}
        outputs.egress.clear()


def _request_of(slot: memoryview) -> tuple[bytes, int]:
    _, _, _, session, request, _, _, _ = COMMAND.unpack_from(slot)
    return session, request


def _answers(egress: bytearray, app: App) -> dict[tuple[bytes, int], Line]:
    """The replies of a run, by session and request."""
    found: dict[tuple[bytes, int], Line] = {}
    for kind, tag, slot in slots_of(memoryview(bytes(egress))):
        if kind == SlotType.REPLY:
            _, _, _, session, request, _, _, status, version = REPLY.unpack_from(slot)
            content = bytes(slot[REPLY.size :])
            found[session, request] = answer(app, tag, Status(status), content, version)
    return found


def main() -> int:
    """Print the lines; a sentence on stderr and code 1 where the app cannot be loaded."""
    directory, name, sources, count = sys.argv[1:]
    try:
        app = load_app(name, Path(sources))
        for line in replies(open_history(Path(directory)), app, int(count)):
            sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    except OperatorError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
