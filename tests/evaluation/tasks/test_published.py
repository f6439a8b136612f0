"""Each published task, from its files on disk to the metric's values, with answers given here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from laterna.evaluation.metrics import METRICS
from laterna.evaluation.tasks import TASKS
from laterna.evaluation.tasks.base import TaskQuestions, read_questions

Read = Callable[..., TaskQuestions]
Values = Callable[[str, TaskQuestions, Mapping[str, str]], dict[str, float]]

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."

TEXTS: dict[str, dict[str, str]] = {
    "vqav2": {"42000": "Is it a dog?" + SHORT, "42001": "How many?" + SHORT},
    "gqa": {"201": "What is it?" + SHORT, "202": "Is it red?" + SHORT},
    "vizwiz": {
        "VizWiz_val_0.jpg": "What is this?\nWhen the provided information is insufficient, "
        "respond with 'Unanswerable'." + SHORT,
        "VizWiz_val_1.jpg": "Which one?\nWhen the provided information is insufficient, "
        "respond with 'Unanswerable'." + SHORT,
    },
    "textvqa": {"5": "What brand?\nReference OCR token: ACME, 12" + SHORT},
    "docvqa": {"9": "What date?" + SHORT},
    "chartqa": {"human-1": "How much?" + SHORT, "augmented-1": "Which?" + SHORT},
    "scienceqa": {
        "1": "Context: Look.\nWhich is solid?\nA. ice\nB. steam" + LETTER,
        "2": "Which is a verb?\nA. run\nB. cup\nC. red" + LETTER,
    },
    "mmbench": {
        "7": "Look.\nWhich is red?\nA. cup\nB. dog" + LETTER,
        "1000007": "Which is red?\nA. dog\nB. cup" + LETTER,
        "8": "How many?\nA. one\nB. two\nC. three\nD. four" + LETTER,
    },
    "mmbench_cn": {
        "7": "Look.\nWhich is red?\nA. cup\nB. dog\n请直接回答选项字母。",
        "1000007": "Which is red?\nA. dog\nB. cup\n请直接回答选项字母。",
        "8": "How many?\nA. one\nB. two\nC. three\nD. four\n请直接回答选项字母。",
    },
    "seed": {"11": "Where?\nA. in\nB. out\nC. up\nD. down" + LETTER},
    "mmvp": {
        "1": "Is it open?\nA. Open\nB. Closed" + LETTER,
        "2": "Is it open, or not?\nA. Open\nB. Closed" + LETTER,
    },
    "pope": {
        f"{sampling}-{number}": f"Is there a thing {number} in the image?" + SHORT
        for sampling in ("random", "popular", "adversarial")
        for number in range(1, 5)
    },
    "mme": {
        "existence/1-1": "Is there a dog?" + SHORT,
        "existence/1-2": "Is there a cat?" + SHORT,
        "posters/tt1-1": "Is it by X?" + SHORT,
        "posters/tt1-2": "Is it by Y?" + SHORT,
    },
    "llava_bench": {"0": "Where is it?", "1": "Describe it."},
    "mm_vet": {"v1_0": "What is x?", "v1_1": "Who?"},
    "captions": dict.fromkeys("12", "Provide a one-sentence caption for the provided image."),
    "chair": dict.fromkeys("12", "Please describe this image in detail."),
}
"""What is said to the assistant, by question id, with LLaVA-1.5's words."""

ANSWERED: dict[str, tuple[dict[str, str], dict[str, float]]] = {
    # unanimous: 1; two of ten said "2": leaving each out, (8 · 2/3 + 2 · 1/3) / 10 = 0.6
    "vqav2": ({"42000": "yes", "42001": "2"}, {"accuracy": 0.8}),
    "gqa": ({"201": "Chair.", "202": "yes"}, {"accuracy": 0.5}),
    # three of ten: (7 · 1 + 3 · 2/3) / 10
    "vizwiz": (
        {"VizWiz_val_0.jpg": "Soup", "VizWiz_val_1.jpg": "can"},
        {"accuracy": 0.45},
    ),
    "textvqa": ({"5": "Acme."}, {"accuracy": 1.0}),
    "docvqa": ({"9": "may 2"}, {"anls": 0.8}),
    "chartqa": ({"human-1": "41.9", "augmented-1": "Chile"}, {"accuracy": 0.5}),
    "scienceqa": ({"1": "A", "2": "B"}, {"accuracy": 0.5, "img": 1.0}),
    "mmbench": (
        {"7": "A", "1000007": "A", "8": "D"},
        {"accuracy": 2 / 3, "circular": 0.5, "vanilla": 1.0},
    ),
    "mmbench_cn": (
        {"7": "A", "1000007": "B", "8": "C"},
        {"accuracy": 2 / 3, "circular": 0.5, "vanilla": 0.5},
    ),
    "seed": ({"11": "C"}, {"accuracy": 1.0}),
    "mmvp": ({"1": "A", "2": "(a)"}, {"accuracy": 0.5, "pairs": 0.0}),
    # all yes: precision 1/2, recall 1, F1 2/3; for the adversarial one all right
    "pope": (
        {
            f"{sampling}-{number}": "Yes" if sampling != "adversarial" or number % 2 else "No"
            for sampling in ("random", "popular", "adversarial")
            for number in range(1, 5)
        },
        {
            "accuracy": 8 / 12,
            "precision": 6 / 10,
            "recall": 1.0,
            "f1": 0.75,
            "yes_ratio": 10 / 12,
            "f1.random": 2 / 3,
            "f1.adversarial": 1.0,
            "f1_mean": (2 / 3 + 2 / 3 + 1) / 3,
        },
    ),
    "mme": (
        {
            "existence/1-1": "Yes",
            "existence/1-2": "No.",
            "posters/tt1-1": "yes",
            "posters/tt1-2": "yes",
        },
        {"accuracy": 0.75, "existence": 200.0, "posters": 50.0, "perception": 250.0, "unpaired": 0},
    ),
    "llava_bench": ({"0": "8 6\nGood.", "1": "no idea"}, {"relative": 75.0, "failures": 1}),
    "mm_vet": ({"v1_0": "0.5", "v1_1": "1.0"}, {"total": 75.0, "math": 50.0, "rec": 100.0}),
    "chair": (
        {"1": "A dog on a couch with a cat.", "2": "A man at a car."},
        {"chair_s": 0.5, "chair_i": 1 / 5, "mentions": 5},
    ),
}
"""Answers by question id (for judged tasks, the judge's), and values that are right by hand."""


