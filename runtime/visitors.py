"""What clients that speak Redis's protocol may say, as the gateway's C wants to know it (door.h).

Three kinds of commands: those that need no actor; those of the cache, if the app has one; and the app's own verbs. The
gateway looks up a name, counts the words, knows whether it reads, and converts a verb's arguments; it knows nothing else of
a command.
"""

from typing import TYPE_CHECKING

from attrs import frozen

from ..actors import App, cache
from ..actors.app import encode_key
from ..actors.message import message_version
from ..actors.verbs import Verb
from ._wire import ffi, lib
from .errors import OperatorError

if TYPE_CHECKING:
    from ._wire import CData

NS_PER_S = 1_000_000_000
ANSWER_NS = 30 * NS_PER_S
"""How long a client waits for the replica before it is told that nobody knows."""
SPARE_BYTES = 160
"""Of a frame: its head, an opening before it, the key, and what the body has around the arguments."""
DATABASE = 0

# Name, words with the name as Redis counts them, and whether it may stand in a transaction.
COURTESIES = (
    ("PING", -1, True),
    ("ECHO", 2, True),
    ("SELECT", 2, True),
    ("HELLO", -1, False),
    ("CLIENT", -2, False),
    ("COMMAND", -1, False),
    ("CONFIG", -2, False),
    ("INFO", -1, False),
    ("AUTH", -2, False),
    ("QUIT", -1, False),
    ("MULTI", 1, False),
    ("EXEC", 1, False),
    ("DISCARD", 1, False),
)
"""In the order of door.h's enum courtesy."""

VALUES = {"text": 0, "bytes": 1, "integer": 2, "real": 3, "boolean": 4}
"""enum door_value."""


@frozen
class Vocabulary:
    """Everything that may be said."""

    cache: bool
    verbs: tuple[Verb, ...]

    @classmethod
    def of(cls, app: App) -> "Vocabulary":
        """What this app offers; OperatorError if it is nothing."""
        offers_cache = cache.Execute in {route.message for route in app.commands.values()}
        if not offers_cache and not app.verbs:
            raise OperatorError(
                f"App {app.name!r} has nothing to say to Redis's clients: leave out --resp, or give it "
                'commands, App(..., resp={"ORDER.NEW": NewOrder}), or the actor leftfold.actors.cache.Cache.'
            )
        known = {name for name, _, _ in COURTESIES} | {name.decode() for name in cache.COMMANDS}
        for verb in app.verbs.values():
            if verb.name in known:
                raise OperatorError(
                    f"{verb.name} is a command of Redis: call yours {app.name.upper()}.{verb.name}."
                )
        return cls(offers_cache, tuple(app.verbs.values()))


def admit(
    gate: "CData", vocabulary: Vocabulary, frame_bytes_max: int, output_bytes_max: int
) -> None:
    """Let the gate have visitors, who may say this."""
    limits = ffi.new("struct door_limits *")
    limits.request_bytes_max = frame_bytes_max - SPARE_BYTES
    limits.output_bytes_pause = output_bytes_max // 4
    limits.execute_id = cache.Execute.__message_id__  # type: ignore[attr-defined]
    limits.execute_version = message_version(cache.Execute)
    limits.read_id = cache.Read.__message_id__  # type: ignore[attr-defined]
    limits.read_version = message_version(cache.Read)
    key = encode_key(int, DATABASE)
    limits.key_bytes = len(key)
    ffi.memmove(limits.key, key, len(key))
    limits.answer_ns = ANSWER_NS
    if lib.door_open(gate, limits) != 0:
        raise MemoryError("no memory for the door's tables")
    for number, (name, arity, queueable) in enumerate(COURTESIES, 1):
        if vocabulary.cache or name not in ("MULTI", "EXEC", "DISCARD"):
            _add(gate, name, arity, kind=lib.DOOR_COURTESY, courtesy=number, queueable=queueable)
    if vocabulary.cache:
        for written, entry in cache.COMMANDS.items():
            name = written.decode()
            if name not in ("PING", "ECHO", "SELECT"):
                _add(
                    gate, name, entry.arity, kind=lib.DOOR_CACHE, reads=entry.reads, queueable=True
                )
    for verb in vocabulary.verbs:
        _add_verb(gate, verb)


def _add_verb(gate: "CData", verb: Verb) -> None:
    fields = [
        {"name_bytes": len(name.encode()), "value": VALUES[value], "name": name.encode()}
        for name, value in verb.fields
    ]
    _add(
        gate,
        verb.name,
        -(2 + verb.required),
        kind=lib.DOOR_APP,
        reads=verb.reads,
        words_max=2 + len(fields),
        message_id=verb.route.message_id,
        version=verb.route.versions.current,
        key=VALUES[verb.key],
        fields_count=len(fields),
        fields=fields,
    )


def _add(gate: "CData", name: str, arity: int, **more: object) -> None:
    given = {"name": name.encode(), "name_bytes": len(name), "arity": arity, **more}
    if lib.door_add(gate, ffi.new("struct door_command *", given)) != 0:
        raise OperatorError(f"There are too many commands, or two called {name}.")
