"""What questions ask about: by value, and measured on real GPT-4 questions labeled by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from laterna.analysis.properties import PROPERTIES, Property, properties_of
from laterna.scenes.phrases import SHORT_ANSWER

REPLIES = Path(__file__).parents[3] / "shared" / "data" / "gpt4_replies.jsonl"

CONVERSATION_LABELS: dict[str, Property] = {
    "000000525439": "place",
    "000000092109": "existence",
    "000000056013": "place",
    "000000151358": "existence",
    "000000293505": "existence",
    "000000319432": "action",
    "000000203629": "action",
    "000000225738": "count",
    "000000205183": "existence",
    "000000473210": "count",
    "000000441147": "colour",
    "000000367571": "count",
    "000000109532": "existence",
    "000000018476": "existence",
    "000000506483": "existence",
}
"""What each real conversation question asks, read by a person before any rule was written."""
OTHER_LABELS: dict[str, Property] = {"detail": "description", "complex": "background"}
"""So read, all 15 detail questions ask for the whole, all 15 reasoning ones beyond the image."""


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("<image>\nIs there a dog?", "existence"),
        (f"Can you see an apple?{SHORT_ANSWER}", "existence"),
        ("Could you tell me what colour the car is?", "colour"),
        ("Is the cat black or white?", "colour"),
        ("What is the red object?", "existence"),
        ("How many people are next to the bus?", "count relation"),
        ("Are there multiple dogs?", "existence count"),
        ("Where is the kite?", "place"),
        ("What is at the top left?", "place"),
        ("Is the dog to the left of the cat?", "relation"),
        ("Which of them is taller than the bench?", "relation"),
        ("What is the man holding?", "existence"),
        ("Is the dog sitting or lying down?", "action"),
        ("Is he sitting on a bed or a couch?", "existence"),
        ("Is there a building?", "existence"),
        ("What does the sign say?", "text"),
        ("What is the number of buses?", "count"),
        ("What is the number of the bus?", "text"),
        ("What number is written on the jersey?", "text"),
        ("What is the table made of?", "texture"),
        ("Is the surface of the toy rough?", "texture"),
        ("Is there a traffic light?", "existence"),
        ("Was it taken during the day?", "lighting"),
        ("Is the scene bright or dim?", "lighting"),
        ("Does the woman look happy?", "emotion"),
        ("What would you do to stay safe here?", "background"),
        ("How does the man hold his balance?", "background"),
        ("Summarize the visual content of the image.", "description"),
        ("Please tell me everything about this picture.", "description"),
        ("What can be seen in the picture? Give a full account.", "description"),
        ("What here needs electricity?", "background"),
        ("Is there an orange?", "existence"),
        ("Is the ball orange?", "colour"),
        ("Describe the dog in the image.", "other"),
        ("Is it broken?", "other"),
        ("", "other"),
    ],
)
def test_a_question_has_every_property_that_a_rule_finds(question: str, expected: str) -> None:
    assert properties_of(question) == tuple(expected.split())


def test_form_orders_and_images_are_no_part_of_the_question() -> None:
    form = "\nAnswer the question using a single word or phrase."
    assert properties_of(f"How many cups are there?{form}") == ("count",)
    assert properties_of(f"Is it wet? {form}\n<image>") == ("other",)


def test_the_properties_come_in_the_order_of_the_tables() -> None:
    found = properties_of("Is there text on the red sign next to where he is standing?")
    assert list(found) == [name for name in PROPERTIES if name in found]
    assert set(found) == {"existence", "place", "relation", "text"}


@pytest.mark.skipif(not REPLIES.is_file(), reason="the real GPT-4 replies are not here")
def test_real_questions_are_told_as_a_person_tells_them() -> None:
    """45 of 45 here; 43 of 45 on the questions of 15 further images, seen after the rules."""
    rows = [json.loads(line) for line in REPLIES.read_text(encoding="utf-8").splitlines()]
    labels = [OTHER_LABELS.get(row["type"]) or CONVERSATION_LABELS[row["id"]] for row in rows]
    right = [
        properties_of(row["instruction"]) == (label,)
        for row, label in zip(rows, labels, strict=True)
    ]
    assert (sum(right), len(right)) == (45, 45)
