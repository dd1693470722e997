"""Would the tests notice? Each mutant is raft/ with one rule broken, in a copy; every one must be caught.

    .venv/bin/python -m tests.raft_mutants [--seeds N] [--only WORD] [--jobs N]

For each: the quick tests of raft/ (which of them fails first) and N random histories (the
first of them that fails). The repository is not touched. It fails if a mutant survives both, if a mutation no
longer finds its line, or if the unchanged copy does not pass.
"""

import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from attrs import frozen

HERE = Path(__file__).parent
RAFT = HERE.parent / "raft"
QUICK = sorted(
    str(path)
    for path in HERE.glob("test_raft_*.py")
    if path.stem.removeprefix("test_raft_") not in {"cluster", "messages", "mutants", "trace"}
)
SEEDS = 300
FIRST = 500_000


@frozen
class Mutant:
    """In `file`, `old` becomes `new`; `what` says what rule that breaks."""

    what: str
    file: str
    old: str
    new: str


MUTANTS = (
    Mutant(
        "a vote is not persisted",
        "core.py",
        "HardState(self.term, self.voted_for, commit)",
        "HardState(self.term, self._given_hard_state.voted_for, commit)",
    ),
    Mutant(
        "a vote leaves before it is durable",
        "core.py",
        "self._send(reply, promises=granted and not message.pre_vote)",
        "self._send(reply)",
    ),
    Mutant(
        "two votes in a term",
        "core.py",
        "free = self.voted_for in (0, message.source) and self.leader_id == 0",
        "free = self.leader_id == 0",
    ),
    Mutant(
        "a vote for a log that is behind",
        "log.py",
        "return (last_term, last_index) >= (self.last_term, self.last)",
        "return last_index >= self.last",
    ),
    Mutant(
        "an entry of an earlier term is committed by counting",
        "core.py",
        "if index > self.commit and self.log.term_at(index) == self.term:",
        "if index > self.commit:",
    ),
    Mutant(
        "the leader counts what its disk does not have",
        "core.py",
        "matches[self.id] = self._durable_last",
        "matches[self.id] = self.log.last",
    ),
    Mutant(
        "an acknowledgement leaves before the entries are durable",
        "core.py",
        "self._send(reply, promises=success)",
        "self._send(reply)",
    ),
    Mutant(
        "the late acknowledgement of an overwritten entry counts",
        "core.py",
        "write.last = min(write.last, first - 1)",
        "write.last = min(write.last, self.log.last + len(self._writes))",
    ),
    Mutant(
        "the predecessor's term is not compared",
        "core.py",
        "if self.log.term_at(message.prev_index) != message.prev_term:",
        "if self.log.term_at(message.prev_index) is None:",
    ),
    Mutant(
        "a late append truncates what follows it",
        "core.py",
        "            if known == entry.term:\n                continue",
        "            if known == entry.term and position:\n                continue",
    ),
    Mutant(
        "a conflict is not removed",
        "core.py",
        "            if known is not None:\n                self._truncate(entry.index)",
        "            if known is not None:\n                continue",
    ),
    Mutant(
        "a follower commits what was not compared",
        "core.py",
        "self._commit_to(min(message.commit, last))",
        "self._commit_to(min(message.commit, self.log.last))",
    ),
    Mutant(
        "a heartbeat names the whole commit index",
        "core.py",
        "commit = min(self.commit, progress.match)",
        "commit = self.commit",
    ),
    Mutant(
        "a majority is half",
        "quorum.py",
        "return size // 2 + 1",
        "return max(1, size // 2)",
    ),
    Mutant(
        "a joint quorum is the union of its halves",
        "membership.py",
        "return (self.voters, self.outgoing) if self.outgoing else (self.voters,)",
        "return (self.voters | self.outgoing,)",
    ),
    Mutant(
        "learners are counted",
        "membership.py",
        "return (self.voters, self.outgoing) if self.outgoing else (self.voters,)",
        "return (self.voters | self.learners, self.outgoing or self.voters)",
    ),
    Mutant(
        "a configuration counts only with the next leader",
        "core.py",
        "        if self._configurations[-1][0] > self.membership_index:\n            self._adopt_membership()",
        "        if self.role is not LEADER:\n            self._adopt_membership()",
    ),
    Mutant(
        "an overwritten configuration still counts",
        "core.py",
        "            while self._configurations[-1][0] >= first:",
        "            while self._configurations[-1][0] > first:",
    ),
    Mutant(
        "C_new is appended before C_old,new is committed",
        "core.py",
        "if not started or self.commit < max(started, self.membership_index):",
        "if not started or self.commit < started:",
    ),
    Mutant(
        "a second change begins while one is under way",
        "core.py",
        "        if self.commit < max(self._term_start_index, self.membership_index):\n            # §5.4.2",
        "        if self.commit < self._term_start_index:\n            # §5.4.2",
    ),
    Mutant(
        "a removed leader leads on",
        "core.py",
        "        elif self.id not in membership.voters:\n            self._leave_office()",
        "        elif not membership.voters:\n            self._leave_office()",
    ),
    Mutant(
        "a removed replica that alone holds C_new stays silent",
        "core.py",
        "return undecided and self.id in self._configurations[-2][1].electors",
        "return False",
    ),
    Mutant(
        "a learner is promoted before it has caught up",
        "core.py",
        "if self._peers[peer].caught_up and not",
        "if not",
    ),
    Mutant(
        "a snapshot keeps the log's rest without a look at the term",
        "core.py",
        "keep_suffix = self.log.term_at(index) == term",
        "keep_suffix = self.log.term_at(index) is not None",
    ),
    Mutant(
        "a snapshot behind the commit index is restored",
        "core.py",
        "if index <= self.commit or self.role is LEADER:",
        "if index <= self._applied or self.role is LEADER:",
    ),
    Mutant(
        "a snapshot's membership is ignored",
        "core.py",
        "self._configurations = [(index, received.membership), *behind]",
        "self._configurations = [(index, self.membership), *behind]",
    ),
    Mutant(
        "a chunk is taken out of order",
        "core.py",
        "            message.offset > incoming.received\n            or end > snapshot.size",
        "            end > snapshot.size",
    ),
    Mutant(
        "a chunk's checksum is not compared",
        "core.py",
        "or message.checksum != expected",
        "or message.checksum < 0",
    ),
    Mutant(
        "a chunk is acknowledged before it is durable",
        "core.py",
        "self._send(reply, promises=not refused)",
        "self._send(reply)",
    ),
    Mutant(
        "a lost chunk is never asked for again",
        "transfer.py",
        "self.quiet_heartbeats >= QUIET_HEARTBEATS_MAX and",
        "self.quiet_heartbeats < 0 and",
    ),
    Mutant(
        "a damaged replica votes",
        "core.py",
        "free = free and self._damage is None",
        "free = bool(free)",
    ),
    Mutant(
        "a damaged replica counts while it is repaired",
        "core.py",
        "repairing = self._damage is not None",
        "repairing = False",
    ),
    Mutant(
        "a damaged log is repaired by any entry",
        "core.py",
        "        if self.log.term_at(durable) != self.term:\n            return\n",
        "",
    ),
    Mutant(
        "a replica under repair is the heir",
        "core.py",
        "            if not self._peers[peer].repairing\n        ]\n",
        "        ]\n",
    ),
    Mutant(
        "a silent replica is the heir",
        "core.py",
        "            (self._is_heard(peer), self._peers[peer].match, -peer)\n",
        "            (True, self._peers[peer].match, -peer)\n",
    ),
    Mutant(
        "a read is confirmed by an earlier round",
        "core.py",
        "_PendingRead(context, self.log.last, self._round + 1)",
        "_PendingRead(context, self.log.last, self._round)",
    ),
    Mutant(
        "a read sees only what is committed when it is asked",
        "core.py",
        "_PendingRead(context, self.log.last, self._round + 1)",
        "_PendingRead(context, self._applied, self._round + 1)",
    ),
    Mutant(
        "a deposed leader's reads live on",
        "core.py",
        "        self._reads.clear()\n",
        "",
    ),
    Mutant(
        "the persisted commit passes the disk",
        "core.py",
        "commit = min(self.commit, self._durable_last)",
        "commit = self.commit",
    ),
    Mutant(
        "logic is given what the disk does not have",
        "core.py",
        "last = min(self.commit, self._durable_last)\n        if last <= self._applying",
        "last = self.commit\n        if last <= self._applying",
    ),
    Mutant(
        "a leader whose disk hangs leads on",
        "core.py",
        "            self.transfer(heir)\n",
        "            pass\n",
    ),
    Mutant(
        "a leader without followers leads on",
        "core.py",
        "if not won(self._quorum, active | {self.id}):",
        "if not won(self._quorum, active | self.membership.voters):",
    ),
    Mutant(
        "a replica that hears its leader listens to candidates",
        "core.py",
        "case RequestVote(transfer=False) if self._hears_leader():",
        "case RequestVote(transfer=False) if False:",
    ),
)


