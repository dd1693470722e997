"""At which command of an entry replicas parted: what logic still knows, what is asked and answered, and what is made of it."""

import random
from array import array
from zlib import crc32

from raft_samples import raft_with

from leftfold.actors.layout import EVENT, REPLY, SlotType, padded
from leftfold.runtime.digests import (
    PART,
    UNPLACED,
    OrdinalDigests,
    pack_ordinals,
    unpack_ordinals,
)
from leftfold.runtime.divergence import Place, Verdict, letter, sentence
from leftfold.runtime.parting import ASK_AGAIN_TICKS, PATIENCE_TICKS, Parting
from leftfold.runtime.recent_outputs import OUTPUTS_BYTES_MAX, RecentOutputs, by_ordinal

INDEX = 7


def reply(ordinal: int, text: bytes, index: int = INDEX) -> bytes:
    length = REPLY.size + len(text)
    head = REPLY.pack(length, SlotType.REPLY, 1, bytes(16), 1, index, ordinal, 0, 0)
    return padded(head + text)


def event(ordinal: int, number: int, text: bytes) -> bytes:
    length = EVENT.size + len(text)
    head = EVENT.pack(length, SlotType.EVENT, 1, INDEX, ordinal, number, 1, 0, 0, 0)
    return padded(head + text)


# What logic keeps


def test_digests_are_chained_over_what_each_ordinal_put_out() -> None:
    """Events before their reply; the second put out nothing, and the fourth gave a kept answer of entry 3 again."""
    run = (
        reply(0, b"a"),
        event(2, 1, b"b") + reply(2, b"c"),
        reply(1, b"kept", index=3),
        reply(4, b"d"),
    )
    found = by_ordinal(INDEX, b"".join(run))

    chain, wanted = 0, list[int]()
    for piece in run:
        at = 0
        while at < len(piece):
            length = int.from_bytes(piece[at : at + 4], "little")
            chain = crc32(piece[at : at + length], chain)
            at += (length + 7) & ~7
        wanted.append(chain)
    assert list(found) == [wanted[0], wanted[0], *wanted[1:]]
    assert by_ordinal(INDEX, b"") == array("I")


def test_a_request_twice_in_one_entry_moves_no_place() -> None:
    """The kept reply has the place where it was first given, before that of the command that differs."""
    found, other = (
        by_ordinal(
            INDEX, b"".join(reply(*each) for each in [(0, b"a"), (1, b"b"), (2, text), (0, b"a")])
        )
        for text in (b"right", b"wrong")
    )
    assert next(at for at in range(len(found)) if found[at] != other[at]) == 2


def test_what_is_kept_is_bounded_and_what_is_gone_is_not_told() -> None:
    recent = RecentOutputs()
    run = bytearray(reply(0, bytes(64 * 1024)))
    for index in range(1, 1001):
        if index % 2:
            recent.keep(index, run)

    assert recent.held_bytes <= OUTPUTS_BYTES_MAX < recent.held_bytes + 2 * len(run)
    assert recent.digests(recent.first - 1) is None
    assert recent.digests(1000) == array("I"), "it put out nothing"
    assert recent.digests(999) == by_ordinal(999, run)
    recent.restart(1000)
    assert recent.digests(1000) is None and recent.digests(1001) == array("I")


def test_what_logic_says_comes_in_parts_and_comes_back_as_it_was() -> None:
    for count in (0, 1, PART, PART + 1, 3 * PART):
        digests = array("I", range(count))
        parting = asking(odd={1})
        for part in pack_ordinals(INDEX, digests):
            assert len(part) % 8 == 0
            length = int.from_bytes(part[:4], "little")
            message = unpack_ordinals(memoryview(part)[:length], 2, 1, 1)
            assert message.knows and message.index == INDEX
            parting.heard(message)
        assert message.last
        parting.heard(said(1, [9] * (count + 1)))
        placed = parting.place(verdict({1}))
        assert placed is not None and placed.places[1].ordinal == 0
    (gone,) = pack_ordinals(INDEX, None)
    assert not unpack_ordinals(memoryview(gone), 2, 1, 1).knows


# What the leader makes of it: replica 1 of 3


def verdict(odd: set[int], *, majority: bool = True) -> Verdict:
    found = {id: 100 + id if id in odd else 100 for id in (1, 2, 3)}
    return Verdict(INDEX, found, 100 if majority else None, frozenset(odd))


