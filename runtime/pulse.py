"""Whether the other end of a client's connection is alive and getting on: sans-IO, for both clients.

A gateway answers PING by itself, so silence means that it, its machine or the way to it is gone; answers to PING without answers to
requests mean that the replica behind it gets nowhere (it may have lost its quorum without knowing who leads). With another
address to go to, a client leaves after `patience_s` of the first and twice that of the second; twice as long again
each time that it left for the second reason and got no further elsewhere, so that a cluster which is merely slow is not
asked everything again and again. With one address there is nowhere to go: only long silence ends the connection.

Sending the PING and leaving are the clients'; the time is given to each call.
"""

from attrs import define, field

PING_S = 15.0
SILENCE_S = 60.0
"""With nothing to wait for, or nowhere else to go: when to ping, and when to give up."""

PATIENCE_S = 1.5
STALLED_S_MAX = 60.0


@define(eq=False)
class Pulse:
    """The pulse of one connection after the other."""

    patience_s: float = PATIENCE_S
    several: bool = False
    """Whether there is another address to go to."""
    _heard_s: float = field(default=0.0, init=False)
    _pinged_s: float | None = field(default=None, init=False)
    _waiting_s: float | None = field(default=None, init=False)
    _stalled_s: float = field(default=0.0, init=False)

    def began(self, now_s: float) -> None:
        """A new connection."""
        self._heard_s = now_s
        self._pinged_s = self._waiting_s = None

    def heard(self, now_s: float) -> None:
        """Bytes came."""
        self._heard_s = now_s
        self._pinged_s = None

    def answered(self) -> None:
        """Something that was asked has its answer."""
        self._waiting_s = None
        self._stalled_s = 0.0

    def look(
        self, now_s: float, *, waiting: bool, listening: bool = False
    ) -> tuple[str, bool, float]:
        """Why to leave (empty: stay), whether to ping, and how long until it is worth looking again.

        `waiting`: something was asked and is not answered. `listening`: events may come.
        """
        if not waiting:
            self._waiting_s = None
        elif self._waiting_s is None:
            self._waiting_s = now_s
        keen = self.several and (waiting or listening)
        ping_s = self.patience_s / 3 if keen else PING_S
        patience_s = self.patience_s if keen else SILENCE_S - PING_S
        # Counted from the ping, which this process sent when it last had the time to look.
        if self._pinged_s is not None and now_s - self._pinged_s >= patience_s:
            return "the gateway is silent", False, 0.0
        if self.several and self._waiting_s is not None:
            limit_s = self._stalled_s or 2 * self.patience_s
            if now_s - self._waiting_s >= limit_s:
                self._stalled_s = min(2 * limit_s, STALLED_S_MAX)
                return "requests are not answered", False, 0.0
        ping = self._pinged_s is None and now_s - self._heard_s >= ping_s
        if ping:
            self._pinged_s = now_s
        return "", ping, self.patience_s / 3 if self.several else PING_S
