"""Questions that people answered in a word or two: VQAv2, GQA, VizWiz, TextVQA, DocVQA, ChartQA."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path
from types import MappingProxyType

from laterna.evaluation.tasks.base import DEFAULT_SETTING, Setting, SkippedRow, Task
from laterna.evaluation.tasks.files import (
    SHORT,
    Id,
    LlavaRow,
    Row,
    Rows,
    below,
    index_rows,
    keyed_items,
    keyed_lists,
    list_items,
    look_for,
    make_questions,
    need,
)
from laterna.records import Question

SHORTLY = MappingProxyType(
    {DEFAULT_SETTING: Setting("{text}" + SHORT), "question-only": Setting("{text}")}
)


class People(Row, frozen=True):
    """What one person answered."""

    answer: str


# --- VQAv2 --------------------------------------------------------------------------------

_VQA_FILE = "v2_OpenEnded_mscoco_*_questions.json"
_VQA_LLAVA = "llava_vqav2_mscoco_*.jsonl"
_VQA_ANSWERS = "v2_mscoco_{split}_annotations.json"


class _VqaQuestion(Row, frozen=True):
    question_id: Id
    image_id: int
    question: str


class _VqaAnswers(Row, frozen=True):
    question_id: Id
    answers: tuple[People, ...]
    answer_type: str = "other"


def vqav2_questions(dataset_folder: Path, *, limit: int, seed: int) -> Rows:
    """Yield VQAv2's questions, by type of answer; of several splits, val2014's.

    They may stand in a question file of LLaVA's instead, `llava_vqav2_mscoco_val2014.jsonl`.
    """
    del limit, seed
    path = _vqa_split(dataset_folder)
    split = path.stem.removesuffix("_questions").rpartition("_")[2]
    answers = need(dataset_folder, VQAV2.needs, _VQA_ANSWERS.format(split=split))
    (rows,) = keyed_lists(answers, "annotations")
    known, lost = index_rows(rows, _VqaAnswers, lambda row: row.question_id)
    yield from lost

    def made(number: Id, image: str, text: str) -> Question | str:
        if (told := known.get(number)) is None:
            return "question without annotation"
        return Question(
            id=str(number),
            images=(f"{split}/{image}",),
            kind=told.answer_type,
            text=text,
            references=tuple(one.answer for one in told.answers),
        )

    def ours(row: _VqaQuestion) -> Question | str:
        return made(row.question_id, f"COCO_{split}_{row.image_id:012d}.jpg", row.question)

    def llavas(row: LlavaRow) -> Question | str:
        return made(row.question_id, row.image, row.text.removesuffix(SHORT))

    if path.suffix == ".jsonl":
        yield from make_questions(list_items(path), LlavaRow, llavas)
        return
    (rows,) = keyed_lists(path, "questions")
    yield from make_questions(rows, _VqaQuestion, ours)


def _vqa_split(folder: Path) -> Path:
    found = look_for(folder, _VQA_FILE, _VQA_LLAVA)
    if len(found) > 1:
        found = [one for one in found if "_val2014" in one.name] or found
    return found[0] if len(found) == 1 else need(folder, VQAV2.needs, _VQA_FILE, _VQA_LLAVA)


VQAV2 = Task(
    questions=vqav2_questions,
    about="VQAv2",
    metrics=("vqa",),
    max_new_tokens=128,
    settings=SHORTLY,
    needs={
        _VQA_FILE: "questions and annotations are at https://visualqa.org/download.html",
        _VQA_ANSWERS.format(split="val2014"): "it is at https://visualqa.org/download.html",
        "val2014": "COCO's images are at https://cocodataset.org/#download",
    },
)

# --- GQA ----------------------------------------------------------------------------------

_GQA_FILES = ("testdev_balanced_questions.json", "val_balanced_questions.json")


class _GqaQuestion(Row, frozen=True):
    question: str
    imageId: str  # noqa: N815  (the file's own key)
    answer: str
    types: dict[str, str | None] | None = None


def gqa_questions(dataset_folder: Path, *, limit: int, seed: int) -> Rows:
    """Yield GQA's questions, by structural type."""
    del limit, seed
    path = need(dataset_folder, GQA.needs, *_GQA_FILES)
    before = below(path, dataset_folder)
    for key, where, value in keyed_items(path):

        def make(row: _GqaQuestion, key: str = key) -> Question:
            return Question(
                id=key,
                images=(f"{before}images/{row.imageId}.jpg",),
                kind=(row.types or {}).get("structural") or "question",
                text=row.question,
                references=(row.answer,),
            )

        yield from make_questions([(where, value)], _GqaQuestion, make)


