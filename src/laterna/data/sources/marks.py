"""Marks of images that other programs write into the words, made ours."""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import structs

from laterna.records import DEFAULT_IMAGE_TOKEN, Turn

_WRAPPED = f"<im_start>{DEFAULT_IMAGE_TOKEN}<im_end>"
"""LLaVA's first release put these words around its mark."""
_OTHERS = re.compile(
    r"<\|vision_start\|>(?:<\|image_pad\|>)+<\|vision_end\|>"  # Qwen2-VL
    r"|<(?:\|image_|image )(\d+)(?:\|)?>"  # Phi-3 vision, MMMU
    r"|<ImageHere>|<image_placeholder>|<start_of_image>|\[IMG\]"  # XComposer, VILA, Gemma, Pixtral
)


def with_our_marks(turns: Sequence[Turn], images: int) -> list[Turn]:
    """Return turns with `<image>` in the place of another program's marks of a row's images.

    They are only what they look like where there are as many of them as images, and none of ours;
    numbered ones must count from 1, for they may name the images in any order.
    """
    if not images or not any("<" in turn.text or "[IMG]" in turn.text for turn in turns):
        return list(turns)
    turns = [_replaced(turn, turn.text.replace(_WRAPPED, DEFAULT_IMAGE_TOKEN)) for turn in turns]
    asked = [turn.text for turn in turns if turn.role == "user"]
    found = [mark for text in asked for mark in _OTHERS.finditer(text)]
    numbers = [int(mark[1]) for mark in found if mark[1]]
    ours = any(DEFAULT_IMAGE_TOKEN in text for text in asked)
    if ours or len(found) != images or numbers != list(range(1, len(numbers) + 1)):
        return turns
    return [_replaced(turn, _OTHERS.sub(DEFAULT_IMAGE_TOKEN, turn.text)) for turn in turns]


def _replaced(turn: Turn, text: str) -> Turn:
    return structs.replace(turn, text=text) if turn.role == "user" and text != turn.text else turn
