"""Small files of the forms that the field's benchmarks have on disk, made here."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from PIL import Image

from laterna.evaluation.metrics import METRICS
from laterna.evaluation.tasks import TASKS
from laterna.evaluation.tasks.base import TaskQuestions, read_questions
from laterna.records import Answer


def png(width: int = 4) -> bytes:
    """A PNG of this width, by which an image can be told."""
    file = io.BytesIO()
    Image.new("RGB", (width, 3)).save(file, "PNG")
    return file.getvalue()


def put_files(folder: Path, files: Mapping[str, object]) -> Path:
    """Write files: bytes and texts as they are, a list under `.jsonl` a row a line, else JSON."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        elif name.endswith(".jsonl") or "_pope_" in name:
            path.write_text("".join(json.dumps(row) + "\n" for row in content))  # type: ignore[attr-defined]
        else:
            path.write_text(json.dumps(content))
    return folder


def people(*counts: tuple[str, int]) -> list[dict[str, object]]:
    """Ten answers, in the form of VQAv2 and VizWiz."""
    return [
        {"answer": answer, "answer_confidence": "yes", "answer_id": 1}
        for answer, number in counts
        for _ in range(number)
    ]


def pope_rows(*labels: str) -> list[dict[str, object]]:
    return [
        {
            "question_id": number,
            "image": f"COCO_val2014_{(number + 1) // 2:012d}.jpg",
            "text": f"Is there a thing {number} in the image?",
            "label": label,
        }
        for number, label in enumerate(labels, start=1)
    ]


def table(*rows: tuple[object, ...], sign: str = "\t") -> str:
    return "".join(sign.join(map(str, row)) + "\n" for row in rows)


_MMBENCH = table(
    ("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "l2-category", "image"),
    (7, "Which is red?", "Look.", "cup", "dog", "nan", "", "A", "colour", "attributes",
     base64.b64encode(png(7)).decode()),
    (1000007, "Which is red?", "nan", "dog", "cup", "", "", "B", "colour", "attributes", 7),
    (8, "How many?", "", "one", "two", "three", "four", "D", "count", "relation",
     base64.b64encode(png(8)).decode()),
)  # fmt: skip
_COCO_CAPTIONS = {
    "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 1, "caption": "a dog on a sofa"},
        {"id": 2, "image_id": 1, "caption": " a dog lies on a couch\n"},
        {"id": 3, "image_id": 2, "caption": "a red car"},
    ],
}
_INSTANCES = {
    "images": _COCO_CAPTIONS["images"],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 18, "bbox": [0, 0, 1, 1]},
        {"id": 2, "image_id": 2, "category_id": 3, "bbox": [0, 0, 1, 1]},
        {"id": 3, "image_id": 2, "category_id": 1, "bbox": [0, 0, 1, 1]},
    ],
    "categories": [
        {"id": 1, "name": "person"},
        {"id": 3, "name": "car"},
        {"id": 18, "name": "dog"},
    ],
}
_OCR = (
    "What brand?\nReference OCR token: ACME, 12\nAnswer the question using a single word or phrase."
)

