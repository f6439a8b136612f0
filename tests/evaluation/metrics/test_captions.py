"""Captions by pycocoevalcap, without its Java; without the package a sentence says so."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from laterna.errors import LaternaError
from laterna.evaluation.metrics.captions import caption_scores, tokenize

PARTS = ("bleu.bleu", "cider.cider", "rouge.rouge")


def test_words_without_punctuation() -> None:
    assert tokenize('A "red" car, parked. It\'s old!') == "a red car parked it 's old"


def test_without_the_package_a_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for part in PARTS:
        monkeypatch.setitem(sys.modules, f"pycocoevalcap.{part}", None)
    with pytest.raises(LaternaError, match="pip install --no-deps pycocoevalcap"):
        caption_scores([["a dog"]], ["a dog"])


def test_scores_by_hand(question: Any, values: Any, scores: Any) -> None:
    pytest.importorskip("pycocoevalcap.cider.cider", reason="pycocoevalcap is not installed")
    rows = [
        (question("A dog on a bed.", "The dog sleeps."), "A dog on a bed."),
        (question("Two red cars."), "One bus"),
    ]
    found = values("captions", rows)
    # BLEU-1: 5 of 7 words are in a reference, and the candidates are 7 words to 5 + 3
    assert found["bleu_1"] == pytest.approx(5 / 7 * 2.718281828459045 ** (1 - 8 / 7), abs=1e-6)
    assert found["rouge_l"] == pytest.approx(0.5)
    assert found["cider_d_tenth"] == pytest.approx(sum(scores("captions", rows)) / 2)
    assert found["cider_d"] == pytest.approx(10 * found["cider_d_tenth"])
    assert scores("captions", rows)[1] == 0.0
    assert not {"pycocotools", "pycocoevalcap.tokenizer", "pycocoevalcap.eval"} & set(sys.modules)


def test_a_caption_without_references_is_named() -> None:
    pytest.importorskip("pycocoevalcap.cider.cider", reason="pycocoevalcap is not installed")
    with pytest.raises(LaternaError, match="caption 2 of 2 has no reference"):
        caption_scores([["a dog"], []], ["a dog", "a cat"])