@pytest.mark.parametrize("task", sorted(TEXTS))
def test_questions_are_put_in_llavas_words_and_their_images_open(
    task: str, write: Callable[..., Path]
) -> None:
    folder = write(task)
    asked = read_questions(TASKS[task], folder)
    assert {question.id: question.text for question in asked.questions} == TEXTS[task]
    for question in asked.questions:
        for name in question.images:
            assert TASKS[task].open_image(folder, name).height == 3
    assert {one.id for one in asked.questions if not one.images} == (
        {"2"} if task == "scienceqa" else set()
    )


@pytest.mark.parametrize("task", sorted(ANSWERED))
def test_answers_reach_the_metric(task: str, read: Read, values: Values) -> None:
    said, wanted = ANSWERED[task]
    found = values(task, read(task), said)
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-12)


def test_captions_are_scored_against_all_of_peoples(read: Read, values: Values) -> None:
    pytest.importorskip("pycocoevalcap")
    asked = read("captions")
    assert [question.references for question in asked.questions] == [
        ("a dog on a sofa", "a dog lies on a couch"),
        ("a red car",),
    ]
    assert values("captions", asked, {"1": "A dog on a sofa.", "2": "a red car"})["bleu_1"] == (
        pytest.approx(1.0)
    )


def test_every_task_but_our_own_is_tried_here() -> None:
    ours = {"boxes", "world", "world_pope", "world_chair", "world_pairs"}
    assert set(TEXTS) == set(TASKS) - ours
    assert set(ANSWERED) == set(TEXTS) - {"captions"}


def test_kinds_and_fields_are_what_the_metrics_ask_for(read: Read) -> None:
    kinds = {task: [one.kind for one in read(task).questions] for task in TEXTS}
    assert kinds["vqav2"] == ["yes/no", "number"]
    assert kinds["gqa"] == ["query", "verify"]
    assert kinds["pope"] == ["random"] * 4 + ["popular"] * 4 + ["adversarial"] * 4
    assert kinds["mme"] == ["existence"] * 2 + ["posters"] * 2
    assert kinds["seed"] == ["Scene Understanding"]
    assert kinds["mm_vet"] == ["math,ocr", "rec"]
    assert read("mmbench").questions[0].fields == {
        "A": "cup",
        "B": "dog",
        "index": "7",
        "group": "attributes",
    }
    assert read("chair").questions[1].fields == {"objects": "car,person"}
    bench = read("llava_bench").questions[0]
    assert bench.references == ("In Hawaii.",)
    assert bench.fields == {"context": "A volcano.", "role": "Assistant", "rule": "Rate them."}
    assert TASKS["llava_bench"].judge == "llava_bench"


def test_every_task_that_adds_words_can_be_asked_without_them() -> None:
    for name, task in TASKS.items():
        if next(iter(task.settings)) == "llava-1.5" and task.find_setting().prompt != "{text}":
            assert task.find_setting("question-only").prompt == "{text}", name


def test_settings_are_data_and_change_words_and_room(read: Read) -> None:
    assert read("mme", setting="mme").questions[0].text == (
        "Is there a dog? Please answer yes or no."
    )
    assert read("textvqa", setting="no-ocr").questions[0].text == "What brand?" + SHORT
    room = {name: TASKS[name].max_new_tokens for name in ("pope", "chair", "captions", "mm_vet")}
    assert room == {"pope": 128, "chair": 1024, "captions": 64, "mm_vet": 1024}
    for name, task in TASKS.items():
        assert next(iter(task.settings)) == ("llava-1.5" if name in TEXTS else "own")
        assert task.metrics[0] in METRICS


def test_the_page_has_every_task_with_its_metric() -> None:
    page = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text("utf-8")
    section = page.partition("\n## Tasks\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    assert {row[0]: row[-1].strip("`") for row in rows[1:]} == {
        name: task.metrics[0] for name, task in TASKS.items()
    }
    needed = {file for task in TASKS.values() for file in task.needs}
    assert [file for file in sorted(needed) if f"`{file}" not in section] == []