def said(source: int, digests: list[int], first: int = 0, *, last: bool = True) -> OrdinalDigests:
    run = array("I", digests).tobytes()
    return OrdinalDigests(source, 1, 1, INDEX, first, last, True, run)


def asking(odd: set[int], *, majority: bool = True) -> Parting:
    parting = Parting(raft_with([]))
    assert parting.place(verdict(odd, majority=majority)) is None
    return parting


def test_the_odd_ones_and_one_whose_word_counts_are_asked_and_the_first_difference_is_the_place() -> (
    None
):
    for odd, right in ((2, 1), (1, 2)):
        parting = asking({odd})
        assert parting.to_ask == {odd, right}
        parting.heard(said(right, [1, 2, 3, 4]))
        assert parting.place(verdict({odd})) is None
        parting.heard(said(odd, [1, 2, 33, 44]))
        placed = parting.place(verdict({odd}))

        assert placed is not None and placed.places == {odd: Place(2, 33, 3)}
        told = letter(parting.raft, placed, odd)
        why = sentence(told, "a turn")
        assert f"Replica {odd} has put out something else than the majority at index 7, ord" in why
        assert "ordinal 2, a turn: its digest there is 00000021, theirs 00000003." in why


def test_who_put_out_nothing_more_differs_where_the_other_did() -> None:
    parting = asking({2})
    parting.heard(said(1, [1, 2, 2, 5]))
    parting.heard(said(2, [1, 2]))
    placed = parting.place(verdict({2}))

    assert placed is not None and placed.places == {2: Place(3, 2, 5)}


def test_without_a_majority_each_is_told_the_first_place_where_not_all_are_alike() -> None:
    parting = asking({1, 2, 3}, majority=False)
    assert parting.to_ask == {1, 2, 3}
    for id in (1, 2, 3):
        parting.heard(said(id, [5, 5 + (id == 3), 9 + id]))
    placed = parting.place(verdict({1, 2, 3}, majority=False))

    assert placed is not None
    assert placed.places == {1: Place(1, 5, 5), 2: Place(1, 5, 5), 3: Place(1, 6, 6)}
    assert (
        "have put out different things at index 7, ordinal 1 (here the digest is 00000006)"
        in sentence(letter(parting.raft, placed, 3))
    )


def test_the_answers_may_come_in_any_order_twice_and_with_gaps() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(50):
        count = rng.randrange(1, 60)
        wanted = rng.randrange(count)
        right = [rng.randrange(100) for _ in range(count)]
        odd = [*right[:wanted], 1000, *right[wanted + 1 :]]
        parting = asking({2})
        parts = [
            said(id, values[at : at + 5], at, last=at + 5 >= count)
            for id, values in ((1, right), (2, odd))
            for at in range(0, count, 5)
        ]
        for _ in range(30):
            parting.heard(rng.choice(parts))
        for part in parts:
            parting.heard(part)
        placed = parting.place(verdict({2}))
        assert placed is not None and placed.places == {2: Place(wanted, 1000, right[wanted])}


def test_who_does_not_answer_is_asked_again_and_not_waited_for_for_ever() -> None:
    parting = asking({2})
    parting.heard(said(1, [1]))
    asked = 0
    for _ in range(PATIENCE_TICKS - 1):
        assert parting.place(verdict({2})) is None
        asked += parting.to_ask == {2}
    assert asked == PATIENCE_TICKS // ASK_AGAIN_TICKS - 1
    given_up = parting.place(verdict({2}))

    assert given_up is not None and not given_up.places
    told = letter(parting.raft, given_up, 2)
    assert (told.ordinal, told.found, told.expected) == (UNPLACED, 102, 100)


def test_who_does_not_have_it_any_more_and_ordinals_that_are_alike_leave_the_entry() -> None:
    gone = OrdinalDigests(2, 1, 1, INDEX, 0, last=True, knows=False, digests=b"")
    for answer in (gone, said(2, [1, 2])):
        parting = asking({2})
        parting.heard(said(1, [1, 2]))
        parting.heard(answer)
        placed = parting.place(verdict({2}))

        assert placed is not None and not placed.places


def test_states_that_differ_have_no_ordinal() -> None:
    of_state = Verdict(INDEX, {1: 1, 2: 2}, 1, frozenset({2}), of_state=True)

    assert Parting(raft_with([])).place(of_state) is of_state
