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
from laterna.evaluation.metrics import find_metric
from laterna.evaluation.tasks import find_task
from laterna.evaluation.tasks.base import read_questions
from laterna.inference.assistant import Assistant
from laterna.inference.generation import Prompt
from laterna.inference.sampling import Decoding
from laterna.lab.bench import score_value
from laterna.lab.experiment import Value
from laterna.model.vlm import VisionLanguageModel
from laterna.records import DEFAULT_IMAGE_TOKEN, Question, Turn

READ = 400
"""Questions about scenes in words."""
ROOM = 16
"""Tokens that their answers may have."""


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
    image_id: int
    caption: str


class _Image(msgspec.Struct):
    id: int
    file_name: str


class _Captions(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Caption]


def read_right(assistant: Assistant, dataset: Path, *, seed: int, limit: int = READ) -> Value:
    """Return the share right of questions about scenes that stand there in words, one score each.

    The captions of an image stand where the image would: no image is seen, so what is measured is
    the language model alone, at what it could do before it met one. `limit` is the most questions
    and `seed` draws them. Raises LaternaError when the dataset cannot be read.
    """
    captions = msgspec.json.decode((dataset / "captions.json").read_bytes(), type=_Captions)
    names = {one.id: one.file_name for one in captions.images}
    told: dict[str, list[str]] = {}
    for one in captions.annotations:
        told.setdefault(names[one.image_id], []).append(one.caption)
    questions = read_questions(find_task("world"), dataset, limit=limit, seed=seed).questions
    prompts: list[Prompt] = [
        ([Turn(role="user", text=f" {' '.join(told[one.images[0]])}\n{one.text}")], [])
        for one in questions
    ]
    answers = [one.text for one in said(assistant, prompts, ROOM)]
    return score_value(find_metric("exact_match").score(questions, answers))


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
