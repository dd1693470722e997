"""The limits that are part of the replicated state machine (I10).

They change what a command answers, so every replica of a cluster must use the same ones; the
runtime records them beside the cluster's identity. Limits of rings and sockets are not here.
"""

import attrs
from attrs import frozen

SECOND_NS = 1_000_000_000


@frozen(kw_only=True)
class Limits:
    """Replicated limits; the relations between them are asserted when one is made."""

    sessions_max: int = 200_000
    session_timeout_ns: int = 3_600 * SECOND_NS
    # Requests of one session in flight, and so replies kept for it.
    session_window: int = 4_096
    # Replies kept for one session; at this size it must confirm some before it may go on.
    session_replies_bytes_max: int = 1 << 20
    reply_bytes_max: int = 60 << 10
    reason_bytes_max: int = 512
    key_bytes_max: int = 1_024
    actors_max: int = 20_000_000
    # Sends, events and timer changes of one command together, with all that its sends cause.
    outputs_per_command_max: int = 10_000
    send_depth_max: int = 16
    # A message that is sent, emitted or put into a timer.
    message_bytes_max: int = 60 << 10
    timers_max: int = 1_000_000
    timers_per_entry: int = 1_000
    events_kept_max: int = 100_000
    events_kept_bytes_max: int = 16 << 20
    snapshot_chunk_bytes: int = 64 << 10

    def __attrs_post_init__(self) -> None:
        for field in attrs.fields(type(self)):
            value: int = getattr(self, field.name)
            assert value > 0, f"limit {field.name} must be positive"
        # A session may always keep at least one reply of the largest size.
        assert self.reply_bytes_max <= self.session_replies_bytes_max
        assert self.reason_bytes_max <= self.reply_bytes_max
        # One event of the largest size fits among the kept ones.
        assert self.message_bytes_max + self.key_bytes_max <= self.events_kept_bytes_max
        assert self.key_bytes_max < 1 << 16, "key length is a u16 on the wire"
        assert self.timers_per_entry <= self.timers_max
        assert self.snapshot_chunk_bytes >= 4_096
