"""Where consensus turns without Python: a switch between two owners of one state.

While nothing changes in a term, what consensus does with a batch is arithmetic, and C does it from wake-up to wake-up:
a leader's part is in leading.h, a follower's in following.h. What C does not know, it leaves lying; then Python takes over, is brought to where it
would be, and the ordinary turn goes on from there. So the contract has two halves: `enter` only where nothing else is under way, and
`leave` into exactly the state that Python's own turns would have reached. Both are in
leading.py and following.py.

Where C is left again and again behind a turn or two (commands and queries mixed, a peer that is always behind), Python goes on
alone for a while: the ways between would cost more than C saves.
"""

from attrs import define, field

from ..shm import Doorbell
from .consensus import Consensus
from .following import Following
from .leading import Leading

SHORT_TURNS = 4
"""A stay of fewer turns costs more, for the two ways between, than it saves."""
PASSED_MAX = 31
"""So many occasions in a row are passed over at most."""


@define(eq=False)
class Steady:
    """What consensus does between two turns of its own."""

    consensus: Consensus
    bell: Doorbell
    spin_ns: int
    passed_max: int = PASSED_MAX
    leading: Leading = field(init=False)
    following: Following = field(init=False)
    _passed: int = field(default=0, init=False)
    """How many are passed over behind a short stay: each time that the next one is short as well, more."""
    _passing: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.leading = Leading(self.consensus, self.bell)
        self.following = Following(self.consensus, self.bell)

    def run(self) -> bool:
        """Turns and waits in C, as long as they are plain; False: not now."""
        if self._passing:
            self._passing -= 1
            return False
        consensus = self.consensus
        part = self.leading if consensus.leader else self.following
        if not part.enter():
            return False
        self.bell.watch(consensus.watched_serving)
        part.run(consensus.next_tick_ns, self.spin_ns)
        part.leave()
        due = consensus.clock.monotonic_ns() >= consensus.next_tick_ns
        short = part.turned < SHORT_TURNS and not due
        self._passed = min(2 * self._passed + 1, self.passed_max) if short else 0
        self._passing = self._passed
        return True
