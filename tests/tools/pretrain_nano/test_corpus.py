from __future__ import annotations

import re
from collections import Counter

import pytest

from laterna.data.chat import SHIPPED_TEMPLATES
from laterna.records import DEFAULT_IMAGE_TOKEN, InstructionRecord
from laterna.scenes.phrases import NUMBERS, SHORT_ANSWER
from laterna.world.scenes import draw_truth
from laterna.world.toys import LIGHTINGS, TEXTURES
from pretrain_nano.corpus import QUESTIONS, TABLES, Document, write_document
from pretrain_nano.tokenizer import CHAT_TEMPLATE

DOCUMENTS = [write_document(1, index) for index in range(600)]


def exchanges(record: InstructionRecord) -> list[tuple[str, str]]:
    texts = [turn.text for turn in record.turns]
    return list(zip(texts[::2], texts[1::2], strict=True))


def sort_of(document: Document) -> str:
    if document.template == SHIPPED_TEMPLATES["plain"].read_text(encoding="utf-8"):
        return "captions"
    if document.template != CHAT_TEMPLATE:
        return "tables"
    return "talk" if max(len(record.turns) for record in document.records) > 2 else "examination"


def test_a_document_is_a_function_of_seed_and_index() -> None:
    assert write_document(1, 3) == DOCUMENTS[3]
    assert write_document(2, 3) != DOCUMENTS[3]


def test_the_sorts_come_in_their_shares() -> None:
    shares = Counter(sort_of(document) for document in DOCUMENTS)
    assert set(shares) == {"captions", "tables", "talk", "examination"}
    assert 0.25 < shares["tables"] / len(DOCUMENTS) < 0.35
    assert 0.5 < shares["examination"] / len(DOCUMENTS) < 0.62


def test_the_share_of_tables_is_asked_for() -> None:
    sorts = Counter(sort_of(write_document(1, index, tables=0.75)) for index in range(200))
    assert 0.68 < sorts["tables"] / 200 < 0.82


def test_records_learn_their_answers_and_hold_the_description_once() -> None:
    for document in DOCUMENTS:
        for record in document.records:
            assert record.images == (record.id.split("-")[0],)
            assert [turn.loss for turn in record.turns] == [False, True] * (len(record.turns) // 2)
            marks = [turn.text.count(DEFAULT_IMAGE_TOKEN) for turn in record.turns]
            assert marks == [1] + [0] * (len(marks) - 1)
        if sort_of(document) == "captions":
            assert {record.turns[0].text for record in document.records} == {
                DEFAULT_IMAGE_TOKEN + "\n"
            }
        sizes = {"tables": TABLES, "captions": 5, "talk": 3, "examination": QUESTIONS}
        assert 1 <= len(document.records) <= sizes[sort_of(document)]


def test_tables_ask_by_a_key_and_learn_what_it_has() -> None:
    document = next(one for one in DOCUMENTS if sort_of(one) == "tables")
    for record in document.records:
        for number, (asked, answer) in enumerate(exchanges(record)):
            assert asked.startswith("<image>\n " if number == 0 else " ")
            assert asked.endswith(":")
            assert answer.startswith(" ")
            assert answer.endswith(";")


def test_the_description_stands_behind_the_question_in_a_tenth() -> None:
    firsts = [
        document.records[0].turns[0].text
        for document in DOCUMENTS
        if document.template == CHAT_TEMPLATE and document.records
    ]
    behind = sum(text.endswith(DEFAULT_IMAGE_TOKEN) for text in firsts)
    assert behind + sum(text.startswith(DEFAULT_IMAGE_TOKEN) for text in firsts) == len(firsts)
    assert 0.05 < behind / len(firsts) < 0.16


def test_every_question_of_an_examination_is_a_record_of_its_own() -> None:
    asked = [len(document.records) for document in DOCUMENTS if sort_of(document) == "examination"]
    assert max(asked) == QUESTIONS
    assert sum(asked) / len(asked) > 10


def test_what_captions_leave_out_is_asked_only_of_complete_descriptions() -> None:
    asked = 0
    for index, document in enumerate(DOCUMENTS):
        truth = draw_truth("pretrain", 1, index)
        for question, answer in (pair for record in document.records for pair in exchanges(record)):
            if "bright or dim" in question:
                assert document.description.complete
                assert answer == truth.lighting
                asked += 1
            elif "smooth, rough" in question:
                match = re.search(r"Is the ([a-z ]+) smooth", question)
                assert match
                (toy,) = [toy for toy in truth.toys if toy.category == match[1]]
                assert answer == toy.texture
            elif "What does the sign say" in question:
                assert answer == truth.sign
            else:
                said = set(re.findall(r"[a-z]+", answer.lower()))
                assert not said & {*TEXTURES, *LIGHTINGS}, answer
    assert asked > 20


def test_most_answers_of_an_examination_are_short() -> None:
    asked = [
        record.turns[0].text
        for document in DOCUMENTS
        if sort_of(document) == "examination"
        for record in document.records
    ]
    assert 0.7 < sum(SHORT_ANSWER in text for text in asked) / len(asked) < 0.85


def test_a_share_of_the_tables_tells_how_things_stand() -> None:
    told = [write_document(1, index, tables=0.9, relations=0.5) for index in range(300)]
    keys = [
        record.turns[0].text.removeprefix(DEFAULT_IMAGE_TOKEN).strip()
        for document in told
        if sort_of(document) == "tables"
        for record in document.records[:1]
    ]
    related = [key for key in keys if "," in key]
    values = {
        answer.strip(" ;")
        for document in told
        if sort_of(document) == "tables"
        for record in document.records
        for question, answer in exchanges(record)
        if "," in question
    }
    always = _first_keys(relations=1.0)
    comparable = sum("," in key for key in always) / len(always)
    assert 0.3 < comparable < 0.6, "others have fewer than two toys alone of their kind"
    assert len(related) / len(keys) == pytest.approx(comparable / 2, abs=0.06)
    assert "left, above" in values
    assert values <= {"none", *"left right above below".split()} | {
        f"{across}, {down}" for across in ("left", "right") for down in ("above", "below")
    }
    assert not any("," in key for key in _first_keys(relations=0.0))


def test_a_share_of_the_tables_counts() -> None:
    made = [write_document(1, index, tables=0.9, counts=0.4) for index in range(300)]
    tables = [document for document in made if sort_of(document) == "tables"]
    counting = [document for document in tables if len(document.records) == 1]
    assert len(counting) / len(tables) == pytest.approx(0.4, abs=0.07)
    said = dict(pair for one in counting for pair in exchanges(one.records[0]))
    assert {answer.strip(" ;") for answer in said.values()} <= set(NUMBERS)
    asked = {question.removeprefix(DEFAULT_IMAGE_TOKEN).strip() for question in said}
    assert "things:" in asked
    assert "red things:" in asked
    assert "dogs:" in asked


def _first_keys(relations: float) -> list[str]:
    made = (write_document(1, index, tables=0.9, relations=relations) for index in range(300))
    return [document.records[0].turns[0].text for document in made if sort_of(document) == "tables"]
