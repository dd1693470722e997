"""A cluster of one: every method of the core, and a crash at every step of its life.

Also the rules that the shell sees (configuration, limits, refusals), and that raft/ is pure.
"""

import ast
from pathlib import Path
from typing import Any

import pytest
from raft_cluster import Cluster

import leftfold.raft
from leftfold.raft import (
    TERM_START,
    Config,
    ConfigurationError,
    Entry,
    Fetch,
    HardState,
    Heartbeat,
    HeartbeatReply,
    Log,
    Persist,
    ProgressState,
    ProtocolViolation,
    Raft,
    Read,
    Ready,
    RequestVoteReply,
    Role,
    StateLost,
)
from leftfold.raft.messages import AppendEntries, AppendEntriesReply


def one(hard_state: HardState | None = None, log: Log | None = None, **limits: Any) -> Raft:
    return Raft(Config(id=1, voters=[1], **limits), hard_state or HardState(), log or Log())


def leading(**limits: Any) -> Raft:
    """A leader of term 1 whose first entry is committed and applied."""
    raft = one(**limits)
    raft.tick()
    raft.ready()
    raft.persisted(1)
    raft.start_term(100)
    raft.ready()
    raft.persisted(2)
    raft.ready()
    raft.applied(1)
    return raft


def test_the_life_of_a_cluster_of_one() -> None:
    raft = one()
    assert not raft.ready()

    raft.tick()
    assert raft.ready() == Ready(
        persist=Persist(1, HardState(1, 1, 0), None, ()), role_changed=True
    )
    assert raft.role is Role.CANDIDATE, "its own vote is not durable yet"
    raft.tick()
    assert not raft.ready(), "a slow disk is no reason for another term"

    raft.persisted(1)
    assert raft.ready() == Ready(role_changed=True, term_to_start=True)
    assert (raft.role, raft.term, raft.leader_id) == (Role.LEADER, 1, 1)
    assert raft.ready() == Ready(term_to_start=True), "said until it is done"

    assert raft.start_term(100, b"a build") == 1
    assert raft.propose(0, b"x", 100) == 2
    start, x = Entry(1, 1, 100, TERM_START, b"a build"), Entry(2, 1, 100, 0, b"x")
    assert raft.ready() == Ready(persist=Persist(2, None, None, (start, x)))
    assert raft.commit == 0

    raft.persisted(2)
    assert raft.read_index(77)
    assert raft.ready() == Ready(apply=(1, 2), reads=(Read(77, 2),))
    assert (raft.commit, raft.durable, raft.applied_index) == (2, 2, 0)
    raft.applied(2)
    assert raft.applied_index == 2
    assert not raft.ready()

    raft.propose(0, b"y", 101)
    assert raft.ready().persist == Persist(
        3, HardState(1, 1, 2), None, (Entry(3, 1, 101, 0, b"y"),)
    ), "the commit index goes to disk with the next write, never on its own"


def test_a_restart_applies_what_it_knows_and_commits_the_rest_in_a_new_term() -> None:
    raft = one(HardState(3, 1, 2), Log(1, 4, 3, [(1, 1), (3, 3)], 50))
    assert raft.ready().apply == (1, 2), "known to be committed before the crash"

    raft.tick()
    raft.persisted((raft.ready().persist or pytest.fail()).sequence)
    assert raft.propose(0, b"", 60) is None
    assert raft.start_term(60) == 5
    assert raft.ready().apply is None, "entries of earlier terms wait for the term's own"
    raft.persisted(2)

    assert raft.ready().apply == (3, 5)
    assert raft.log.term_at(5) == 4


def test_a_restart_from_a_snapshot_applies_only_what_follows_it() -> None:
    log = Log(4, 6, 2, [(2, 1), (5, 2)], 60)
    raft = Raft(Config(id=1, voters=[1]), HardState(2, 1, 6), log, applied=5)

    assert raft.ready().apply == (6, 6)


def test_proposals_gather_into_one_write() -> None:
    raft = leading()

    indexes = [raft.propose(0, b"%d" % n, 100 + n) for n in range(5)]
    persist = raft.ready().persist

    assert indexes == [2, 3, 4, 5, 6]
    assert persist is not None and [e.index for e in persist.entries] == indexes


def test_one_report_may_cover_several_writes_and_a_repeated_one_is_harmless() -> None:
    raft = leading()
    for n in range(3):
        raft.propose(0, b"x", 100)
        assert (raft.ready().persist or pytest.fail()).sequence == 3 + n

    raft.persisted(4)
    assert raft.ready().apply == (2, 3)
    raft.persisted(4)
    raft.persisted(3)
    assert not raft.ready()
    raft.persisted(5)
    assert raft.ready().apply == (4, 4)


