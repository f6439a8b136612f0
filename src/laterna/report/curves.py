"""Loss curves as SVG text that stands inside an HTML page."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from laterna.errors import LaternaError
from laterna.report.parts import INK, LINE, drawing_look, svg_of

_SIZE_INCHES = (5.0, 2.8)
_RAW, _HELD_OUT = "#b9c8d6", "#b3541e"


def running_mean(losses: Sequence[float], window: int) -> list[float]:
    """Return the mean of the last `window` losses at every step (of fewer at the beginning)."""
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(losses, dtype=np.float64))])
    ends = np.arange(1, len(losses) + 1)
    starts = np.maximum(ends - window, 0)
    means: list[float] = ((sums[ends] - sums[starts]) / (ends - starts)).tolist()
    return means


def loss_curve(
    name: str, losses: Sequence[float], held_out: Sequence[tuple[int, float]] = ()
) -> str:
    """Return an `<svg>` element: the loss of every step, its running mean over it, and the loss
    on what was held out after some steps, counted from 1.

    Losses are in nats a target token. The same input gives the same text. Raises LaternaError
    when there are no losses to draw.
    """
    if not losses:
        raise LaternaError(f"{name}: no losses to draw; the stage's log is empty")
    steps = range(1, len(losses) + 1)
    window = max(1, len(losses) // 25)
    with matplotlib.rc_context(drawing_look(name)):
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        figure.set_gid(f"curve {name}".replace(" ", "-"))
        axes = figure.add_subplot()
        axes.plot(steps, losses, color=_RAW, linewidth=0.8, label="each step")
        if window > 1:
            label = f"mean of {window} steps"
            axes.plot(steps, running_mean(losses, window), color=LINE, linewidth=1.8, label=label)
        if held_out:
            places, seen = zip(*held_out, strict=True)
            axes.plot(places, seen, "o-", color=_HELD_OUT, markersize=3, label="held out")
        axes.set_xlabel("optimiser step", color=INK)
        axes.set_ylabel("loss (nats a token)", color=INK)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.legend(frameon=False)
        return svg_of(figure, name)
