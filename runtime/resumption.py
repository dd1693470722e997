"""How a process goes on with the session of an earlier one, which may have been killed at any moment.

It begins with a session id and nothing else. Four steps, each sent again after a reconnect like any other request:

    probe    a request with an impossible number. OUT_OF_ORDER: the session is there. SESSION_EXPIRED: it is gone, and that is
             said; OPEN alone would make a new one in silence.
    open     its answer says which request was applied last.
    recall   the last requests, up to the window, are asked again. They were applied, so their content is not looked at; the
             kept replies come back, and are what `resolve` answers from.
    fence    as many new requests as the window holds, which no actor takes. What the earlier process had sent and was still on
             its way (in a socket, in a ring, in the log of a deposed leader) has one of these numbers. Either it came in
             before the fence, and then the fence is answered with its reply; or it finds its number used, and is never
             applied. So afterwards each earlier request is known to be applied or not, for good, and the numbers
             behind are free.

Of commands that the earlier process had in flight together, a later one may so be applied without an earlier one. Two
processes must not use one session at the same time. The steps themselves are walked by session.py.
"""

from attrs import define, field

from ..actors.layout import Status
from . import frames
from .failures import AnswerForgotten, NotApplied

PROBE = 0xFFFF_FFFF_FFFF_FFFF
"""A number that no session reaches."""

FENCED = {Status.UNKNOWN_MESSAGE, Status.BAD_REQUEST}
"""What a fence is answered. Whoever asked such a request in earnest had it change nothing either."""


@define(eq=False)
class Resumption:
    """What became of the requests of an earlier process."""

    applied: int = field(default=0, init=False)
    """The highest of its requests that was applied."""
    fenced: int = field(default=0, init=False)
    """The highest number that it can have used."""
    last: int = field(default=0, init=False)
    """What was applied last when the session was opened again."""
    _replies: dict[int, frames.Reply] = field(factory=dict[int, frames.Reply], init=False)

    def opened(self, last: int) -> None:
        """OPEN was answered."""
        self.last = self.applied = last

    def take(self, reply: frames.Reply) -> None:
        """The answer to a recall or to a fence."""
        number = reply.request
        self.fenced = max(self.fenced, number)
        if number <= self.last:
            if reply.status != Status.ANSWER_FORGOTTEN:
                self._replies[number] = reply
        elif reply.status not in FENCED:
            self._replies[number] = reply
            self.applied = max(self.applied, number)

    def outcome(self, number: int) -> frames.Reply:
        """The reply that an earlier request had. Raises NotApplied if it was not applied, and never will be,
        AnswerForgotten if it was, but its reply is not kept."""
        reply = self._replies.get(number)
        if reply is not None:
            return reply
        if not 0 < number <= self.fenced:
            raise ValueError(f"request {number} is not one of an earlier process")
        if number <= self.last:
            raise AnswerForgotten(
                f"request {number} was applied; its answer is not kept any more", 0, 0
            )
        raise NotApplied(f"request {number} was not applied, and will not be")
