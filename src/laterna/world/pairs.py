"""Writes records about two images of the world: which of them shows something, and whether both do.

They say what captions say, and no more: things and their colours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from laterna.records import DEFAULT_IMAGE_TOKEN, InstructionRecord, Truth, Turn
from laterna.scenes.contrasts import CONTRASTS, Contrast, ContrastKind, contrasts, is_in_balance
from laterna.scenes.phrases import SHORT_ANSWER, with_article
from laterna.scenes.sampling import pick, shuffled

WORDINGS: Mapping[ContrastKind, tuple[str, ...]] = {
    "object": (
        "Which of the two pictures has {a_thing}?",
        "Which of the two pictures shows {a_thing}?",
        "In which of the two pictures is {a_thing}?",
    ),
    "colour": (
        "Which of the two pictures has the {colour} {thing}?",
        "Which of the two pictures shows the {colour} {thing}?",
        "In which of the two pictures is the {colour} {thing}?",
    ),
    "both": (
        "Do both pictures show {a_thing}?",
        "Is there {a_thing} in both pictures?",
        "Do the two pictures both have {a_thing}?",
    ),
}
EXCHANGES = 4
"""Questions of a record at most, each about another kind of thing."""
ALIKE_SHARE = 0.8
"""Share of the pairs whose images show a kind of thing in common: else hardly any would, and the
answer to whether both do were nearly always no."""


def pair_records(truths: Sequence[Truth], number: int, seed: int) -> Iterator[InstructionRecord]:
    """Yield so many records, each a chat about two different images that `seed` draws.

    Of each kind of question both answers come equally often. There must be two images.
    """
    rng = np.random.default_rng([seed, len(truths)])
    showing: dict[str, list[Truth]] = {}
    for truth in truths:
        for category in sorted({toy.category for toy in truth.toys}):
            showing.setdefault(category, []).append(truth)
    given: dict[ContrastKind, Counter[str]] = {kind: Counter() for kind in CONTRASTS}
    made = 0
    while made < number:
        one = pick(truths, rng)
        alike = one.toys and rng.random() < ALIKE_SHARE
        two = pick(showing[pick(one.toys, rng).category] if alike else truths, rng)
        if two is one:
            continue
        chosen = list(_chosen(shuffled(contrasts(one, two), rng), given, rng))
        if not chosen:
            continue
        made += 1
        marks = f"{DEFAULT_IMAGE_TOKEN}\n" * 2
        turns = []
        for place, contrast in enumerate(chosen):
            asked = ("" if place else marks) + ask(contrast, pick(WORDINGS[contrast.kind], rng))
            turns.append(Turn(role="user", text=asked))
            turns.append(Turn(role="assistant", text=contrast.answer, loss=True))
        yield InstructionRecord(
            id=f"pair-{made:06d}",
            images=(one.image, two.image),
            turns=tuple(turns),
            kind="conversation",
        )


def ask(contrast: Contrast, wording: str) -> str:
    """Return the question of a contrast in a wording."""
    a_thing = with_article(contrast.category)
    words = wording.format(a_thing=a_thing, thing=contrast.category, colour=contrast.colour)
    return words + SHORT_ANSWER


def _chosen(
    found: Sequence[Contrast],
    given: Mapping[ContrastKind, Counter[str]],
    rng: np.random.Generator,
) -> Iterator[Contrast]:
    """Yield what a record asks: kinds in turn, no category twice, the least given answers first."""
    told: set[str] = set()
    for kind in (shuffled(CONTRASTS, rng) * EXCHANGES)[:EXCHANGES]:
        open_ones = [
            one
            for one in found
            if one.kind == kind
            and one.category not in told
            and is_in_balance(one.answer, given[kind])
        ]
        if open_ones:
            one = min(open_ones, key=lambda one: given[one.kind][one.answer])
            given[one.kind][one.answer] += 1
            told.add(one.category)
            yield one
