"""How likely a language model finds words, with or without images before them.

Shapes: t tokens of a text · v vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
from PIL import Image

from laterna.data.chat import render
from laterna.data.images.opening import load_image
from laterna.data.masking import tokenize_text
from laterna.inference.assistant import Assistant
from laterna.inference.generation import Prompt
from laterna.inference.sampling import Decoding
from laterna.lab.bench import score_value
from laterna.lab.experiment import Value
from laterna.model.vlm import VisionLanguageModel
from laterna.records import DEFAULT_IMAGE_TOKEN, Question, Turn

TEXTS = 200
"""Captions that plain text is measured on."""


class Said(NamedTuple):
    """What an assistant answered."""

    text: str
    tokens: int
    ended: bool
    """By itself, and not for want of room."""
    confidence: float
    """The model's own probability of the whole answer, its end included."""


def said(assistant: Assistant, prompts: Iterable[Prompt], room: int) -> list[Said]:
    """Return the likeliest answers to prompts, with room for so many tokens each."""
    decoding = Decoding(max_new_tokens=room, logprobs=0)
    return [
        Said(
            one.text.strip(),
            len(one.tokens),
            one.finish == "stop",
            math.exp(sum(token.logprob or 0.0 for token in one.tokens)),
        )
        for one in assistant.engine.answers(prompts, decoding, fit=True)
    ]


def prompt_of(question: Question, folder: Path) -> Prompt:
    """Return a question as it is put, its images read from their folder."""
    marks = f"{DEFAULT_IMAGE_TOKEN}\n" * len(question.images)
    turn = Turn(role="user", text=f"{marks}{question.text}")
    return [turn], [load_image(folder / name) for name in question.images]


def answer_loss(model: VisionLanguageModel, question: Question, folder: Path) -> float:
    """Return the mean loss of a question's first reference as its answer, in nats a token.

    The end of turn is one of the answer's tokens, as in training.
    """
    turns, images = prompt_of(question, folder)
    answer = Turn(role="assistant", text=question.references[0], loss=True)
    rendered = render([*turns, answer], model.tokenizer, model.template)
    start, end = rendered.spans[-1]
    whole, asked = (
        len(tokenize_text(rendered.text[:place], model.tokenizer)) for place in (end, start)
    )
    return loss_of(model, rendered.text[:end], images, last=whole - asked)


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
