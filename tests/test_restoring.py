"""Restoring: from any point, cut anywhere, the same goes on; and whatever was done to it is refused.

Everywhere here the batches and parts are small, so that a small state takes many records.
"""

import random
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
import sample_bank
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_bank import LIMITS, Account, app, fold, random_log

from leftfold.actors import App, Command, Context, actor, batch, content, handler, message, parts
from leftfold.actors.content import RECORD, Kind, read_header, record, split
from leftfold.actors.errors import SnapshotRefused, StateNotEncodable
from leftfold.actors.machine import Machine
from leftfold.actors.versions import Fields, upcast

SEED = 7


@pytest.fixture(autouse=True, scope="module")
def small_records() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "COUNT_FIRST", 2)
        patch.setattr(batch, "COUNT_MAX", 5)
        patch.setattr(parts, "CUT_ITEMS", 2)
        yield


def machine_of(seed: int, entries: int) -> Machine:
    machine = Machine(app, LIMITS, SEED)
    fold(machine, random_log(seed, entries))
    return machine


def whole(machine: Machine) -> bytes:
    return b"".join(machine.snapshot())


def restored(chunks: list[bytes]) -> Machine:
    return Machine.restore(app, LIMITS, SEED, chunks)


def records_of(found: bytes) -> list[bytes]:
    return [bytes(record.whole) for record in split([found])]


def kind_of(record: bytes) -> int:
    return RECORD.unpack_from(record)[1]


def sealed(records: list[bytes]) -> bytes:
    """These records, with an end that fits them."""
    digest = content.Digest()
    for each in records:
        digest.add(each)
    return b"".join(records) + record(Kind.END, digest.end())


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 150), max_size=4))
def test_by_way_of_any_snapshots_the_log_gives_the_same(seed: int, points: list[int]) -> None:
    """I7."""
    log = random_log(seed, 150)
    straight = Machine(app, LIMITS, SEED)
    expected = fold(straight, log)
    walker = Machine(app, LIMITS, SEED)
    outputs: list[bytes] = []
    for end in sorted(points):
        outputs += fold(walker, log[:end])
        walker = restored(list(walker.snapshot()))
    outputs += fold(walker, log)

    assert outputs == expected
    assert whole(walker) == whole(straight) == b"".join(straight.snapshot(verify=False))
    assert walker.state_digest() == straight.state_digest()


def test_every_kind_of_record_is_in_these_tests() -> None:
    found = records_of(whole(machine_of(2, 300)))

    assert {kind_of(each) for each in found} == set(Kind)
    assert len([each for each in found if kind_of(each) == Kind.ACTORS]) > 4


@pytest.mark.parametrize("seed", range(2))
def test_every_truncation_at_a_record_and_a_sample_of_others_is_refused(seed: int) -> None:
    found = whole(machine_of(seed, 200))
    ends = [0]
    for each in records_of(found):
        ends += (ends[-1] + len(each),)
    rng = random.Random(seed)
    cuts = {*ends[:-1], *(end + 1 for end in ends[:-1]), *rng.sample(range(len(found)), 200)}
    for end in cuts:
        with pytest.raises(SnapshotRefused):
            restored([found[:end]])


@pytest.mark.parametrize("seed", range(2))
def test_every_flipped_bit_of_a_sample_is_refused(seed: int) -> None:
    """Every byte of the header's record, and of the head of every other; of the bodies a sample."""
    found = whole(machine_of(seed, 120))
    rng = random.Random(seed)
    places = set(range(len(records_of(found)[0])))
    at = 0
    for each in records_of(found):
        places |= set(range(at, at + RECORD.size))
        at += len(each)
    places |= set(rng.sample(range(len(found)), 300))
    for place in places:
        damaged = bytearray(found)
        damaged[place] ^= 1 << rng.randrange(8)
        with pytest.raises(SnapshotRefused):
            restored([bytes(damaged)])


@pytest.mark.parametrize("fitting_end", [False, True])
def test_records_that_are_swapped_doubled_missing_or_foreign_are_refused(fitting_end: bool) -> None:
    """With an end that fits them, only what is no state at all can be told."""
    found = records_of(whole(machine_of(3, 200)))[:-1]
    other = records_of(whole(machine_of(4, 200)))[:-1]
    end = records_of(whole(machine_of(3, 200)))[-1]
    rng = random.Random(3)
    refused = 0
    for _ in range(300):
        changed = list(found)
        first, second = sorted(rng.sample(range(len(found)), 2))
        how = rng.choice(["swap", "double", "drop", "foreign", "unknown"])
        if how == "swap":
            changed[first], changed[second] = changed[second], changed[first]
        elif how == "double":
            changed.insert(second, changed[first])
        elif how == "drop":
            del changed[first]
        elif how == "foreign":
            changed.insert(second, rng.choice(other))
        else:
            changed.insert(second, RECORD.pack(RECORD.size, 77, 0))
        if changed == found:
            continue
        stream = sealed(changed) if fitting_end else b"".join(changed) + end
        try:
            restored([stream])
        except SnapshotRefused:
            refused += 1
        else:
            assert fitting_end, how
    assert refused > 100