def mutate(mutant: Mutant | None, where: Path) -> None:
    """A copy of raft/ as `leftfold.raft` under `where`, with the mutation."""
    shutil.copytree(RAFT, where / "leftfold" / "raft", ignore=shutil.ignore_patterns("__pycache__"))
    if mutant is None:
        return
    path = where / "leftfold" / "raft" / mutant.file
    source = path.read_text()
    assert source.count(mutant.old) == 1, (
        f"{mutant.what}: its line occurs {source.count(mutant.old)} times"
    )
    path.write_text(source.replace(mutant.old, mutant.new))


def quick_tests(where: Path) -> str:
    """The first test that fails; empty if none does."""
    options = ["-x", "-q", "--timeout=60", "-p", "no:xdist", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options]
    run = _run([*command, *QUICK], where)
    found = re.search(r"^(?:FAILED|ERROR) \S*?::(\w+)", run.stdout, re.MULTILINE)
    if run.returncode == 0:
        return ""
    return found.group(1) if found else "the tests do not even start"


def histories(where: Path, seeds: int) -> int:
    """Which of the random histories, counted from 1, is the first that fails; 0 if none does."""
    command = [sys.executable, str(HERE / "raft_campaign.py"), "--first", str(FIRST)]
    run = _run([*command, "--seeds", str(seeds), "--failures-max", "1"], where)
    found = re.search(r"^seed (\d+)", run.stdout, re.MULTILINE)
    return int(found.group(1)) - FIRST + 1 if found else 0


