"""Questions with a known truth about images of the embedded world, from `truth.jsonl` alone.

Of every image, about one question of each kind is asked, and only what has one clear answer.
Among the questions that an image allows, the one whose answer was asked least so far is taken:
so yes and no, the numbers, the colours and the places come as evenly as the images permit, and
always saying the commonest answer earns little.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from laterna.errors import LaternaError
from laterna.evaluation.tasks import wordings
from laterna.evaluation.tasks.base import OWN_SETTING, Setting, Task
from laterna.evaluation.tasks.pope import SAMPLINGS, sample_pope
from laterna.records import Box, Question, Toy, Truth
from laterna.scenes import geometry, phrases
from laterna.scenes.contrasts import CONTRASTS, contrasts, is_in_balance
from laterna.scenes.vocabulary import plural

TRUTH_FILE = "truth.jsonl"
MARGIN = 0.04
"""A centre this near to a border between thirds (of the image's side) has no clear place."""
GAP = 0.1
"""Centres must differ by more than this in a direction for a relation to be clear."""


class _Candidate(NamedTuple):
    """A question that could be asked, before its phrasing is drawn."""

    phrasings: tuple[str, ...]
    fields: dict[str, str]
    truth: str


def world_questions(dataset_folder: Path, *, limit: int, seed: int) -> list[Question]:
    """Return questions about a world dataset, its images taken in an order that `seed` draws.

    `limit` is the most questions; 0: about all images. Raises LaternaError when `truth.jsonl`
    is missing, empty or not readable.
    """
    truths = read_truth(dataset_folder / TRUTH_FILE)
    categories = sorted({toy.category for truth in truths for toy in truth.toys})
    rng = random.Random(seed)
    rng.shuffle(truths)
    asked: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    questions: list[Question] = []
    for truth in truths:
        for kind, candidates_of in KINDS.items():
            candidates = list(candidates_of(truth, categories))
            if candidates:
                chosen = _least_asked(candidates, asked[kind], rng)
                questions.append(_question(truth, kind, chosen, rng))
        if limit and len(questions) >= limit:
            return questions[:limit]
    return questions


def read_truth(path: Path) -> list[Truth]:
    """Read the truth of every image of a world dataset.

    Raises LaternaError when the file is missing or empty, or with the line that is no record.
    """
    if not path.is_file():
        raise LaternaError(f"{path}: no such file; draw a world dataset with `laterna world`")
    decoder = msgspec.json.Decoder(Truth)
    truths = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            truths.append(decoder.decode(line))
        except msgspec.DecodeError as error:
            raise LaternaError(
                f"{path}, line {number}: not a truth record: {error}; draw the dataset again"
            ) from error
    if not truths:
        raise LaternaError(f"{path}: the dataset is empty; draw one with `laterna world`")
    return truths


def single_toys(truth: Truth) -> list[Toy]:
    """Return the toys whose category stands only once in the image."""
    counts = Counter(toy.category for toy in truth.toys)
    return [toy for toy in truth.toys if counts[toy.category] == 1]


def _least_asked(
    candidates: Sequence[_Candidate], asked: Counter[str], rng: random.Random
) -> _Candidate:
    fewest = min(asked[candidate.truth] for candidate in candidates)
    chosen = rng.choice([c for c in candidates if asked[c.truth] == fewest])
    asked[chosen.truth] += 1
    return chosen


def _question(truth: Truth, kind: str, chosen: _Candidate, rng: random.Random) -> Question:
    text = rng.choice(chosen.phrasings).format(**chosen.fields) + phrases.SHORT_ANSWER
    return Question(
        id=f"{truth.id}-{kind}",
        images=(truth.image,),
        kind=kind,
        text=text,
        references=(chosen.truth,),
    )


def _existence(truth: Truth, categories: Sequence[str]) -> Iterator[_Candidate]:
    present = {toy.category for toy in truth.toys}
    for category in categories:
        fields = {"a_thing": phrases.with_article(category)}
        yield _Candidate(
            wordings.EXISTENCE_QUESTIONS, fields, "yes" if category in present else "no"
        )


def _count(truth: Truth, _: Sequence[str]) -> Iterator[_Candidate]:
    for category, count in Counter(toy.category for toy in truth.toys).items():
        fields = {"things": plural(category)}
        yield _Candidate(wordings.COUNT_QUESTIONS, fields, phrases.NUMBERS[count])


def _colour(truth: Truth, _: Sequence[str]) -> Iterator[_Candidate]:
    for toy in single_toys(truth):
        yield _Candidate(wordings.COLOUR_QUESTIONS, {"thing": toy.category}, toy.colour)


def _kind(truth: Truth, _: Sequence[str]) -> Iterator[_Candidate]:
    colours = Counter(toy.colour for toy in truth.toys)
    for toy in truth.toys:
        if colours[toy.colour] == 1:
            fields = {"colour": toy.colour}
            yield _Candidate(wordings.KIND_OF_COLOUR_QUESTIONS, fields, toy.category)
        if _alone_at_its_place(toy, truth):
            fields = {"place": phrases.at_place(geometry.place_of(*toy.box.centre))}
            yield _Candidate(wordings.KIND_AT_PLACE_QUESTIONS, fields, toy.category)


def _place(truth: Truth, _: Sequence[str]) -> Iterator[_Candidate]:
    for toy in single_toys(truth):
        at = toy.box.centre
        if not geometry.near_border(*at, MARGIN):
            fields = {"thing": toy.category}
            yield _Candidate(wordings.PLACE_QUESTIONS, fields, geometry.place_of(*at))


def _relation(truth: Truth, _: Sequence[str]) -> Iterator[_Candidate]:
    for toy, other in permutations(single_toys(truth), 2):
        (x, y), (other_x, other_y) = toy.box.centre, other.box.centre
        for relation, (right, down) in geometry.RELATIONS.items():
            gap = (x - other_x) * right + (y - other_y) * down
            if abs(gap) > GAP:
                fields = {"thing": toy.category, "relation": relation, "other": other.category}
                yield _Candidate(wordings.RELATION_QUESTIONS, fields, "yes" if gap > 0 else "no")


def _alone_at_its_place(toy: Toy, truth: Truth) -> bool:
    """Tell whether the toy has a clear place that nothing else, the sign included, may claim."""
    if geometry.near_border(*toy.box.centre, MARGIN):
        return False
    place = geometry.place_of(*toy.box.centre)
    others = [other.box for other in truth.toys if other is not toy]
    if truth.sign_box is not None:
        others.append(truth.sign_box)
    return all(place not in _possible_places(box) for box in others)


def _possible_places(box: Box) -> set[str]:
    x, y = box.centre
    shifts = (-MARGIN, MARGIN)
    return {geometry.place_of(x + dx, y + dy) for dx in shifts for dy in shifts}


KINDS: dict[str, Callable[[Truth, Sequence[str]], Iterator[_Candidate]]] = {
    "existence": _existence,
    "count": _count,
    "colour": _colour,
    "kind": _kind,
    "place": _place,
    "relation": _relation,
}
"""Kind of question to the questions of that kind that an image allows."""

WORLD = Task(questions=world_questions, about="the tabletop world's questions by kind")

POPE_KINDS = 2
"""Kinds of an image asked about, and as many that are absent: few images show POPE's three."""


def world_pope_questions(dataset_folder: Path, *, limit: int, seed: int) -> list[Question]:
    """Return a POPE over the world's images, all samplings, in the words of its own examiner.

    Raises LaternaError as `world_questions` does.
    """
    del limit  # drawn afterwards, whole images at a time
    kinds_of = {
        truth.image: list(dict.fromkeys(toy.category for toy in truth.toys))
        for truth in read_truth(dataset_folder / TRUTH_FILE)
    }
    enough = {image: own for image, own in kinds_of.items() if len(own) >= POPE_KINDS}
    return [
        Question(
            id=f"{sampling}-{number}",
            images=(asked.image,),
            kind=sampling,
            text=wordings.EXISTENCE_QUESTIONS[0].format(a_thing=phrases.with_article(asked.kind)),
            references=(asked.label,),
        )
        for sampling in SAMPLINGS
        for number, asked in enumerate(
            sample_pope(enough, sampling, POPE_KINDS, random.Random(seed)), start=1
        )
    ]


def world_chair_questions(dataset_folder: Path, *, limit: int, seed: int) -> list[Question]:
    """Return a question for a full account of each image of the world, to be scored by CHAIR.

    Raises LaternaError as `world_questions` does.
    """
    del limit, seed
    truths = read_truth(dataset_folder / TRUTH_FILE)
    every = ",".join(sorted({toy.category for truth in truths for toy in truth.toys}))
    questions = []
    for truth in truths:
        kinds = list(dict.fromkeys(toy.category for toy in truth.toys))
        questions.append(
            Question(
                id=truth.id,
                images=(truth.image,),
                kind="description",
                text=wordings.DESCRIPTION,
                references=(phrases.listed([phrases.with_article(kind) for kind in kinds]),),
                fields={"objects": ",".join(kinds), "kinds": every},
            )
        )
    return questions


WORLD_POPE = Task(
    questions=world_pope_questions,
    about="POPE over the tabletop world",
    metrics=("pope",),
    settings={OWN_SETTING: Setting("{text}" + phrases.SHORT_ANSWER)},
)
WORLD_CHAIR = Task(
    questions=world_chair_questions,
    about="CHAIR over descriptions of the tabletop world",
    metrics=("chair",),
    max_new_tokens=128,
    demonstrable=False,
)


def world_pairs_questions(dataset_folder: Path, *, limit: int, seed: int) -> list[Question]:
    """Return questions about two images of the world at once, each image in one pair.

    Images with a kind of thing in common are put together. Of every pair one question of each kind
    of contrast is asked (`scenes.contrasts`), both answers equally often. Raises LaternaError as
    `world_questions` does.
    """
    truths = read_truth(dataset_folder / TRUTH_FILE)
    rng = random.Random(seed)
    rng.shuffle(truths)
    asked: dict[str, Counter[str]] = {kind: Counter() for kind in CONTRASTS}
    questions: list[Question] = []
    for one, two in _paired(truths):
        found = contrasts(one, two)
        for kind, phrasings in PAIR_PHRASINGS.items():
            candidates = [
                _Candidate(
                    phrasings,
                    {
                        "a_thing": phrases.with_article(contrast.category),
                        "thing": contrast.category,
                        "colour": contrast.colour,
                    },
                    contrast.answer,
                )
                for contrast in found
                if contrast.kind == kind and is_in_balance(contrast.answer, asked[kind])
            ]
            if candidates:
                chosen = _least_asked(candidates, asked[kind], rng)
                made = _question(one, kind, chosen, rng)
                questions.append(
                    replace(made, id=f"{one.id}-{two.id}-{kind}", images=(one.image, two.image))
                )
        if limit and len(questions) >= limit:
            return questions[:limit]
    return questions


def _paired(truths: Sequence[Truth]) -> Iterator[tuple[Truth, Truth]]:
    """Yield each image with the next that is left and shows one of its kinds, or with the next."""
    left = list(truths)
    while len(left) > 1:
        one = left.pop(0)
        own = {toy.category for toy in one.toys}
        alike = (n for n, other in enumerate(left) if own & {toy.category for toy in other.toys})
        yield one, left.pop(next(alike, 0))


PAIR_PHRASINGS = {
    "object": wordings.WHICH_OBJECT_QUESTIONS,
    "colour": wordings.WHICH_COLOUR_QUESTIONS,
    "both": wordings.BOTH_QUESTIONS,
}
WORLD_PAIRS = Task(
    questions=world_pairs_questions,
    about="which of two images of the tabletop world shows something, and whether both do",
)
