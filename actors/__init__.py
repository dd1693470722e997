"""Domain actors: what an application imports. See design and the files' own texts.

`Machine`, `Limits`, `Outputs` and the slots are for the process that runs an App; import them from
their files. Nothing in this package does I/O, reads a clock or knows of rings and Raft.
"""

from .actor import actor, handler, on_timer, query, state
from .app import App
from .context import Context
from .errors import ActorsError, DefinitionError, Rejected, TargetQuarantined
from .message import Command, message
from .versions import Fields, upcast

__all__ = [
    "ActorsError",
    "App",
    "Command",
    "Context",
    "DefinitionError",
    "Fields",
    "Rejected",
    "TargetQuarantined",
    "actor",
    "handler",
    "message",
    "on_timer",
    "query",
    "state",
    "upcast",
]