def test_a_write_that_was_never_asked_for_cannot_be_durable() -> None:
    with pytest.raises(AssertionError):
        leading().persisted(3)


def test_logic_cannot_have_applied_what_it_was_not_given() -> None:
    raft = leading()
    raft.propose(0, b"x", 100)

    with pytest.raises(AssertionError):
        raft.applied(2)


def test_log_time_never_goes_back() -> None:
    raft = leading()

    with pytest.raises(AssertionError, match="never goes back"):
        raft.propose(0, b"x", 99)


def test_only_start_term_opens_a_term_and_only_once() -> None:
    raft = leading()

    with pytest.raises(AssertionError):
        raft.propose(TERM_START, b"", 100)
    with pytest.raises(AssertionError):
        raft.start_term(100)


def test_a_follower_takes_no_proposals_and_no_reads() -> None:
    raft = one()

    assert raft.propose(0, b"x", 1) is None
    assert not raft.read_index(1)


# Limits (I10)


def test_too_many_unapplied_entries_refuse_proposals_until_logic_catches_up() -> None:
    raft = leading(unapplied_entries_max=2)

    assert [raft.propose(0, b"", 100) for _ in range(3)] == [2, 3, None]
    raft.ready()
    raft.persisted(3)
    raft.ready()
    assert raft.propose(0, b"", 100) is None, "committed is not applied"
    raft.applied(2)
    assert raft.propose(0, b"", 100) == 4


def test_too_many_unapplied_bytes_refuse_proposals_but_one_always_fits() -> None:
    raft = leading(unapplied_bytes_max=10)

    assert raft.propose(0, b"more than ten bytes", 100) == 2
    assert raft.propose(0, b"x", 100) is None
    raft.ready()
    raft.persisted(3)
    raft.ready()
    raft.applied(2)
    assert raft.propose(0, b"1234567890", 100) == 3
    assert raft.propose(0, b"x", 100) is None


def test_replay_of_a_long_log_refuses_proposals_but_not_the_term() -> None:
    raft = one(HardState(1, 1, 9), Log(1, 9, 1, [(1, 1)], 5), unapplied_entries_max=3)
    raft.tick()
    raft.ready()
    raft.persisted(1)

    assert raft.start_term(5) == 10
    assert raft.propose(0, b"", 5) is None


def test_too_many_reads_are_refused() -> None:
    raft = leading(reads_max=2)

    assert [raft.read_index(n) for n in range(3)] == [True, True, False]
    assert [read.context for read in raft.ready().reads] == [0, 1]
    assert raft.read_index(3)


def test_a_read_sees_what_was_proposed_before_it() -> None:
    raft = leading()
    raft.propose(0, b"mine", 100)

    raft.read_index(5)
    assert raft.ready().reads == ()
    raft.persisted(3)

    assert raft.ready() == Ready(apply=(2, 2), reads=(Read(5, 2),))


def test_bodies_leave_memory_oldest_first_but_not_before_they_are_durable() -> None:
    raft = leading(recent_bytes_max=32, unapplied_bytes_max=32)
    for _ in range(4):
        raft.propose(0, b"12345678", 100)
    raft.ready()
    raft.persisted(3)
    raft.ready()
    raft.applied(5)
    assert raft.log.recent_bytes == 32, "within the limit"

    for _ in range(4):
        raft.propose(0, b"12345678", 100)
    raft.ready()

    assert raft.log.entries(5, 9) is None
    assert raft.log.entries(6, 9) is not None, "memory has the only copy"


# Crashes