FILES: dict[str, dict[str, object]] = {
    "vqav2": {
        "v2_OpenEnded_mscoco_val2014_questions.json": {
            "questions": [
                {"image_id": 42, "question": "Is it a dog?", "question_id": 42000},
                {"image_id": 42, "question": "How many?", "question_id": 42001},
            ]
        },
        "v2_mscoco_val2014_annotations.json": {
            "annotations": [
                {"question_id": 42000, "image_id": 42, "answer_type": "yes/no",
                 "answers": people(("yes", 10))},
                {"question_id": 42001, "image_id": 42, "answer_type": "number",
                 "answers": people(("2", 2), ("3", 8))},
            ]
        },
        "val2014/COCO_val2014_000000000042.jpg": png(),
    },
    "gqa": {
        "testdev_balanced_questions.json": {
            "201": {"question": "What is it?", "imageId": "n1", "answer": "chair",
                    "types": {"structural": "query"}},
            "202": {"question": "Is it red?", "imageId": "n1", "answer": "no",
                    "types": {"structural": "verify"}},
        },
        "images/n1.jpg": png(),
    },
    "vizwiz": {
        "val.json": [
            {"image": "VizWiz_val_0.jpg", "question": "What is this?", "answerable": 1,
             "answer_type": "other", "answers": people(("soup", 3), ("can", 7))},
            {"image": "VizWiz_val_1.jpg", "question": "Which one?", "answerable": 0,
             "answer_type": "unanswerable", "answers": people(("unanswerable", 10))},
        ],
        "val/VizWiz_val_0.jpg": png(),
        "val/VizWiz_val_1.jpg": png(),
    },
    "textvqa": {
        "TextVQA_0.5.1_val.json": {
            "data": [{"question_id": 5, "image_id": "f00", "question": "What brand?",
                      "answers": ["acme"] * 9 + ["no"]}]
        },
        "llava_textvqa_val_v051_ocr.jsonl": [
            {"question_id": "f00", "image": "f00.jpg", "text": _OCR, "category": "default"}
        ],
        "train_images/f00.jpg": png(),
    },
    "docvqa": {
        "val_v1.0_withQT.json": {
            "data": [{"questionId": 9, "question": "What date?", "image": "documents/d_1.png",
                      "answers": ["1 May", "May 1"]}]
        },
        "documents/d_1.png": png(),
    },
    "chartqa": {
        "test_human.json": [{"imgname": "c.png", "query": "How much?", "label": "40"}],
        "test_augmented.json": [{"imgname": "c.png", "query": "Which?", "label": "Peru"}],
        "png/c.png": png(),
    },
    "scienceqa": {
        "problems.json": {
            "1": {"question": "Which is solid?", "choices": ["ice", "steam"], "answer": 0,
                  "hint": "Look.", "image": "image.png", "subject": "natural science"},
            "2": {"question": "Which is a verb?", "choices": ["run", "cup", "red"], "answer": 0,
                  "hint": "", "image": None, "subject": "language science"},
            "3": {"question": "Train?", "choices": ["a", "b"], "answer": 1, "hint": ""},
        },
        "pid_splits.json": {"train": ["3"], "test": ["1", "2"]},
        "images/test/1/image.png": png(),
    },
    "mmbench": {"mmbench_dev_20230712.tsv": _MMBENCH},
    "mmbench_cn": {"mmbench_dev_cn_20231003.tsv": _MMBENCH},
    "seed": {
        "SEED-Bench.json": {
            "question_type": {"Scene Understanding": 1, "Action Recognition": 10},
            "questions": [
                {"question_id": "11", "question_type_id": 1, "data_type": "image", "data_id": "x_1",
                 "question": "Where?", "choice_a": "in", "choice_b": "out", "choice_c": "up",
                 "choice_d": "down", "answer": "C"},
                {"question_id": "v12", "question_type_id": 10, "data_type": "video",
                 "data_id": "1.mp4", "question": "What?", "choice_a": "a", "choice_b": "b",
                 "choice_c": "c", "choice_d": "d", "answer": "A"},
            ],
        },
        "SEED-Bench-image/x_1": png(),
    },
    "mmvp": {
        "Questions.csv": table(
            ("lndex", "Question", "Options", "Correct Answer"),
            (1, "Is it open?", "(a) Open (b) Closed", "(a)"),
            (2, '"Is it open, or not?"', "(a) Open (b) Closed", "(b)"),
            sign=",",
        ),
        "MMVP Images/1.jpg": png(),
        "MMVP Images/2.jpg": png(),
    },
    "pope": {
        "coco_pope_random.json": pope_rows("yes", "no", "yes", "no"),
        "coco_pope_popular.json": pope_rows("yes", "no", "yes", "no"),
        "coco_pope_adversarial.json": pope_rows("yes", "no", "yes", "no"),
        "val2014/COCO_val2014_000000000001.jpg": png(),
        "val2014/COCO_val2014_000000000002.jpg": png(),
    },
    "mme": {
        "existence/1.txt": "Is there a dog? Please answer yes or no.\tYes\n"
        "Is there a cat? Please answer yes or no.\tNo\n",
        "existence/1.jpg": png(),
        "posters/questions_answers_YN/tt1.txt": "Is it by X? Please answer yes or no.\tYes\r\n"
        "Is it by Y? Please answer yes or no.\tNo",
        "posters/images/tt1.png": png(),
    },
    "llava_bench": {
        "questions.jsonl": [
            {"question_id": 0, "image": "001.jpg", "category": "conv", "text": "Where is it?"},
            {"question_id": 1, "image": "001.jpg", "category": "detail", "text": "Describe it."},
        ],
        "context.jsonl": [{"id": "001", "image": "001.jpg", "caption": "A volcano."}],
        "answers_gpt4.jsonl": [
            {"question_id": 0, "text": "In Hawaii.", "answer_id": "x", "model_id": "gpt-4"},
            {"question_id": 1, "text": "A crater.", "answer_id": "y", "model_id": "gpt-4"},
        ],
        "rule.json": {
            "llava_bench_conv": {"role": "Assistant", "prompt": "Rate them."},
            "llava_bench_detail": {"role": "Assistant", "prompt": "Rate details."},
        },
        "images/001.jpg": png(),
    },
    "mm_vet": {
        "mm-vet.json": {
            "v1_0": {"imagename": "v1_0.png", "question": "What is x?", "answer": "-1<AND>-5",
                     "imagesource": "a", "capability": ["ocr", "math"]},
            "v1_1": {"imagename": "v1_0.png", "question": "Who?", "answer": "a man",
                     "imagesource": "a", "capability": ["rec"]},
        },
        "images/v1_0.png": png(),
    },
    "captions": {
        "captions_val2014.json": _COCO_CAPTIONS, "val2014/a.jpg": png(), "val2014/b.jpg": png(),
    },
    "chair": {
        "captions_val2014.json": _COCO_CAPTIONS, "instances_val2014.json": _INSTANCES,
        "val2014/a.jpg": png(), "val2014/b.jpg": png(),
    },
}  # fmt: skip
"""Task to the files that it reads, images among them."""


