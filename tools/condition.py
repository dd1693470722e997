"""The expression of `leftfold replay --until`: Python over the state after a command.

    Account["alice"].cents < 0
    state(Account, "alice").cents > 100 and index > 1000
    any(account.cents < 0 for account in Account.values())
    isinstance(message, Withdraw) and status == "REJECTED"

Names: every actor class of the app, which is a mapping from keys to live actors; every message
class; and of the command just applied `index`, `ordinal`, `time_ns`, `actor`, `key`, `message`,
`status`, `reply`, `reason`. What does not apply is None. An expression that asks for an actor that
does not exist yet, or for a field that this message has not, does not hold there; one that can
nowhere be evaluated is refused. It may look at the state and must not change it.
"""

import ast
import builtins
import difflib
from collections.abc import Iterator, Mapping
from types import CodeType
from typing import Any

from attrs import define, field, frozen

from ..actors import App
from ..actors.app import ActorType, Key, decode_key, encode_key
from ..actors.fold import State
from ..runtime.errors import OperatorError

COMMAND_NAMES = (
    "index",
    "ordinal",
    "time_ns",
    "actor",
    "key",
    "message",
    "status",
    "reply",
    "reason",
)
BUILTINS = frozenset(vars(builtins))
REPLY_NAMES = frozenset(("status", "reply", "reason"))
MESSAGE_NAMES = frozenset(("actor", "key", "message"))


class Missing(LookupError):
    """An actor that no command has reached yet."""


@frozen(eq=False)
class Actors(Mapping[Key, Any]):
    """The live actors of one type, by key."""

    actor: ActorType
    state: State

    def __getitem__(self, key: Key) -> Any:
        try:
            return self.state.actors[self.actor.id][encode_key(self.actor.key, key)]
        except KeyError:
            raise Missing(f"there is no {self.actor.name} {key!r}") from None

    def __iter__(self) -> Iterator[Key]:
        for encoded in self.state.actors.get(self.actor.id, {}):
            yield decode_key(self.actor.key, encoded)

    def __len__(self) -> int:
        return len(self.state.actors.get(self.actor.id, {}))


@define
class Condition:
    """A compiled expression, and what became of its evaluations."""

    text: str
    uses: frozenset[str]
    """The names that it reads."""
    code: CodeType
    evaluated: int = field(default=0, init=False)
    failed: int = field(default=0, init=False)
    first_failure: str = field(default="", init=False)

    @classmethod
    def compile(cls, text: str, app: App) -> "Condition":
        """Raises OperatorError with a sentence for what is no expression over these names."""
        try:
            tree = ast.parse(text.strip(), "--until", mode="eval")
        except (SyntaxError, ValueError) as error:
            what = error.msg if isinstance(error, SyntaxError) else str(error)
            raise OperatorError(
                f"--until {text!r} is not a Python expression: {what}. "
                "Write, for example, 'Account[\"alice\"].cents < 0'."
            ) from None
        read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        own = {
            node.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        } | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        known = names_of(app)
        for name in sorted(read - own - known):
            if name not in BUILTINS:
                close = difflib.get_close_matches(name, known, 1)
                remedy = f"did you mean {close[0]}?" if close else f"it has {_listed(known)}."
                raise OperatorError(f"--until {text!r} names {name}, which is not there: {remedy}")
        return cls(text, frozenset(read), compile(tree, "--until", "eval"))

    def holds(self, names: dict[str, Any], place: tuple[int, int]) -> bool:
        """Whether it holds with these names."""
        self.evaluated += 1
        try:
            return bool(eval(self.code, names))
        except Missing:
            return False
        except Exception as error:  # noqa: BLE001 - whatever an expression raises.
            self.failed += 1
            if not self.first_failure:
                at = f"{place[0]}.{place[1]}"
                self.first_failure = f"{type(error).__name__} at {at}: {error}"
            return False


def names_of(app: App) -> set[str]:
    """What an expression may name."""
    messages = {cls.__name__ for cls in app.messages.values()}
    return messages | {actor.name for actor in app.actor_types.values()} | {"state", *COMMAND_NAMES}


def namespace(app: App, state: State) -> dict[str, Any]:
    """The names that stay the same from command to command."""
    actors = {actor.name: Actors(actor, state) for actor in app.actor_types.values()}

    def find(actor: Actors | str, key: Key) -> Any:
        """`state(Account, "alice")` is `Account["alice"]`."""
        return (actors[actor] if isinstance(actor, str) else actor)[key]

    messages = {cls.__name__: cls for cls in app.messages.values()}
    return messages | actors | {"state": find} | dict.fromkeys(COMMAND_NAMES)


def _listed(known: set[str]) -> str:
    return ", ".join(sorted(known))
