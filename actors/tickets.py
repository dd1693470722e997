"""Tickets: seats that are held for a while, then bought: `leftfold run leftfold.actors.tickets:app`.

A show has seats 1 to n. A hold lasts until it is bought, released, or its time on the log's clock
is over, whichever is first in the log; a timer frees the seat even if nobody asks. A seat has at
most one holder, and once it is bought it stays so. Paying is left to the application.
"""

import attrs

from .actor import actor, handler, on_timer, query, state
from .app import App
from .context import Context
from .errors import Rejected
from .message import Command, message

SEATS_MAX = 10_000
BUYER_BYTES_MAX = 64
HOLD_NS_MIN = 1_000_000
HOLD_NS_MAX = 7 * 24 * 3_600 * 1_000_000_000


@message(id=310)
class Opened:
    """The show is on sale."""

    seats: int


@message(id=311)
class Held:
    """The seat is the buyer's until this log time, exclusive."""

    until_ns: int


@message(id=312)
class Bought:
    """The seat is the buyer's for good."""


@message(id=313)
class Released:
    """The seat is free again."""


@message(id=314)
class Free:
    """The free seats, ascending."""

    seats: list[int]


@message(id=300)
class Open(Command[Opened]):
    """Put a show on sale; once per show."""

    seats: int
    hold_ns: int


@message(id=301)
class Hold(Command[Held]):
    """Hold a free seat."""

    seat: int
    buyer: str


@message(id=302)
class Buy(Command[Bought]):
    """Buy a seat that the buyer holds."""

    seat: int
    buyer: str


@message(id=303)
class Release(Command[Released]):
    """Give up a hold."""

    seat: int
    buyer: str


@message(id=304)
class FreeSeats(Command[Free]):
    """Which seats are free."""


@message(id=305)
class HoldExpired:
    """The timer of a hold."""

    seat: int
    hold: int


@message(id=320)
class SeatHeld:
    """A seat is held until a log time."""

    seat: int
    buyer: str
    until_ns: int


@message(id=321)
class SeatBought:
    """A seat is sold."""

    seat: int
    buyer: str


@message(id=322)
class SeatFreed:
    """A hold has ended without a sale; `expired`: by itself."""

    seat: int
    buyer: str
    expired: bool


@state
class Taken:
    """A seat that is not free."""

    buyer: str
    # Which hold of the show this is, so that the timer of an earlier one cannot end it.
    hold: int
    timer: int
    until_ns: int
    bought: bool = False


@actor(id=4, key=str, emits=(SeatHeld, SeatBought, SeatFreed))
class Show:
    """One show."""

    seats: int = 0
    hold_ns: int = 0
    holds: int = 0
    taken: dict[int, Taken] = attrs.field(factory=dict[int, Taken])

    @handler
    def open(self, command: Open, context: Context) -> Opened:
        """Put the show on sale."""
        if self.seats:
            raise Rejected("the show is already on sale")
        if not 0 < command.seats <= SEATS_MAX:
            raise Rejected(f"a show has 1 to {SEATS_MAX} seats")
        if not HOLD_NS_MIN <= command.hold_ns <= HOLD_NS_MAX:
            raise Rejected(f"a hold lasts {HOLD_NS_MIN} to {HOLD_NS_MAX} ns")
        self.seats = command.seats
        self.hold_ns = command.hold_ns
        return Opened(self.seats)

    @handler
    def hold(self, command: Hold, context: Context) -> Held:
        """Hold a free seat, and set the timer that frees it."""
        seat, buyer = command.seat, command.buyer
        if not 0 < seat <= self.seats:
            raise Rejected("no such seat")
        if not 0 < len(buyer.encode()) <= BUYER_BYTES_MAX:
            raise Rejected(f"the name of a buyer has 1 to {BUYER_BYTES_MAX} bytes")
        found = self.taken.get(seat)
        if found is not None and (found.bought or context.time_ns < found.until_ns):
            raise Rejected("the seat is sold" if found.bought else "the seat is held")
        if found is not None:
            self.free(seat, found, context, expired=True)
        self.holds += 1
        until_ns = context.time_ns + self.hold_ns
        timer = context.set_timer(HoldExpired(seat, self.holds), at_ns=until_ns)
        self.taken[seat] = Taken(buyer, self.holds, timer, until_ns)
        context.emit(SeatHeld(seat, buyer, until_ns))
        return Held(until_ns)

    @handler
    def buy(self, command: Buy, context: Context) -> Bought:
        """Make a hold a sale."""
        found = self.held_by(command.seat, command.buyer, context)
        context.cancel_timer(found.timer)
        found.bought = True
        context.emit(SeatBought(command.seat, found.buyer))
        return Bought()

    @handler
    def release(self, command: Release, context: Context) -> Released:
        """End a hold."""
        found = self.held_by(command.seat, command.buyer, context)
        self.free(command.seat, found, context, expired=False)
        return Released()

    @on_timer
    def expire(self, timer: HoldExpired, context: Context) -> None:
        """End a hold whose time is over, unless it has ended otherwise."""
        found = self.taken.get(timer.seat)
        if found is not None and not found.bought and found.hold == timer.hold:
            self.free(timer.seat, found, context, expired=True)

    @query
    def free_seats(self, query: FreeSeats, context: Context) -> Free:
        """Every seat that a hold would get now."""
        now_ns = context.time_ns
        taken = {
            seat for seat, found in self.taken.items() if found.bought or now_ns < found.until_ns
        }
        return Free([seat for seat in range(1, self.seats + 1) if seat not in taken])

    def held_by(self, seat: int, buyer: str, context: Context) -> Taken:
        """The hold that this buyer has on this seat.

        Log time decides, not whether the timer has fired: it fires a little after its time.
        """
        found = self.taken.get(seat)
        if found is None or found.bought or found.buyer != buyer:
            raise Rejected("the buyer does not hold the seat")
        if context.time_ns >= found.until_ns:
            raise Rejected("the hold has expired")
        return found

    def free(self, seat: int, found: Taken, context: Context, *, expired: bool) -> None:
        """Take a hold away, and tell."""
        context.cancel_timer(found.timer)
        del self.taken[seat]
        context.emit(SeatFreed(seat, found.buyer, expired))


app = App(actors=[Show], name="tickets")