@pytest.fixture
def files() -> dict[str, dict[str, object]]:
    """Gives the files of every published task, as data: name to what is in them."""
    return FILES


@pytest.fixture
def put() -> Callable[[Path, Mapping[str, object]], Path]:
    """Writes files into a folder, each as its name and content ask for."""
    return put_files


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a task's files, some changed or (None) left out, and gives their folder."""

    def written(task: str, changed: Mapping[str, object] | None = None) -> Path:
        found = FILES[task] | dict(changed or {})
        kept = {name: content for name, content in found.items() if content is not None}
        return put_files(tmp_path / task, kept)

    return written


@pytest.fixture
def values() -> Callable[[str, TaskQuestions, Mapping[str, str]], dict[str, float]]:
    """Gives what a task's first metric says of answers, told by question id."""

    def scored(task: str, asked: TaskQuestions, said: Mapping[str, str]) -> dict[str, float]:
        metric = METRICS[TASKS[task].metrics[0]]
        texts = [said[question.id] for question in asked.questions]
        scores = metric.score(asked.questions, texts)
        return metric.summarize(
            [
                Answer(question=question, text=text, score=score)
                for question, text, score in zip(asked.questions, texts, scores, strict=True)
            ]
        )

    return scored


@pytest.fixture
def read(write: Callable[..., Path]) -> Callable[..., TaskQuestions]:
    """Writes a task's files and reads its questions."""

    def done(task: str, changed: Mapping[str, object] | None = None, **options: object):  # type: ignore[no-untyped-def]
        return read_questions(TASKS[task], write(task, changed), **options)  # type: ignore[arg-type]

    return done
