"""The text proxy: a picture as a text-only teacher sees it, in LLaVA's exact form.

Captions one a line; for kinds that show boxes, an empty line and one box a line,
`category: [x1, y1, x2, y2]` in 0..1 of width and height, 3 decimals; no newline at the end
(source of the form: haotian-liu/LLaVA, playground/data/prompts).
"""

from __future__ import annotations

import hashlib
import re

from laterna.errors import LaternaError
from laterna.records import Box

_BOX_LINE = re.compile(r"^(?P<category>.+): \[(?P<corners>[0-9.]+(?:, [0-9.]+){3})\]$")


def write_proxy(captions: tuple[str, ...], boxes: tuple[Box, ...] = ()) -> str:
    """Return the proxy text of a picture; without `boxes`, the captions alone.

    A line break inside a caption becomes a blank: a line is a caption.
    """
    lines = [" ".join(caption.strip().splitlines()) for caption in captions]
    if boxes:
        lines.append("")
        lines.extend(_box_line(box) for box in boxes)
    return "\n".join(lines)


def read_proxy(text: str) -> tuple[tuple[str, ...], tuple[Box, ...]]:
    """Return the captions and boxes of a proxy text, as far as its three decimals hold them.

    Raises LaternaError at a line after the empty one that is not a box.
    """
    head, _, tail = text.partition("\n\n")
    boxes = []
    for line in tail.splitlines():
        match = _BOX_LINE.match(line)
        if match is None:
            raise LaternaError(f"not a box line of a text proxy: {line!r}")
        x1, y1, x2, y2 = (float(corner) for corner in match["corners"].split(", "))
        boxes.append(Box(category=match["category"], x1=x1, y1=y1, x2=x2, y2=y2))
    return tuple(head.splitlines()), tuple(boxes)


def proxy_digest(text: str) -> str:
    """Return the SHA-256 of a proxy text, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def _box_line(box: Box) -> str:
    # round() and not a fixed format: the published form writes 0.5, not 0.500.
    corners = [round(value, 3) for value in (box.x1, box.y1, box.x2, box.y2)]
    return f"{box.category}: {corners}"
