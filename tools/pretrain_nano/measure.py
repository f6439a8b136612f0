"""How much of the world the shipped bases know, each measured alone, beside its control."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from msgspec import structs
from torch import Tensor
from transformers import (
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5ForConditionalGeneration,
)

from laterna.analysis.properties import properties_of
from laterna.evaluation.tasks.base import IMAGE_FOLDER
from laterna.evaluation.tasks.world import TRUTH_FILE, read_truth
from laterna.lab.measures.probes import (
    box_pool,
    image_features,
    mean_max_pool,
    mean_pool,
    probe_accuracy,
)
from laterna.model.build import build_from_recipe
from laterna.model.vlm import VisionLanguageModel
from laterna.recipe import load_recipe
from laterna.records import DEFAULT_IMAGE_TOKEN, Box, Record, Truth
from laterna.scenes.phrases import SHORT_ANSWER
from laterna.world.dataset import write_world
from pretrain_nano.corpus import Document, write_document
from pretrain_nano.described import (
    Described,
    collate_described,
    describe_samples,
    target_logits,
)
from pretrain_nano.encoder_decoder import collate_readings
from pretrain_nano.encoder_decoder import target_logits as answer_logits

IMAGES = 2000
DOCUMENTS = 400
SEED = 20_000
"""A world that no demo is likely to draw; the bases learned from another stream altogether."""
FIRST_TEXT = 100_000_000
"""Index of a document far behind those of the pretraining."""


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
    assistant = build_from_recipe(load_recipe("nano")).eval()
    return [*measure_vision(assistant), *measure_language(assistant.language, assistant.tokenizer)]


def measure_encoder_decoder() -> list[Knowledge]:
    """Question the encoder-decoder on the same texts."""
    assistant = build_from_recipe(load_recipe("nano-pali")).eval()
    return measure_language(assistant.language, assistant.tokenizer)


def measure_vision(assistant: VisionLanguageModel) -> list[Knowledge]:
    """Fit a linear probe for each attribute on fresh images' features."""
    with TemporaryDirectory() as folder:
        world = Path(folder) / "world"
        write_world(world, images=IMAGES, seed=SEED)
        truths = read_truth(world / TRUTH_FILE)
        names = [truth.image for truth in truths]
        features_bnd = image_features(assistant, world / IMAGE_FOLDER, names)
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


def measure_language(
    model: LlamaForCausalLM | T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
) -> list[Knowledge]:
    """Examine a language model on fresh descriptions, map and prose, by visual property.

    An answer is right when every one of its tokens is the likeliest after those before it, which
    is what greedy decoding writes. The control is asked without the description.
    """
    asked: dict[str, Counter[str]] = {}
    right: Counter[str] = Counter()
    blind: Counter[str] = Counter()
    documents = (write_document(SEED, FIRST_TEXT + index) for index in range(DOCUMENTS))
    for document in filter(is_examination, documents):
        form = "map" if document.description.is_map else "prose"
        nothing = structs.replace(document.description, words=())
        undescribed = structs.replace(document, description=nothing)
        answered = _answered(model, document, tokenizer)
        guessed = _answered(model, undescribed, tokenizer)
        for record, is_right, is_guessed in zip(document.records, answered, guessed, strict=True):
            question, answer = (turn.text for turn in record.turns)
            what = f"{form}: {properties_of(question)[0]}"
            asked.setdefault(what, Counter())[answer] += 1
            right[what] += is_right
            blind[what] += is_guessed
    return [
        Knowledge(
            what=what,
            accuracy=right[what] / answers.total(),
            control=blind[what] / answers.total(),
            chance=max(answers.values()) / answers.total(),
            examples=answers.total(),
        )
        for what, answers in sorted(asked.items())
    ]


def is_examination(document: Document) -> bool:
    """Tell whether all that is said of a description is short answers to single questions."""
    return all(
        len(record.turns) == 2 and record.turns[0].text.startswith(DEFAULT_IMAGE_TOKEN)
        for record in document.records
    ) and any(SHORT_ANSWER in record.turns[0].text for record in document.records)


def _answered(
    model: LlamaForCausalLM | T5ForConditionalGeneration,
    document: Document,
    tokenizer: PreTrainedTokenizerFast,
) -> list[bool]:
    """Tell of each record whether its answer is the model's."""
    return said(model, describe_samples(document, tokenizer))


@torch.no_grad()
def said(model: LlamaForCausalLM | T5ForConditionalGeneration, described: Described) -> list[bool]:
    """Tell of each sample about a description whether its targets are what the model says."""
    if isinstance(model, T5ForConditionalGeneration):
        pairs = [(described, sample) for sample in described.samples]
        logits_sv, labels_s = answer_logits(model, collate_readings(pairs))
    else:
        batch = collate_described([described], pack_length=0)
        logits_sv, labels_s = target_logits(model, batch), batch.labels_s
    lengths = [sum(sample.targets) for sample in described.samples]
    right = torch.split(logits_sv.argmax(-1) == labels_s, lengths)
    return [bool(answer.all()) for answer in right]


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
"""Attribute to what is looked for in an image, and how the features are pooled for it."""
