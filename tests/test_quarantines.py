"""What is told of quarantined actors: each once, the newest by name, and never a flood."""

from typing import Any

import pytest
from sample_bank import Account, Misbehave, app

from leftfold.actors.testing import CommandFailed, Folded
from leftfold.runtime.metrics import schema
from leftfold.runtime.quarantines import NAMED_MAX, TELL_NS, Quarantines, sentences
from leftfold.shm import Counters


class Bank:
    """A fold whose actors are broken one by one, and what is told of it at a time of the test's own."""

    def __init__(self, path: Any) -> None:
        Counters.create(path, schema())
        self.folded = Folded(app)
        self.now_ns = 0
        self.told: list[dict[str, Any]] = []
        self.counters = Counters.attach(path, "logic")  # It owns the mapped word.
        self.counter = self.counters.counters["quarantined"]
        self.quarantines = Quarantines(
            self.counter, lambda facts: self.told.append(facts["quarantined"]), lambda: self.now_ns
        )

    def look(self) -> None:
        self.quarantines.look(self.folded.machine)

    def break_one(self, key: str) -> None:
        with pytest.raises(CommandFailed):
            self.folded.ask(key, Misbehave("raise"))


@pytest.fixture
def bank(tmp_path: Any) -> Bank:
    return Bank(tmp_path / "counters")


def test_a_quarantine_is_told_once_with_actor_key_handler_place_and_reason(bank: Bank) -> None:
    bank.look()
    assert bank.told == []

    bank.break_one("alice")
    bank.look()
    bank.now_ns += TELL_NS
    bank.look()

    assert [one["count"] for one in bank.told] == [1]
    assert bank.folded.quarantine(Account, "alice") is not None
    named = bank.told[0]["newest"][0]
    where = f"{named['index']}.{named['ordinal']}"
    said = f"Account 'alice' is quarantined: Account.misbehave failed at {where}: "
    assert list(sentences(bank.told[0])) == [said + "RuntimeError: at <object object at 0x> (A101)"]
    assert bank.counter.value == 1


def test_a_flood_is_told_once_a_second_with_the_newest_named(bank: Bank) -> None:
    bank.break_one("first")
    bank.look()
    for number in range(3 * NAMED_MAX):
        bank.break_one(f"k{number}")
        bank.look()
    assert len(bank.told) == 1
    bank.now_ns += TELL_NS
    bank.look()

    later = bank.told[1]
    assert (later["count"], later["new"]) == (3 * NAMED_MAX + 1, 3 * NAMED_MAX)
    assert [one["key"] for one in later["newest"]] == [
        f"k{number}" for number in reversed(range(2 * NAMED_MAX, 3 * NAMED_MAX))
    ]
    lines = list(sentences(later, new=True))
    assert len(lines) == NAMED_MAX + 1
    assert lines[-1] == f"{2 * NAMED_MAX} more actors are quarantined."
    assert list(sentences(None)) == []
