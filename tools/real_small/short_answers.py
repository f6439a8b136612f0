"""Short answers by kind, held against what five people wrote: short_answers.py RUN DATA.

Reads the answers of `laterna evaluate --task gqa --out RUN` with its controls. People name one
thing in many words, so that being equal to one person's phrase says little: an answer is right
where its chief word stands in a caption of the image. That is the first word of what somebody does
and the last of all else; articles do not count. Colours and numbers have to be the very word.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from laterna.errors import told
from laterna.evaluation.saved import read_run
from laterna.evaluation.statistics import interval
from laterna.records import Answer
from laterna.scenes.annotations import stream_scenes
from laterna.scenes.vocabulary import words_of

EXACT = ("colour", "how many")
FIRST = "doing what"
PLACES = ("In which part", "Where in the picture", "In what part")
"""How questions begin that geometry answers, and not captions: left out."""
_ARTICLES = frozenset(("a", "an", "the"))


def is_right(answer: Answer, captions: Mapping[str, Sequence[str]]) -> bool:
    """Tell whether an answer is right; `captions` are those of each image, by its name's stem."""
    question = answer.question
    said = [word for word in words_of(answer.text) if word[0].isalnum() and word not in _ARTICLES]
    if not said:
        return False
    if question.kind in EXACT:
        return said == words_of(question.references[0])
    chief = said[0] if question.kind == FIRST else said[-1]
    told_of = captions[Path(question.images[0]).stem]
    return any(chief in words_of(caption) for caption in told_of)


def by_kind(
    answers: Sequence[Answer], captions: Mapping[str, Sequence[str]]
) -> dict[str, list[float]]:
    """Return 1 for a right answer and 0 for a wrong one, by kind of question."""
    found: dict[str, list[float]] = defaultdict(list)
    for answer in answers:
        if not answer.question.text.startswith(PLACES):
            found[answer.question.kind].append(float(is_right(answer, captions)))
    return dict(found)


def main() -> None:
    """Read the command line and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of an evaluation of gqa")
    parser.add_argument("data", type=Path, help="a folder in COCO's form")
    given = parser.parse_args()
    scenes = stream_scenes(given.data, None, [], captionless=True)
    captions = {Path(scene.image).stem: scene.captions for scene in scenes}
    run = read_run(given.run)
    shown = {"own image": run.answers("gqa"), **run.controls("gqa")}
    for how, answers in shown.items():
        for kind, scores in sorted(by_kind(answers, captions).items()):
            share = interval(scores)
            print(
                f"{how}, {kind}: {share.mean:.3f} ({share.low:.3f} to {share.high:.3f}) "
                f"of {len(scores)}"
            )


if __name__ == "__main__":
    sys.exit(told(main))
