"""A snapshot holds all state: what is restored goes on exactly as what was live (I7)."""

import random

import pytest
from sample_bank import LIMITS, Account, Deposit, Hold, Misbehave, app, fold, random_log

from leftfold.actors import App, Command, Context, actor, handler, message
from leftfold.actors.errors import SnapshotRefused, StateNotEncodable
from leftfold.actors.limits import SECOND_NS, Limits
from leftfold.actors.machine import Machine
from leftfold.actors.testing import CommandFailed, Folded


@message(id=1)
class Note(Command[None]):
    n: int


@actor(id=9, key=int)
class Notebook:
    @handler
    def note(self, command: Note, context: Context) -> None: ...


@actor(id=1, key=str)
class AccountWithoutTimers:
    cents: int = 0
    added_later: int = 5

    @handler
    def note(self, command: Note, context: Context) -> None: ...


AccountWithoutTimers.__name__ = "Account"


def restored(machine: Machine) -> Machine:
    return Machine.restore(app, machine.limits, machine.seed, machine.snapshot())


@pytest.mark.parametrize("seed", range(4))
def test_a_restored_machine_has_the_same_digest_and_writes_the_same_bytes(seed: int) -> None:
    machine = Machine(app, LIMITS, 7)
    fold(machine, random_log(seed, 300))
    copy = restored(machine)

    assert copy.state_digest() == machine.state_digest()
    assert list(copy.snapshot()) == list(machine.snapshot())
    assert list(copy.state.sessions) == list(machine.state.sessions)
    assert copy.state.timers.by_id == machine.state.timers.by_id
    assert copy.state.actors == machine.state.actors
    assert copy.state.actors_count == machine.state.actors_count
    assert (copy.digest, copy.state.index) == (machine.digest, machine.state.index)


@pytest.mark.parametrize("seed", range(3))
def test_restored_at_every_kth_entry_the_rest_of_the_log_gives_the_same(seed: int) -> None:
    """I7, from every 25th entry to the end."""
    log = random_log(seed, 250)
    machine = Machine(app, LIMITS, 7)
    expected = fold(machine, log)
    walker = Machine(app, LIMITS, 7)
    for end in range(25, len(log), 25):
        fold(walker, log[:end])
        copy = restored(walker)
        assert fold(copy, log) == expected[end:], f"restored after {end}"
        assert copy.state_digest() == machine.state_digest()


def test_restored_after_every_entry_the_log_gives_the_same() -> None:
    log = random_log(99, 400)
    machine = Machine(app, LIMITS, 7)
    expected = fold(machine, log)
    walker = Machine(app, LIMITS, 7)
    outputs: list[bytes] = []
    for end in range(1, len(log) + 1):
        outputs += fold(walker, log[:end])
        walker = restored(walker)

    assert outputs == expected and walker.state_digest() == machine.state_digest()
    assert machine.state.quarantined and machine.state.timers.by_id


def test_the_log_of_these_tests_reaches_every_kind_of_state() -> None:
    """Otherwise the tests above would show little."""
    machine = Machine(app, LIMITS, 7)
    fold(machine, random_log(0, 300))
    state = machine.state

    assert len(state.sessions) and state.quarantined and state.timers.next_id > 1
    assert state.jumps_ns and len(state.events) and state.events.floor > (0, 0, 0)
    assert any(session.replies for session in state.sessions)


def test_chunks_have_the_size_of_the_limit_and_may_be_cut_anywhere() -> None:
    limits = Limits(snapshot_chunk_bytes=4_096)
    machine = Machine(app, limits, 7)
    fold(machine, random_log(1, 300))
    chunks = list(machine.snapshot())
    assert len(chunks) > 2 and {len(chunk) for chunk in chunks[:-1]} == {4_096}
    rng = random.Random(1)
    whole = b"".join(chunks)
    pieces: list[bytes] = []
    while whole:
        size = rng.randrange(1, 3_000)
        pieces.append(whole[:size])
        whole = whole[size:]

    copy = Machine.restore(app, limits, 7, pieces)
    assert copy.state_digest() == machine.state_digest()


