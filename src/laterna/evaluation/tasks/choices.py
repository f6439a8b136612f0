"""Questions with choices, answered by a letter: ScienceQA, MMBench, SEED-Bench, MMVP.

The choices stand in a question's fields `A`, `B` and so on, where the metrics look for them.
"""

from __future__ import annotations

import binascii
import csv
import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType

from laterna.data.images.opening import MissingImageError
from laterna.data.sources.json_files import open_text
from laterna.errors import LaternaError
from laterna.evaluation.tasks.base import DEFAULT_SETTING, Setting, SkippedRow, Task
from laterna.evaluation.tasks.files import (
    LETTER,
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
    table_items,
)
from laterna.records import Question

BY_LETTER = MappingProxyType(
    {DEFAULT_SETTING: Setting("{text}" + LETTER), "question-only": Setting()}
)


def lettered(options: Sequence[str]) -> dict[str, str]:
    """Return choices by their letters."""
    return {chr(ord("A") + number): option for number, option in enumerate(options)}


def with_options(text: str, options: Mapping[str, str]) -> str:
    """Return a question with a line for each choice, as LLaVA-1.5 shows them."""
    return "\n".join([text, *(f"{letter}. {option}" for letter, option in options.items())])


# --- ScienceQA ----------------------------------------------------------------------------

_PROBLEMS, _SPLITS, _LLAVA_TEXTS = "problems.json", "pid_splits.json", "llava_test_CQM-A.json"
_MOST_CHOICES = 5


class _Problem(Row, frozen=True):
    question: str
    choices: tuple[str, ...]
    answer: int
    hint: str = ""
    image: str | None = None
    subject: str = "question"


class _Said(Row, frozen=True):
    value: str


class _LlavaChat(Row, frozen=True):
    id: Id
    conversations: tuple[_Said, ...]


def scienceqa_questions(dataset_folder: Path, *, limit: int, seed: int) -> Rows:
    """Yield the questions of ScienceQA's test split, by subject; many have no image.

    Where LLaVA's own file of them is there too, they are asked in its words.
    """
    del limit, seed
    path = need(dataset_folder, SCIENCEQA.needs, _PROBLEMS)
    splits = need(dataset_folder, SCIENCEQA.needs, _SPLITS)
    test = dict.fromkeys(_listed(splits, "test"))
    chats: dict[str, _LlavaChat] = {}
    if paths := look_for(dataset_folder, _LLAVA_TEXTS):
        chats, lost = index_rows(list_items(paths[0]), _LlavaChat, lambda row: str(row.id))
        yield from lost
    before = f"{below(path, dataset_folder)}images/test"
    for key, where, value in keyed_items(path):
        if key in test:
            make = partial(_science, key=key, images=before, chat=chats.get(key))
            yield from make_questions([(where, value)], _Problem, make)
            del test[key]
    for key in test:
        yield SkippedRow(reason="no problem of the split's id", where=f"{splits.name}, {key}")


def _listed(path: Path, split: str) -> list[str]:
    """Return a split's ids; raises LaternaError where it has none."""
    ids = next((value for key, _, value in keyed_items(path) if key == split), None)
    if not isinstance(ids, list):
        raise LaternaError(f"{path}: there is no list {split!r} in it; {SCIENCEQA.needs[_SPLITS]}")
    return [str(one) for one in ids]


def _science(row: _Problem, key: str, images: str, chat: _LlavaChat | None) -> Question | str:
    options = lettered(row.choices[:_MOST_CHOICES])
    letter = chr(ord("A") + row.answer) if 0 <= row.answer < _MOST_CHOICES else ""
    if letter not in options:
        return "answer is none of the choices"
    hint = f"Context: {row.hint.strip()}\n" if row.hint.strip() else ""
    text = with_options(hint + row.question, options)
    if chat is not None and chat.conversations:
        text = chat.conversations[0].value.replace("<image>", "").strip()
    return Question(
        id=key,
        images=(f"{images}/{key}/{row.image}",) if row.image else (),
        kind=row.subject,
        text=text,
        references=(letter,),
        fields=options,
    )


_AT_SCIENCEQA = "it is in data/scienceqa of https://github.com/lupantech/ScienceQA"
SCIENCEQA = Task(
    questions=scienceqa_questions,
    about="ScienceQA, the test split",
    metrics=("scienceqa",),
    max_new_tokens=128,
    settings=BY_LETTER,
    needs={
        _PROBLEMS: _AT_SCIENCEQA,
        _SPLITS: _AT_SCIENCEQA,
        "images/test": "tools/download.sh of https://github.com/lupantech/ScienceQA fetches it",
    },
)

