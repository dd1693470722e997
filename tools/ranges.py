"""What a number on the command line may be: each option's range, checked before anything is done or made.

A number outside of it, or one that is no number (nan), is answered with one sentence that says the range.
"""

from typing import Annotated, Any

from attrs import frozen
from cyclopts import Parameter

DAY_S = 86_400.0


@frozen
class Range:
    """From the least to the most, both included."""

    least: float
    most: float

    def __call__(self, kind: Any, value: float | None) -> None:
        if value is not None and not self.least <= value <= self.most:
            raise ValueError(f"It goes from {_shown(self.least)} to {_shown(self.most)}.")


def _shown(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:g}"


def between(least: float, most: float) -> Parameter:
    """For an option: `Annotated[int, between(1, 9)]`."""
    return Parameter(validator=Range(least, most))


REPLICA_ID_MAX = 2**32 - 1

PID_MAX = 4_194_304
SEED_MAX = REQUEST_MAX = 2**63 - 1

Pid = Annotated[int | None, between(1, PID_MAX), Parameter(show=False)]
ReplicaId = Annotated[int, between(1, REPLICA_ID_MAX)]
Port = Annotated[int, between(0, 65_535)]
Seconds = Annotated[float, between(0, DAY_S)]