def test_any_changed_missing_or_added_byte_is_refused() -> None:
    machine = Machine(app, LIMITS, 7)
    fold(machine, random_log(2, 30))
    whole = b"".join(machine.snapshot())
    rng = random.Random(2)
    for _ in range(300):
        changed = bytearray(whole)
        changed[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        with pytest.raises(SnapshotRefused):
            Machine.restore(app, LIMITS, 7, [bytes(changed)])
    for damaged in (whole[:-1], whole[: len(whole) // 2], b"", whole + b"\0", whole + whole):
        with pytest.raises(SnapshotRefused):
            Machine.restore(app, LIMITS, 7, [damaged])


def test_a_snapshot_of_another_seed_or_app_is_refused_by_name() -> None:
    bank = Folded(app)
    bank.ask("a", Deposit(5))
    chunks = list(bank.machine.snapshot())
    with pytest.raises(SnapshotRefused, match="another seed"):
        Machine.restore(app, None, 2, chunks)
    with pytest.raises(SnapshotRefused, match="actors of type 1"):
        Machine.restore(App(actors=[Notebook]), None, 1, chunks)
    bank.ask("a", Hold(1, seconds=5))
    with pytest.raises(SnapshotRefused, match="a timer with message 7"):
        Machine.restore(App(actors=[AccountWithoutTimers]), None, 1, bank.machine.snapshot())


def test_a_field_added_later_takes_its_default() -> None:
    bank = Folded(app)
    bank.ask("a", Deposit(5))
    newer = App(actors=[AccountWithoutTimers])
    machine = Machine.restore(newer, None, 1, bank.machine.snapshot())

    assert machine.instance(AccountWithoutTimers, "a") == AccountWithoutTimers(5, 5)


@pytest.mark.parametrize("how", ["big state", "true state", "shared"])
def test_state_that_cannot_be_carried_is_refused_by_name_and_stays_usable(how: str) -> None:
    bank = Folded(app, strict=False)
    bank.ask("ok", Deposit(5))
    bank.ask("bad", Misbehave(how))
    with pytest.raises(StateNotEncodable, match="Account 'bad'"):
        list(bank.machine.snapshot())

    assert bank.ask("ok", Deposit(1)).cents == 6


def test_a_command_that_replaces_what_no_snapshot_holds_is_the_way_out() -> None:
    bank = Folded(app, strict=False)
    bank.ask("bad", Misbehave("true state"))
    with pytest.raises(StateNotEncodable, match=r"cents is True.*replace the value by a command"):
        list(bank.machine.snapshot())
    bank.ask("bad", Deposit(1))

    assert restored(bank.machine).state_digest() == bank.machine.state_digest()


def test_the_state_of_a_quarantined_actor_cannot_hinder_a_snapshot() -> None:
    bank = Folded(app, strict=False)
    bank.ask("bad", Misbehave("big state"))
    with pytest.raises(CommandFailed):
        bank.ask("bad", Misbehave("raise"))
    copy = restored(bank.machine)

    assert copy.state.quarantined == bank.machine.state.quarantined
    assert copy.state_digest() == bank.machine.state_digest()


@pytest.mark.parametrize("how", ["big state", "true state", "shared"])
def test_the_bytes_are_the_same_with_and_without_verifying(how: str) -> None:
    """A quarantined actor that would not come back is written as a fresh one in both."""
    bank = Folded(app, strict=False)
    bank.ask("ok", Deposit(5))
    bank.ask("bad", Misbehave(how))
    with pytest.raises(CommandFailed):
        bank.ask("bad", Misbehave("raise"))
    written = list(bank.machine.snapshot(verify=False))

    assert written == list(bank.machine.snapshot()) == list(restored(bank.machine).snapshot())
    assert restored(bank.machine).instance(Account, "bad") == Account()


def test_the_order_of_dicts_in_the_state_is_kept() -> None:
    bank = Folded(app)
    bank.ask("a", Deposit(100))
    timers = [bank.ask("a", Hold(1, seconds=n)).timer for n in (50, 10, 30)]
    bank.ask("b", Deposit(1))
    copy = restored(bank.machine)

    assert list(copy.instance(Account, "a").held) == timers
    assert list(copy.state.actors[1]) == [b"a", b"b"]


def test_the_session_clock_goes_on_where_it_was() -> None:
    bank = Folded(app, limits=LIMITS)
    bank.advance(ns=LIMITS.session_timeout_ns // 2)
    copy = restored(bank.machine)
    bank.machine = copy
    bank.advance(seconds=LIMITS.session_timeout_ns / SECOND_NS)

    with pytest.raises(CommandFailed, match="SESSION_EXPIRED"):
        bank.ask("a", Deposit(1))