_AT_GQA = "questions and images are at https://cs.stanford.edu/people/dorarad/gqa/download.html"
GQA = Task(
    questions=gqa_questions,
    about="GQA",
    metrics=("gqa",),
    max_new_tokens=128,
    settings=SHORTLY,
    needs={_GQA_FILES[0]: _AT_GQA, "images": _AT_GQA},
)

# --- VizWiz -------------------------------------------------------------------------------

_VIZWIZ_FILES = ("val.json", "test.json")


class _VizWizQuestion(Row, frozen=True):
    image: str
    question: str
    answers: tuple[People | str, ...] = ()
    answer_type: str = "question"


def vizwiz_questions(dataset_folder: Path, *, limit: int, seed: int) -> Rows:
    """Yield VizWiz' questions, by type of answer; the test split has no answers."""
    del limit, seed
    path = need(dataset_folder, VIZWIZ.needs, *_VIZWIZ_FILES)

    def make(row: _VizWizQuestion) -> Question:
        return Question(
            id=row.image,
            images=(f"{below(path, dataset_folder)}{path.stem}/{row.image}",),
            kind=row.answer_type,
            text=row.question,
            references=tuple(one if isinstance(one, str) else one.answer for one in row.answers),
        )

    yield from make_questions(list_items(path), _VizWizQuestion, make)


_AT_VIZWIZ = "it is at https://vizwiz.org/tasks-and-datasets/vqa/"
VIZWIZ = Task(
    questions=vizwiz_questions,
    about="VizWiz, the questions of blind people",
    metrics=("vqa",),
    max_new_tokens=128,
    settings={
        DEFAULT_SETTING: Setting(
            "{text}\nWhen the provided information is insufficient, respond with 'Unanswerable'."
            + SHORT
        ),
        "short": Setting("{text}" + SHORT),
        "question-only": Setting(),
    },
    needs={_VIZWIZ_FILES[0]: _AT_VIZWIZ, "val": _AT_VIZWIZ},
)

# --- TextVQA ------------------------------------------------------------------------------

_TEXTVQA_FILE = "TextVQA_0.5.1_val.json"
_LLAVA_OCR = "llava_textvqa_val_v051_ocr.jsonl"
_ROSETTA = "TextVQA_Rosetta_OCR_v0.2_val.json"
_OCR_LINE = re.compile(r"\nReference OCR token:[ ]?(.*)\n", re.DOTALL)


class _TextVqaQuestion(Row, frozen=True):
    question_id: Id
    image_id: str
    question: str
    answers: tuple[str, ...] = ()


class _Rosetta(Row, frozen=True):
    image_id: str
    ocr_tokens: list[str]


def textvqa_questions(dataset_folder: Path, *, limit: int, seed: int) -> Rows:
    """Yield TextVQA's questions; their field `ocr` has what a reader of text found, if known.

    That comes from LLaVA's own question file, or from Rosetta's tokens; without both there is no
    such field, and only settings that do without it can be asked.
    """
    del limit, seed
    path = need(dataset_folder, TEXTVQA.needs, _TEXTVQA_FILE)
    tokens, lost = _ocr(dataset_folder)
    yield from lost

    def make(row: _TextVqaQuestion) -> Question | str:
        own = tokens.get((row.image_id, row.question), tokens.get((row.image_id, "")))
        if tokens and own is None:
            return "no OCR tokens for the image"
        return Question(
            id=str(row.question_id),
            images=(f"{below(path, dataset_folder)}train_images/{row.image_id}.jpg",),
            kind="question",
            text=row.question,
            references=row.answers,
            fields={} if own is None else {"ocr": own},
        )

    (rows,) = keyed_lists(path, "data")
    yield from make_questions(rows, _TextVqaQuestion, make)


