"""Questions whose answers a judge rates: LLaVA-Bench (in the wild) and MM-Vet.

What the judge is shown stands in the question: the reference answer as its reference, and for
LLaVA-Bench the fields `context` (what the image shows, in words), `role` and `rule` (how the judge
is told to rate; LLaVA's own words, from its `rule.json`).
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

from laterna.errors import LaternaError
from laterna.evaluation.tasks.base import DEFAULT_SETTING, LONG_ANSWER, Setting, SkippedRow, Task
from laterna.evaluation.tasks.files import (
    Id,
    Row,
    Rows,
    below,
    index_rows,
    keyed_items,
    list_items,
    make_questions,
    need,
    read_rows,
)
from laterna.records import Question

AS_ASKED = MappingProxyType({DEFAULT_SETTING: Setting()})
_QUESTIONS, _CONTEXTS = "questions.jsonl", "context.jsonl"
_ANSWERS, _RULES = "answers_gpt4.jsonl", "rule.json"


class _BenchQuestion(Row, frozen=True):
    question_id: Id
    image: str
    text: str
    category: str


class _Context(Row, frozen=True):
    image: str
    caption: str | list[str]


class _GivenAnswer(Row, frozen=True):
    question_id: Id
    text: str


class _Rule(Row, frozen=True):
    role: str
    prompt: str


def llava_bench_questions(dataset_folder: Path, *, limit: int, seed: int) -> Rows:
    """Yield LLaVA-Bench's questions, by category, with all that its judge is shown."""
    del limit, seed
    path, *others = (
        need(dataset_folder, LLAVA_BENCH.needs, name)
        for name in (_QUESTIONS, _CONTEXTS, _ANSWERS, _RULES)
    )
    contexts, lost = index_rows(list_items(others[0]), _Context, lambda row: row.image)
    yield from lost
    answers, lost = index_rows(list_items(others[1]), _GivenAnswer, lambda row: row.question_id)
    yield from lost
    rules = _rules(others[2])

    def make(row: _BenchQuestion) -> Question | str:
        if row.image not in contexts:
            return f"image without a line in {_CONTEXTS}"
        if row.question_id not in answers:
            return f"question without a line in {_ANSWERS}"
        if (rule := rules.get(f"llava_bench_{row.category}")) is None:
            return f"category without an entry in {_RULES}"
        caption = contexts[row.image].caption
        return Question(
            id=str(row.question_id),
            images=(f"{below(path, dataset_folder)}images/{row.image}",),
            kind=row.category,
            text=row.text,
            references=(answers[row.question_id].text,),
            fields={
                "context": caption if isinstance(caption, str) else "\n".join(caption),
                "role": rule.role,
                "rule": rule.prompt,
            },
        )

    yield from make_questions(list_items(path), _BenchQuestion, make)


def _rules(path: Path) -> dict[str, _Rule]:
    """Return the entries that are rules, by name; raises LaternaError where none is."""
    rows = read_rows(((key, value) for key, _, value in keyed_items(path)), _Rule)
    found = {row[0]: row[1] for row in rows if not isinstance(row, SkippedRow)}
    if not any(key.startswith("llava_bench_") for key in found):
        raise LaternaError(f"{path}: holds no rule llava_bench_…; {LLAVA_BENCH.needs[_RULES]}")
    return found


_AT_BENCH = "it is at https://huggingface.co/datasets/liuhaotian/llava-bench-in-the-wild"
LLAVA_BENCH = Task(
    questions=llava_bench_questions,
    about="LLaVA-Bench in the wild, rated by a judge",
    metrics=("llava_bench",),
    max_new_tokens=LONG_ANSWER,
    settings=AS_ASKED,
    needs={
        **dict.fromkeys((_QUESTIONS, _CONTEXTS, _ANSWERS, "images"), _AT_BENCH),
        _RULES: "it is llava/eval/table/rule.json of https://github.com/haotian-liu/LLaVA",
    },
    judge="llava_bench",
)

# --- MM-Vet -------------------------------------------------------------------------------

_MM_VET_FILE = "mm-vet.json"


class _MmVetQuestion(Row, frozen=True):
    imagename: str
    question: str
    answer: str
    capability: tuple[str, ...]


def mm_vet_questions(dataset_folder: Path, *, limit: int, seed: int) -> Rows:
    """Yield MM-Vet's questions, by the capabilities that they need together."""
    del limit, seed
    path = need(dataset_folder, MM_VET.needs, _MM_VET_FILE)
    images = f"{below(path, dataset_folder)}images"
    for key, where, value in keyed_items(path):

        def make(row: _MmVetQuestion, key: str = key) -> Question | str:
            if not row.capability:
                return "no capability"
            return Question(
                id=key,
                images=(f"{images}/{row.imagename}",),
                kind=",".join(sorted(row.capability)),
                text=row.question,
                references=(row.answer,),
                fields={"capabilities": ",".join(row.capability)},
            )

        yield from make_questions([(where, value)], _MmVetQuestion, make)


_AT_MM_VET = "it is in https://github.com/yuweihao/MM-Vet/releases/download/v1/mm-vet.zip"
MM_VET = Task(
    questions=mm_vet_questions,
    about="MM-Vet, rated by a judge",
    metrics=("mm_vet",),
    max_new_tokens=LONG_ANSWER,
    settings=AS_ASKED,
    needs={_MM_VET_FILE: _AT_MM_VET, "images": _AT_MM_VET},
    judge="mm_vet",
)
