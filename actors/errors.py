"""What can go wrong among the actors, in one small tree.

`Rejected` stands apart: it is a handler's normal answer "no", not an error. Everything else is an
`ActorsError`: a mistake in a class (`DefinitionError`, found when the class or the App is made), a
misuse of the context (raised inside a handler, and so a failure of that command alone), or a
snapshot that cannot be written or read. The texts name the class and the remedy. Failures that
happen while the log is folded are not raised to the caller at all: they are replies.
"""


class Rejected(Exception):
    """Raise it in a handler, before anything was changed, to answer "no" with a reason."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class TargetQuarantined(Rejected):
    """`send` refused, since the receiving actor is quarantined. Send before changing state."""


class ActorsError(Exception):
    """The root of this tree."""


class DefinitionError(ActorsError, TypeError):
    """A message class, an actor class or an App breaks a rule; the text names the remedy."""


class ContextMisuse(ActorsError, TypeError):
    """A handler asked its context for something that is not allowed there."""


class LimitExceeded(ActorsError):
    """One command sent, emitted or scheduled more than the limits allow."""


class StrictViolation(ActorsError, AssertionError):
    """Strict mode, for tests, found state that would not survive a snapshot, or a mutation."""


class SnapshotError(ActorsError):
    """A snapshot cannot be written or read."""


class StateNotEncodable(SnapshotError):
    """An actor holds a value that a snapshot cannot carry; the text names the actor."""


class SnapshotRefused(SnapshotError):
    """The chunks are incomplete, corrupt, or written by an App that does not fit."""


class UnreadableVersion(ActorsError):
    """A value is of a version that its class does not read; the text names both versions."""


class UpcastFailed(ActorsError):
    """An upcaster raised, or returned no fields; the text names it."""
