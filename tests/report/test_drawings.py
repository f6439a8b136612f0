"""Drawings: what stands in their SVG text, and the ranges that are counted."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from laterna.errors import LaternaError
from laterna.report.drawings import bar_chart, histogram, loss_curve, running_mean


def test_the_running_mean_looks_back_only() -> None:
    assert running_mean([4.0, 2.0, 3.0, 7.0], 1) == [4.0, 2.0, 3.0, 7.0]
    assert running_mean([4.0, 2.0, 3.0, 7.0], 2) == [4.0, 3.0, 2.5, 5.0]
    assert running_mean([4.0, 2.0, 3.0, 7.0], 9) == [4.0, 3.0, 3.0, 4.0]


def test_the_curve_is_one_svg_element_and_the_same_each_time() -> None:
    losses = [3.0 / (1 + step) for step in range(60)]
    text = loss_curve("Stage 1 <align> & more", losses)
    assert text == loss_curve("Stage 1 <align> & more", losses)
    element = ElementTree.fromstring(text)
    assert element.tag == "{http://www.w3.org/2000/svg}svg"
    assert "Stage 1 <align> & more" in [node.text for node in element.iter()]
    words = {node.text for node in element.iter("{http://www.w3.org/2000/svg}text")}
    assert {"optimizer step", "loss (nats a token)", "each step", "mean of 2 steps"} <= words


def test_the_validation_loss_is_drawn_with_that_of_the_steps() -> None:
    text = loss_curve("align", [3.0, 2.0, 1.0], [(1, 2.9), (3, 1.2)])
    words = {
        node.text for node in ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}text")
    }
    assert "validation" in words
    assert "validation" not in loss_curve("align", [3.0, 2.0, 1.0])


def test_two_curves_of_a_page_share_no_drawing() -> None:
    def references(text: str) -> set[str]:
        uses = ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}use")
        return {node.attrib["{http://www.w3.org/1999/xlink}href"] for node in uses}

    losses = [2.0, 1.5, 1.0]
    first, second = references(loss_curve("align", losses)), references(loss_curve("tune", losses))
    assert first
    assert not first & second


def test_an_empty_curve_is_an_error() -> None:
    with pytest.raises(LaternaError, match="align: no losses to draw"):
        loss_curve("align", [])


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
