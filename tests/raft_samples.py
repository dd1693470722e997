"""One Raft core under a test's hands: recovered with a log, heard out, made a leader."""

from collections.abc import Sequence
from typing import Any

from leftfold.raft import (
    AppendEntries,
    Config,
    Entry,
    HardState,
    Log,
    Membership,
    Message,
    Raft,
    RequestVoteReply,
    Role,
)

ELECTION_TICKS = 10


def entry(index: int, term: int, body: bytes = b"") -> Entry:
    return Entry(index, term, index, 0, body)


def raft_with(
    terms: list[int],
    *,
    term: int | None = None,
    size: int = 3,
    commit: int = 0,
    configurations: Sequence[tuple[int, Membership]] = (),
    **more: Any,
) -> Raft:
    """Replica 1 of `size`, recovered with entries of these terms (index 1 first)."""
    limits = {name: more.pop(name) for name in list(more) if name not in ("damage", "observer")}
    raft = Raft(
        Config(id=1, voters=range(1, size + 1), election_ticks=ELECTION_TICKS, **limits),
        HardState(term or max(terms, default=0), 0, commit),
        log_of(terms),
        configurations=configurations,
        **more,
    )
    raft.ready()
    return raft


def log_of(terms: list[int]) -> Log:
    boundaries = [
        (index, term)
        for index, term in enumerate(terms, 1)
        if index == 1 or terms[index - 2] != term
    ]
    return Log(1, len(terms), terms[-1] if terms else 0, boundaries, len(terms))


def take(raft: Raft) -> list[Message]:
    """Everything the replica says once its disk has done all that it was given."""
    said: list[Message] = []
    for _ in range(1000):
        ready = raft.ready()
        if not ready:
            return said
        said.extend(ready.send_now + ready.send_after_persist)
        if ready.persist is not None:
            raft.persisted(ready.persist.sequence)
        if ready.term_to_start:
            raft.start_term(raft.log.last_time_ns)
    raise AssertionError("the replica does not come to rest")


def append(
    term: int, prev_index: int, prev_term: int, *entries: Entry, commit: int = 0, source: int = 2
) -> AppendEntries:
    return AppendEntries(source, 1, term, prev_index, prev_term, entries, commit)


def lead(raft: Raft, *voters: int) -> None:
    """Let time pass until it campaigns, and let `voters` vote for it."""
    while raft.role is Role.FOLLOWER:
        raft.tick()
    take(raft)
    for voter in voters:
        raft.step(RequestVoteReply(voter, 1, raft.term + 1, True, pre_vote=True))
    take(raft)
    for voter in voters:
        raft.step(RequestVoteReply(voter, 1, raft.term, True))
    assert raft.role is Role.LEADER


def state_of(raft: Raft) -> dict[str, Any]:
    """All that a replica is, as values."""
    found = dict(vars(raft))
    log = vars(found.pop("log"))
    found["_random"] = found["_random"].getstate()
    return found | {f"log.{name}": value for name, value in log.items()}
