"""The figures of the experiments: what is written stands where it can be read."""

from __future__ import annotations

import re
from math import nan

from laterna.lab.drawing import draw_rows
from laterna.lab.experiment import Spread


def texts_of(svg: str) -> dict[str, tuple[float, float]]:
    """Return the words of an SVG with where they stand."""
    found = re.findall(r"<text ([^>]*)>([^<]*)</text>", svg)
    places = {}
    for attributes, words in found:
        if given := re.search(r'x="([-\d.]+)" y="([-\d.]+)"', attributes):
            places[words] = (float(given[1]), float(given[2]))
    return places


def test_the_name_of_a_level_stands_under_the_ticks() -> None:
    spreads = [Spread(0.9, 0.8, 1.0), Spread(1e-9, nan, nan)]
    svg = draw_rows("a", ["one", "two"], {"accuracy": spreads}, level={"accuracy": ("blank", 0.02)})
    places = texts_of(svg)
    tick, name = places["0"], places["blank"]
    assert abs(tick[0] - name[0]) < 20  # one above the other
    assert name[1] > tick[1] + 7  # letters are 8 high
    assert name[1] < float(re.findall(r'viewBox="0 0 [\d.]+ ([\d.]+)"', svg)[0])
    assert "&lt; 0.001" in svg and "0.900" in svg