@pytest.mark.parametrize("torn", [None, -1, 0, 1, 2])
@pytest.mark.parametrize("whole", [0, 1])
@pytest.mark.parametrize("at", range(14))
def test_a_crash_at_any_step_loses_nothing_that_was_promised(
    at: int, whole: int, torn: int | None
) -> None:
    """The disk loses what was not synced, or keeps any part of it; the cluster checks the rest."""
    cluster = Cluster(1)
    steps = [
        lambda: cluster.tick(1),
        lambda: cluster.sync(1),
        lambda: cluster.propose(1, b"a"),
        lambda: cluster.sync(1, min(1, len(cluster.replicas[1].disk.pending))),
        lambda: cluster.propose(1, b"b"),
        lambda: cluster.read(1),
        lambda: cluster.propose(1, b"c"),
        lambda: cluster.sync(1),
        lambda: cluster.apply(1),
        lambda: cluster.propose(1, b"d"),
        lambda: cluster.sync(1),
        lambda: cluster.apply(1),
        lambda: cluster.apply(1),
    ]
    for step in steps[:at]:
        step()
    committed = dict(cluster.committed)

    cluster.crash(1, min(whole, len(cluster.replicas[1].disk.pending)), torn)
    cluster.restart(1)
    for _ in range(3):
        cluster.tick(1)
        cluster.settle()
    index = cluster.propose(1, b"after")
    cluster.settle()

    applied = cluster.replicas[1].applied
    assert index is not None and applied[-1].body == b"after"
    assert [committed[i] for i in sorted(committed)] == applied[: len(committed)]


def test_a_torn_write_that_lost_its_hard_state_frees_no_term_to_be_used_twice() -> None:
    """Entries of term 5 are there and the hard state says 4: the term is 5, the vote is open."""
    raft = Raft(Config(id=1, voters=[1, 2, 3]), HardState(4, 2, 0), Log(1, 1, 5, [(1, 5)], 0))

    assert (raft.term, raft.voted_for) == (5, 0)
    assert raft.ready().persist == Persist(1, HardState(5, 0, 0), None, ())


def test_a_log_that_lost_committed_entries_is_refused() -> None:
    with pytest.raises(StateLost, match="entries were lost"):
        one(HardState(1, 1, 3), Log(1, 2, 1, [(1, 1)]))
    with pytest.raises(StateLost, match="entries were lost"):
        Raft(Config(id=1, voters=[1]), HardState(1), Log(1, 2, 1, [(1, 1)]), applied=3)


# Acknowledgements of what was overwritten (why persisted() takes a sequence)


def test_an_acknowledgement_of_an_overwritten_entry_does_not_count() -> None:
    """(1, 1) is written, overwritten by (2, 1), and written again as (1, 1) by the leader of
    term 3. The late acknowledgement of the first write must not vouch for the third."""
    raft = Raft(Config(id=1, voters=[1, 2, 3]), HardState(), Log())
    old, other = Entry(1, 1, 0, 0, b"old"), Entry(1, 2, 0, 0, b"other")
    sequences: list[int] = []
    for message in (
        AppendEntries(2, 1, 1, 0, 0, (old,), 0),
        AppendEntries(3, 1, 2, 0, 0, (other,), 0),
        AppendEntries(2, 1, 3, 0, 0, (old,), 0),
    ):
        raft.step(message)
        sequences.append((raft.ready().persist or pytest.fail()).sequence)

    raft.persisted(sequences[0])
    first = raft.ready(), raft.durable
    raft.persisted(sequences[2])

    assert first == (Ready(), 0)
    assert raft.durable == 1
    assert raft.ready().send_after_persist == (AppendEntriesReply(1, 2, 3, True, 1),)


# Catching up a peer from the journal


def caught_up_late() -> Raft:
    """Replica 1 leads 2 and 3; entries 1…4 are durable and not in memory any more."""
    raft = Raft(
        Config(id=1, voters=[1, 2, 3], recent_bytes_max=1, unapplied_bytes_max=1),
        HardState(1, 0, 0),
        Log(1, 4, 1, [(1, 1)], 0),
    )
    while raft.role is Role.FOLLOWER:
        raft.tick()
    raft.step(RequestVoteReply(2, 1, 2, True, pre_vote=True))
    raft.persisted((raft.ready().persist or pytest.fail()).sequence)
    raft.step(RequestVoteReply(2, 1, 2, True))
    raft.start_term(0)
    raft.persisted((raft.ready().persist or pytest.fail()).sequence)
    return raft


def test_what_is_not_in_memory_is_fetched_and_sent() -> None:
    raft = caught_up_late()
    raft.step(AppendEntriesReply(3, 1, 2, False, 4, 2, 1))

    assert raft.ready().fetch == (Fetch(3, 3, 4, 1 << 20),)
    assert raft.ready().fetch == (), "asked once"
    entries = tuple(Entry(index, 1, 0, 0, b"") for index in (3, 4))
    raft.fetched(3, entries)

    assert raft.ready().send_now == (AppendEntries(1, 3, 2, 2, 1, entries, 0, bulk=True),)


