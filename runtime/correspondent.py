"""What both clients are: one session with a cluster, the addresses to look for it at, and how each call can end late.

Sockets, time and waiting are the clients' own (client.py, blocking_client.py).
"""

import errno
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from attrs import define, field

from ..actors.app import Key
from ..actors.message import Command
from . import addresses, frames
from .addresses import Address, Addresses
from .calls import CONNECT_S, DEADLINE_S, call
from .failures import ClientError, Disconnected, DiskFull, TimedOut, Unknown
from .pulse import PATIENCE_S, Pulse
from .recorder import Recorder
from .resumption import Resumption
from .session import DISK_FULL, Session, Settle, why
from .trust import Trust


@define(eq=False)
class Correspondent:
    """One session with a cluster; see the file's text."""

    host: str = "127.0.0.1"
    port: int = 7700
    others: tuple[Address, ...] = ()
    session: Session = field(factory=Session, kw_only=True)
    deadline_s: float = field(default=DEADLINE_S, kw_only=True)
    connect_s: float = field(default=CONNECT_S, kw_only=True)
    patience_s: float = field(default=PATIENCE_S, kw_only=True)
    """How long a replica may be silent before another one is tried."""
    keep: bool = field(default=False, kw_only=True)
    """Leave the session open in the cluster when the client is closed, to resume it later."""
    authority: "Path | str | None" = field(default=None, kw_only=True)
    """PEM file of the authority that signed the replicas' certificates: then everything goes over TLS."""
    token: str = field(default="", kw_only=True, repr=False)
    """What the replicas want to hear before they serve, if they want something."""
    history: "Recorder | Path | str | None" = field(default=None, kw_only=True)
    """Where to record what is asked and answered."""
    _recorder: Recorder | None = field(default=None, init=False)
    _addresses: Addresses = field(init=False)
    _pulse: Pulse = field(init=False)
    _tls: ssl.SSLContext | None = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._addresses = Addresses([(self.host, self.port), *self.others])
        self._pulse = Pulse(self.patience_s)
        self._tls = Trust(self.authority, self.token).context()

    @classmethod
    def connect(
        cls,
        to: "str | Iterable[str | Address]" = "127.0.0.1:7700",
        *,
        session: bytes | None = None,
        cluster: bytes = frames.ANY_CLUSTER,
        **options: Any,
    ) -> Self:
        """A client of the cluster at these addresses, to be entered with `with` or `async with`.

        `session`: go on with the session of an earlier process, which must have ended; SessionExpired is raised if it is
        gone. `resolve` tells how requests ended that it left unknown. `cluster`: the only cluster to be talked to.
        """
        first, *others = addresses.parse(to)
        given = Session(cluster_id=cluster)
        if session is not None:
            given = Session(session, cluster_id=cluster, resumption=Resumption())
        return cls(*first, tuple(others), session=given, **options)

    @property
    def session_id(self) -> bytes:
        """Keep it, to resume the session later."""
        return self.session.id

    @property
    def cluster_id(self) -> bytes:
        """The cluster that answered."""
        return self.session.cluster_id

    @property
    def last_request(self) -> int:
        """The highest request number in use."""
        return self.session.last_request

    @property
    def applied_before(self) -> int:
        """Of a resumed session: the last request of the earlier process that was applied."""
        return self.session.resumption.applied if self.session.resumption else 0

    # Recording

    def _begin_recording(self) -> None:
        if self.history is not None:
            given = self.history
            self._recorder = given if isinstance(given, Recorder) else Recorder(Path(given))

    def _stop_recording(self) -> None:
        """The caller's own recorder is left to the caller."""
        if self._recorder is not None and self._recorder is not self.history:
            self._recorder.close()

    # What a call can end with instead of a reply

    def _unopened(self) -> ClientError:
        """No session was opened in time."""
        refusal = self.session.hindrance
        if refusal is None:
            return Disconnected(f"No leftfold answers at {self._addresses.report()}")
        failure = DiskFull if refusal.reason == DISK_FULL else Disconnected
        return failure(f"No session was opened at {self._addresses.report()}: {why(refusal)}")

    def _overdue(self, number: int, settle: Settle, *, is_query: bool) -> ClientError:
        """A call's time is over; 0 is the number of a command that was never given one."""
        if is_query:
            return TimedOut("the query was not answered in time")
        if number:
            return Unknown(number, self.session.pin(number, settle))
        return Disconnected("no room in the window came in time: the command was not sent")

    def _resolved(self, number: int, key: Key | None, command: Command[Any] | None) -> Any:
        """How a request of an earlier process ended. Raises NotApplied where it is to be asked again."""
        if self.session.resumption is None:
            raise ValueError(f"request {number} is not one that this client left unknown")
        reply = self.session.resumption.outcome(number)
        if key is None or command is None:
            raise ValueError("the command says which reply it was promised: give it and its key")
        return call(key, command).result(reply)


def reason_of(error: OSError) -> str:
    """Why there is no connection, or none any more, with the remedy where there is one."""
    text = str(error)
    # asyncio makes one error of several addresses' errors, and it has no number.
    if error.errno == errno.ECONNREFUSED or f"[Errno {errno.ECONNREFUSED}]" in text:
        return (
            "connection refused: nothing listens there; start the replica, or correct the address"
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError):
        return "it does not speak TLS; leave the authority out, or start it with certificates"
    return error.strerror or text
