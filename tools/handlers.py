"""What each handler does: how often it was called and what it takes, in a window.

Logic counts every call, and times the first of each handler and about one in 32 later (actors/handlers.c); from these the time
of all is told, with the error of a sample. It is the handler's own time: decoding, encoding and keeping the reply are not in it, nor are
the handlers of what it sends, which have rows of their own. The app gives the names; where it cannot be imported, ids are shown.
"""

from attrs import define, frozen

from ..actors import App
from ..actors.layout import HANDLER_WORDS
from ..runtime.discovery import load_app
from ..runtime.errors import OperatorError
from ..runtime.topology import LOGIC
from .reading import Reading, Window

WORDS = "handlers"
OTHERS = "(all others)"


@frozen
class Handled:
    """One handler in a window."""

    message: str
    actor: str
    handler: str
    calls: int
    each_ns: float | None
    """None: no call was timed yet."""
    share: float
    """Of all time in the window, or of all handlers' where there is no window."""
    calls_per_s: float | None


@define
class Names:
    """Who takes which message."""

    app: App | None

    @classmethod
    def of(cls, app_name: str | None) -> "Names":
        """Of the app that a replica names."""
        try:
            return cls(load_app(app_name) if app_name else None)
        except OperatorError:
            return cls(None)

    def of_message(self, id: int) -> tuple[str, str, str]:
        """(message, actor type, method)."""
        if not id:
            return OTHERS, "-", "-"
        if self.app is not None:
            for routes in (self.app.commands, self.app.queries, self.app.timers):
                if id in routes:
                    route = routes[id]
                    return route.message.__name__, route.actor.name, route.method.name
        return f"message {id}", "-", "-"


def handled(window: Window, names: Names) -> list[Handled]:
    """Those that were called, the one with the most time first."""
    whole = counted(window.after)
    before = {} if window.before is window.after else counted(window.before)
    rows: list[tuple[int, int, float | None]] = []
    for id, (calls, timed, timed_ns) in whole.items():
        was = before.get(id, (0, 0, 0))
        if calls < was[0]:  # Another start's file.
            was = (0, 0, 0)
        if calls == was[0]:
            continue
        # Too few for a sample in the window: what it took on the whole.
        each = timed_ns / timed if timed else None
        if timed > was[1]:
            each = (timed_ns - was[2]) / (timed - was[1])
        rows.append((id, calls - was[0], each))
    all_ns = sum(calls * (each or 0.0) for _, calls, each in rows)
    span_ns = window.seconds * 1e9 or all_ns
    found = [
        Handled(
            *names.of_message(id),
            calls,
            each,
            calls * (each or 0.0) / span_ns if span_ns else 0.0,
            calls / window.seconds if window.seconds else None,
        )
        for id, calls, each in rows
    ]
    return sorted(found, key=lambda one: (-one.share, -one.calls, one.message))


def counted(reading: Reading) -> dict[int, tuple[int, int, int]]:
    """(calls, timed calls, their ns) by message id; 0: those without a row of their own."""
    logic = reading.roles.get(LOGIC)
    words = () if logic is None else logic.words.get(WORDS, ())
    found: dict[int, tuple[int, int, int]] = {}
    for at in range(0, len(words), HANDLER_WORDS):
        id, calls, timed, timed_ns = (words[at + word] for word in range(HANDLER_WORDS))
        if calls:
            found[id] = (calls, timed, timed_ns)
    return found
