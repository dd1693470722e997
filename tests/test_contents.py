"""What a journal folds: the quick way for the usual run and the slow one for all others are one fold."""

import random

import attrs
from attrs import define, field

from leftfold.runtime import slots
from leftfold.runtime.contents import Contents, Inconsistent

ENTRIES, SKIP, CONFIGURATION = 0, 3, 4


@define
class Slow(Contents):
    """Never the quick way."""

    def fold_plain(self, run: memoryview, segment: int, offset: int) -> int | None:
        del run, segment, offset
        return None


@define
class Quick(Contents):
    """Counts how often the quick way was taken."""

    taken: int = field(default=0, eq=False)

    def fold_plain(self, run: memoryview, segment: int, offset: int) -> int | None:
        found = super().fold_plain(run, segment, offset)
        self.taken += found is not None
        return found


def state_of(contents: Contents) -> dict[str, object]:
    return attrs.asdict(contents, filter=lambda field, value: field.eq)


def entry(index: int, term: int, kind: int, body: bytes) -> bytes:
    head = slots.pack_entry_header(index, term, 1000 * index + term, kind, len(body))
    return head + body + bytes(-len(body) % 8)


def random_run(rng: random.Random, contents: Contents) -> bytes:
    """Mostly entries that go on; sometimes what the quick way leaves to the other, or what is wrong."""
    run, index, term = b"", contents.last + 1, max(1, contents.last_term)
    for _ in range(rng.choice((1, 1, 2, 5))):
        match rng.randrange(40):
            case 0:
                term += 1
            case 1:
                run += entry(index, term, SKIP, slots.pack_skip_body(7, 1))
                index += 1
            case 2:
                run += entry(index, term, CONFIGURATION, rng.randbytes(rng.randrange(40)))
                index += 1
            case 3:
                index = max(1, index - rng.randrange(4))
            case 4:
                run += slots.pack_truncate(max(1, index - 1)) + bytes(0)
                index = max(1, index - 1)
            case 5:
                index += rng.randrange(2)
            case 6:
                run += slots.HEADER.pack(rng.choice((0, 7, 4096)), rng.choice((32, 33)), 0)
            case 7 | 8 | 9 | 10 | 11:
                commit = rng.randrange(max(1, contents.last + 1))
                run += slots.pack_hard_state(term, rng.randrange(3), max(commit, contents.commit))
            case _:
                run += entry(index, term, ENTRIES, rng.randbytes(rng.randrange(60)))
                index += 1
    return run


def test_both_ways_of_folding_are_one() -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    quick, slow = Quick(), Slow()
    taken = 0
    for _ in range(3000):
        run = random_run(rng, quick)
        if not run:
            continue
        segment, offset = rng.choice((1, 1, 1, 1, 2)), rng.randrange(0, 400_000, 8)
        found: list[object] = []
        for contents in (quick, slow):
            try:
                first = contents.fold(memoryview(run), segment, offset)
                contents.check()
                found.append(first)
            except Inconsistent as wrong:
                found.append(str(wrong))
        assert found[0] == found[1]
        assert state_of(quick) == state_of(slow)
        if isinstance(found[0], str):  # A journal ends there; this one goes on anew.
            taken += quick.taken
            quick, slow = Quick(), Slow()
    assert taken + quick.taken > 100


def test_a_run_that_is_not_plain_is_left_as_it_was() -> None:
    contents = Contents()
    assert contents.fold(memoryview(entry(1, 1, ENTRIES, b"a")), 1, 4096) == 1
    before = state_of(contents)
    for run in (
        entry(2, 1, ENTRIES, b"b") + entry(4, 1, ENTRIES, b"c"),
        entry(2, 1, ENTRIES, b"b") + entry(3, 2, ENTRIES, b"c"),
        slots.pack_hard_state(9, 9, 1) + slots.pack_truncate(1),
        entry(2, 1, SKIP, slots.pack_skip_body(1, 0)),
    ):
        assert contents.fold_plain(memoryview(run), 1, 8192) is None
        assert state_of(contents) == before
    assert contents.fold_plain(memoryview(slots.pack_hard_state(9, 2, 1)), 1, 8192) == 0
    assert (contents.term, contents.voted_for, contents.commit) == (9, 2, 1)
