"""What real replicas' Raft did, by their own traces: the paper's safety properties over a run in which the leader is killed."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from cluster import cluster
from replica import wait_until
from test_cluster import check, load

from leftfold.runtime.clock import Clock
from leftfold.runtime.errors import OperatorError
from leftfold.runtime.raft_trace import RaftTrace

NAME = "raft-trace.jsonl"


class Life:
    """One replica's log by index, as its trace tells it."""

    def __init__(self, id: int) -> None:
        self.id = id
        self.terms: dict[int, int] = {}
        self.commit = self.term = 0
        self.message: dict[str, Any] = {}

    def take(self, line: dict[str, Any]) -> None:
        assert line["id"] == self.id
        match line["what"]:
            case "start":
                self._start(line)
            case "message":
                self.message = line["message"]
                assert line["term"] >= self.term
            case "append":
                self._append(line)
            case "truncate":
                assert line["first"] > self.commit, f"committed entries were removed: {line}"
                self.terms = {i: t for i, t in self.terms.items() if i < line["first"]}
            case "restore":
                self.terms = {line["first"]: 0}  # Its term is in the snapshot.
        if line["what"] != "start":
            assert line["term"] >= self.term, f"the term went back: {line}"
            assert self.commit <= line["commit"] <= line["last"], f"commit: {line}"
            assert line["durable"] <= line["last"]
            self.commit = line["commit"]
        self.term = line["term"]

    def _start(self, line: dict[str, Any]) -> None:
        """After a death: what was committed is there, and what was not durable may be gone."""
        starts = [*line["terms"], [line["last"] + 1, 0]]
        found = {
            index: term
            for (first, term), (after, _) in itertools.pairwise(starts)
            for index in range(max(1, first), after)
        }
        for index, term in found.items():
            assert self.terms.get(index, term) in (0, term) or index > self.commit
        self.terms = found
        self.commit = 0

    def _append(self, line: dict[str, Any]) -> None:
        """A leader's own are of its term; a follower's came with the message before (§5.3, leader append-only)."""
        for index in range(line["first"], line["last"] + 1):
            assert index not in self.terms, f"overwritten without a truncation: {line}"
            if line["role"] == "leader":
                self.terms[index] = line["term"]
            else:
                [term] = [term for at, term, *_ in self.message["entries"] if at == index]
                self.terms[index] = term


def lines_of(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for line in path.read_text().splitlines():
        found.append(json.loads(line))
    return found


@pytest.mark.campaign
@pytest.mark.xdist_group("serial")
def test_the_traces_of_real_replicas_show_the_safety_of_raft(tmp_path: Path) -> None:
    with cluster(tmp_path, raft_trace=NAME) as running, load(running) as work:
        work.wait_for(300)
        for _ in range(2):
            leader = running.leader()
            running.kill(leader)
            work.wait_for(100)
            running.start(leader)
            running.wait_ready(leader)
            wait_until(lambda: running.leader(), "a leader")
            work.wait_for(100)
        check(running, work)

    lives = {id: Life(id) for id in running.replicas}
    merged = [line for id in lives for line in lines_of(running.path(id) / NAME)]
    merged.sort(key=lambda line: int(line["t_ns"]))  # It is stable: each file's own order stays.
    leaders: dict[int, int] = {}
    committed: dict[int, int] = {}
    for line in merged:
        life = lives[line["id"]]
        before = life.commit
        life.take(line)
        if line["what"] == "role" and line["role"] == "leader":
            assert leaders.setdefault(line["term"], line["id"]) == line["id"], "election safety"
            for index, term in committed.items():
                assert life.terms.get(index, term) in (0, term), "leader completeness"
        if line["what"] == "commit":
            for index in range(before + 1, life.commit + 1):
                term = life.terms.get(index, 0)
                assert committed.setdefault(index, term) in (0, term), "state machine safety"
    for one in lives.values():
        for other in lives.values():
            shared = one.terms.keys() & other.terms.keys()
            agreed = [i for i in shared if one.terms[i] == other.terms[i]]
            through = max(agreed, default=0)
            assert all(one.terms[i] == other.terms[i] for i in shared if i <= through), "matching"
    assert len(leaders) >= 3 and len(committed) > 300
    assert {line["what"] for line in merged} >= {"start", "message", "durable", "append", "commit"}


def test_a_trace_that_cannot_be_written_is_an_operators_mistake(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"Cannot write the trace .*: Is a directory"):
        RaftTrace.open(tmp_path, Clock())
