"""An exported processor held against the assistant before it is kept: same tokens, same pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from laterna.data.chat import UnusableError
from laterna.data.masking import tokenise_prompt
from laterna.errors import LaternaError
from laterna.model.pretrained import quiet_transformers
from laterna.model.vlm import VisionLanguageModel
from laterna.records import PICTURE_MARK, PICTURE_TOKEN, Turn

_PIXEL_TOLERANCE = 1e-4
"""Of a normalised pixel; one grey level is about 0.015."""
CHATS: tuple[tuple[Turn, ...], ...] = (
    (Turn(role="user", text=f"{PICTURE_MARK}\nWhat is on the table?"),),
    (
        Turn(role="user", text=f"{PICTURE_MARK}\nHow many apples are there, 2 or 3?"),
        Turn(role="assistant", text="There are 3 apples."),
        Turn(role="user", text="And are they red?"),
    ),
    (Turn(role="user", text="Hello."),),
)


def insist_on_equal_prompts(assistant: VisionLanguageModel, processor: Any) -> None:
    """Compare an exported processor's tokens and pixels with the assistant's own.

    Turns go in as text and as lists of pieces. Raises LaternaError on any difference, with the
    place where it begins.
    """
    noise = np.random.default_rng(0).integers(0, 256, (37, 52, 3), dtype=np.uint8)
    pictures = [Image.fromarray(noise)]
    for chat in CHATS:
        try:
            ids = tokenise_prompt(chat, assistant.tokenizer, assistant.template)
        except UnusableError:
            continue  # a template for captions takes no conversation
        shown = pictures if PICTURE_TOKEN in ids else []
        counts = [assistant.picture_tokens(*picture.size) for picture in shown]
        expanded = assistant.fusion.expand(ids, counts)
        ours = [processor.image_token_id if token == PICTURE_TOKEN else token for token in expanded]
        for messages in (_as_text(chat), _as_pieces(chat)):
            with quiet_transformers():
                text = processor.apply_chat_template(messages, add_generation_prompt=True)
                adds = not _starts_with_bos(text, processor.tokenizer)
                inputs = processor(
                    images=shown or None, text=text, add_special_tokens=adds, return_tensors="pt"
                )
            _insist_on_same_ids(ours, inputs["input_ids"][0].tolist(), processor.tokenizer)
            if shown:
                _insist_on_same_pixels(assistant.prepare(shown), inputs["pixel_values"])


def _starts_with_bos(text: str, tokenizer: Any) -> bool:
    return bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)


def _as_text(chat: Sequence[Turn]) -> list[dict[str, Any]]:
    return [{"role": turn.role, "content": turn.text} for turn in chat]


def _as_pieces(chat: Sequence[Turn]) -> list[dict[str, Any]]:
    return [{"role": turn.role, "content": _pieces(turn.text)} for turn in chat]


def _pieces(text: str) -> list[dict[str, str]]:
    words = text.removeprefix(f"{PICTURE_MARK}\n")
    picture = [{"type": "image"}] if words != text else []
    return [*picture, {"type": "text", "text": words}]


def _insist_on_same_ids(ours: list[int], theirs: list[int], tokenizer: Any) -> None:
    if ours == theirs:
        return
    pairs = enumerate(zip(ours, theirs, strict=False))
    place = next((at for at, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
    raise LaternaError(
        "the exported processor would not read a chat as this assistant does: from token "
        f"{place} on {tokenizer.decode(theirs[place : place + 6])!r} instead of "
        f"{tokenizer.decode(ours[place : place + 6])!r}; its tokenizer or chat template cannot be "
        "exported"
    )


def _insist_on_same_pixels(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    difference = float((ours - theirs).abs().max()) if ours.shape == theirs.shape else float("inf")
    if difference > _PIXEL_TOLERANCE:
        raise LaternaError(
            "the exported processor would not prepare a picture as this assistant does: shapes "
            f"{tuple(theirs.shape)} and {tuple(ours.shape)}, largest difference {difference:.3g}"
        )
