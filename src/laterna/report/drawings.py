"""Drawings as SVG text that stands inside an HTML page: loss curves, and bars."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from laterna.errors import LaternaError

INK, LINE = "#333333", "#1f5f8b"
"""Colours of text and of data."""
_WIDTH_INCHES = 5.0
_RAW, _VALIDATION = "#b9c8d6", "#b3541e"


def running_mean(losses: Sequence[float], window: int) -> list[float]:
    """Return the mean of the last `window` losses at every step (of fewer at the beginning)."""
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(losses, dtype=np.float64))])
    ends = np.arange(1, len(losses) + 1)
    starts = np.maximum(ends - window, 0)
    means: list[float] = ((sums[ends] - sums[starts]) / (ends - starts)).tolist()
    return means


def loss_curve(
    name: str, losses: Sequence[float], validation: Sequence[tuple[int, float]] = ()
) -> str:
    """Return an `<svg>` element: the loss of every step, its running mean, and the validation loss
    after some steps, counted from 1.

    Losses are in nats a target token. The same input gives the same text. Raises LaternaError
    when there are no losses to draw.
    """
    if not losses:
        raise LaternaError(f"{name}: no losses to draw; the stage's log is empty")
    steps = range(1, len(losses) + 1)
    window = max(1, len(losses) // 25)
    with matplotlib.rc_context(drawing_look(name)):
        figure, axes = _axes("curve", name, 2.8)
        axes.plot(steps, losses, color=_RAW, linewidth=0.8, label="each step")
        if window > 1:
            label = f"mean of {window} steps"
            axes.plot(steps, running_mean(losses, window), color=LINE, linewidth=1.8, label=label)
        if validation:
            places, seen = zip(*validation, strict=True)
            axes.plot(places, seen, "o-", color=_VALIDATION, markersize=3, label="validation")
        axes.set_xlabel("optimizer step", color=INK)
        axes.set_ylabel("loss (nats a token)", color=INK)
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.legend(frameon=False)
        return svg_of(figure, name)


def histogram(counted: Sequence[tuple[int, int]], bins: int = 20) -> list[tuple[str, int]]:
    """Return (range, number) of (value, number) pairs, in at most `bins` ranges of equal width.

    `counted` has whole numbers from 0 up, each once. The last range takes everything beyond the
    98th percentile, so that one long answer does not flatten the rest.
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
        figure, axes = _axes("bars", name, height)
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
        axes.grid(axis="x" if across else "y", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        return svg_of(figure, name)


def reliability_chart(name: str, bins: Sequence[tuple[float, float, int]]) -> str:
    """Return an `<svg>` element: mean score over mean probability (both 0 to 1) of some answers.

    A point's area grows with its number of answers; on the diagonal both are equal.
    """
    with matplotlib.rc_context(drawing_look(name)):
        figure, axes = _axes("reliability", name, 3.2)
        axes.plot((0, 1), (0, 1), color=_RAW, linewidth=1)
        chances, scores, counts = zip(*bins, strict=True)
        areas = [20 + 180 * count / sum(counts) for count in counts]
        axes.plot(chances, scores, color=LINE, linewidth=1)
        axes.scatter(chances, scores, s=areas, color=LINE)
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("probability of the answer", color=INK)
        axes.set_ylabel("mean score", color=INK)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        return svg_of(figure, name)


def interval_chart(name: str, rows: Sequence[tuple[str, float, float, float]], axis: str) -> str:
    """Return an `<svg>` element: a value with its interval for each (label, value, low, high).

    The first row is on top; a line marks 0. Ends that are not numbers are not drawn.
    """
    places = range(len(rows))
    with matplotlib.rc_context(drawing_look(name)):
        figure, axes = _axes("intervals", name, 0.8 + 0.26 * len(rows))
        axes.axvline(0, color=_RAW, linewidth=1)
        for place, (_, value, low, high) in zip(places, rows, strict=True):
            axes.plot((low, high), (place, place), color=LINE, linewidth=1.8)
            axes.plot(value, place, "o", color=LINE, markersize=4.5)
        axes.set_yticks(places, [label.replace("$", r"\$") for label, *_ in rows])
        axes.invert_yaxis()
        axes.set_xlabel(axis, color=INK)
        axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        return svg_of(figure, name)


def _axes(kind: str, name: str, height: float) -> tuple[Figure, Axes]:
    """Return a figure of the page's width, `height` inches high, and its axes, open at the top and
    on the right.
    """
    figure = Figure(figsize=(_WIDTH_INCHES, height), layout="constrained")
    figure.set_gid(f"{kind} {name}".replace(" ", "-"))
    axes: Axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def drawing_look(name: str) -> dict[str, object]:
    """Return matplotlib's settings for a drawing that stands inside a page."""
    # Drawings share a page, so their SVG identifiers must differ: the salt is the name.
    return {"svg.hashsalt": f"laterna {name}", "svg.fonttype": "none", "font.size": 9}


def svg_of(figure: Figure, name: str) -> str:
    """Return a figure as an `<svg>` element; to be called within `drawing_look`."""
    text = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type")) | {"Title": name}
    figure.savefig(text, format="svg", transparent=True, metadata=metadata)
    document = text.getvalue()
    # The XML prologue has no place inside HTML.
    return document[document.index("<svg") :]
