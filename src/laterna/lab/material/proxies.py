"""What a teacher with other eyes than boxes and captions would add: texture, light, sign words.

The same questions are written for all: their answers come from the truth, from what enrichments
measure in the pixels, or say that it cannot be told.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec.structs import replace
from PIL import Image

from laterna.data.images.opening import load_image
from laterna.evaluation.tasks.world import read_truth, single_toys
from laterna.files import write_atomically, write_lines
from laterna.progress import followed
from laterna.records import (
    DEFAULT_IMAGE_TOKEN,
    InstructionRecord,
    Kind,
    Question,
    Toy,
    Truth,
    Turn,
)
from laterna.scenes.phrases import SHORT_ANSWER
from laterna.synthesis.enrichment import lighting, ocr, texture
from laterna.synthesis.run import synthesize

CANNOT = "I cannot tell."
TEXTURE = (
    "Is the {thing} striped, smooth or rough?",
    "What is the surface of the {thing}: rough, striped or smooth?",
)
LIGHT = ("Is the light dim or bright?", "Is the image bright or dim?")
SIGN = ("What does the sign say?", "Which word does the sign show?")
"""The teacher's own wordings: the examiner asks in others."""


class Lesson(NamedTuple):
    """One question that boxes and captions do not answer, with its answer."""

    text: str
    answer: str


def lessons(truth: Truth, seed: int) -> list[Lesson]:
    """Return questions about texture, light and sign word of an image, answered from a truth.

    The same image and seed give the same questions, whatever the answers are.
    """
    rng = random.Random(f"{seed} {truth.id}")
    toys, draw = single_toys(truth), rng.random()
    wordings = [rng.choice(every) for every in (TEXTURE, LIGHT, SIGN)]
    found = []
    if toys:
        toy = toys[int(draw * len(toys))]
        found.append(Lesson(wordings[0].format(thing=toy.category), toy.texture))
    found.append(Lesson(wordings[1], truth.lighting))
    if truth.sign:
        found.append(Lesson(wordings[2], truth.sign))
    return [Lesson(text + SHORT_ANSWER, answer) for text, answer in found]


def records(
    truths: Sequence[Truth], seed: int, answer: Callable[[str], str] = str
) -> Iterator[InstructionRecord]:
    """Yield a record an image with its lessons; `answer` may put other words for an answer."""
    for truth in truths:
        turns: list[Turn] = []
        for lesson in lessons(truth, seed):
            mark = "" if turns else f"{DEFAULT_IMAGE_TOKEN}\n"
            turns.append(Turn(role="user", text=mark + lesson.text))
            turns.append(Turn(role="assistant", text=answer(lesson.answer), loss=True))
        yield InstructionRecord(
            id=f"{truth.id}-pixels", images=(truth.image,), turns=tuple(turns)
        )  # fmt: skip


def conversations(dataset: Path, path: Path, seed: int) -> list[InstructionRecord]:
    """Return what the world's own teacher writes about a dataset, from a file where it is there."""
    if not path.exists():
        kinds: tuple[Kind, ...] = ("conversation",)
        synthesize(dataset, path, kinds=kinds, seed=seed, conversation_boxes=True, form="jsonl")
    lines = path.read_bytes().splitlines()
    return [msgspec.json.decode(line, type=InstructionRecord) for line in lines]


def first_exchange(record: InstructionRecord) -> Question:
    """Return a record's first question with its answer as the reference."""
    asked, answer = record.turns[:2]
    text = asked.text.replace(DEFAULT_IMAGE_TOKEN, "").strip()
    return Question(
        id=record.id, images=record.images, kind="", text=text, references=(answer.text,)
    )


def all_measured(truths: Sequence[Truth], images: Path, path: Path) -> list[Truth]:
    """Return scenes as `measured`, from a file where that was done before."""
    if not path.exists():
        seen = [measured(truth, images) for truth in followed(truths, "measuring the pixels")]
        with write_atomically(path) as aside:
            write_lines(aside, seen)
    return read_truth(path)


def measured(truth: Truth, folder: Path) -> Truth:
    """Return a scene as enrichments measure it in its image: light, textures, sign word.

    Boxes are the annotations'. Without a sign there is none to be read, so that a scene whose
    sign is taken away costs no reading. Raises LaternaError without the extra `enrich`.
    """
    image = load_image(folder / truth.image)
    (light,) = lighting.measure(image)
    grey = image.convert("L")
    words = ocr.read_words(image) if truth.sign_box else []
    return replace(
        truth,
        lighting=light.removeprefix(lighting.PREFIX),
        toys=tuple(_measured_toy(toy, grey) for toy in truth.toys),
        sign=words[0].text if words else None,
    )


def _measured_toy(toy: Toy, grey: Image.Image) -> Toy:
    surface = texture.measure_surface(grey, toy.box)
    return replace(toy, texture=surface.word) if surface else toy
