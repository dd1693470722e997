"""The only place where time is read. A test, or a rehearsal, moves the wall clock by `wall_offset_ns`.

Log time is the leader's: it advances by the monotonic clock within a term and never goes back. A new term
starts at max(last log time, wall clock), so a wall clock that was set back cannot turn log time back, and one
that was set forward by more than `step_ns_max` is refused by name before it gets into the log for ever.
"""

import time

from attrs import define

from .errors import OperatorError


@define
class Clock:
    """The readings that a process may take."""

    wall_offset_ns: int = 0

    monotonic_ns = staticmethod(time.monotonic_ns)
    """Nanoseconds of the monotonic clock, comparable between the processes of one machine."""

    def wall_ns(self) -> int:
        """Nanoseconds since the epoch."""
        return time.time_ns() + self.wall_offset_ns


@define
class LogTime:
    """The leader's log time within one term."""

    base_log_ns: int
    base_monotonic_ns: int

    @classmethod
    def start_term(
        cls, clock: Clock, last_log_ns: int, step_ns_max: int, *, accept_step: bool
    ) -> "LogTime":
        """Log time for a new term, after a log that ends at `last_log_ns` (0: an empty log).

        Raises OperatorError when the wall clock is more than `step_ns_max` ahead of the log.
        """
        wall_ns = clock.wall_ns()
        if last_log_ns and wall_ns - last_log_ns > step_ns_max and not accept_step:
            days = (wall_ns - last_log_ns) / 86_400e9
            raise OperatorError(
                f"The wall clock is {days:.0f} days ahead of the log's last entry, and log time never "
                "goes back: set the clock right, or start with --accept-clock-step."
            )
        return cls(max(last_log_ns, wall_ns), clock.monotonic_ns())

    def at(self, monotonic_ns: int) -> int:
        """Log time in nanoseconds at a reading of the monotonic clock."""
        return self.base_log_ns + max(0, monotonic_ns - self.base_monotonic_ns)

    def reached_at(self, log_ns: int) -> int:
        """The reading of the monotonic clock from which on `at` gives at least this log time."""
        return self.base_monotonic_ns + (log_ns - self.base_log_ns)
