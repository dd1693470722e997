"""One replica's place in the cluster when it first starts, its timing and its limits (I10). Times are in ticks."""

from collections.abc import Iterable

from attrs import field, frozen

from .errors import ConfigurationError


def _frozen_ids(ids: Iterable[int]) -> frozenset[int]:
    return frozenset(ids)


@frozen(kw_only=True)
class Config:
    """`voters` and `learners` are the members that the cluster began with: the same on every one of them.

    They count until the log or a snapshot says otherwise (membership.py). A replica that is added
    later has `joining` and no members: it knows nobody until its leader has spoken.

    `seed` spreads election time-outs; give each start of each replica another one.
    """

    id: int
    voters: frozenset[int] = field(default=frozenset(), converter=_frozen_ids)
    learners: frozenset[int] = field(default=frozenset(), converter=_frozen_ids)
    joining: bool = False
    # An election time-out is drawn from `election_ticks` … `election_ticks + spread - 1`. Without
    # a spread of its own, as many ticks again; with a spread of 1 it is exact.
    election_ticks: int = 10
    election_spread_ticks: int | None = None
    heartbeat_ticks: int = 1
    seed: int = 0
    # Bodies kept in memory for slow peers and for logic. What is not durable yet is kept anyway,
    # and a follower takes no more entries while that alone exceeds the limit.
    recent_bytes_max: int = 64 << 20
    # One AppendEntries, and all unanswered ones of one peer.
    append_bytes_max: int = 1 << 20
    appends_in_flight_max: int = 64
    entries_in_flight_bytes_max: int = 8 << 20
    # One piece of a snapshot, and all unanswered ones of one peer; a receiver takes no more either.
    chunk_bytes_max: int = 128 << 10
    chunks_in_flight_bytes_max: int = 1 << 20
    # The leader takes no proposal while more than this is not applied here.
    unapplied_entries_max: int = 4096
    unapplied_bytes_max: int = 16 << 20
    reads_max: int = 4096

    def __attrs_post_init__(self) -> None:
        limits = (
            self.recent_bytes_max,
            self.append_bytes_max,
            self.appends_in_flight_max,
            self.entries_in_flight_bytes_max,
            self.chunk_bytes_max,
            self.chunks_in_flight_bytes_max,
            self.unapplied_entries_max,
            self.unapplied_bytes_max,
            self.reads_max,
            1 if self.election_spread_ticks is None else self.election_spread_ticks,
        )
        members = self.voters | self.learners
        for wrong, sentence in (
            (not self.voters and not self.joining, "A cluster needs at least one voter."),
            (bool(members) and self.joining, "Who joins learns from the leader who is a member."),
            (
                self.id not in members and not self.joining,
                f"Replica {self.id} is no member of {sorted(members)}.",
            ),
            (min(members, default=self.id) < 1, "Replica ids start at 1."),
            (bool(self.voters & self.learners), "A replica is a voter or a learner, not both."),
            (self.heartbeat_ticks < 1, "Heartbeats need at least one tick."),
            (
                self.election_ticks <= self.heartbeat_ticks,
                "The election time-out must be longer than the heartbeat's interval.",
            ),
            (min(limits) < 1, "Every limit is at least one."),
            (
                self.recent_bytes_max < self.unapplied_bytes_max,
                "Memory must hold at least what may be unapplied, or logic would read it back.",
            ),
        ):
            if wrong:
                raise ConfigurationError(sentence)
