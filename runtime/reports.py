"""What a person is told about others: each sentence when it changes, and never a flood, whatever the others do."""

from collections.abc import Callable

from attrs import define, field

SUBJECTS_MAX = 64
REPORTS_BURST = 30
REPORT_NS = 10_000_000_000


@define(eq=False)
class Reports:
    """The last sentence about each subject, and how many more may be said now."""

    say: Callable[[str], None]
    suppressed: int = field(default=0, init=False)
    _said: dict[str, str] = field(factory=dict[str, str], init=False)
    _allowed: int = field(default=REPORTS_BURST, init=False)
    _counted_ns: int | None = field(default=None, init=False)

    def tell(self, subject: str, sentence: str, now_ns: int, *, unless_told: bool = False) -> None:
        """Say the sentence unless it was the last about this subject; `unless_told`: unless there was any."""
        last = self._said.get(subject)
        if last == sentence or (unless_told and last is not None):
            return
        self._said.pop(subject, None)
        if len(self._said) >= SUBJECTS_MAX:
            del self._said[next(iter(self._said))]
        self._said[subject] = sentence
        self._spend(sentence, now_ns)

    def good(self, subject: str, sentence: str, now_ns: int) -> None:
        """Say that a trouble is over; what was no trouble is not said."""
        if self._said.pop(subject, None) is not None:
            self._spend(sentence, now_ns)

    def _spend(self, sentence: str, now_ns: int) -> None:
        if self._counted_ns is None:
            self._counted_ns = now_ns
        earned = (now_ns - self._counted_ns) // REPORT_NS
        self._allowed = min(REPORTS_BURST, self._allowed + earned)
        self._counted_ns += earned * REPORT_NS
        if self._allowed == 0:
            self.suppressed += 1
            return
        self._allowed -= 1
        if self.suppressed:
            sentence += f" ({self.suppressed} other reports were left out.)"
            self.suppressed = 0
        self.say(sentence)
