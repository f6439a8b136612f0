"""Questions that boxes decide, about images in COCO's form: photographs or any others.

Nothing here can be answered from what images usually hold. Whether a thing is there, and how
many there are, is asked in the same words about images with different answers, each answer as
often (as VQA v2 pairs its images, Goyal et al. 2017); how two things stand is asked of one
image both ways round. So answers that do not depend on the image are right half the time
where it is yes or no, and less often where there are several numbers to tell apart.

The truth is what boxes and captions agree on: of what a caption names without a box, or numbers
otherwise than the boxes, of a kind with a crowd region or a faulty box, nothing is asked that
hangs on it. That a kind without a box is not there holds for datasets which annotate all of their
kinds in every image, as COCO does and LVIS does not.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from laterna.evaluation.tasks import wordings
from laterna.evaluation.tasks.base import Task
from laterna.records import Question, Scene
from laterna.scenes import phrases
from laterna.scenes.annotations import Problem, stream_scenes
from laterna.scenes.facts import Facts, gather_facts
from laterna.scenes.geometry import relation_holds
from laterna.scenes.vocabulary import CATEGORIES, ObjectWords, plural

RELATIONS = ("to the left of", "to the right of")
"""Above and below are left out: skis are below people in nearly all images."""
PAIRS = 2
"""Pairs of things of one image whose relation is asked, at most."""


class _Seen(NamedTuple):
    """An image, what is certain about it, and the kinds that had a box left out."""

    scene: Scene
    facts: Facts
    unsure: frozenset[str]


def box_questions(dataset_folder: Path, *, limit: int, seed: int) -> list[Question]:
    """Return questions about a COCO folder's images, in an order that `seed` draws.

    `limit` is the most questions; 0: all that can be asked, each kind's answers being as even as
    said above. Captions are heeded where there are any. Raises LaternaError when `instances.json`
    is missing or not in COCO's form.
    """
    seen = _look(dataset_folder)
    rng = random.Random(seed)
    groups = [group for groups_of in KINDS.values() for group in groups_of(seen, rng)]
    rng.shuffle(groups)
    questions = [question for group in groups for question in group]
    return questions[:limit] if limit else questions


def _look(folder: Path) -> list[_Seen]:
    problems: list[Problem] = []
    scenes = list(stream_scenes(folder, None, problems, captionless=True))
    categories = sorted({box.category for scene in scenes for box in scene.boxes})
    words = ObjectWords(dict.fromkeys((*CATEGORIES, *categories)))
    unsure: dict[str, set[str]] = defaultdict(set)
    for problem in problems:
        unsure[problem.scene].add(problem.category)
    return [
        _Seen(
            scene,
            gather_facts(scene.captions, scene.boxes, words, categories),
            frozenset(unsure[scene.id]),
        )
        for scene in scenes
    ]


def _existence(seen: Sequence[_Seen], rng: random.Random) -> Iterator[list[Question]]:
    answers = _Answers()
    for scene, facts, unsure in seen:
        for category in sorted({box.category for box in scene.boxes}):
            answers.add(category, "yes", scene)
        for category in facts.absent:
            if category not in unsure:
                answers.add(category, "no", scene)
    for category in answers:
        fields = {"a_thing": phrases.with_article(category)}
        for text, scenes in answers.even(category, wordings.EXISTENCE_QUESTIONS, fields, rng):
            yield [_question(scenes[a], "existence", category, text, a) for a in scenes]


def _count(seen: Sequence[_Seen], rng: random.Random) -> Iterator[list[Question]]:
    answers = _Answers()
    for scene, facts, unsure in seen:
        for category, number in facts.counts.items():
            if category not in unsure:
                answers.add(category, phrases.NUMBERS[number], scene)
    for category in answers:
        fields = {"things": plural(category)}
        for text, scenes in answers.even(category, wordings.COUNT_QUESTIONS, fields, rng):
            yield [_question(scenes[a], "count", category, text, a) for a in scenes]


def _relation(seen: Sequence[_Seen], rng: random.Random) -> Iterator[list[Question]]:
    for scene, facts, unsure in seen:
        single = {name: thing for name, thing in facts.single().items() if name not in unsure}
        clear = [
            pair
            for pair in combinations(sorted(single), 2)
            if relation_holds(RELATIONS[0], single[pair[0]].box, single[pair[1]].box) is not None
        ]
        for pair in rng.sample(clear, min(PAIRS, len(clear))):
            thing, other = rng.sample(pair, 2)
            phrasing = rng.choice(wordings.RELATION_QUESTIONS)
            group = []
            for relation in rng.sample(RELATIONS, 2):
                text = phrasing.format(thing=thing, relation=relation, other=other)
                answer = (
                    "yes"
                    if relation_holds(relation, single[thing].box, single[other].box)
                    else "no"
                )
                about = f"{thing} {relation} {other}"
                group.append(_question(scene, "relation", about, text, answer))
            yield group


class _Answers:
    """For each category, which images have which answer to a question about it."""

    def __init__(self) -> None:
        self._scenes: dict[str, dict[str, list[Scene]]] = {}

    def add(self, category: str, answer: str, scene: Scene) -> None:
        self._scenes.setdefault(category, {}).setdefault(answer, []).append(scene)

    def __iter__(self) -> Iterator[str]:
        """Yield the categories with more than one answer."""
        return iter(sorted(name for name, answers in self._scenes.items() if len(answers) > 1))

    def even(
        self,
        category: str,
        phrasings: Sequence[str],
        fields: Mapping[str, str],
        rng: random.Random,
    ) -> Iterator[tuple[str, dict[str, Scene]]]:
        """Yield the words of a question with one image for each answer, no image twice."""
        answers = self._scenes[category]
        times = min(map(len, answers.values()))
        drawn = {answer: rng.sample(answers[answer], times) for answer in sorted(answers)}
        for turn in range(times):
            text = rng.choice(phrasings).format(**fields)
            yield text, {answer: scenes[turn] for answer, scenes in drawn.items()}


def _question(scene: Scene, kind: str, about: str, text: str, truth: str) -> Question:
    return Question(
        id=f"{scene.id}-{kind}-{about}",
        images=(scene.image,),
        kind=kind,
        text=text + phrases.SHORT_ANSWER,
        references=(truth,),
    )


KINDS: dict[str, Callable[[Sequence[_Seen], random.Random], Iterator[list[Question]]]] = {
    "existence": _existence,
    "count": _count,
    "relation": _relation,
}
"""Kind of question to groups of such questions, which belong together for their balance."""

BOXES = Task(questions=box_questions, about="what the boxes of any COCO-format dataset decide")