def test_rubbish_in_a_record_that_fits_its_checksum_is_refused() -> None:
    """Nothing but SnapshotRefused, whatever the bytes decode to."""
    found = records_of(whole(machine_of(5, 150)))[:-1]
    rng = random.Random(5)
    refused = 0
    for _ in range(600):
        changed = list(found)
        at = rng.randrange(len(found))
        payload = bytearray(found[at][RECORD.size :])
        for _ in range(rng.randrange(1, 4)):
            payload[rng.randrange(len(payload))] = rng.randrange(256)
        changed[at] = record(Kind(kind_of(found[at])), bytes(payload))
        try:
            restored([sealed(changed)])
        except SnapshotRefused:
            refused += 1
    assert refused > 200


def test_a_newer_format_is_refused_by_its_number() -> None:
    found = records_of(whole(machine_of(1, 20)))
    payload = content.FORMAT_NUMBER.pack(3) + b"what nobody knows yet"
    stream = sealed([record(Kind.HEADER, payload), *found[1:-1]])

    with pytest.raises(SnapshotRefused, match="content has format 3 and this version reads"):
        restored([stream])


def test_what_the_app_lacks_is_refused_before_anything_but_the_header_is_read() -> None:
    @message(id=1)
    class Note(Command[None]):
        pass

    @actor(id=9, key=int)
    class Notebook:
        @handler
        def note(self, command: Note, context: Context) -> None: ...

    taken: list[int] = []

    def chunks() -> Iterator[bytes]:
        for number, each in enumerate(records_of(whole(machine_of(1, 50)))):
            taken.append(number)
            yield each

    with pytest.raises(SnapshotRefused, match=r"actors of type 1 \(Account\), which App 'app'"):
        Machine.restore(App(actors=[Notebook]), LIMITS, SEED, chunks())
    assert taken == [0]


def test_the_header_can_be_read_alone() -> None:
    machine = machine_of(1, 100)
    header = read_header([whole(machine)[:5_000], b"never looked at"])

    assert (header.index, header.seed, header.app) == (101, SEED, "bank")
    assert header.actor_types[1].actors == machine.state.actors_count
    assert header.timers[7].name == "Release"
    assert header.schema == app.schema_json()
    with pytest.raises(SnapshotRefused, match="does not begin with its header"):
        read_header([b""])


def test_a_key_of_another_type_is_refused_by_name() -> None:
    @actor(id=1, key=int)
    class Numbered:
        @handler
        def deposit(self, command: sample_bank.Deposit, context: Context) -> sample_bank.Balance:
            raise NotImplementedError

    log = random_log(1, 8)
    machine = Machine(app, LIMITS, SEED)
    fold(machine, log)
    machine.state.timers.by_id.clear()
    with pytest.raises(SnapshotRefused, match=r"keys of type str, and .*Numbered has keys of type"):
        Machine.restore(App(actors=[Numbered]), LIMITS, SEED, machine.snapshot())


# Large actors, whose dicts and lists are written in parts


@message(id=2)
class Fill(Command[None]):
    count: int


@attrs.define
class Half:
    levels: dict[int, list[int]] = attrs.field(factory=dict[int, list[int]])
    ranks: list[int] = attrs.field(factory=list[int])


@attrs.define
class Book:
    buys: Half = attrs.field(factory=Half)
    places: dict[tuple[int, str], str] = attrs.field(factory=dict[tuple[int, str], str])


@actor(id=1, key=str)
class Market:
    title: str = ""
    book: Book = attrs.field(factory=Book)
    names: dict[str, int] = attrs.field(factory=dict[str, int])
    gone: list[int] = attrs.field(factory=list[int])

    @handler
    def fill(self, command: Fill, context: Context) -> None: ...


def market(count: int) -> Market:
    numbers = range(count, 0, -1)
    book = Book(
        Half({n: [n, n + 1] for n in numbers}, list(numbers)),
        {(n, f"row {n}"): f"seat {n}" for n in numbers},
    )
    return Market("large", book, {f"n{n}": n for n in numbers}, list(range(count)))


def with_actors(app: App, **instances: Any) -> Machine:
    machine = Machine(app, None, SEED)
    machine.state.actors[1].update((key.encode(), each) for key, each in instances.items())
    machine.state.actors_count = len(instances)
    return machine


MARKETS = App(actors=[Market], name="markets")


def test_large_dicts_and_lists_go_in_parts_and_come_back_in_order() -> None:
    machine = with_actors(MARKETS, a=market(1), b=market(23), c=market(0), d=market(7))
    before = repr(machine.instance(Market, "b"))
    chunks = list(machine.snapshot())
    copy = Machine.restore(MARKETS, None, SEED, chunks)

    assert copy.state.actors == machine.state.actors
    assert repr(copy.instance(Market, "b")) == before == repr(machine.instance(Market, "b"))
    assert list(copy.snapshot()) == chunks
    found = records_of(b"".join(chunks))
    assert len([each for each in found if kind_of(each) == Kind.PART]) > 20
    assert max(len(each) for each in found[1:]) < 400


