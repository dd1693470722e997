"""What a replica is to its cluster at a moment (figure 4 of the paper, with the pre-vote of §9.6 of the thesis).

            times out               would win             wins
FOLLOWER ─────────────► PRE_CANDIDATE ───────► CANDIDATE ───────► LEADER
    ▲                        │                     │                │
    └────────────────────────┴─────────────────────┴────────────────┘
      a leader or a higher term speaks; or a leader hears no quorum, or has removed itself
"""

from enum import Enum


class Role(Enum):
    """See the picture at the head of this file. Learners, and replicas that were removed, stay followers."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


FOLLOWER, PRE_CANDIDATE, CANDIDATE, LEADER = Role
"""The same by themselves: a member of an Enum that is looked up in its class costs a tenth of a microsecond."""
