from __future__ import annotations

import re

from laterna.records import InstructionRecord
from laterna.synthesis.phrases import SHORT_ANSWER
from laterna.world.pretrain.corpus import write_document
from laterna.world.pretrain.descriptions import MAP_SIDE
from laterna.world.scenes import draw_truth
from laterna.world.toys import COLOURS, LIGHTINGS, TEXTURES

DOCUMENTS = [write_document(1, index) for index in range(400)]


def exchanges(record: InstructionRecord) -> list[tuple[str, str]]:
    texts = [turn.text for turn in record.turns]
    return list(zip(texts[::2], texts[1::2], strict=True))


def test_a_document_is_a_function_of_seed_and_index() -> None:
    assert write_document(1, 3) == DOCUMENTS[3]
    assert write_document(2, 3) != DOCUMENTS[3]
    assert DOCUMENTS[3][0].id == "3"


def test_documents_are_chats_without_pictures_that_learn_their_answers() -> None:
    chats = sum(is_chat for _, is_chat in DOCUMENTS)
    assert 0.8 < chats / len(DOCUMENTS) < 0.9
    for record, is_chat in DOCUMENTS:
        assert record.pictures == ()
        assert [turn.role for turn in record.turns[:2]] == ["user", "assistant"]
        assert [turn.loss for turn in record.turns] == [False, True] * (len(record.turns) // 2)
        assert all(turn.text for turn in record.turns)
        if not is_chat:
            assert len(record.turns) == 2
            assert "?" not in record.turns[0].text


def test_a_description_stands_in_the_first_turn_alone_before_or_after_the_question() -> None:
    before = after = 0
    for record, is_chat in DOCUMENTS:
        if not is_chat:
            continue
        first, *further = (question for question, _ in exchanges(record))
        lines = first.split("\n")
        assert len(lines) == 2, first
        assert all(len(question) < 90 for question in further)
        asked = [line.endswith(("?", SHORT_ANSWER.strip())) for line in lines]
        before += asked == [False, True]
        after += asked == [True, False]
    assert 0.4 < before / (before + after) < 0.6


def test_what_captions_leave_out_is_asked_only_of_complete_descriptions() -> None:
    asked = 0
    for index, (record, _) in enumerate(DOCUMENTS):
        truth = draw_truth("pretrain", 1, index)
        description = record.turns[0].text
        for question, answer in exchanges(record):
            if "bright or dim" in question:
                assert answer.lower() == truth.lighting
                assert f"{truth.lighting} light" in description
                asked += 1
            elif "smooth, rough" in question:
                match = re.search(r"Is the ([a-z ]+) smooth", question)
                assert match
                (toy,) = [toy for toy in truth.toys if toy.category == match[1]]
                assert answer.lower() == toy.texture
            elif "What does the sign say" in question:
                assert answer == truth.sign
                assert f"a sign says {truth.sign}" in description
            else:
                said = set(re.findall(r"[a-z]+", answer.lower()))
                assert not said & {*TEXTURES, *LIGHTINGS}, answer
    assert asked > 20


def test_maps_hold_a_cell_a_patch() -> None:
    cells = MAP_SIDE * MAP_SIDE
    maps = [
        record.turns[0].text
        for record, is_chat in DOCUMENTS
        if not is_chat and record.turns[0].text.count(" - ") > 10
    ]
    assert len(maps) > 10
    for text in maps:
        words = text.replace("teddy bear", "teddy-bear").split(" ")
        assert len(words) == cells
        assert set(words) & set(COLOURS) or words.count("-") == cells