def test_a_fault_in_a_part_is_named_as_any_other() -> None:
    bad = market(9)
    bad.book.buys.levels[4][1] = True
    with pytest.raises(StateNotEncodable, match=r"buys\.levels\[4\]\[1\] is True"):
        list(with_actors(MARKETS, ok=market(9), bad=bad).snapshot())


def test_a_part_of_a_field_that_the_class_has_no_longer_is_passed_over() -> None:
    @actor(id=1, key=str)
    class Smaller:
        title: str = ""
        names: dict[str, int] = attrs.field(factory=dict[str, int])

        @handler
        def fill(self, command: Fill, context: Context) -> None: ...

    Smaller.__name__ = "Market"
    chunks = list(with_actors(MARKETS, a=market(9)).snapshot())
    warnings: list[str] = []
    app = App(actors=[Smaller])
    machine = Machine.restore(app, None, SEED, chunks, warn=warnings.append)

    assert machine.instance(Smaller, "a") == Smaller("large", market(9).names)
    assert any("gone, and what was written in it is dropped" in each for each in warnings)


def test_a_field_that_looks_renamed_is_refused_before_any_actor_is_read() -> None:
    @actor(id=1, key=str)
    class Renamed:
        heading: str = ""
        names: dict[str, int] = attrs.field(factory=dict[str, int])

        @handler
        def fill(self, command: Fill, context: Context) -> None: ...

    Renamed.__name__ = "Market"
    chunks = list(with_actors(MARKETS, a=market(9)).snapshot())

    with pytest.raises(
        SnapshotRefused, match=r"Market\.title is gone and heading is new .*@upcast"
    ):
        Machine.restore(App(actors=[Renamed]), None, SEED, chunks)


def test_parts_of_an_older_version_are_lifted_with_their_actor() -> None:
    @actor(id=1, key=str, version=1)
    class Lifted:
        total: int = 0
        seats: list[str] = attrs.field(factory=list[str])
        names: dict[str, int] = attrs.field(factory=dict[str, int])

        @upcast(from_version=0)
        @staticmethod
        def from_book(fields: Fields) -> Fields:
            return {
                "total": sum(fields["gone"]),
                "seats": [f"{row}: {seat}" for (row, _), seat in fields["book"]["places"].items()],
                "names": fields["names"],
            }

        @handler
        def fill(self, command: Fill, context: Context) -> None: ...

    chunks = list(with_actors(MARKETS, a=market(9), b=market(1), c=market(12)).snapshot())
    machine = Machine.restore(App(actors=[Lifted]), None, SEED, chunks)

    assert list(machine.state.actors[1]) == [b"a", b"b", b"c"]
    for key, count in (("a", 9), ("b", 1), ("c", 12)):
        seats = [f"{n}: seat {n}" for n in range(count, 0, -1)]
        expected = Lifted(sum(range(count)), seats, market(count).names)
        assert machine.instance(Lifted, key) == expected
    assert whole(machine) == whole(
        Machine.restore(App(actors=[Lifted]), None, SEED, machine.snapshot())
    )


def test_what_the_class_would_misread_is_refused_by_its_field() -> None:
    @actor(id=1, key=str)
    class Other:
        title: int = 0

        @handler
        def fill(self, command: Fill, context: Context) -> None: ...

    Other.__name__ = "Market"
    machine = with_actors(MARKETS, a=market(1))
    with pytest.raises(
        SnapshotRefused, match=r"^Market \(actor 1\): Market.title was str and is int;"
    ):
        Machine.restore(App(actors=[Other]), None, SEED, machine.snapshot())


def test_an_actor_that_does_not_fit_its_class_is_named() -> None:
    @actor(id=1, key=str)
    class Other:
        title: str = attrs.field(default="", validator=attrs.validators.max_len(2))

        @handler
        def fill(self, command: Fill, context: Context) -> None: ...

    Other.__name__ = "Market"
    machine = with_actors(MARKETS, a=market(1))
    with pytest.raises(SnapshotRefused, match=r"the snapshot's .*Other 'a' \(version 0\) does not"):
        Machine.restore(App(actors=[Other]), None, SEED, machine.snapshot())


def test_a_class_that_looks_at_itself_when_it_is_made_is_written_whole() -> None:
    @actor(id=1, key=str)
    class Checked:
        names: dict[str, int] = attrs.field(factory=dict[str, int])
        count: int = attrs.field(default=0)

        @count.validator
        def _as_many(self, _: Any, value: int) -> None:
            assert value == len(self.names)

        @handler
        def fill(self, command: Fill, context: Context) -> None: ...

    checked = App(actors=[Checked])
    machine = with_actors(checked, a=Checked({str(n): n for n in range(9)}, 9))
    found = whole(machine)

    assert Kind.PART not in {kind_of(each) for each in records_of(found)}
    assert whole(Machine.restore(checked, None, SEED, [found])) == found


def test_an_account_of_the_sample_is_cut_as_well() -> None:
    machine = machine_of(0, 300)
    large = [a for a in machine.state.actors[1].values() if isinstance(a, Account) and a.lines[2:]]

    assert large
