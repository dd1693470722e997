"""Plays: each file in tests/scenarios is a script of ticks, messages and faults with its trace.

A line that starts with `>` is an instruction, a line that starts with `#` is for the reader, and
every other line is what the cluster did, in the order it did it. The trace is compared word by
word. `LEFTFOLD_REWRITE=1 pytest tests/test_raft_scenarios.py` writes the traces anew; read the
difference before committing it.

    > cluster 3 [seed 7]       three replicas, all up     > cluster 2 + 1    two voters, a learner
    > tick 1 [x 12]            replica 1's clock          > settle [1 2]     deliver, sync, apply
    > deliver [1 2]            what is on the wire now (from 1 to 2)
    > drop [1 2]               lose it                    > sync 1 [2]       finish (2) disk writes
    > apply 1                  logic applies              > propose 1 word   > read 1
    > crash 1                  with the loss of what was not synced          > restart 1
    > log 1                    show its log as index:term, durable up to, commit
    > join 4                   a new replica, which knows nobody
    > change 1 add 4 promote 4 remove 2 3          other members, asked of replica 1
    > transfer 1 to 2          another leader
    > snapshot 1               its state goes to disk   > compact 1        and the log before it goes
    > fetch 1 [x 3]            its journal answers (3) reads
    > check 3 [damaged]        its journal has read back the snapshot that came
    > harm 2 5                 entry 5 on its disk cannot be read any more (it is down)
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from raft_cluster import Cluster

from leftfold.raft import Change, Message, Refused

SCENARIOS = sorted(Path(__file__).with_name("scenarios").glob("*.txt"))


class Stage:
    """Plays one script. Each instruction is a method; what happens goes to `lines`."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.cluster = Cluster(1)

    def play(self, instruction: str) -> list[str]:
        self.lines = []
        word, *arguments = instruction.split()
        acts: dict[str, Callable[..., None]] = {
            "cluster": self.gather,
            "tick": self.tick,
            "settle": self.settle,
            "deliver": self.deliver,
            "drop": self.drop,
            "sync": self.sync,
            "apply": self.apply,
            "propose": self.propose,
            "read": self.read,
            "crash": self.crash,
            "restart": self.restart,
            "log": self.log,
            "join": self.join,
            "change": self.change,
            "transfer": self.transfer,
            "snapshot": self.snapshot,
            "compact": self.compact,
            "fetch": self.fetch,
            "check": self.check,
            "harm": self.harm,
        }
        acts[word](*arguments)
        return self.lines

    def say(self, line: str) -> None:
        self.lines.append(line)

    def gather(self, size: str, *rest: str) -> None:
        options = dict(zip(rest[::2], rest[1::2], strict=True))
        self.cluster = Cluster(
            int(size),
            int(options.get("seed", 0)),
            lambda line: self.say(line),
            learners=int(options.get("+", 0)),
            chunk_bytes_max=60,
            chunks_in_flight_bytes_max=120,
        )

    def tick(self, id: str, x: str = "x", times: str = "1") -> None:
        assert x == "x"
        for _ in range(int(times)):
            self.cluster.tick(int(id))

    def settle(self, *ids: str) -> None:
        self.cluster.settle(frozenset(map(int, ids)))

    def deliver(self, *pair: str) -> None:
        for message in self._take(*pair):
            self.cluster.deliver(message)

    def drop(self, *pair: str) -> None:
        self.say(f"{len(self._take(*pair))} lost")

    def sync(self, id: str, count: str | None = None) -> None:
        self.cluster.sync(int(id), None if count is None else int(count))

    def apply(self, id: str) -> None:
        self.cluster.apply(int(id))
        applied = self.cluster.replicas[int(id)].applied
        words = " ".join("-" if entry.kind else entry.body.decode() for entry in applied)
        self.say(f"{id} has applied {words}")

    def propose(self, id: str, word: str) -> None:
        if self.cluster.propose(int(id), word.encode()) is None:
            self.say("refused")

    def read(self, id: str) -> None:
        if not self.cluster.read(int(id)):
            self.say("refused")

    def crash(self, id: str) -> None:
        self.cluster.crash(int(id))

    def restart(self, id: str) -> None:
        self.cluster.restart(int(id))

    def log(self, id: str) -> None:
        raft = self.cluster.raft(int(id))
        indexes = range(raft.log.first, raft.log.last + 1)
        entries = " ".join(f"{n}:{raft.log.term_at(n)}" for n in indexes)
        self.say(f"{id} holds {entries or 'nothing'}; durable {raft.durable}; commit {raft.commit}")

    def join(self, id: str) -> None:
        self.cluster.join(int(id))

    def change(self, id: str, *words: str) -> None:
        asked: dict[str, list[int]] = {"add": [], "promote": [], "remove": []}
        kind = ""
        for word in words:
            if word in asked:
                kind = word
            else:
                asked[kind].append(int(word))
        change = Change(
            add=dict.fromkeys(asked["add"], b""), promote=asked["promote"], remove=asked["remove"]
        )
        begun = self.cluster.change(int(id), change)
        if isinstance(begun, Refused):
            self.say(f"refused: {begun.sentence}")

    def transfer(self, id: str, to: str, target: str) -> None:
        assert to == "to"
        if not self.cluster.transfer(int(id), int(target)):
            self.say("refused")

    def snapshot(self, id: str) -> None:
        while self.cluster.replicas[int(id)].to_apply:
            self.cluster.apply(int(id))
        self.cluster.snapshot(int(id))

    def compact(self, id: str) -> None:
        self.cluster.compact(int(id))

    def fetch(self, id: str, x: str = "x", times: str = "1") -> None:
        assert x == "x"
        for _ in range(int(times)):
            self.cluster.fetch(int(id))

    def check(self, id: str, *how: str) -> None:
        self.cluster.check(int(id), damaged=how == ("damaged",))

    def harm(self, id: str, index: str) -> None:
        self.cluster.harm(int(id), int(index))

    def _take(self, *pair: str) -> list[Message]:
        """Take what is on the wire, all or from one replica to another."""
        ends = tuple(map(int, pair))
        taken = [m for m in self.cluster.wire if not ends or (m.source, m.target) == ends]
        self.cluster.wire = [m for m in self.cluster.wire if m not in taken]
        return taken


def perform(script: str) -> str:
    """The script with the trace that it has now."""
    stage, lines = Stage(), list[str]()
    for line in script.splitlines():
        if line.startswith("> "):
            lines.append(line)
            lines.extend(f"  {said}" for said in stage.play(line[2:]))
        elif line.startswith("#") or not line.strip():
            lines.append(line.rstrip())
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_the_cluster_plays_it_as_written(path: Path) -> None:
    script = path.read_text()
    played = perform(script)
    if os.environ.get("LEFTFOLD_REWRITE"):
        path.write_text(played)
        return

    assert played == script


def test_there_are_scenarios_and_a_changed_trace_is_noticed() -> None:
    script = "> cluster 1\n> tick 1\n  something else happened\n"

    assert len(SCENARIOS) >= 3
    assert perform(script) != script