def test_fetched_entries_that_are_no_longer_the_log_s_are_not_sent() -> None:
    raft = caught_up_late()
    raft.step(AppendEntriesReply(3, 1, 2, False, 4, 2, 1))
    raft.ready()

    raft.fetched(3, (Entry(3, 7, 0, 0, b"overwritten meanwhile"),))

    ready = raft.ready()
    assert ready.send_now == ()
    assert ready.fetch == (Fetch(3, 3, 4, 1 << 20),), "asked again"
    raft.fetched(2, ())
    raft.fetched(9, ())
    assert not raft.ready()


def test_a_peer_that_needs_what_is_gone_is_asked_until_it_has_a_snapshot() -> None:
    raft = caught_up_late()
    raft.log.compact(4)
    raft.step(AppendEntriesReply(3, 1, 2, False, 4, 1, 1))
    assert not raft.ready().fetch
    assert raft.progress[3].state is ProgressState.SNAPSHOT

    raft.step(HeartbeatReply(3, 1, 2))
    assert raft.ready().send_now == (AppendEntries(1, 3, 2, 3, 1, (), 0),)
    raft.step(AppendEntriesReply(3, 1, 2, False, 3, 1, 1))
    assert raft.progress[3].state is ProgressState.SNAPSHOT
    raft.step(AppendEntriesReply(3, 1, 2, True, 3))

    assert raft.progress[3].state is ProgressState.REPLICATE
    assert raft.ready().fetch == (Fetch(3, 4, 4, 1 << 20),)


# Configuration and remote mistakes


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"voters": []}, "at least one voter"),
        ({"id": 4}, "no member"),
        ({"id": 0, "voters": [0]}, "start at 1"),
        ({"learners": [1]}, "not both"),
        ({"heartbeat_ticks": 0}, "at least one tick"),
        ({"heartbeat_ticks": 10}, "longer than"),
        ({"reads_max": 0}, "at least one"),
        ({"recent_bytes_max": 5, "unapplied_bytes_max": 6}, "unapplied"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(
    wrong: dict[str, object], sentence: str
) -> None:
    arguments: dict[str, object] = {"id": 1, "voters": [1, 2, 3], **wrong}

    with pytest.raises(ConfigurationError, match=sentence):
        Config(**arguments)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (Heartbeat(2, 3, 1, 0), "for replica 3"),
        (AppendEntries(2, 1, 1, 0, 0, (Entry(2, 1, 0, 0, b""),), 0), "gap"),
        (AppendEntries(2, 1, 1, 0, 0, (Entry(1, 2, 0, 0, b""),), 0), "gap"),
    ],
)
def test_what_no_correct_replica_sends_is_refused(message: Heartbeat, sentence: str) -> None:
    with pytest.raises(ProtocolViolation, match=sentence):
        Raft(Config(id=1, voters=[1, 2, 3]), HardState(), Log()).step(message)


def test_an_acknowledgement_of_what_was_never_written_is_refused() -> None:
    with pytest.raises(ProtocolViolation, match="has not written"):
        caught_up_late().step(AppendEntriesReply(2, 1, 2, True, 99))


def test_a_follower_with_a_slow_disk_takes_no_more_than_its_limit() -> None:
    """I10: what is not durable cannot leave memory, so it is bounded at the door."""
    raft = Raft(
        Config(id=1, voters=[1, 2, 3], recent_bytes_max=10, unapplied_bytes_max=10),
        HardState(),
        Log(),
    )
    for index in range(1, 6):
        before = 1 if index > 1 else 0
        entry = Entry(index, 1, 0, 0, b"123456")
        raft.step(AppendEntries(2, 1, 1, index - 1, before, (entry,), 0))
        raft.ready()
    full = raft.log.last
    raft.persisted(2)
    raft.step(AppendEntries(2, 1, 1, full, 1, (Entry(full + 1, 1, 0, 0, b""),), 0))

    assert full == 2
    assert raft.log.last == 3


# Purity


def test_the_core_imports_nothing_that_touches_the_world() -> None:
    """Sans-IO: of randomness only `random.Random(seed)`, and otherwise values and arithmetic."""
    allowed = {
        "attrs",
        "bisect",
        "collections",
        "collections.abc",
        "enum",
        "random",
        "struct",
        "typing",
        "zlib",
    }
    for path in sorted(Path(leftfold.raft.__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert {alias.name for alias in node.names} <= allowed, path
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                assert node.module in allowed - {"random"}, path
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 1, "raft knows no other pillar"
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "random" or node.attr == "Random", path
            elif isinstance(node, ast.Name):
                assert node.id not in {"open", "print", "__import__", "eval", "exec"}, path
