"""How long a link to another replica waits, and how much it holds."""

from attrs import frozen

NS_PER_MS = 1_000_000


@frozen(kw_only=True)
class PeerLimits:
    """See the head of this file (I10)."""

    queued_bytes_max: int = 4 * 1024 * 1024
    hello_ns: int = 1_500 * NS_PER_MS
    """From the first attempt to connect to the other side's greeting."""
    alive_ns: int = 400 * NS_PER_MS
    silent_ns: int = 2_000 * NS_PER_MS
    linger_ns: int = 500 * NS_PER_MS
    retry_first_ns: int = 50 * NS_PER_MS
    retry_max_ns: int = 1_000 * NS_PER_MS
    refused_ns: int = 3_000 * NS_PER_MS
    """Before another attempt, after one that was refused with a sentence."""
    absent_ns: int = 10_000 * NS_PER_MS
    """How long a replica that should call may be missed before that is said."""
