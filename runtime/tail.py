"""Under which build of the app the entries behind the snapshot were written: the contract on builds.

A build that differs may answer differently, and what clients were answered must stay true. So entries of another build
are refused before logic sees the first of them, unless the operator has accepted that. The build of an entry is what
the TERM_START before it says; for those right behind a snapshot it is the snapshot's. Logs from before
builds were recorded say nothing, and fit any.

Entries that run no code of the app (openings of terms, skips, memberships) fit any build too.
"""

from attrs import define, field

from .errors import OperatorError

COMMANDS, TERM_START, TIME = 0, 1, 2


@define
class Tail:
    """Reads along while the log is replayed."""

    own: str
    build: str
    """Of the entry that is read now; empty if nobody knows."""
    last: int
    accept: bool
    warning: str = field(default="", init=False)
    """What the operator has accepted, in a sentence."""
    read: int = field(default=0, init=False)
    """How far; what is passed on in a second attempt is not read twice."""

    def open_term(self, build: str) -> None:
        """The entries that follow were written under this build."""
        self.build = build

    @property
    def fits(self) -> bool:
        """Whether this build may answer as those entries were answered."""
        return not self.build or self.build == self.own

    def judge(self, index: int) -> str:
        """An entry of another build is next: the warning, when it is the first that was accepted.

        Raises OperatorError unless the operator has accepted it.
        """
        if not self.accept:
            raise OperatorError(
                f"Entries {index} to {self.last} are in no snapshot and were written under build {self.build} of the "
                f"app, and this is build {self.own}, which might answer them differently: start the old code and stop "
                "it cleanly, which takes a snapshot; or start with --accept-build, and with --old-sources DIRECTORY, "
                "which lists first what it answers differently (as `leftfold diff` does at any time)."
            )
        if self.warning:
            return ""
        self.warning = (
            f"Entries {index} to {self.last} were written under build {self.build} and are replayed under build "
            f"{self.own}, as accepted: clients may have been answered otherwise."
        )
        return self.warning
