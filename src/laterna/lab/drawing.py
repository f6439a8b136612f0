"""The figures of the experiments: readable in black and white, with what is not known drawn too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from laterna.lab.experiment import Spread
from laterna.report.drawings import INK, drawing_look, svg_of

STYLES = (
    ("#1f5f8b", "o", "-"),
    ("#b3541e", "s", "--"),
    ("#4d7c3a", "^", "-."),
    ("#6b4a8b", "D", ":"),
    ("#333333", "v", (0, (5, 1))),
    ("#a08a1e", "P", (0, (1, 1))),
)
"""Colour, marker and line of the first, second … series: each can be told by any of the three."""
WIDTH = 6.4
HEIGHT = 3.2
ASIDE = 0.09
"""Between the points of neighbouring series at one place, where places are numbered from 0."""
Points = Sequence[tuple[float, Spread]]
"""Places on the horizontal axis, with what was measured there."""


class Panel:
    """One set of axes: what is drawn in it, and what its axes say."""

    def __init__(
        self,
        series: Mapping[str, Points],
        *,
        across: str,
        up: str,
        title: str = "",
        log: str = "",
        ticks: Mapping[float, str] | None = None,
        level: Mapping[str, float] | None = None,
        lines: bool = True,
    ) -> None:
        """Take named series. `log` names axes with logarithmic scales (`x`, `y`, `xy`), `ticks`
        places on the horizontal axis, `level` horizontal lines, such as chance. Without `lines`
        points are not joined, and those of several series stand side by side.
        """
        self.series, self.across, self.up, self.title = series, across, up, title
        self.log, self.ticks, self.level, self.lines = log, ticks, level or {}, lines

    def draw(self, axes: Any) -> None:
        """Draw into matplotlib's axes."""
        for number, (name, points) in enumerate(self.series.items()):
            colour, marker, line = STYLES[number % len(STYLES)]
            aside = 0.0 if self.lines else (number - (len(self.series) - 1) / 2) * ASIDE
            points = [(place + aside, spread) for place, spread in points]
            places = [place for place, _ in points]
            means = [spread.mean for _, spread in points]
            many = len(points) > 40
            axes.plot(
                places,
                means,
                color=colour,
                marker="" if many else marker,
                linestyle=line if self.lines else "",
                markersize=4.5,
                linewidth=1.4,
                label=name,
            )
            known = [(place, one) for place, one in points if not math.isnan(one.low)]
            for place, one in known:
                axes.plot([place, place], [one.low, one.high], color=colour, linewidth=0.9)
        for name, height in self.level.items():
            axes.axhline(height, color="#888888", linewidth=0.8, linestyle=(0, (2, 3)))
            axes.annotate(
                name,
                (1, height),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                fontsize=8,
                color="#666666",
            )
        if "x" in self.log:
            axes.set_xscale("log")
        if "y" in self.log:
            axes.set_yscale("log")
        if self.ticks is not None:
            axes.set_xticks(list(self.ticks), list(self.ticks.values()))
            axes.minorticks_off()
        axes.set_xlabel(self.across, color=INK)
        axes.set_ylabel(self.up, color=INK)
        axes.set_title(self.title, color=INK, fontsize=9, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)


def draw_panels(name: str, panels: Sequence[Panel]) -> str:
    """Return panels side by side as one `<svg>` element.

    One legend stands below all, or each panel's own below it where two name different series: the
    same marker would otherwise stand for both.
    """
    with matplotlib.rc_context(drawing_look(name)):
        figure = Figure(figsize=(WIDTH if len(panels) < 3 else 9.0, HEIGHT), layout="constrained")
        figure.set_gid(f"figure {name}".replace(" ", "-"))
        names = [[*panel.series] for panel in panels]
        longest = max(names, key=len)
        apart = any(own != longest[: len(own)] for own in names)
        shown: dict[str, Any] = {}
        for axes, panel in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            panel.draw(axes)
            if apart:
                axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.3), ncols=2, frameon=False)
            handles, labels = axes.get_legend_handles_labels()
            shown |= dict(zip(labels, handles, strict=True))
        if len(shown) > 1 and not apart:
            figure.legend(
                list(shown.values()),
                list(shown),
                loc="outside lower center",
                ncols=min(4, len(shown)),
                frameon=False,
            )
        return svg_of(figure, name)
