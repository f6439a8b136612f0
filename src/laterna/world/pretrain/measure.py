"""How much of the world the shipped bases know, each measured alone, beside its control."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from laterna.evaluation.metrics.exact_match import exact_match
from laterna.evaluation.run import PICTURE_FOLDER
from laterna.evaluation.tasks.world import TRUTH_FILE, read_truth
from laterna.lab.blind_spots import (
    box_pool,
    mean_max_pool,
    mean_pool,
    picture_features,
    probe_accuracy,
)
from laterna.model.assistant import Assistant, load_assistant_from
from laterna.model.generation import Prompt, generate_answers
from laterna.recipe import load_recipe
from laterna.records import Box, Record, Truth, Turn
from laterna.synthesis.prompts import detail_questions
from laterna.world.dataset import write_world
from laterna.world.pretrain.corpus import write_document

PICTURES = 2000
TEXTS = 600
SEED = 20_000
"""A world that no demo is likely to draw; the bases learned from another stream altogether."""
FIRST_TEXT = 100_000_000
"""Index of a text far behind those of the pretraining."""


class Knowledge(Record):
    """One figure of a base model: accuracies in 0..1."""

    what: str
    accuracy: float
    control: float
    """The probe trained on shuffled labels; for texts, the question without its description."""
    chance: float
    """Share of the commonest label."""
    examples: int


def measure_bases() -> list[Knowledge]:
    """Probe the encoder's penultimate features, and question the language model on texts."""
    assistant = load_assistant_from(load_recipe("nano")).eval()
    return [*measure_vision(assistant), measure_language(assistant)]


def measure_vision(assistant: Assistant) -> list[Knowledge]:
    """Fit a linear probe for each attribute on fresh pictures' features."""
    with TemporaryDirectory() as folder:
        world = Path(folder) / "world"
        write_world(world, pictures=PICTURES, seed=SEED)
        truths = read_truth(world / TRUTH_FILE)
        names = [truth.picture for truth in truths]
        features_bnd = picture_features(assistant, world / PICTURE_FOLDER, names)
    found = []
    for what, (look, pool) in _ATTRIBUTES.items():
        cases = [look(truth) for truth in truths]
        kept = [(f, case) for f, case in zip(features_bnd, cases, strict=True) if case]
        labels = [label for _, (label, _) in kept]
        pooled = torch.stack([pool(features, box) for features, (_, box) in kept])
        shuffled = random.Random(SEED).sample(labels, k=len(labels))
        found.append(
            Knowledge(
                what=what,
                accuracy=probe_accuracy(pooled, labels, seed=SEED),
                control=probe_accuracy(pooled, shuffled, seed=SEED),
                chance=max(Counter(labels).values()) / len(labels),
                examples=len(labels),
            )
        )
    return found


def measure_language(assistant: Assistant) -> Knowledge:
    """Ask the first question of fresh texts, with and without their description."""
    documents = (write_document(SEED, FIRST_TEXT + index) for index in range(TEXTS))
    chats = [record.turns[:2] for record, is_chat in documents if is_chat and record.turns]
    right = _right_answers(assistant, [chat[0].text for chat in chats], chats)
    blind = _right_answers(assistant, [_question(chat[0].text) for chat in chats], chats)
    answers = Counter(chat[1].text for chat in chats)
    return Knowledge(
        what="first answer about a described scene",
        accuracy=right / len(chats),
        control=blind / len(chats),
        chance=max(answers.values()) / len(chats),
        examples=len(chats),
    )


def _right_answers(assistant: Assistant, texts: list[str], chats: list[tuple[Turn, ...]]) -> int:
    given: list[str] = []
    for start in range(0, len(texts), 64):
        asked = texts[start : start + 64]
        prompts: list[Prompt] = [([Turn(role="user", text=text)], []) for text in asked]
        given += generate_answers(assistant, prompts, max_new_tokens=96)
    return sum(exact_match(text, chat[1].text) for text, chat in zip(given, chats, strict=True))


def _question(text: str) -> str:
    """Return the line of a described question that is the question."""
    known = detail_questions()
    return next(line for line in text.split("\n") if "?" in line or line in known)


Case = tuple[str, Box | None] | None


def _toy(attribute: str) -> Callable[[Truth], Case]:
    def look(truth: Truth) -> Case:
        toy = truth.toys[0]
        return str(getattr(toy, attribute)), toy.box

    return look


def _lighting(truth: Truth) -> Case:
    return truth.lighting, None


def _sign(truth: Truth) -> Case:
    return (truth.sign, truth.sign_box) if truth.sign and truth.sign_box else None


Pool = Callable[[Tensor, Box | None], Tensor]
_ATTRIBUTES: dict[str, tuple[Callable[[Truth], Case], Pool]] = {
    "category": (_toy("category"), box_pool),
    "colour": (_toy("colour"), box_pool),
    "size": (_toy("size"), box_pool),
    "texture": (_toy("texture"), box_pool),
    "lighting": (_lighting, mean_pool),
    "sign word": (_sign, mean_max_pool),
}
"""Attribute to what is looked for in a picture, and how the features are pooled for it."""
