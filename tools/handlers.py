"""Which handlers the time of logic goes to, by looking often where logic is.

Logic writes its place into mapped memory before each command (runtime/position.py), for the supervisor's sake. Reading those words
costs it nothing; a look that finds it applying counts for the message that it names. So shares of time are found, with the error
of a sample, and no calls. What the machine itself does before a handler runs counts for the command before it.
"""

from collections import Counter
from pathlib import Path

from attrs import define, field, frozen

from ..actors import App
from ..runtime.discovery import load_app
from ..runtime.errors import OperatorError
from ..runtime.position import IDLE, MESSAGE, QUERYING, RUNNING, Position

IDLE_NAME = "(between entries)"
QUERY_NAME = "(a query)"


@frozen
class Share:
    """One message: how much of the looks found its handler, and how much of the time logic applied."""

    message: str
    actor: str
    looks: int
    of_all: float
    of_applying: float


@define
class Looks:
    """Counts what logic was found at."""

    position: Position
    app: App | None
    found: Counter[int] = field(factory=Counter[int], init=False)
    idle: int = field(default=0, init=False)
    querying: int = field(default=0, init=False)

    @classmethod
    def at(cls, directory: Path, app_name: str | None) -> "Looks | None":
        """Of a replica's directory; None where logic has never been. The app is there for names alone."""
        try:
            position = Position.open(directory / "position")
        except (OSError, ValueError):
            return None
        try:
            app = load_app(app_name) if app_name else None
        except OperatorError:
            app = None
        return cls(position, app)

    def look(self) -> None:
        """Once."""
        words = self.position.words
        running, message = words[RUNNING], words[MESSAGE]
        if running == IDLE:
            self.idle += 1
        elif running == QUERYING:
            self.querying += 1
        else:
            self.found[message] += 1

    def forget(self) -> None:
        """Begin again."""
        self.found.clear()
        self.idle = self.querying = 0

    def shares(self) -> list[Share]:
        """The greatest first."""
        applying = self.found.total()
        looks = applying + self.idle + self.querying
        return [
            Share(*self.name_of(message), count, count / looks, count / applying)
            for message, count in self.found.most_common()
        ]

    def name_of(self, message_id: int) -> tuple[str, str]:
        """(message, actor type), as far as the app is known here."""
        route = None if self.app is None else self.app.commands.get(message_id)
        if route is not None:
            return route.message.__name__, route.actor.name
        return (f"message {message_id}" if message_id else "(opening and closing sessions)"), "-"
