"""An explanation shown: maps laid over the image as the model saw it, as a page or one image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from laterna.errors import LaternaError
from laterna.files import write_atomically
from laterna.inference.explanation import Explanation, Map
from laterna.report.parts import jpeg_uri, write_page

SIDE, SMALL = 448, 168
"""Least width, in pixels, of the large overlays and of those of single tokens."""
FOR, AGAINST = (230, 60, 30), (40, 90, 220)
"""Colours of what speaks for the answer, and against it."""
STRONGEST = 0.75
"""Opacity of the largest value of a map."""
ENDINGS = (".html", ".png")
"""What an explanation can be written as."""


class Overlay(NamedTuple):
    """One map as the page shows it."""

    title: str
    image: str
    """Data URI."""
    note: str


class TokenFigure(NamedTuple):
    """A token of the answer with its maps, one a method."""

    text: str
    probability: float
    overlays: tuple[Overlay, ...]


def overlay(image: Image.Image, values: Map, *, top: float = 0.0, side: int = SIDE) -> Image.Image:
    """Lay a map over an image: red where values are above 0, blue below, the more the stronger.

    `top` is the value that is shown strongest; 0: the map's own largest. The result is at least
    `side` pixels wide.
    """
    grid_yx = np.asarray(values, dtype=np.float64)
    scale = max(1, math.ceil(side / image.width))
    large = image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)
    strength_yx = STRONGEST * np.clip(np.abs(grid_yx) / (top or np.abs(grid_yx).max() or 1), 0, 1)
    mask = Image.fromarray((255 * strength_yx).round().astype(np.uint8))
    colours_yxc = np.where(grid_yx[..., None] > 0, FOR, AGAINST).astype(np.uint8)
    heat = Image.fromarray(colours_yxc)
    cells = (large.size, Image.Resampling.NEAREST)
    return Image.composite(heat.resize(*cells), large, mask.resize(*cells))


def require_ending(path: Path) -> None:
    """Raise LaternaError for a file that an explanation cannot be written as."""
    if path.suffix.lower() not in ENDINGS:
        raise LaternaError(f"{path}: give a file that ends in {' or '.join(ENDINGS)}")


class Explained(NamedTuple):
    """One answer with what it hangs on, as a page of several shows it."""

    question: str
    answer: str
    overlay: Overlay


def explained(question: str, found: Explanation) -> Explained:
    """Return an explanation's first map for a page of several. Raises LaternaError without one."""
    if not (maps := _maps(found)):
        raise LaternaError("there is no map; use the method occlusion or attention")
    shown = _overlay(found.image.views[0].image, maps[0], maps[0].overall, SIDE // 2)
    return Explained(question, found.answer, shown)


def write_explanation(path: Path, question: str, found: Explanation) -> None:
    """Write an explanation: a page (.html), or the first method's map alone (.png).

    Raises LaternaError for another ending, and for an image of what has no map.
    """
    require_ending(path)
    maps = _maps(found)
    if path.suffix.lower() == ".png":
        if not maps:
            raise LaternaError(f"{path}: an image needs the method occlusion or attention")
        shown = overlay(found.image.views[0].image, maps[0].overall)
        with write_atomically(path) as aside:
            shown.save(aside, "PNG")
        return
    seen = found.image.views[0].image
    write_page(
        path,
        "explanation.html.jinja",
        question=question,
        found=found,
        views=[jpeg_uri(view.image) for view in found.image.views],
        notes=[one.note for one in maps],
        overlays=[_overlay(seen, one, one.overall, SIDE) for one in maps],
        tokens=[_token(found, number, maps) for number in range(len(found.tokens))],
        layers=found.lens.layers if found.lens else (),
    )


class _Maps(NamedTuple):
    title: str
    note: str
    overall: Map
    tokens: Sequence[Map]
    top: float
    """Largest value over all tokens: their overlays are shown on one scale."""
    unit: str


def _maps(found: Explanation) -> list[_Maps]:
    maps: list[_Maps] = []
    if found.occlusion is not None:
        one = found.occlusion
        note = (
            f"Windows of {one.window} × {one.window} cells are covered in turn: red, the answer "
            "becomes less likely without them; blue, likelier"
        )
        maps.append(_Maps("Occlusion", note, one.overall, one.tokens, _top(one.tokens), "nats"))
    if found.attention is not None:
        # Ratios: twice as much and half as much are as far from 1.
        overall, tokens = _log2(found.attention.overall), [*map(_log2, found.attention.tokens)]
        note = f"{found.attention.note[0].upper()}{found.attention.note[1:]}: red, more; blue, less"
        maps.append(_Maps("Relative attention", note, overall, tokens, _top(tokens), "doublings"))
    return maps


def _overlay(image: Image.Image, maps: _Maps, values: Map, side: int, top: float = 0.0) -> Overlay:
    strongest = max((value for row in values for value in row), key=abs)
    shown = overlay(image, values, top=top, side=side)
    return Overlay(maps.title, jpeg_uri(shown), f"strongest {strongest:+.2g} {maps.unit}")


def _token(found: Explanation, number: int, maps: Sequence[_Maps]) -> TokenFigure:
    token, seen = found.tokens[number], found.image.views[0].image
    overlays = [_overlay(seen, one, one.tokens[number], SMALL, one.top) for one in maps]
    return TokenFigure(token.text, math.exp(token.logprob), tuple(overlays))


def _log2(values: Map) -> Map:
    return tuple(tuple(math.log2(max(value, 1e-6)) for value in row) for row in values)


def _top(maps: Sequence[Map]) -> float:
    return float(np.abs(np.asarray(maps)).max())
