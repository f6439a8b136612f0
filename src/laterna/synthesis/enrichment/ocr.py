"""Printed text: words that are legible in the image, read by rapidocr.

Its wheel ships the models (PP-OCRv6, Latin and Chinese script among others), so nothing is
fetched. What it is unsure of is left out: an unread word costs less than an invented one.
"""

from __future__ import annotations

import json
from functools import cache
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from laterna.records import Box
from laterna.synthesis.enrichment.base import import_extra, write_corners

PREFIX = "printed text: "
SURE = 0.8
"""Least recognition score, 0..1, of a line that is kept."""
SHORTEST = 2
"""Least number of letters and digits: single ones are mostly wheels, legs and window bars."""
_ENGINE_LOCK = Lock()


class Words(NamedTuple):
    """One line of printed text."""

    text: str
    box: Box
    score: float


def measure(image: Image.Image, _boxes: tuple[Box, ...] = ()) -> list[str]:
    """Return a line for each line of text, top to bottom: `printed text: "OPEN" at [...]`."""
    return [
        f"{PREFIX}{json.dumps(words.text, ensure_ascii=False)} at {write_corners(words.box)}"
        for words in read_words(image)
    ]


def read_words(image: Image.Image) -> list[Words]:
    """Return the lines of text that are surely read, in the order top to bottom."""
    pixels = np.ascontiguousarray(np.asarray(image)[..., ::-1])  # rapidocr takes BGR
    with _ENGINE_LOCK:  # it keeps the settings of a call on itself
        found = _engine()(pixels)
    if found.txts is None:
        return []
    read = zip(found.txts, found.boxes, found.scores, strict=True)
    words = [
        Words(" ".join(text.split()), _box(corners, image.size), float(score))
        for text, corners, score in read
        if score >= SURE and sum(letter.isalnum() for letter in text) >= SHORTEST
    ]
    return sorted(words, key=lambda found: (found.box.y1, found.box.x1))


@cache
def _engine() -> Any:
    import_extra("onnxruntime", "ocr")
    rapidocr = import_extra("rapidocr", "ocr")
    one_thread = {
        f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")
    }
    return rapidocr.RapidOCR(params={"Global.log_level": "critical", **one_thread})


def _box(corners: Any, size: tuple[int, int]) -> Box:
    """Return the upright box around four corners in pixels, in 0..1 of the image."""
    across, down = np.clip(np.asarray(corners, dtype=np.float64) / size, 0.0, 1.0).T
    return Box(
        category="text",
        x1=float(across.min()),
        y1=float(down.min()),
        x2=float(across.max()),
        y2=float(down.max()),
    )