def _run(command: list[str], where: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(where),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(where / "hypothesis"),
    }
    return subprocess.run(
        command, cwd=HERE.parent, env=environment, capture_output=True, text=True, check=False
    )


def trial(mutant: Mutant | None, seeds: int) -> tuple[str, int]:
    """The test that caught it, and the history that did."""
    with tempfile.TemporaryDirectory(prefix="leftfold-mutant-") as name:
        where = Path(name)
        mutate(mutant, where)
        seen = _run([sys.executable, "-c", "import leftfold.raft as r; print(r.__file__)"], where)
        assert seen.stdout.startswith(name), (
            f"another raft was imported: {seen.stdout}{seen.stderr}"
        )
        return quick_tests(where), histories(where, seeds)


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutants of raft/, and what catches them.")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--only", default="", help="those whose description has this word")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    chosen = [None, *(mutant for mutant in MUTANTS if arguments.only in mutant.what)]
    survivors = 0
    print(
        f"| broken rule | first test that fails | first of {arguments.seeds} histories that fails |"
    )
    print("|---|---|---|")
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for mutant, (test, failed) in zip(
            chosen, pool.map(lambda each: trial(each, arguments.seeds), chosen), strict=True
        ):
            caught = bool(test or failed)
            survivors += caught is (mutant is None)
            what = mutant.what if mutant is not None else "(none: the copy as it is)"
            print(f"| {what} | {test or '-'} | {failed or '-'} |", flush=True)
    print(f"\n{len(chosen) - 1} mutants, {survivors or 'no'} surprises.")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main())
