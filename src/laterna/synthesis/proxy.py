"""The text proxy: an image as a text-only teacher sees it, in LLaVA's exact form.

Captions one a line; for kinds that show boxes, an empty line and one box a line,
`category: [x1, y1, x2, y2]` in 0..1 of width and height, 3 decimals; no newline at the end
(source of the form: haotian-liu/LLaVA, playground/data/prompts). Enrichments, where asked for,
are further lines after the boxes; they are Laterna's own.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from laterna.errors import LaternaError
from laterna.records import Box, Kind, Proxy, Scene
from laterna.synthesis.enrichment import Line, enrich, is_enrichment
from laterna.synthesis.enrichment.base import write_corners

_BOX_LINE = re.compile(r"^(?P<category>.+): \[(?P<corners>[0-9.]+(?:, [0-9.]+){3})\]$")


def build_proxy(
    scene: Scene,
    kind: Kind,
    *,
    conversation_boxes: bool = False,
    enrichments: tuple[str, ...] = (),
    images: Path | None = None,
) -> Proxy:
    """Return what the teacher of one kind is shown of a scene, with the channel of every line.

    Boxes are shown to every kind but `conversation`, as in LLaVA; `conversation_boxes` shows
    them there too. `enrichments` are keys of `enrichment.ENRICHMENTS`, measured from the image
    in the folder `images`. Raises LaternaError for an unknown enrichment, for a missing folder
    or library, and its child ImageError for an image that cannot be measured.
    """
    boxes = scene.boxes if kind != "conversation" or conversation_boxes else ()
    lines = _lines(scene.captions, boxes, enrich(scene, enrichments, images))
    return Proxy(
        text="\n".join(line.text for line in lines),
        channels=tuple(line.channel for line in lines),
    )


def write_proxy(captions: tuple[str, ...], boxes: tuple[Box, ...] = ()) -> str:
    """Return the proxy text of an image; without `boxes`, the captions alone.

    A line break inside a caption becomes a blank: a line is a caption. A blank caption has no
    line, since the empty line is what ends the captions.
    """
    return "\n".join(line.text for line in _lines(captions, boxes, ()))


def read_proxy(text: str) -> tuple[tuple[str, ...], tuple[Box, ...]]:
    """Return the captions and boxes of a proxy text, as far as its three decimals hold them.

    The lines of enrichments are passed over. Raises LaternaError at any other line after the
    empty one that is not a box.
    """
    # Without captions the text begins with the empty line.
    head, _, tail = ("", "", text[1:]) if text.startswith("\n") else text.partition("\n\n")
    boxes = []
    for line in tail.splitlines():
        match = _BOX_LINE.match(line)
        if match is not None:
            x1, y1, x2, y2 = (float(corner) for corner in match["corners"].split(", "))
            boxes.append(Box(category=match["category"], x1=x1, y1=y1, x2=x2, y2=y2))
        elif not is_enrichment(line):
            raise LaternaError(f"not a box line of a text proxy: {line!r}")
    return tuple(head.splitlines()), tuple(boxes)


def proxy_digest(text: str) -> str:
    """Return the SHA-256 of a proxy text, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def _lines(
    captions: tuple[str, ...], boxes: tuple[Box, ...], enriched: tuple[Line, ...]
) -> list[Line]:
    lines = [
        Line("caption", " ".join(caption.strip().splitlines()))
        for caption in captions
        if caption.strip()
    ]
    if boxes or enriched:
        lines.append(Line("", ""))
    lines += [Line("box", f"{box.category}: {write_corners(box)}") for box in boxes]
    return lines + list(enriched)
