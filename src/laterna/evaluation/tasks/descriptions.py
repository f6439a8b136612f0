"""Images to be described: captions against people's, and CHAIR against what is in the image.

Both read COCO's files (`captions_val2014.json`, `instances_val2014.json`, or any of their form).
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from laterna.errors import LaternaError
from laterna.evaluation.metrics.chair import is_kind
from laterna.evaluation.tasks.base import (
    DEFAULT_SETTING,
    LONG_ANSWER,
    Setting,
    SkippedRow,
    Task,
)
from laterna.evaluation.tasks.files import (
    Id,
    Row,
    Rows,
    below,
    index_rows,
    keyed_lists,
    make_questions,
    need,
    read_rows,
)
from laterna.records import Question

CAPTION_FILES = ("captions_val2014.json", "captions_*.json", "captions.json")
INSTANCE_FILES = ("instances_val2014.json", "instances_*.json", "instances.json")
IN_A_SENTENCE = "Provide a one-sentence caption for the provided image."
IN_DETAIL = "Please describe this image in detail."
CAPTION_TOKENS = 64


class CocoImage(Row, frozen=True):
    """An image of COCO's files."""

    id: Id
    file_name: str


class CocoCategory(Row, frozen=True):
    """A category of COCO's files."""

    id: Id
    name: str


class CocoBox(Row, frozen=True):
    """What of an annotation says which kind is in which image."""

    image_id: Id
    category_id: Id


class _Caption(Row, frozen=True):
    image_id: Id
    caption: str


def image_folder(path: Path, dataset: Path) -> str:
    """Return what stands before the images' names: `captions_val2014.json` has `val2014/`."""
    _, _, split = path.stem.partition("_")
    return below(path, dataset) + (f"{split}/" if split else "")


def read_categories(path: Path) -> tuple[list[CocoImage], dict[Id, list[str]], list[SkippedRow]]:
    """Return the images of an instances file, the kinds in each in the order of their first
    annotation, and the rows that are none.

    Raises LaternaError for a file that is not of COCO's form.
    """
    images, boxes, categories = keyed_lists(path, "images", "annotations", "categories")
    names, lost = index_rows(categories, CocoCategory, lambda row: row.id)
    known, bad = index_rows(images, CocoImage, lambda row: row.id)
    lost += bad
    kinds: dict[Id, dict[str, None]] = defaultdict(dict)
    for row in read_rows(boxes, CocoBox):
        if isinstance(row, SkippedRow):
            lost.append(row)
        elif row[1].category_id not in names or row[1].image_id not in known:
            lost.append(SkippedRow(reason="annotation of no listed image or kind", where=row[0]))
        else:
            kinds[row[1].image_id][names[row[1].category_id].name] = None
    return list(known.values()), {image: list(own) for image, own in kinds.items()}, lost


def read_captions(path: Path) -> tuple[dict[Id, list[str]], list[SkippedRow]]:
    """Return people's captions by image, and the rows that are none."""
    (rows,) = keyed_lists(path, "annotations")
    told: dict[Id, list[str]] = defaultdict(list)
    lost = []
    for row in read_rows(rows, _Caption):
        if isinstance(row, SkippedRow):
            lost.append(row)
        elif row[1].caption.strip():
            told[row[1].image_id].append(row[1].caption.strip())
        else:
            lost.append(SkippedRow(reason="empty caption", where=row[0]))
    return told, lost


def caption_questions(dataset_folder: Path, *, limit: int, seed: int) -> Rows:
    """Yield one question an image that has captions."""
    del limit, seed
    path = need(dataset_folder, CAPTIONS.needs, *CAPTION_FILES)
    told, lost = read_captions(path)
    yield from lost

    def make(row: CocoImage) -> Question | str:
        if row.id not in told:
            return "image without captions"
        return Question(
            id=str(row.id),
            images=(image_folder(path, dataset_folder) + row.file_name,),
            kind="caption",
            text=IN_A_SENTENCE,
            references=tuple(told[row.id]),
        )

    (rows,) = keyed_lists(path, "images")
    yield from make_questions(rows, CocoImage, make)


def chair_questions(dataset_folder: Path, *, limit: int, seed: int) -> Rows:
    """Yield one question an image of COCO's kinds, with what its annotations and captions name.

    Raises LaternaError where the kinds are not COCO's 80, which CHAIR's word list is made for.
    """
    del limit, seed
    path = need(dataset_folder, CHAIR.needs, *INSTANCE_FILES)
    images, kinds, lost = read_categories(path)
    yield from lost
    foreign = sorted({kind for own in kinds.values() for kind in own if not is_kind(kind)})
    if foreign:
        raise LaternaError(
            f"{path}: its kind {foreign[0]!r} (and {len(foreign) - 1} others) is none of COCO's "
            f"80, which CHAIR's word list is made for"
        )
    beside = need(dataset_folder, CHAIR.needs, *CAPTION_FILES)
    told, lost = read_captions(beside)
    yield from lost
    for image in images:
        if image.id not in told:
            yield SkippedRow(reason="image without captions", where=f"{path.name}, {image.id}")
            continue
        yield Question(
            id=str(image.id),
            images=(image_folder(path, dataset_folder) + image.file_name,),
            kind="description",
            text=IN_DETAIL,
            references=tuple(told[image.id]),
            fields={"objects": ",".join(kinds.get(image.id, ()))},
        )


_AT_COCO = "COCO's annotations and images are at https://cocodataset.org/#download"
CAPTIONS = Task(
    questions=caption_questions,
    about="captions of COCO or any data of its form, by CIDEr-D, BLEU and ROUGE-L",
    metrics=("captions",),
    max_new_tokens=CAPTION_TOKENS,
    settings={DEFAULT_SETTING: Setting(), "detail": Setting(IN_DETAIL, LONG_ANSWER // 8)},
    needs={CAPTION_FILES[0]: _AT_COCO, "val2014": _AT_COCO},
)
CHAIR = Task(
    questions=chair_questions,
    about="CHAIR: what descriptions name that is not in the image",
    metrics=("chair",),
    max_new_tokens=LONG_ANSWER,
    settings={DEFAULT_SETTING: Setting()},
    needs={INSTANCE_FILES[0]: _AT_COCO, CAPTION_FILES[0]: _AT_COCO, "val2014": _AT_COCO},
    demonstrable=False,
)
