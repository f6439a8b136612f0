"""How precisely plain places and relations are read, on sentences that are true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("kitchen", "The cat lies on the floor, close to the left side of the table."),
        ("kitchen", "A vase stands on the table and the oven is to the right of the table."),
        ("kitchen", "There is a cat near the left side of the dining table."),
        ("beach", "The umbrella is near the right side of the boat."),
        ("beach", "There are two dogs, one to the right of the umbrella and the other behind it."),
        ("beach", "There are two dogs, one standing slightly behind and to the right of the kite."),
        ("kitchen", "There are four chairs, one placed to the right of the vase."),
        ("street", "There are two cars, one to the right of the dog."),
        ("street", "The dog waits and the bench is to the right of the dog."),
        ("street", "A woman walks by and a clock hangs above the bench."),
        ("beach", "A kite flies while the surfboard is to the left of the kite."),
    ],
)
def test_further_forms_are_read_both_ways(name: str, said: str, scenes: dict[str, Scene]) -> None:
    """A thing beside another's side, one of several, and a clause behind "and" or "while"."""
    assert reasons(scenes[name], said) == []
    swapped = re.sub("|".join(SWAP), lambda word: SWAP[word[0]], said)
    if "chairs" not in said and "cars" not in said:  # some of them are on either side
        assert reasons(scenes[name], swapped) == ["wrong position"]


def test_what_has_sides_of_its_own_is_left_alone(scenes: dict[str, Scene]) -> None:
    assert reasons(scenes["street"], "The bench is near the left side of the person.") == []
