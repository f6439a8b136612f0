"""How likely a language model finds words, with or without images before them.

Shapes: t tokens of a text · v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch
from PIL import Image

from laterna.data.masking import tokenize_text
from laterna.lab.bench import score_value
from laterna.lab.experiment import Value
from laterna.model.vlm import VisionLanguageModel

TEXTS = 200
"""Captions that plain text is measured on."""


class _Caption(msgspec.Struct):
    caption: str


class _Captions(msgspec.Struct):
    annotations: list[_Caption]


def text_losses(model: VisionLanguageModel, dataset: Path) -> Value:
    """Return the loss of a dataset's captions as plain text, in nats a token, one score a caption.

    No image and no template: what is measured is the language model alone.
    """
    decoded = msgspec.json.decode((dataset / "captions.json").read_bytes(), type=_Captions)
    texts = [one.caption for one in decoded.annotations[:TEXTS]]
    return score_value([loss_of(model, text) for text in texts])


def loss_of(
    model: VisionLanguageModel, text: str, images: Sequence[Image.Image] = (), *, last: int = 0
) -> float:
    """Return the mean loss of a text's tokens, in nats; of the `last` ones alone where given."""
    losses = token_losses(model, text, images)
    losses = losses[-last:] if last else losses
    return sum(losses) / len(losses)


@torch.no_grad()
def token_losses(
    model: VisionLanguageModel, text: str, images: Sequence[Image.Image] = ()
) -> list[float]:
    """Return the loss of each word token but the first, in nats, given all that stands before."""
    logits_tv = model.logits(images, text).float()
    counts = [model.image_tokens(*image.size) for image in images]
    ids = torch.tensor(
        model.fusion.expand(tokenize_text(text, model.tokenizer), counts), device=logits_tv.device
    )
    words = ids[1:] >= 0
    losses = torch.nn.functional.cross_entropy(
        logits_tv[:-1][words], ids[1:][words], reduction="none"
    )
    return [float(loss) for loss in losses]
