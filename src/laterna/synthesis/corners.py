"""How the text proxy writes the corners of a box, in every line that holds one."""

from __future__ import annotations

from laterna.records import Box


def write_corners(box: Box) -> str:
    """Return `[x1, y1, x2, y2]` in 0..1, rounded to three decimals, as LLaVA's files write it."""
    # round() and not a fixed format: the published form writes 0.5, not 0.500.
    return str([round(value, 3) for value in (box.x1, box.y1, box.x2, box.y2)])
