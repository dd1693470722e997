"""What a client's call can raise: one class for each way in which a request can end without its reply.

    ClientError
    ├── Rejected                the domain said no, with a reason; nothing changed
    ├── ActorFailed             the handler raised: the actor is quarantined, this command changed nothing
    ├── Quarantined             an earlier command had quarantined the actor
    ├── RequestRefused          the cluster could not make sense of it, or a limit was passed
    │   ├── UnknownMessage, BadRequest, OutOfOrder, NoSuchActor, ReplyTooLarge, Skipped, …
    ├── SessionExpired          the session is gone: whether earlier unknown requests were applied cannot be asked any more
    ├── Unknown                 no answer in time: applied or not, `resolve` will tell
    ├── NotApplied              a request of an earlier process was not applied, and never will be
    ├── Unreadable              a reply or an event is of a version that this code does not read
    ├── DiskFull                the replica has no room for commands: this one was not applied, and never will be
    ├── TimedOut                a query got no answer in time
    ├── EventsLost              a subscription asked for events that are no longer kept
    └── Disconnected            no connection, and none could be made in time
        └── WrongCluster        who answers belongs to another cluster

`Rejected` here is the actors' own class, so that a test of a handler and a client catch the same thing.
"""

from ..actors.errors import Rejected
from ..actors.layout import Status
from .errors import LeftfoldError


class ClientError(LeftfoldError):
    """Anything that a client raises about a request or its connection."""


class Disconnected(ClientError):
    """There is no connection to the cluster."""


class WrongCluster(Disconnected):
    """Who answers at the address belongs to another cluster."""


class Unknown(ClientError):
    """No answer came in time. The request may still be applied, once; `resolve(unknown)` asks."""

    def __init__(self, request: int, why: str = "") -> None:
        super().__init__(f"request {request} was not answered in time{': ' + why if why else ''}")
        self.request = request


class NotApplied(ClientError):
    """A request of an earlier process was not applied, and never will be: ask anew if it is still wanted."""


class Unreadable(ClientError):
    """A reply or an event is of a version that this client's code does not read. A request was carried out."""


class DiskFull(ClientError):
    """The replica refused the command because its disk is full: it was not applied, and never will be."""


class TimedOut(ClientError, TimeoutError):
    """A query was not answered in time; ask again."""


class SessionExpired(ClientError):
    """The cluster does not know the session."""


class RequestFailed(ClientError):
    """The request was answered, with an error; `index` and `ordinal` say where in the log."""

    def __init__(self, reason: str, index: int = 0, ordinal: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.index = index
        self.ordinal = ordinal


class ActorFailed(RequestFailed):
    """The handler raised: this command changed nothing, and the actors it touched are quarantined."""


class Quarantined(RequestFailed):
    """The actor failed earlier and takes no commands."""


class RequestRefused(RequestFailed):
    """The request reached no actor."""


class OutOfOrder(RequestRefused):
    """An earlier request of the session was never applied."""


class UnknownMessage(RequestRefused):
    """No actor takes this message from a client."""


class BadRequest(RequestRefused):
    """The key or the body does not decode."""


class WindowExceeded(RequestRefused):
    """Too many requests of the session are unanswered."""


class TooManySessions(RequestRefused):
    """The cluster takes no more sessions now."""


class TooManyActors(RequestRefused):
    """The cluster takes no more actors now."""


class NoSuchActor(RequestRefused):
    """A query for an actor that no command has made."""


class AnswerForgotten(RequestRefused):
    """The session had said that it has this answer; it is not kept any more."""


class ReplyTooLarge(RequestRefused):
    """The command was applied; its reply is larger than the limit."""


class Skipped(RequestRefused):
    """An operator had this command skipped."""


class EventsLost(ClientError):
    """Events up to `floor` are no longer kept: subscribe again after it, knowing that some are missing."""

    def __init__(self, floor: tuple[int, int, int]) -> None:
        super().__init__(f"events up to {floor} are no longer kept")
        self.floor = floor


FAILURES: dict[int, type[RequestFailed]] = {
    Status.FAILED: ActorFailed,
    Status.QUARANTINED: Quarantined,
    Status.OUT_OF_ORDER: OutOfOrder,
    Status.UNKNOWN_MESSAGE: UnknownMessage,
    Status.BAD_REQUEST: BadRequest,
    Status.WINDOW_EXCEEDED: WindowExceeded,
    Status.TOO_MANY_SESSIONS: TooManySessions,
    Status.NO_SUCH_ACTOR: NoSuchActor,
    Status.ANSWER_FORGOTTEN: AnswerForgotten,
    Status.REPLY_TOO_LARGE: ReplyTooLarge,
    Status.SKIPPED: Skipped,
    Status.TOO_MANY_ACTORS: TooManyActors,
}


NEVER_APPLIED = (
    Rejected,
    ActorFailed,
    Quarantined,
    UnknownMessage,
    BadRequest,
    WindowExceeded,
    TooManySessions,
    TooManyActors,
    NoSuchActor,
    Skipped,
    NotApplied,
    DiskFull,
    TimedOut,
)
"""After these a request is known to have changed nothing. After others it has, or it may have."""


def failure(status: int, body: bytes, index: int, ordinal: int) -> Exception:
    """The exception for a status other than OK."""
    reason = body.decode(errors="replace")
    if status == Status.REJECTED:
        return Rejected(reason)
    if status == Status.SESSION_EXPIRED:
        return SessionExpired(reason)
    return FAILURES.get(status, RequestRefused)(reason, index, ordinal)
