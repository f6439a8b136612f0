"""Every metric gives what its reference scorer gave when it was run.

The rows are read from ../shared/data/vectors (its README names files and commits) and skipped by
name where that folder is absent; each metric's own test holds cases by hand.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from laterna.evaluation.metrics import METRICS, chair, llava_bench, mme, multiple_choice, vqa
from laterna.evaluation.metrics.anls import anls
from laterna.evaluation.metrics.exact_match import gqa_form
from laterna.evaluation.metrics.pope import lmms_eval_values, says_yes
from laterna.evaluation.metrics.relaxed_accuracy import relaxed_match
from laterna.evaluation.metrics.scienceqa import llava_letter
from laterna.evaluation.statistics import paired_t, questions_needed, standard_error
from laterna.records import Answer, Question

VECTORS = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "vectors"
Row = dict[str, Any]


def rows_of(name: str) -> list[Row]:
    path = VECTORS / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not here: reference vectors are not part of the repository")
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def same(ours: float, theirs: float, tolerance: float = 1e-9) -> bool:
    return math.isclose(ours, theirs, rel_tol=tolerance, abs_tol=tolerance)


def question(*references: str, kind: str = "q", image: str = "1.jpg", **fields: str) -> Question:
    images = (image,) if image else ()
    return Question("1", images, kind, "?", references, fields)


def score(metric: str, asked: Question, said: str) -> float:
    return METRICS[metric].score([asked], [said])[0]


def values(metric: str, asked: list[Question], said: list[str]) -> dict[str, float]:
    scores = METRICS[metric].score(asked, said)
    answers = [Answer(*row) for row in zip(asked, said, scores, strict=True)]
    return METRICS[metric].values(answers)


def vqa_official(row: Row) -> Iterator[bool]:
    yield same(score("vqa", question(*row["answers"]), row["prediction"]), row["score"])


def textvqa_m4c(row: Row) -> Iterator[bool]:
    asked = question(*row["answers"])
    yield same(score("textvqa", asked, row["prediction"]), row["score"])
    yield vqa.m4c_form(row["prediction"]) == row["normalised_prediction"]
    beside = values("textvqa", [asked], [row["prediction"]])
    yield beside["official_differs"] == row["differs_from_official"]


def vqa_normalise(row: Row) -> Iterator[bool]:
    yield vqa.official_form(row["text"]) == row["official"]
    yield vqa.m4c_form(row["text"]) == row["m4c"]


def gqa(row: Row) -> Iterator[bool]:
    yield gqa_form(row["prediction"]) == row["converted"]
    yield score("gqa", question(row["answer"]), row["prediction"]) == row["correct"]


def seed_letter(row: Row) -> Iterator[bool]:
    yield score("letter", question(row["answer"]), row["prediction"]) == row["correct"]


def pope_parse(row: Row) -> Iterator[bool]:
    yield says_yes(row["prediction"]) == (row["parsed"] == "yes")
    for truth in ("yes", "no"):
        answer = Answer(question(truth), row["prediction"], 0.0)
        yield lmms_eval_values([answer])["accuracy"] == row[f"lmms_eval_correct_if_{truth}"]


def pope_sets(row: Row) -> Iterator[bool]:
    ours = values("pope", [question(label) for label in row["labels"]], row["predictions"])
    for name in ("accuracy", "precision", "recall", "f1", "yes_ratio"):
        yield same(ours[name], row[name]) if name in row else True
        theirs = row["lmms_eval"]["f1_score" if name == "f1" else name]
        yield same(ours[f"lmms_eval.{name}"], theirs)
    if "error" in row:
        yield math.isnan(ours["precision"]) and math.isnan(ours["f1"])


def mme_parse(row: Row) -> Iterator[bool]:
    yield mme.parse(row["prediction"]) == row["parsed"]
    yield mme.lmms_eval_parse(row["prediction"]) == row["lmms_eval_parsed"]


def mme_sets(row: Row) -> Iterator[bool]:
    asked = [question(one["answer"], kind=one["task"], image=one["picture"]) for one in row["rows"]]
    ours = values("mme", asked, [one["prediction"] for one in row["rows"]])
    yield same(ours["perception"], row["perception"])
    yield same(ours["cognition"], row["cognition"])
    yield all(same(ours[task], value) for task, value in row["per_task"].items())


def scienceqa(row: Row) -> Iterator[bool]:
    offered = dict.fromkeys("ABCDE"[: row["choices"]], "some choice")
    image = "1.png" if row["with_picture"] else ""
    asked = question(row["answer"], image=image, **offered)
    yield (llava_letter(row["prediction"]) or "FAILED") == row["parsed"]
    ours = values("scienceqa", [asked], [row["prediction"]])
    yield ours["accuracy"] == row["correct"]
    yield ours["lmms_eval"] == row["lmms_eval_correct"]
    yield not image or ours["img"] == row["correct"]


def llava_bench_parse(row: Row) -> Iterator[bool]:
    pair = llava_bench.parse_review(row["review"])
    expected = [float(number) for number in row["pair"]]
    yield all(
        same(one, other) or (math.isnan(one) and math.isnan(other))
        for one, other in zip(pair, expected, strict=True)
    )
    yield (pair == llava_bench.FAILED) == row["failed"]


def llava_bench_summary(row: Row) -> Iterator[bool]:
    ours = llava_bench.summarize_reviews(
        (review["category"], tuple(review["tuple"])) for review in row["reviews"]
    )
    for name, summary in row["reference"].items():
        for key, value in summary.items():
            yield same(ours[f"llava.{key}.{name}"], value)
    yield ours["failures"] == row["failures"]
    expected = row["relative_without_failures"]
    yield same(ours["relative"], expected) if expected is not None else math.isnan(ours["relative"])


def mcq_vlmevalkit(row: Row) -> Iterator[bool]:
    answer, offered = row["prediction"], row["choices"]
    yield (multiple_choice.vlmevalkit_option(answer, offered) or False) == row["option"]
    yield (multiple_choice.vlmevalkit_text(answer, offered) or False) == row["text"]
    yield (multiple_choice.vlmevalkit_letter(answer, offered) or False) == row["inferred"]


def mmvp_letter(row: Row) -> Iterator[bool]:
    yield multiple_choice.mmvp_letter(row["prediction"]) == row["letter"]


def anls_rows(row: Row) -> Iterator[bool]:
    yield same(anls(question(*row["answers"]), row["prediction"]), row["anls"])


def chartqa_relaxed(row: Row) -> Iterator[bool]:
    yield relaxed_match(row["prediction"], row["answer"]) == row["correct"]


def chair_rows(row: Row) -> Iterator[bool]:
    present = ",".join(row["objects_in_picture"])
    ours = values("chair", [question(objects=present)], [row["caption"]])
    yield chair.caption_words(row["caption"]) == row["words"]
    yield [mention.kind for mention in chair.mentions(row["caption"])] == row["mentioned"]
    gone = chair.absent(row["caption"], frozenset(row["objects_in_picture"]))
    yield [list(mention) for mention in gone] == row["hallucinated"]
    yield ours["chair_s"] == row["chair_s"]
    yield same(ours["chair_i"], row["chair_i"], 1e-6) if row["mentioned"] else True


def chair_singular(row: Row) -> Iterator[bool]:
    yield chair.singular(row["word"]) == row["singular"]


def coco_captions(row: Row) -> Iterator[bool]:
    pytest.importorskip("pycocoevalcap.cider.cider", reason="pycocoevalcap is not installed")
    from laterna.evaluation.metrics.captions import caption_scores, tokenize

    ids = list(row["references"])
    references = [row["references"][one] for one in ids]
    said = [row["predictions"][one] for one in ids]
    yield [tokenize(text) for text in said] == said
    ours = caption_scores(references, said)
    yield same(ours.rouge_l, row["rouge_l"], 1e-8) and same(ours.cider_d, row["cider_d"], 1e-8)
    for mine, theirs in (
        (ours.bleu, row["bleu"]),
        (ours.rouge_l_each, row["rouge_l_each"]),
        (ours.cider_d_each, row["cider_d_each"]),
    ):
        yield all(same(one, other, 1e-8) for one, other in zip(mine, theirs, strict=True))


def statistics(row: Row) -> Iterator[bool]:
    scores, clusters = row["scores"], [str(one) for one in row["clusters"]]
    yield same(standard_error(scores), row["se_clt"])
    yield same(standard_error(scores, clusters), row["se_clustered"])
    test, expected = paired_t(scores, row["baseline"]), row["paired"]
    yield same(test.difference.mean, expected["mean_diff"])
    yield same(test.standard_error, expected["se_diff"])
    yield same(test.difference.low, expected["ci_lower"])
    yield same(test.difference.high, expected["ci_upper"])
    yield same(test.t, expected["t_stat"])
    yield same(test.p, expected["p_value"])


def power(row: Row) -> Iterator[bool]:
    first, second, shared = row["std_a"], row["std_b"], row["correlation"]
    second = first if second is None else second
    spread = math.sqrt(first**2 + second**2 - 2 * shared * first * second)
    needed = questions_needed(row["effect_size"], spread, alpha=row["alpha"], power=row["power"])
    yield needed == row["min_n"]


CHECKS: dict[str, Callable[[Row], Iterator[bool]]] = {
    "anls": anls_rows,
    "chair": chair_rows,
    "chair_singular": chair_singular,
    "chartqa_relaxed": chartqa_relaxed,
    "coco_captions": coco_captions,
    "gqa": gqa,
    "llava_bench_parse": llava_bench_parse,
    "llava_bench_summary": llava_bench_summary,
    "mcq_vlmevalkit": mcq_vlmevalkit,
    "mme_parse": mme_parse,
    "mme_sets": mme_sets,
    "mmvp_letter": mmvp_letter,
    "pope_parse": pope_parse,
    "pope_sets": pope_sets,
    "power": power,
    "scienceqa": scienceqa,
    "seed_letter": seed_letter,
    "statistics": statistics,
    "textvqa_m4c": textvqa_m4c,
    "vqa_normalise": vqa_normalise,
    "vqa_official": vqa_official,
}


@pytest.mark.parametrize("name", CHECKS)
def test_the_reference_scorers_figures_are_met(name: str) -> None:
    failed = [(row, checks) for row in rows_of(name) if not all(checks := [*CHECKS[name](row)])]
    assert failed == []


def test_every_file_of_vectors_is_checked() -> None:
    if not VECTORS.is_dir():
        pytest.skip(f"{VECTORS} is not here")
    files = {path.stem for path in VECTORS.glob("*.jsonl")}
    assert files - {"llava_samples"} == set(CHECKS)