# --- MMBench ------------------------------------------------------------------------------

_NOTHING = frozenset(
    "|#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|none|"
    "n/a|nan|null".split("|")
)
"""What pandas, which LLaVA reads these tables with, takes for an empty cell, and LLaVA's `none`."""
_SHORTEST_IMAGE = 64
"""A cell of no more characters is the `index` of the row that holds the image (VLMEvalKit)."""
_MMBENCH_COLUMNS = ("index", "question", "A", "B", "answer", "image")
MMBENCH_FILES = ("MMBench_DEV_EN*.tsv", "mmbench_dev_2*.tsv")
MMBENCH_CN_FILES = ("MMBench_DEV_CN*.tsv", "mmbench_dev_cn*.tsv")


def mmbench_questions(
    dataset_folder: Path, *, limit: int, seed: int, files: Sequence[str], needs: Mapping[str, str]
) -> Rows:
    """Yield MMBench's questions with the rotations that the table has, by category."""
    del limit, seed
    path = need(dataset_folder, needs, *files)
    for where, _, row in table_items(path, "\t"):
        if row is None:
            yield SkippedRow(reason="row that is cut wrong or not UTF-8", where=where)
            continue
        if lacking := [name for name in _MMBENCH_COLUMNS if name not in row]:
            raise LaternaError(
                f"{path}: there is no column {lacking[0]!r} in it; {needs[files[0]]}"
            )
        made = _mmbench(row, f"{below(path, dataset_folder)}{path.name}")
        yield SkippedRow(reason=made, where=where) if isinstance(made, str) else made


def _mmbench(row: Mapping[str, str], table: str) -> Question | str:
    if not (row["index"].isascii() and row["index"].isdecimal()):
        return "index is not a number"
    options: dict[str, str] = {}
    for letter in "ABCD":
        if row.get(letter, "") in _NOTHING:
            break
        options[letter] = row[letter]
    if row["answer"] in _NOTHING:
        return "no reference"
    if row["answer"] not in options:
        return "answer is none of the choices"
    hint = row.get("hint", "")
    text = row["question"] if hint in _NOTHING else f"{hint}\n{row['question']}"
    return Question(
        id=row["index"],
        images=(f"{table}:{row['index']}",),
        kind=row.get("category") or "question",
        text=with_options(text, options),
        references=(row["answer"],),
        fields={**options, "index": row["index"], "group": row.get("l2-category", "")},
    )


def image_in_table(dataset: Path, name: str) -> bytes:
    """Return an image that a table holds in base64; `FILE.tsv:INDEX` is its name.

    Raises MissingImageError where there is no such row, and LaternaError for what is not base64.
    """
    file, _, index = name.rpartition(":")
    path = dataset / file
    text = _cell(path, index)
    if len(text) <= _SHORTEST_IMAGE:
        text = _cell(path, text.strip())
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise LaternaError(f"{name}: the cell `image` is not base64: {error}") from error


def _cell(path: Path, index: str) -> str:
    try:
        columns, places = _table(path, path.stat().st_mtime_ns)
        if index not in places:
            raise MissingImageError(f"{path}: there is no row {index!r} with an image")
        with open_text(path) as file:
            if file.seekable():
                file.seek(places[index], 1)
            else:
                file.read(places[index])
            lines = (line.decode("utf-8", errors="replace") for line in file)
            return next(csv.reader(lines, delimiter="\t"))[columns]
    except OSError as error:
        raise MissingImageError(f"{path}: cannot be read: {error.strerror or error}") from error


@lru_cache(maxsize=8)
def _table(path: Path, changed: int) -> tuple[int, dict[str, int]]:
    """Return the number of a table's column of images, and where each row begins, by `index`."""
    del changed  # a part of the key: another table of the same name is read anew
    places: dict[str, int] = {}
    column = 0
    for _, began, row in table_items(path, "\t"):
        if row is not None and "index" in row and "image" in row:
            places.setdefault(row["index"], began)
            column = list(row).index("image")
    return column, places


def _mmbench_task(about: str, files: Sequence[str], prompt: str) -> Task:
    where = "it is at https://github.com/open-compass/MMBench (the dev split has answers)"
    needs = dict.fromkeys(files, where)
    return Task(
        questions=partial(mmbench_questions, files=files, needs=needs),
        about=about,
        metrics=("circular",),
        max_new_tokens=128,
        settings={DEFAULT_SETTING: Setting("{text}" + prompt), "question-only": Setting()},
        needs=needs,
        find=image_in_table,
    )


