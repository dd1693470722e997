"""`leftfold state`: one actor as JSON, of a running replica or of a directory at any place.

A running replica is asked by a query: the answer holds all that was acknowledged before, and leaves
no trace in the log. A directory is folded to the place, from the nearest snapshot, without writing.
"""

import difflib
import sys
from itertools import islice
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from ..actors import App
from ..actors.app import ActorType, Key, encode_key
from ..actors.layout import Status
from ..actors.machine import Machine
from ..runtime import frames
from ..runtime.discovery import load_app
from ..runtime.errors import OperatorError
from ..runtime.identity import load_identity
from .decoding import Line
from .fold import check_index, fold, restart_in_environment_of
from .history import open_history
from .inquiry import Address, Inquiry, address_of, parse_address
from .place import parse_place

DEFAULT_DIRECTORY = Path("leftfold-data")
KEYS_COMPARED_MAX = 100_000


def state(
    actor: str,
    key: str,
    /,
    *,
    directory: Annotated[Path, Parameter(name=["--dir", "-d"])] = DEFAULT_DIRECTORY,
    address: str | None = None,
    at: str | None = None,
    app: str | None = None,
) -> None:
    """Print one actor's state as JSON: of a running replica, or of a directory at any place.

    Parameters
    ----------
    actor
        The actor's class.
    key
        Its key, as text; a key of bytes in hexadecimal.
    directory
        The replica's directory. While the replica runs, and without --at, it is asked; otherwise
        its log is folded.
    address
        Ask the replica that listens at HOST:PORT instead.
    at
        The state in the directory after INDEX or INDEX.ORDINAL. Default: the end of the log.
    app
        The app as module:attribute. Default: the one that the directory names.
    """
    if address is not None and at is not None:
        raise OperatorError(
            "--at folds the log of a directory: give --dir in place of --address, or no --at."
        )
    asked = parse_address(address) if address else address_of(directory) if at is None else None
    if asked is not None:
        found = _ask(asked, actor, key, _app_for_keys(app, address, directory))
    else:
        found = _fold(directory, actor, key, at, app)
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    sys.stdout.buffer.flush()


def actor_named(app: App, name: str) -> ActorType:
    """The actor type of this name. Raises OperatorError that says which there are."""
    known = {actor.name: actor for actor in app.actor_types.values()}
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, 1)
    remedy = f"did you mean {close[0]}?" if close else f"it has {', '.join(sorted(known))}."
    raise OperatorError(f"The app has no actor {name}: {remedy}")


def parse_key(actor: ActorType, text: str) -> Key:
    """The key that a person wrote, in the type that the actor's keys have."""
    try:
        if actor.key is int:
            key: Key = int(text)
        elif actor.key is bytes:
            key = bytes.fromhex(text)
        else:
            key = text
        encode_key(actor.key, key)
        return key
    except (ValueError, OverflowError):
        wanted = "a whole number of 64 bits" if actor.key is int else "bytes in hexadecimal"
        raise OperatorError(f"{text!r} is no key of {actor.name}: write {wanted}.") from None


# A directory


def _fold(directory: Path, actor: str, key: str, at: str | None, app: str | None) -> Line:
    history = open_history(directory)
    restart_in_environment_of(history.identity)
    loaded = load_app(app or history.identity.app)
    type_ = actor_named(loaded, actor)
    parsed = parse_key(type_, key)
    index, ordinal = parse_place(at) if at else (history.last, None)
    check_index(history, index)
    machine = fold(history, loaded, index, ordinal)
    try:
        described = machine.describe(type_.cls, parsed)
    except KeyError:
        raise OperatorError(_missing(machine, type_, parsed, at)) from None
    place = {"index": index, "ordinal": ordinal, "time_ns": machine.state.time_ns}
    return described | place


def _missing(machine: Machine, actor: ActorType, key: Key, at: str | None) -> str:
    where = f"at {at}" if at else "at the end of the log"
    instances = machine.state.actors.get(actor.id, {})
    close: list[str] = []
    if isinstance(key, str):
        keys = [encoded.decode() for encoded in islice(instances, KEYS_COMPARED_MAX)]
        close = difflib.get_close_matches(key, keys, 1)
    count = len(instances)
    others = "there is 1 other." if count == 1 else f"there are {count} others."
    remedy = f"did you mean {close[0]!r}?" if close else others
    return f"No command has reached {actor.name} {key!r} {where}: {remedy}"


# A running replica


def _app_for_keys(app: str | None, address: str | None, directory: Path) -> App | None:
    """The app, if it can be had here: it knows the type of the keys."""
    if app is not None:
        return load_app(app)
    if address is not None:
        return None
    try:
        return load_app(load_identity(directory).app)
    except OperatorError:
        return None


def _ask(address: Address, actor: str, key: str, app: App | None) -> Line:
    if app is not None:
        type_ = actor_named(app, actor)
        keys = [encode_key(type_.key, parse_key(type_, key))]
    else:
        keys = _readings(key)
    with Inquiry(address) as inquiry:
        answer = inquiry.inspect(actor, keys[0])
        for other in keys[1:]:
            if answer.status == Status.NO_SUCH_ACTOR:
                again = inquiry.inspect(actor, other)
                answer = answer if again.status == Status.NO_SUCH_ACTOR else again
    if answer.status != Status.OK:
        raise OperatorError(_refusal(answer))
    found: Line = msgspec.json.decode(answer.body)
    return found | {"index": answer.index}


def _readings(text: str) -> list[bytes]:
    """What a key may be whose type is not known: text, a number, bytes."""
    readings = [text.encode()]
    try:
        readings.append(encode_key(int, int(text)))
    except (ValueError, OverflowError):
        pass
    try:
        readings.append(bytes.fromhex(text))
    except ValueError:
        pass
    return readings


def _refusal(answer: frames.Answer) -> str:
    text = frames.failure_text(answer.body)
    sentence = text[:1].upper() + text[1:]
    if answer.status == Status.REPLY_TOO_LARGE:
        return f"{sentence}: `leftfold state --dir DIR --at {answer.index}` prints it."
    return f"{sentence}."
