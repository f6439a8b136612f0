"""Enrichments: lines of the text proxy that are measured from the image itself.

Captions and boxes leave out what an image's light, colours, surfaces and printed words are, and
a teacher who reads nothing else can only invent them. Each enrichment is a file that measures
one of these and a line in `ENRICHMENTS`; what it cannot measure it leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps

from laterna.errors import LaternaError
from laterna.records import Box, Scene
from laterna.scenes.image_files import DAMAGE
from laterna.scenes.orientation import ASPECT_SLACK
from laterna.synthesis.enrichment import colours, lighting, ocr, texture

_KEPT = 64
"""Scenes whose lines are kept: the kinds of one scene are asked for soon after each other."""


class ImageError(LaternaError):
    """An image that cannot be measured: the scene is to be counted and left out."""


class Line(NamedTuple):
    """One line of a proxy text and where it comes from."""

    channel: str
    text: str


class Enrichment(NamedTuple):
    """What measures, and how all lines that it writes begin."""

    measure: Callable[[Image.Image, tuple[Box, ...]], list[str]]
    prefix: str


ENRICHMENTS: dict[str, Enrichment] = {
    "ocr": Enrichment(ocr.measure, ocr.PREFIX),
    "lighting": Enrichment(lighting.measure, lighting.PREFIX),
    "colours": Enrichment(colours.measure, colours.PREFIX),
    "texture": Enrichment(texture.measure, texture.PREFIX),
}
"""Name, which is the channel of its lines too, to enrichment, in the order of the lines."""


def enrich(scene: Scene, names: Iterable[str], images: Path | None) -> tuple[Line, ...]:
    """Return the lines of the named enrichments for a scene's image, in `ENRICHMENTS`' order.

    Raises LaternaError for an unknown name, without an image folder and without the libraries
    that an enrichment needs, and ImageError where the image cannot be measured.
    """
    asked = set(names)
    if not asked:
        return ()
    if unknown := sorted(asked - set(ENRICHMENTS)):
        raise LaternaError(
            f"unknown enrichment {', '.join(unknown)}; known are: {', '.join(ENRICHMENTS)}"
        )
    if images is None:
        raise LaternaError(
            f"the enrichments {', '.join(sorted(asked))} are measured from the images: "
            "name the folder that holds them"
        )
    return _measured(scene, tuple(name for name in ENRICHMENTS if name in asked), images)


def is_enrichment(line: str) -> bool:
    """Tell whether a line of a proxy text was written by an enrichment."""
    return any(line.startswith(enrichment.prefix) for enrichment in ENRICHMENTS.values())


@lru_cache(maxsize=_KEPT)
def _measured(scene: Scene, names: tuple[str, ...], images: Path) -> tuple[Line, ...]:
    image = _open(scene, images / scene.image)
    return tuple(
        Line(name, line) for name in names for line in ENRICHMENTS[name].measure(image, scene.boxes)
    )


def _open(scene: Scene, path: Path) -> Image.Image:
    """Return the image as a person sees it: so its scene's boxes lie (`scenes.orientation`)."""
    try:
        with Image.open(path) as source:
            image = ImageOps.exif_transpose(source).convert("RGB")
    except DAMAGE as error:
        raise ImageError(f"{path}: image {scene.id} cannot be read: {error}") from error
    width, height = image.size
    if scene.boxes and scene.width and scene.height:
        ratio = (width / height) / (scene.width / scene.height)
        if abs(ratio - 1) > ASPECT_SLACK:
            raise ImageError(
                f"{path}: image {scene.id} is {width}×{height}, its annotation says "
                f"{scene.width}×{scene.height}: the boxes do not belong to it"
            )
    return image
