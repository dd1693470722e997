"""Batches: where a run of items is cut depends on the items alone, and no piece is without a limit."""

import msgspec
import pytest
from attrs import define
from hypothesis import given, settings
from hypothesis import strategies as st

from leftfold.actors import batch
from leftfold.actors.batch import BYTES_MAX, COUNT_FIRST, COUNT_MAX, cut


@define
class Run:
    items: list[bytes]
    numbers: list[int]
    payload: bytes


def encode(items: list[bytes], numbers: list[int]) -> Run:
    assert len(items) == len(numbers)
    return Run(items, numbers, msgspec.msgpack.encode(items))


def cut_items(sizes: list[int]) -> list[Run]:
    items = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    runs = list(cut((items, range(len(items))), encode))
    assert [item for run in runs for item in run.items] == items
    assert [number for run in runs for number in run.numbers] == list(range(len(items)))
    return runs


@settings(deadline=None)
@given(st.lists(st.sampled_from([0, 10, 100, 700, 3_000]), max_size=200))
def test_every_item_comes_once_and_a_piece_is_too_large_only_alone(sizes: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "BYTES_GOAL", 250)
        patch.setattr(batch, "BYTES_MAX", 1_000)
        runs = cut_items(sizes)

    for run in runs:
        assert len(run.payload) <= 1_000 or len(run.items) == 1


def test_small_items_go_many_to_a_piece_and_large_ones_few() -> None:
    assert [len(run.items) for run in cut_items([10] * 20_000)][:3] == [
        COUNT_FIRST,
        4 * COUNT_FIRST,
        COUNT_MAX,
    ]
    large = [len(run.items) for run in cut_items([50_000] * 600)]
    assert max(large[16:]) <= 6


def test_many_large_items_after_many_small_ones_are_halved() -> None:
    runs = cut_items([10] * 20_000 + [20_000] * 5_000)

    assert max(len(run.payload) for run in runs) <= BYTES_MAX


def test_nothing_becomes_no_piece() -> None:
    assert cut_items([]) == []
    assert batch.BYTES_GOAL < BYTES_MAX
