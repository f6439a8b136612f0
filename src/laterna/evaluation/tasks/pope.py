"""POPE: is it in the image? Reads the published questions, and builds such sets from annotations.

A set has as many questions to be answered yes as no. What is asked about in vain is drawn from all
kinds (`random`), is the most frequent (`popular`), or stands most often with the thing asked about
just before (`adversarial`); by the rule of AoiDragon/POPE's main.py and utils.py at 7cf0a02.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from laterna.errors import LaternaError
from laterna.evaluation.tasks.base import DEFAULT_SETTING, Setting, Task
from laterna.evaluation.tasks.descriptions import read_categories
from laterna.evaluation.tasks.files import (
    SHORT,
    Id,
    Row,
    Rows,
    below,
    list_items,
    look_for,
    make_questions,
    need,
)
from laterna.files import write_atomically
from laterna.records import Question, Record

SAMPLINGS = ("random", "popular", "adversarial")
_PATTERNS = ("coco_pope_{}.json", "*_pope_{}.json")
BUILT = "built_pope_{}.json"
"""What a set of `build_pope` is called; its images are named as the annotations name them."""


class Asked(NamedTuple):
    """One question of a set: whether this kind is in this image."""

    image: str
    kind: str
    label: str


class BuiltPope(Record):
    """What a set was built of."""

    questions: int
    images: int
    skipped: dict[str, int]
    """Images and annotations that were not used, by reason."""


class _PopeRow(Row, frozen=True):
    question_id: Id
    image: str
    text: str
    label: str


def pope_questions(dataset_folder: Path, *, limit: int, seed: int) -> Rows:
    """Yield the questions of the samplings that are there, by sampling."""
    del limit, seed
    paths = {}
    for sampling in SAMPLINGS:
        names = [one.format(sampling) for one in _PATTERNS]
        if look_for(dataset_folder, *names):
            paths[sampling] = need(dataset_folder, POPE.needs, *names)
    if not paths:
        need(dataset_folder, POPE.needs, *(_PATTERNS[0].format(one) for one in SAMPLINGS))
    for sampling, path in paths.items():
        inside = "" if path.name == BUILT.format(sampling) else "val2014/"
        images = below(path, dataset_folder) + inside

        def make(row: _PopeRow, sampling: str = sampling, images: str = images) -> Question | str:
            if row.label not in ("yes", "no"):
                return "label is neither yes nor no"
            return Question(
                id=f"{sampling}-{row.question_id}",
                images=(images + row.image,),
                kind=sampling,
                text=row.text,
                references=(row.label,),
            )

        yield from make_questions(list_items(path), _PopeRow, make)


def build_pope(
    annotations: Path,
    out: Path,
    sampling: str,
    seed: int = 0,
    *,
    images: int = 500,
    per_image: int = 6,
) -> BuiltPope:
    """Write a set in POPE's form (JSON lines) for an instances file in COCO's form.

    `images` are drawn by `seed` among those with at least `per_image` / 2 kinds: the same for
    every sampling. Raises LaternaError for an unknown sampling, or where there are too few.
    """
    if sampling not in SAMPLINGS:
        raise LaternaError(f"{sampling}: no such sampling; they are: {', '.join(SAMPLINGS)}")
    listed, kinds, lost = read_categories(annotations)
    skipped = Counter(row.reason for row in lost)
    wanted = per_image // 2
    enough = {
        one.file_name: kinds[one.id] for one in listed if len(kinds.get(one.id, ())) >= wanted
    }
    skipped[f"image with fewer than {wanted} kinds"] = len(listed) - len(enough)
    if len(enough) < images:
        raise LaternaError(
            f"{annotations}: {len(enough)} images have {wanted} kinds or more, and {images} are "
            f"asked for; ask for fewer with --build-images"
        )
    rng = random.Random(seed)
    chosen = {name: enough[name] for name in rng.sample(list(enough), images)}
    asked = list(sample_pope(chosen, sampling, wanted, rng))
    full = len({one.image for one in asked})
    skipped["image that lacks too few kinds"] = images - full
    with write_atomically(out) as aside:
        aside.write_bytes(b"".join(_line(number, one) for number, one in enumerate(asked, start=1)))
    return BuiltPope(
        questions=len(asked),
        images=full,
        skipped={reason: number for reason, number in skipped.items() if number},
    )


def _line(number: int, asked: Asked) -> bytes:
    article = "an" if asked.kind[:1] in tuple("aeiou") else "a"
    text = f"Is there {article} {asked.kind} in the image?"
    row = {"question_id": number, "image": asked.image, "text": text, "label": asked.label}
    return msgspec.json.encode(row) + b"\n"


def sample_pope(
    kinds_of: Mapping[str, Sequence[str]], sampling: str, wanted: int, rng: random.Random
) -> Iterator[Asked]:
    """Yield a set's questions: of each image its first `wanted` kinds, an absent one behind each.

    How frequent kinds are, and which stand together, is counted over these images alone, and the
    earlier seen comes first where two are as frequent. An image that lacks fewer than `wanted`
    kinds is left out.
    """
    frequent = Counter(kind for own in kinds_of.values() for kind in own)
    together: dict[str, Counter[str]] = defaultdict(Counter)
    for own in kinds_of.values():
        for kind in own:
            together[kind].update(other for other in own if other != kind)
    order = _most_frequent(frequent)
    candidates: dict[str, Callable[[str], Sequence[str]]] = {
        "random": lambda _: (),
        "popular": lambda _: order,
        "adversarial": {kind: _most_frequent(one) for kind, one in together.items()}.__getitem__,
    }
    for image, own in kinds_of.items():
        free = [kind for kind in frequent if kind not in own]
        if len(free) < wanted:
            continue
        for kind in own[:wanted]:
            yield Asked(image, kind, "yes")
            first = next((one for one in candidates[sampling](kind) if one in free), None)
            absent = rng.choice(free) if first is None else first
            free.remove(absent)
            yield Asked(image, absent, "no")


def _most_frequent(counted: Counter[str]) -> list[str]:
    return [kind for kind, _ in counted.most_common()]


_AT_POPE = "it is in output/coco of https://github.com/AoiDragon/POPE, or is built by --build"
POPE = Task(
    questions=pope_questions,
    about="POPE: what is in the image, and what is not",
    metrics=("pope",),
    max_new_tokens=128,
    settings={DEFAULT_SETTING: Setting("{text}" + SHORT), "question-only": Setting()},
    needs={
        **{_PATTERNS[0].format(one): _AT_POPE for one in SAMPLINGS},
        "val2014": "COCO's images are at https://cocodataset.org/#download",
    },
)
