"""The figures of the experiments: readable in black and white, with what is not known drawn too."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from textwrap import wrap
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from laterna.lab.experiment import Spread, three_digits
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
BAR = "#a9c3d6"
CHARACTERS_AN_INCH = 12
BELOW_TICKS = -17
"""Where the name of a line stands beneath an axis, in points: under the ticks' numbers."""
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
                ncols=_columns(shown, figure.get_figwidth()),
                frameon=False,
            )
        return svg_of(figure, name)


def _columns(names: Collection[str], width: float) -> int:
    """Return how many columns a legend has room for in so many inches."""
    longest = max(map(len, names)) + 7  # characters, its mark with them
    return max(1, min(len(names), int(width * CHARACTERS_AN_INCH / longest)))


def draw_rows(
    name: str,
    rows: Sequence[str],
    columns: Mapping[str, Sequence[Spread]],
    *,
    level: Mapping[str, tuple[str, float]] | None = None,
) -> str:
    """Return a row an arm and a column a measure as one `<svg>` element: bars from zero.

    `columns` holds a value a row; one that is no number is left out. Columns have scales of their
    own, which end at 1 where nothing is above it. `level` is a dashed line in the column of that
    name, with its own name and place, such as the control's value.
    """
    height = 0.9 + 0.34 * len(rows)
    with matplotlib.rc_context(drawing_look(name)):
        figure = Figure(figsize=(9.0 if len(columns) > 3 else WIDTH, height), layout="constrained")
        figure.set_gid(f"figure {name}".replace(" ", "-"))
        grid = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for axes, (title, spreads) in zip(grid, columns.items(), strict=True):
            _bars(axes, spreads)
            if level and title in level:
                named, place = level[title]
                axes.axvline(place, color=INK, linewidth=0.9, linestyle=(0, (2, 3)))
                axes.annotate(
                    named,
                    (place, len(rows) - 0.5),
                    xytext=(0, BELOW_TICKS),
                    textcoords="offset points",
                    ha="center",
                    va="top",
                    fontsize=8,
                )
            axes.set_title("\n".join(wrap(title, 18)), color=INK, fontsize=9, loc="left")
        grid[0].set_yticks(range(len(rows)), list(rows))
        grid[0].set_ylim(len(rows) - 0.5, -0.5)
        return svg_of(figure, name)


def _bars(axes: Any, spreads: Sequence[Spread]) -> None:
    known = [(row, one) for row, one in enumerate(spreads) if not math.isnan(one.mean)]
    highest = max([one.mean if math.isnan(one.high) else one.high for _, one in known] or [1.0])
    room = 1.0 if highest <= 1 else highest
    for row, one in known:
        axes.barh(row, one.mean, height=0.56, color=BAR)
        if not math.isnan(one.low):
            axes.plot([one.low, one.high], [row, row], color=INK, linewidth=1.1)
        end = max(one.mean, 0.0 if math.isnan(one.high) else one.high)
        axes.text(
            end + 0.03 * room, row, three_digits(one.mean), va="center", fontsize=8, color=INK
        )
    axes.set_xlim(0, room * 1.36)
    axes.set_xticks([0, room] if room == 1 else [0])
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
