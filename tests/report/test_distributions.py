"""Distributions: ranges by value, the drawing whole and stable."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from laterna.errors import LaternaError
from laterna.report.distributions import bar_chart, histogram

SVG = "{http://www.w3.org/2000/svg}"


def test_few_values_have_a_bar_each() -> None:
    assert histogram([(2, 1), (0, 1), (1, 2)]) == [("0", 1), ("1", 2), ("2", 1)]


def test_many_values_share_ranges_of_equal_width() -> None:
    bars = histogram([(value, 1) for value in range(100)], bins=10)
    assert bars[0] == ("0–9", 10)
    assert bars[-1] == ("90–99", 10)
    assert len(bars) == 10


def test_the_last_range_takes_the_long_tail() -> None:
    bars = histogram([(0, 50), (5, 48), (9, 1), (500, 1)])
    assert bars[0] == ("0", 50)
    assert bars[-1] == ("5+", 50)
    assert sum(number for _, number in bars) == 100


def test_nothing_has_no_ranges() -> None:
    assert histogram([]) == []


@pytest.mark.parametrize("across", [True, False])
def test_a_chart_is_one_svg_element_and_the_same_each_time(across: bool) -> None:
    bars = [("what's $a$ & <b>?", 3), ("how", 1)]
    text = bar_chart("first words", bars, "questions", across=across)
    assert text == bar_chart("first words", bars, "questions", across=across)
    element = ElementTree.fromstring(text)
    assert element.tag == f"{SVG}svg"
    words = {node.text for node in element.iter(f"{SVG}text")}
    assert {"what's $a$ & <b>?", "how", "questions"} <= words


def test_an_empty_chart_is_an_error() -> None:
    with pytest.raises(LaternaError, match="lengths: no bars to draw"):
        bar_chart("lengths", [], "words", across=False)
