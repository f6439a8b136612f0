"""How precisely plain places and relations are read, on sentences that are true."""

from __future__ import annotations

from pathlib import Path

from laterna.records import Reply, Scene
from laterna.scenes.vocabulary import words_of
from laterna.synthesis.checks import check

LISTS = Path(__file__).parent
SWAP = {"left": "right", "right": "left", "above": "below", "below": "above"}


def sentences(name: str) -> list[list[str]]:
    """Lines of a list beside this file, cut at their colons."""
    lines = (LISTS / name).read_text(encoding="utf-8").splitlines()
    return [line.split(": ", 2) for line in lines if line and not line.startswith("#")]


def reasons(scene: Scene, sentence: str) -> list[str]:
    verdict = check(scene, Reply(text=sentence, finish_reason="stop"), "detail")
    return [finding.reason for finding in verdict.findings]


def test_at_most_two_in_a_hundred_true_sentences_are_called_wrong(
    scenes: dict[str, Scene],
) -> None:
    lines = [(line[0], ": ".join(line[1:])) for line in sentences("true_positions.txt")]
    wrong = [text for name, text in lines if reasons(scenes[name], text)]
    assert len(lines) >= 150
    assert len(wrong) <= 0.02 * len(lines), wrong


def test_swapped_words_of_plain_sentences_are_found(scenes: dict[str, Scene]) -> None:
    found = total = 0
    for name, *rest in sentences("true_positions.txt"):
        words = words_of(": ".join(rest))
        swapped = [word for word in words if word in SWAP]
        if len(swapped) != 1 or "not" in words:
            continue
        text = " ".join(SWAP.get(word, word) for word in words)
        total += 1
        found += "wrong position" in reasons(scenes[name], text)
    # the rest tells no side that boxes decide ("its right paw") or in words that are not read
    assert total == 131
    assert found >= 69


def test_sentences_that_claim_nothing_are_not_rejected(scenes: dict[str, Scene]) -> None:
    lines = [(line[0], ": ".join(line[1:])) for line in sentences("no_claims.txt")]
    wrong = [(text, reasons(scenes[name], text)) for name, text in lines]
    assert len(lines) >= 60
    assert [pair for pair in wrong if pair[1]] == []


def test_false_plain_claims_are_found(scenes: dict[str, Scene]) -> None:
    lines = sentences("false_claims.txt")
    found = [(text, reason, reasons(scenes[name], text)) for name, reason, text in lines]
    assert len(lines) >= 60
    assert [one for one in found if set(one[2]) != {one[1]}] == []
