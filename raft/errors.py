"""What can go wrong in the core that is not a bug of ours.

    RaftError
    ├── ConfigurationError   the operator's configuration contradicts itself
    ├── StateLost            what was read back from disk cannot be what was promised from it
    ├── ProtocolViolation    a peer sent what no correct replica can send
    └── ConfigurationUnreadable   a configuration in the log is of a later version, or none at all

All of them end the replica: none can be repaired by carrying on. Our own bugs are `assert`s.
"Not leader", "full" and a change of members that cannot be are no errors; they are return values.
"""


class RaftError(Exception):
    """The core cannot go on."""


class ConfigurationError(RaftError):
    """The configuration contradicts itself; the sentence says where."""


class StateLost(RaftError):
    """The recovered log does not reach as far as the recovered commit index."""


class ProtocolViolation(RaftError):
    """A peer's message contradicts what Raft guarantees; one of the two replicas is wrong."""


class ConfigurationUnreadable(RaftError):
    """Who belongs to the cluster stands in bytes that this program cannot read."""
