"""What another build of the app wrote into the log, and whether this code can read it: a message that it has no more, or
reads no more, is named before anything is served, and not passed over with an error that nobody is there to receive.

Only what an operator has accepted comes here (tail.py). What a client sent that no build could ever read looks the same;
so there are two ways on: the old code, or leaving the command out, for ever.
"""

from collections.abc import Container
from typing import NoReturn

from ..actors import App
from ..actors.layout import COMMAND, SlotType
from .errors import OperatorError
from .slots import slots_of

Place = tuple[int, int]


def check_legible(
    app: App, index: int, body: memoryview, build: str, skips: Container[Place]
) -> None:
    """Read the commands of an entry. Raises OperatorError at the first that this code cannot read."""
    for ordinal, (kind, message_id, slot) in enumerate(slots_of(body)):
        if kind != SlotType.COMMAND or (index, ordinal) in skips:
            continue
        _, _, _, _, _, _, key_bytes, version = COMMAND.unpack_from(slot)
        key_at, body_at = COMMAND.size, COMMAND.size + key_bytes
        route = app.commands.get(message_id)
        if route is None:
            held = app.messages.get(message_id)
            what = f"message {message_id}" + (f" ({held.__name__})" if held else "")
            why = f"which no handler of App {app.name!r} takes: put the class and its handler back, which may raise "
            _refuse(index, ordinal, f"{what}, {why}Rejected", build)
        try:
            app.decode_key(route.actor.id, bytes(slot[key_at:body_at]))
            app.decode(message_id, bytes(slot[body_at:]), version)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - upcasters and classes may raise anything
            what = f"message {message_id} ({route.message.__name__}) of version {version}"
            _refuse(index, ordinal, f"{what}, which this code cannot read: {error}", build)


def _refuse(index: int, ordinal: int, what: str, build: str) -> NoReturn:
    raise OperatorError(
        f"Command {index}.{ordinal} was written under build {build} and is {what}; or start the old code and stop it "
        f"cleanly, which takes a snapshot; or leave it out for ever with --skip {index}.{ordinal}. Nothing was changed."
    )
