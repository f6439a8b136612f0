"""Distributions as bar charts: SVG text that stands inside an HTML page."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from laterna.errors import LaternaError
from laterna.report.parts import INK, LINE, drawing_look, svg_of

_WIDTH_INCHES = 5.0


def histogram(counted: Sequence[tuple[int, int]], bins: int = 20) -> list[tuple[str, int]]:
    """Return (range, number) of (value, number) pairs, in at most `bins` ranges of equal width.

    `counted` holds whole numbers from 0 up, each once. The last range takes everything beyond the
    value below which 98 in 100 lie, so that one long answer does not flatten the rest.
    """
    if not counted:
        return []
    ordered = sorted(counted)
    total = sum(number for _, number in ordered)
    seen = 0
    top = ordered[-1][0]
    for value, number in ordered:
        seen += number
        if seen >= 0.98 * total:
            top = value
            break
    width = max(1, -(-(top + 1) // bins))
    last = top // width
    sums = [0] * (last + 1)
    for value, number in ordered:
        sums[min(value // width, last)] += number
    beyond = ordered[-1][0] >= (last + 1) * width
    names = [_range(place * width, width) for place in range(last)]
    names.append(f"{last * width}+" if beyond else _range(last * width, width))
    return list(zip(names, sums, strict=True))


def _range(start: int, width: int) -> str:
    return str(start) if width == 1 else f"{start}–{start + width - 1}"


def bar_chart(name: str, bars: Sequence[tuple[str, int]], axis: str, *, across: bool) -> str:
    """Return an `<svg>` element with a bar for each (label, number).

    `axis` names what is counted or measured; `across` lays the bars on their side, the first on
    top. The same input gives the same text. Raises LaternaError when there is nothing to draw.
    """
    if not bars:
        raise LaternaError(f"{name}: no bars to draw; the set holds no questions")
    labels = [label.replace("$", r"\$") for label, _ in bars]  # matplotlib reads $ as formulas
    numbers = [number for _, number in bars]
    places = range(len(bars))
    height = 0.7 + 0.2 * len(bars) if across else 2.8
    with matplotlib.rc_context(drawing_look(name)):
        figure = Figure(figsize=(_WIDTH_INCHES, height), layout="constrained")
        figure.set_gid(f"bars {name}".replace(" ", "-"))
        axes = figure.add_subplot()
        if across:
            axes.barh(places, numbers, color=LINE, height=0.72)
            axes.set_yticks(places, labels)
            axes.invert_yaxis()
            axes.set_xlabel(axis, color=INK)
        else:
            axes.bar(places, numbers, color=LINE, width=0.9)
            axes.set_xticks(places, labels, rotation=60, ha="right", rotation_mode="anchor")
            axes.set_xlabel(axis, color=INK)
            axes.set_ylabel("answers", color=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x" if across else "y", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        return svg_of(figure, name)
