"""Loss curves: the running mean by value, the SVG stable and whole."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from laterna.errors import LaternaError
from laterna.report.curves import loss_curve, running_mean


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
    assert {"optimiser step", "loss (nats a token)", "each step", "mean of 2 steps"} <= words


def test_the_loss_on_what_was_held_out_stands_beside_that_of_the_steps() -> None:
    text = loss_curve("align", [3.0, 2.0, 1.0], [(1, 2.9), (3, 1.2)])
    words = {
        node.text for node in ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}text")
    }
    assert "held out" in words
    assert "held out" not in loss_curve("align", [3.0, 2.0, 1.0])


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
