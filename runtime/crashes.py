"""Commands that end the logic process: counted on disk, and after three times at one place the replica is parked.

Parking keeps a poisonous command from restarting the replica for ever. What to do about it is the operator's
decision: mend the code and retry, or skip the command, which goes into the log.
"""

import json
from pathlib import Path
from typing import Any

from .errors import OperatorError

CRASHES_MAX = 3


def count(directory: Path, place: dict[str, Any]) -> str | None:
    """Note that logic ended inside the command at `place`; the sentence that parks when it was once too often."""
    record = _read(directory)
    same = record is not None and all(record.get(key) == place[key] for key in ("index", "ordinal"))
    times = int(record["times"]) + 1 if record is not None and same else 1
    _path(directory).write_text(json.dumps(place | {"times": times}))
    return _sentence(place) if times >= CRASHES_MAX else None


def refuse_if_parked(directory: Path) -> None:
    """Raise OperatorError when the replica was parked and nobody has decided yet."""
    record = _read(directory)
    if record is not None and record["times"] >= CRASHES_MAX:
        raise OperatorError(_sentence(record))


def forget(directory: Path) -> None:
    """The operator has decided: count from nought."""
    _path(directory).unlink(missing_ok=True)


def note_ready(directory: Path) -> None:
    """The replica got past its replay, so what was counted does not stand in the way any more."""
    record = _read(directory)
    if record is not None and record["times"] < CRASHES_MAX:
        forget(directory)


def _sentence(place: dict[str, Any]) -> str:
    where = f"{place['index']}.{place['ordinal']}"
    return (
        f"Parked: the command at {where} (message {place['message']}) ended the logic process {CRASHES_MAX} times. "
        f"Mend its handler and start with --retry, or start with --skip {where} to leave it out."
    )


def _path(directory: Path) -> Path:
    return directory / "crashes.json"


def _read(directory: Path) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(_path(directory).read_text())
    except (OSError, ValueError):
        return None
    return record
