"""Percentile curves: what they say of the values, in a terminal and as SVG."""

from xml.etree import ElementTree

import pytest

from leftfold.tools.curves import MARKS, Curve, drawn, plot, shown_percents

FAST = Curve("fast", range(1_000, 101_000))
SLOW = Curve("slow & <odd>", [10_000_000] * 1000)


def test_a_percentile_is_the_value_that_so_many_do_not_exceed() -> None:
    curve = Curve("numbers", range(1, 1001))

    assert (curve.at(0), curve.at(50), curve.at(99), curve.at(99.9)) == (1, 501, 991, 1000)
    assert curve.figures()["p50_us"] == 0.501
    assert curve.figures()["max_us"] == 1.0


@pytest.mark.parametrize(("count", "last"), [(1, None), (2, 50.0), (1000, 99.9), (10**5, 99.999)])
def test_only_percentiles_that_the_values_have_are_shown(count: int, last: float | None) -> None:
    assert (shown_percents(count) or [None])[-1] == last


def test_each_curve_of_a_plot_has_its_mark_and_its_height() -> None:
    lines = plot([FAST, SLOW]).splitlines()

    def rows(mark: str) -> set[int]:
        return {at for at, line in enumerate(lines) if mark in line.partition("┤")[2]}

    assert len(rows(MARKS[1])) == 1, "all of its values are the same"
    assert max(rows(MARKS[1])) < min(rows(MARKS[0])), "the slow one is above"
    assert "99.9" in lines[-2] and "fast" in lines[-1]
    assert any("10 ms" in line for line in lines)


def test_the_svg_is_well_formed_and_has_a_line_for_each_curve() -> None:
    root = ElementTree.fromstring(drawn([FAST, SLOW], "a & b"))
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    texts = {text.text for text in root.findall("{http://www.w3.org/2000/svg}text")}

    assert len(lines) == 2
    assert {"a & b", "fast", "slow & <odd>", "99.9 %", "10 ms"} <= texts


def test_one_value_is_a_curve() -> None:
    assert "one" in plot([Curve("one", [0])])
    assert "one" in drawn([Curve("one", [7])], "title")