def _ocr(folder: Path) -> tuple[dict[tuple[str, str], str], list[SkippedRow]]:
    """Return OCR tokens by image and question, or by image and no text where all share them."""
    if paths := look_for(folder, _LLAVA_OCR):
        asked, lost = index_rows(
            list_items(paths[0]), LlavaRow, lambda row: (row.question_id, row.text)
        )
        lines = {key: _OCR_LINE.search(row.text) for key, row in asked.items()}
        found = {
            (str(image), text[: line.start()]): line[1]
            for (image, text), line in lines.items()
            if line
        }
        return found, lost
    if paths := look_for(folder, _ROSETTA):
        (rows,) = keyed_lists(paths[0], "data")
        read, lost = index_rows(rows, _Rosetta, lambda row: (row.image_id, ""))
        return {key: ", ".join(row.ocr_tokens) for key, row in read.items()}, lost
    return {}, []


_AT_TEXTVQA = "it is at https://textvqa.org/dataset/"
TEXTVQA = Task(
    questions=textvqa_questions,
    about="TextVQA",
    metrics=("textvqa",),
    max_new_tokens=128,
    settings={
        DEFAULT_SETTING: Setting("{text}\nReference OCR token: {ocr}" + SHORT),
        "no-ocr": Setting("{text}" + SHORT),
        "question-only": Setting(),
    },
    needs={
        _TEXTVQA_FILE: _AT_TEXTVQA,
        "train_images": _AT_TEXTVQA,
        _LLAVA_OCR: "it is in LLaVA's eval.zip (docs/Evaluation.md of haotian-liu/LLaVA); "
        f"{_ROSETTA} of https://textvqa.org/dataset/ does as well",
    },
)

# --- DocVQA and ChartQA -------------------------------------------------------------------

_DOCVQA_FILES = ("val_v1.0_withQT.json", "val_v1.0.json", "infographicsVQA_val_v1.0*.json")
_CHARTQA_FILES = ("test_human.json", "test_augmented.json")


class _DocQuestion(Row, frozen=True):
    questionId: Id  # noqa: N815  (the file's own key)
    question: str
    image: str = ""
    image_local_name: str = ""
    answers: tuple[str, ...] = ()


def docvqa_questions(dataset_folder: Path, *, limit: int, seed: int) -> Rows:
    """Yield DocVQA's or InfographicVQA's questions."""
    del limit, seed
    path = need(dataset_folder, DOCVQA.needs, *_DOCVQA_FILES)

    def make(row: _DocQuestion) -> Question:
        return Question(
            id=str(row.questionId),
            images=(below(path, dataset_folder) + (row.image or row.image_local_name),),
            kind="question",
            text=row.question,
            references=row.answers,
        )

    (rows,) = keyed_lists(path, "data")
    yield from make_questions(rows, _DocQuestion, make)


_AT_DOCVQA = "it is at https://rrc.cvc.uab.es/?ch=17 (free registration)"
DOCVQA = Task(
    questions=docvqa_questions,
    about="DocVQA, or InfographicVQA",
    metrics=("anls",),
    max_new_tokens=128,
    settings=SHORTLY,
    needs={_DOCVQA_FILES[0]: _AT_DOCVQA, "documents": _AT_DOCVQA},
)


class _ChartQuestion(Row, frozen=True):
    imgname: str
    query: str
    label: str


def chartqa_questions(dataset_folder: Path, *, limit: int, seed: int) -> Rows:
    """Yield ChartQA's questions: those that people wrote and those that were made."""
    del limit, seed
    for name in _CHARTQA_FILES:
        path = need(dataset_folder, CHARTQA.needs, name)
        yield from _charts(path, f"{below(path, dataset_folder)}png/")


def _charts(path: Path, images: str) -> Rows:
    kind, numbers = path.stem.removeprefix("test_"), count(1)

    def make(row: _ChartQuestion) -> Question:
        return Question(
            id=f"{kind}-{next(numbers)}",
            images=(images + row.imgname,),
            kind=kind,
            text=row.query,
            references=(row.label,),
        )

    return make_questions(list_items(path), _ChartQuestion, make)


_AT_CHARTQA = "it is in the folder `ChartQA Dataset/test` of https://github.com/vis-nlp/ChartQA"
CHARTQA = Task(
    questions=chartqa_questions,
    about="ChartQA",
    metrics=("relaxed_accuracy",),
    max_new_tokens=128,
    settings=SHORTLY,
    needs={**dict.fromkeys(_CHARTQA_FILES, _AT_CHARTQA), "png": _AT_CHARTQA},
)