MMBENCH = _mmbench_task("MMBench in English", MMBENCH_FILES, LETTER)
MMBENCH_CN = _mmbench_task("MMBench in Chinese", MMBENCH_CN_FILES, "\n请直接回答选项字母。")

# --- SEED-Bench ---------------------------------------------------------------------------

_SEED_FILE, _SEED_LLAVA = "SEED-Bench.json", "llava-seed-bench.jsonl"


class _SeedQuestion(Row, frozen=True):
    question_id: Id
    question_type_id: int
    data_type: str
    data_id: str
    question: str
    choice_a: str
    choice_b: str
    choice_c: str
    choice_d: str
    answer: str


def seed_questions(dataset_folder: Path, *, limit: int, seed: int) -> Rows:
    """Yield SEED-Bench's questions, by type; those about videos where LLaVA's own file names the
    frames of them."""
    del limit, seed
    path = need(dataset_folder, SEED.needs, _SEED_FILE)
    types = next((value for key, _, value in keyed_items(path) if key == "question_type"), None)
    names = {str(number): name for name, number in types.items()} if isinstance(types, dict) else {}
    frames: dict[str, LlavaRow] = {}
    if paths := look_for(dataset_folder, _SEED_LLAVA):
        frames, lost = index_rows(list_items(paths[0]), LlavaRow, lambda row: str(row.question_id))
        yield from lost

    def make(row: _SeedQuestion) -> Question | str:
        frame = frames.get(str(row.question_id))
        if row.data_type != "image" and frame is None:
            return "about a video, and not an image"
        options = lettered((row.choice_a, row.choice_b, row.choice_c, row.choice_d))
        if row.answer not in options:
            return "answer is none of the choices"
        image = frame.image if frame is not None else f"SEED-Bench-image/{row.data_id}"
        return Question(
            id=str(row.question_id),
            images=(below(path, dataset_folder) + image,),
            kind=names.get(str(row.question_type_id), f"type {row.question_type_id}"),
            text=with_options(row.question, options),
            references=(row.answer,),
            fields=options,
        )

    (rows,) = keyed_lists(path, "questions")
    yield from make_questions(rows, _SeedQuestion, make)


_AT_SEED = "it is at https://huggingface.co/datasets/AILab-CVC/SEED-Bench"
SEED = Task(
    questions=seed_questions,
    about="SEED-Bench",
    metrics=("letter",),
    max_new_tokens=128,
    settings=BY_LETTER,
    needs={_SEED_FILE: _AT_SEED, "SEED-Bench-image": _AT_SEED},
)

# --- MMVP ---------------------------------------------------------------------------------

_MMVP_FILE, _MMVP_IMAGES = "Questions.csv", "MMVP Images"
_OPTION = re.compile(r"\(([ab])\)\s*(.*?)\s*(?=\([ab]\)|$)", re.DOTALL)


def mmvp_questions(dataset_folder: Path, *, limit: int, seed: int) -> Rows:
    """Yield MMVP's questions; the choices `(a) x (b) y` of the file become A and B."""
    del limit, seed
    path = need(dataset_folder, MMVP.needs, _MMVP_FILE)
    for where, _, row in table_items(path, ","):
        made = _mmvp(row, f"{below(path, dataset_folder)}{_MMVP_IMAGES}")
        yield SkippedRow(reason=made, where=where) if isinstance(made, str) else made


def _mmvp(row: Mapping[str, str] | None, images: str) -> Question | str:
    if row is None:
        return "row that is cut wrong or not UTF-8"
    index = row.get("Index", row.get("lndex", "")).strip()  # the published file has an l
    if not (index.isascii() and index.isdecimal()):
        return "index is not a number"
    options = {letter.upper(): text for letter, text in _OPTION.findall(row.get("Options", ""))}
    letter = row.get("Correct Answer", "").strip().strip("()").upper()
    if list(options) != ["A", "B"] or letter not in options:
        return "answer is none of the choices"
    return Question(
        id=index,
        images=(f"{images}/{index}.jpg",),
        kind="question",
        text=with_options(row.get("Question", ""), options),
        references=(letter,),
        fields={**options, "index": index},
    )


_AT_MMVP = "it is at https://huggingface.co/datasets/MMVP/MMVP"
MMVP = Task(
    questions=mmvp_questions,
    about="MMVP, pairs of images that CLIP takes for alike",
    metrics=("mmvp",),
    max_new_tokens=128,
    settings=BY_LETTER,
    needs={_MMVP_FILE: _AT_MMVP, _MMVP_IMAGES: _AT_MMVP},
)
