"""Preparation: what stays, what goes, and that every loss has a name and a number."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from transformers import PreTrainedTokenizerFast

from laterna.data.picture_tokens import PictureCounter, SameTokens
from laterna.data.preparation import Prepared, prepare
from laterna.errors import LaternaError
from laterna.records import InstructionRecord, Turn

Tokenizers = dict[str, PreTrainedTokenizerFast]
SIXTEEN = SameTokens(tokens=16)


def record_of(name: str, answer: str = "A cup.", picture: str = "good.jpg") -> InstructionRecord:
    turns = (
        Turn(role="user", text="<image>\nWhat?"),
        Turn(role="assistant", text=answer, loss=True),
    )
    return InstructionRecord(id=name, pictures=(picture,), turns=turns)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    noise = Image.effect_noise((64, 48), 80).convert("RGB")
    noise.save(tmp_path / "good.jpg")
    whole = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "words.jpg").write_text("this is not a picture")
    return tmp_path


def prepared(
    records: list[InstructionRecord],
    tokenizer: PreTrainedTokenizerFast,
    folder: Path | None,
    max_tokens: int = 200,
    counter: PictureCounter = SIXTEEN,
) -> Prepared:
    return prepare(
        records,
        tokenizer,
        template=None,
        picture_tokens=counter,
        max_tokens=max_tokens,
        picture_folder=folder,
    )


def test_what_is_dropped_is_counted_by_reason(tokenizers: Tokenizers, folder: Path) -> None:
    silent = InstructionRecord(id="silent", pictures=(), turns=(Turn(role="user", text="Hello"),))
    unmarked = InstructionRecord(id="unmarked", pictures=("good.jpg",), turns=silent.turns)
    records = [
        record_of("first"),
        record_of("cut", picture="cut.jpg"),
        record_of("words", picture="words.jpg"),
        record_of("gone", picture="gone.jpg"),
        record_of("gone too", picture="gone.jpg"),
        record_of("gone again", picture="gone.jpg"),
        record_of("long", answer="cup " * 500),
        record_of("control", answer="a <|im_end|> b"),
        silent,
        unmarked,
        record_of("last"),
    ]
    result = prepared(records, tokenizers["byte_level"], folder)
    assert [sample.id for sample in result.samples] == ["first", "last"]
    assert result.dropped == {
        "picture missing": 3,
        "picture cannot be read": 2,
        "longer than 200 tokens": 1,
        "a special token in the text": 1,
        "no target tokens": 1,
        "picture marks do not match the pictures": 1,
    }
    assert next(iter(result.dropped)) == "picture missing"
    assert result.dropped_ids[:3] == (
        ("cut", "picture cannot be read"),
        ("words", "picture cannot be read"),
        ("gone", "picture missing"),
    )


def test_an_answer_that_the_tokenizer_cannot_write_is_dropped(tokenizers: Tokenizers) -> None:
    result = prepared([record_of("a"), record_of("b", "日本")], tokenizers["unigram"], None)
    assert [sample.id for sample in result.samples] == ["a"]
    assert result.dropped == {"targets do not decode to the answer": 1}


def test_an_answer_joined_to_the_templates_words_is_dropped(tokenizers: Tokenizers) -> None:
    glued = "{% for m in messages %}{{ m['role'] + ':' + m['content'] + '\\n' }}{% endfor %}"
    tokenizer = tokenizers["byte_level"]
    # a tokenizer that joins ":" and ")" makes one token of the template's word and the answer's
    joining = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    joining.add_tokens([":)"])
    for answer, kept in [("A cup.", 1), (") cup", 0)]:
        records = [record_of("other"), record_of("asked", answer)]
        result = prepare(
            records,
            joining,
            template=glued,
            picture_tokens=SameTokens(tokens=1),
            max_tokens=999,
            picture_folder=None,
        )
        assert len(result.samples) == 1 + kept


def test_the_limit_counts_the_pictures_tokens(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers["byte_level"]
    (sample,) = prepared([record_of("a")], tokenizer, None).samples
    length = sample.length
    assert length == len(sample.input_ids) + 15
    assert len(prepared([record_of("a")], tokenizer, None, max_tokens=length).samples) == 1
    with pytest.raises(LaternaError, match=f"1 × longer than {length - 1} tokens"):
        prepared([record_of("a")], tokenizer, None, max_tokens=length - 1)


def test_nothing_left_says_why(tokenizers: Tokenizers, folder: Path) -> None:
    records = [record_of("a", picture="gone.jpg"), record_of("b", picture="cut.jpg")]
    with pytest.raises(LaternaError) as error:
        prepared(records, tokenizers["byte_level"], folder)
    assert str(error.value) == (
        "no record can be trained on (1 × picture missing; 1 × picture cannot be read); the "
        f"first: record a: {folder / 'gone.jpg'}: no such picture"
    )
    with pytest.raises(LaternaError, match="there were none"):
        prepared([], tokenizers["byte_level"], folder)


def test_a_pictures_tokens_are_counted_from_its_size(tokenizers: Tokenizers, folder: Path) -> None:
    seen: list[tuple[int, int]] = []

    def counter(width: int, height: int) -> int:
        seen.append((width, height))
        return width * height // 100

    records = [record_of("a"), record_of("gone", picture="gone.jpg")]
    result = prepared(records, tokenizers["byte_level"], folder, counter=counter)
    assert seen == [(64, 48)]
    assert [sample.picture_tokens for sample in result.samples] == [(30,)]
    assert result.dropped == {"picture missing": 1}
    with pytest.raises(ValueError, match="sizes are needed, but no folder"):
        prepared(records, tokenizers["byte_level"], None, counter=counter)
