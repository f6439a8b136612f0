"""The text that pretrains the nano language model: descriptions, and talk about them.

A document is one description and several records about it, each of which has an image mark where
the description stands, as training on images will have it.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from laterna.data.chat import SHIPPED_TEMPLATES
from laterna.records import DEFAULT_IMAGE_TOKEN, InstructionRecord, Record, Truth, Turn
from laterna.scenes.facts import Facts, gather_facts
from laterna.scenes.phrases import SHORT_ANSWER
from laterna.scenes.sampling import shuffled
from laterna.scenes.vocabulary import CATEGORIES as COCO_CATEGORIES
from laterna.scenes.vocabulary import ObjectWords
from laterna.synthesis.parsing import Exchange
from laterna.synthesis.prompts import detail_questions
from laterna.synthesis.proxy import read_proxy, write_proxy
from laterna.synthesis.teachers.scribe.conversation import (
    compose_conversation,
    possible_exchanges,
)
from laterna.synthesis.teachers.scribe.detail import compose_detail
from laterna.synthesis.teachers.scribe.reasoning import compose_reasoning
from laterna.world.captions import write_captions
from laterna.world.scenes import MAX_TOYS, draw_truth
from laterna.world.toys import CATEGORIES
from pretrain_nano.descriptions import Description, describe
from pretrain_nano.tables import Entry, write_counts, write_relations, write_table
from pretrain_nano.tokenizer import CHAT_TEMPLATE

QUESTIONS = 16
"""Questions of an examination at most."""
TABLES = 4
"""Tables of a document."""
REPEATED_OF = 3
"""Of so many scenes the one is told of that has most of a kind: three of a kind are rare."""
_ELSEWHERE = 1_000_000_000
"""Distance between the numbers of such scenes, farther than any pretraining goes."""
_APART = 4
"""The same where each question stands before the description, which then cannot be shared."""
_CAPTION_TEMPLATE = SHIPPED_TEMPLATES["plain"].read_text(encoding="utf-8")
_TABLE_TEMPLATE = "{{ bos_token }}{% for turn in messages %}{{ turn['content'] }}{% endfor %}"
_WORDS = ObjectWords(COCO_CATEGORIES)
_NAMES = tuple(CATEGORIES)


class Document(Record, frozen=True):
    """A description and what is said about it."""

    description: Description
    records: tuple[InstructionRecord, ...]
    template: str
    """Chat template of the records (its text): the tokenizer's own, stage 1's, or that of tables,
    which is the bare words of all turns."""


def write_document(
    seed: int,
    index: int,
    max_toys: int = MAX_TOYS,
    tables: float = 0.3,
    squares: float = 1.0,
    relations: float = 0.0,
    counts: float = 0.0,
    repeats: float = 0.0,
) -> Document:
    """Return document number `index`: an examination, a talk, captions or, in a share, `tables`.

    Maps have a share `squares` of their squares. A share `counts` of the documents with tables
    tells how many there are of what instead, and a share `relations` of the others how things
    stand to each other, where there are two to compare. A share `repeats` of all documents are
    about the one of `REPEATED_OF` scenes that has most of a kind.

    In an examination every question is a record of its own, so that nothing but the description
    answers it. A talk is what scribe writes about an image: conversation, detail, reasoning.
    """
    rng = np.random.default_rng([seed, index, 1])
    truth = _scene(seed, index, max_toys, repeats)
    description = describe(truth, rng, squares)
    shown = description.shown
    kind = rng.random()
    if kind < 0.08:
        chats = [[Exchange("", caption)] for caption in write_captions(shown, rng)]
        return _document(index, description, chats, rng, _CAPTION_TEMPLATE)
    if kind < 0.08 + tables:
        written = _tables(shown, rng, relations, counts)
        chats = [[Exchange(f" {e.key}:", f" {e.value};") for e in table] for table in written]
        return _document(index, description, chats, rng, _TABLE_TEMPLATE)
    facts = _facts(shown, rng)
    if kind < 0.15 + tables:
        chats = [
            compose_conversation(facts, rng),
            [Exchange(str(rng.choice(detail_questions())), compose_detail(facts, rng))],
            compose_reasoning(facts, rng),
        ]
    else:
        asked = possible_exchanges(facts, rng)
        if description.complete:
            asked += _about_everything(shown, facts)
        chats = [[one] for one in shuffled(asked, rng)[:QUESTIONS]]
    return _document(index, description, chats, rng)


def _scene(seed: int, index: int, max_toys: int, repeats: float) -> Truth:
    drawn = draw_truth("pretrain", seed, index, max_toys)
    if not repeats or np.random.default_rng([seed, index, 2]).random() >= repeats:
        return drawn
    numbers = (index + _ELSEWHERE * number for number in range(1, REPEATED_OF))
    others = (draw_truth("pretrain", seed, number, max_toys) for number in numbers)
    return max(drawn, *others, key=_most_of_a_kind)


def _most_of_a_kind(truth: Truth) -> int:
    return max(Counter(toy.category for toy in truth.toys).values())


def _tables(
    shown: Truth, rng: np.random.Generator, relations: float, counts: float
) -> list[list[Entry]]:
    if counts and rng.random() < counts:
        return [write_counts(shown, rng)]
    related = write_relations(shown, rng) if rng.random() < relations else []
    return [related] if related else [write_table(shown, rng) for _ in range(TABLES)]


def _facts(truth: Truth, rng: np.random.Generator) -> Facts:
    boxes = tuple(toy.box for toy in truth.toys)
    proxy = write_proxy(write_captions(truth, rng), boxes)
    return gather_facts(*read_proxy(proxy), _WORDS, _NAMES)


def _about_everything(truth: Truth, facts: Facts) -> list[Exchange]:
    """Return questions about what captions leave out; only complete descriptions answer them."""
    exchanges = [Exchange("Is the light bright or dim?" + SHORT_ANSWER, truth.lighting)]
    if truth.sign:
        exchanges.append(Exchange("What does the sign say?" + SHORT_ANSWER, truth.sign))
    single = [toy for toy in truth.toys if toy.category in facts.single()]
    for toy in single:
        asked = f"Is the {toy.category} smooth, rough or striped?"
        exchanges.append(Exchange(asked + SHORT_ANSWER, toy.texture))
    return exchanges


def _document(
    index: int,
    description: Description,
    chats: list[list[Exchange]],
    rng: np.random.Generator,
    template: str = CHAT_TEMPLATE,
) -> Document:
    last = template == CHAT_TEMPLATE and rng.random() < 0.1
    records = tuple(
        InstructionRecord(id=f"{index}-{number}", images=(str(index),), turns=_turns(chat, last))
        for number, chat in enumerate(chats[:_APART] if last else chats)
        if chat
    )
    return Document(description=description, records=records, template=template)


def _turns(chat: list[Exchange], mark_last: bool) -> tuple[Turn, ...]:
    """Return a chat with the image mark before or after its first question."""
    turns = []
    for number, (question, answer) in enumerate(chat):
        text = question
        if number == 0:
            text = (
                f"{question}\n{DEFAULT_IMAGE_TOKEN}"
                if mark_last
                else f"{DEFAULT_IMAGE_TOKEN}\n{question}"
            )
        turns += [Turn(role="user", text=text), Turn(role="assistant", text=answer, loss=True)]
    return tuple(turns)
