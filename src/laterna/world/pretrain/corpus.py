"""The text that pretrains the nano language model: descriptions, and talk about them."""

from __future__ import annotations

import numpy as np

from laterna.records import Box, InstructionRecord, Truth, Turn
from laterna.synthesis.coco import CATEGORIES as COCO_CATEGORIES
from laterna.synthesis.object_words import ObjectWords
from laterna.synthesis.parsing import Exchange
from laterna.synthesis.phrases import SHORT_ANSWER
from laterna.synthesis.prompts import detail_questions
from laterna.synthesis.proxy import read_proxy, write_proxy
from laterna.synthesis.teachers.scribe.conversation import compose_conversation
from laterna.synthesis.teachers.scribe.detail import compose_detail
from laterna.synthesis.teachers.scribe.facts import Facts, gather_facts
from laterna.synthesis.teachers.scribe.reasoning import compose_reasoning
from laterna.world.captions import write_captions
from laterna.world.pretrain.descriptions import describe
from laterna.world.scenes import MAX_TOYS, draw_truth
from laterna.world.toys import CATEGORIES

_WORDS = ObjectWords(COCO_CATEGORIES)
_NAMES = tuple(CATEGORIES)


def write_document(
    seed: int, index: int, max_toys: int = MAX_TOYS
) -> tuple[InstructionRecord, bool]:
    """Return text number `index` as a record without pictures, and whether it is a chat.

    A chat has its description where a picture's chat has the picture. The other texts are a
    description and a caption, as stage 1 will show picture and caption.
    """
    rng = np.random.default_rng([seed, index, 1])
    truth = draw_truth("pretrain", seed, index, max_toys)
    description, complete = describe(truth, rng)
    captions = write_captions(truth, rng)
    talk = rng.random()
    if talk < 0.15:
        caption = captions[int(rng.integers(len(captions)))]
        return _record(index, description, [Exchange("", caption)], rng), False
    facts = _facts(truth, captions)
    if talk < 0.25:
        exchanges = [Exchange(str(rng.choice(detail_questions())), compose_detail(facts, rng))]
    elif talk < 0.32:
        exchanges = compose_reasoning(facts, rng)
    else:
        exchanges = compose_conversation(facts, rng)
        if complete:
            exchanges = _about_everything(truth, facts, rng) + exchanges[:4]
    return _record(index, description, exchanges, rng), True


def _facts(truth: Truth, captions: tuple[str, ...]) -> Facts:
    boxes: tuple[Box, ...] = tuple(toy.box for toy in truth.toys)
    return gather_facts(*read_proxy(write_proxy(captions, boxes)), _WORDS, _NAMES)


def _about_everything(truth: Truth, facts: Facts, rng: np.random.Generator) -> list[Exchange]:
    """Return questions about what captions leave out; only complete descriptions answer them."""
    exchanges = [
        Exchange("Is the light bright or dim?" + SHORT_ANSWER, truth.lighting.capitalize())
    ]
    if truth.sign:
        exchanges.append(Exchange("What does the sign say?" + SHORT_ANSWER, truth.sign))
    single = [toy for toy in truth.toys if toy.category in facts.single()]
    for toy in single[:1]:
        asked = f"Is the {toy.category} smooth, rough or striped?"
        exchanges.append(Exchange(asked + SHORT_ANSWER, toy.texture.capitalize()))
    return [exchanges[number] for number in rng.permutation(len(exchanges))]


def _record(
    index: int, description: str, exchanges: list[Exchange], rng: np.random.Generator
) -> InstructionRecord:
    first = rng.integers(2) == 0
    turns = []
    for number, (question, answer) in enumerate(exchanges):
        text = question
        if number == 0 and question:
            text = f"{description}\n{question}" if first else f"{question}\n{description}"
        elif number == 0:
            text = description
        turns += [Turn(role="user", text=text), Turn(role="assistant", text=answer, loss=True)]
    return InstructionRecord(id=str(index), pictures=(), turns=tuple(turns))
